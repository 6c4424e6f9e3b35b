"""AwsChanges: epochs are snapshots of all volumes of an instance at once, and EBS direct tells and reads what changed.

Theory of operation. CreateSnapshots cuts all volumes of an instance at one moment (crash consistent across them). The
mark of a disk is its snapshot's id, and has to exist as long as something is to be compared with it. Therefore `end`
keeps an epoch's snapshots, tagged as ended, and deletes those that ended before it; `forget` deletes the last ones.

    snapshots of a VM and owner            are
    -------------------------------------  --------------------------------------------
    not ended, of another epoch            of a manager that was killed: deleted at `begin`
    ended                                  the mark; until a later epoch has ended

EBS direct knows blocks of 512 KiB, and says for each only whether it may differ: a superset. A block that the service
does not list as changed is the same in both. Each block that is read is checked against the checksum that comes along.
"""

from base64 import b64decode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from secrets import token_hex

from drsim.core.errors import PlatformError
from drsim.core.units import Ns
from drsim.real.aws import tags
from drsim.real.aws.machines import Machines
from drsim.real.aws.session import Facts, Session
from drsim.real.ports import Area, DiskId, Epoch, NotFound, Untrusted
from drsim.spec.aws import SECOND

BLOCK = 512 << 10
PAGE = 1000
"""Blocks asked for at a time."""


