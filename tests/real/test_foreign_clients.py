"""Clients by others against the splitter, in the clear and over TLS; and clients that are to be turned away."""

import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from programs import program

from drsim.real import nbd, pki
from drsim.real.splitter import Splitter
from drsim.real.transmission import Write

SIZE = 4 << 20
NAME = "db/system"


class Memory:
    """A disk in memory."""

    read_only = False

    def __init__(self) -> None:
        self.size, self.content, self.lock = SIZE, bytearray(SIZE), threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def write(self, writes: list[Write]) -> None:
        with self.lock:
            for offset, data in writes:
                self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        pass

    def pass_gate(self) -> None:
        pass


class Tls:
    """A splitter on a TLS port of loopback, and certificates: right ones, and all kinds of wrong ones."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.refused = folder, list[str]()
        keys = folder / "pki"
        pki.init(keys, ["localhost", "client"])
        pki.init(folder / "foreign", ["client"])
        key = serialization.load_pem_private_key((keys / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        authority = x509.load_pem_x509_certificate((keys / "ca.pem").read_bytes())
        pki._site(keys / "expired", "client", key, authority, days=-1)
        right = self.credentials("right", keys / "client")
        self.wrong = {
            "none": self.credentials("none", keys / "client", shown=False),
            "expired": self.credentials("expired", keys / "expired"),
            "foreign": self.credentials("foreign", folder / "foreign" / "client", trusted=keys / "ca.pem"),
        }
        self.right = right
        self.disk = Memory()
        self.splitter = Splitter(self.refused.append)
        self.splitter.add(NAME, self.disk)
        self.port = self.splitter.listen_tcp("127.0.0.1", 0, pki.contexts(keys / "localhost")[0])

    def credentials(self, name: str, site: Path, *, shown: bool = True, trusted: Path | None = None) -> Path:
        """A folder as GnuTLS' clients want it."""
        folder = self.folder / f"tls-{name}"
        folder.mkdir()
        (folder / "ca-cert.pem").write_bytes((trusted or site / "ca.pem").read_bytes())
        if shown:
            (folder / "client-cert.pem").write_bytes((site / "site.pem").read_bytes())
            (folder / "client-key.pem").write_bytes((site / "site.key").read_bytes())
        return folder

    def uri(self, credentials: Path) -> str:
        return f"nbds://localhost:{self.port}/{NAME}?tls-certificates={credentials}"

    def qemu(self, credentials: Path) -> list[str]:
        """Options of QEMU's tools that name the disk."""
        image = f"driver=nbd,host=localhost,port={self.port},export={NAME},tls-creds=t"
        return ["--object", f"tls-creds-x509,id=t,dir={credentials},endpoint=client", "--image-opts", image]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    made = Tls(tmp_path_factory.mktemp("tls"))
    yield made
    made.splitter.close()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def done(*words: str) -> str:
    """What it printed; it has to succeed."""
    found = run(*words)
    assert found.returncode == 0, found.stderr
    return found.stdout


# -- over TLS -------------------------------------------------------------------------------------------------


