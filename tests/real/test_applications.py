"""Applications as oracles: databases on ext4 on protected disks, recovered at many checkpoints while they write.

What they show that our own sectors do not: a journaling file system and a database above it, with barriers of their
own, find what they need in every checkpoint. What was committed before a checkpoint was asked for is in it.
"""

import asyncio
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar

import mounted
import pytest
from live_sites import Sites, on_sites, write_sites
from programs import program

from drsim.core.messages import Checkpoint

T = TypeVar("T")
LONDON = """
site: london
folder: london
pki: pki/london
link: {{peer: leeds, connect: "127.0.0.1:{port}"}}
hosts: {{london-1: {{}}, london-2: {{}}}}
vms:
  db: {{host: london-1, disks: {{data: {{path: db.disk, size: SIZE}}}}}}
  app: {{host: london-2, disks: {{data: {{path: app.disk, size: 24 MiB}}}}}}
tweaks: {{peer_timeout: 2 s, frame_delay: 1 ms}}
"""


@pytest.fixture(autouse=True)
def _possible() -> None:
    mounted.possible()


@contextmanager
def committing(commit: Callable[[int], None]) -> Iterator[Callable[[], int]]:
    """Commit 1, 2, 3 ... until the end; gives how many have been acknowledged."""
    count, over, failed = 0, threading.Event(), []

    def work() -> None:
        nonlocal count
        try:
            while not over.is_set():
                commit(count + 1)
                count += 1
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: count
    finally:
        over.set()
        thread.join()
    assert not failed, failed


