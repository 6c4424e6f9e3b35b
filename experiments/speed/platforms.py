"""How fast, and with how many calls, 20 VMs are failed over to a vCenter (the simulator of the govmomi project).

    python experiments/speed/platforms.py [--json] [--vms 20] [--rounds 5]

The floor is what the simulator itself takes: the same calls, as they went over the wire, sent again to a fresh one by a
program that does nothing else, one after the other over one connection with the same TLS. All take turns, and each
figure is the median of the rounds. Processor time is that of both sides. What is laid out on the disks takes no time.

A call is necessary when it changes something, says how that ended, looks before it (whoever lost an answer must not do
it twice), finds the disk on the appliance, or sees that the guest is up. Everything else is beyond.
"""

import argparse
import asyncio
import http.client
import json
import re
import resource
import ssl
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2] / "tests")  # the simulator is started as in the tests

from platforms.soap_proxy import changes
from platforms.vcenter import started, vcenter
from platforms.vsphere_arm import VsphereBench, certificates, spec_of

from drsim.core.names import Address, CheckpointId, VmId, VolumeId
from drsim.core.recovery import actions as do
from drsim.core.recovery.plan import Nic
from drsim.core.units import SECOND, Ns
from drsim.real.ports import Firmware, Platform
from drsim.real.target import Target
from drsim.real.vsphere import connect

MIB = 1 << 20
OPERATION = Address("leeds/operation/1")
_MADE_UP = rb"(?<=>)(?:session\[|/tmp/)[^<@]*"
Calls = list[tuple[str, bytes, bytes]]


class Nothing:
    """One volume for each VM, with nothing on it."""

    def sizes(self, vm: VmId) -> Mapping[VolumeId, int]:
        return {VolumeId(vm): MIB}

    async def lay_out(self, vm: VmId, volume: VolumeId, checkpoint: CheckpointId, to: Path) -> None:
        pass

    def firmware(self, vm: VmId) -> Firmware:
        return Firmware.BIOS

    def ready(self, vm: VmId) -> str:
        return ""


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


def recorded(vms: int) -> tuple[Calls, Calls]:
    """All calls of a failover: those of coming in, and those of the failover itself."""

    async def main() -> tuple[Calls, Calls]:
        with vcenter(certificates() / "server.pem") as center:
            center.proxy.records = []
            platform = await connect(spec_of(center), certificates())
            before = len(center.proxy.records)
            await fail_over(platform, vms, together=False)
            calls = list(center.proxy.records)
            await platform.close()
            return calls[:before], calls[before:]

    return asyncio.run(main())


@contextmanager
def fresh() -> Iterator[tuple[int, dict[str, Path]]]:
    """A simulator without the proxy, with TLS of its own."""
    pem = str(certificates() / "server.pem")
    with started("-cert", pem, "-key", pem) as found:
        yield found


def used() -> float:
    """Processor seconds of this process, and of the simulators that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def ours(vms: int, *, together: bool) -> tuple[float, float]:
    """Seconds of a failover by drsim; and the processors' of both sides."""

    async def main(port: int, stores: dict[str, Path]) -> float:
        spec = spec_of(_At(port, stores))
        platform = await connect(spec, certificates())
        begun = time.perf_counter()
        await fail_over(platform, vms, together=together)
        took = time.perf_counter() - begun
        await platform.close()
        return took

    before = used()
    with fresh() as (port, stores):
        took = asyncio.run(main(port, stores))
    return took, used() - before


def floor(coming_in: Calls, calls: Calls) -> tuple[float, float]:
    """Seconds for the same calls alone; and the processors' of both sides. Names that it makes up anew are put in."""
    names: dict[bytes, bytes] = {}
    before = used()
    with fresh() as (port, _):
        context = ssl.create_default_context(cafile=certificates() / "ca.pem")
        connection, cookie = http.client.HTTPSConnection("127.0.0.1", port, context=context), ""

        def send(call: tuple[str, bytes, bytes]) -> None:
            nonlocal cookie
            method, request, was = call
            for old, new in names.items():
                request = request.replace(old, new)
            headers = {"Content-Type": "text/xml; charset=UTF-8", "SOAPAction": '"urn:vim25/6.5"', "Cookie": cookie}
            connection.request("POST", "/sdk", request, headers)
            got = connection.getresponse()
            body = got.read()
            assert got.status == 200, (method, got.status, body)
            cookie = got.getheader("Set-Cookie") or cookie
            old, new = (re.findall(_MADE_UP, text) for text in (was, body))
            names.update(zip(old, new, strict=True))

        for call in coming_in:
            send(call)
        begun = time.perf_counter()
        for call in calls:
            send(call)
        took = time.perf_counter() - begun
        connection.close()
    return took, used() - before


class _At:
    """A simulator without the proxy."""

    def __init__(self, port: int, stores: dict[str, Path]) -> None:
        self.port, self.stores = port, stores


def measured(vms: int, rounds: int) -> dict[str, Any]:
    """Everything that the table in README.md says."""
    coming_in, calls = recorded(vms)
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "together": lambda: ours(vms, together=True),
        "one by one": lambda: ours(vms, together=False),
        "floor": lambda: floor(coming_in, calls),
    }
    took = [{name: way() for name, way in ways.items()} for _ in range(rounds)]
    seconds = {name: statistics.median(each[name][0] for each in took) for name in ways}
    ratios = {name: statistics.median(each[name][0] / each["floor"][0] for each in took) for name in ways}
    busy = {name: statistics.median(each[name][1] / each["floor"][1] for each in took) for name in ways}
    changing = sum(changes(method) for method, _, _ in calls)
    necessary = 3 * changing + 2 * vms
    return {
        "vms": vms,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "of the floor": {name: round(value, 2) for name, value in ratios.items()},
        "of the floor, processor time": {name: round(value, 2) for name, value in busy.items()},
        "calls": len(calls),
        "changing": changing,
        "beyond the necessary, for each VM": (len(calls) - necessary) / vms,
        "by method": dict(Counter(method for method, _, _ in calls).most_common()),
    }


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