class AwsChanges:
    """Snapshots and EBS direct."""

    def __init__(self, session: Session, machines: Machines) -> None:
        self.session, self.machines = session, machines
        self._tokens: dict[tuple[str, int], str] = {}
        """Of the blocks of the epochs that are read, by snapshot and number."""

    async def begin(self, vm: str, owner: str) -> Epoch:
        """The port's. Ready when all snapshots are completed, which at AWS takes minutes for the first."""
        machine = await self.machines.one(vm)
        await self._delete([s for s in await self._mine(owner, vm=vm) if tags.ENDED not in tags.read(s)])
        epoch = token_hex(8)

        marks = tags.written(owner=owner, vm=vm, name=f"{vm}-{epoch}", epoch=epoch)

        async def taken_already() -> bool:
            return bool(await self._mine(owner, epoch=epoch))

        await self.session.ask(
            "CreateSnapshots", InstanceSpecification={"InstanceId": machine.id, "ExcludeBootVolume": False},
            Description=f"drsim epoch of {vm}", TagSpecifications=[tags.on("snapshot", marks)], unless=taken_already,
        )  # fmt: skip

        async def look() -> list[Facts] | None:
            found = await self._mine(owner, epoch=epoch)
            if any(s["State"] == "error" for s in found):
                raise PlatformError(f"a snapshot of {vm} failed", place=self.session.place)
            whole = {s["VolumeId"] for s in found} >= set(machine.places.values())
            return found if whole and all(s["State"] == "completed" for s in found) else None

        found = await self.session.until(f"the snapshots of {vm} are completed", look)
        order = list(machine.places.values())
        found = sorted((s for s in found if s["VolumeId"] in order), key=lambda s: order.index(s["VolumeId"]))
        taken = max((int(s["StartTime"].timestamp() * SECOND) for s in found), default=0)
        return Epoch(vm, f"{owner}/{epoch}", Ns(taken), tuple((DiskId(s["VolumeId"]), s["SnapshotId"]) for s in found))

    async def changed(self, epoch: Epoch, disk: DiskId, since: str | None) -> Sequence[Area]:
        """The port's, in whole blocks."""
        mark = self._mark(epoch, disk)
        if since is None:
            blocks = await self._pages("ListSnapshotBlocks", "Blocks", SnapshotId=mark)
        else:
            try:
                blocks = await self._pages(
                    "ListChangedBlocks", "ChangedBlocks", FirstSnapshotId=since, SecondSnapshotId=mark
                )
            except NotFound as error:
                raise Untrusted(f"the snapshot {since} is gone", place=self.session.place, hint=WHOLE) from error
            except PlatformError as error:
                if reason_of(error) not in ("UNRELATED_SNAPSHOTS", "INVALID_SNAPSHOT_ID"):
                    raise
                raise Untrusted(error.message, place=self.session.place, hint=WHOLE) from error
        for block in blocks:
            here = block.get("BlockToken") or block.get("SecondBlockToken")
            if here:
                self._tokens[mark, block["BlockIndex"]] = here
        return areas(sorted(block["BlockIndex"] for block in blocks))

    async def _pages(self, operation: str, part: str, **given: object) -> list[Facts]:
        return await self.session.all(operation, part, MaxResults=PAGE, **given)

    async def read(self, epoch: Epoch, disk: DiskId, area: Area) -> bytes:
        """The port's. Blocks that the snapshot does not have are zeros."""
        mark, parts = self._mark(epoch, disk), []
        first, last = area.offset // BLOCK, -(-(area.offset + area.length) // BLOCK)
        if not all((mark, n) in self._tokens for n in range(first, last)):
            for block in await self._pages("ListSnapshotBlocks", "Blocks", SnapshotId=mark, StartingBlockIndex=first):
                self._tokens[mark, block["BlockIndex"]] = block["BlockToken"]
        for n in range(first, last):
            token = self._tokens.get((mark, n))
            parts.append(bytes(BLOCK) if token is None else await self._block(mark, n, token))
        start = area.offset - first * BLOCK
        return b"".join(parts)[start : start + area.length]

    async def _block(self, mark: str, n: int, token: str) -> bytes:
        for last in (False, True):  # once more: what was damaged on its way is right the next time
            answer = await self.session.ask("GetSnapshotBlock", SnapshotId=mark, BlockIndex=n, BlockToken=token)
            data: bytes = answer["BlockData"]
            if answer["ChecksumAlgorithm"] == "SHA256" and sha256(data).digest() == b64decode(answer["Checksum"]):
                return data
            if last:
                raise PlatformError(f"block {n} of {mark} does not verify", place=self.session.place)
        raise AssertionError

    async def end(self, epoch: Epoch) -> None:
        """The port's. Its snapshots are the marks, and stay until a later epoch has ended."""
        owner, _, id_ = epoch.id.rpartition("/")
        for mark in (mark for _, mark in epoch.marks):
            self._tokens = {key: token for key, token in self._tokens.items() if key[0] != mark}
        mine = await self._mine(owner, vm=epoch.vm)
        here = [s["SnapshotId"] for s in mine if tags.read(s).get(tags.EPOCH) == id_]
        if here:
            await self.session.ask("CreateTags", Resources=here, Tags=tags.listed({tags.ENDED: "yes"}))
            await self._delete([s for s in mine if tags.ENDED in tags.read(s) and s["SnapshotId"] not in here])

    async def forget(self, vm: str, owner: str) -> None:
        """Delete all snapshots of an owner's VM: what is protected no more."""
        await self._delete(await self._mine(owner, vm=vm))

    async def _mine(self, owner: str, **given: str) -> list[Facts]:
        found = tags.having(owner=owner, **given)
        return await self.session.all("DescribeSnapshots", "Snapshots", Filters=found, OwnerIds=["self"])

    async def _delete(self, snapshots: Iterable[Facts]) -> None:
        for snapshot in snapshots:
            try:
                await self.session.ask("DeleteSnapshot", SnapshotId=snapshot["SnapshotId"])
            except NotFound:
                continue

    def _mark(self, epoch: Epoch, disk: DiskId) -> str:
        mark = dict(epoch.marks).get(disk)
        if mark is None:
            raise NotFound(f"{disk} is not in this epoch of {epoch.vm}", place=self.session.place)
        return mark


WHOLE = "compare everything (forced sync)"


def reason_of(error: PlatformError) -> str:
    """Why EBS direct calls a request invalid."""
    return str(getattr(error.__cause__, "response", {}).get("Reason", ""))


def areas(blocks: Iterable[int]) -> list[Area]:
    """Areas of blocks that come in ascending order; neighbours are one."""
    found: list[Area] = []
    for n in blocks:
        if found and found[-1].offset + found[-1].length == n * BLOCK:
            found[-1] = Area(found[-1].offset, found[-1].length + BLOCK)
        else:
            found.append(Area(n * BLOCK, BLOCK))
    return found
