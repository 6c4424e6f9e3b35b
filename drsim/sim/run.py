"""Run: a model and a seed in, one run's record out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drsim.core.measure import Teeth
from drsim.core.names import StreamId, VmId
from drsim.core.trace import TraceDigest
from drsim.core.units import SECOND
from drsim.files.traces import BlockTrace, read_trace
from drsim.sim.faults import Injector
from drsim.sim.guest import GuestVm, Tap, untapped
from drsim.sim.layout import Layout, hosts_over_time
from drsim.sim.operations import Operator
from drsim.sim.record import Recorder, VpgRecord
from drsim.sim.streams import Streams
from drsim.sim.warp import Warped, spans
from drsim.sim.workload import mean_rate, source
from drsim.sim.world import World
from drsim.spec.model import Model
from drsim.spec.operations import AddVm
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
        """Until when a VPG was observed: the end, or the disaster."""
        ended = self.record(vpg).ended
        return self.end if ended is None else ended

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


def taps(model: Model, layout: Layout, seed: int) -> dict[StreamId, Tap]:
    """The guests of every stream."""
    every = guests(model, layout, seed)
    return {id_: Tap(spec, [every[vm] for vm in spec.vms]) for id_, spec in layout.streams.items()}


def spares(model: Model, layout: Layout, seed: int) -> dict[VmId, Tap]:
    """The guests that are in no VPG at first and will be added to one."""
    added = {layout.vm_ids[each.vm] for each in model.operations if isinstance(each, AddVm)}
    inside = {vm for spec in layout.streams.values() for vm in spec.vms}
    every = guests(model, layout, seed) if added - inside else {}
    return {vm: Tap(untapped(vm), [every[vm]]) for vm in sorted(added - inside)}


def guests(model: Model, layout: Layout, seed: int) -> dict[VmId, GuestVm]:
    """All guests, each VM with a random stream of its own name."""
    traces, streams = load_traces(model), Streams(seed)
    users: dict[Workload, int] = {}
    made: dict[VmId, GuestVm] = {}
    groups = {each: group for group, names in model.members().items() for each in names}
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
            tuple(v.id for v in layout.volumes[id_]),
            model.datastores[vm.datastore],
            Warped(writes, found) if found else writes,
            mean_rate(vm.workload, trace)[0],
            vm.workload.compress_to,
            slow,
        )
    return made


def simulate(
    model: Model, *, seed: int | None = None, progress: Progress | None = None, keep_frames: bool = False,
    trace: TraceDigest | None = None,
) -> Run:  # fmt: skip
    """Run a model. `progress(now, until)` is called about a hundred times. `trace` sees every step.

    Raises DrsimError.
    """
    seed = model.run.seed if seed is None else seed
    until = model.run.until
    layout = Layout(model)
    recorder = Recorder(max(SECOND, until // SAMPLES))
    digest = trace or TraceDigest()
    world = World(
        model, layout, taps(model, layout, seed), recorder, seed=seed, trace=digest, keep_frames=keep_frames,
        spares=spares(model, layout, seed),
    )  # fmt: skip
    recorder.attach(world)
    injector = Injector(world, recorder)
    injector.schedule(model.faults)
    Operator(world, recorder, injector.connections).schedule(model.operations, model.faults)
    world.start()
    for part in range(1, 101):
        world.run_until(until * part // 100)
        if progress is not None:
            progress(until * part // 100, until)
    recorder.finish(until)
    for feed in world.feeds:
        world.mattered.update(feed.changed(until))
    return Run(model, seed, until, layout, recorder, world, digest.hexdigest)
