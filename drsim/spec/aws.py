"""Aws: what people write down of a site in one availability zone of Amazon's cloud."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from drsim.spec.base import Name, Spec
from drsim.spec.platform import Secret
from drsim.spec.quantity import Duration, Size

SECOND, GIB, TIB = 10**9, 1 << 30, 1 << 40
Id = Annotated[str, StringConstraints(pattern=r"^[a-z]+-[0-9a-f]{8,32}$")]
"""A name that AWS gave, as i-0123456789abcdef0."""


class AwsHost(Spec):
    """Where VMs run: a dedicated host, or without `dedicated` the zone's shared capacity, of which a part is ours."""

    dedicated: Id | None = None
    """h-..., allocated in this zone."""
    cpus: Annotated[int, Field(ge=1)] = 64
    """vCPUs that drsim's VMs may use here."""
    memory: Size = 256 * GIB


class AwsStore(Spec):
    """Where disks are: a kind of EBS volume, of which a part is ours."""

    type: Annotated[str, StringConstraints(pattern="^(gp2|gp3|io1|io2|st1|sc1)$")] = "gp3"
    iops: Annotated[int, Field(ge=100)] | None = None
    encrypted: bool = True
    key: str | None = None
    """Of KMS; none: the account's own for EBS."""
    capacity: Size = 50 * TIB
    """What drsim's volumes may take up (50 TiB is AWS's own limit for gp3 in a new account)."""


class AwsType(Spec):
    """What an instance type has."""

    cpus: Annotated[int, Field(ge=1)]
    memory: Size


class AwsImages(Spec):
    """Images that instances are launched from before their disks are swapped in; small, with ENA and NVMe drivers."""

    bios: Id | None = None
    uefi: Id | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.bios is None and self.uefi is None:
            raise ValueError("give an image for bios, for uefi, or for both")
        return self


class AwsBucket(Spec):
    """Where journals are kept as well."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: str = "drsim/"
    lock_days: Annotated[int, Field(ge=1, le=36500)] | None = None
    """For how long nobody can delete an object (Object Lock, which the bucket must have). None: no lock."""
    lock: Annotated[str, StringConstraints(pattern="^(GOVERNANCE|COMPLIANCE)$")] = "GOVERNANCE"


class AwsSite(Spec):
    """A site at AWS: one zone of one region."""

    region: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
    zone: str = Field(min_length=3)
    endpoint: str | None = None
    """Of all services, where they are not reached at AWS's own addresses."""
    access_key: str | None = None
    """Whose calls they are; with `secret`. Neither: what AWS's SDK finds (the instance's role, a profile)."""
    secret: Secret | None = None
    session_token: Secret | None = None
    appliance: Id
    """The instance on which the recovery VRA runs."""
    networks: Annotated[dict[Name, Id], Field(min_length=1)]
    """Subnets of this zone, by the names that VPGs use."""
    network: Name | None = None
    """Where a VM is put that says nothing of networks; none: the first."""
    security_groups: tuple[Id, ...] = ()
    """Of recovered VMs; none: the VPC's own."""
    hosts: Annotated[dict[Name, AwsHost], Field(min_length=1)]
    stores: Annotated[dict[Name, AwsStore], Field(min_length=1)]
    types: Annotated[dict[str, AwsType], Field(min_length=1)]
    """Instance types that VMs are given: the smallest that has enough."""
    images: AwsImages
    bucket: AwsBucket | None = None
    poll: Annotated[Duration, Field(ge=SECOND // 100)] = 10 * SECOND
    """How often it is looked for what changed: EC2 tells nobody."""
    settle: Annotated[Duration, Field(ge=SECOND)] = 600 * SECOND
    """How long an instance, a volume or a snapshot may take to become what it was asked to be."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.access_key is None) != (self.secret is None):
            raise ValueError("give access_key and secret together, or neither")
        if self.session_token is not None and self.secret is None:
            raise ValueError("a session_token belongs to an access_key and a secret")
        if self.network is not None and self.network not in self.networks:
            raise ValueError(f"network {self.network} is not one of {', '.join(self.networks)}")
        if not self.zone.startswith(self.region):
            raise ValueError(f"zone {self.zone} is not in region {self.region}")
        return self
