"""How fast, and with how many calls, 20 VMs are failed over to a vCenter (the simulator of the govmomi project).

    python experiments/speed/platforms.py [--json] [--vms 20] [--rounds 5]

Each way of doing it (together, as recovery does it; one by one) has a floor of its own, what the simulator itself
takes for the same calls: as they went over the wire they are sent again to a fresh one by a program that does nothing
else, one after the other over one connection. What any client has to do is in it: TLS, HTTP, reading whole answers; it
is done by drsim's own wire, because http.client, which the floor had before, takes half as long again. Waits for tasks
that go on are left out: tasks have ended by then. What is laid out on the disks takes no time.

The floor does one thing at a time, and drsim together does not: it may read one answer while the simulator works on the
next call. So `at once` sends those calls raw as many at a time as drsim did, each when all are answered that were
answered before drsim sent it: what a client that takes no time at all would need.

All take turns, and each figure is the median of the rounds. Processor time is that of both sides, without the
simulator's beginning.

A call is necessary when it changes something, says how that ended, looks before it (whoever lost an answer must not do
it twice), finds the disk on the appliance, or sees that the guest is up. Everything else is beyond; reads that go as
one call are one.
"""

import argparse
import asyncio
import json
import os
import re
import resource
import ssl
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[2] / "tests")  # the simulator is started as in the tests

from platforms.soap_proxy import Record, changes
from platforms.vcenter import started, vcenter
from platforms.vsphere_arm import VsphereBench, certificates, spec_of

from drsim.core.names import Address, CheckpointId, VmId, VolumeId
from drsim.core.recovery import actions as do
from drsim.core.recovery.plan import Nic
from drsim.core.units import SECOND, Ns
from drsim.real.ports import Platform
from drsim.real.target import Origin, Target
from drsim.real.vsphere import connect
from drsim.real.vsphere.wire import Wire
from drsim.spec.vsphere import Vsphere

MIB = 1 << 20
VSPHERE_CONNECTIONS = Vsphere.model_fields["connections"].default
OPERATION = Address("leeds/operation/1")
_MADE_UP = re.compile(rb"(?<=>)(session\[[^<@]*|/tmp/[^<@]*|(?:task|vm)-\d+)")
_COLLECTORS = {
    "CreatePropertyCollector", "CreateFilter", "WaitForUpdatesEx", "CancelWaitForUpdates", "DestroyPropertyCollector",
}  # fmt: skip
Figures = tuple[float, float]
"""Seconds, and processor seconds of both sides."""


class Nothing:
    """One volume for each VM, with nothing on it."""

    def sizes(self, vm: VmId) -> Mapping[VolumeId, int]:
        return {VolumeId(vm): MIB}

    async def lay_out(self, vm: VmId, volume: VolumeId, checkpoint: CheckpointId, to: Path) -> None:
        pass

    def origin(self, vm: VmId) -> Origin:
        return Origin()


async def fail_over(platform: Platform, vms: int, *, together: bool) -> None:
    """As recovery does it: the VMs of a boot group together; or one after the other."""
    target = Target(lambda: platform, Nothing(), VsphereBench.store)
    hosts = (VsphereBench.host, VsphereBench.other_host)

    async def one(n: int) -> None:
        vm, name = VmId(n), f"web-{n}"
        nic = Nic(VsphereBench.network, f"192.0.2.{n + 1}", "255.255.255.0")
        for action in (
            do.CreateVm(name, vm, hosts[n % 2], 1, 16 * MIB),
            do.CreateScratch(name, vm, CheckpointId(1), instant=False),
            do.AttachDisks(name),
            do.ReIp(name, (nic,)),
            do.PowerOn(name),
            do.AwaitGuest(name, Ns(60 * SECOND)),
        ):
            await target.carry_out(OPERATION, action)

    if together:
        await asyncio.gather(*map(one, range(vms)))
    else:
        for n in range(vms):
            await one(n)


@dataclass
class Recording:
    """The calls of a failover. `coming_in`: those before; `calls`: its own. Both as they were answered."""

    coming_in: list[Record]
    calls: list[Record]

    def kept(self) -> list[tuple[int, Record]]:
        """Calls without waits for tasks; and how many of them each was sent after."""
        mine = [each.method not in _COLLECTORS for each in self.calls]
        behind = [each.behind - len(self.coming_in) for each in self.calls]
        return [(sum(mine[:n]), call) for n, call, my in zip(behind, self.calls, mine, strict=True) if my]


def recorded(vms: int, *, together: bool) -> Recording:
    """A failover through the proxy."""

    async def main() -> Recording:
        with vcenter(certificates() / "server.pem") as center:
            center.proxy.records = []
            platform = await connect(spec_of(center), certificates())
            before = len(center.proxy.records)
            await fail_over(platform, vms, together=together)
            calls = list(center.proxy.records)
            await platform.close()
            return Recording(calls[:before], calls[before:])

    return asyncio.run(main())


