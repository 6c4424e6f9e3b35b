"""Connect: a tenant of a vCloud Director, and the vCenter underneath, as a platform."""

import ssl
from pathlib import Path
from typing import Any

from drsim.core.errors import FileError
from drsim.real import vsphere
from drsim.real.ports import Limits, Platform
from drsim.real.secret import reveal
from drsim.real.vcd.disks import VcdChanges, VcdDisks
from drsim.real.vcd.hypervisor import VcdHypervisor
from drsim.real.vcd.inventory import VcdInventory
from drsim.real.vcd.session import VcdSession
from drsim.spec.vcd import Vcd


async def connect(spec: Vcd, base: Path, *, limits: Limits | None = None) -> Platform:
    """Log in to both. Raises FileError, LoginRefused, Unavailable."""
    password = reveal(spec.password, base)
    authority = None if spec.ca is None else base / spec.ca
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        hint = "a PEM file with the certificate of its authority"
        raise FileError(f"the authority cannot be read: {error}", place=str(authority), hint=hint) from error
    session = VcdSession(spec, password, context, limits or Limits())
    try:
        await session.login.renew(0)
        below = await vsphere.connect(spec.vcenter, base, limits=limits)
    except BaseException:
        await session.close()
        raise
    there: Any = below.inventory, below.hypervisor, below.disks, below.changes
    inventory = VcdInventory(session, there[0])
    hypervisor, disks = VcdHypervisor(inventory, there[1]), VcdDisks(inventory, there[2], spec.policies)
    changes = VcdChanges(inventory, there[3])

    async def close() -> None:
        await session.close()
        await below.close()

    return Platform("vCloud Director", inventory, hypervisor, disks, disks, below.appliance, close, changes=changes)
