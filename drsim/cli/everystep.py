"""The recovery manager killed at every step of every operation (`drsim verify --live --every-step`).

Theory of operation. An operation's progress is what its history holds (`drsim/real/history.py`), so a process that dies
before the Nth change of that history, for N = 1, 2, 3 ..., has died at every step that there is: before an intent is
written down, after it, after what was intended was done and before its outcome is known. For each N an errand is begun,
the process dies (`sabotage.py`), another one is started in its place, and then:

    the operation ends as it would have ended       P15
    no VM, disk, pin or fence is left of it         P22
    the recovered disk is a crash-consistent one of the guest, with all that was acknowledged before    P4, P8
    protection goes on: a new checkpoint is listed  P20

When the process has lived through an operation, N was beyond its last step.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsim.cli.demo import Patience, SiteProcess, write_site
from drsim.cli.sabotage import DIE_AT
from drsim.core.errors import FileError, PlatformError
from drsim.real import pki
from drsim.real.local import guest
from drsim.real.loopback import free_port
from drsim.real.state import StateFile
from drsim.verify.violation import Violation

PATIENCE = 60.0
"""Seconds within which an operation has to end, and a checkpoint to come, as the sites could use them."""
DISK = 1 << 20


@dataclass(frozen=True, slots=True)
class Errand:
    """An operation, what is decided when it waits, how it has to end, and what it leaves at the recovery site.

    `final`: the VPG is not protected any more.
    """

    wish: dict[str, Any]
    outcome: str
    verdict: str = ""
    vm: str = ""
    """The VM that it leaves."""
    disks: str = ""
    """The folder of disks that it leaves; {n}: the number of the operation."""
    final: bool = False


ERRANDS = {
    "failover test": Errand({"kind": "failover test"}, "done", "commit"),
    "clone": Errand({"kind": "clone"}, "done", vm="db-clone", disks="db-clone"),
    "restore": Errand({"kind": "restore", "volume": "db/system"}, "done", disks="crm-volume-1-{n}"),
    "failover rolled back": Errand({"kind": "failover", "shutdown": "force"}, "rolled back", "roll back"),
    "failover": Errand({"kind": "failover", "shutdown": "force", "commit": "commit"}, "committed", vm="db",
                       disks="db", final=True),
    "move": Errand({"kind": "move", "shutdown": "force", "commit": "commit"}, "committed", vm="db", disks="db",
                   final=True),
}  # fmt: skip


def every_step(
    folder: Path, *, errands: tuple[str, ...] = tuple(ERRANDS), first: int = 1, stride: int = 1,
    progress: Callable[[str, int], None] = lambda name, n: None,
) -> dict[str, int]:  # fmt: skip
    """How many steps of each errand the manager was killed at: the first, and each `stride` after it.

    Raises Violation for what may not be; the folder of that errand is then kept.
    """
    killed: dict[str, int] = {}
    for name in errands:
        killed[name], n, died = 0, first, True
        estate: _Estate | None = None
        try:
            while died:
                if estate is None:
                    estate = _Estate(folder / f"{len(killed)}-{n}")
                died = estate.run(name, ERRANDS[name], n)
                killed[name] += died
                progress(name, n)
                n += stride
                if ERRANDS[name].final:
                    estate.close()
                    estate = None
        except Violation as violation:
            raise Violation(violation.prop, f"{name}, killed at step {n}: {violation.message}") from violation
        finally:
            if estate is not None:
                estate.close(keep=True)
        shutil.rmtree(folder, ignore_errors=True)
    return killed


class _Estate:
    """Two sites and one VM that runs, protected."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        pki.init(folder / "pki", ["london", "leeds"])
        guest.image(folder / "db.disk", DISK)
        link = f"127.0.0.1:{free_port()}"
        vm = {
            "host": "london-1", "memory": "16 MiB", "ready": guest.READY,
            "disks": {"system": {"path": "db.disk", "size": f"{DISK} B"}},
        }  # fmt: skip
        tweaks = {"tweaks": {"peer_timeout": "5 s"}}
        write_site(folder, "leeds", {"link": {"peer": "london", "listen": link}, "hosts": {"leeds-1": {}}, **tweaks})
        write_site(folder, "london", {
            "link": {"peer": "leeds", "connect": link}, "hosts": {"london-1": {}}, "vms": {"db": vm}, **tweaks,
        })  # fmt: skip
        self._doom = folder / "doom"
        self._last = 0  # number of the last operation that was there before
        self.leeds = SiteProcess(folder, "leeds", module="drsim.cli.sabotage", environment={DIE_AT: str(self._doom)})
        try:
            self.london = SiteProcess(folder, "london")
        except BaseException:
            self.leeds.close()
            raise
        with self._kept_on_failure():
            self._insist(self.london, "POST", "/vms/db/power", {"on": True})
            new = {"name": "crm", "vms": ["db"], "target_host": "leeds-1", "interval": 0.5}
            self._insist(self.london, "POST", "/vpgs", new)
            self._checkpoint("begin")

    @contextmanager
    def _kept_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close(keep=True)
            raise

    def close(self, *, keep: bool = False) -> None:
        """End it."""
        self.london.close()
        self.leeds.close()
        if not keep:
            shutil.rmtree(self.folder)

    def _insist(self, site: SiteProcess, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        patience = self._patience()
        while True:
            try:
                return site.manager.ask(method, path, body)
            except (PlatformError, FileError) as error:
                if site is self.leeds and self._dead():
                    raise
                if patience.over:
                    raise Violation("P20", f"{method} {path} still says: {error}") from error
                time.sleep(0.05)

    def _patience(self) -> Patience:
        return Patience(PATIENCE, self.london, self.leeds)

    def _dead(self) -> bool:
        return self.leeds.process.poll() is not None

    def _checkpoint(self, tag: str) -> None:
        """One that is taken now, and listed."""
        patience, again = self._patience(), 0.0
        while all(row["tag"] != tag for row in self._insist(self.leeds, "GET", "/vpgs/crm/checkpoints")):
            if patience.over:
                raise Violation("P20", f"no new checkpoint: {self._insist(self.london, 'GET', '/status')}")
            if time.monotonic() > again:
                self._insist(self.london, "POST", "/vpgs/crm/checkpoints", {"tag": tag})
                again = time.monotonic() + 0.5
            time.sleep(0.05)

    # -- one errand -------------------------------------------------------------------------------------------

    def run(self, name: str, errand: Errand, step: int) -> bool:
        """Carry it out, its manager being killed at this step; whether it was."""
        tag = f"for {name} {step}"
        before = guest.rounds(self.folder / "db.disk")
        self._checkpoint(tag)
        self._doom.write_text(str(step))
        wish: dict[str, Any] = {**errand.wish, "vpg": "crm"}
        if errand.wish["kind"] != "move":
            wish["checkpoint"] = tag
        report = self._operate(wish, errand.verdict)
        died = self._dead()
        self._doom.unlink(missing_ok=True)
        if died:
            self._restart()
            report = self._operate(wish, errand.verdict, again=True)
        if report["outcome"] != errand.outcome:
            raise Violation("P15", f"it ended as {report['outcome']}: {report['reasons']} {report['people']}")
        self._nothing_else(errand, report["operation"], before)
        if not errand.final:
            if errand.disks:
                self._tidy()
            self._checkpoint(f"after {name} {step}")
        return died

    def _restart(self) -> None:
        self.leeds.kill()
        try:
            self.leeds.up()
        except PlatformError as error:
            raise Violation("P20", f"the site does not come up again: {error}") from error
        while not self._insist(self.leeds, "GET", "/status")["peer"]["connected"]:
            time.sleep(0.02)

    def _operate(self, wish: dict[str, Any], verdict: str, *, again: bool = False) -> dict[str, Any]:
        """Begin the operation, or find it, and see it through, until it is over or its manager is dead."""
        with suppress(PlatformError):
            number = self._number(wish, again=again)
            patience = self._patience()
            while True:
                found: dict[str, Any] = self.leeds.manager.ask("GET", f"/operations/{number}")
                if found["outcome"]:
                    return found
                if found["waiting"] and verdict:
                    with suppress(FileError):
                        self.leeds.manager.ask("POST", f"/operations/{number}/decision", {"verdict": verdict})
                if patience.over:
                    raise Violation("P15", f"the operation is not over: {found}")
                time.sleep(0.03)
        if not again and self._dies():
            return {"outcome": ""}
        raise Violation("P20", "the manager does not answer any more")

    def _dies(self) -> bool:
        with suppress(Exception):
            self.leeds.process.wait(10)
        return self.leeds.process.poll() == -signal.SIGKILL

    def _number(self, wish: dict[str, Any], *, again: bool) -> int:
        known = self.leeds.manager.ask("GET", "/operations")
        if again and known and known[-1]["operation"] > self._last:
            return int(known[-1]["operation"])
        self._last = known[-1]["operation"] if known else 0
        return int(self.leeds.manager.ask("POST", "/operations", {"wish": wish})["operation"])

    def _nothing_else(self, errand: Errand, number: int, before: int) -> None:
        """What the operation leaves, and nothing but that; and the disk is right."""
        vms = {vm["name"] for vm in self._insist(self.leeds, "GET", "/vms")}
        recovered = self.leeds.folder / "recovered"
        disks = {path.name for path in recovered.glob("*")}
        keeps = errand.disks.format(n=number)
        if vms != ({errand.vm} if errand.vm else set()) or disks != ({keeps} if keeps else set()):
            raise Violation("P22", f"there are VMs {sorted(vms)} and disks {sorted(disks)}")
        known = StateFile(self.leeds.folder / "state.json").state.vpgs["crm"]
        if known.pins or known.fenced != errand.final:
            raise Violation("P22", f"pins {known.pins}, fenced: {known.fenced}")
        for path in (recovered / keeps).glob("*.disk") if keeps else ():
            try:
                found = guest.rounds(path)
            except PlatformError as error:
                raise Violation("P4", str(error)) from error
            if found < before:
                raise Violation("P8", f"the disk has {found} rounds of at least {before}")

    def _tidy(self) -> None:
        """An operator throws away what was made."""
        self.leeds.kill()
        for folder in ("vms", "recovered"):
            shutil.rmtree(self.leeds.folder / folder, ignore_errors=True)
        self.leeds.up()
