"""The API of a site from elsewhere: over TLS, with a token, of the right site, or not at all."""

import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from drsim.cli.demo import SiteProcess
from drsim.cli.manager import Manager
from drsim.core.errors import FileError, PlatformError
from drsim.files.sites import load_any_site, load_site
from drsim.real import pki
from drsim.real.loopback import free_port
from drsim.spec.live import RemoteSite

SITE = """
site: london
folder: london
pki: pki/london
link: {{peer: leeds, connect: "127.0.0.1:{peer}"}}
api: {{listen: "127.0.0.1:{port}"}}
hosts: {{london-1: {{}}}}
"""
REMOTE = """
site: {site}
connect: 127.0.0.1:{port}
ca: {ca}
token: token
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteProcess]:
    folder = tmp_path_factory.mktemp("api")
    pki.init(folder / "pki", ["london", "leeds"])
    pki.init(folder / "others", ["london"])
    (folder / "london.yaml").write_text(SITE.format(peer=free_port(), port=free_port()))
    made = SiteProcess(folder, "london")
    shutil.copy(folder / "london" / "api.token", folder / "token")
    yield made
    made.kill()


def port(site: SiteProcess) -> int:
    found = load_site(site.file).api
    assert found is not None
    return int(found.listen.rpartition(":")[2])


def remote(site: SiteProcess, name: str = "london", ca: str = "pki/ca.pem") -> Path:
    path = site.file.with_name("remote.yaml")
    path.write_text(REMOTE.format(site=name, port=port(site), ca=ca))
    return path


def log(site: SiteProcess) -> str:
    return site.file.with_suffix(".log").read_text()


def trusting(site: SiteProcess) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=site.file.parent / "pki" / "ca.pem")


def test_a_command_asks_from_elsewhere(site: SiteProcess) -> None:
    file = remote(site)
    assert isinstance(load_any_site(file), RemoteSite)
    assert Manager(file).ask("GET", "/status") == site.manager.ask("GET", "/status")
    with pytest.raises(FileError, match="no VPG is called 'crm'"):
        Manager(file).ask("POST", "/vpgs/crm/pause")
    with pytest.raises(FileError, match=r"remote\.yaml: this file says how to reach a site"):
        load_site(file)


@pytest.mark.parametrize("path", ["/status", "/openapi.json", "/docs", "/metrics", "/nothing"])
@pytest.mark.parametrize("shown", [None, "Bearer", "Bearer wrong", "Basic x"])
def test_nobody_sees_anything_without_the_token(site: SiteProcess, path: str, shown: str | None) -> None:
    headers = {} if shown is None else {"Authorization": shown}
    with httpx.Client(verify=trusting(site), headers=headers) as client:
        answer = client.get(f"https://127.0.0.1:{port(site)}{path}", extensions={"sni_hostname": "london"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"] == "the token is not the site's"
    assert "127.0.0.1 asked the API with" in log(site)


def test_the_token_is_for_the_right_site_only(site: SiteProcess) -> None:
    token = (site.folder / "api.token").read_text().strip()
    for file in (remote(site, name="leeds"), remote(site, ca="others/ca.pem")):
        with pytest.raises(PlatformError, match=r"does not answer: .*certificate"):
            Manager(file).ask("GET", "/status")
    (site.file.parent / "token").write_text("another token\n")
    with pytest.raises(FileError, match="the token is not the site's"):
        Manager(remote(site)).ask("GET", "/status")
    (site.file.parent / "token").write_text(token)
    assert token not in log(site)
    assert (site.folder / "api.token").stat().st_mode & 0o777 == 0o600


def test_nothing_but_tls_1_3_is_spoken(site: SiteProcess) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port(site)}/status")
    old = trusting(site)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.TransportError), httpx.Client(verify=old) as client:
        client.get(f"https://127.0.0.1:{port(site)}/status", extensions={"sni_hostname": "london"})


def test_what_is_missing_is_named(site: SiteProcess, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no-ca\.pem: the authority's certificate cannot be read"):
        Manager(remote(site, ca="no-ca.pem"))
    (tmp_path / "token-only.yaml").write_text("site: x\nconnect: a:1\ntoken: missing\n")
    with pytest.raises(FileError, match="ca"):
        load_any_site(tmp_path / "token-only.yaml")
    (tmp_path / "open.yaml").write_text(SITE.format(peer=1, port=2).replace("pki: pki/london\n", ""))
    with pytest.raises(FileError, match="the API listens with a certificate only; give pki"):
        load_site(tmp_path / "open.yaml")
    short = site.folder / "api.token"
    kept = short.read_text()
    site.kill()
    try:
        short.write_text("short\n")
        with pytest.raises(PlatformError, match="the site makes a new one"):
            site.up()
    finally:
        short.write_text(kept)
        site.up()
