"""vCenters that tests start: the simulator of the govmomi project behind our proxy, each one site of its own."""

import functools
import json
import os
import re
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from platforms.soap_proxy import SoapProxy, answer, fault
from programs import program

HERE = Path(__file__).parent
USER, PASSWORD = "dr@vsphere.local", "correct-horse"


@functools.cache
def simulator() -> str:
    """The program, built when it is not there. Skips without Debian's packages; fails in CI."""
    go = program("go", "golang-go")
    library = Path("/usr/share/gocode/src/github.com/vmware/govmomi/simulator")
    if not library.is_dir():
        if os.environ.get("DRSIM_REQUIRE") == "all":
            pytest.fail("the vCenter simulator's source is missing; .ci/run installs it")
        pytest.skip("needs the Debian package golang-github-vmware-govmomi-dev")
    path = f"{Path(go).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [HERE / "vcsim" / "build.sh"], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _in(text: str, tag: str) -> str:
    """What stands in the first element of this name."""
    found = re.search(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", text, re.S)
    assert found is not None, f"no {tag} in {text}"
    return found[1]


@dataclass
class VCenter:
    """One that runs. `port`: of the proxy, with TLS. `stores`: the datastores' folders.

    For changed areas: `writes` of guests (disk, offset, length); how many there were when each of `snapshots` was
    taken; the path and size of a snapshot's `devices`; the `epoch` that change ids begin with.
    """

    proxy: SoapProxy
    upstream: int
    stores: dict[str, Path]
    writes: list[tuple[str, int, int]] = field(default_factory=list)
    snapshots: dict[str, int] = field(default_factory=dict)
    devices: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    epoch: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def port(self) -> int:
        """Where its API is."""
        return self.proxy.port

    def path(self, disk: str) -> Path:
        """A file on a datastore: `[store] path`."""
        store, _, name = disk.removeprefix("[").partition("] ")
        return self.stores[store] / name

    def flat(self, disk: str) -> Path:
        """Where the content of a disk is."""
        return self.path(disk.removesuffix(".vmdk") + "-flat.vmdk")

    def host_state(self, name: str, state: str) -> None:
        """Set a host's connection state."""
        address = f"http://127.0.0.1:{self.upstream}/drsim/host?name={name}&state={state}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(address, timeout=10).close()

    def live(self, disk: str) -> Path:
        """Where the content of a disk is that its VM reads and writes: above its snapshot, if it has one."""
        delta = self.path(disk.removesuffix(".vmdk") + "-000001-delta.vmdk")
        return delta if delta.exists() else self.flat(disk)

    def write(self, disk: str, content: bytes) -> None:
        """Write a disk from its beginning, and remember for changed areas what that changes."""
        grain = 512
        with self.live(disk).open("r+b") as file:
            old = file.read(len(content))
            file.seek(0)
            file.write(content)
        for at in range(0, len(content), grain):
            if content[at : at + grain] != old[at : at + grain]:
                self.writes.append((disk, at, grain))

    # -- what the simulator lacks ------------------------------------------------------------------------------------

    def _after(self, method: str, request: bytes, got: bytes) -> bytes:
        if method == "CreateVirtualDisk_Task":
            self._make_disk(request.decode())
        elif method == "RemoveSnapshot_Task":
            self._merge(_in(request.decode(), "_this"))
        elif b'type="HostDatastoreBrowser' in request or b"VmDiskFileInfo" in got:
            got = re.sub(r'<file [^>]*VmDiskFileInfo">.*?</file>', self._with_size, got.decode(), flags=re.S).encode()
        elif b"VirtualMachineSnapshot" in got and b"FlatVer2" in got:
            got = re.sub(r"<objects>.*?</objects>", self._with_change_ids, got.decode(), flags=re.S).encode()
        return got

    def _make_disk(self, request: str) -> None:
        """The simulator makes empty files: give them the size and the descriptor that a datastore's have."""
        name, kib = _in(request, "name"), int(_in(request, "capacityKb"))
        flat, path = self.flat(name), self.path(name)
        if path.exists() and not path.stat().st_size:
            os.truncate(flat, kib * 1024)
            path.write_text(
                '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
                f'RW {kib * 2} FLAT "{flat.name}" 0\nddb.virtualHWVersion = "13"\nddb.adapterType = "lsilogic"\n'
            )

    def _with_size(self, found: re.Match[str]) -> str:
        name = _in(found[0], "path").removesuffix(".vmdk") + "-flat.vmdk"
        flat = next((path for store in self.stores.values() for path in store.glob(f"drsim/{name}")), None)
        size = f"<capacityKb>{flat.stat().st_size // 1024}</capacityKb>" if flat else ""
        return found[0].replace("</file>", f"{size}</file>")

    def _with_change_ids(self, found: re.Match[str]) -> str:
        """A snapshot's disks with what they should have: their size and a change id."""
        if '<obj type="VirtualMachineSnapshot">' not in found[0]:
            return found[0]
        name = _in(found[0], "obj")
        number = self.snapshots.setdefault(name, len(self.writes))

        def disk(device: re.Match[str]) -> str:
            path = _in(device[0], "fileName")
            size = self.flat(path).stat().st_size if self.flat(path).exists() else 0
            self.devices[name, int(_in(device[0], "key"))] = (path, size)
            if size and self.live(path) == self.flat(path):
                shutil.copyfile(self.flat(path), self.path(path.removesuffix(".vmdk") + "-000001-delta.vmdk"))
            text = re.sub("<capacityInKB>.*?<", f"<capacityInKB>{size // 1024}<", device[0])
            return text.replace("</fileName>", f"</fileName><changeId>{self.epoch}/{number}</changeId>", 1)

        return re.sub(r'<VirtualDevice [^>]*"VirtualDisk">.*?</VirtualDevice>', disk, found[0], flags=re.S)

    def _merge(self, snapshot: str) -> None:
        """A snapshot goes: what was written above it is the disk's content now."""
        for (name, _), (path, _) in self.devices.items():
            if name == snapshot and self.live(path) != self.flat(path):
                self.live(path).replace(self.flat(path))

    def _changed(self, request: bytes) -> tuple[int, bytes]:
        text = request.decode()
        said = {tag: _in(text, tag) for tag in ("changeId", "snapshot", "startOffset", "deviceKey")}
        since, snapshot = said["changeId"], said["snapshot"]
        start, key = int(said["startOffset"]), int(said["deviceKey"])
        disk, size = self.devices[snapshot, key]
        if since != "*" and since.partition("/")[0] != self.epoch:
            return fault("InvalidArgument", "changeId", "<invalidProperty>changeId</invalidProperty>")
        first = 0 if since == "*" else int(since.partition("/")[2])
        mine = [w for w in self.writes[first : self.snapshots[snapshot]] if w[0] == disk and w[1] + w[2] > start]
        areas = "".join(
            f"<changedArea><start>{a}</start><length>{n}</length></changedArea>" for _, a, n in sorted(mine)
        )
        inner = f"<startOffset>{start}</startOffset><length>{size - start}</length>{areas}"
        return answer("QueryChangedDiskAreas", f"<returnval>{inner}</returnval>")


@contextmanager
def started(*options: str, hosts: int = 2) -> Iterator[tuple[int, dict[str, Path]]]:
    """The simulator alone: its port, and its datastores' folders."""
    command = [simulator(), "-instance", str(uuid.uuid4()), "-user", USER, "-password-env", "VCSIM_PASSWORD", *options]
    environment = {**os.environ, "VCSIM_PASSWORD": PASSWORD}
    command += ["-hosts", str(hosts)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        try:
            yield said["port"], {name: Path(folder) for name, folder in said["datastores"].items()}
        finally:
            process.stdin.close()
            process.wait(timeout=30)


@contextmanager
def vcenter(certificate: Path) -> Iterator[VCenter]:
    """The simulator behind our proxy."""
    with started() as (port, stores):
        proxy = SoapProxy(certificate, port)
        found = VCenter(proxy, port, stores)
        proxy.after.append(found._after)
        proxy.instead["QueryChangedDiskAreas"] = found._changed
        try:
            yield found
        finally:
            proxy.stop()
