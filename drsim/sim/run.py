"""Run: a model and a seed in, one run's record out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drsim.core.errors import FileError
from drsim.core.measure import Teeth
from drsim.core.names import StreamId, VmId
from drsim.core.trace import TraceDigest
from drsim.core.units import SECOND
from drsim.files.traces import BlockTrace, read_trace
from drsim.sim.differences import Membered
from drsim.sim.faults import Injector
from drsim.sim.guest import GuestVm, Writer
from drsim.sim.layout import Layout, hosts_over_time
from drsim.sim.operations import Operator
from drsim.sim.record import Recorder, VpgRecord
from drsim.sim.streams import Streams
from drsim.sim.tap import Tap, untapped
from drsim.sim.warp import FOREVER, Absent, Warped, spans
from drsim.sim.workload import mean_rate, source
from drsim.sim.world import World
from drsim.spec.model import Model
from drsim.spec.operations import AddVm, AttachVolume, DetachVolume, Failover, Move, RemoveVolume
from drsim.spec.workload import Trace, Workload

SAMPLES = 1500
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run. `end` is the simulated time reached, in nanoseconds."""

    model: Model
    seed: int
    end: int
    layout: Layout
    recorder: Recorder
    world: World
    trace_digest: str

    def record(self, vpg: str) -> VpgRecord:
        """What happened to a VPG."""
        return self.recorder.vpgs[vpg]

    @property
    def mattered(self) -> dict[str, int]:
        """How often each kind of fault on the model's timeline changed something; 0: as if it had not been."""
        return {fault.kind: self.world.mattered[fault.kind] for fault in self.model.faults}

    def observed(self, vpg: str) -> int:
        """Until when a VPG was observed: the end, the disaster, or its deletion."""
        over = self.record(vpg).over
        return self.end if over is None else over

    def teeth(self, vpg: str) -> Teeth:
        """The VPG's RPO over time."""
        record = self.record(vpg)
        return Teeth.of(record.listed, record.taken, 0, self.observed(vpg), record.withdrawn)

    def journal_digest(self) -> dict[StreamId, str]:
        """A digest of everything that was ever journaled, by stream; the same however frames were cut."""
        return {
            stream: f"{store.files[stream].writes}:{store.files[stream].digest:016x}"
            for stream, store in self.world.journals.items()
        }


def _refuse(model: Model) -> None:
    """Raise FileError for what this simulation does not play."""
    for n, operation in enumerate(model.operations):
        if isinstance(operation, Failover | Move) and operation.reverse:
            raise FileError(
                f"fidelity {model.run.fidelity} ends with the commit and does not protect the other way",
                place=f"operations.{n}.reverse", hint="run it with --fidelity fluid, or leave `reverse` out",
            )  # fmt: skip


def load_traces(model: Model) -> dict[Workload, BlockTrace]:
    """Read the traces that a model's workloads name, each file once. Raises FileError."""
    read: dict[tuple[str, str | None], BlockTrace] = {}
    traces: dict[Workload, BlockTrace] = {}
    for vm in model.vms.values():
        workload = vm.workload
        if isinstance(workload, Trace) and workload not in traces:
            key = (workload.path, workload.format)
            if key not in read:
                read[key] = read_trace(Path(workload.path), format=workload.format)
            traces[workload] = read[key].select(workload.device)
    return traces


def taps(model: Model, layout: Layout, seed: int) -> tuple[dict[StreamId, Tap], dict[Membered, Tap]]:
    """The guests of every stream, and those that are not in a VPG at first and will be added to it."""
    every = {vm: Writer(guest) for vm, guest in guests(model, layout, seed).items()}
    tapped = {id_: Tap(spec, [every[vm] for vm in spec.vms]) for id_, spec in layout.streams.items()}
    inside = {(spec.id.vpg, vm) for spec in layout.streams.values() for vm in spec.vms}
    added = {(each.vpg, layout.vm_ids[each.vm]) for each in model.operations if isinstance(each, AddVm)}
    return tapped, {(vpg, vm): Tap(untapped(vm), [every[vm]]) for vpg, vm in sorted(added - inside)}


