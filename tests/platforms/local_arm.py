"""The arm `local`: QEMU on this machine. Trouble is made at what it changes for good."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from drsim.core.errors import PlatformError
from drsim.core.units import SECTOR
from drsim.real.local.hypervisor import LocalHypervisor, LocalVm
from drsim.real.local.platform import STORE, LocalPlatform
from drsim.real.ports import DiskId, Platform
from drsim.real.splitter import Splitter
from drsim.spec.live import LiveHost
from drsim.verify.conformance.bench import Arm, Bench, Label, Trouble

NO_WIRE = "there is no wire between drsim and this machine"


class _Troubled(LocalHypervisor):
    """Its changes may not come about."""

    times, skip, changed = 0, 0, 0

    def _hit(self) -> None:
        self.changed += 1
        if self.skip:
            self.skip -= 1
        elif self.times:
            self.times -= 1
            raise PlatformError("killed here", place="local")

    def _put(self, vm: LocalVm) -> None:
        self._hit()
        super()._put(vm)

    async def power_on(self, name: str) -> None:
        self._hit()
        await super().power_on(name)

    async def power_off(self, name: str) -> None:
        self._hit()
        await super().power_off(name)


class LocalBench:
    """One folder."""

    host, other_host, store, network, test_network = "host-1", "host-2", STORE, "lan", "test"
    address, mask, stride = "10.0.0.5", "255.255.255.0", 1

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connect()

    def _connect(self) -> None:
        socket = self._folder / "nbd"
        self.splitter = Splitter()
        self.splitter.listen_unix(socket)
        self.hypervisor = _Troubled(self._folder / "vms", socket)
        hosts = {name: LiveHost() for name in (self.host, self.other_host)}
        networks = (self.network, self.test_network)
        self.local = LocalPlatform(self._folder, hosts, networks, self.hypervisor, self.splitter)
        self.platform = self.local.ports()

    async def close(self) -> None:
        for vm in self.hypervisor.vms():
            await LocalHypervisor.power_off(self.hypervisor, vm)
        await self.platform.close()
        self.splitter.close()

    def trouble(self, trouble: Trouble, times: int = 1, skip: int = 0) -> None:
        self.hypervisor.times, self.hypervisor.skip = times, skip

    def changes(self) -> int:
        return self.hypervisor.changed

    async def lose_host(self, name: str) -> None:
        raise NotImplementedError

    async def move_vm(self, name: str, host: str) -> None:
        raise NotImplementedError

    async def restart(self) -> Platform:
        await self.platform.close()
        self.splitter.close()
        self._connect()
        return self.platform

    async def refused(self) -> Platform:
        raise NotImplementedError

    async def booted(self, vm: str) -> str:
        await self.platform.hypervisor.wait(vm, 60)
        while not (said := self.hypervisor.printed(vm)).endswith("\n"):
            await self.platform.hypervisor.wait(vm, 60)
        return said.strip()

    async def fill(self, disk: DiskId, content: bytes) -> None:
        with self.local.path(disk).open("r+b") as file:
            file.write(content)

    async def content(self, disk: DiskId, length: int) -> bytes:
        assert length % SECTOR == 0
        return self.local.path(disk).read_bytes()[:length]


@asynccontextmanager
async def open_local() -> AsyncIterator[Bench]:
    with TemporaryDirectory(dir="/tmp") as folder:  # sockets have short paths
        bench = LocalBench(Path(folder))
        try:
            yield bench
        finally:
            await bench.close()


LOCAL = Arm(
    "local", open_local, Label.REAL, every=12,
    cannot={
        **dict.fromkeys(
            ("login_refused", "lost_answer", "connection_broken", "throttled", "session_expired", "slow", "given_up"),
            NO_WIRE,
        ),
        **dict.fromkeys(("host_gone", "vm_moved"), "its hosts are this machine"),
        "re_ip": "a boot sector says no addresses; tests/real has a guest that does",
    },
    lacks=frozenset({"changes", "objects"}),
)  # fmt: skip
