"""Writes to an NBD disk as fast as its server takes them: many requests in one system call, so that it is the limit.

    python experiments/speed/blast.py SOCKET EXPORT [--block 4096] [--depth 32] [--seconds 5] [--sequential]

fio spends as much of a core on a request as a server does, and sends one at a time. Prints JSON: writes a second and
megabytes a second. Every write has content of its own and goes somewhere else.
"""

import argparse
import json
import random
import socket
import struct
import time

import numpy as np

from drsim.real import nbd

MEMORY = 4 << 20
"""Bytes of requests that are prepared."""
_REQUEST = np.dtype([("magic", ">u4"), ("flags", ">u2"), ("type", ">u2"), ("cookie", ">u8"), ("offset", ">u8"),
                     ("length", ">u4")])  # fmt: skip
_REPLY = np.dtype([("magic", ">u4"), ("error", ">u4"), ("cookie", ">u8")])


def connect(path: str, export: str) -> tuple[socket.socket, int]:
    """A disk that is ready for requests, and its bytes."""
    disk = socket.socket(socket.AF_UNIX)
    disk.connect(path)
    replies = disk.makefile("rb", buffering=0)

    def take(form: str) -> tuple[int, ...]:
        data = b""
        while len(data) < struct.calcsize(form):
            data += replies.read(struct.calcsize(form) - len(data)) or _gone()
        return struct.unpack(form, data)

    take(">QQH")
    name = export.encode()
    go = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    flags = nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES
    disk.sendall(struct.pack(">IQII", flags, nbd.OPTION_MAGIC, nbd.GO, len(go)) + go)
    size = 0
    while True:
        _, _, kind, length = take(">QIII")
        if kind == nbd.ACK:
            return disk, size
        if kind != nbd.INFO_REPLY:
            raise SystemExit(f"the server refuses export {export!r}: {take(f'>{length}s')}")
        what, rest = take(f">H{length - 2}s")
        if what == nbd.INFO_EXPORT:
            (size, _) = struct.unpack(">QH", rest)  # type: ignore[arg-type]


def _gone() -> bytes:
    raise SystemExit("the server has closed the connection")


def blast(
    disk: socket.socket, size: int, *, block: int, depth: int, seconds: float, sequential: bool
) -> dict[str, float]:
    """Write for so long."""
    slots = max(depth, MEMORY // (_REQUEST.itemsize + block))
    form = np.dtype([("head", _REQUEST), ("data", np.void, block)])
    requests = np.frombuffer(bytearray(random.Random(7).randbytes(slots * form.itemsize)), form)
    heads = requests["head"]
    heads["magic"], heads["flags"], heads["type"], heads["length"] = nbd.REQUEST_MAGIC, 0, nbd.WRITE, block
    heads["cookie"] = np.arange(slots)
    memory, each, blocks = requests.view(np.uint8).data, form.itemsize, size // block
    rng, first = np.random.default_rng(7), 0
    heard, have = bytearray(depth * _REPLY.itemsize), 0
    replies, into = np.frombuffer(heard, _REPLY), memoryview(heard)
    at, out, done = 0, 0, 0
    began = time.monotonic()
    while out or time.monotonic() - began < seconds:
        if time.monotonic() - began < seconds:
            while n := min(depth - out, slots - at):
                if at == 0:
                    order = np.arange(first, first + slots) % blocks if sequential else rng.integers(0, blocks, slots)
                    heads["offset"] = order * block
                    first += slots
                disk.sendall(memory[at * each : (at + n) * each])
                at, out = (at + n) % slots, out + n
        have += disk.recv_into(into[have:]) or len(_gone())
        n = have // _REPLY.itemsize
        if replies["error"][:n].any():
            raise SystemExit("a write failed")
        into[: have - n * _REPLY.itemsize] = into[n * _REPLY.itemsize : have]
        have, out, done = have - n * _REPLY.itemsize, out - n, done + n
    took = time.monotonic() - began
    disk.sendall(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.DISCONNECT, 0, 0, 0))
    return {"iops": done / took, "mb_s": done * block / 1e6 / took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket")
    parser.add_argument("export")
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--sequential", action="store_true")
    wanted = parser.parse_args()
    disk, size = connect(wanted.socket, wanted.export)
    with disk:
        print(json.dumps(blast(disk, size, block=wanted.block, depth=wanted.depth, seconds=wanted.seconds,
                               sequential=wanted.sequential)))  # fmt: skip


if __name__ == "__main__":
    main()
