"""What a site shows to strangers, what it keeps to itself, and what it says of disks that it cannot use.

One pair of sites runs once, with a VPG, a restore, transcripts and an API on TCP; secrets are planted in it; then it is
looked at from outside.
"""

import json
import re
import resource
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from programs import program

from drsim.cli.demo import SiteProcess, write_site
from drsim.core.errors import FileError, PlatformError
from drsim.core.units import SECTOR
from drsim.files.sites import load_site
from drsim.real import nbd, pki
from drsim.real.loopback import free_port
from drsim.verify.guests_live import connected

PLANTED = b"the guest's own secret: correct horse battery staple"


@dataclass
class Sites:
    folder: Path
    london: SiteProcess
    leeds: SiteProcess
    link: int

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def insist(self, site: SiteProcess, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        deadline = time.monotonic() + 60
        while True:
            try:
                return site.manager.ask(method, path, body)
            except (PlatformError, FileError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    folder = tmp_path_factory.mktemp("security")
    pki.init(folder / "pki", ["london", "leeds", "paris"])
    pki.init(folder / "foreign", ["london"])
    key = serialization.load_pem_private_key((folder / "pki" / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    pki._site(
        folder / "expired", "london", key, x509.load_pem_x509_certificate((folder / "pki/ca.pem").read_bytes()), days=-1
    )
    link = free_port()
    write_site(folder, "leeds", {
        "link": {"peer": "london", "listen": f"127.0.0.1:{link}"}, "hosts": {"leeds-1": {}},
        "api": {"listen": f"127.0.0.1:{free_port()}"},
    })  # fmt: skip
    write_site(folder, "london", {
        "link": {"peer": "leeds", "connect": f"127.0.0.1:{link}"}, "hosts": {"london-1": {}},
        "vms": {"db": {"host": "london-1", "disks": {"data": {"path": "db.disk", "size": "1 MiB"}}}},
    })  # fmt: skip
    leeds = SiteProcess(folder, "leeds", "--armed", "--transcript")
    london = SiteProcess(folder, "london", "--armed", "--transcript")
    made = Sites(folder, london, leeds, link)
    try:
        _use(made)
        yield made
    finally:
        london.close()
        leeds.close()


def _use(sites: Sites) -> None:
    """A VPG, a secret in a guest's data, a restore of it."""
    sites.insist(sites.london, "POST", "/vpgs", {"name": "crm", "vms": ["db"], "target_host": "leeds-1"})
    data = PLANTED.ljust(SECTOR, b".")
    with connected(sites.london.folder / "nbd.sock", "db/data") as client:
        client.sendall(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, 1, 0, SECTOR) + data)
        client.recv(16)
    while not any(row["tag"] == "now" for row in sites.insist(sites.leeds, "GET", "/vpgs/crm/checkpoints")):
        sites.insist(sites.london, "POST", "/vpgs/crm/checkpoints", {"tag": "now"})
        time.sleep(0.3)
    wish = {"kind": "restore", "vpg": "crm", "volume": "db/data", "checkpoint": "now"}
    number = sites.insist(sites.leeds, "POST", "/operations", {"wish": wish})["operation"]
    while not sites.insist(sites.leeds, "GET", f"/operations/{number}")["outcome"]:
        time.sleep(0.05)


# -- who listens ----------------------------------------------------------------------------------------------


def listening(pid: int) -> set[str]:
    """Where a process listens on TCP, as hexadecimal host:port."""
    mine = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in mine:
                found.add(words[1])
    return found


def test_nobody_listens_beyond_loopback_unasked(sites: Sites) -> None:
    assert listening(sites.london.process.pid) == set(), "it connects, and its API is on a unix socket"
    found = listening(sites.leeds.process.pid)
    assert len(found) == 2
    assert all(place.startswith("0100007F:") for place in found), "127.0.0.1, as its file says"
    for name in ("api.sock", "nbd.sock"):
        mode = (sites.leeds.folder / name).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert not mode & 0o077, "for its user only"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pki": None, "link": {"peer": "leeds", "listen": "0.0.0.0:7400"}}, "with certificates only"),
        ({"pki": None, "api": {"listen": "127.0.0.1:7443"}}, "with a certificate only"),
    ],
)
def test_a_listener_without_tls_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    content = {"link": {"peer": "leeds", "listen": "127.0.0.1:7400"}, "hosts": {"london-1": {}}, **change}
    content = {"site": "london", **{key: value for key, value in content.items() if value is not None}}
    (tmp_path / "london.yaml").write_text(json.dumps(content))
    with pytest.raises(FileError, match=said):
        load_site(tmp_path / "london.yaml")


# -- wrong certificates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        (None, "PEER_DID_NOT_RETURN_A_CERTIFICATE"), ("foreign/london", "CERTIFICATE_VERIFY_FAILED"),
        ("expired", "CERTIFICATE_VERIFY_FAILED"), ("pki/paris", "the certificate is of drsim:paris"),
    ],
)  # fmt: skip
def test_a_peer_with_a_wrong_certificate_is_refused_and_logged(sites: Sites, folder: str | None, why: str) -> None:
    before = len(sites.log("leeds"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if folder is not None:
        context.load_cert_chain(sites.folder / folder / "site.pem", sites.folder / folder / "site.key")
    with socket.create_connection(("127.0.0.1", sites.link)) as raw:
        raw.settimeout(10)
        try:
            with context.wrap_socket(raw) as client:
                assert client.recv(1) == b"", "it is told nothing"
        except (ssl.SSLError, ConnectionError):
            pass
    deadline = time.monotonic() + 10
    while why not in sites.log("leeds")[before:] and time.monotonic() < deadline:
        time.sleep(0.02)
    (line,) = [line for line in sites.log("leeds")[before:].splitlines() if why in line]
    assert json.loads(line)["event"] == "client refused"
    assert sites.insist(sites.london, "GET", "/status")["peer"]["connected"], "the right peer is not disturbed"


# -- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../london", "a/b", ".hidden", "", "x" * 200, "a\x00b"])
def test_names_that_lead_elsewhere_are_refused(sites: Sites, tmp_path: Path, name: str) -> None:
    vm = {"host": "london-1", "disks": {"data": {"path": "x.disk", "size": "1 MiB"}}}
    for where in ({"vms": {name: vm}}, {"vms": {"db": {**vm, "disks": {name: vm["disks"]["data"]}}}}):  # type: ignore[index]
        content = {"site": "london", "link": {"peer": "leeds", "listen": "127.0.0.1:1"}, "hosts": {"london-1": {}}}
        (tmp_path / "london.yaml").write_text(json.dumps(content | where))
        with pytest.raises(FileError):
            load_site(tmp_path / "london.yaml")
    with pytest.raises(FileError):
        sites.london.manager.ask("POST", "/vpgs", {"name": name, "vms": ["db"], "target_host": "leeds-1"})
    wish = {"kind": "restore", "vpg": "crm", "volume": f"db/{name}", "checkpoint": "now"}
    with pytest.raises(FileError):
        sites.leeds.manager.ask("POST", "/operations", {"wish": wish})


@pytest.mark.parametrize("name", ["../../etc/passwd", "db", "db/", "db/../db/data", "/etc/passwd"])
def test_exports_are_names_and_no_paths(sites: Sites, name: str) -> None:
    before = len(sites.log("london"))
    with pytest.raises(OSError, match="gone"), connected(sites.london.folder / "nbd.sock", name):
        pass
    deadline = time.monotonic() + 10
    while "no export is called" not in sites.log("london")[before:] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "no export is called" in sites.log("london")[before:]


# -- the same files twice ----------------------------------------------------------------------------------------


def test_a_second_process_on_the_same_files_is_refused(sites: Sites) -> None:
    """A manager and its VRAs are one installation: its folder's lock is theirs, and the first goes on."""
    words = [sys.executable, "-m", "drsim.cli.main", "site", "up", str(sites.leeds.file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "another process works in this folder" in done.stderr
    assert sites.insist(sites.leeds, "GET", "/status")["peer"]["connected"]


# -- disks that cannot be used ----------------------------------------------------------------------------------


def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    mounted = tmp_path / "store"
    mounted.mkdir()
    program("mount", "mount")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(mounted)], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        write_site(tmp_path, "leeds", {
            "folder": "store/leeds", "link": {"peer": "london", "listen": f"127.0.0.1:{free_port()}"},
            "hosts": {"leeds-1": {}},
        })  # fmt: skip
        pki.init(tmp_path / "pki", ["leeds"])
        with pytest.raises(PlatformError, match=r"store/leeds.*[Rr]ead-only"):
            SiteProcess(tmp_path, "leeds")
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk_is_named_until_there_is_room(sites: Sites) -> None:
    """No file of the recovery site may grow; what is listed stays, and replication goes on when they may."""
    pid = sites.leeds.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    listed = sites.insist(sites.leeds, "GET", "/vpgs/crm/checkpoints")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 10, before[1]))
    try:
        with connected(sites.london.folder / "nbd.sock", "db/data") as client:
            client.sendall(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, 1, 0, 64 * SECTOR) + bytes(64 * SECTOR))
            client.recv(16)
        while not (stores := sites.insist(sites.leeds, "GET", "/status")["stores"]):
            time.sleep(0.05)
        ((stream, why),) = stores.items()
        assert stream.startswith("crm:")
        assert why == f"{sites.leeds.folder / 'journals' / quote(stream, safe='')}: no room left"
        (vpg,) = sites.insist(sites.london, "GET", "/status")["vpgs"]
        assert vpg["cause"] == "recovery or journal storage error"
        assert sites.insist(sites.leeds, "GET", "/vpgs/crm/checkpoints")[: len(listed)] == listed
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    while sites.insist(sites.leeds, "GET", "/status")["stores"]:
        time.sleep(0.05)


