"""Mutants of retention: journals, mirrors, aging, the hard limit, pins."""

from bisect import bisect_right
from dataclasses import replace
from typing import Any

from drsim.core.catalog import Catalog
from drsim.core.effects import Effect, Promote, Send
from drsim.core.events import Failed
from drsim.core.journal import Journal, Stored
from drsim.core.messages import Age, Frame
from drsim.core.names import CheckpointId
from drsim.core.receiver import Receiver
from drsim.core.units import Ns
from drsim.verify.disks import StreamDisks, VmDisks
from drsim.verify.mutants.base import Patch, mutant, patched, several


@mutant("15", by=("P3",))
def write_split_in_two_records() -> Patch:
    """The store puts a write of several sectors as two records with a number each; a checkpoint lies between them."""
    append = StreamDisks.append

    def mutated(self: StreamDisks, frame: Frame) -> None:
        append(self, frame)
        if frame.sync:
            return
        for disks in self.vms.values():
            _split_last(disks)

    return patched(StreamDisks, "append", mutated)


def _split_last(disks: VmDisks) -> None:
    """The last row as two, the second with the next number."""
    if not disks.rows or len(disks.rows[-1][2]) < 4:
        return
    start, stop, data = disks.rows[-1]
    half = start + len(data) // 4 * 2
    before = bytearray(disks.states[-2] if len(disks.states) > 1 else disks.mirror)
    before[start:half] = data[: half - start]
    disks.rows[-1:] = [(start, half, data[: half - start]), (half, stop, data[half - start :])]
    disks.states[-1:] = [bytes(before), disks.states[-1]]
    disks.lsns.append(disks.lsns[-1] + 1)
    disks.writes.append(disks.writes[-1])


@mutant("20", by=("P5",))
def image_has_one_more() -> Patch:
    """An image includes the record after the marker."""
    image = StreamDisks.image
    return patched(StreamDisks, "image", lambda self, vm, upto: image(self, vm, upto + 1))


@mutant("24", by=("P11",))
def one_record_too_many_aged() -> Patch:
    """Aging applies one record too many to the mirror."""
    promote = StreamDisks.promote

    def mutated(self: StreamDisks, effect: Promote) -> None:
        promote(self, replace(effect, upto=tuple(n + 1 for n in effect.upto)))

    return patched(StreamDisks, "promote", mutated)


@mutant("25", by=("P11", "P5"))
def aged_before_forgotten() -> Patch:
    """Data goes to the mirror while the checkpoints before it are still listed."""
    retire = Catalog._retire_old

    def mutated(self: Catalog) -> list[Effect]:
        early = [Send(s.target, Age(self.vpg, self.listed[-1].id, s)) for s in self.streams] if self.listed else []
        return [*early, *retire(self)]

    return patched(Catalog, "_retire_old", mutated)


@mutant("26", "B11", by=("P11", "P13"), cites="ceph/ceph #30548")
def pin_ignored() -> Patch:
    """A checkpoint that an operation uses is retired like any other."""
    retire = Catalog._retire

    def mutated(self: Catalog, keep_from: CheckpointId, reason: str) -> list[Effect]:
        pins, self.pins = self.pins, set()
        effects = retire(self, keep_from, reason)
        self.pins = pins
        return effects

    return patched(Catalog, "_retire", mutated)


@mutant("27", "B19", by=("P11",))
def newest_dropped_at_the_limit() -> Patch:
    """At the hard limit the newest checkpoint goes, not the oldest history."""
    shrink = Catalog._shrink

    def mutated(self: Catalog) -> list[Effect]:
        if self._limits and self._forget is None and len(self.listed) == 1 and not self.pins:
            return self._withdraw("journal limit")
        return shrink(self)

    return patched(Catalog, "_shrink", mutated)


