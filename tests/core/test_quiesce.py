"""Application-consistent checkpoints: who is frozen, for how long, and what a checkpoint claims."""

from collections.abc import Iterable

import pytest
from support import TINY, writes

from drsim.core.effects import Arm, Effect, EffectId, FreezeGuests, Send, ThawGuests
from drsim.core.errors import PlatformError
from drsim.core.events import (
    Connected,
    Done,
    Event,
    Failed,
    Fired,
    GuestWrote,
    Lost,
    Received,
    Started,
    Stopped,
    TagAsked,
)
from drsim.core.messages import (
    Aborted,
    Configure,
    Freeze,
    Frozen,
    Held,
    Hold,
    Release,
    Released,
    Sealed,
    Start,
    SyncChanged,
    Thaw,
    Trigger,
)
from drsim.core.names import Address, CheckpointId, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.protected_vra import ProtectedVra
from drsim.core.quiesce import FREEZE
from drsim.core.status import Sync
from drsim.core.units import Ns
from drsim.core.vpg import DEADLINE, TICK, Vpg

MANAGER, CATALOG, THERE = Address("west/vpg"), Address("east/catalog"), Address("east/r")
VRAS = [Address("west/h1"), Address("west/h2")]
VMS = [(VmId(1), VmId(2)), (VmId(3),)]
STREAMS = [StreamId("crm", vra, THERE) for vra in VRAS]
TIMEOUT = TINY.freeze_timeout


def spec(n: int, *, part: int = 1) -> StreamSpec:
    id_ = StreamId("crm", VRAS[n], THERE, part)
    return StreamSpec(id_, VMS[n], tuple(VolumeInfo(VolumeId(10 * vm), vm, 64) for vm in VMS[n]))


def sent(effects: Iterable[Effect], kind: type) -> list:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


# -- the VRA ------------------------------------------------------------------------------------------------------


class Vra:
    """The VRA of h1, with VMs 1 and 2."""

    def __init__(self) -> None:
        self.vra = ProtectedVra(VRAS[0], {"crm": MANAGER}, [spec(0)], pool_bytes=1 << 20, tweaks=TINY)
        self(Started())

    def __call__(self, event: Event) -> list[Effect]:
        return self.vra.handle(Ns(0), event)

    def hears(self, message: object) -> list[Effect]:
        return self(Received(MANAGER, message))  # type: ignore[arg-type]

    def froze(self, *vms: int, number: int = 1) -> list[Effect]:
        return self(Done(EffectId(VRAS[0], 0), asked(number), tuple(map(VmId, vms))))

    def frozen(self, checkpoint: int = 9) -> tuple[int, ...]:
        """Whom the next checkpoint's `Held` names."""
        (held,) = sent(self.hears(Hold("crm", CheckpointId(checkpoint), alone=True)), Held)
        return held.frozen


