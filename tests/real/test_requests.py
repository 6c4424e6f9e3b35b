"""Requests of NBD clients, right and wrong, in any pieces: answered as a plain model of a disk would, or the end."""

import socket
import threading
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from drsim.core.units import SECTOR
from drsim.real import nbd
from drsim.real.nbd import Refused
from drsim.real.transmission import Transmission, Write

SIZE = 32 * SECTOR


class Memory:
    size, read_only = SIZE, False

    def __init__(self) -> None:
        self.content = bytearray(SIZE)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def write(self, writes: list[Write]) -> None:
        for offset, data in writes:
            self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        pass

    def pass_gate(self) -> None:
        pass


@dataclass(frozen=True)
class Request:
    kind: int
    offset: int
    length: int
    flags: int
    fill: int

    def packed(self, cookie: int) -> bytes:
        head = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, self.flags, self.kind, cookie, self.offset, self.length)
        return head + (bytes([self.fill]) * self.length if self.kind == nbd.WRITE else b"")


NUMBERS = st.sampled_from([0, SECTOR, 2 * SECTOR, 5 * SECTOR, 7, 100, SIZE - SECTOR, SIZE, SIZE + SECTOR])
REQUESTS = st.builds(
    Request, st.sampled_from([0, 1, 1, 1, 3, 4, 5, 6, 7, 99]), NUMBERS | st.just(2**64 - SECTOR),
    NUMBERS, st.sampled_from([0, 0, nbd.FUA]), st.integers(1, 255),
)  # fmt: skip


Replies = dict[int, tuple[int, bytes]]
"""Error and data, by cookie: replies may come in any order."""


def expected(requests: list[Request]) -> tuple[Replies, bytes]:
    """All replies, and what the disk holds in the end."""
    disk, said = bytearray(SIZE), Replies()
    for n, r in enumerate(requests):
        whole = not (r.offset | r.length) % SECTOR
        fits = whole and r.length > 0 and r.offset + r.length <= SIZE
        error, data = 0, b""
        span = slice(r.offset, r.offset + r.length)
        match r.kind:
            case nbd.READ if fits:
                data = bytes(disk[span])
            case nbd.WRITE | nbd.WRITE_ZEROES if fits:
                disk[span] = bytes([r.fill if r.kind == nbd.WRITE else 0]) * r.length
            case nbd.TRIM if fits:
                pass
            case nbd.FLUSH:
                pass
            case nbd.WRITE | nbd.WRITE_ZEROES | nbd.TRIM:
                error = nbd.ENOSPC if whole and r.offset + r.length > SIZE else nbd.EINVAL
            case _:
                error = nbd.EINVAL
        said[n] = error, data
    return said, bytes(disk)


def heard(data: bytes, requests: list[Request]) -> Replies:
    """What the server said, taken apart."""
    found, at = Replies(), 0
    while at < len(data):
        magic, error, cookie = nbd.SIMPLE_REPLY.unpack_from(data, at)
        n, at = int.from_bytes(cookie, "big"), at + nbd.SIMPLE_REPLY.size
        size = requests[n].length if requests[n].kind == nbd.READ and not error else 0
        assert magic == nbd.SIMPLE_REPLY_MAGIC
        assert n not in found, "answered once"
        found[n] = error, data[at : at + size]
        at += size
    return found


def talk(data: bytes, step: int) -> tuple[bytes, bytes, str]:
    """What is answered to these bytes in pieces, what the disk then holds, and why the connection ended."""
    ours, theirs = socket.socketpair()
    disk, why = Memory(), [""]

    def serve() -> None:
        try:
            Transmission(ours, disk).run(b"")
        except (Refused, EOFError) as error:
            why[0] = str(error)
        finally:
            ours.shutdown(socket.SHUT_RDWR)

    with ours, theirs:
        served = threading.Thread(target=serve)
        served.start()
        said = b""
        try:
            for at in range(0, len(data), step):
                theirs.sendall(data[at : at + step])
            theirs.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has hung up
        while part := theirs.recv(1 << 16):
            said += part
        served.join()
    return said, bytes(disk.content), why[0]


@given(st.lists(REQUESTS, max_size=12), st.integers(1, 3000))
@settings(max_examples=80)
def test_every_request_is_answered_as_a_disk_would_in_any_pieces(requests: list[Request], step: int) -> None:
    data = b"".join(r.packed(n) for n, r in enumerate(requests))
    said, disk, why = talk(data, step)
    assert (heard(said, requests), disk, why) == (*expected(requests), "")


@given(st.lists(REQUESTS, max_size=4), st.binary(min_size=28, max_size=60), st.integers(1, 100))
@settings(max_examples=40)
def test_what_is_no_request_ends_the_connection_after_what_came_before(
    requests: list[Request], noise: bytes, step: int
) -> None:
    noise = b"\0" + noise[1:]
    data = b"".join(r.packed(n) for n, r in enumerate(requests))
    said, disk, why = talk(data + noise, step)
    wanted, held = expected(requests)
    answered = heard(said, requests)
    assert answered.items() <= wanted.items()
    assert why == "what came is no request"
    assert disk == held or len(answered) < len(wanted), "what was answered is on the disk"
