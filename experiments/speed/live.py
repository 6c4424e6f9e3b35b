"""How fast a real site serves a disk that it replicates, against NBD servers by others that do not replicate.

    python experiments/speed/live.py [--json] [--seconds 5] [--rounds 3]

Every server has a file on the same disk; the server is pinned to core 0, fio (its `nbd` engine) and the recovery site
to core 1. Servers take turns, and each figure is the median of the rounds: a ratio compares what ran side by side.
Needs fio, nbdkit and qemu-nbd, and a machine with two cores that does nothing else.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drsim.cli.manager import Manager
from drsim.real import pki
from drsim.real.loopback import free_port

SIZE = 256 << 20
JOBS = {
    "4k random writes, depth 32": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "4k random writes, depth 1": ["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    "1M sequential writes, depth 4": ["--rw=write", "--bs=1M", "--iodepth=4"],
}


def pinned(core: int, *words: str) -> list[str]:
    return ["taskset", "-c", str(core), *words]


@contextmanager
def server(words: list[str], socket: Path) -> Iterator[str]:
    """A server by others on a unix socket."""
    process = subprocess.Popen(pinned(0, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.01)
        time.sleep(0.2)
        yield f"nbd+unix:///?socket={socket}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        socket.unlink(missing_ok=True)


@contextmanager
def sites(folder: Path, *, replicated: bool) -> Iterator[str]:
    """Our own: a site that serves the disk, and one that has the journal."""
    port = free_port()
    pki.init(folder / "pki", ["london", "leeds"])
    vms = {"db": {"host": "london-1", "disks": {"system": {"path": "db.disk", "size": f"{SIZE} B"}}}}
    at = f"127.0.0.1:{port}"
    for name, more in (
        ("leeds", {"link": {"peer": "london", "listen": at}, "hosts": {"leeds-1": {}}}),
        ("london", {"link": {"peer": "leeds", "connect": at}, "hosts": {"london-1": {}}, "vms": vms}),
    ):
        (folder / f"{name}.yaml").write_text(json.dumps({"site": name, "folder": name, "pki": f"pki/{name}", **more}))
    words = [sys.executable, "-m", "drsim.cli.main", "site", "up"]
    processes = [
        subprocess.Popen(pinned(core, *words, str(folder / f"{name}.yaml"), "--armed"), stdout=subprocess.DEVNULL)
        for core, name in ((1, "leeds"), (0, "london"))
    ]
    try:
        while not all((folder / name / "api.sock").exists() for name in ("london", "leeds")):
            time.sleep(0.05)
        manager = Manager(folder / "london.yaml")
        while not manager.ask("GET", "/status")["peer"]["connected"]:
            time.sleep(0.05)
        if replicated:
            manager.ask("POST", "/vpgs", {"name": "crm", "vms": ["db"], "target_host": "leeds-1"})
            while manager.ask("GET", "/status")["vpgs"][0]["status"] != "MeetingSLA":
                time.sleep(0.1)
        yield f"nbd+unix:///db/system?socket={folder / 'london' / 'nbd.sock'}"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def fio(uri: str, job: list[str], seconds: float) -> dict[str, float]:
    """Writes a second, megabytes a second, and the median latency in microseconds."""
    words = pinned(1, "fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", *job, f"--size={SIZE}", "--time_based",
                   f"--runtime={seconds}", "--output-format=json")  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["write"]
    return {
        "iops": found["iops"],
        "mb_s": found["bw_bytes"] / 1e6,
        "us": found["clat_ns"]["percentile"]["50.000000"] / 1e3,
    }


@contextmanager
def served(kind: str, folder: Path) -> Iterator[str]:
    disk, socket = folder / "disk.raw", folder / "nbd.sock"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    match kind:
        case "nbdkit file":
            with server(["nbdkit", "-f", "-U", str(socket), "file", str(disk)], socket) as uri:
                yield uri
        case "qemu-nbd":
            with server(["qemu-nbd", "-f", "raw", "-t", "-e", "8", "-k", str(socket), str(disk)], socket) as uri:
                yield uri
        case _:
            with sites(folder, replicated=kind == "drsim, replicated") as uri:
                yield uri


KINDS = ("nbdkit file", "qemu-nbd", "drsim", "drsim, replicated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    found: dict[str, dict[str, list[dict[str, float]]]] = {job: {kind: [] for kind in KINDS} for job in JOBS}
    for _ in range(wanted.rounds):
        for kind in KINDS:
            folder = Path(tempfile.mkdtemp(prefix="drsim-"))
            try:
                with served(kind, folder) as uri:
                    for job, words in JOBS.items():
                        found[job][kind].append(fio(uri, words, wanted.seconds))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    table: dict[str, Any] = {
        job: {kind: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for kind, runs in kinds.items()}
        for job, kinds in found.items()
    }
    if wanted.json:
        print(json.dumps(table, indent=2))
        return
    for job, kinds in table.items():
        print(job)
        for kind, figures in kinds.items():
            ratio = figures["iops"] / kinds["nbdkit file"]["iops"]
            shown = f"{figures['iops']:9.0f} /s {figures['mb_s']:8.1f} MB/s {figures['us']:8.1f} us"
            print(f"  {kind:18} {shown}  {ratio:.2f}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
