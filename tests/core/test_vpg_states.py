"""A VPG's manager between two VRAs and a catalogue whose words come late, twice, or not at all."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import TINY

from drsim.core.effects import Effect, Publish, Send
from drsim.core.events import Connected, Event, Fired, Lost, Received, Started, Stopped, TagAsked
from drsim.core.facts import CheckpointSealed, CheckpointSkipped, StateChanged
from drsim.core.messages import (
    Aborted,
    ControlMessage,
    Cut,
    Held,
    Hold,
    Listed,
    Release,
    Released,
    Sealed,
    StoreState,
    SyncChanged,
    Trigger,
    Withdrawn,
)  # fmt: skip
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.status import ALLOWED, Health, Peer, Sync, project
from drsim.core.units import Ns
from drsim.core.vpg import DEADLINE, TICK, Vpg

HERE, CATALOG = Address("west/vpg"), Address("east/catalog")
VRAS = [Address("west/h1"), Address("west/h2")]
STREAMS = [StreamId("crm", vra, Address("east/r")) for vra in VRAS]
WHICH = st.integers(0, 1)


class VpgStates(RuleBasedStateMachine):
    """`words` are on their way to the manager, in no order; a VRA says only what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.vpg = Vpg(HERE, "crm", VRAS, CATALOG, interval=Ns(100), rpo_alert=Ns(500), history=Ns(5000), tweaks=TINY)
        self.now = 0
        self.words: list[ControlMessage] = []
        self.holding: set[tuple[int, Address]] = set()
        self.begun: list[int] = []  # checkpoints that a hold was sent for, or that were skipped at once
        self.asked: dict[int, set[Address]] = {}  # who was sent the hold of a checkpoint,
        self.let_go: dict[int, set[Address]] = {}  # and its release
        self.confirmed: dict[int, set[Address]] = {}  # who was heard to have held until then
        self.sealed: list[int] = []
        self.void: list[int] = []
        self.syncing: dict[StreamId, SyncChanged] = {}
        self.failing: set[StreamId] = set()
        self.connected, self.withdrawn = True, False
        self.published = self.vpg.regions
        self.happens(Started())

    def happens(self, event: Event) -> None:
        for effect in self.vpg.handle(Ns(self.now), event):
            self.note(effect)

    def note(self, effect: Effect) -> None:
        match effect:
            case Send(vra, Hold(checkpoint=n)):
                if n not in self.asked:
                    self.begun.append(n)
                self.asked.setdefault(n, set()).add(vra)
                self.holding.add((n, vra))
                self.words.append(Held("crm", n, vra, {STREAMS[VRAS.index(vra)]: Cut(1, (10 * n,))}))
            case Send(vra, Release(checkpoint=n)):
                self.let_go.setdefault(n, set()).add(vra)
                if (n, vra) in self.holding:
                    self.holding.remove((n, vra))
                    self.words.append(Released("crm", n, vra))
            case Send(_, Sealed(checkpoint)):
                assert set(checkpoint.cut) == set(STREAMS), "a cut of every stream"
            case Publish(CheckpointSealed(checkpoint=n)):
                assert self.confirmed.get(n) == set(VRAS), f"{n} sealed, confirmed by {self.confirmed.get(n)}"
                self.sealed.append(n)
            case Publish(CheckpointSkipped(checkpoint=n)):
                if n not in self.asked:
                    self.begun.append(n)
                self.void.append(n)
            case Publish(StateChanged(regions=regions)):
                self.published = regions

    # -- what happens -----------------------------------------------------------------------------------------

    @rule(later=st.integers(0, 300))
    def tick(self, later: int) -> None:
        self.now += later
        self.happens(Fired(TICK))

    @rule()
    def tag(self) -> None:
        self.happens(TagAsked("before upgrade"))

    @rule()
    def deadline(self) -> None:
        self.happens(Fired(DEADLINE))
        assert self.vpg.attempt is None, "nobody is held longer"

    @precondition(lambda self: self.words)
    @rule(n=st.integers(0, 50), again=st.booleans())
    def word_arrives(self, n: int, again: bool) -> None:
        n %= len(self.words)
        self.hears(self.words[n] if again else self.words.pop(n))

    @precondition(lambda self: self.words)
    @rule()
    def all_words_arrive(self) -> None:
        while self.words:
            self.hears(self.words.pop(0))

    def hears(self, word: ControlMessage) -> None:
        if isinstance(word, Released):
            self.confirmed.setdefault(word.checkpoint, set()).add(word.vra)
        self.happens(Received(word.vra if isinstance(word, Held | Released | Aborted) else CATALOG, word))

    @precondition(lambda self: self.words)
    @rule(n=st.integers(0, 50))
    def word_is_lost(self, n: int) -> None:
        self.words.pop(n % len(self.words))

    @precondition(lambda self: self.holding)
    @rule(n=st.integers(0, 50))
    def vra_lets_go_by_itself(self, n: int) -> None:
        checkpoint, vra = sorted(self.holding)[n % len(self.holding)]
        self.holding.remove((checkpoint, vra))
        self.words.append(Aborted("crm", CheckpointId(checkpoint), vra, "hold budget"))

    @rule(which=WHICH, waiting=st.booleans(), trigger=st.sampled_from(Trigger))
    def stream_synchronizes(self, which: int, waiting: bool, trigger: Trigger) -> None:
        word = SyncChanged(STREAMS[which], Sync.BITMAP, waiting, trigger)
        self.syncing[STREAMS[which]] = word
        self.happens(Received(VRAS[which], word))

    @rule(which=WHICH)
    def stream_is_in_sync(self, which: int) -> None:
        self.syncing.pop(STREAMS[which], None)
        self.happens(Received(VRAS[which], SyncChanged(STREAMS[which], Sync.IN_SYNC, False, Trigger.NONE)))

    @rule(which=WHICH, ok=st.booleans())
    def store(self, which: int, ok: bool) -> None:
        (self.failing.discard if ok else self.failing.add)(STREAMS[which])
        self.happens(Received(CATALOG, StoreState("crm", STREAMS[which], ok, "" if ok else "no room")))

    @rule()
    def catalogue_lost(self) -> None:
        self.connected = False
        self.happens(Lost(CATALOG))

    @rule()
    def catalogue_connected(self) -> None:
        self.connected = True
        self.happens(Connected(CATALOG))

    @precondition(lambda self: self.sealed)
    @rule(age=st.integers(0, 1000))
    def newest_is_listed(self, age: int) -> None:
        self.withdrawn = False
        taken = Ns(max(0, self.now - age))
        self.happens(Received(CATALOG, Listed("crm", CheckpointId(self.sealed[-1]), taken, Ns(0), 1000)))

    @rule()
    def all_withdrawn(self) -> None:
        self.withdrawn = True
        self.happens(Received(CATALOG, Withdrawn("crm")))

    @rule()
    def manager_restarts(self) -> None:
        self.happens(Stopped())
        self.happens(Started())

    # -- what must hold ---------------------------------------------------------------------------------------

    @invariant()
    def what_users_see_is_in_the_table(self) -> None:
        status, sub = project(self.vpg.regions)
        assert sub in ALLOWED[status]

    @invariant()
    def what_was_published_last_holds(self) -> None:
        assert self.published == self.vpg.regions

    @invariant()
    def regions_follow_the_last_word_of_each_source(self) -> None:
        regions = self.vpg.regions
        assert (regions.sync is Sync.IN_SYNC) == (not self.syncing)
        if regions.sync is Sync.PAUSED_SYSTEM:
            assert self.connected
            assert any(word.waiting for word in self.syncing.values())
        assert (regions.health is Health.JOURNAL_STORAGE) == bool(self.failing)
        lost = Peer.CONNECTED if self.connected else Peer.DISCONNECTED
        assert regions.peer is (Peer.DISCONNECTED_NO_POINTS if self.withdrawn else lost)

    @invariant()
    def at_most_one_attempt_is_open(self) -> None:
        under_way = set(self.asked) - set(self.sealed) - set(self.void)
        assert under_way == ({self.vpg.attempt.id} if self.vpg.attempt else set())

    @invariant()
    def numbers_only_grow(self) -> None:
        assert self.begun == sorted(set(self.begun))

    @invariant()
    def each_is_sealed_or_void_but_never_both(self) -> None:
        ended = self.sealed + self.void
        assert len(ended) == len(set(ended))

    @invariant()
    def everybody_who_was_held_is_released(self) -> None:
        for n in (*self.sealed, *self.void):
            assert self.let_go.get(n, set()) >= self.asked.get(n, set())


TestVpgStates = VpgStates.TestCase
