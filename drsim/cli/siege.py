"""`drsim verify --live`: two real sites as processes, guests that write, seeded faults, and the oracle on real disks.

Theory of operation. Guests write self-describing sectors over NBD to the disks of two VMs, whose VRAs are on two hosts;
one of them writes to both in turn, each write after the other's acknowledgement, so that a point without a barrier is
seen. A round does something to the sites or to the connection between them, and then demands:

    protection returns by itself    a checkpoint that is asked for now is listed within a minute
    nothing listed is wrong         both VMs' volumes, restored as of that checkpoint and of an older one, are one
                                    crash-consistent state (`drsim judge`, L2)
    nothing acknowledged is lost    the new checkpoint has all that was acknowledged before it was asked for
    damage is seen                  what a flipped or torn journal held is refused, or right; never wrong

In the end the VPG is deleted, and nothing may be left of it; and every life's transcript is played again (P28).
Each round draws from its own seed, so that a siege can begin at any of them; what is drawn is what is done and roughly
when, the rest is up to the machine, so a failure keeps its folder.

Journals are small: they age into the mirrors all the time, and both are restored from. The disks of the source are
served by its own process or by one for each host (`processes`), in turns.
"""

import json
import random
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drsim.cli import havoc
from drsim.cli.demo import Patience, SiteProcess, write_site
from drsim.core.errors import FileError, PlatformError
from drsim.real import pki
from drsim.real.loopback import free_port
from drsim.verify.guests_live import SIZE, VMS, Guests
from drsim.verify.history import read_history
from drsim.verify.judge import judge
from drsim.verify.transcripts import replay
from drsim.verify.violation import Violation
from drsim.verify.wan import Wan

BACK = 60.0
"""Seconds within which protection has to be back, those left out in which the machine had no time for the sites."""
TWEAKS = {"peer_timeout": "5 s", "frame_delay": "2 ms"}
JOURNAL = 32 << 20
"""Bytes that a VM's journal may have: some half a minute of history, whatever the clocks say."""
FULL = 16 << 10
"""Bytes that a file may have while the disk is "full"."""


@dataclass
class Siege:
    """What came of it, so far. `rounds`, `points`: by fault; `slowest`: seconds until a new checkpoint was listed."""

    rounds: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    writes: int = 0
    transcripts: int = 0
    steps: int = 0

    def figures(self) -> dict[str, Any]:
        """As plain values; stable. Times in seconds."""
        faults = {
            name: {
                "rounds": n, "judged": self.points[name], "refused": self.refused[name],
                "slowest_s": round(self.slowest[name], 2),
            }
            for name, n in self.rounds.items()
        }  # fmt: skip
        return {
            "rounds": self.rounds.total(), "faults": faults, "writes": self.writes, "transcripts": self.transcripts,
            "steps": self.steps,
        }  # fmt: skip


def besiege(
    folder: Path, *, rounds: int, seed: int, first: int = 0, progress: Callable[[str], None] = lambda said: None
) -> Siege:
    """So many rounds from the first, in an empty folder. Raises Violation for what may not be.

    `progress` is told of each round that is over: its number, its fault and its seconds.
    """
    tally = Siege()
    with _Field(folder, seed) as field_:
        for n in range(first, first + rounds):
            progress(field_.round(n, tally))
        field_.end(tally)
    for path in sorted(folder.glob("*/transcripts/*.gz")):
        played = replay(path)
        if played.broke:
            raise Violation("P28", f"{path.name} of site {played.site}: {played.broke}")
        tally.transcripts += 1
        tally.steps += played.steps
    return tally