@mutant("28", by=("P11", "P3"))
def aged_out_of_order() -> Patch:
    """Two promotions work on a mirror at once, and the younger half of the data is there first."""
    promote = StreamDisks.promote

    def mutated(self: StreamDisks, effect: Promote) -> None:
        for disks, upto in zip(self.vms.values(), effect.upto, strict=True):
            n = bisect_right(disks.lsns, upto)
            disks.rows[:n] = [*disks.rows[n // 2 : n], *disks.rows[: n // 2]]
        promote(self, effect)

    return patched(StreamDisks, "promote", mutated)


@mutant("B02", by=("P3", "P5", "P12"), cites="redpanda #29384")
def rows_applied_in_parallel() -> Patch:
    """Two appliers share the rows of a frame, and nothing keeps the order of rows of one place."""
    put = StreamDisks._put

    def mutated(self: StreamDisks, frame: Frame) -> None:
        later: list[tuple[Any, ...]] = []

        def collect(disks: StreamDisks, *row: Any) -> None:
            later.append(row)

        with patched(StreamDisks, "_put", collect):
            append(self, frame)
        order = sorted(range(len(later)), key=lambda n: (n % 2 == 0, n))
        content = [later[n][2:] for n in order]
        for (vm, lsn, *_), row in zip(later, content, strict=True):
            put(self, vm, lsn, *row)

    append = StreamDisks.append
    return patched(StreamDisks, "append", mutated)


@mutant("35", "B20", by=("P12", "P5"), cites="a rule of the field (products.md 1.4)")
def sync_data_aged_under_old_checkpoints() -> Patch:
    """Data of a sync goes to the mirror although checkpoints from before it are still listed."""
    age = Receiver.age

    def mutated(self: Receiver, message: Age) -> list[Effect]:
        return age(self, replace(message, checkpoint=None) if self.swept else message)

    return patched(Receiver, "age", mutated)


@mutant(by=("P11",))
def everything_ages() -> Patch:
    """Everything durable goes to the mirror, although checkpoints are listed."""
    age = Receiver.age
    return patched(Receiver, "age", lambda self, message: age(self, replace(message, checkpoint=None)))


@mutant("B04", by=("P22", "P20"), cites="redpanda #3110")
def durable_end_goes_back() -> Patch:
    """After a crash the durable end is taken from the frame before the last."""
    stored = StreamDisks.stored

    def mutated(self: StreamDisks) -> Stored:
        whole = stored(self)
        end = tuple(parts[-2][0] if len(parts) > 1 else e for parts, e in zip(whole.parts, whole.end, strict=True))
        parts = tuple(tuple(p for p in ps if p[0] <= e) for ps, e in zip(whole.parts, end, strict=True))
        return replace(whole, end=end, parts=parts)

    return patched(StreamDisks, "stored", mutated)


@mutant("B06", by=("P11", "P5", "P3"), cites="ClickHouse #84434")
def truncation_races_an_append() -> Patch:
    """What stays of a log is counted when aging is asked for; records appended meanwhile are cut off with the rest."""
    wanted, promote = Receiver._promote, StreamDisks.promote
    there: dict[int, tuple[Promote, tuple[int, ...]]] = {}

    def asked(self: Receiver) -> list[Effect]:
        effects = wanted(self)
        for effect in effects:
            if isinstance(effect, Promote):
                there[id(effect)] = (effect, self.durable)
        return effects

    def mutated(self: StreamDisks, effect: Promote) -> None:
        _, durable = there.pop(id(effect), (effect, self.end))
        stay = zip(self.vms.items(), effect.upto, durable, strict=True)
        kept = {vm: bisect_right(d.lsns, end) - bisect_right(d.lsns, upto) for (vm, d), upto, end in stay}
        promote(self, effect)
        for vm, disks in self.vms.items():
            n = max(0, len(disks.lsns) - kept[vm])
            del disks.lsns[:n], disks.states[:n], disks.rows[:n], disks.writes[:n]

    return several(patched(Receiver, "_promote", asked), patched(StreamDisks, "promote", mutated))


@mutant("B16", by=("P20",), cites="ceph/ceph #10378")
def journal_pinned_for_ever() -> Patch:
    """When the list could not be written once, nothing is ever retired again, and the journal only grows."""
    handle = Catalog.handle

    def mutated(self: Catalog, now: Ns, event: Any) -> list[Effect]:
        forgetting = self._forgetting
        effects = handle(self, now, event)
        if isinstance(event, Failed) and forgetting:
            self._forgetting = True
        return effects

    return patched(Catalog, "handle", mutated)


@mutant("B21", by=("P11",))
def history_by_the_wall_clock() -> Patch:
    """History is measured back from now; a clock that jumps ahead takes it away."""
    handle, retire = Catalog.handle, Catalog._retire_old
    clock = [0]

    def remember(self: Catalog, now: Ns, event: Any) -> list[Effect]:
        clock[0] = now
        return handle(self, now, event)

    def mutated(self: Catalog) -> list[Effect]:
        horizon = clock[0] - self.retention.history
        old = [c.id for c in self.listed if c.taken >= horizon] or [c.id for c in self.listed][-1:]
        return self._retire(old[0], "history") if old else retire(self)

    return several(patched(Catalog, "handle", remember), patched(Catalog, "_retire_old", mutated))


@mutant(by=("P11",))
def limit_of_durable_bytes_only() -> Patch:
    """The hard limit counts what is durable, and not what is on its way to the store."""

    def mutated(self: Journal, nbytes: int) -> bool:
        return self.limit is None or self.durable_total - self.base_total + nbytes <= self.limit

    return patched(Journal, "has_room", mutated)


@mutant(by=("P22", "P11"))
def rollback_keeps_the_count() -> Patch:
    """Bytes that a failed store gave back stay counted."""

    def mutated(self: Journal) -> None:
        self.appended = self.durable

    return patched(Journal, "rollback", mutated)