@contextmanager
def fresh() -> Iterator[tuple[int, dict[str, Path]]]:
    """A simulator without the proxy, with TLS of its own."""
    pem = str(certificates() / "server.pem")
    with started("-cert", pem, "-key", pem) as found:
        yield found


def used() -> float:
    """Processor seconds of this process, and of the simulator that is its child."""
    mine = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            tasks = (stat.parent / "task").glob("*/schedstat")
            mine += sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    return mine


async def timed(work: Awaitable[None]) -> Figures:
    """What a piece of work takes."""
    busy, begun = used(), time.perf_counter()
    await work
    took = time.perf_counter() - begun
    return took, used() - busy


def ours(vms: int, *, together: bool) -> Figures:
    """A failover by drsim."""

    async def main(port: int, stores: dict[str, Path]) -> Figures:
        platform = await connect(spec_of(_At(port, stores)), certificates())
        figures = await timed(fail_over(platform, vms, together=together))
        await platform.close()
        return figures

    with fresh() as (port, stores):
        return asyncio.run(main(port, stores))


class Prepared(NamedTuple):
    """A call that is to be sent again. `request`: every second part is a name; `names`: those that its answer has."""

    method: str
    request: list[bytes]
    names: list[bytes]


def prepared(call: Record) -> Prepared:
    """So that nothing has to be looked for while time is taken, but in answers with names."""
    return Prepared(call.method, _MADE_UP.split(call.request), _MADE_UP.findall(call.answer))


def floor(recording: Recording, *, at_once: bool) -> Figures:
    """The same calls alone. Names that the simulator makes up anew are put in."""

    async def main(port: int) -> Figures:
        names: dict[bytes, bytes] = {}
        context = ssl.create_default_context(cafile=certificates() / "ca.pem")
        wire = Wire("127.0.0.1", port, "vim.version.version11", context, VSPHERE_CONNECTIONS, 60.0)

        async def send(call: Prepared) -> None:
            status, body = await wire.post(b"".join([names.get(part, part) for part in call.request]))
            assert status == 200, (call.method, status, body)
            if call.names:
                names.update(zip(call.names, _MADE_UP.findall(body), strict=True))

        async def one_by_one() -> None:
            for _, call in calls:
                await send(call)

        async def all_at_once() -> None:
            done, first = [False] * len(calls), 0
            reached = [asyncio.Event() for _ in range(len(calls) + 1)]
            reached[0].set()

            async def one(n: int, behind: int, call: Prepared) -> None:
                nonlocal first
                await reached[behind].wait()
                await send(call)
                done[n] = True
                while first < len(calls) and done[first]:
                    first += 1
                    reached[first].set()

            await asyncio.gather(*(one(n, *each) for n, each in enumerate(calls)))

        calls = [(behind, prepared(call)) for behind, call in recording.kept()]
        for call in recording.coming_in:
            await send(prepared(call))
        figures = await timed(all_at_once() if at_once else one_by_one())
        await wire.close()
        return figures

    with fresh() as (port, _):
        return asyncio.run(main(port))


class _At:
    """A simulator without the proxy."""

    def __init__(self, port: int, stores: dict[str, Path]) -> None:
        self.port, self.stores = port, stores


def measured(vms: int, rounds: int) -> dict[str, Any]:
    """Everything that the table in README.md says."""
    recordings = {"together": recorded(vms, together=True), "one by one": recorded(vms, together=False)}
    ways: dict[str, Callable[[], Figures]] = {}
    for name, recording in recordings.items():
        ways[name] = partial(ours, vms, together=name == "together")
        ways[f"floor, {name}"] = partial(floor, recording, at_once=False)
    ways["at once"] = partial(floor, recordings["together"], at_once=True)
    took = [{name: way() for name, way in ways.items()} for _ in range(rounds)]

    def ratio(name: str, to: str, which: int) -> float:
        return round(statistics.median(each[name][which] / each[to][which] for each in took), 2)

    found: dict[str, Any] = {"vms": vms}
    found["seconds"] = {name: round(statistics.median(each[name][0] for each in took), 3) for name in ways}
    found["of the floor"] = {name: ratio(name, f"floor, {name}", 0) for name in recordings}
    found["of the floor, processor time"] = {name: ratio(name, f"floor, {name}", 1) for name in recordings}
    found["together, of `at once`"] = ratio("together", "at once", 0)
    for name, recording in recordings.items():
        methods = Counter(call.method for call in recording.calls)
        changing = sum(n for method, n in methods.items() if changes(method))
        beyond = (methods.total() - 3 * changing - 2 * vms) / vms
        found[f"calls, {name}"] = methods.total()
        found[f"beyond the necessary, for each VM, {name}"] = round(beyond, 2)
        found[f"by method, {name}"] = dict(methods.most_common())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--vms", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = measured(options.vms, options.rounds)
    if options.json:
        print(json.dumps(found))
    else:
        for what, value in found.items():
            print(f"{what:40}{value if not isinstance(value, float) else round(value, 3)}")


if __name__ == "__main__":
    main()