class Protected:
    """Two sites, as a thread that works with the disks sees them: the sites' own thread is never kept waiting."""

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self._loop = asyncio.get_running_loop()

    def ask(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def disk(self, vm: str) -> AbstractContextManager[Path]:
        """A VM's disk with a new file system."""
        sites = self.sites
        return mounted.file_system(sites.london.folder / "nbd.sock", f"{vm}/data", sites.folder / "mounted" / vm)

    def protect(self, *vms: str) -> None:
        self.ask(self.sites.london.protect(self.sites.vpg("crm", *vms)))

    def checkpoints(self, count: Callable[[], int], number: int) -> list[tuple[int, Checkpoint]]:
        """So many checkpoints, each with how much had been committed when it was asked for."""
        taken: list[tuple[int, Checkpoint]] = []
        for n in range(number):
            while count() <= (taken[-1][0] if taken else 0):
                time.sleep(0.01)
            before = count()
            taken.append((before, self.ask(self.sites.checkpoint("crm", f"{n}"))))
        return taken

    @contextmanager
    def recovered(self, checkpoint: Checkpoint, vm: str) -> Iterator[Path]:
        """A VM's disk as of a checkpoint, mounted."""
        sites, into = self.sites, f"images-{checkpoint.id}"
        if not (sites.folder / into).exists():
            sites.rebuilt(checkpoint, into)
        number = sites.london.state.state.volumes[f"{vm}/data"]
        (image,) = (sites.folder / into).glob(f"*{number}*")
        with mounted.recovered(image, sites.folder / "recovered") as place:
            yield place


def on_protected(folder: Path, work: Callable[[Protected], None], seconds: float = 90) -> None:
    """Work with two sites, in a thread of its own."""

    async def check(sites: Sites) -> None:
        await asyncio.to_thread(work, Protected(sites))

    on_sites(folder, check, seconds=seconds)


def database(path: Path) -> sqlite3.Connection:
    made = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("PRAGMA synchronous=FULL")
    made.execute("CREATE TABLE IF NOT EXISTS entry (transfer INTEGER PRIMARY KEY, amount INTEGER, filler BLOB)")
    return made


@pytest.mark.slow
def test_a_bank_balances_across_two_vms_at_every_checkpoint(tmp_path: Path) -> None:
    """Money leaves an account in one VM's SQLite, committed, before it arrives in the other's, at another host."""
    write_sites(tmp_path, LONDON.replace("SIZE", "24 MiB"))

    def work(bank: Protected) -> None:
        with ExitStack() as stack:
            places = [stack.enter_context(bank.disk(vm)) for vm in ("db", "app")]
            debits, credits_ = (stack.enter_context(closing(database(place / "bank.db"))) for place in places)

            def transfer(n: int) -> None:
                debits.execute("INSERT INTO entry VALUES (?, ?, randomblob(300))", (n, -n))
                credits_.execute("INSERT INTO entry VALUES (?, ?, randomblob(300))", (n, n))

            bank.protect("db", "app")
            with committing(transfer) as count:
                taken = bank.checkpoints(count, 8)
        for before, checkpoint in taken:
            found: list[set[int]] = []
            for vm in ("db", "app"):
                with bank.recovered(checkpoint, vm) as place, closing(database(place / "bank.db")) as entries:
                    assert entries.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                    found.append({n for (n,) in entries.execute("SELECT transfer FROM entry")})
            left, arrived = found
            assert arrived >= set(range(1, before + 1)), "committed before the checkpoint was asked for"
            assert arrived <= left, "money arrived that never left"
            assert len(left - arrived) <= 1, "one transfer at a time is on its way"

    on_protected(tmp_path, work)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that others than root may enter: the server does not run as root."""
    with tempfile.TemporaryDirectory(prefix="drsim-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


class Postgres:
    """A PostgreSQL server of our own, on a unix socket, not as root."""

    def __init__(self, data: Path, sockets: Path) -> None:
        self.data, self.sockets = data, sockets
        self._bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]

    def command(self, name: str, *words: str) -> list[str]:
        return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", str(self._bin / name), *words]

    def make(self) -> None:
        self.data.mkdir(mode=0o700)
        shutil.chown(self.data, "nobody", "nogroup")
        options = ("-D", str(self.data), "-U", "me", "-A", "trust", "--wal-segsize=1", "--locale=C", "-E", "UTF8")
        mounted.run(*self.command("initdb", *options))

    @contextmanager
    def running(self) -> Iterator[None]:
        """It runs; at the end it is stopped at once, as by a loss of power, and its number is free.

        A server that finds the lock file of one that crashed asks whether there is a process with that number.
        """
        self.sockets.mkdir(exist_ok=True)
        shutil.chown(self.sockets, "nobody", "nogroup")
        settings = f"-k {self.sockets} -h '' -c max_wal_size=8MB -c min_wal_size=2MB -c shared_buffers=16MB"
        options = ("-D", str(self.data), "-o", settings, "-l", str(self.sockets / "log"))
        mounted.run(*self.command("pg_ctl", "start", "-w", "-t", "60", *options))
        number = (self.data / "postmaster.pid").read_text().split()[0]
        try:
            yield
        finally:
            mounted.run(*self.command("pg_ctl", "stop", "-m", "immediate", "-w", "-D", str(self.data)))
            while Path("/proc", number).exists():
                time.sleep(0.01)

    @contextmanager
    def session(self) -> Iterator[Callable[[str], str]]:
        """Ask for the first value that a statement gives."""
        words = self.command("psql", "-h", str(self.sockets), "-U", "me", "-d", "postgres", "-qAtX")
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as psql:
            assert psql.stdin is not None
            assert psql.stdout is not None

            def ask(statement: str) -> str:
                psql.stdin.write(statement + ";\n")
                psql.stdin.flush()
                return psql.stdout.readline().strip()

            yield ask
            psql.stdin.close()


@pytest.mark.slow
def test_postgresql_starts_from_every_checkpoint_with_all_that_was_committed(open_folder: Path) -> None:
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        program("initdb", "postgresql")
    write_sites(open_folder, LONDON.replace("SIZE", "128 MiB"))

    def work(shop: Protected) -> None:
        with ExitStack() as stack:
            server = Postgres(stack.enter_context(shop.disk("db")) / "pg", open_folder / "sockets")
            server.make()
            stack.enter_context(server.running())
            ask = stack.enter_context(server.session())
            assert ask("CREATE TABLE entry (n int PRIMARY KEY, filler text); SELECT 1") == "1"
            shop.protect("db")

            def commit(n: int) -> None:
                assert ask(f"INSERT INTO entry VALUES ({n}, repeat('x', 200)) RETURNING n") == str(n)

            with committing(commit) as count:
                taken = shop.checkpoints(count, 4)
        for before, checkpoint in taken:
            with shop.recovered(checkpoint, "db") as place:
                again = Postgres(place / "pg", open_folder / "sockets")
                with again.running(), again.session() as ask:
                    found = int(ask("SELECT count(*) FROM entry"))
                    assert int(ask("SELECT max(n) FROM entry")) == found
                    assert found >= before > 0, "committed before the checkpoint was asked for"

    on_protected(open_folder, work)
