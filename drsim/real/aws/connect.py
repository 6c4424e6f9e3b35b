"""connect: a site at AWS as a platform."""

from pathlib import Path

from drsim.real.aws.changes import AwsChanges
from drsim.real.aws.disks import AwsDisks, NvmeLocator
from drsim.real.aws.hypervisor import AwsHypervisor
from drsim.real.aws.inventory import AwsInventory
from drsim.real.aws.machines import Machines
from drsim.real.aws.objects import S3Objects
from drsim.real.aws.session import Session
from drsim.real.ports import Limits, Platform
from drsim.spec.aws import AwsSite

LIMITS = Limits()


async def connect(
    spec: AwsSite, base: Path, *, limits: Limits = LIMITS, sysfs: Path = Path("/sys"), dev: Path = Path("/dev")
) -> Platform:
    """Log in. Raises LoginRefused, Unavailable, and NotFound when the appliance is not there.

    `base`: the folder of the site's file. `sysfs`, `dev`: where the appliance's devices are.
    """
    session = Session(spec, base, limits)
    await session.identity()
    machines = Machines(session)
    appliance = await machines.one(spec.appliance)
    inventory, disks = AwsInventory(session, machines), AwsDisks(session, machines)
    await inventory.look()
    return Platform(
        name=session.place,
        inventory=inventory,
        hypervisor=AwsHypervisor(session, machines, disks),
        disks=disks,
        locator=NvmeLocator(disks, spec.appliance, sysfs=sysfs, dev=dev),
        appliance=appliance.name,
        close=session.close,
        changes=AwsChanges(session, machines),
        objects=None if spec.bucket is None else S3Objects(session, spec.bucket),
    )
