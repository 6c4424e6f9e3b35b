"""Batch invariance (P10): core(batch of n) == core(n batches of 1) == core(any split), effects and state.

And its mirror at the other end (P9): whatever is done to a stream's frames, the journal ends up the same.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TINY, writes

from drsim.core.batch import WriteBatch, content_digest
from drsim.core.effects import Append, Effect, EffectId, ReadRegions, Send
from drsim.core.errors import PlatformError
from drsim.core.events import Connected, Done, Event, Failed, Fired, GuestWrote, Lost, Received, Started, Stopped
from drsim.core.messages import Ack, Await, Cut, Frame, Hold, Nack, Reached, Refusal, Release, Resync, Resynced
from drsim.core.names import Address, CheckpointId, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.protected_vra import ProtectedVra
from drsim.core.receiver import Receiver
from drsim.core.sender import Sender
from drsim.core.units import SECTOR, Lsn, Ns

HERE, MANAGER, CATALOG = Address("west/h1/vra"), Address("west/vpg"), Address("east/catalog")
SECTORS = 37

Split = Callable[[WriteBatch], Iterator[WriteBatch]]


def spec(vpg: str, target: str, vms: tuple[int, ...], limit: int | None = None) -> StreamSpec:
    volumes = tuple(VolumeInfo(VolumeId(10 * vm), VmId(vm), SECTORS) for vm in vms)
    return StreamSpec(StreamId(vpg, HERE, Address(target)), tuple(map(VmId, vms)), volumes, limit)


def whole(batch: WriteBatch) -> Iterator[WriteBatch]:
    yield batch


def rows(batch: WriteBatch) -> Iterator[WriteBatch]:
    for n in range(len(batch)):
        yield batch.rows(n, n + 1)


def at_random(seed: int) -> Split:
    rng = random.Random(seed)

    def split(batch: WriteBatch) -> Iterator[WriteBatch]:
        at = 0
        while at < len(batch):
            to = rng.randint(at + 1, len(batch))
            part = batch.rows(at, to)
            yield part if rng.random() < 0.5 else part.take(np.ones(len(part), bool))  # own columns, or a window
            at = to

    return split


def snapshot(vra: ProtectedVra) -> dict[str, object]:
    """All of its state, batches by content."""
    return {
        "holds": {vpg: (h.checkpoint, h.cut) for vpg, h in vra._holds.items()}, "told": dict(vra._told),
        "senders": {str(id_): of_sender(s) for id_, s in vra.senders.items()},
    }  # fmt: skip


def of_sender(s: Sender) -> tuple[object, ...]:
    opened = WriteBatch.join(s._open.parts) if s._open.parts else None
    len(s.bitmap)  # merge
    assert opened is None or (s._open.rows, s._open.nbytes) == (len(opened), opened.nbytes)
    assert s._queued_bytes == sum(f.nbytes for f in s._queue)
    assert s.window.nbytes == sum(f.nbytes for f in s.window)
    return (
        s.state, s.trigger, s.epoch, s.connected, s.refused, s.numbered, s.durable, s.bitmap._keys.tolist(),
        s.bitmap._cursor,
        list(s.window), list(s._queue), opened, s._reading, s._flushing, s._sync_upto, s._sync_sent, s._swept,
    )  # fmt: skip


class Peer:
    """Plays everybody around one protected VRA, from bytes."""

    def __init__(self, program: bytes, split: Split) -> None:
        self.program, self.split = program, split
        a, b = program[:2]
        specs = [spec("crm", "east/r1/vra", ((1,), (1, 2), (1, 2, 3))[a % 3])]
        if a // 4 % 2:
            specs.append(spec(("crm", "web")[a // 8 % 2], "east/r2/vra", (7, 9)))
        self.specs = specs
        tweaks = TINY.model_copy(update={"frame_writes": 1 + b % 5, "window_frames": 1 + b // 8 % 3})
        managers = dict.fromkeys(("crm", "web"), MANAGER)
        self.vra = ProtectedVra(HERE, managers, specs, pool_bytes=(25, 40, 90)[b // 32 % 3] * SECTOR, tweaks=tweaks)
        self.reads: list[ReadRegions] = []
        self.sent: dict[StreamId, list[Frame]] = {s.id: [] for s in specs}
        self.stamp = self.checkpoint = 0
        self.up = True

    def play(self) -> Iterator[tuple[list[Effect], dict[str, object]]]:
        for at in range(2, len(self.program) - 2, 3):
            effects = [e for event in self.events(*self.program[at : at + 3]) for e in self.handle(event)]
            yield effects, snapshot(self.vra)

    def handle(self, event: Event) -> list[Effect]:
        effects = self.vra.handle(Ns(0), event)
        for effect in effects:
            match effect:
                case Send(_, Frame() as frame):
                    self.sent[frame.stream].append(frame)
                case ReadRegions():
                    self.reads.append(effect)
        return effects

    def events(self, op: int, a: int, b: int) -> Iterator[Event]:
        one = self.specs[a % len(self.specs)]
        sender = self.vra.senders[one.id]
        match OPS[op % len(OPS)]:
            case "write":
                batch = self.batch(one, 1 + a // 4 % 12, b)
                yield from (GuestWrote(one.id, part) for part in self.split(batch))
            case "ack":
                frames = [f for f in self.sent[one.id] if f.epoch == sender.epoch]
                if frames:
                    upto = frames[min(len(frames) - 1, b % 4)].upto
                    self.sent[one.id] = frames[1 + b % 4 :]
                    yield Received(one.id.target, Ack(one.id, 1, sender.epoch, upto))
            case "nack":
                frames = list(sender.window)
                if frames:
                    expected, reason = frames[b // 4 % len(frames)].after, list(Refusal)[b % 4]
                    yield Received(one.id.target, Nack(one.id, 1, sender.epoch, expected, reason))
            case "resynced":
                yield Received(one.id.target, Resynced(one.id, 1, sender.epoch))
            case "flush":
                yield Fired(f"flush {one.id}")
            case "pause":
                yield Fired(f"pause {one.id}")
            case "read" if self.reads:
                asked = self.reads.pop(0)
                content = np.repeat(np.arange(asked.batch.nbytes // SECTOR), SECTOR // 8).tobytes()
                value = WriteBatch(replace(asked.batch.columns, payload=content), 0, len(asked.batch))
                id_ = EffectId(HERE, 0)
                yield Failed(id_, asked, PlatformError("bad")) if b > 230 else Done(id_, asked, value)
            case "hold":
                self.checkpoint += 1
                yield Received(MANAGER, Hold(one.id.vpg, CheckpointId(self.checkpoint), b % 4 == 0))
            case "release":
                yield Received(MANAGER, Release(one.id.vpg, CheckpointId(self.checkpoint - b % 2)))
            case "budget":
                yield Fired(f"hold {one.id.vpg}")
            case "lost":
                yield Lost(one.id.target)
            case "connected":
                yield Connected(one.id.target)
            case "restart":
                yield Stopped() if self.up else Started()
                self.up = not self.up

    def batch(self, one: StreamSpec, n: int, b: int) -> WriteBatch:
        found = []
        for k in range(n):
            vm = one.vms[(b + k * (1 + b % 3)) % len(one.vms)]
            sectors = 1 + (b * 5 + k * 3) % 7
            found.append((vm, 10 * vm, (b * 11 + k * 13) % (SECTORS - sectors + 1), sectors))
        self.stamp += n
        return writes(*found, issued=range(self.stamp - n, self.stamp))


OPS = (
    ["write"] * 12 + ["ack"] * 8 + ["resynced"] * 5 + ["read"] * 6 + ["flush"] * 2 + ["connected"] * 3
    + ["hold", "release", "budget", "lost", "nack", "pause", "restart"]
)  # fmt: skip


def assert_same(program: bytes, split: Split) -> None:
    for n, (expected, found) in enumerate(zip(Peer(program, whole).play(), Peer(program, split).play(), strict=True)):
        op = OPS[program[2 + 3 * n] % len(OPS)]
        assert found[0] == expected[0], f"effects of operation {n}, {op}"
        assert found[1] == expected[1], f"state after operation {n}, {op}"


@settings(max_examples=150)
@given(st.binary(min_size=2 + 3 * 60, max_size=2 + 3 * 60), st.integers(0, 1 << 16))
def test_a_protected_vra_cannot_tell_how_writes_were_batched(program: bytes, seed: int) -> None:
    assert_same(program, rows)
    assert_same(program, at_random(seed))


def test_also_for_plain_random_programs() -> None:
    states = set()
    for seed in range(120):
        program = random.Random(seed).randbytes(2 + 3 * 80)
        assert_same(program, (rows, at_random(seed))[seed % 2])
        peer = Peer(program, whole)
        for _ in peer.play():
            states.update(s.state for s in peer.vra.senders.values())
    assert len(states) == 5, "every state of the sender's table was visited"


def test_a_frame_cut_by_calls_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test can fail: cut a frame at the end of each call."""
    capture = Sender.capture

    def mutant(self: Sender, batch: WriteBatch, room: int) -> tuple[list[Effect], int]:
        effects, taken = capture(self, batch, room)
        return [*effects, *(self.flush() if self._open.rows > 1 else [])], taken

    monkeypatch.setattr(Sender, "capture", mutant)
    with pytest.raises(AssertionError, match="effects of operation"):
        test_also_for_plain_random_programs()


