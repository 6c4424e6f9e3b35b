"""The runs of this experiment: estates as models, what goes wrong when, and the WAN between the sites."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drsim.spec.model import Model
from drsim.verify.emulator import Settings

SECOND, MIB, MBIT = 10**9, 1 << 20, 10**6
HERE = Path(__file__).parent
GUEST_DISK = 8 * MIB
VPG, SOURCE_HOST, TARGET_HOST = "crm", "london-1", "leeds-1"
TWEAKS = {"peer_timeout": "2 s"}
QUEUE = 0.15
"""Seconds of the rate that the router keeps: more than the round trip, so that one connection fills the link."""


def poisson(rate: float, size: str) -> dict[str, Any]:
    return {"kind": "poisson", "rate": rate, "size": size, "pattern": "uniform"}


def onoff(rate: float, size: str, on: str, off: str) -> dict[str, Any]:
    return {"kind": "onoff", "rate": rate, "size": size, "on": on, "off": off, "pattern": "uniform"}


FILES = {"kind": "trace", "path": str(HERE.parents[1] / "models/workloads/developer-files.csv.gz"), "loop": False}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. Times in seconds since its begin.

    workloads: of each VM. guests: of how many VMs that run QEMU, in their place. down: when the link is cut, how long.
    killed: when the recovery site's process, with its VRA, is killed, and after how long it is started again. How long
    it was away in all, until the sites were connected again, is a matter of the machine, and told to the simulation.
    ends: the protected site is lost then, and failed over.
    """

    about: str
    workloads: tuple[dict[str, Any], ...] = ()
    rate: float = 8 * MBIT
    delay: float = 0.020
    loss: float = 0.0
    seconds: int = 45
    guests: int = 0
    down: tuple[float, float] | None = None
    killed: tuple[float, float] | None = None
    ends: float | None = None
    volume: int = 64 * MIB
    rest: int = 0
    """Seconds at the end in which nothing is written."""

    @property
    def vms(self) -> tuple[str, ...]:
        return tuple(f"vm{n + 1}" for n in range(self.guests or len(self.workloads)))

    @property
    def wan(self) -> Settings:
        return Settings(rate=self.rate, delay=self.delay, loss=self.loss, queue=QUEUE)

    def writes(self, vm: int, written: int) -> dict[str, Any]:
        """The workload of a VM in the simulation; guests on QEMU have `written` that many in all."""
        if self.guests:
            return {"kind": "constant", "rate": written / self.seconds / self.guests, "size": "512 B"}
        return self.workloads[vm]


CALIBRATION = {
    "thin": Scenario("one VM, small writes, the link half idle", (poisson(50, "4 KiB"),), seconds=30),
    "thick": Scenario("one VM, large writes, the link half idle", (poisson(10, "48 KiB"),), seconds=30),
    "full": Scenario(
        "the link full for a while", (onoff(60, "32 KiB", "12 s", "1 h"),), rate=10 * MBIT, delay=0.010, seconds=40
    ),
    "short cut": Scenario("the link cut for a few seconds", (poisson(30, "8 KiB"),), down=(6, 6), seconds=20),
    "one guest": Scenario("one VM failed over", guests=1, ends=15, seconds=15),
    "three guests": Scenario("three VMs failed over", guests=3, ends=15, seconds=15),
}
"""Runs from which parameters are taken; none of them is predicted."""

PREDICTED = {
    "steady": Scenario("two VMs write all the time", (poisson(40, "8 KiB"), poisson(60, "4 KiB"))),
    "bursty": Scenario(
        "file work on ext4, a trace of ours", (FILES,), rate=14 * MBIT, delay=0.015, seconds=60, volume=256 * MIB
    ),
    "link too small": Scenario(
        "for 15 s twice as much is written as the link carries", (onoff(250, "8 KiB", "15 s", "1 h"),), seconds=50
    ),
    "link cut": Scenario(
        "the link is cut for 24 s", (poisson(30, "8 KiB"), poisson(20, "16 KiB")), down=(12, 24), seconds=90
    ),
    "VRA killed": Scenario(
        "the recovery VRA is killed and comes back after 6 s",
        (poisson(60, "8 KiB"),),
        killed=(12, 6),
        seconds=60,
    ),
    "failover": Scenario("six VMs are failed over after their site is lost", guests=6, ends=15, seconds=15),
}


def model(
    scenario: Scenario, found: "Parameters", *, away: float | None = None, written: int = 0, seed: int = 1
) -> Model:
    """The estate of a run, with parameters. away: seconds for which a VRA that is killed is away.

    written: what guests on QEMU wrote: as fast as they could, which is a matter of the machine.
    """
    vms: dict[str, Any] = {}
    for n, name in enumerate(scenario.vms):
        size = GUEST_DISK if scenario.guests else scenario.volume
        vms[name] = {
            "host": SOURCE_HOST, "datastore": "here", "volumes": [{"name": "data", "size": f"{size} B"}],
            "workload": scenario.writes(n, written), "boot": "0 s", "application": "0 s", "cpus": 1,
            "memory": "16 MiB",
        }  # fmt: skip
    there: dict[str, Any] = {"site": "leeds", "latency": int(found.store * SECOND)}
    if scenario.guests and found.layout:
        there["bandwidth"] = int(8 * found.layout)
    faults: list[dict[str, Any]] = []
    operations: list[dict[str, Any]] = []
    until = scenario.seconds
    if scenario.down is not None:
        at, lasts = scenario.down
        faults.append({"kind": "link-down", "link": "wan", "at": int(at * SECOND), "lasts": int(lasts * SECOND)})
    if scenario.killed is not None:
        at, lasts = scenario.killed[0], int((scenario.killed[1] if away is None else away) * SECOND)
        faults += [
            {"kind": "vra-crash", "host": TARGET_HOST, "at": int(at * SECOND), "lasts": lasts, "noticed": 0},
            {"kind": "manager-crash", "site": "leeds", "at": int(at * SECOND), "lasts": lasts},
        ]
    if scenario.ends is not None:
        at_ = int(scenario.ends * SECOND)
        faults.append({"kind": "site-loss", "site": "london", "at": at_})
        operations.append({"kind": "failover", "vpg": VPG, "at": at_})
        until += 120
    return Model.model_validate({
        "sites": {"london": {}, "leeds": {"hypervisor": found.hypervisor}},
        "datastores": {"here": {"site": "london"}, "there": there},
        "hosts": {SOURCE_HOST: {"site": "london"}, TARGET_HOST: {"site": "leeds"}},
        "links": {"wan": {
            "between": ["london", "leeds"], "bandwidth": int(scenario.rate * found.goodput),
            "latency": int(scenario.delay * SECOND), "loss": scenario.loss,
            "framing": found.framing, "reconnect": int(found.reconnect * SECOND),
        }},
        "vms": vms,
        "vpgs": {VPG: {
            "vms": list(scenario.vms), "recovery": {"hosts": [TARGET_HOST], "datastore": "there"},
            "checkpoint_interval": "1 s", "compression": False,
        }},
        "faults": faults, "operations": operations, "tweaks": TWEAKS,
        "run": {"until": until * SECOND, "seed": seed, "fidelity": "write"},
    })  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is calibrated: seconds, shares, bytes. As they are here: nothing is known."""

    goodput: float = 1.0
    """Share of the link's rate that packets get."""
    framing: dict[str, int] = field(default_factory=dict)
    store: float = 0.0
    layout: float = 0.0
    """Bytes of a journal that are laid out in a second."""
    reconnect: float = 0.0
    hypervisor: dict[str, Any] = field(default_factory=dict)
