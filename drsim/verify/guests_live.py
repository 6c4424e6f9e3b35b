"""Guests of a siege: writers of self-describing sectors on real disks, over NBD, and what they did."""

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from drsim.core.units import SECTOR
from drsim.real import nbd
from drsim.verify.sectors import Stamp, stamp_write

VMS = ("db", "app")
SIZE = 1 << 20
"""Bytes of each VM's disk."""
PACE = 0.004
"""Seconds that a guest rests after each write."""


class Guests:
    """Writers on the protected disks; what they did, for the judge."""

    def __init__(self, disks: Path, seed: int) -> None:
        self._disks, self._over, self._lock = disks, threading.Event(), threading.Lock()
        self.rows: list[dict[str, Any]] = []
        self._ids = Counter[str]()
        turns = (("db",), ("app",), ("db", "app"))
        self._threads = [
            threading.Thread(target=self._write, args=(vms, random.Random(f"{seed} {vms}")), daemon=True)
            for vms in turns
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, vms: tuple[str, ...], rng: random.Random) -> None:
        """To these VMs' disks in turn; a connection that breaks is made again, as a hypervisor would."""
        while not self._over.is_set():
            with suppress(OSError), ExitStack() as stack:
                clients = [stack.enter_context(connected(self._disks, f"{vm}/data")) for vm in vms]
                while not self._over.is_set():
                    for vm, client in zip(vms, clients, strict=True):
                        self._one(vm, client, rng)
                        time.sleep(PACE)
            time.sleep(0.02)

    def _one(self, vm: str, client: socket.socket, rng: random.Random) -> None:
        sectors = rng.choice((1, 1, 3, 8, 17))
        lba = rng.randrange(SIZE // SECTOR - sectors)
        with self._lock:
            self._ids[vm] += 1
            n = self._ids[vm]
            issue, number = time.monotonic_ns(), VMS.index(vm)
            row = {"kind": "write", "vm": number, "id": n, "lba": lba, "sectors": sectors, "issue": issue}
            self.rows.append(row)
        stamp = Stamp(run=1, vm=number, disk=0, write=n, lba=lba, sectors=sectors, issue=issue)
        data = stamp_write(stamp)
        client.sendall(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, n, lba * SECTOR, len(data)) + data)
        magic, error, _ = nbd.SIMPLE_REPLY.unpack(_exactly(client, nbd.SIMPLE_REPLY.size))
        if magic != nbd.SIMPLE_REPLY_MAGIC or error:
            raise OSError("the disk refuses")
        row["ack"] = time.monotonic_ns()

    def seen(self) -> list[dict[str, Any]]:
        """What they have done until now."""
        with self._lock:
            return [dict(row) for row in self.rows]

    def forget(self, before: int) -> None:
        """Writes that no disk can show as of then, or later: others in their place were issued after they were done.

        `before`: an instant as those of `rows`; what was acknowledged by then is in every state that still counts.
        """
        with self._lock:
            latest = np.zeros((len(VMS), SIZE // SECTOR), np.int64)  # issue of what is surely there
            for row in self.rows:
                if row.get("ack", before) < before:
                    place = latest[row["vm"], row["lba"] : row["lba"] + row["sectors"]]
                    np.maximum(place, row["issue"], out=place)
            self.rows = [
                row for row in self.rows
                if (latest[row["vm"], row["lba"] : row["lba"] + row["sectors"]] <= row.get("ack", before)).any()
            ]  # fmt: skip

    @property
    def count(self) -> int:
        """How many writes there were."""
        return self._ids.total()

    def stop(self) -> None:
        """They write no more."""
        self._over.set()
        for thread in self._threads:
            thread.join(40)


@contextmanager
def connected(disks: Path, export: str) -> Iterator[socket.socket]:
    """A client of one export of a site, ready for requests."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(disks))
        _exactly(client, 18)
        name = export.encode()
        client.sendall(struct.pack(">I", nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES))
        client.sendall(struct.pack(">QII", nbd.OPTION_MAGIC, nbd.EXPORT_NAME, len(name)) + name)
        _exactly(client, 10)
        yield client


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        if not part:
            raise OSError("the disk is gone")
        data += part
    return data
