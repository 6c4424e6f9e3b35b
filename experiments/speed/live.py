"""How fast a real site serves disks that it replicates, against programs by others on the same work.

    python experiments/speed/live.py [--json] [--seconds 5] [--rounds 3] [--only NAME ...] [--shield]

Every server has a file on the same disk. Whoever serves the disk is pinned to core 0, who writes to it to core 1; what
replicates behind it (the site's process, the recovery site, QEMU's target) may use both and comes after them: it runs
when a core is idle. fio (its `nbd` engine) writes, and at depth 32 also `blast.py`, which sends many requests at once,
so that the server is the limit. All take turns, and each figure is the median of the rounds: a ratio compares what ran
side by side. Needs fio, nbdkit, qemu-nbd and qemu-storage-daemon, and a machine with two cores.

--shield is for a machine that others use as well, and needs root: everything measured has a real-time priority, the
same for all servers, then fio, then what replicates.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).parent))

from live_rigs import SIZE, Rigs

JOBS = {
    "4k random, depth 32": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "4k random, depth 1": ["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    "1M sequential, depth 4": ["--rw=write", "--bs=1M", "--iodepth=4"],
}
BLAST = "4k random, depth 32, many at once"
KINDS = ("nbdkit file", "qemu-nbd", "drsim, not replicated", "drsim, replicated")
WORK = 256 << 20
"""Bytes of random 4-KiB writes that are to be durable at the other side."""
Found = dict[str, dict[str, list[dict[str, float]]]]


def fio(rigs: Rigs, uri: str, job: list[str], *limits: str) -> dict[str, float]:
    """Writes a second, megabytes a second, and latencies in microseconds."""
    words = rigs.client("fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", *job, f"--size={SIZE}", *limits,
                        "--output-format=json")  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]["write"]
    share = found["clat_ns"]["percentile"]
    return {
        "iops": found["iops"], "mb_s": found["bw_bytes"] / 1e6,
        "us": share["50.000000"] / 1e3, "p99_us": share["99.000000"] / 1e3,
    }  # fmt: skip


def blast(rigs: Rigs, uri: str, seconds: float) -> dict[str, float]:
    """Writes a second and megabytes a second."""
    disk = urlsplit(uri)
    (path,) = parse_qs(disk.query)["socket"]
    program = str(Path(__file__).with_name("blast.py"))
    words = rigs.client(sys.executable, program, path, disk.path[1:], "--seconds", str(seconds))
    found: dict[str, float] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return found


def guests(rigs: Rigs, found: Found, seconds: float) -> None:
    """What guests get."""
    limits = "--time_based", f"--runtime={seconds}"
    for kind in KINDS:
        with rigs.served(kind) as (uri, sites):
            for job in (BLAST, *JOBS):
                row = blast(rigs, uri, seconds) if job == BLAST else fio(rigs, uri, JOBS[job], *limits)
                if sites is not None and kind == "drsim, replicated":
                    row["seconds_to_sync"] = sites.synced()
                found.setdefault(job, {}).setdefault(kind, []).append(row)
    plain = {"mb_s": rigs.plain(seconds)}
    found["1M sequential, depth 4"].setdefault("a plain program, fdatasync every 100 ms", []).append(plain)


def end_to_end(rigs: Rigs, found: Found, _: float) -> None:
    """The same writes, until all of them are durable at the other side."""
    job = JOBS["4k random, depth 32"]
    rows = found.setdefault("end to end, 4k random, depth 32", {})
    for kind, rig in (("drsim", rigs.replicated), ("qemu blockdev-mirror", rigs.mirrored)):
        with rig() as (uri, durable, clock):
            began = clock()
            guest = fio(rigs, uri, job, f"--io_size={WORK}", "--norandommap=0")
            durable()
            took = clock() - began
        rows.setdefault(kind, []).append({"mb_s": WORK / 1e6 / took, "seconds": took, "guest_mb_s": guest["mb_s"]})


def holds(rigs: Rigs, found: Found, seconds: float) -> None:
    """How long the guests of two VRAs wait for a checkpoint, while both write; ten checkpoints a second."""
    with rigs.pair() as sites:
        limits = "--time_based", f"--runtime={seconds}"
        job = ["--rw=randwrite", "--bs=4k", "--iodepth=4", "--rate_iops=5000"]
        words = [rigs.client("fio", "--name=job", "--ioengine=nbd", f"--uri={sites.uri(vm)}", *job,
                             f"--size={SIZE}", *limits, "--output-format=json") for vm in ("db", "app")]  # fmt: skip
        running = [subprocess.Popen(each, stdout=subprocess.DEVNULL) for each in words]
        for each in running:
            each.wait()
        found.setdefault("checkpoint hold", {}).setdefault("two VRAs", []).append(sites.holds())


def memory(rigs: Rigs, found: Found, seconds: float) -> None:
    """Memory of a VRA and its site's manager while its buffer of 128 MiB fills up: the link is too slow."""
    with rigs.slow_link() as sites:
        words = rigs.client("fio", "--name=job", "--ioengine=nbd", f"--uri={sites.uri('db')}",
                            *JOBS["4k random, depth 32"], f"--size={SIZE}", "--rate_iops=8000", "--time_based",
                            f"--runtime={max(seconds, 8)}")  # fmt: skip
        running = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        most, full = 0.0, 0.0
        while running.poll() is None:
            most, full = max(most, sites.memory()), max(full, sites.buffered())
            time.sleep(0.05)
        found.setdefault("memory", {}).setdefault("a VRA", []).append({"mb": most / 1e6, "buffer_mb": full / 1e6})


