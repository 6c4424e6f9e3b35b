"""Coverage-guided fuzzing with atheris: NBD negotiation, NBD requests, frames between sites. See README.md here."""

import socket
import sys
import threading
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["drsim.real", "drsim.core.batch"]):
    from drsim.core.errors import PeerError, PlatformError
    from drsim.real import nbd
    from drsim.real.desk import _REQUEST
    from drsim.real.nbd import Negotiation, Offer, Refused
    from drsim.real.transmission import Transmission, Write
    from drsim.real.wire import Ask, decode, encode

from pydantic import ValidationError

SIZE = 64 << 10


class Memory:
    """A disk in memory that takes nothing but whole sectors of itself."""

    size, read_only = SIZE, False

    def __init__(self) -> None:
        self.content = bytearray(SIZE)

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= SIZE
        assert not (offset | length) % 512
        return bytes(self.content[offset : offset + length])

    def write(self, writes: list[Write]) -> None:
        for offset, data in writes:
            assert 0 <= offset <= offset + len(data) <= SIZE
            assert not (offset | len(data)) % 512
            self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        pass

    def pass_gate(self) -> None:
        pass


def negotiation(data: bytes) -> None:
    """Whatever comes in whatever pieces: an answer or a refusal."""
    taking = Negotiation({"a": Offer("a", 4096)}.get, lambda: [Offer("a", 4096)], tls=bool(data[:1] == b"t"))
    try:
        taking.feed(data[1:9])
        taking.feed(data[9:])
    except Refused:
        pass


def requests(data: bytes) -> None:
    """Whatever comes after the negotiation: answers, or the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        served = threading.Thread(target=_serve, args=(ours,))
        served.start()
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        while theirs.recv(1 << 16):
            pass
        served.join()
    if FAILED:
        raise FAILED[0]


FAILED: list[BaseException] = []


def _serve(ours: socket.socket) -> None:
    try:
        Transmission(ours, Memory()).run(b"")
    except (Refused, EOFError, OSError, PlatformError):
        pass
    except BaseException as error:
        FAILED.append(error)
    finally:
        ours.shutdown(socket.SHUT_RDWR)


def mutated_request(data: bytes, most: int, seed: int) -> bytes:
    """Keep the magic, which chance does not find."""
    changed = bytearray(atheris.Mutate(data, most))
    for at in range(0, len(changed) - 28, 28 + 512 * (seed % 2)):
        changed[at : at + 4] = nbd.REQUEST_MAGIC.to_bytes(4, "big")
        changed[at + 4 : at + 7] = bytes(3)
    return bytes(changed)


def frames(data: bytes) -> None:
    """A frame, or PeerError; what a manager is asked, or that it cannot be."""
    try:
        found = decode(data)
    except PeerError:
        return
    if isinstance(found, Ask):
        with suppress(ValidationError):
            _REQUEST.validate_json(found.text)
    assert decode(encode(found)) == found


def mutated_frame(data: bytes, most: int, seed: int) -> bytes:
    """Change the content and mend the checksums, which chance does not find."""
    import json
    import struct
    from zlib import crc32

    changed = atheris.Mutate(data[24:] or json.dumps({"kind": "Ask", "fields": {"number": 1, "text": "{}"}}).encode(),
                             max(1, most - 24))  # fmt: skip
    header = len(changed) if seed % 3 else min(len(changed), seed % (len(changed) + 1))
    fixed = struct.pack("<4sHHIII", b"DRSW", 1, seed % 17 == 0, header, len(changed) - header, crc32(changed))
    return (fixed + struct.pack("<I", crc32(fixed)) + changed)[:most]


TARGETS = {
    "negotiation": (negotiation, None), "requests": (requests, mutated_request), "frames": (frames, mutated_frame),
}  # fmt: skip


def main() -> None:
    target, mutator = TARGETS[sys.argv.pop(1)]
    more = {} if mutator is None else {"custom_mutator": mutator}
    atheris.Setup(sys.argv, target, **more)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