def asked(number: int = 1) -> FreezeGuests:
    return FreezeGuests("crm", number, VMS[0], Ns(TIMEOUT // 2))


def test_a_vra_freezes_and_names_who_is_frozen_when_it_holds() -> None:
    rig = Vra()
    assert rig.frozen() == ()
    assert rig.hears(Freeze("crm", 1)) == [asked(), Arm("freeze crm", Ns(TIMEOUT))]
    assert rig.frozen() == (), "asked is not frozen"
    assert rig.froze(2) == [Send(MANAGER, Frozen("crm", 1, VRAS[0]))]
    assert rig.frozen() == (2,), "VM 1 took no part"
    assert rig.hears(Thaw("crm", 1)) == [ThawGuests("crm", 1)]
    assert rig.frozen() == ()


def test_a_freeze_that_fails_is_answered_and_claims_nobody() -> None:
    rig = Vra()
    rig.hears(Freeze("crm", 1))
    assert sent(rig(Failed(EffectId(VRAS[0], 0), asked(), PlatformError("broken"))), Frozen)
    assert rig.frozen() == ()


def test_guests_are_not_frozen_beyond_the_timeout() -> None:
    rig = Vra()
    rig.hears(Freeze("crm", 1))
    rig.froze(1, 2)
    assert rig(Fired("freeze crm")) == [ThawGuests("crm", 1)]
    assert rig.frozen() == ()
    assert rig(Fired("freeze crm")) == rig.hears(Thaw("crm", 1)) == []


def test_who_waits_hears_that_the_time_is_over() -> None:
    """And an agent that answers later freezes nobody."""
    rig = Vra()
    rig.hears(Freeze("crm", 1))
    assert rig(Fired("freeze crm")) == [ThawGuests("crm", 1), Send(MANAGER, Frozen("crm", 1, VRAS[0]))]
    assert rig.froze(1, 2) == []
    assert rig.frozen() == ()


@pytest.mark.parametrize("end", [Lost(MANAGER), Stopped(), Received(MANAGER, Freeze("crm", 2))])
def test_nothing_leaves_guests_frozen(end: Event) -> None:
    rig = Vra()
    rig.hears(Freeze("crm", 1))
    rig.froze(1, 2)
    assert ThawGuests("crm", 1) in rig(end)
    assert rig.vra._frozen("crm") == ()


def test_another_peer_that_is_lost_thaws_nobody() -> None:
    rig = Vra()
    rig.hears(Freeze("crm", 1))
    rig.froze(1, 2)
    assert not [e for e in rig(Lost(THERE)) if isinstance(e, ThawGuests)]


def test_the_thaw_of_an_earlier_freeze_is_not_for_this_one() -> None:
    rig = Vra()
    rig.hears(Freeze("crm", 2))
    rig.froze(1, number=2)
    assert rig.hears(Thaw("crm", 1)) == []
    assert rig.frozen() == (1,)


def test_an_answer_to_an_earlier_freeze_is_not_for_this_one() -> None:
    rig = Vra()
    rig.hears(Freeze("crm", 1))
    rig.hears(Freeze("crm", 2))
    assert rig.froze(1, 2, number=1) == []
    assert rig.frozen() == ()


def test_a_thaw_after_the_hold_takes_nothing_back() -> None:
    """What has been said of the cut stays true: it was at rest when the cut was fixed."""
    rig = Vra()
    rig.hears(Freeze("crm", 1))
    rig.froze(1, 2)
    (held,) = sent(rig.hears(Hold("crm", CheckpointId(3), alone=False)), Held)
    assert held.frozen == (1, 2)
    rig(Fired("freeze crm"))
    rig(GuestWrote(STREAMS[0], writes((1, 10, 0, 1))))
    assert sent(rig.hears(Release("crm", CheckpointId(3))), Released)


def test_a_vm_that_the_checkpoint_does_not_have_whole_is_not_claimed() -> None:
    """A volume was added: VM 1's old ones are in the checkpoints, the new one is not yet."""
    rig = Vra()
    new = StreamId("crm", VRAS[0], THERE, 2)
    more = StreamSpec(new, (VmId(1),), (VolumeInfo(VolumeId(11), VmId(1), 64),))
    rig.hears(Configure("crm", 2, (spec(0), more), {new: Start.INITIAL}))
    rig.hears(Freeze("crm", 1))
    rig.froze(1, 2)
    (held,) = sent(rig.hears(Hold("crm", CheckpointId(9), alone=True)), Held)
    assert held.frozen == (2,)


# -- the manager --------------------------------------------------------------------------------------------------


class Manager:
    """A manager over two VRAs, or one."""

    def __init__(self, *, vras: int = 2) -> None:
        self.vras = VRAS[:vras]
        self.vpg = Vpg(MANAGER, "crm", self.vras, CATALOG, interval=Ns(100), rpo_alert=Ns(500), history=Ns(10_000),
                       tweaks=TINY)  # fmt: skip
        self.now = 0
        self(Started())

    def __call__(self, event: Event, *, at: int | None = None) -> list[Effect]:
        self.now = self.now if at is None else at
        return self.vpg.handle(Ns(self.now), event)

    def hears(self, message: object, **at: int) -> list[Effect]:
        return self(Received(Address("x"), message), **at)  # type: ignore[arg-type]

    def asked(self, name: str = "monthly") -> list[Effect]:
        return self(TagAsked(name, quiesce=True))

    def frozen(self, number: int, *vras: int) -> list[Effect]:
        return [e for n in vras for e in self.hears(Frozen("crm", number, VRAS[n]))]

    def held(self, checkpoint: int, n: int, *vms: int) -> list[Effect]:
        return self.hears(Held("crm", CheckpointId(checkpoint), VRAS[n], {}, tuple(map(VmId, vms))))

    def seal(self, checkpoint: int, *vms: tuple[int, ...]) -> list[Effect]:
        said = [e for n, _ in enumerate(self.vras) for e in self.held(checkpoint, n, *(vms[n] if vms else ()))]
        for vra in self.vras if len(self.vras) > 1 else ():
            said += self.hears(Released("crm", CheckpointId(checkpoint), vra))
        return said


def everywhere(message: object) -> list[Effect]:
    return [Send(vra, message) for vra in VRAS]  # type: ignore[arg-type]


def test_freeze_then_hold_then_thaw() -> None:
    rig = Manager()
    assert rig.asked() == [*everywhere(Freeze("crm", 1)), Arm(FREEZE, Ns(TIMEOUT))]
    assert rig.frozen(1, 1) == []
    rig.now = 70
    held = rig.frozen(1, 0)
    assert sent(held, Hold) == [Hold("crm", CheckpointId(2), alone=False)] * 2
    effects = rig.seal(2, (1,), (3,))
    (sealed,) = sent(effects, Sealed)
    checkpoint = sealed.checkpoint
    assert (checkpoint.tag, checkpoint.quiesced, checkpoint.taken) == ("monthly", (1, 3), 70)
    assert sent(effects, Thaw) == [Thaw("crm", 1)] * 2


def test_with_one_vra() -> None:
    rig = Manager(vras=1)
    rig.asked()
    assert sent(rig.frozen(1, 0), Hold) == [Hold("crm", CheckpointId(2), alone=True)]
    effects = rig.seal(2, (2,))
    assert sent(effects, Sealed)[0].checkpoint.quiesced == (2,)
    assert sent(effects, Thaw) == [Thaw("crm", 1)]


def test_only_who_was_frozen_at_the_hold_is_claimed() -> None:
    rig = Manager()
    rig.asked()
    rig.frozen(1, 0, 1)
    assert sent(rig.seal(2, (), (3,)), Sealed)[0].checkpoint.quiesced == (3,)


def test_automatic_checkpoints_go_on_during_a_freeze_and_claim_nobody() -> None:
    rig = Manager()
    rig.asked()
    rig.frozen(1, 0)
    assert sent(rig(Fired(TICK)), Hold) == [Hold("crm", CheckpointId(2), alone=False)] * 2
    assert rig.frozen(1, 1) == [], "the hold under way comes first"
    effects = rig.seal(2, (1,), (3,))
    automatic = sent(effects, Sealed)[0].checkpoint
    assert (automatic.tag, automatic.quiesced) == ("", ())
    assert sent(effects, Thaw) == []
    assert sent(effects, Hold) == [Hold("crm", CheckpointId(3), alone=False)] * 2
    assert sent(rig.seal(3, (1,), (3,)), Sealed)[0].checkpoint.quiesced == (1, 3)


@pytest.mark.parametrize(
    "void", [Fired(DEADLINE), Received(VRAS[0], Aborted("crm", CheckpointId(2), VRAS[0], "hold budget"))]
)
def test_when_an_automatic_one_is_void_guests_at_rest_do_not_wait(void: Event) -> None:
    rig = Manager()
    rig.asked()
    rig(Fired(TICK))
    rig.frozen(1, 0, 1)
    assert sent(rig(void), Hold) == [Hold("crm", CheckpointId(3), alone=False)] * 2


@pytest.mark.parametrize(
    "void", [Fired(DEADLINE), Received(VRAS[0], Aborted("crm", CheckpointId(2), VRAS[0], "hold budget"))]
)
def test_a_void_checkpoint_thaws_and_freezes_again_for_the_next(void: Event) -> None:
    rig = Manager()
    rig.asked()
    rig.frozen(1, 0, 1)
    effects = rig(void)
    assert sent(effects, Thaw) == [Thaw("crm", 1)] * 2
    assert not sent(effects, Freeze)
    assert sent(rig(Fired(TICK)), Freeze) == [Freeze("crm", 3)] * 2


def test_after_the_timeout_it_goes_on_without_who_did_not_answer() -> None:
    """If that is void too, guests are not frozen a second time: one VRA may be down for long."""
    rig = Manager()
    rig.asked()
    rig.frozen(1, 0)
    assert sent(rig(Fired(FREEZE)), Hold) == [Hold("crm", CheckpointId(2), alone=False)] * 2
    assert sent(rig(Fired(DEADLINE)), Thaw) == [Thaw("crm", 1)] * 2
    effects = rig(Fired(TICK))
    assert not sent(effects, Freeze)
    assert sent(effects, Hold)
    sealed = sent(rig.seal(3, (1,), (3,)), Sealed)[0].checkpoint
    assert (sealed.tag, sealed.quiesced) == ("monthly", ())


def test_an_old_timeout_and_an_old_answer_mean_nothing() -> None:
    rig = Manager()
    rig.asked()
    rig.frozen(1, 0, 1)
    rig.seal(2)
    assert rig(Fired(FREEZE)) == rig.frozen(1, 0) == []
    rig.asked("weekly")
    assert rig.frozen(1, 0, 1) == []
    assert sent(rig.frozen(3, 0, 1), Hold)


def test_tags_wait_for_the_end_of_a_freeze() -> None:
    rig = Manager()
    rig.asked()
    assert rig(TagAsked("weekly")) == rig.asked("yearly") == []
    rig.frozen(1, 0, 1)
    assert sent(rig.seal(2), Hold) == [Hold("crm", CheckpointId(3), alone=False)] * 2
    assert sent(rig.seal(3, (1,), (3,)), Sealed)[0].checkpoint.quiesced == (), "nobody asked for it"
    assert sent(rig.frozen(4, 0, 1), Hold)


def test_nobody_is_frozen_while_no_checkpoint_can_be_taken() -> None:
    rig = Manager()
    rig(Lost(CATALOG))
    assert not sent(rig.asked(), Freeze)
    rig(Connected(CATALOG))
    assert sent(rig(Fired(TICK)), Freeze)


def test_a_sync_that_begins_during_the_freeze_thaws() -> None:
    rig = Manager()
    rig.asked()
    rig.hears(SyncChanged(STREAMS[0], Sync.BITMAP, False, Trigger.COMMUNICATION))
    effects = rig.frozen(1, 0, 1)
    assert not sent(effects, Hold)
    assert sent(effects, Thaw) == [Thaw("crm", 1)] * 2
    assert rig.vpg.asked, "the tag still waits"


@pytest.mark.parametrize("answers", [(0,), (0, 1)])
def test_a_restart_thaws_and_begins_again(answers: tuple[int, ...]) -> None:
    rig = Manager()
    rig.asked()
    rig.frozen(1, *answers)
    rig(Stopped())
    effects = rig(Started())
    assert sent(effects, Thaw) == [Thaw("crm", 1)] * 2
    again = sent(rig(Fired(TICK)), Freeze)
    assert len(again) == 2
    assert again[0].number > 1
    assert rig.vpg.freeze.tag is not None
    assert rig.vpg.freeze.tag.name == "monthly"
