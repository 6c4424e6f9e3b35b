"""The arm `vcd`: the real adapter, against our own vCloud Director over the vCenter simulator of the govmomi project.

Two connections: one to our vCloud Director, one to the simulator through its proxy; trouble hits whichever call that
changes something comes next. Our vCloud Director reaches the same simulator past the proxy.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from platforms.fake_vcd import FakeVcd, Vapp
from platforms.vcd_calls import call
from platforms.vcd_center import Center
from platforms.vcenter import PASSWORD, USER, VCenter, vcenter
from platforms.vsphere_arm import LIMITS, VsphereBench, certificates, spec_of

from drsim.real.ports import Platform
from drsim.real.vcd import connect
from drsim.spec.platform import Secret
from drsim.spec.vcd import Vcd
from drsim.verify.conformance.bench import Arm, Label

NETWORKS = {"lan": "VM Network", "bubble": "DC0_DVPG0"}
SYSTEM, SECRET = "administrator", "battery-staple"


@functools.cache
def secrets() -> None:
    """The provider's password in a file beside the vCenter's."""
    path = certificates() / "provider"
    path.touch(0o600)
    path.write_text(SECRET + "\n")


@contextmanager
def cloud(center: VCenter) -> Iterator[FakeVcd]:
    """One over a vCenter."""
    secrets()
    inside = Center(center.upstream, USER, PASSWORD, NETWORKS)
    here = FakeVcd(certificates() / "server.pem", inside, center.proxy, call, user=SYSTEM, password=SECRET)
    try:
        yield here
    finally:
        here.stop()
        inside.close()


def spec_over(center: VCenter, here: FakeVcd, **changes: object) -> Vcd:
    """The access to both."""
    spec = Vcd(
        address="127.0.0.1", port=here.port, user=SYSTEM, password=Secret(file="provider"), ca="ca.pem", org="acme",
        server="vc-1", policies={"fast": "LocalDS_0"}, vcenter=spec_of(center), poll=100_000_000,
    )  # fmt: skip
    return spec.model_copy(update=changes)


class VcdBench(VsphereBench):
    """A fresh tenant over a fresh vCenter."""

    host, other_host, store, network, test_network = "gold", "silver", "fast", "lan", "bubble"

    def __init__(self, center: VCenter, here: FakeVcd) -> None:
        super().__init__(center)
        self.cloud = here

    async def restart(self) -> Platform:
        """Another pair of sessions; the old ones are left as they are."""
        self.platform = await connect(spec_over(self.center, self.cloud), certificates(), limits=LIMITS)
        self.connected.append(self.platform)
        return self.platform

    async def refused(self) -> Platform:
        """Raises LoginRefused."""
        spec = spec_over(self.center, self.cloud, password=Secret(file="wrong"))
        return await connect(spec, certificates(), limits=LIMITS)

    async def lose_host(self, name: str) -> None:
        """The provider switches a VDC off, once everybody who listens has heard how things are."""
        for _ in range(40):
            if any("type=adminVM&" in asked for asked in self.cloud.asked):
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        next(vdc for vdc in self.cloud.vdcs if vdc.name == name).enabled = False

    async def move_vm(self, name: str, host: str) -> None:
        """Its tenant moves it to the other VDC."""
        vm = next(vm for vm in self.cloud.vms.values() if vm.name == name)
        vm.vapp = Vapp(vm.vapp.name, next(vdc for vdc in self.cloud.vdcs if vdc.name == host))
        self.cloud.vapps[vm.vapp.id] = vm.vapp


@asynccontextmanager
async def open_vcd() -> AsyncIterator[VcdBench]:
    """A tenant with two VDCs over a vCenter of one cluster with two hosts, and an appliance that runs."""
    with vcenter(certificates() / "server.pem") as center, cloud(center) as here:
        bench = VcdBench(center, here)
        platform = await bench.restart()
        first = await platform.disks.create("first", 512, bench.store, "suite")  # makes the folder
        await platform.disks.delete(first, "suite")
        try:
            yield bench
        finally:
            for each in bench.connected:
                await each.close()


VCD = Arm(
    "vcd", open_vcd, Label.FAKE,
    labels={
        "inventory.stores": Label.SIMULATOR, "disks": Label.SIMULATOR, "disks.disk": Label.FAKE,
        "disks.owned": Label.FAKE, "locator.locate": Label.REAL, "hypervisor.attach": Label.SIMULATOR,
        "hypervisor.detach": Label.SIMULATOR, "hypervisor.shut_down": Label.SIMULATOR,
    },
    every=60,
)  # fmt: skip