PARTS = {"guests": guests, "end-to-end": end_to_end, "holds": holds, "memory": memory}


def ratios(table: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """What has to be reached, and what was."""
    made: dict[str, dict[str, float]] = {}

    def put(name: str, value: float, wanted: float) -> None:
        made[name] = {"measured": round(value, 3), "wanted": wanted}

    if (deep := table.get("4k random, depth 32")) is not None:
        one = table["4k random, depth 1"]
        for who, rows in (("", table[BLAST]), (" (fio)", deep)):
            ours = rows["drsim, replicated"]["iops"]
            put(f"4k depth 32, replicated / nbdkit file{who}", ours / rows["nbdkit file"]["iops"], 1.0)
            put(f"4k depth 32, replicated / qemu-nbd{who}", ours / rows["qemu-nbd"]["iops"], 1.0)
        put("added latency at depth 1, median us", one["drsim, replicated"]["us"] - one["nbdkit file"]["us"], 40)
        row = table["1M sequential, depth 4"]
        slower = min(row["nbdkit file"]["mb_s"], row["a plain program, fdatasync every 100 ms"]["mb_s"])
        put("1M sequential, replicated / the slower of nbdkit file and a plain program",
            row["drsim, replicated"]["mb_s"] / slower, 0.6)  # fmt: skip
    if (row := table.get("end to end, 4k random, depth 32")) is not None:
        put("end to end / qemu blockdev-mirror", row["drsim"]["mb_s"] / row["qemu blockdev-mirror"]["mb_s"], 1.0)
    if (row := table.get("checkpoint hold")) is not None:
        put("checkpoint hold, p99 ms", row["two VRAs"]["p99_ms"], 2)
    if (row := table.get("memory")) is not None:
        put("memory of a VRA at a 128-MB buffer, MB", row["a VRA"]["mb"], 300)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--shield", action="store_true")
    parser.add_argument("--tls", action="store_true", help="between our sites; QEMU's mirror has none")
    wanted = parser.parse_args()
    rigs = Rigs(shield=wanted.shield, tls=wanted.tls)
    found: Found = {}
    for _ in range(wanted.rounds):
        for part in wanted.only:
            PARTS[part](rigs, found, wanted.seconds)
    table: dict[str, Any] = {
        job: {kind: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for kind, runs in kinds.items()}
        for job, kinds in found.items()
    }
    if wanted.json:
        print(json.dumps({"figures": table, "must_reach": ratios(table), "runs": found}, indent=2))
        return
    for job, kinds in table.items():
        print(job)
        for kind, figures in kinds.items():
            print(f"  {kind:40} " + "  ".join(f"{value:,.1f} {name}" for name, value in figures.items()))
    for name, row in ratios(table).items():
        print(f"{row['measured']:10.2f}  wanted {row['wanted']:g}  {name}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