class _Field:
    """The two sites, the connection and the guests."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng, self._stack = folder, random.Random(seed), ExitStack()
        self._seed, self.damaged, self.processes = seed, False, False
        self._passed: dict[int, int] = {}  # checkpoints of rounds, and when they were asked for
        self.faults: dict[str, Callable[[], None]] = {
            "a process of the source killed": lambda: havoc.kill_any(self.london, self.rng),
            "a process of the target killed": lambda: havoc.kill_any(self.leeds, self.rng),
            "both killed": lambda: self._kill(self.london, self.leeds),
            "source stalls": lambda: self._stall(self.london),
            "target stalls": lambda: self._stall(self.leeds),
            "connection cut": self._cut,
            "connection black-holed": self._black_hole,
            "connection slow": self._slow,
            "journal disk full": self._full,
            "source disk slow": lambda: havoc.slow_disk(self.folder, self.london, self.rng),
            "target disk slow": lambda: havoc.slow_disk(self.folder, self.leeds, self.rng),
            "restore killed": self._killed_restore,
            "journal torn": lambda: self._damage(torn=True),
            "journal bit flipped": lambda: self._damage(torn=False),
            "source clock stepped": lambda: havoc.step_clock(self.folder, self.london, self.rng),
            "target clock stepped": lambda: havoc.step_clock(self.folder, self.leeds, self.rng),
            "disks served by others": self._served_by_others,
            "a host's process killed": lambda: self._host_process(signal.SIGKILL),
            "a host's process stalls": lambda: self._host_process(signal.SIGSTOP),
        }

    def __enter__(self) -> "_Field":
        folder, stack = self.folder, self._stack
        with stack:
            pki.init(folder / "pki", ["london", "leeds"])
            port = free_port()
            self.wan = Wan(port)
            stack.callback(self.wan.close)
            write_site(folder, "leeds", {
                "link": {"peer": "london", "listen": f"127.0.0.1:{port}"}, "hosts": {"leeds-1": {}}, "tweaks": TWEAKS,
            })  # fmt: skip
            self._write_london()
            self.leeds = self._site("leeds")
            stack.callback(self.leeds.close)
            self.london = self._site("london")
            stack.callback(self.london.close)
            self.guests = Guests(self.london.folder / "nbd.sock", self._seed)
            stack.callback(self.guests.stop)
            new = {"name": "crm", "vms": list(VMS), "target_host": "leeds-1", "interval": 0.2, "journal_bytes": JOURNAL}
            self.insist(self.london, "POST", "/vpgs", new)
            self._protected("begin", time.monotonic())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _write_london(self) -> None:
        vms = {
            vm: {"host": host, "disks": {"data": {"path": f"{vm}.disk", "size": f"{SIZE} B"}}}
            for vm, host in zip(VMS, ("london-1", "london-2"), strict=True)
        }
        write_site(self.folder, "london", {
            "link": {"peer": "leeds", "connect": f"127.0.0.1:{self.wan.port}"}, "vms": vms,
            "hosts": {"london-1": {}, "london-2": {}}, "processes": self.processes, "tweaks": TWEAKS,
        })  # fmt: skip

    def _site(self, name: str) -> SiteProcess:
        return SiteProcess(
            self.folder, name, "--armed", "--transcript", module="drsim.cli.sabotage",
            environment=havoc.prepared(self.folder, name),
        )  # fmt: skip

    def insist(self, site: SiteProcess, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask until the sites see each other again."""
        patience = self._patience()
        while True:
            try:
                return site.manager.ask(method, path, body)
            except (PlatformError, FileError) as error:
                if patience.over:
                    raise Violation("P20", f"after {BACK:g} s {method} {path} still says: {error}") from error
                time.sleep(0.05)

    def _patience(self) -> Patience:
        return Patience(BACK, self.london, self.leeds)

    # -- a round ----------------------------------------------------------------------------------------------

    def round(self, n: int, tally: Siege) -> str:
        """One fault, drawn by the seed and the number, and all that is demanded after it; what to say of it."""
        self.rng, begun = random.Random(f"{self._seed} {n}"), time.monotonic()
        name = self.rng.choice(sorted(self.faults))
        self.damaged = name.startswith("journal ") and "full" not in name
        time.sleep(self.rng.random() * 0.4)
        try:
            self._happens(name)
            asked = time.monotonic_ns()
            took = self._protected(f"round {n}", time.monotonic())
            listed = self._listed()
            new = next(checkpoint for checkpoint, tag in listed.items() if tag == f"round {n}")
            old = self.rng.choice(list(listed))
            judged = self._judge({old: None} | {new: asked})
            self._forget(new, asked)
        except Violation as violation:
            raise Violation(violation.prop, f"round {n} ({name}): {violation.message}") from violation
        tally.rounds[name] += 1
        tally.points[name] += judged
        tally.refused[name] += 1 + (old != new) - judged
        tally.slowest[name] = max(took, tally.slowest.get(name, 0.0))
        tally.writes = self.guests.count
        return f"round {n}: {name}; back in {took:.1f} s, {time.monotonic() - begun:.1f} s in all"

    def _happens(self, name: str) -> None:
        try:
            self.faults[name]()
        except PlatformError as error:
            raise Violation("P20", f"a site does not come up again: {error}") from error

    def _listed(self) -> dict[int, str]:
        """Checkpoints by number, oldest first, and their tags."""
        return {row["checkpoint"]: row["tag"] for row in self.insist(self.leeds, "GET", "/vpgs/crm/checkpoints")}

    def _protected(self, tag: str, begun: float) -> float:
        """Ask for a checkpoint until one is listed: the word may be lost with the process that had heard it."""
        patience, again = self._patience(), 0.0
        while tag not in self._listed().values():
            if patience.over:
                said = {site.name: self.insist(site, "GET", "/status") for site in (self.london, self.leeds)}
                raise Violation("P20", f"no new checkpoint after {BACK:g} s: {json.dumps(said)}")
            if time.monotonic() > again:
                self.insist(self.london, "POST", "/vpgs/crm/checkpoints", {"tag": tag})
                again = time.monotonic() + 0.3
            time.sleep(0.02)
        return time.monotonic() - begun

    def _judge(self, points: dict[int, int | None]) -> int:
        """Restore checkpoints, asked for at a time if that is known, and say whether they are right; how many are."""
        rows: list[dict[str, Any]] = [{"kind": "history", "version": 1, "run": 1}]
        folders: list[Path] = []
        for checkpoint, asked in points.items():
            images = [self._restore(vm, checkpoint) for vm in VMS]
            folders += [image.parent for image in images if image is not None]
            if None in images:
                if asked is not None and not self.damaged:
                    raise Violation("P11", f"checkpoint {checkpoint} was taken a moment ago, and is gone")
                continue
            rows.append({"kind": "checkpoint", "name": checkpoint} | ({} if asked is None else {"time": asked}))
            rows += [
                {"kind": "image", "checkpoint": checkpoint, "vm": number, "file": str(image)}
                for number, image in enumerate(images)
            ]
        path = self.folder / "history.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in [*rows, *self.guests.seen()]))
        verdicts = judge(read_history(path))
        for verdict in verdicts:
            if not verdict.ok:
                raise Violation("P4", f"checkpoint {verdict.name}: {verdict.reason}")
            if verdict.loss is not None and verdict.loss.writes:
                lost = f"{verdict.loss.writes} acknowledged writes are not in checkpoint {verdict.name}"
                raise Violation("P8", lost)
        for folder in folders:
            shutil.rmtree(folder)
        return len(verdicts)

    def _restore(self, vm: str, checkpoint: int) -> Path | None:
        wish = {"kind": "restore", "vpg": "crm", "volume": f"{vm}/data", "checkpoint": str(checkpoint)}
        said: object
        try:
            number = self.leeds.manager.ask("POST", "/operations", {"wish": wish})["operation"]
        except FileError as error:
            said = error.message
        else:
            said = report = self._over(number)
            if report["outcome"] == "done":
                (image,) = (self.leeds.folder / "recovered").glob(f"crm-volume-*-{number}/*.disk")
                return image
        if self.damaged or checkpoint not in self._listed():  # too old by now
            return None
        raise Violation("P11", f"checkpoint {checkpoint} is listed and cannot be restored: {said}")

    def _forget(self, new: int, asked: int) -> None:
        """Guests' writes that no listed checkpoint can show any more: every one of them has a later state."""
        self._passed[new] = asked
        oldest = min(self._listed())
        done = [asked for checkpoint, asked in self._passed.items() if checkpoint <= oldest]
        if done:
            self.guests.forget(done[-1])

    def _over(self, number: int) -> dict[str, Any]:
        patience = self._patience()
        while True:
            report: dict[str, Any] = self.insist(self.leeds, "GET", f"/operations/{number}")
            if report["outcome"]:
                return report
            if patience.over:
                raise Violation("P15", f"operation {number} is not over after {BACK:g} s: {report}")
            time.sleep(0.02)

    # -- faults -----------------------------------------------------------------------------------------------

    def _pause(self, longest: float) -> None:
        time.sleep(self.rng.random() * longest)

    def _kill(self, *sites: SiteProcess) -> None:
        for site in sites:
            site.kill()
            self._pause(0.2)
        self._pause(0.5)
        for site in sites:
            site.up()

    def _stall(self, site: SiteProcess) -> None:
        site.process.send_signal(signal.SIGSTOP)
        self._pause(8)
        site.process.send_signal(signal.SIGCONT)

    def _cut(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.wan.cut()
            self._pause(0.3)

    def _black_hole(self) -> None:
        self.wan.hold(on=True)
        self._pause(10)
        self.wan.hold(on=False)

    def _slow(self) -> None:
        self.wan.rate = 100e3
        self._pause(3)
        self.wan.rate = 0.0

    def _full(self) -> None:
        """No file of the recovery site may grow beyond a few KiB."""
        pid = self.leeds.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL, before[1]))
        self._pause(2)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    def _killed_restore(self) -> None:
        """The manager dies in the middle of an operation, which its next life ends."""
        wish = {"kind": "restore", "vpg": "crm", "volume": "db/data", "checkpoint": str(max(self._listed()))}
        number = self.insist(self.leeds, "POST", "/operations", {"wish": wish})["operation"]
        self._pause(0.1)
        self._kill(self.leeds)
        report = self._over(number)
        if report["outcome"] != "done":
            raise Violation("P15", f"operation {number} of a killed manager: {report}")
        for path in (self.leeds.folder / "recovered").glob(f"crm-volume-*-{number}"):
            shutil.rmtree(path)

    def _damage(self, *, torn: bool) -> None:
        """While the recovery site is down, one of its journal's files loses its end, or has a bit flipped."""
        self.leeds.kill()
        segments = sorted((self.leeds.folder / "journals").rglob("*.segment"))
        if segments:
            path = self.rng.choice(segments)
            data = bytearray(path.read_bytes())
            if torn:
                del data[max(0, len(data) - self.rng.randint(1, 600)) :]
            elif data:
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            path.write_bytes(data)
        self.leeds.up()

    def _served_by_others(self) -> None:
        """The source's disks are served by processes of their hosts, or by the site's own again."""
        self.london.kill()
        self.processes = not self.processes
        self._write_london()
        self.london.up()

    def _host_process(self, sent: signal.Signals) -> None:
        """One of them dies, or does nothing for a while: for longer than the site waits for it, or not."""
        if not self.processes:
            self._served_by_others()
        havoc.disturb_host(self.london, self.rng, sent)

    # -- the end ----------------------------------------------------------------------------------------------

    def end(self, tally: Siege) -> None:
        """Delete the VPG; nothing may be left of it."""
        self.guests.stop()
        tally.writes = self.guests.count
        self.insist(self.london, "DELETE", "/vpgs/crm")
        patience = self._patience()
        while any(self.insist(site, "GET", "/status")["vpgs"] for site in (self.london, self.leeds)):
            if patience.over:
                raise Violation("P20", f"the VPG is not deleted after {BACK:g} s")
            time.sleep(0.05)
        places = ("journals", "recovered", "catalogs")
        found = [path for place in places for path in self.leeds.folder.glob(f"{place}/**/*")]
        left = [path for path in found if path.is_file() and "damaged" not in path.parts]
        if left:
            raise Violation("P22", f"left behind: {', '.join(str(p.relative_to(self.folder)) for p in left)}")
