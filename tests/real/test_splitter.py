"""The splitter as clients meet it: ours, that says anything, and those that others wrote."""

import random
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbd_client import connected
from programs import program

from drsim.core.errors import PlatformError, StoreFull
from drsim.core.units import SECTOR
from drsim.real import nbd
from drsim.real.nbd import Negotiation, Offer, Phase, Refused
from drsim.real.splitter import Splitter
from drsim.real.transmission import ARENA, Write

SIZE = 1 << 20


class Memory:
    """A disk in memory that remembers its runs. `breaks`: what a write raises."""

    def __init__(self, size: int = SIZE, *, read_only: bool = False) -> None:
        self.size, self.read_only = size, read_only
        self.content, self.runs = bytearray(size), list[int]()
        self.flushes = 0
        self.breaks: PlatformError | None = None
        self.gate = threading.Event()
        self.gate.set()

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def write(self, writes: list[Write]) -> None:
        if self.breaks is not None:
            raise self.breaks
        self.runs.append(len(writes))
        for offset, data in writes:
            self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.flushes += 1

    def pass_gate(self) -> None:
        self.gate.wait(10)


class Served:
    """A splitter on a unix socket."""

    def __init__(self, directory: Path) -> None:
        self.refused: list[str] = []
        self.splitter = Splitter(self.refused.append)
        self.disk = Memory()
        self.path = directory / "nbd.sock"
        self.splitter.add("vm-1/disk0", self.disk)
        self.splitter.add("frozen", Memory(read_only=True))
        self.splitter.listen_unix(self.path)

    def uri(self, name: str = "vm-1/disk0") -> str:
        return f"nbd+unix:///{name}?socket={self.path}"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    before = threading.active_count()
    made.splitter.close()
    assert threading.active_count() <= before
    assert not made.path.exists()


# -- our own client -------------------------------------------------------------------------------------------


def test_what_is_written_is_read(served: Served) -> None:
    rng, truth = random.Random(1), bytearray(SIZE)
    with connected(served.path, "vm-1/disk0") as client:
        for _ in range(300):
            sectors = rng.choice((1, 8, 200))
            at, data = rng.randrange(SIZE // SECTOR - sectors) * SECTOR, rng.randbytes(sectors * SECTOR)
            assert client.write(at, data) == 0
            truth[at : at + len(data)] = data
        assert client.read(0, SIZE) == truth == served.disk.content


def test_requests_in_flight_are_one_run_and_keep_their_order(served: Served) -> None:
    with connected(served.path, "vm-1/disk0") as client:
        data = [bytes([n]) * SECTOR for n in range(1, 65)]
        heads = [nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, n, 0, SECTOR) for n in range(1, 65)]
        client.socket.sendall(b"".join(h + d for h, d in zip(heads, data, strict=True)))
        assert [client.reply() for _ in data] == [(n, 0) for n in range(1, 65)]
        assert client.read(0, SECTOR) == data[-1]
    assert len(served.disk.runs) < 32, "many requests a run"
    assert sum(served.disk.runs) == 64


@pytest.mark.parametrize("size", [SECTOR, 1 << 20, ARENA - SECTOR, ARENA, ARENA + SECTOR, nbd.MAX_LENGTH])
def test_a_request_of_any_size_goes_through(tmp_path: Path, size: int) -> None:
    served = Served(tmp_path)
    disk = Memory(nbd.MAX_LENGTH)
    served.splitter.add("large", disk)
    with connected(served.path, "large") as client:
        data = random.Random(size).randbytes(size)
        for _ in range(3):
            assert client.write(0, data) == 0
            assert client.write(0, data[:SECTOR]) == 0
        assert client.read(0, size) == data
    served.splitter.close()


def test_flush_and_fua_reach_the_disk(served: Served) -> None:
    with connected(served.path, "vm-1/disk0") as client:
        client.request(nbd.FLUSH, 0, 0)
        assert client.reply()[1] == 0
        assert served.disk.flushes == 1
        assert client.write(0, bytes(SECTOR), flags=nbd.FUA) == 0
        assert served.disk.flushes == 2


def test_zeros_are_written_and_a_trim_leaves_what_is_there(served: Served) -> None:
    with connected(served.path, "vm-1/disk0") as client:
        assert client.write(0, b"x" * 4 * SECTOR) == 0
        for kind, offset in ((nbd.WRITE_ZEROES, 0), (nbd.TRIM, 2 * SECTOR)):
            client.request(kind, offset, 2 * SECTOR)
            assert client.reply()[1] == 0
        assert client.read(0, 4 * SECTOR) == bytes(2 * SECTOR) + b"x" * 2 * SECTOR


