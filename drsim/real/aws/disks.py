"""AwsDisks and NvmeLocator: EBS volumes, and where the appliance finds those that are attached to it.

A volume has whole GiB; what is asked for is rounded up, and `DiskFacts.size` says what the guest will see.

    SYSFS/class/nvme/nvmeN/serial              the volume's id without its dash
    DEV/nvmeNn1                                the disk
    SYSFS/devices/virtual/dmi/id/board_asset_tag   the id of the instance that this machine is (Nitro)
"""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from drsim.core.errors import PlatformError
from drsim.real.aws import tags
from drsim.real.aws.machines import Machines
from drsim.real.aws.session import Facts, Session, token
from drsim.real.files import blame
from drsim.real.ports import DiskFacts, DiskId, NotFound, QuotaReached, Taken
from drsim.spec.aws import GIB

GONE = ("deleting", "deleted", "error")


class AwsDisks:
    """Volumes."""

    def __init__(self, session: Session, machines: Machines) -> None:
        self.session, self.machines = session, machines

    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        """The port's."""
        kind = self.session.spec.stores.get(store)
        if kind is None:
            raise NotFound(
                f"no store is called {store}", place=self.session.place, hint="see stores in the site's file"
            )
        there = await self._tagged(owner=owner, name=name)
        if there:
            return DiskId(there[0]["VolumeId"])
        gib = -(-size // GIB)
        used = sum(v["Size"] for v in await self._tagged(store=store))
        if (used + gib) * GIB > kind.capacity:
            message = f"{gib} GiB do not fit: {used} of {kind.capacity // GIB} GiB of {store} are used"
            raise QuotaReached(message, place=self.session.place, hint="raise the store's capacity in the site's file")
        mine = tags.written(owner=owner, name=name, store=store) | {"Name": name}
        given: Facts = {
            "AvailabilityZone": self.session.spec.zone, "Size": gib, "VolumeType": kind.type,
            "Encrypted": kind.encrypted,
            "TagSpecifications": [tags.on("volume", mine)],
        }  # fmt: skip
        given |= {"Iops": kind.iops} if kind.iops else {}
        given |= {"KmsKeyId": kind.key} if kind.key else {}
        what = ("volume", owner, name, str(gib), store)
        while True:
            mark = token(*what, self.session.burnt[what])
            made = await self.session.ask("CreateVolume", ClientToken=mark, **given)
            if await self._usable(made["VolumeId"]):
                return DiskId(made["VolumeId"])
            self.session.burnt[what] += 1

    async def _usable(self, id_: str) -> bool:
        """Wait until a new volume can be used; False when this token made one that was deleted since."""
        unseen = count()

        async def look() -> bool | None:
            try:
                state = (await self.volume(id_))["State"]
            except NotFound:
                return False if next(unseen) >= self.session.limits.attempts else None
            return None if state == "creating" else state not in GONE

        return await self.session.until(f"{id_} becomes available", look)

    async def delete(self, disk: DiskId, owner: str) -> None:
        """The port's."""
        try:
            volume = await self.volume(disk)
        except NotFound:
            return
        if tags.read(volume).get(tags.OWNER) != owner or volume["State"] in GONE:
            return
        if volume.get("Attachments"):
            at = volume["Attachments"][0]["InstanceId"]
            raise Taken(f"{disk} is attached to {at}", place=self.session.place, hint="detach it first")
        try:
            await self.session.ask("DeleteVolume", VolumeId=disk)
        except NotFound:
            return

    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        """The port's."""
        volumes = await self._tagged(owner=owner)
        at = [v["Attachments"][0]["InstanceId"] for v in volumes if v.get("Attachments")]
        names = {m.id: m.name for m in await self.machines.all()} if at else {}
        return [self._facts(v, names) for v in volumes]

    async def disk(self, disk: DiskId) -> DiskFacts:
        """The port's."""
        volume = await self.volume(disk)
        names = {
            a["InstanceId"]: (await self.machines.one(a["InstanceId"])).name for a in volume.get("Attachments", [])
        }
        return self._facts(volume, names)

    def _facts(self, volume: Facts, names: Mapping[str, str]) -> DiskFacts:
        at = [a["InstanceId"] for a in volume.get("Attachments", [])]
        found, attached = tags.read(volume), names.get(at[0], at[0]) if at else ""
        name = found.get(tags.NAME, found.get("Name", ""))
        return DiskFacts(DiskId(volume["VolumeId"]), name, volume["Size"] * GIB, found.get(tags.OWNER, ""), attached)

    async def volume(self, id_: str) -> Facts:
        """A volume as EC2 describes it. Raises NotFound."""
        found = await self.session.ask("DescribeVolumes", VolumeIds=[id_])
        if not found["Volumes"] or found["Volumes"][0]["State"] in GONE:
            raise NotFound(f"there is no volume {id_}", place=self.session.place)
        volume: Facts = found["Volumes"][0]
        return volume

    async def _tagged(self, **given: str) -> list[Facts]:
        found = await self.session.all("DescribeVolumes", "Volumes", Filters=tags.having(**given))
        return [v for v in found if v["State"] not in GONE and tags.STUB not in tags.read(v)]


class NvmeLocator:
    """Finds volumes as devices of this machine, which has to be the appliance."""

    def __init__(self, disks: AwsDisks, appliance: str, *, sysfs: Path, dev: Path) -> None:
        self._disks, self._appliance, self._sysfs, self._dev = disks, appliance, sysfs, dev

    async def locate(self, appliance: str, disk: DiskId) -> Path:
        """The port's."""
        place = self._disks.session.place
        if (await self._disks.disk(disk)).attached != appliance:
            raise NotFound(f"{disk} is not attached to {appliance}", place=place)
        with blame(self._sysfs):
            tag = self._sysfs / "devices/virtual/dmi/id/board_asset_tag"
            here = tag.read_text().strip() if tag.exists() else "no instance of EC2"
            if here != self._appliance:
                hint = f"run this site on {self._appliance}"
                raise PlatformError(f"this machine is {here}, not the appliance", place=place, hint=hint)
            for controller in sorted(self._sysfs.glob("class/nvme/*/serial")):
                if controller.read_text().strip() == disk.replace("-", ""):
                    return self._dev / f"{controller.parent.name}n1"
        raise NotFound(f"{disk} is attached, and no NVMe controller has its serial number yet", place=str(self._sysfs))
