"""Recorder: what a run leaves behind, as columns. Checkpoints, events, samples over time, truth about losses."""

from array import array
from dataclasses import dataclass, field

from drsim.core.facts import (
    BitmapGivenUp,
    CheckpointListed,
    CheckpointSealed,
    CheckpointSkipped,
    CheckpointsRetired,
    Fact,
    FrameRefused,
    GenerationChanged,
    OperationEnded,
    RecoverySideChanged,
    StateChanged,
    StepBegun,
    StepEnded,
    StoreChanged,
    SyncDropped,
    SyncEnded,
    SyncStarted,
    VpgDeleted,
)  # fmt: skip
from drsim.core.names import Address, CheckpointId, VmId
from drsim.core.recovery.report import Outcome
from drsim.core.status import Regions, project
from drsim.core.units import Ns
from drsim.sim.layout import VpgLayout
from drsim.sim.tap import NONE, Amount
from drsim.sim.watch import Watch
from drsim.sim.world import World


def _ints() -> "array[int]":
    return array("q")


@dataclass(slots=True)
class VpgRecord:
    """One VPG's history. Times in nanoseconds; columns of listed checkpoints are of equal length."""

    listed: "array[int]" = field(default_factory=_ints)
    """When each checkpoint was listed."""
    taken: "array[int]" = field(default_factory=_ints)
    """When it was taken."""
    ids: "array[int]" = field(default_factory=_ints)
    """Its number."""
    lost_writes: "array[int]" = field(default_factory=_ints)
    """Acknowledged writes that a disaster just before the listing would have lost."""
    lost_bytes: "array[int]" = field(default_factory=_ints)
    """Their bytes."""
    tags: dict[int, str] = field(default_factory=dict)
    """Tags by checkpoint number."""
    quiesced: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Which VMs a checkpoint is application consistent for, if any, by its number."""
    retired: list[tuple[int, int, str]] = field(default_factory=list)
    """When, up to which number (exclusive), why; the number is one past the newest when all were withdrawn."""
    withdrawn: list[int] = field(default_factory=list)
    """When all checkpoints were withdrawn."""
    statuses: list[tuple[int, str]] = field(default_factory=list)
    """Changes of "status / sub-status"."""
    causes: list[tuple[int, str]] = field(default_factory=list)
    """Changes of the cause of what is wrong; empty when nothing is."""
    history_ok: list[tuple[int, str]] = field(default_factory=list)
    """Changes of whether the history meets the service level: "ok" or "missed"."""
    sealed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Checkpoints not taken or given up, by reason."""
    ended: int | None = None
    """When a disaster ended the observation."""
    deleted: int | None = None
    """When an operator deleted the VPG."""
    recovered: int | None = None
    """When its VMs at the source stopped counting, because others were committed in their place."""
    loss: Amount = NONE
    """What that disaster lost, acknowledged writes only."""

    @property
    def over(self) -> int | None:
        """Until when the VPG was observed; None: until the end of the run."""
        ends = [end for end in (self.ended, self.deleted, self.recovered) if end is not None]
        return min(ends, default=None)


@dataclass(slots=True)
class Sample:
    """The state of things at one instant; bytes and nanoseconds."""

    time: int
    rpo: dict[str, int]
    journal: dict[str, int]
    journal_largest: dict[str, int]
    buffers: dict[Address, int]
    wan: dict[str, dict[str, float]]