def test_a_disk_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "db.disk").mkdir()
    write_site(tmp_path, "london", {
        "link": {"peer": "leeds", "connect": f"127.0.0.1:{free_port()}"}, "hosts": {"london-1": {}},
        "vms": {"db": {"host": "london-1", "disks": {"data": {"path": "db.disk", "size": "1 MiB"}}}},
    })  # fmt: skip
    pki.init(tmp_path / "pki", ["london"])
    site = SiteProcess(tmp_path, "london")
    try:
        missing = site.manager.ask("GET", "/status")["missing"]
    finally:
        site.close()
    assert set(missing) == {"db/data"}
    assert "db.disk: Is a directory" in missing["db/data"]


# -- secrets ----------------------------------------------------------------------------------------------------


def secrets_of(sites: Sites) -> dict[str, bytes]:
    """Everything that nobody may read anywhere else."""
    found = {"API token": (sites.leeds.folder / "api.token").read_bytes().strip(), "guest's data": PLANTED}
    for key in (sites.folder / "pki").rglob("*.key"):
        lines = [line for line in key.read_bytes().splitlines() if not line.startswith(b"-")]
        found |= {f"{key.parent.name}/{key.name} {n}": line for n, line in enumerate(lines)}
    assert len(found) > 10
    return found


def test_no_secret_is_in_logs_transcripts_reports_or_process_arguments(sites: Sites) -> None:
    texts: dict[str, bytes] = {}
    for pattern in ("*.log", "*/transcripts/*", "*/history.db*", "*/state.json", "*/catalogs/*"):
        texts |= {str(path): _plain(path) for path in sites.folder.glob(pattern)}
    assert any("transcripts" in name for name in texts)
    for site in (sites.london, sites.leeds):
        for what in ("cmdline", "environ"):
            texts[f"{what} of {site.name}"] = Path(f"/proc/{site.process.pid}/{what}").read_bytes()
        for path in ("/status", "/events", "/operations", "/vms", "/openapi.json"):
            texts[f"{path} of {site.name}"] = json.dumps(site.manager.ask("GET", path)).encode()
    for what, secret in secrets_of(sites).items():
        told = [name for name, text in texts.items() if secret in text]
        assert not told, f"{what} is in {told}"


def _plain(path: Path) -> bytes:
    """A file's content; of a compressed one, as far as it is written, its content too."""
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    import zlib

    return data + zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data)


def test_keys_and_tokens_are_for_their_owner_only(sites: Sites) -> None:
    for path in [*sites.folder.rglob("*.key"), sites.leeds.folder / "api.token"]:
        assert not path.stat().st_mode & 0o077, path
    assert re.search(r'"event": "up"', sites.log("leeds")), "the log that was looked at is a log"