def test_nbdinfo_and_nbdcopy_over_tls(tls: Tls, tmp_path: Path) -> None:
    program("nbdinfo", "libnbd-bin")
    found = json.loads(done("nbdinfo", "--json", tls.uri(tls.right)))
    assert found["TLS"]
    assert found["exports"][0]["export-size"] == SIZE
    image = tmp_path / "image"
    image.write_bytes(b"drsim" * (SIZE // 5) + bytes(SIZE % 5))
    done("nbdcopy", str(image), tls.uri(tls.right))
    assert tls.disk.content == image.read_bytes()
    done("nbdcopy", tls.uri(tls.right), str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == image.read_bytes()


def test_qemu_img_over_tls(tls: Tls, tmp_path: Path) -> None:
    program("qemu-img", "qemu-utils")
    found = json.loads(done("qemu-img", "info", "--output", "json", *tls.qemu(tls.right)))
    assert found["virtual-size"] == SIZE
    out = tmp_path / "out.raw"
    done("qemu-img", "convert", *tls.qemu(tls.right), "-O", "raw", str(out))
    assert out.read_bytes() == tls.disk.content


def test_fio_over_tls(tls: Tls) -> None:
    """It takes no certificates from its command line: libnbd finds them in the home of a user who is not root."""
    fio = program("fio", "fio")
    words = [
        fio, "--name=verify", "--ioengine=nbd", f"--uri=nbds://localhost:{tls.port}/{NAME}", "--rw=randwrite",
        "--bs=512-8k", f"--size={SIZE}", "--iodepth=16", "--verify=crc32c", "--randseed=7", "--minimal",
        "--verify_state_save=0",
    ]  # fmt: skip
    user = 65534 if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as home:
        shutil.copytree(tls.right, Path(home, ".pki", "libnbd"))
        for path in (Path(home), *Path(home).rglob("*")) if user is not None else ():
            os.chown(path, user, user)
        before, environment = bytes(tls.disk.content), {**os.environ, "HOME": home}
        found = subprocess.run(
            words, cwd=home, env=environment, user=user, group=user, extra_groups=None if user is None else [],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert tls.disk.content != before


@pytest.mark.parametrize("kind", ["none", "expired", "foreign"])
def test_a_client_with_a_wrong_certificate_is_refused_and_named(tls: Tls, kind: str) -> None:
    program("nbdinfo", "libnbd-bin")
    program("qemu-img", "qemu-utils")
    clients = [("nbdinfo", tls.uri(tls.wrong[kind])), ("qemu-img", "info", *tls.qemu(tls.wrong[kind]))]
    if kind != "none":  # QEMU looks at its own certificate first, and does not even try
        assert "certificate" in run(*clients.pop()).stderr
    for words in clients:
        tls.refused.clear()
        assert run(*words).returncode != 0
        deadline = time.monotonic() + 10
        while not tls.refused and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(tls.refused) == 1
        assert tls.refused[0].startswith("TLS: ")
    assert json.loads(done("nbdinfo", "--json", tls.uri(tls.right)))["exports"], "the right one is served on"


def test_a_client_without_tls_is_refused(tls: Tls) -> None:
    program("nbdinfo", "libnbd-bin")
    tls.refused.clear()
    assert run("nbdinfo", f"nbd://localhost:{tls.port}/{NAME}").returncode != 0
    with socket.create_connection(("127.0.0.1", tls.port)) as client:
        client.recv(18)
        client.sendall(struct.pack(">I", 3) + struct.pack(">QII", nbd.OPTION_MAGIC, nbd.EXPORT_NAME, 9) + NAME.encode())
        assert client.recv(1) == b"", "nothing of the disk is told"
    deadline = time.monotonic() + 10
    while "the client does not speak TLS" not in tls.refused and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "the client does not speak TLS" in tls.refused


def test_old_tls_is_refused(tls: Tls) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", tls.port)) as client:
        client.recv(18)
        client.sendall(struct.pack(">I", 3) + struct.pack(">QII", nbd.OPTION_MAGIC, nbd.STARTTLS, 0))
        client.recv(20)
        with pytest.raises(ssl.SSLError):
            old.wrap_socket(client)


# -- in the clear, on a unix socket -----------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[tuple[Memory, Path]]:
    splitter, disk, path = Splitter(), Memory(), tmp_path / "nbd.sock"
    splitter.add(NAME, disk)
    splitter.listen_unix(path)
    yield disk, path
    splitter.close()


LIBNBD = """
import nbd, random, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
assert h.get_size() == int(sys.argv[2]) and h.can_fua() and h.can_flush() and h.can_trim() and h.can_multi_conn()
rng, truth = random.Random(1), bytearray(h.get_size())
waiting = []
for n in range(200):
    size = 512 * rng.choice((1, 8, 100))
    at = 512 * rng.randrange((len(truth) - size) // 512)
    data = rng.randbytes(size)
    truth[at:at + size] = data
    h.pwrite(data, at, nbd.CMD_FLAG_FUA if n % 7 == 0 else 0)
h.zero(4096, 8192)
truth[8192:12288] = bytes(4096)
h.flush()
buffers = [(at, nbd.Buffer(65536)) for at in range(0, len(truth), 65536)]
cookies = [h.aio_pread(b, at) for at, b in buffers]
for cookie in cookies:
    while not h.aio_command_completed(cookie):
        h.poll(-1)
assert b"".join(bytes(b.to_bytearray()) for _, b in buffers) == truth
for wrong in (lambda: h.pread(512, len(truth)), lambda: h.pwrite(b"x" * 100, 0), lambda: h.pread(512, 7)):
    try:
        wrong()
    except nbd.Error:
        pass
    else:
        sys.exit("taken")
assert h.pread(512, 0) == truth[:512]
h.shutdown()
"""


def test_libnbds_python_in_flight_and_wrong(plain: tuple[Memory, Path]) -> None:
    program("nbdinfo", "libnbd-bin")
    if run("/usr/bin/python3", "-c", "import nbd").returncode:
        program("python3-libnbd", "python3-libnbd")
    done("/usr/bin/python3", "-c", LIBNBD, f"nbd+unix:///{NAME}?socket={plain[1]}", str(SIZE))


def test_qemu_nbd_serves_our_disk_on(plain: tuple[Memory, Path], tmp_path: Path) -> None:
    """QEMU's own server is a client of ours, and nbdcopy one of it."""
    program("qemu-nbd", "qemu-utils")
    program("nbdcopy", "libnbd-bin")
    disk, path = plain
    disk.content[:] = b"\x5a" * SIZE
    again = tmp_path / "again.sock"
    options = f"driver=nbd,server.type=unix,server.path={path},export={NAME}"
    server = subprocess.Popen(["qemu-nbd", "-t", "-k", str(again), "--image-opts", options])
    try:
        deadline = time.monotonic() + 20
        while not again.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        (tmp_path / "in").write_bytes(b"\xa5" * SIZE)
        done("nbdcopy", str(tmp_path / "in"), f"nbd+unix:///?socket={again}")
        assert disk.content == b"\xa5" * SIZE
    finally:
        server.terminate()
        server.wait(20)