def absences(model: Model, layout: Layout) -> dict[str, list[Absent]]:
    """When disks that each VM has at first are not there: detached, or removed for ever."""
    index = {(vm, volume.name): n for vm, spec in layout.vms.items() for n, volume in enumerate(spec.volumes)}
    found: dict[str, list[Absent]] = {vm: [] for vm in layout.vms}
    since: dict[tuple[str, str], int] = {}
    for operation in sorted(model.operations, key=lambda each: each.at):
        match operation:
            case DetachVolume(vm=vm, volume=volume):
                since[vm, volume] = operation.at
            case AttachVolume(vm=vm, volume=volume):
                if (vm, volume) in index:
                    found[vm].append(Absent(index[vm, volume], since[vm, volume], operation.at))
                del since[vm, volume]
            case RemoveVolume(vm=vm, volume=volume):
                if (vm, volume) in index:  # another one may get its name
                    found[vm].append(Absent(index.pop((vm, volume)), operation.at, FOREVER))
    for (vm, volume), begin in since.items():
        if (vm, volume) in index:
            found[vm].append(Absent(index[vm, volume], begin, FOREVER))
    return found


def guests(model: Model, layout: Layout, seed: int) -> dict[VmId, GuestVm]:
    """All guests, each VM with a random stream of its own name."""
    traces, streams = load_traces(model), Streams(seed)
    users: dict[Workload, int] = {}
    made: dict[VmId, GuestVm] = {}
    groups = {each: group for group, names in model.members().items() for each in names}
    absent = absences(model, layout)
    for name, vm in layout.vms.items():
        index = users[vm.workload] = users.get(vm.workload, -1) + 1
        trace = traces.get(vm.workload)
        id_ = layout.vm_ids[name]
        assert isinstance(vm.host, str)
        found, slow = spans(
            model.faults, group=groups[name], host_at=hosts_over_time(model, name, vm.host), datastore=vm.datastore
        )
        writes = source(
            vm.workload, [v.size for v in vm.volumes], streams.rng(f"vm/{name}/writes"), trace=trace, index=index
        )
        made[id_] = GuestVm(
            id_,
            tuple(v.id for v in layout.volumes(id_)),
            model.datastores[vm.datastore],
            Warped(writes, found, absent[name]) if found or absent[name] else writes,
            mean_rate(vm.workload, trace)[0],
            vm.workload.compress_to,
            slow,
        )
    return made


def _until(world: World, until: int, stop: Callable[[World], bool]) -> int:
    """Run until somebody has seen enough; when that was."""
    now = 0
    while now < until and not stop(world):
        now = min(until, now + 60 * SECOND)
        world.run_until(now)
    return now


def simulate(
    model: Model, *, seed: int | None = None, progress: Progress | None = None, keep_frames: bool = False,
    trace: TraceDigest | None = None, stop: Callable[[World], bool] | None = None,
) -> Run:  # fmt: skip
    """Run a model with the core. `progress(now, until)` is called about a hundred times. `trace` sees every step.

    `stop`: looked at every minute of the run, which ends when it says so. Raises DrsimError.
    """
    _refuse(model)
    seed = model.run.seed if seed is None else seed
    until = model.run.until
    layout = Layout(model)
    recorder = Recorder(max(SECOND, until // SAMPLES))
    digest = trace or TraceDigest()
    tapped, spares = taps(model, layout, seed)
    world = World(model, layout, tapped, recorder, seed=seed, trace=digest, keep_frames=keep_frames, spares=spares)
    recorder.attach(world)
    injector = Injector(world, recorder)
    injector.schedule(model.faults)
    Operator(world, recorder, injector.connections).schedule(model.operations, model.faults)
    world.start()
    if stop is not None:
        until = _until(world, until, stop)
    for part in range(1, 101) if stop is None else ():
        world.run_until(until * part // 100)
        if progress is not None:
            progress(until * part // 100, until)
    recorder.finish(until)
    for writer in world.writers:
        world.mattered.update(writer.changed(until))
    return Run(model, seed, until, layout, recorder, world, digest.hexdigest)
