"""Recovery: how long a platform takes for what recovery asks of it, and how much of it at a time."""

from typing import Annotated

from pydantic import Field

from drsim.spec.base import Spec
from drsim.spec.quantity import Duration, Ratio

SECOND = 10**9
Time = Annotated[Duration, Field(ge=0, le=24 * 3600 * SECOND)]


class Hypervisor(Spec):
    """One site's platform. All durations are our choice, of the order that people see with vSphere on flash."""

    create: Time = 15 * SECOND
    """Create a VM."""
    attach: Time = 2 * SECOND
    """Attach one disk."""
    power_on: Time = 3 * SECOND
    """Power on a VM; its boot comes after that."""
    shutdown: Time = 45 * SECOND
    """Shut a guest down in good order."""
    power_off: Time = 2 * SECOND
    """Power off a VM."""
    re_ip: Time = 90 * SECOND
    """Change the addresses of a guest, with the reboot that it takes."""
    delete: Time = 5 * SECOND
    """Delete a VM."""
    spread: Annotated[float, Field(ge=0, le=3)] = 0.0
    """Standard deviation of each duration over its mean (log-normal); 0: exactly these."""
    fails: Annotated[Ratio, Field(ge=0, le=1)] = 0.0
    """How often creating, attaching or powering on does not work."""
    concurrent: Annotated[int, Field(ge=1)] = 8
    """Operations at a time on one host (vSphere: 8 provisioning operations a host)."""
    quota: Annotated[int, Field(ge=1)] | None = None
    """VMs that are being created at a time on the whole platform; the rest queues. None: 10 on AWS, else no limit."""


class Script(Spec):
    """A command that an operation has run at the recovery site."""

    command: str = Field(min_length=1)
    """What is run."""
    takes: Time = 10 * SECOND
    """How long it takes."""
    timeout: Annotated[Duration, Field(gt=0, le=24 * 3600 * SECOND)] = 300 * SECOND
    """How long it may take before it counts as failed (products.md 1.5)."""
    fails: bool = False
    """Whether it fails."""