@pytest.mark.parametrize(
    ("kind", "offset", "length", "error"),
    [
        (nbd.READ, 0, 100, nbd.EINVAL), (nbd.READ, SIZE, SECTOR, nbd.EINVAL), (nbd.READ, 7, SECTOR, nbd.EINVAL),
        (nbd.READ, 0, 0, nbd.EINVAL), (nbd.TRIM, SIZE, SECTOR, nbd.ENOSPC), (nbd.WRITE_ZEROES, 1, SECTOR, nbd.EINVAL),
        (nbd.CACHE, 0, SECTOR, nbd.EINVAL), (99, 0, SECTOR, nbd.EINVAL),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_gets_an_error_and_the_next_one_works(
    served: Served, kind: int, offset: int, length: int, error: int
) -> None:
    with connected(served.path, "vm-1/disk0") as client:
        client.request(kind, offset, length)
        assert client.reply()[1] == error
        assert client.write(0, b"y" * SECTOR) == 0
        assert client.read(0, SECTOR) == b"y" * SECTOR


@pytest.mark.parametrize(("offset", "size", "error"), [(SIZE, 512, nbd.ENOSPC), (8, 512, nbd.EINVAL), (0, 9, 22)])
def test_a_write_that_cannot_be_changes_nothing(served: Served, offset: int, size: int, error: int) -> None:
    with connected(served.path, "vm-1/disk0") as client:
        assert client.write(offset, b"z" * size) == error
        assert client.read(0, SIZE) == bytes(SIZE)
    assert served.disk.runs == []


def test_a_read_only_export_refuses_every_change(served: Served) -> None:
    with connected(served.path, "frozen") as client:
        assert client.write(0, bytes(SECTOR)) == nbd.EPERM
        for kind in (nbd.TRIM, nbd.WRITE_ZEROES):
            client.request(kind, 0, SECTOR)
            assert client.reply()[1] == nbd.EPERM


@pytest.mark.parametrize(("raised", "error"), [(PlatformError("io"), nbd.EIO), (StoreFull("full"), nbd.ENOSPC)])
def test_a_disk_that_fails_is_the_guests_error(served: Served, raised: PlatformError, error: int) -> None:
    served.disk.breaks = raised
    with connected(served.path, "vm-1/disk0") as client:
        assert client.write(0, bytes(SECTOR)) == error
        served.disk.breaks = None
        assert client.write(0, bytes(SECTOR)) == 0


def test_nothing_is_acknowledged_while_the_gate_is_closed(served: Served) -> None:
    served.disk.gate.clear()
    with connected(served.path, "vm-1/disk0") as client:
        client.request(nbd.WRITE, 0, SECTOR, b"h" * SECTOR)
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.reply()
        assert served.disk.content[0] == ord("h"), "it is on the disk"
        served.disk.gate.set()
        assert client.reply()[1] == 0


def test_several_clients_share_an_export(served: Served) -> None:
    def work(n: int) -> None:
        with connected(served.path, "vm-1/disk0") as client:
            for k in range(50):
                assert client.write((n * 50 + k) * SECTOR, bytes([n + 1]) * SECTOR) == 0

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served.disk.content[: 200 * SECTOR] == b"".join(bytes([n + 1]) * 50 * SECTOR for n in range(4))


def test_an_export_that_is_removed_ends_its_connections(served: Served) -> None:
    with connected(served.path, "vm-1/disk0") as client:
        assert client.write(0, bytes(SECTOR)) == 0
        assert served.splitter.users("vm-1/disk0") == 1
        served.splitter.remove("vm-1/disk0")
        with pytest.raises((EOFError, OSError)):
            client.read(0, SECTOR)
    with connected(served.path) as client:
        assert client.go("vm-1/disk0")[-1][0] == nbd.UNKNOWN


def test_a_second_server_on_the_same_socket_is_refused(served: Served) -> None:
    with pytest.raises(PlatformError, match="listens here already"):
        Splitter().listen_unix(served.path)


def test_nothing_listens_beyond_loopback_without_tls() -> None:
    with pytest.raises(PlatformError, match="loopback only"):
        Splitter().listen_tcp("0.0.0.0", 0, None)


# -- negotiation ----------------------------------------------------------------------------------------------


def test_what_is_offered(served: Served) -> None:
    with connected(served.path) as client:
        names = [data[4:].decode() for kind, data in client.option(nbd.LIST) if kind == nbd.SERVER]
        assert names == ["vm-1/disk0", "frozen"]
        assert client.go("../../etc/passwd")[-1][0] == nbd.UNKNOWN
        assert client.option(8)[-1][0] == nbd.UNSUPPORTED
        assert client.option(nbd.STARTTLS)[-1][0] == nbd.UNSUPPORTED
        assert client.option(nbd.INFO, b"\0\0\0\xffxx")[-1][0] == nbd.INVALID
        replies = client.go("frozen")
        assert struct.unpack(">HQH", replies[0][1])[1] == SIZE
        assert struct.unpack(">HQH", replies[0][1])[2] & nbd.READ_ONLY
        assert struct.unpack(">HIII", replies[1][1]) == (nbd.INFO_BLOCK_SIZE, SECTOR, 4096, nbd.MAX_LENGTH)


def negotiation(*, tls: bool = False) -> Negotiation:
    offers = {"a": Offer("a", SIZE)}
    return Negotiation(offers.get, lambda: list(offers.values()), tls=tls)


def test_without_tls_a_tls_server_tells_nothing() -> None:
    taking = negotiation(tls=True)
    taking.feed(struct.pack(">I", 3))
    said = taking.feed(struct.pack(">QII", nbd.OPTION_MAGIC, nbd.LIST, 0))
    assert struct.unpack_from(">QIII", said)[2] == nbd.TLS_REQUIRED
    with pytest.raises(Refused, match="TLS"):
        taking.feed(struct.pack(">QII", nbd.OPTION_MAGIC, nbd.EXPORT_NAME, 1) + b"a")


def test_what_follows_starttls_in_the_clear_is_never_taken() -> None:
    taking = negotiation(tls=True)
    taking.feed(struct.pack(">I", 3))
    taking.feed(struct.pack(">QII", nbd.OPTION_MAGIC, nbd.STARTTLS, 0) + b"GO")
    assert taking.phase is Phase.STARTTLS
    with pytest.raises(Refused, match="before TLS"):
        taking.secured()


OPTIONS = st.builds(
    lambda option, data, lie: struct.pack(">QII", nbd.OPTION_MAGIC, option, len(data) + lie) + data,
    st.sampled_from([*range(1, 11), 2**31]), st.binary(max_size=40), st.sampled_from([0, 0, 0, 1, 60, 1 << 20]),
)  # fmt: skip


@given(st.lists(st.one_of(OPTIONS, st.binary(max_size=30)), max_size=6), st.booleans(), st.integers(1, 50))
def test_no_client_breaks_a_negotiation(parts: list[bytes], tls: bool, cut: int) -> None:
    """Whatever comes, in whatever pieces: an answer, or `Refused`; the same for any cut."""
    data = struct.pack(">I", 3) + b"".join(parts)

    def talk(step: int) -> tuple[bytes, str, str]:
        taking, said = negotiation(tls=tls), b""
        try:
            for at in range(0, len(data), step):
                said += taking.feed(data[at : at + step])
        except Refused as error:
            return said, str(error), ""
        return said, "", taking.phase.value

    whole, pieces = talk(len(data)), talk(cut)
    assert whole[1:] == pieces[1:]
    assert pieces[0].startswith(whole[0])


@given(st.binary(min_size=1, max_size=200))
def test_no_bytes_after_the_negotiation_break_the_server(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    served = Served(tmp_path_factory.mktemp("nbd"))
    with connected(served.path, "vm-1/disk0") as client:
        client.socket.sendall(data)
    with connected(served.path, "vm-1/disk0") as client:
        assert client.write(0, b"k" * SECTOR) == 0
    served.splitter.close()


# -- clients by others ----------------------------------------------------------------------------------------


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nbdinfo_reads_what_we_offer(served: Served) -> None:
    said = run(program("nbdinfo", "libnbd-bin"), "--list", served.uri(""))
    assert 'export="vm-1/disk0"' in said
    assert 'export="frozen"' in said
    assert "block_size_minimum: 512" in said
    assert "is_read_only: true" in said


def test_nbdcopy_copies_in_and_out(served: Served, tmp_path: Path) -> None:
    nbdcopy = program("nbdcopy", "libnbd-bin")
    image = tmp_path / "in"
    image.write_bytes(random.Random(2).randbytes(SIZE))
    run(nbdcopy, str(image), served.uri())
    assert served.disk.content == image.read_bytes()
    run(nbdcopy, served.uri(), str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == image.read_bytes()


def test_qemu_converts_compares_and_checks_patterns(served: Served, tmp_path: Path) -> None:
    qemu, uri = program("qemu-img", "qemu-utils"), served.uri()
    image = tmp_path / "in.raw"
    image.write_bytes(random.Random(3).randbytes(SIZE // 2) + bytes(SIZE // 2))
    run(qemu, "convert", "-n", "-f", "raw", "-O", "raw", str(image), uri)
    run(qemu, "compare", "-f", "raw", "-F", "raw", str(image), uri)
    qemu_io = program("qemu-io", "qemu-utils")
    said = run(qemu_io, "-f", "raw", "-c", "write -P 7 4k 64k", "-c", "write -z 8k 4k", "-c", "flush",
               "-c", "discard 0 4k", "-c", "read -P 7 4k 4k", "-c", "read -P 0 8k 4k", uri)  # fmt: skip
    assert "Pattern verification failed" not in said


def test_fio_verifies_what_it_wrote(served: Served) -> None:
    run(
        program("fio", "fio"), "--name=verify", "--ioengine=nbd", f"--uri={served.uri()}", "--rw=randwrite",
        "--bs=512-8k", f"--size={SIZE}", "--iodepth=16", "--verify=crc32c", "--randseed=7", "--minimal",
        "--verify_state_save=0",
    )  # fmt: skip
    assert max(served.disk.runs) > 1
