"""Two real sites with two VMs that write what can be checked, for tests of recovery."""

from pathlib import Path
from typing import Any

from live_sites import LEEDS, Sites, write_sites

from drsim.core.recovery.plan import Kind
from drsim.real.installation import Installation
from drsim.real.local import guest
from drsim.real.planning import Wish

LONDON = """
site: london
folder: london
pki: pki/london
link: {{peer: leeds, connect: "127.0.0.1:{port}"}}
hosts: {{london-1: {{}}, london-2: {{}}}}
vms:
  db: {{host: london-1, memory: 16 MiB, ready: ".", disks: {{system: {{path: db.disk, size: 1 MiB}}}}}}
  app: {{host: london-2, memory: 16 MiB, ready: ".", disks: {{system: {{path: app.disk, size: 1 MiB}}}}}}
tweaks: {{peer_timeout: 2 s, frame_delay: 1 ms}}
"""


def prepare(folder: Path, *, processes: bool = False) -> None:
    """The sites' files, and the VMs' disks. `processes`: each host has one of its own, at both sites."""
    more = "processes: true\n" if processes else ""
    write_sites(folder, LONDON + more, LEEDS + more)
    for name in ("db", "app"):
        guest.image(folder / f"{name}.disk", 1 << 20)


async def protected(sites: Sites) -> None:
    """Both VMs run and are protected."""
    for name in ("db", "app"):
        await sites.london.hypervisor.power_on(name)
        await sites.london.hypervisor.wait(name, 20)
    await sites.london.protect(sites.vpg("crm", "db", "app"))
    await sites.checkpoint("crm", "first")


def begin(site: Installation, kind: Kind, **wish: Any) -> int:
    """An operation on the VPG; its number."""
    return site.recoveries.begin(site.recoveries.plan(Wish(kind=kind, vpg="crm", **wish)))


async def ended(sites: Sites, site: Installation, number: int) -> dict[str, Any]:
    """Its report."""
    await sites.until(lambda: bool(site.recoveries.status(number)["outcome"]))
    return site.recoveries.status(number)


async def power_off(sites: Sites) -> None:
    """Every VM of both sites."""
    for site in (sites.london, sites.leeds):
        for name in site.hypervisor.vms():
            await site.hypervisor.power_off(name)
