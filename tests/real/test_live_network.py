"""Networks of recovered VMs: taps on bridges that are there while QEMU is, and addresses that a real guest takes."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import linux_guest
import pytest
from live_guests import begin, ended
from live_sites import Sites, on_sites, write_sites
from programs import program

from drsim.core.errors import PlatformError
from drsim.core.events import Verdict
from drsim.core.recovery.plan import Commit, Kind, Shutdown
from drsim.real.local.network import mac_of, open_tap, options, told
from drsim.spec.live import LiveNetwork

NIC = {"network": "production", "mac": "52:54:00:aa:bb:cc", "mask": None, "gateway": None, "dns": ()}


def ip(*words: str) -> str:
    return subprocess.run([program("ip", "iproute2"), *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def netns() -> Iterator[str]:
    """A network namespace with two bridges that know nothing of each other."""
    name = f"drsim-test-{os.getpid()}"
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a network namespace cannot be made here: {error.stderr.strip()}")
    try:
        for bridge, address in (("production", "10.77.0.1/24"), ("test", "10.88.0.1/24")):
            ip("-n", name, "link", "add", bridge, "type", "bridge")
            ip("-n", name, "addr", "add", address, "dev", bridge)
            ip("-n", name, "link", "set", bridge, "up")
        yield name
    finally:
        ip("netns", "del", name)


def test_a_tap_is_on_its_bridge_until_it_is_closed(netns: str) -> None:
    first, second = open_tap("production", netns), open_tap("test", netns)
    links = ip("-n", netns, "-o", "link")
    assert "drsim0" in links
    assert [line.count("master production") for line in links.splitlines() if "drsim0" in line] == [1]
    assert [line.count("master test") for line in links.splitlines() if "drsim1" in line] == [1]
    assert "drsim" not in " ".join(name for _, name in socket.if_nameindex()), "nothing is left in our own namespace"
    os.close(first)
    os.close(second)
    assert "drsim" not in ip("-n", netns, "-o", "link")


@pytest.mark.parametrize(("bridge", "name"), [("nowhere", ""), ("production", "no-such-namespace")])
def test_a_bridge_that_is_not_there_is_named(netns: str, bridge: str, name: str) -> None:
    with pytest.raises(PlatformError, match="no tap device can be made") as caught:
        open_tap(bridge, name or netns)
    assert bridge in caught.value.place
    assert "drsim" not in ip("-n", netns, "-o", "link")


def test_a_network_that_is_not_there_is_named_and_one_without_a_bridge_reaches_nobody() -> None:
    with ExitStack() as taps, pytest.raises(PlatformError, match="no network elsewhere"):
        options([{**NIC, "network": "elsewhere"}], {"production": LiveNetwork()}, taps)
    with ExitStack() as taps:
        made, inherited = options([NIC], {"production": LiveNetwork()}, taps)
    assert "user,id=net0,restrict=on" in made
    assert inherited == []


def test_what_the_guest_is_told() -> None:
    assert told([NIC]) == "", "a VM that keeps its addresses finds nothing"
    static = {
        **NIC,
        "address": "10.1.2.3",
        "mask": "255.255.0.0",
        "gateway": "10.1.0.1",
        "dns": ("10.1.0.2", "10.1.0.3"),
    }
    assert told([static, {**NIC, "address": None}]) == (
        "52:54:00:aa:bb:cc 10.1.2.3/16 10.1.0.1 10.1.0.2,10.1.0.3\n52:54:00:aa:bb:cc dhcp - -\n"
    )
    assert mac_of("db", 0) == mac_of("db", 0) != mac_of("db", 1)


def test_the_hook_gives_a_nic_its_address(netns: str, tmp_path: Path) -> None:
    """In a namespace, with an interface of the kernel's."""
    ip("-n", netns, "link", "add", "nic0", "address", NIC["mac"], "type", "bridge")
    ip("-n", netns, "addr", "add", "10.77.0.5/24", "dev", "nic0")
    nic = {**NIC, "address": "10.99.0.5", "mask": "24", "gateway": "10.99.0.1", "dns": ("10.99.0.2",)}
    (tmp_path / "nics.conf").write_text(told([nic]))
    environment = {**os.environ, "DRSIM_NICS": str(tmp_path / "nics.conf"), "DRSIM_RESOLV": str(tmp_path / "resolv")}
    words = ["ip", "netns", "exec", netns, "sh", str(linux_guest.HOOK)]
    for _ in range(2):  # a second boot changes nothing
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    addresses = ip("-n", netns, "-4", "-o", "addr", "show", "dev", "nic0")
    assert "10.99.0.5/24" in addresses
    assert "10.77.0.5" not in addresses
    assert "via 10.99.0.1" in ip("-n", netns, "route")
    assert (tmp_path / "resolv").read_text() == "nameserver 10.99.0.2\n"
    (tmp_path / "nics.conf").write_text("52:54:00:00:00:00 10.1.1.1/24 - -\n")
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert (done.returncode, "no NIC has the address" in done.stderr) == (1, True)