class Recorder:
    """Observer of one run. `interval` is the distance of samples in nanoseconds."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.vpgs: dict[str, VpgRecord] = {}
        self.events: list[tuple[int, str, str, str]] = []  # time, VPG, kind, text
        self.samples: list[Sample] = []
        self.buffer_peak: dict[Address, int] = {}
        self.watch: Watch | None = None
        """What was raised as an alert; there from `attach`."""
        self._world: World | None = None
        self._last: dict[str, CheckpointId] = {}
        self._said: dict[str, tuple[str, str, str]] = {}  # the last state event of each VPG
        self._regions: dict[str, tuple[Regions, str]] = {}  # what each one's manager said last

    def attach(self, world: World) -> None:
        """Watch a world; takes the first sample."""
        self._world, self.watch = world, Watch(world, self.interval)
        self.vpgs = {vpg.name: VpgRecord() for vpg in world.layout.vpgs}
        world.clock.call(0, self._sample)

    def note(self, now: int, kind: str, text: str) -> None:
        """Something that no machine published: a fault."""
        self.events.append((now, "", kind, text))

    def publish(self, now: Ns, fact: Fact) -> None:
        """See Observer."""
        assert self.watch is not None
        self.watch.publish(now, fact)
        match fact:
            case CheckpointSealed(vpg):
                self.vpgs[vpg].sealed += 1
            case CheckpointListed(vpg, checkpoint, taken, tag, quiesced):
                self._listed(now, vpg, checkpoint, taken, tag)
                if quiesced:
                    self._quiesced(now, vpg, checkpoint, quiesced)
            case CheckpointSkipped(vpg, checkpoint, reason):
                assert self._world is not None
                self._world.included.pop((vpg, checkpoint), None)
                skipped = self.vpgs[vpg].skipped
                skipped[reason] = skipped.get(reason, 0) + 1
            case CheckpointsRetired(vpg, before, _, reason):
                record = self.vpgs[vpg]
                if before is None:
                    record.withdrawn.append(now)
                    self._last.pop(vpg, None)
                record.retired.append((now, before if before is not None else record.ids[-1] + 1, reason))
                if reason not in ("history", "deleted") and not (
                    record.retired[:-1] and record.retired[-2][2] == reason
                ):
                    self.events.append((now, vpg, "checkpoints retired early", reason))
            case SyncStarted(stream, sync, trigger, dirty):
                self.events.append((now, stream.vpg, "sync started", f"{sync} for {trigger}; {dirty} bytes dirty"))
            case SyncEnded(stream, _, sent, _):
                self.events.append((now, stream.vpg, "sync ended", f"{sent} bytes sent"))
            case SyncDropped(stream):
                self.events.append((now, stream.vpg, "sync dropped", "the stream has ended"))
            case StateChanged(vpg, regions, cause):
                self._regions[vpg] = regions, cause
                self._state(now, vpg)
            case StepBegun(address) | StepEnded(address):
                assert self._world is not None
                self._state(now, self._world.recoveries.of(address).spec.vpg)
            case GenerationChanged(vpg, generation, fenced):
                what = "the source is fenced" if fenced else "the source goes on"
                self.events.append((now, vpg, "generation", f"{generation}: {what}"))
            case FrameRefused(stream, reason):
                self.events.append((now, stream.vpg, "frame refused", reason))
            case RecoverySideChanged(vpg, peer):
                self.events.append((now, vpg, "recovery side", peer.value))
            case OperationEnded(address):
                self._operation(now, address)
            case VpgDeleted(vpg):
                self.events.append((now, vpg, "deleted", "on both sides"))
            case BitmapGivenUp(stream):
                self.events.append((now, stream.vpg, "bitmap given up", "it outgrew its memory"))
            case StoreChanged(stream, ok, reason):
                kind = "journal store takes data" if ok else "journal store fails"
                self.events.append((now, stream.vpg, kind, "" if ok else reason))

    def _operation(self, now: Ns, address: str) -> None:
        """A recovery operation is over."""
        assert self._world is not None
        recoveries = self._world.recoveries
        operation = recoveries.of(address)
        report, vpg = operation.report, operation.spec.vpg
        assert report is not None
        self.events.append((now, vpg, f"{report.plan.kind} over", "; ".join((report.outcome, *report.reasons))))
        if report.outcome is Outcome.COMMITTED and self.vpgs[vpg].over is None:
            self.vpgs[vpg].recovered = operation.cut_off
        for (tagged, checkpoint), text in recoveries.tags.items():
            self.vpgs[tagged].tags[checkpoint] = text
        self._state(now, vpg)

    def _state(self, now: Ns, vpg: str) -> None:
        """What users see of a VPG may have changed."""
        assert self._world is not None
        record, (told, cause) = self.vpgs[vpg], self._regions[vpg]
        regions = self._world.recoveries.shown(vpg, told)
        status, sub = project(regions)
        label = status.value if sub == "None" else f"{status} / {sub}"
        said = (vpg, "state", f"{label}{f' ({cause})' if cause else ''}")
        if self._said.get(vpg) != said:
            self._said[vpg] = said
            self.events.append((now, *said))
        for changes, value in (
            (record.statuses, label),
            (record.causes, cause),
            (record.history_ok, "ok" if regions.history_ok else "missed"),
        ):
            if not changes or changes[-1][1] != value:
                changes.append((now, value))

    def _quiesced(self, now: Ns, vpg: str, checkpoint: CheckpointId, vms: tuple[VmId, ...]) -> None:
        assert self._world is not None
        layout = self._world.layout
        names = self.vpgs[vpg].quiesced[checkpoint] = tuple(layout.vm_names[vm] for vm in vms)
        text = f"checkpoint {checkpoint}: {len(names)} of {len(layout.vpg_of[vpg].spec.vms)} VMs at rest"
        self.events.append((now, vpg, "application consistent", text))

    def _listed(self, now: Ns, vpg: str, checkpoint: CheckpointId, taken: Ns, tag: str) -> None:
        world, record = self._world, self.vpgs[vpg]
        assert world is not None
        lost = world.acknowledged(vpg) - self._included(vpg)
        if record.over is None:
            record.listed.append(now)
            record.taken.append(taken)
            record.ids.append(checkpoint)
            record.lost_writes.append(max(0, lost.writes))
            record.lost_bytes.append(max(0, lost.nbytes))
            if tag:
                record.tags[checkpoint] = tag
        if not world.remembers:
            world.included.pop((vpg, self._last.get(vpg, CheckpointId(0))), None)
        self._last[vpg] = checkpoint

    def _included(self, vpg: str) -> Amount:
        assert self._world is not None
        return self._world.included.get((vpg, self._last.get(vpg, CheckpointId(0))), NONE)

    def disaster(self, now: int, site: str) -> None:
        """A protected site is lost: what its VPGs lose is what was acknowledged and is in no listed checkpoint."""
        world = self._world
        assert world is not None
        for vpg in world.layout.vpgs:
            if vpg.source == site and self.vpgs[vpg.name].over is None:
                record = self.vpgs[vpg.name]
                record.loss = world.acknowledged(vpg.name) - self._included(vpg.name)
                record.ended = now

    def deleted(self, now: int, vpg: str) -> None:
        """An operator deleted a VPG: it has nothing to lose any more."""
        if self.vpgs[vpg].over is None:
            self.vpgs[vpg].deleted = now

    def promised(self, vpg: VpgLayout) -> None:
        """A VPG has another journal now."""
        assert self.watch is not None
        self.watch.promised(vpg)

    def finish(self, now: int) -> None:
        """The run is over: the loss of a disaster at this very instant closes the columns."""
        for name, record in self.vpgs.items():
            if record.over is None:
                assert self._world is not None
                record.loss = self._world.acknowledged(name) - self._included(name)
        self._take(now)
        assert self.watch is not None
        assert self._world is not None
        self.watch.finish(now)
        self._world.recoveries.finish()

    # -- samples ----------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        assert self._world is not None
        self._take(self._world.clock.now)
        self._world.clock.call(self.interval, self._sample)

    def _take(self, now: int) -> None:
        world = self._world
        assert world is not None
        rpo: dict[str, int] = {}
        journal: dict[str, int] = {}
        largest: dict[str, int] = {}
        for vpg in world.layout.vpgs:
            record = self.vpgs[vpg.name]
            end = now if record.over is None else record.over
            lost = bool(record.withdrawn) and (not record.listed or record.withdrawn[-1] >= record.listed[-1])
            rpo[vpg.name] = end - (record.taken[-1] if record.taken and not lost else 0)
            sizes = [journal_.nbytes for journal_ in world.journals_of(vpg.name)]
            journal[vpg.name], largest[vpg.name] = sum(sizes), max(sizes, default=0)
        buffers = {address: machine.used for address, machine in world.protected.items()}
        for address, used in buffers.items():
            self.buffer_peak[address] = max(used, self.buffer_peak.get(address, 0))
        wan = {
            f"{name} {end}>{model.between[1 - n]}": world.links[name, end].measure()
            for name, model in world.model.links.items()
            for n, end in enumerate(model.between)
        }
        self.samples.append(Sample(now, rpo, journal, largest, buffers, wan))
