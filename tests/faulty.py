"""What tests of faults share: a small model with faults after a minute, and what must be true when they are over."""

from typing import Any

from estates import SECOND, two_site

from drsim.sim.run import Run, simulate
from drsim.spec.model import Model
from drsim.spec.protect import Volume

MINUTE = 60 * SECOND


def model(
    *faults: dict[str, Any], fidelity: str = "slice", until: str = "5 min", size: int = 1 << 30, **more: Any
) -> Model:
    """Three VMs on two hosts, 50 writes/s each, on one volume of `size` bytes; the faults begin after a minute."""
    vpg = {"rpo_alert": "20 s", "compression": False, **more.pop("vpg", {})}
    options = {"rate": 50, "hosts": 2, "vms": 3, **more}
    timeline = [{"at": "1 min", **fault} for fault in faults]
    made = two_site(run={"until": until, "fidelity": fidelity}, faults=timeline, vpg=vpg, **options)
    small = {name: vm.model_copy(update={"volumes": (Volume(size=size),)}) for name, vm in made.vms.items()}
    return made.model_copy(update={"vms": small})


def run(*faults: dict[str, Any], **more: Any) -> Run:
    """The run of that model."""
    return simulate(model(*faults, **more))


def kinds(of: Run) -> list[str]:
    """The events."""
    return [kind for _, _, kind, _ in of.recorder.events]


def states(of: Run) -> set[str]:
    """Every status that was shown."""
    return {label for _, label in of.record("crm").statuses}


def syncs(of: Run) -> list[str]:
    """How each synchronization began."""
    return [text for _, _, kind, text in of.recorder.events if kind == "sync started"]


def listed(of: Run, begin: float, end: float) -> list[float]:
    """When checkpoints were listed between two instants, in seconds."""
    return [t / SECOND for t in of.record("crm").listed if begin < t / SECOND < end]


def worst_rpo(of: Run) -> float:
    """Seconds."""
    return max(of.teeth("crm").high) / SECOND


def settled(of: Run, status: str = "MeetingSLA") -> None:
    """After the fault: every stream is in sync, a new checkpoint is listed, and the books of the stores agree."""
    world, record = of.world, of.record("crm")
    assert ("sync started" in kinds(of)) == ("sync ended" in kinds(of))
    assert not any(sender.syncing for machine in world.protected.values() for sender in machine.senders.values())
    assert of.end - record.listed[-1] < 6 * SECOND
    assert record.statuses[-1][1] == status
    assert not world.down
    for stream in world.layout.streams:
        receiver, file = world.receiver(stream), world.journals[stream].files[stream]
        assert file.nbytes == sum(journal.nbytes for journal in receiver.journals.values())
        assert file.end == receiver.durable
    for name in {vpg.spec.recovery.datastore for vpg in world.layout.vpgs}:
        stores = {id(s): s for s in world.journals.values() if s.store is world.stores[name]}.values()
        assert world.stores[name].used == sum(file.nbytes for s in stores for file in s.files.values())


def said(of: Run, kind: str) -> None:
    """The fault left an event when it began, and changed something."""
    assert kind in kinds(of)
    assert of.mattered[kind] > 0