def test_room_counted_once_a_batch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test can fail: a batch that begins within the buffer is taken whole."""
    capture = Sender.capture
    monkeypatch.setattr(Sender, "capture", lambda self, batch, room: capture(self, batch, 1 << 30 if room > 0 else 0))
    with pytest.raises(AssertionError, match=r"(of|after) operation"):
        test_also_for_plain_random_programs()


# -- the receiving end (P9) ---------------------------------------------------------------------------------------


def stream_of_frames(seed: int) -> tuple[StreamSpec, WriteBatch, list[Frame]]:
    rng = random.Random(seed)
    one = spec("crm", "east/r1/vra", (1, 2, 3)[: rng.randint(1, 3)])
    n = rng.randint(1, 40)
    found = []
    for _ in range(n):
        vm, sectors = rng.choice(one.vms), rng.randint(1, 5)
        found.append((vm, 10 * vm, rng.randint(0, SECTORS - sectors), sectors))
    batch = writes(*found)
    edges = sorted({0, n, *(rng.randint(0, n) for _ in range(6))})
    return one, batch, [frame(one, batch, lo, hi) for lo, hi in pairwise(edges)]


def frame(one: StreamSpec, batch: WriteBatch, lo: int, hi: int) -> Frame:
    after, _ = batch.rows(0, lo).per_vm(one.vms)
    upto, _ = batch.rows(0, hi).per_vm(one.vms)
    part = batch.rows(lo, hi)
    return Frame(one.id, 1, 1, after, upto, part.per_vm(one.vms)[1], False, part)


def lsns(one: StreamSpec, taken: Frame) -> np.ndarray:
    slot = np.searchsorted(np.asarray(one.vms), taken.batch.vm)
    return np.asarray(taken.after)[slot] + 1 + taken.batch.ranks()


def receive(one: StreamSpec, frames: list[Frame], awaits: list[Await], seed: int) -> tuple[int, list[object], Receiver]:
    """Deliver frames, writing them to the store at random times; returns digest, messages, receiver."""
    rng = random.Random(seed)
    receiver = Receiver(one, CATALOG, lambda: 1 << 30, region_bytes=SECTOR)
    digest, said, store = 0, [], []
    for event in [*awaits, *frames, None]:
        effects: list[Effect] = []
        if event is not None:
            effects = receiver.await_cut(event) if isinstance(event, Await) else receiver.frame(event)
        while effects or store:
            store += [e.frame for e in effects if isinstance(e, Append)]
            said += [e.message for e in effects if isinstance(e, Send)]
            if not store or (event is not None and rng.random() < 0.5):
                break
            done = store.pop(0)
            digest = (digest + content_digest(done.batch, lsns(one, done))) % 2**64
            effects = receiver.appended(done)
            assert receiver.durable == done.upto
    return digest, said, receiver


@settings(max_examples=150)
@given(st.integers(0, 1 << 32))
def test_redelivery_changes_nothing(seed: int) -> None:
    one, batch, frames = stream_of_frames(seed)
    rng = random.Random(seed + 1)
    cuts = sorted({rng.randint(0, len(batch)) for _ in range(4)} | {len(batch)})
    positions = [batch.rows(0, cut).per_vm(one.vms)[0] for cut in cuts]
    awaits = [Await("crm", CheckpointId(n), one.id, Cut(1, position)) for n, position in enumerate(positions, 1)]
    disturbed = list(frames)
    for _ in range(rng.randint(1, 25)):  # duplicates, other cuts, any order
        lo = rng.randint(0, len(batch) - 1)
        disturbed.insert(rng.randint(0, len(disturbed)), frame(one, batch, lo, rng.randint(lo + 1, len(batch))))
    if rng.random() < 0.5:
        rng.shuffle(disturbed)
    disturbed += frames  # what a sender does in the end: again from the beginning
    expected, _, plain = receive(one, frames, awaits, seed)
    found, said, receiver = receive(one, disturbed, awaits, seed + 2)
    assert found == expected
    assert receiver.durable == plain.durable == frames[-1].upto
    acks = [m.durable for m in said if isinstance(m, Ack)]
    assert acks == sorted(acks), "acknowledgements never go back"
    assert acks[-1] == frames[-1].upto
    assert sum(isinstance(m, Reached) for m in said) == len(cuts)
    for vm, journal in receiver.journals.items():
        other = plain.journals[vm]
        assert [journal.at(a.checkpoint)[0] for a in awaits] == [other.at(a.checkpoint)[0] for a in awaits]
        assert (journal.durable, journal.durable_total) == (other.durable, other.durable_total)


def test_a_duplicate_applied_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test can fail: an overlapping frame is not trimmed."""
    trim = Receiver._trim
    monkeypatch.setattr(Receiver, "_trim", lambda self, f: replace(trim(self, f), batch=f.batch, sizes=f.sizes))
    with pytest.raises(AssertionError):
        test_redelivery_changes_nothing()


def test_a_resync_ends_the_epoch_for_late_frames() -> None:
    one, _, frames = stream_of_frames(3)
    receiver = Receiver(one, CATALOG, lambda: 1 << 30, region_bytes=SECTOR)
    receiver.frame(frames[0])
    receiver.appended(frames[0])
    after = tuple(n + 10 for n in frames[-1].upto)
    anchor = next(e for e in receiver.resync(Resync(one.id, 1, 2, after, one)) if isinstance(e, Append)).frame
    assert receiver.frame(frames[1]) == []
    receiver.appended(anchor)
    assert receiver.frame(frames[1]) == []
    assert receiver.durable == after
    assert all(j.durable == Lsn(n) for j, n in zip(receiver.journals.values(), after, strict=True))
