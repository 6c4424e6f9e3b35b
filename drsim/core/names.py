"""Names: addresses of machines, numbers of VMs and volumes, streams and checkpoints."""

from typing import NamedTuple, NewType, Protocol

from drsim.core.value import value

Address = NewType("Address", str)
"""Where a machine lives: "site/host/vra", "site/vpg/name"."""

VmId = NewType("VmId", int)
"""Number of a VM in its estate; the `vm` column of a batch."""

VolumeId = NewType("VolumeId", int)
"""Number of a volume in its estate; the `volume` column of a batch."""

CheckpointId = NewType("CheckpointId", int)
"""Number of a checkpoint in its VPG; later checkpoints have higher numbers."""


def vra_address(site: str, host: str) -> Address:
    """The protecting half of a host's VRA."""
    return Address(f"{site}/{host}/vra")


def recovery_vra_address(site: str, host: str) -> Address:
    """The recovering half of a host's VRA; a host may protect some VMs and recover others."""
    return Address(f"{site}/{host}/recovery-vra")


def vpg_address(site: str, vpg: str) -> Address:
    """The manager's machine for a VPG at a site."""
    return Address(f"{site}/vpg/{vpg}")


def catalog_address(site: str, vpg: str) -> Address:
    """The recovery manager's catalogue of a VPG's checkpoints."""
    return Address(f"{site}/catalog/{vpg}")


def site_of(address: Address) -> str:
    """The site part of an address."""
    return address.partition("/")[0]


class Directory(Protocol):
    """Where something of each VPG is."""

    def __getitem__(self, vpg: str, /) -> Address:
        """Its address."""
        ...


@value
class Managers:
    """A site's managers of all VPGs, also of those that are made later."""

    site: str

    def __getitem__(self, vpg: str) -> Address:
        return vpg_address(self.site, vpg)


@value
class Catalogs:
    """A site's catalogues of all VPGs, also of those that are made later."""

    site: str

    def __getitem__(self, vpg: str) -> Address:
        return catalog_address(self.site, vpg)


class StreamId(NamedTuple):
    """One VPG's writes from one protected VRA to one recovery VRA, in order.

    `part`: VMs and volumes that were added later, or came from another host, have a stream of their own.
    """

    vpg: str
    source: Address
    target: Address
    part: int = 1

    def __str__(self) -> str:
        return f"{self.vpg}:{self.source}>{self.target}{'' if self.part == 1 else f'#{self.part}'}"


@value
class VolumeInfo:
    """A protected volume: whose it is and how many sectors it has."""

    id: VolumeId
    vm: VmId
    sectors: int


class Extent(NamedTuple):
    """A stretch of a volume, in sectors."""

    vm: VmId
    volume: VolumeId
    lba: int
    sectors: int


@value
class StreamSpec:
    """What both ends know of a stream. `vms` are ascending; `limit` is each VM's journal limit in bytes.

    `follows`: the stream whose VMs these were before they moved to another host; their journals go on. `origin`: the
    part in which they began. `left`: volumes that left the stream. Volumes may leave, come or grow; the VMs stay the
    same for ever, because a position has a number for each of them.
    """

    id: StreamId
    vms: tuple[VmId, ...]
    volumes: tuple[VolumeInfo, ...]
    limit: int | None = None
    follows: StreamId | None = None
    left: tuple[VolumeInfo, ...] = ()
    origin: int = 1
