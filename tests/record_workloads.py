"""Record the workloads that `models/workloads` ships: python tests/record_workloads.py pgbench|files FOLDER [SECONDS]

The disk is a protected one of a live site, with ext4 on it; its writes are recorded by `drsim live record`.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "real"))

from live_sites import write_sites
from test_applications import LONDON, Postgres, Protected, on_protected

Begin = Callable[[], None]


def pgbench(place: Path, folder: Path, seconds: int, stack: ExitStack, begin: Begin) -> None:
    """PostgreSQL under the mix of pgbench: 2 clients, 100 transactions per s, 30 MB of tables, checkpoints at 30 s."""
    server = Postgres(place / "pg", folder / "sockets")
    server.make()
    stack.enter_context(server.running())
    with server.session() as ask:
        ask("ALTER SYSTEM SET checkpoint_timeout = '30s'; SELECT pg_reload_conf()")
    options = ("-h", str(server.sockets), "-U", "me", "postgres")
    subprocess.run(server.command("pgbench", "-i", "-q", "-s", "2", *options), check=True)
    begin()
    subprocess.run(server.command("pgbench", "-c", "2", "-R", "100", "-T", str(seconds), *options), check=True)


def files(place: Path, folder: Path, seconds: int, stack: ExitStack, begin: Begin) -> None:
    """A developer's disk: files of 1 to 256 KB are made, changed and deleted in bursts, some of them synced."""
    begin()
    rng, end = random.Random(1), time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(int(rng.expovariate(1 / 20)) + 1):
            path = place / f"d{rng.randrange(20)}" / f"{rng.randrange(40)}"
            path.parent.mkdir(exist_ok=True)
            if path.exists() and rng.random() < 0.3:
                path.unlink()
                continue
            with path.open("ab" if rng.random() < 0.2 else "wb") as file:
                file.write(rng.randbytes(int(1024 * 2 ** rng.uniform(0, 8))))
                if rng.random() < 0.2:
                    file.flush()
                    subprocess.run(["sync", "-d", path], check=True)
        time.sleep(rng.expovariate(2))


def main() -> None:
    """Record one of them."""
    workload = {"pgbench": pgbench, "files": files}[sys.argv[1]]
    out, seconds = Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 120
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_sites(folder, LONDON.replace("SIZE", "256 MiB"))

        def work(shop: Protected) -> None:
            def begin() -> None:
                shop.sites.london.record("db", on=True)

            with ExitStack() as stack:
                place = stack.enter_context(shop.disk("db"))
                shop.protect("db")
                workload(place, folder, seconds, stack, begin)
                path, writes = shop.sites.london.record("db", on=False)
                print(f"{writes} writes")
                shutil.copy(path, out / f"{sys.argv[1]}.csv")

        on_protected(folder, work, seconds + 90)


if __name__ == "__main__":
    main()