LONDON = """
site: london
folder: london
pki: pki/london
link: {{peer: leeds, connect: "127.0.0.1:{port}"}}
hosts: {{london-1: {{}}}}
networks: {{production: {{bridge: production, netns: NETNS}}}}
vms:
  web:
    host: london-1
    memory: 128 MiB
    ready: "READY"
    tools: true
    disks: {{system: {{path: linux.img, size: 33 MiB}}}}
    networks: [production]
    reip:
      - live: {{network: production, address: 10.77.0.50, mask: "24", gateway: 10.77.0.1}}
        test: {{network: test, address: 10.88.0.50, mask: "24"}}
tweaks: {{peer_timeout: 60 s}}
"""
LEEDS_NETWORKS = "networks: {production: {bridge: production, netns: NETNS}, test: {bridge: test, netns: NETNS}}\n"


async def answers(netns: str, address: str, bridge: str) -> bool:
    """Whether somebody answers there, asked on a bridge."""
    words = ["ip", "netns", "exec", netns, "busybox", "ping", "-c", "1", "-W", "2", "-I", bridge, address]
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True)
    return done.returncode == 0


@pytest.mark.slow
def test_a_linux_guest_takes_its_new_address_and_stops_when_it_is_asked_to(netns: str, tmp_path: Path) -> None:
    program("qemu-system-x86_64", "qemu-system-x86")
    linux_guest.image(tmp_path, "10.77.0.5/24")
    write_sites(tmp_path, LONDON.replace("NETNS", netns))
    with (tmp_path / "leeds.yaml").open("a") as file:
        file.write(LEEDS_NETWORKS.replace("NETNS", netns))
    text = (tmp_path / "leeds.yaml").read_text()
    (tmp_path / "leeds.yaml").write_text(text.replace("peer_timeout: 2 s", "peer_timeout: 60 s"))

    async def check(sites: Sites) -> None:
        await sites.london.hypervisor.power_on("web")
        await sites.london.hypervisor.wait("web", 280)
        assert await answers(netns, "10.77.0.5", "production"), "where it has always been"
        await sites.london.protect(sites.vpg("crm", "web"))
        await sites.checkpoint("crm", "good")

        number = begin(sites.leeds, Kind.TEST, instant=True)
        await sites.until(lambda: sites.leeds.recoveries.running[number].waiting)
        assert "10.88.0.50/24" in sites.leeds.hypervisor.printed("web-test")
        assert await answers(netns, "10.88.0.50", "test")
        assert not await answers(netns, "10.77.0.5", "test"), "not at its old address"
        assert not await answers(netns, "10.77.0.50", "production"), "nor anywhere in production"
        assert await answers(netns, "10.77.0.5", "production"), "where the source still is"
        sites.leeds.recoveries.decide(number, Verdict.COMMIT)
        assert (await ended(sites, sites.leeds, number))["outcome"] == "done"

        wish = {"shutdown": Shutdown.GRACEFUL, "commit": Commit.COMMIT, "instant": True}
        report = await ended(sites, sites.leeds, begin(sites.leeds, Kind.MOVE, **wish))
        assert (report["outcome"], report["reasons"], report["people"]) == ("committed", [], [])
        assert await answers(netns, "10.77.0.50", "production")
        assert not await answers(netns, "10.77.0.5", "production")
        disk = sites.leeds.splitter.exports["web/system"]
        said = bytes(disk.read(linux_guest.STOPPED, 512)).rstrip(b"\0\n")
        assert said == b"stopped in good order", "its last write came along"
        links = ip("-n", netns, "-o", "link")
        assert links.count("drsim") == 1, "one VM runs, so there is one tap"

    async def end(sites: Sites) -> None:
        for site in (sites.london, sites.leeds):
            for name in site.hypervisor.vms():
                await site.hypervisor.power_off(name)
        while "drsim" in ip("-n", netns, "-o", "link"):
            await asyncio.sleep(0.05)

    on_sites(tmp_path, check, last=end, seconds=400)
