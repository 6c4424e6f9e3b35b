"""The Hyper-V arm of the conformance suite: adapter and pypsrp, against our own hosts over NTLM on loopback."""

import asyncio
import os
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from platforms.fake_hyperv import Adapter, Fabric, HypervHost, Vm
from platforms.fake_winrm import FakeWinRM, Woe

from drsim.real.hyperv import connect
from drsim.real.ports import DiskId, Limits, Platform
from drsim.spec.hyperv import HypervSite
from drsim.verify.conformance.bench import Arm, Label, Trouble
from drsim.verify.conformance.boot import boot

STORE = "C:\\ClusterStorage\\Volume1"
USER, PASSWORD = "FAKE\\drsim", "correct horse battery"
LIMITS = Limits(call=10, attempts=4, first=0.01, most=0.05)
APPLIANCE = "vra"
_WOES = {
    Trouble.LOST_ANSWER: Woe.LOST_ANSWER, Trouble.NOT_DONE: Woe.NOT_DONE, Trouble.THROTTLED: Woe.THROTTLED,
    Trouble.EXPIRED: Woe.EXPIRED, Trouble.SLOW: Woe.SLOW,
}  # fmt: skip


@contextmanager
def accounts(folder: Path) -> Iterator[None]:
    """What pyspnego's acceptor takes for a login."""
    domain, _, user = USER.partition("\\")
    (folder / "accounts").write_text(f"{domain}:{user}:{PASSWORD}\n")
    before = os.environ.get("NTLM_USER_FILE")
    os.environ["NTLM_USER_FILE"] = str(folder / "accounts")
    try:
        yield
    finally:
        if before is None:
            del os.environ["NTLM_USER_FILE"]
        else:
            os.environ["NTLM_USER_FILE"] = before


class HypervBench:
    """Two hosts that share a store, and the machine that is the appliance: a folder with its /sys and /dev."""

    platform: Platform
    host, other_host, store, network, test_network = "hv-1", "hv-2", "csv-1", "vm-lan", "bubble"
    address, mask, stride = "10.20.0.7", "255.255.255.0", 4

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None, ca: str | None = None) -> None:
        self.folder, self._ca = folder, ca
        (folder / "files").mkdir()
        self.fabric = Fabric(folder / "files")
        self.fabric.make_folder(STORE)
        self.hosts = {name: HypervHost(self.fabric, name, ["LAN", "bubble"]) for name in (self.host, self.other_host)}
        self.servers = {name: FakeWinRM(host, tls=tls) for name, host in self.hosts.items()}
        self._woe: Woe | None = None
        self._times = self._skip = self._changes = 0
        for name, server in self.servers.items():
            server.next_woe = self._next(self.hosts[name])
            self.hosts[name].changed = self._plug
        appliance = Vm(APPLIANCE, 2, 4 << 30, f"{STORE}\\machines", state=2, adapters=[Adapter("lan", "LAN")])
        self.hosts[self.host].vms.append(appliance)
        self._appliance = appliance
        self._platforms: list[Platform] = []

    def spec(self, password: str = PASSWORD, **more: Any) -> HypervSite:
        """The site as its file says it."""
        path = self.folder / f"password-{len(password)}"
        path.write_text(password + "\n")
        path.chmod(0o600)
        return HypervSite.model_validate({
            "hosts": {name: {"address": "127.0.0.1", "port": server.port} for name, server in self.servers.items()},
            "user": USER, "password": {"file": path.name}, "auth": "ntlm", "tls": self._ca is not None, "ca": self._ca,
            "stores": {self.store: STORE}, "networks": {self.network: {"switch": "LAN", "vlan": 12}},
            "appliance": APPLIANCE, "poll": "200 ms", **more,
        })  # fmt: skip

    async def connect(self, **more: Any) -> Platform:
        """Log in."""
        found = await connect(self.spec(**more), self.folder, limits=LIMITS, root=self.folder / "root")
        self._platforms.append(found)
        return found

    def stop(self) -> None:
        """End the servers."""
        for server in self.servers.values():
            server.stop()

    async def close(self) -> None:
        """End what was connected."""
        for server in self.servers.values():
            server.next_woe = lambda commands: None
        await asyncio.gather(*(platform.close() for platform in self._platforms))

    # -- trouble ----------------------------------------------------------------------------------------------

    def trouble(self, trouble: Trouble, times: int = 1, skip: int = 0) -> None:
        """For pipelines that change something."""
        self._woe, self._times, self._skip = _WOES[trouble], times, skip

    def _next(self, host: HypervHost) -> Any:
        def woe(commands: list[Any]) -> Woe | None:
            if not host.changes(commands):
                return None
            if self._woe is not None and self._skip == 0 and self._times > 0:
                self._times -= 1
                if self._woe in (Woe.LOST_ANSWER, Woe.SLOW):
                    self._changes += 1
                return self._woe
            self._skip = max(0, self._skip - 1)
            self._changes += 1
            return None

        return woe

    def changes(self) -> int:
        """Pipelines that changed something."""
        return self._changes

    async def lose_host(self, name: str) -> None:
        """It does not answer any more."""
        self.servers[name].lose()

    async def move_vm(self, name: str, host: str) -> None:
        """Live migration, as the hosts' lists show it."""
        for each in self.hosts.values():
            for vm in [vm for vm in each.vms if vm.name == name]:
                each.vms.remove(vm)
                self.hosts[host].vms.append(vm)

    async def restart(self) -> Platform:
        """The old connections are left as they are."""
        self.platform = await self.connect()
        return self.platform

    async def refused(self) -> Platform:
        """A wrong password."""
        return await self.connect(password="wrong-secret")

    # -- disks ------------------------------------------------------------------------------------------------

    def _plug(self) -> None:
        """The appliance sees what is attached to it."""
        root = self.folder / "root"
        shutil.rmtree(root, ignore_errors=True)
        (root / "dev").mkdir(parents=True)
        for drive in self._appliance.drives:
            name = f"sd{drive.controller}-{drive.location}"
            controller = self._appliance.scsi[drive.controller].lower()
            device = root / "sys" / "bus" / "vmbus" / "devices" / controller / "host0" / "target0:0:0"
            (device / f"0:0:0:{drive.location}" / "block" / name).mkdir(parents=True)
            (root / "dev" / name).symlink_to(self.fabric.vhdx(drive.path).raw)

    async def booted(self, vm: str) -> str:
        """What QEMU prints that boots a VM's first disk."""
        found = next(each for host in self.hosts.values() for each in host.vms if each.name == vm)
        drives = sorted(found.drives, key=lambda d: (d.kind != "IDE", d.controller, d.location))
        return await boot(self.fabric.top(drives[0].path).raw)

    async def fill(self, disk: DiskId, content: bytes) -> None:
        """Through the fabric, which so knows what has changed."""
        self.fabric.write(disk, content)

    async def content(self, disk: DiskId, length: int) -> bytes:
        """What is on the disk now."""
        with self.fabric.top(disk).raw.open("rb") as file:
            return file.read(length)


@asynccontextmanager
async def bench() -> AsyncIterator[HypervBench]:
    """A fresh one."""
    folder = Path(tempfile.mkdtemp(prefix="drsim-hyperv-"))
    with accounts(folder):
        found = HypervBench(folder)
        try:
            found.platform = await found.connect()
            yield found
        finally:
            await found.close()
            found.stop()
            shutil.rmtree(folder, ignore_errors=True)


ARM = Arm("hyperv", bench, Label.FAKE, every=40)
