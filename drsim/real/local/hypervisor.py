"""LocalHypervisor: VMs of this machine, each a QEMU process that outlives the site's process.

    FOLDER/NAME/vm.json       what the VM is, written before anything of it exists
    FOLDER/NAME/qmp.sock      its control socket, there while it runs
    FOLDER/NAME/serial.log    what its guest prints
    FOLDER/NAME/pid

Each disk is an NBD export of the site's splitter. When the site is away QEMU waits and connects again; after
`RECONNECT` seconds, and on any error of a disk, it pauses the VM instead of telling its guest, and `resume` lets it try
again. So a guest never sees an error that passes; one that stays keeps the VM paused, and `stopped` says so.

Every operation looks at what is there and does what is missing, so that asking again after a crash changes nothing.
A process is taken for a VM only if it names the VM's folder, and is ended by its process id.
"""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from drsim.core.errors import PlatformError
from drsim.real.files import blame, make_directory, replace_file
from drsim.real.local import network
from drsim.spec.live import LiveNetwork

RECONNECT = 300
"""Seconds that a VM waits for its disks to be served again, before it is paused."""
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())  # what fails is raised; nobody prints it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,90}")
_ANSWER_SECONDS = 10.0
_LONGEST_SOCKET = 107  # bytes of a unix socket's path


@dataclass(frozen=True, slots=True)
class LocalVm:
    """A VM. `owner`: who made it (an operation; empty: the site's own). `disks`: names of exports, in order.

    `host`: of the site's hosts, which all are this machine.

    `nics`: network and MAC of each, with addresses for the guest's hook if it has any (fw_cfg `opt/drsim/nics`, JSON,
    and `opt/drsim/nics.conf`: `network.py`).
    """

    name: str
    owner: str
    memory: int
    cpus: int
    disks: tuple[str, ...] = ()
    nics: tuple[dict[str, Any], ...] = ()
    ready: str = ""
    host: str = ""


