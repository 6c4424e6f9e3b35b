"""Connects to a site of Hyper-V hosts, and makes a platform of them."""

import asyncio
from functools import partial
from pathlib import Path

from drsim.real.hyperv.changes import HypervChanges
from drsim.real.hyperv.disks import HypervDisks, HypervLocator
from drsim.real.hyperv.hosts import Hosts
from drsim.real.hyperv.hypervisor import HypervHypervisor
from drsim.real.hyperv.inventory import HypervInventory
from drsim.real.hyperv.session import Access, Session
from drsim.real.ports import Limits, Platform
from drsim.real.secret import reveal
from drsim.spec.hyperv import HypervSite

LIMITS = Limits()
PORTS = {True: 5986, False: 5985}
"""Where WinRM listens, with TLS and without."""


async def connect(spec: HypervSite, base: Path, *, limits: Limits = LIMITS, root: Path = Path("/")) -> Platform:
    """Log in to a site of a file in the folder `base`. `root`: of this machine's files, where it is the appliance.

    Raises LoginRefused, NotAllowed, Unavailable.
    """
    password = partial(reveal, spec.password, base)
    sessions = {}
    for name, host in spec.hosts.items():
        ca = str(base / spec.ca) if spec.ca else None
        port = host.port or PORTS[spec.tls]
        sessions[name] = Session(Access(name, host.address, port, spec.user, password, spec.auth, spec.tls, ca), limits)
    hosts = Hosts(spec, sessions, limits)
    inventory, hypervisor = HypervInventory(hosts), HypervHypervisor(hosts)
    locator = HypervLocator(hosts, root)

    async def close() -> None:
        await asyncio.gather(*(session.close() for session in sessions.values()))

    try:
        await inventory.hosts_answer()
    except BaseException:
        await close()
        raise
    return Platform(
        name="hyperv", inventory=inventory, hypervisor=hypervisor, disks=HypervDisks(hosts), locator=locator,
        appliance=spec.appliance, close=close, changes=HypervChanges(hosts, hypervisor, locator),
    )  # fmt: skip
