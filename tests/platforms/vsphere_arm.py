"""The arm `vsphere`: the real adapter and pyvmomi, over TLS, against the vCenter simulator of the govmomi project.

The simulator knows inventory, tasks, sessions and events, but no content: our proxy gives new disks their descriptor
and size, and plays changed block tracking. What a recovered VM's disk holds is proved by QEMU, which boots the file
that the vCenter names.
"""

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from platforms.soap_proxy import Rule
from platforms.tls import certify
from platforms.vcenter import PASSWORD, USER, VCenter, vcenter
from pyVmomi import vim

from drsim.real.ports import DiskId, Limits, Platform
from drsim.real.vsphere import connect
from drsim.spec.platform import Secret
from drsim.spec.vsphere import Vsphere
from drsim.verify.conformance.bench import Arm, Bench, Label, Trouble
from drsim.verify.conformance.boot import boot

LIMITS = Limits(call=20.0, attempts=4, first=0.001, most=0.01)
APPLIANCE = "DC0_C0_RP0_VM0"
_DO = {
    Trouble.LOST_ANSWER: "lost", Trouble.NOT_DONE: "reset", Trouble.THROTTLED: "status", Trouble.EXPIRED: "expire",
    Trouble.SLOW: "delay",
}  # fmt: skip


@functools.cache
def certificates() -> Path:
    """A folder with ca.pem, server.pem and the passwords' files, for this process."""
    folder = Path(tempfile.mkdtemp(prefix="drsim-vsphere-"))
    certify(folder)
    for name, secret in (("password", PASSWORD), ("wrong", "wrong-secret")):
        (folder / name).touch(0o600)
        (folder / name).write_text(secret + "\n")
    return folder


def spec_of(center: VCenter, **changes: object) -> Vsphere:
    """The access to it. Its datastores are mounted here, as on an appliance with NFS."""
    spec = Vsphere(
        address="127.0.0.1", port=center.port, user=USER, password=Secret(file="password"), ca="ca.pem",
        datacenter="DC0", appliance=APPLIANCE, datastores={name: str(path) for name, path in center.stores.items()},
    )  # fmt: skip
    return spec.model_copy(update=changes)


class VsphereBench:
    """A fresh vCenter."""

    host, other_host, store, network, test_network = "DC0_C0_H0", "DC0_C0_H1", "LocalDS_0", "VM Network", "DC0_DVPG0"
    address, mask, stride = "192.0.2.7", "255.255.255.0", 2
    platform: Platform

    def __init__(self, center: VCenter) -> None:
        self.center, self.connected = center, list[Platform]()

    async def restart(self) -> Platform:
        """Another session; the old one is left as it is."""
        self.platform = await connect(spec_of(self.center), certificates(), limits=LIMITS)
        self.connected.append(self.platform)
        return self.platform

    async def refused(self) -> Platform:
        """Raises LoginRefused."""
        spec = spec_of(self.center, password=Secret(file="wrong"))
        return await connect(spec, certificates(), limits=LIMITS)

    def trouble(self, trouble: Trouble, times: int = 1, skip: int = 0) -> None:
        """At the proxy."""
        self.center.proxy.rules = [Rule("*", _DO[trouble], times, skip, seconds=0.05)]

    def changes(self) -> int:
        """As the proxy counts."""
        return self.center.proxy.changing()

    async def lose_host(self, name: str) -> None:
        """It does not respond any more, once everybody who listens has heard how things are."""
        for _ in range(40):
            if self.center.proxy.calls.count("WaitForUpdatesEx") > 1:
                break
            await asyncio.sleep(0.05)
        await asyncio.to_thread(self.center.host_state, name, "notResponding")

    async def move_vm(self, name: str, host: str) -> None:
        """vMotion, by somebody else's session."""
        here = await connect(spec_of(self.center), certificates(), limits=LIMITS)
        inventory: Any = here.inventory
        vm = await inventory.find(vim.VirtualMachine, name)
        to = vim.vm.RelocateSpec(host=await inventory.find(vim.HostSystem, host))
        await inventory.session.finished(vm.RelocateVM_Task, to)
        await here.close()

    async def booted(self, vm: str) -> str:
        """QEMU boots the file that the vCenter says is the VM's first disk."""
        found = await self.platform.inventory.vm(vm)
        return await boot(self.center.path(found.disks[0]), "vmdk")

    async def fill(self, disk: DiskId, content: bytes) -> None:
        """As the guest or the appliance writes it."""
        self.center.write(disk, content)

    async def content(self, disk: DiskId, length: int) -> bytes:
        """Of its file."""
        return self.center.live(disk).read_bytes()[:length]


@asynccontextmanager
async def open_vsphere() -> AsyncIterator[Bench]:
    """A vCenter of one cluster with two hosts, and an appliance that runs."""
    with vcenter(certificates() / "server.pem") as center:
        bench = VsphereBench(center)
        here = await bench.restart()
        await here.disks.delete(
            await here.disks.create("first", 512, bench.store, "suite"), "suite"
        )  # makes the folder
        try:
            yield bench
        finally:
            for platform in bench.connected:
                await platform.close()


_OURS = Label.FAKE
VSPHERE = Arm(
    "vsphere", open_vsphere, Label.SIMULATOR,
    labels={
        "changes.changed": _OURS, "changes.read": _OURS, "locator.locate": Label.REAL, "disks.disk": _OURS,
        "disks.owned": _OURS, "hypervisor.wait": _OURS,
    },
    every=4,
)  # fmt: skip
