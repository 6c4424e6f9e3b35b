"""What `live.py` measures: servers by others, our own sites, QEMU's mirror, each brought up and ended again."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from drsim.cli.manager import Manager
from drsim.real import pki
from drsim.real.loopback import free_port

SIZE = 256 << 20
"""Bytes of every disk."""
Durable = tuple[str, Callable[[], None], Callable[[], float]]
"""Where to write; returns when all that was written is durable at the other side; a clock."""
FIO, SERVER, REPLICATION = 2, 3, 1  # real-time priorities


class Sites:
    """Our own: a site that serves disks, and one that has the journals."""

    def __init__(self, folder: Path, processes: list[subprocess.Popen[bytes]]) -> None:
        self.folder, self._processes = folder, processes
        self.london, self.leeds = Manager(folder / "london.yaml"), Manager(folder / "leeds.yaml")
        transport = httpx.HTTPTransport(uds=str(folder / "london" / "api.sock"), verify=False)
        self._http = httpx.Client(transport=transport, base_url="http://site")

    def uri(self, vm: str) -> str:
        """A disk."""
        return f"nbd+unix:///{vm}/system?socket={self.folder / 'london' / 'nbd.sock'}"

    def wait(self, condition: Callable[[], Any]) -> None:
        """Until it holds."""
        while not condition():
            time.sleep(0.02)

    def synced(self) -> float:
        """Seconds until the other side has everything, durably."""
        began = time.monotonic()
        behind = 2
        while behind:  # what a guest was told of is heard of within a few milliseconds
            time.sleep(0.02)
            durable = not self.gauge("drsim_vra_behind_bytes")
            in_sync = durable and self.london.ask("GET", "/status")["vpgs"][0]["status"] == "MeetingSLA"
            behind = behind - 1 if in_sync else 2
        return time.monotonic() - began

    def protect(self, *vms: str, interval: float) -> None:
        """Protect VMs, and wait for the first sync."""
        self.london.ask(
            "POST", "/vpgs", {"name": "crm", "vms": list(vms), "target_host": "leeds-1", "interval": interval}
        )
        self.wait(lambda: self.london.ask("GET", "/status")["vpgs"][0]["status"] == "MeetingSLA")

    def gauge(self, name: str) -> float:
        """One of the protected site's figures."""
        text = self._http.get("/metrics").text
        for line in text.splitlines():
            if line.startswith(name):
                return float(line.rpartition(" ")[2])
        raise RuntimeError(f"there is no {name}")

    def holds(self) -> dict[str, float]:
        """Of the last checkpoints, in milliseconds."""
        return {
            "p50_ms": 1e3 * self.gauge('drsim_hold_seconds{quantile="0.5"}'),
            "p99_ms": 1e3 * self.gauge('drsim_hold_seconds{quantile="0.99"}'),
        }

    def buffered(self) -> float:
        """Bytes that wait for the link."""
        return self.gauge("drsim_vra_buffer_used_bytes")

    def hosts(self) -> list[int]:
        """The processes that serve the disks."""
        words = ["pgrep", "-P", str(self._processes[1].pid)]
        return [int(pid) for pid in subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()]

    def memory(self) -> float:
        """Bytes of the protected site's processes; what they share counts once."""
        total = 0
        for pid in (self._processes[1].pid, *self.hosts()):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]) << 10
        return total


