"""A protected VRA with its peers and disks played by hand, for tests of the sending half."""

from collections.abc import Iterable

from support import TINY, writes

from drsim.core.batch import WriteBatch
from drsim.core.effects import Effect, EffectId, Publish, ReadDigests, ReadRegions, Send
from drsim.core.events import Connected, Done, Event, GuestWrote, Lost, Received, Started
from drsim.core.messages import (
    Ack,
    Compare,
    Compared,
    Frame,
    Nack,
    Refusal,
    Resynced,
    Start,
)
from drsim.core.names import Address, Extent, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.protected_vra import ProtectedVra
from drsim.core.sender import Sender, SendState
from drsim.core.units import SECTOR, Ns

HERE, THERE, OTHER, MANAGER = Address("west/h"), Address("east/r1"), Address("east/r2"), Address("west/vpg")
ONE, TWO = StreamId("crm", HERE, THERE), StreamId("web", HERE, OTHER)
S = SendState


class Rig:
    """A protected VRA with one stream of VM 1, or a second one of VM 2."""

    def __init__(self, *, streams: int = 1, pool: int = 40, start: Start = Start.EQUAL, **tweaks: int) -> None:
        specs = [
            StreamSpec(id_, (VmId(vm),), (VolumeInfo(VolumeId(vm), VmId(vm), 64),))
            for id_, vm in ((ONE, 1), (TWO, 2))[:streams]
        ]
        managers = {"crm": MANAGER, "web": MANAGER}
        small = TINY.model_copy(update={"window_frames": 8, **tweaks})
        starts = dict.fromkeys((spec.id for spec in specs), start)
        self.vra = ProtectedVra(HERE, managers, specs, pool_bytes=pool * SECTOR, tweaks=small, starts=starts)
        self.one: Sender = self.vra.senders[ONE]
        self.reads: list[ReadRegions] = []
        self.digests: list[ReadDigests] = []
        self.asked: list[Extent] = []  # what the peer was to compare, in order

    def __call__(self, event: Event) -> list[Effect]:
        effects = self.vra.handle(Ns(0), event)
        self.reads += [e for e in effects if isinstance(e, ReadRegions)]
        self.digests += [e for e in effects if isinstance(e, ReadDigests)]
        self.asked += [m.extent for m in messages(effects, Compare)]
        return effects

    def write(self, *rows: tuple[int, int], vm: int = 1) -> list[Effect]:
        """Rows of (lba, sectors)."""
        return self(GuestWrote((ONE, TWO)[vm - 1], writes(*((vm, vm, lba, n) for lba, n in rows))))

    def hears(self, message: object, sender: Address = THERE) -> list[Effect]:
        return self(Received(sender, message))  # type: ignore[arg-type]

    def ack(self, *durable: int, epoch: int | None = None) -> list[Effect]:
        return self.hears(Ack(ONE, 1, self.one.epoch if epoch is None else epoch, durable))

    def nack(self, reason: Refusal, expected: int) -> list[Effect]:
        return self.hears(Nack(ONE, 1, self.one.epoch, (expected,), reason))

    def read(self) -> list[Effect]:
        asked = self.reads.pop(0)
        value = WriteBatch.of(
            asked.batch.vm, asked.batch.volume, asked.batch.lba, asked.batch.sectors, asked.batch.issued,
            bytes(asked.batch.nbytes),
        )  # fmt: skip
        return self(Done(EffectId(HERE, 0), asked, value))

    def digest(self) -> list[Effect]:
        """The source's digests are there."""
        asked = self.digests.pop(0)
        return self(Done(EffectId(HERE, 0), asked, b"d" * (asked.extent.sectors // 4)))

    def compared(self, *differs: int, epoch: int | None = None, extent: Extent | None = None) -> list[Effect]:
        """The peer's answer to the last comparison: which regions differ."""
        epoch = self.one.epoch if epoch is None else epoch
        return self.hears(Compared(ONE, 1, epoch, extent or self.asked[-1], bytes(differs)))

    def ends(self, *, differs: int = 1) -> list[Effect]:
        """Read, compare, answer and acknowledge until the stream is in sync; every region differs, or none does."""
        effects: list[Effect] = []
        while self.one.syncing:
            before = len(effects)
            while self.reads:
                effects += self.read()
            while self.digests:
                effects += self.digest()
                effects += self.compared(*(differs for _ in range(self.asked[-1].sectors // 4)))
            effects += self.ack(*self.one.numbered)
            assert len(effects) > before, self.one.state
        return effects

    def dirty(self) -> set[int]:
        return {lba for lba in range(64) if self.one.bitmap.covers(1, lba)}

    def into(self, state: SendState) -> "Rig":
        """Bring the first stream into a state; sectors 0-7 are dirty outside IN_SYNC, all of them in ASKING."""
        if state is S.IN_SYNC:
            return self
        if state is S.ASKING:
            self.__init__(start=Start.CRASHED)  # type: ignore[misc]
            self(Started())
            return self
        self.write((0, 8))
        self(Lost(THERE))
        if state is S.WAITING:
            return self
        self(Connected(THERE))
        if state is S.HANDSHAKE:
            return self
        if state is S.SWEEP:
            self.write((16, 40))
        self.hears(Resynced(ONE, 1, self.one.epoch))
        return self


def messages(effects: Iterable[Effect], kind: type) -> list:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


def facts(effects: Iterable[Effect], kind: type) -> list:
    return [e.fact for e in effects if isinstance(e, Publish) and isinstance(e.fact, kind)]


def frames(effects: Iterable[Effect]) -> list[tuple[tuple[int, ...], tuple[int, ...], bool]]:
    return [(f.after, f.upto, f.sync) for f in messages(effects, Frame)]
