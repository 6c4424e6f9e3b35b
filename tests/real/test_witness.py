"""An independent witness: QEMU's blklogwrites sees the same writes, and its log says what a recovered disk must be."""

import asyncio
import hashlib
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_sites import Sites, on_sites, write_sites
from nbd_client import connected
from programs import program

from drsim.core.units import SECTOR

SIZE = 1 << 20
LONDON = """
site: london
folder: london
pki: pki/london
link: {{peer: leeds, connect: "127.0.0.1:{port}"}}
hosts: {{london-1: {{}}}}
vms: {{db: {{host: london-1, disks: {{data: {{path: db.disk, size: 1 MiB}}}}}}}}
tweaks: {{peer_timeout: 2 s, frame_delay: 1 ms}}
"""
SUPER, ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
MAGIC = 0x6A736677736872


@pytest.fixture(autouse=True)
def _programs() -> None:
    program("qemu-storage-daemon", "qemu-system-common")


@contextmanager
def witness(folder: Path) -> Iterator[Path]:
    """London's disk through blklogwrites, as an NBD export without a name on this socket; the log is `folder/log`."""
    (folder / "log").touch()
    made, disk = folder / "w.sock", folder / "london" / "nbd.sock"
    daemon = subprocess.Popen([
        "qemu-storage-daemon",
        "--blockdev", f"driver=nbd,node-name=ours,server.type=unix,server.path={disk},export=db/data",
        "--blockdev", f"driver=file,node-name=log,filename={folder / 'log'}",
        "--blockdev", "driver=blklogwrites,node-name=seen,file=ours,log=log,log-sector-size=512",
        "--nbd-server", f"addr.type=unix,addr.path={made}",
        "--export", "type=nbd,id=e,node-name=seen,name=disk,writable=on",
    ])  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while not made.exists():
            assert daemon.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield made
    finally:
        daemon.terminate()
        daemon.wait(20)


def states(log: Path) -> Iterator[str]:
    """Digests of the disk after none, one, two ... of the logged writes (format of dm-log-writes)."""
    data, disk = log.read_bytes(), bytearray(SIZE)
    magic, version, entries, size = SUPER.unpack_from(data)
    assert (magic, version, size) == (MAGIC, 1, SECTOR)
    yield digest(disk)
    at = SECTOR
    for _ in range(entries):
        sector, sectors, _, _ = ENTRY.unpack_from(data, at)
        at += SECTOR
        disk[sector * SECTOR : (sector + sectors) * SECTOR] = data[at : at + sectors * SECTOR]
        at += sectors * SECTOR
        if sectors:
            yield digest(disk)


def digest(disk: bytes | bytearray) -> str:
    return hashlib.sha256(disk).hexdigest()


@pytest.mark.slow
def test_every_checkpoint_is_a_state_that_the_witness_saw(tmp_path: Path) -> None:
    write_sites(tmp_path, LONDON)
    rng = random.Random(3)

    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db"))
        await sites.checkpoint("crm", "nothing yet")

        def write(path: Path) -> None:
            with connected(path, "disk") as client:
                for n in range(1, 1200):
                    lba = rng.randrange(SIZE // SECTOR - 16)
                    sectors = rng.choice((1, 3, 8, 16))
                    assert client.write(lba * SECTOR, rng.randbytes(sectors * SECTOR)) == 0
                    if n % 50 == 0:
                        time.sleep(0.05)

        with witness(tmp_path) as path:
            await asyncio.to_thread(write, path)
        await sites.checkpoint("crm", "everything")
        seen = {state: n for n, state in enumerate(states(tmp_path / "log"))}
        assert len(seen) > 1000
        found = []
        for checkpoint in sites.leeds.listed("crm"):
            (disk,) = sites.rebuilt(checkpoint, f"images-{checkpoint.id}").values()
            found.append(seen[digest(disk)])  # KeyError: a state that never was
        assert found == sorted(found)
        assert found[0] == 0
        assert found[-1] == len(seen) - 1
        assert len(set(found)) > 4, "checkpoints between the writes"

    on_sites(tmp_path, check)