class Rigs:
    """See the module."""

    def __init__(self, *, shield: bool, tls: bool) -> None:
        self._shield, self._tls = shield, tls

    def _at(self, priority: int, core: int | None, *words: str) -> list[str]:
        first = ["chrt", "-r", str(priority)] if self._shield else []
        return [*first, *(["taskset", "-c", str(core)] if core is not None else []), *words]

    def client(self, *words: str) -> list[str]:
        """A load generator's command."""
        return self._at(FIO, 1, *words)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="drsim-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _server(self, words: list[str], path: Path) -> Iterator[None]:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not path.exists():
                time.sleep(0.01)
            time.sleep(0.2)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            path.unlink(missing_ok=True)

    def plain(self, seconds: float) -> float:
        """A plain program that writes to the journals' disk, and syncs as often; megabytes a second."""
        program = (
            "import os,sys,threading,time\n"
            "data,fd,over=os.urandom(1<<20),os.open(sys.argv[1],os.O_RDWR|os.O_CREAT),[]\n"
            "def sync():\n"
            "  while not over: time.sleep(0.1); os.fdatasync(fd)\n"
            "thread=threading.Thread(target=sync); thread.start()\n"
            "began,n=time.monotonic(),0\n"
            "while time.monotonic()-began<float(sys.argv[2]): os.pwrite(fd,data,n<<20); n+=1\n"
            "over.append(1); thread.join(); os.fdatasync(fd)\n"
            "print(n*1.048576/(time.monotonic()-began))\n"
        )
        with self._folder() as folder:
            words = self._at(SERVER, 0, sys.executable, "-c", program, str(folder / "journal"), str(seconds))
            return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    @contextmanager
    def served(self, kind: str) -> Iterator[tuple[str, Sites | None]]:
        """A disk by one of the servers."""
        if kind.startswith("drsim"):
            with self._sites() as sites:
                if kind.endswith(", replicated"):
                    sites.protect("db", interval=5)
                yield sites.uri("db"), sites
            return
        with self._folder() as folder:
            disk, path = folder / "disk.raw", folder / "nbd.sock"
            with disk.open("wb") as file:
                file.truncate(SIZE)
            by = {
                "nbdkit file": ["nbdkit", "-f", "-U", str(path), "file", str(disk)],
                "qemu-nbd": ["qemu-nbd", "-f", "raw", "-t", "-e", "8", "-k", str(path), str(disk)],
            }
            with self._server(self._at(SERVER, 0, *by[kind]), path):
                yield f"nbd+unix:///?socket={path}", None

    # -- our own ----------------------------------------------------------------------------------------------

    @contextmanager
    def _sites(self, *, rate: str = "", vms: tuple[str, ...] = ("db",), behind: bool = True) -> Iterator[Sites]:
        with self._folder() as folder:
            at = f"127.0.0.1:{free_port()}"
            pki.init(folder / "pki", ["london", "leeds"])
            hosts = {f"london-{n}": {} for n, _ in enumerate(vms, 1)}
            machines = {
                vm: {"host": host, "disks": {"system": {"path": f"{vm}.disk", "size": f"{SIZE} B"}}}
                for vm, host in zip(vms, hosts, strict=True)
            }
            link = {"connect": at, **({"rate": rate, "compress": False} if rate else {})}
            for name, more in (
                ("leeds", {"link": {"peer": "london", "listen": at}, "hosts": {"leeds-1": {}}}),
                ("london", {"link": {"peer": "leeds", **link}, "hosts": hosts, "vms": machines, "processes": True}),
            ):
                secure = {"pki": f"pki/{name}"} if self._tls else {}
                (folder / f"{name}.yaml").write_text(json.dumps({"site": name, "folder": name, **secure, **more}))
            processes = [self._site(folder, name, behind=behind) for name in ("leeds", "london")]
            try:
                while not all((folder / name / "api.sock").exists() for name in ("london", "leeds")):
                    time.sleep(0.05)
                sites = Sites(folder, processes)
                sites.wait(lambda: sites.london.ask("GET", "/status")["peer"]["connected"])
                for pid in sites.hosts() if behind or self._shield else ():
                    self._first(pid)
                yield sites
            finally:
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.wait()

    def _site(self, folder: Path, name: str, *, behind: bool) -> "subprocess.Popen[bytes]":
        words = [sys.executable, "-m", "drsim.cli.main", "site", "up", str(folder / f"{name}.yaml"), "--armed"]
        if behind and not self._shield:
            # Who serves disks leaves that class (`_first`), and is then as nice as any other server.
            words = ["nice", "-n", "10", "chrt", "--idle", "0", *words]
        return subprocess.Popen(self._at(REPLICATION, None, *words), stdout=subprocess.DEVNULL)

    def _first(self, pid: int) -> None:
        """A process that serves disks, on its core."""
        subprocess.run(["taskset", "-a", "-p", "-c", "0", str(pid)], check=True, stdout=subprocess.DEVNULL)
        if self._shield:
            subprocess.run(["chrt", "-a", "-r", "-p", str(SERVER), str(pid)], check=True)
        else:
            subprocess.run(["chrt", "-a", "-o", "-p", "0", str(pid)], check=True)

    @contextmanager
    def replicated(self) -> Iterator[Durable]:
        """Our sites, until a checkpoint after everything is listed."""
        with self._sites() as sites:
            sites.protect("db", interval=5)
            yield sites.uri("db"), lambda: void(sites.synced()), time.monotonic

    @contextmanager
    def pair(self) -> Iterator[Sites]:
        """Two VMs on two VRAs in one VPG; the site is not behind anybody, as it is whose gates they are."""
        with self._sites(vms=("db", "app"), behind=False) as sites:
            sites.protect("db", "app", interval=0.1)
            yield sites

    @contextmanager
    def slow_link(self) -> Iterator[Sites]:
        """A link that is too slow by far."""
        with self._sites(rate="80 Mbit/s", behind=False) as sites:
            sites.protect("db", interval=5)
            yield sites

    # -- QEMU's mirror ----------------------------------------------------------------------------------------

    @contextmanager
    def mirrored(self) -> Iterator[Durable]:
        """QEMU's storage daemon serves a disk and mirrors it to a remote one over NBD."""
        with self._folder() as folder:
            for name in ("source", "target"):
                with (folder / name).open("wb") as file:
                    file.truncate(SIZE)
            port, served, qmp = free_port(), folder / "nbd.sock", folder / "qmp.sock"
            far = ["qemu-nbd", "-f", "raw", "-t", "-e", "8", "-b", "127.0.0.1", "-p", str(port),
                   "--pid-file", str(folder / "pid"), str(folder / "target")]  # fmt: skip
            near = [
                "qemu-storage-daemon", "--chardev", f"socket,path={qmp},server=on,wait=off,id=q",
                "--monitor", "chardev=q",
                "--blockdev", f"driver=file,filename={folder / 'source'},node-name=source,discard=ignore",
                "--nbd-server", f"addr.type=unix,addr.path={served}",
                "--export", "type=nbd,id=e,node-name=source,name=disk,writable=on",
            ]  # fmt: skip
            with (
                self._server(self._at(REPLICATION, None, *far), folder / "pid"),
                self._server(self._at(SERVER, 0, *near), qmp),
                Qmp(qmp) as monitor,
            ):
                server = {"type": "inet", "host": "127.0.0.1", "port": str(port)}
                monitor.ask("blockdev-add", driver="nbd", server=server, **{"node-name": "target"})
                monitor.ask("blockdev-mirror", device="source", target="target", sync="full", **{"job-id": "m"})
                monitor.mirrored()

                def durable() -> None:
                    monitor.mirrored()
                    fd = os.open(folder / "target", os.O_RDWR)
                    os.fdatasync(fd)
                    os.close(fd)

                yield f"nbd+unix:///disk?socket={served}", durable, time.monotonic


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw")
        self._lock = threading.Lock()

    def __enter__(self) -> "Qmp":
        self._file.readline()
        self.ask("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()
            self._socket.close()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have it carried out; what it answers."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            said = json.loads(self._file.readline())
            if "error" in said:
                raise RuntimeError(said["error"])
            if "return" in said:
                return said["return"]

    def mirrored(self) -> None:
        """Wait until the mirror has everything."""
        while True:
            (job,) = self.ask("query-block-jobs")
            if job["ready"] and job["offset"] == job["len"]:
                return
            time.sleep(0.01)


def void(_: object) -> None:
    """Nothing."""
