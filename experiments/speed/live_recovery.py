"""How fast real VMs are recovered: a failover of ten tiny ones, and the instant recovery of one.

    python experiments/speed/live_recovery.py [--json] [--rounds 3] [--vms 10]

Two sites, each a process, on this machine; QEMU under TCG; guests of a boot sector that answer when they have written.
The source is lost before each failover (its VMs are killed), so nothing is waited for there. RTO is from the moment
the operation is asked for until the last VM answers. The yardstick is QEMU itself: the same VMs, started all at once by
hand on files of their own, until they answer.
"""

import argparse
import json
import os
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
from drsim.real.local import guest
from drsim.real.loopback import free_port

MIB = 1 << 20


@contextmanager
def sites(folder: Path, vms: list[str]) -> Iterator[tuple[Manager, Manager]]:
    """London with VMs that run and are protected, and Leeds."""
    port = free_port()
    pki.init(folder / "pki", ["london", "leeds"])
    mine: dict[str, Any] = {}
    for vm in vms:
        guest.image(folder / f"{vm}.disk", MIB)
        disks = {"system": {"path": f"{vm}.disk", "size": "1 MiB"}}
        mine[vm] = {"host": "london-1", "memory": "16 MiB", "ready": guest.READY, "disks": disks}
    at = f"127.0.0.1:{port}"
    for name, more in (
        ("leeds", {"link": {"peer": "london", "listen": at}, "hosts": {"leeds-1": {"cpus": 64}}}),
        ("london", {"link": {"peer": "leeds", "connect": at}, "hosts": {"london-1": {}}, "vms": mine}),
    ):
        (folder / f"{name}.yaml").write_text(json.dumps({"site": name, "folder": name, "pki": f"pki/{name}", **more}))
    words = [sys.executable, "-m", "drsim.cli.main", "site", "up"]
    processes = [
        subprocess.Popen([*words, str(folder / f"{name}.yaml"), "--armed"], stdout=subprocess.DEVNULL)
        for name in ("leeds", "london")
    ]
    managers = [Manager(folder / f"{name}.yaml") for name in ("london", "leeds")]
    try:
        while not all((folder / name / "api.sock").exists() for name in ("london", "leeds")):
            time.sleep(0.05)
        while not managers[0].ask("GET", "/status")["peer"]["connected"]:
            time.sleep(0.05)
        for vm in vms:
            managers[0].ask("POST", f"/vms/{vm}/power", {"on": True})
        managers[0].ask("POST", "/vpgs", {"name": "crm", "vms": vms, "target_host": "leeds-1", "interval": 1.0})
        while managers[1].ask("GET", "/status")["vpgs"] == [] or not checkpoints(managers[1]):
            time.sleep(0.1)
        yield managers[0], managers[1]
    finally:
        for manager in managers:
            for vm in manager.ask("GET", "/vms"):
                if vm["pid"] is not None:
                    os.kill(vm["pid"], signal.SIGKILL)
        for process in processes:
            process.terminate()
            process.wait()


def checkpoints(manager: Manager) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = manager.ask("GET", "/vpgs/crm/checkpoints")
    return found


def lost(london: Manager) -> None:
    """The VMs of the source are gone; what a rehearsal leaves running would compete for the machine."""
    for vm in london.ask("GET", "/vms"):
        if vm["pid"] is not None:
            os.kill(vm["pid"], signal.SIGKILL)


def operation(leeds: Manager, **wish: Any) -> dict[str, float]:
    """RTO and its parts; the operation is ended again."""
    number = leeds.ask("POST", "/operations", {"wish": {"vpg": "crm", **wish}})["operation"]
    while not (found := leeds.ask("GET", f"/operations/{number}"))["waiting"]:
        if found["outcome"]:
            raise SystemExit(f"the operation has {found['outcome']}: {found['reasons']}")
        time.sleep(0.01)
    steps = [step for step in found["steps"] if step["ended"] is not None]
    begun = min(step["begun"] for step in steps)
    done = {"rto_s": max(step["ended"] for step in steps) - begun}
    for word in ("create", "make disks", "power on", "wait"):
        mine = [step for step in steps if step["what"].startswith(word)]
        done[f"{word}_s"] = max(step["ended"] for step in mine) - min(step["begun"] for step in mine)
    leeds.ask("POST", f"/operations/{number}/decision", {"verdict": "roll back", "note": "measured"})
    while not leeds.ask("GET", f"/operations/{number}")["outcome"]:
        time.sleep(0.02)
    return done


def yardstick(folder: Path, count: int) -> float:
    """Seconds until so many VMs answer that QEMU runs on files, with nothing of ours."""
    begun, started = time.monotonic(), []
    for n in range(count):
        disk, serial = folder / f"bare-{n}.disk", folder / f"bare-{n}.log"
        disk.unlink(missing_ok=True)
        serial.unlink(missing_ok=True)
        guest.image(disk, MIB)
        words = ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "16", "-display", "none", "-nodefaults",
                 "-serial", f"file:{serial}", "-drive", f"file={disk},format=raw,if=virtio"]  # fmt: skip
        started.append((subprocess.Popen(words, stderr=subprocess.DEVNULL), serial))
    while not all(serial.exists() and guest.READY in serial.read_text() for _, serial in started):
        time.sleep(0.005)
    took = time.monotonic() - begun
    for process, _ in started:
        process.kill()
        process.wait()
    return took


def measure(rounds: int, vms: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="drsim-") as text:
        folder = Path(text)
        names = [f"vm-{n}" for n in range(vms)]
        found: dict[str, list[Any]] = {"failover": [], "instant": [], "bare": [], "bare one": []}
        with sites(folder, names) as (london, leeds):
            lost(london)
            for _ in range(rounds):
                found["failover"].append(operation(leeds, kind="failover", commit="none"))
                found["bare"].append(yardstick(folder, vms))
                found["instant"].append(operation(leeds, kind="failover", commit="none", instant=True, vms=[names[0]]))
                found["bare one"].append(yardstick(folder, 1))
    middle = {
        name: {key: statistics.median(each[key] for each in found[name]) for key in found[name][0]}
        for name in ("failover", "instant")
    }
    bare = {name: statistics.median(found[name]) for name in ("bare", "bare one")}
    return {
        "vms": vms, "failover": middle["failover"], "instant": middle["instant"],
        "qemu_alone_s": bare["bare"], "qemu_alone_one_s": bare["bare one"],
        "failover_over_qemu": middle["failover"]["rto_s"] / bare["bare"],
        "instant_over_qemu": middle["instant"]["rto_s"] / bare["bare one"],
        "required": {"failover_s": 5.0, "instant_s": 1.0}, "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vms", type=int, default=10)
    words = parser.parse_args()
    found = measure(words.rounds, words.vms)
    if words.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"failover of {found['vms']} VMs: {found['failover']['rto_s']:.2f} s, QEMU alone {found['qemu_alone_s']:.2f} s"
    )
    print(f"instant recovery of one: {found['instant']['rto_s']:.2f} s, QEMU alone {found['qemu_alone_one_s']:.2f} s")


if __name__ == "__main__":
    main()
