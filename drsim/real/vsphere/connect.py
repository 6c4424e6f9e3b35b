"""Connect: a vCenter as a platform."""

import ssl
from pathlib import Path

from drsim.core.errors import FileError
from drsim.real.ports import Limits, Platform
from drsim.real.secret import reveal
from drsim.real.vsphere.changes import VsphereChanges
from drsim.real.vsphere.disks import VsphereDisks
from drsim.real.vsphere.hypervisor import VsphereHypervisor
from drsim.real.vsphere.inventory import VsphereInventory
from drsim.real.vsphere.session import Session
from drsim.spec.vsphere import Vsphere


async def connect(spec: Vsphere, base: Path, *, limits: Limits | None = None) -> Platform:
    """Log in. `base`: the folder that the spec's paths start from. Raises FileError, LoginRefused, Unavailable."""
    password = reveal(spec.password, base)
    authority = None if spec.ca is None else base / spec.ca
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        hint = "a PEM file with the certificate of the vCenter's authority"
        raise FileError(f"the authority cannot be read: {error}", place=str(authority), hint=hint) from error
    session = Session(spec, base, password, context, limits or Limits())
    inventory = VsphereInventory(session)
    try:
        await session.login.renew(0)
        await session.patient("find the datacenter", inventory.home)
    except BaseException:
        await session.close()
        raise
    disks = VsphereDisks(inventory)
    hypervisor = VsphereHypervisor(inventory, disks)
    changes = VsphereChanges(inventory, disks, hypervisor, spec.appliance)
    return Platform("vSphere", inventory, hypervisor, disks, disks, spec.appliance, session.close, changes=changes)