class LocalHypervisor:
    """The VMs under one folder. `splitter`: the socket of their disks. `accel`: tcg or kvm. `reconnect`: see above.

    `networks`: those that NICs can be on; None: any name is one that reaches nobody.
    """

    def __init__(
        self, folder: Path, splitter: Path, *, accel: str = "tcg", reconnect: int = RECONNECT,
        networks: Mapping[str, LiveNetwork] | None = None,
    ) -> None:  # fmt: skip
        self._networks = networks
        self.folder, self._splitter, self._accel, self._reconnect = folder, splitter, accel, reconnect
        self.stopped: set[str] = set()
        """VMs that an error of a disk had paused when they were last looked at."""
        self._asking: dict[str, asyncio.Lock] = {}

    # -- inventory --------------------------------------------------------------------------------------------

    def vms(self) -> dict[str, LocalVm]:
        """All VMs that exist, by name. Raises PlatformError."""
        found: dict[str, LocalVm] = {}
        for path in sorted(self.folder.glob("*/vm.json")):
            try:
                data = json.loads(path.read_text())
                data |= {"disks": tuple(data["disks"]), "nics": tuple(data["nics"])}
                found[path.parent.name] = LocalVm(**data)
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise PlatformError(f"the VM's description cannot be read: {error}", place=str(path)) from error
        return found

    def vm(self, name: str) -> LocalVm:
        """One VM. Raises PlatformError when there is none of this name."""
        found = self.vms().get(name)
        if found is None:
            raise PlatformError(f"no VM is called {name}", place=str(self.folder))
        return found

    def pid(self, name: str) -> int | None:
        """The process of a VM that runs; None when it does not."""
        try:
            pid = int((self.folder / name / "pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.folder / name).encode() in command else None

    def printed(self, name: str) -> str:
        """What a VM's guest has printed on its serial console in this life."""
        with suppress(OSError):
            return (self.folder / name / "serial.log").read_text(errors="replace")
        return ""

    # -- changes ----------------------------------------------------------------------------------------------

    def create(self, vm: LocalVm) -> None:
        """Make a VM, powered off. Raises PlatformError when the name is taken by another owner's."""
        there = self.vms().get(vm.name)
        if there is not None and there.owner != vm.owner:
            raise PlatformError(f"a VM is called {vm.name} already", place=str(self.folder / vm.name))
        self._put(vm)

    def change(self, name: str, *, disks: Sequence[str] | None = None, nics: Sequence[dict[str, Any]] | None = None,
               owner: str | None = None) -> None:  # fmt: skip
        """Change what a VM consists of, for its next power on. Raises PlatformError when there is none.

        A NIC without a MAC address gets the one that its VM's name makes.
        """
        vm = self.vm(name)
        owner = vm.owner if owner is None else owner
        if nics is not None:
            vm = replace(vm, nics=tuple({"mac": network.mac_of(name, n)} | nic for n, nic in enumerate(nics)))
        self._put(replace(vm, owner=owner, disks=vm.disks if disks is None else tuple(disks)))

    async def delete(self, name: str) -> None:
        """Power a VM off and delete it, not its disks. Nothing to do when there is none."""
        await self.power_off(name)
        if (self.folder / name).exists():
            (self.folder / name / "vm.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _put(self, vm: LocalVm) -> None:
        if not _NAME.fullmatch(vm.name):
            hint = "letters, digits, dot, dash and underscore; it begins with a letter or a digit"
            raise PlatformError(f"no VM can be called {vm.name!r}", place=str(self.folder), hint=hint)
        folder = self.folder / vm.name
        if len(os.fsencode(folder / "qmp.sock")) > _LONGEST_SOCKET:
            hint = f"unix sockets have paths of at most {_LONGEST_SOCKET} bytes; put the site into a shorter folder"
            raise PlatformError("the path is too long", place=str(folder), hint=hint)
        with blame(folder):
            make_directory(folder)
            replace_file(folder / "vm.json", json.dumps(asdict(vm), indent=1).encode())

    # -- power ------------------------------------------------------------------------------------------------

    async def power_on(self, name: str) -> None:
        """Start a VM, unless it runs. Raises PlatformError."""
        vm, folder = self.vm(name), self.folder / name
        if self.pid(name) is not None:
            return
        program = shutil.which("qemu-system-x86_64")
        if program is None:
            raise PlatformError("qemu-system-x86_64 is not installed", hint="Debian package qemu-system-x86")
        for left in ("serial.log", "qmp.sock", "pid"):
            (folder / left).unlink(missing_ok=True)
        with ExitStack() as taps:
            nics, inherited = network.options(vm.nics, self._networks, taps)
            process = await asyncio.create_subprocess_exec(
                program, *self._options(vm, folder), *nics, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, pass_fds=inherited,
            )  # fmt: skip
            _, said = await process.communicate()  # it has gone into the background, or says why not
        if process.returncode:
            words = said.decode(errors="replace").strip().splitlines()
            raise PlatformError(f"QEMU does not start: {words[-1] if words else 'no reason given'}", place=name)

    def _options(self, vm: LocalVm, folder: Path) -> list[str]:
        options = [
            "-name", f"drsim-{vm.name}", "-machine", "pc", "-accel", self._accel, "-m", f"{max(1, vm.memory >> 20)}",
            "-smp", str(vm.cpus), "-display", "none", "-nodefaults", "-serial", f"file:{folder / 'serial.log'}",
            "-qmp", f"unix:{folder / 'qmp.sock'},server=on,wait=off", "-pidfile", str(folder / "pid"), "-daemonize",
        ]  # fmt: skip
        for n, disk in enumerate(vm.disks):
            node = {"driver": "raw", "node-name": f"disk{n}", "file": {
                "driver": "nbd", "export": disk, "reconnect-delay": self._reconnect,
                "server": {"type": "unix", "path": str(self._splitter)},
            }}  # fmt: skip
            device = f"virtio-blk-pci,drive=disk{n},bootindex={n},werror=stop,rerror=stop"
            options += ["-blockdev", json.dumps(node), "-device", device]
        if vm.nics:
            (folder / "nics.json").write_text(json.dumps(vm.nics))
            (folder / "nics.conf").write_text(network.told(vm.nics))
            for name, file in (("nics", "nics.json"), ("nics.conf", "nics.conf")):
                if (folder / file).stat().st_size:
                    options += ["-fw_cfg", f"name=opt/drsim/{name},file={folder / file}"]
        return options

    async def power_off(self, name: str) -> None:
        """End a VM at once, as by pulling its plug. Nothing to do when it does not run."""
        pid = self.pid(name)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            while self.pid(name) == pid:
                await asyncio.sleep(0.005)
        for left in ("pid", "qmp.sock"):
            (self.folder / name / left).unlink(missing_ok=True)

    async def shut_down(self, name: str, timeout: float) -> bool:
        """Ask a guest to stop in good order; whether it has within `timeout` seconds. Raises PlatformError."""
        if self.pid(name) is None:
            return True
        await self._ask(name, "system_powerdown")
        deadline = asyncio.get_running_loop().time() + timeout
        while self.pid(name) is not None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        return self.pid(name) is None

    async def resume(self, name: str) -> None:
        """Let a VM that an error of a disk has paused try again. Raises PlatformError when QEMU does not answer."""
        if self.pid(name) is None or (await self._ask(name, "query-status"))["status"] != "io-error":
            self.stopped.discard(name)
            return
        self.stopped.add(name)
        await self._ask(name, "cont")

    async def wait(self, name: str, timeout: float) -> None:
        """Until a VM runs, and its guest has printed what it prints when it is ready. Raises PlatformError."""
        ready = self.vm(name).ready
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            if self.pid(name) is None:
                raise PlatformError("the VM does not run", place=name)
            if ready in self.printed(name):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise PlatformError(f"the guest has not printed {ready!r} within {timeout:g} s", place=name)
            await asyncio.sleep(0.01)

    async def _ask(self, name: str, command: str) -> Any:
        client = QMPClient(name)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), self._asking.setdefault(name, asyncio.Lock()):
                await client.connect(str(self.folder / name / "qmp.sock"))
                return await client.execute(command)
        except (QMPError, OSError, TimeoutError, AssertionError) as error:
            # qemu.qmp asserts the state of its connection, which is another one when QEMU ends in the middle of connect
            raise PlatformError(f"QEMU does not answer {command}: {error}", place=name) from error
        finally:
            with suppress(Exception):
                await client.disconnect()
