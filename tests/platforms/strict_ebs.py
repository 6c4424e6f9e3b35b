"""A strict EBS over moto's: volumes have content, snapshots have blocks, and EBS direct refuses what AWS refuses.

Theory of operation. moto keeps what EBS direct was given and checks nothing; its volumes and snapshots have no content.
Here a volume is a sparse file, a snapshot of it has the blocks that were ever written, and a volume made of a snapshot
has its content. Of EBS direct the service's manual is kept: states, block size and range, checksums, tokens of blocks,
pages, parents. Refused is only with errors that botocore's model of the service lists for the operation (asserted).

What moto leaves out of EC2's side of volumes is here as well: one attachment, one zone, no root of a VM that runs.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import botocore.session
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.ebs.models import Block, EBSBackend, EBSSnapshot, ebs_backends
from moto.ebs.responses import EBSResponse
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_block_store import EBSBackend as Volumes
from moto.ec2.models.elastic_block_store import Volume
from platforms import strict_ec2

BLOCK, GIB = 512 << 10, 1 << 30


class Rules:
    """The folder of the volumes; how many blocks a page has; what is told to whoever asks where a volume is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.page = folder, 1000
        self.damaged: set[str] = set()
        """Snapshots of which blocks are damaged on their way, once."""
        self.attached: list[Callable[[str, str], None]] = []
        """Are told of each volume and the instance that it was attached to."""

    def file(self, volume: str) -> Path:
        """The content of a volume, whichever bench it was made on."""
        return next((r.folder / volume for r in RULES if (r.folder / volume).exists()), self.folder / volume)


@cache
def _model() -> Any:
    return botocore.session.get_session().get_service_model("ebs")


class Refused(JsonRESTError):
    """As EBS direct says it."""

    def __init__(self, kind: str, message: str, reason: str, status: int) -> None:
        super().__init__(kind, message)
        self.code, self.description = status, json.dumps({"Message": message, "Reason": reason})


def refuse(operation: str, kind: str, message: str, reason: str) -> Refused:
    """An error that the service's model has for this operation."""
    shapes = {shape.name for shape in _model().operation_model(operation).error_shapes}
    assert kind in shapes, f"{operation} cannot answer {kind}"
    shape = _model().shape_for(kind)
    assert reason in shape.members["Reason"].enum, reason
    return Refused(kind, message, reason, shape.metadata["error"]["httpStatusCode"])


def digest(data: bytes) -> str:
    """As EBS direct tells it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def written(path: Path) -> Iterator[tuple[int, bytes]]:
    """The blocks of a sparse file that were written, by number."""
    fd, at, done = os.open(path, os.O_RDONLY), 0, -1
    try:
        size = os.fstat(fd).st_size
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(fd, start, os.SEEK_HOLE)
            for n in range(max(done + 1, start // BLOCK), -(-at // BLOCK)):
                yield n, os.pread(fd, BLOCK, n * BLOCK).ljust(BLOCK, b"\0")
                done = n
    finally:
        os.close(fd)


def _block(data: bytes) -> Block:
    return Block(data, digest(data), "SHA256", len(data))


# -- EBS direct -------------------------------------------------------------------------------------------------------


def _there(backend: EBSBackend, id_: str, operation: str) -> EBSSnapshot:
    if id_ not in backend.snapshots or id_ not in backend.ec2_backend.snapshots:
        raise refuse(operation, "ResourceNotFoundException", f"there is no snapshot {id_}", "SNAPSHOT_NOT_FOUND")
    return backend.snapshots[id_]


def _completed(backend: EBSBackend, id_: str, operation: str) -> EBSSnapshot:
    snapshot = _there(backend, id_, operation)
    if snapshot.status != "completed":
        raise refuse(operation, "ValidationException", f"{id_} is {snapshot.status}", "INVALID_SNAPSHOT_ID")
    return snapshot


def _start_snapshot(self: EBSResponse) -> ActionResult:
    backend, parent = self.ebs_backend, self._get_param("ParentSnapshotId")
    size, operation = self._get_param("VolumeSize"), "StartSnapshot"
    base: dict[int, Block] = {}
    if parent:
        above = _completed(backend, parent, operation)
        if above.volume_size > size:
            raise refuse(operation, "ValidationException", "smaller than its parent", "INVALID_VOLUME_SIZE")
        base = above.blocks
    made = backend.start_snapshot(size, self._get_param("Tags"), self._get_param("Description") or "")
    backend.ec2_backend.snapshots[made.snapshot_id].status = "pending"
    made.blocks, made.block_size, made.put = dict(base), BLOCK, 0  # type: ignore[attr-defined]
    return ActionResult(
        {"SnapshotId": made.snapshot_id, "OwnerId": made.account_id, "Status": "pending", "StartTime": made.start_time,
         "VolumeSize": made.volume_size, "BlockSize": BLOCK, "Tags": made.tags, "ParentSnapshotId": parent}
    )  # fmt: skip


def _put_snapshot_block(self: EBSResponse) -> ActionResult:
    operation, index, data = "PutSnapshotBlock", int(self._get_param("BlockIndex")), self._get_param("BlockData")
    snapshot = _there(self.ebs_backend, self._get_param("SnapshotId"), operation)
    length, said = self._get_param("DataLength"), self._get_param("Checksum")
    wrong = {
        "INVALID_SNAPSHOT_ID": snapshot.status != "pending",
        "INVALID_BLOCK": len(data) != BLOCK or int(length) != BLOCK
        or not 0 <= index < snapshot.volume_size * GIB // BLOCK,
        "INVALID_PARAMETER_VALUE": self._get_param("ChecksumAlgorithm") != "SHA256" or said != digest(data),
    }  # fmt: skip
    for reason in (reason for reason, holds in wrong.items() if holds):
        raise refuse(operation, "ValidationException", f"block {index} is refused: {reason}", reason)
    snapshot.blocks[index] = _block(data)
    snapshot.put += 1  # type: ignore[attr-defined]
    return ActionResult({"Checksum": said, "ChecksumAlgorithm": "SHA256"})


def _complete_snapshot(self: EBSResponse) -> ActionResult:
    backend, operation = self.ebs_backend, "CompleteSnapshot"
    snapshot = _there(backend, self._get_param("SnapshotId"), operation)
    count = int(self._get_param("ChangedBlocksCount"))
    if snapshot.status == "pending" and count not in (0, snapshot.put):  # type: ignore[attr-defined]
        message = f"{snapshot.put} blocks were put, not {count}"  # type: ignore[attr-defined]
        raise refuse(operation, "ValidationException", message, "INVALID_PARAMETER_VALUE")
    snapshot.status = backend.ec2_backend.snapshots[snapshot.snapshot_id].status = "completed"
    return ActionResult({"Status": "completed"})


def _get_snapshot_block(self: EBSResponse) -> ActionResult:
    operation, id_, index = "GetSnapshotBlock", self._get_param("SnapshotId"), int(self._get_param("BlockIndex"))
    snapshot = _completed(self.ebs_backend, id_, operation)
    block = snapshot.blocks.get(index)
    if block is None:
        raise refuse(operation, "ResourceNotFoundException", f"no block {index}", "SNAPSHOT_NOT_FOUND")
    if self._get_param("BlockToken") != block.block_token:
        raise refuse(operation, "ValidationException", "the token is another block's", "INVALID_BLOCK_TOKEN")
    data = block.block_data
    if id_ in RULES[-1].damaged:
        RULES[-1].damaged.discard(id_)
        data = bytes([data[0] ^ 1]) + data[1:]
    return ActionResult(
        {"DataLength": BLOCK, "BlockData": data, "Checksum": block.checksum, "ChecksumAlgorithm": "SHA256"}
    )  # fmt: skip


def _page(self: EBSResponse, operation: str, items: dict[int, Any]) -> tuple[list[int], str | None]:
    start, token = int(self._get_param("StartingBlockIndex") or 0), self._get_param("NextToken")
    if token is not None:
        if not str(token).isdecimal():
            raise refuse(operation, "ValidationException", "no token of a page", "INVALID_PAGE_TOKEN")
        start = int(token)
    left = [n for n in sorted(items) if n >= start]
    page = left[: min(RULES[-1].page, int(self._get_param("MaxResults") or 10_000))]
    return page, str(left[len(page)]) if len(left) > len(page) else None


def _list_changed_blocks(self: EBSResponse) -> ActionResult:
    backend, operation, first = self.ebs_backend, "ListChangedBlocks", self._get_param("FirstSnapshotId")
    second = _completed(backend, self._get_param("SecondSnapshotId"), operation)
    old = _completed(backend, first, operation).blocks if first else {}
    if first:
        ids = [backend.ec2_backend.snapshots[s].volume.id for s in (first, second.snapshot_id)]
        if ids[0] != ids[1] and not getattr(second, "put", 0):
            raise refuse(operation, "ValidationException", "snapshots of two volumes", "UNRELATED_SNAPSHOTS")
    new, changed = second.blocks, {}
    for n in old.keys() | new.keys():
        a, b = old.get(n), new.get(n)
        if a is None or b is None or a.block_data != b.block_data:
            changed[n] = {"BlockIndex": n} | ({"FirstBlockToken": a.block_token} if a else {})
            changed[n] |= {"SecondBlockToken": b.block_token} if b else {}
    page, following = _page(self, operation, changed)
    return ActionResult(
        {"ChangedBlocks": [changed[n] for n in page], "VolumeSize": second.volume_size, "BlockSize": BLOCK,
         "NextToken": following}
    )  # fmt: skip


def _list_snapshot_blocks(self: EBSResponse) -> ActionResult:
    operation = "ListSnapshotBlocks"
    snapshot = _completed(self.ebs_backend, self._get_param("SnapshotId"), operation)
    page, following = _page(self, operation, snapshot.blocks)
    blocks = [{"BlockIndex": n, "BlockToken": snapshot.blocks[n].block_token} for n in page]
    return ActionResult(
        {"Blocks": blocks, "VolumeSize": snapshot.volume_size, "BlockSize": BLOCK, "NextToken": following}
    )  # fmt: skip


# -- volumes ----------------------------------------------------------------------------------------------------------


def _create_volume(real: Callable[..., Volume]) -> Callable[..., Volume]:
    def create_volume(self: Any, *args: Any, **kwargs: Any) -> Volume:
        volume = real(self, *args, **kwargs)
        with RULES[-1].file(volume.id).open("wb") as file:
            file.truncate(int(volume.size) * GIB)
            if volume.snapshot_id:
                for n, block in (
                    ebs_backends[self.account_id][self.region_name].snapshots[volume.snapshot_id].blocks.items()
                ):
                    file.seek(n * BLOCK)
                    file.write(block.block_data)
        return volume

    return create_volume


def _delete_volume(real: Callable[..., Volume]) -> Callable[..., Volume]:
    def delete_volume(self: Any, volume_id: str) -> Volume:
        volume = real(self, volume_id)
        RULES[-1].file(volume_id).unlink()
        return volume

    return delete_volume


def _create_snapshot(real: Callable[..., Any]) -> Callable[..., Any]:
    def create_snapshot(self: Any, volume_id: str, *args: Any, **kwargs: Any) -> Any:
        made = real(self, volume_id, *args, **kwargs)
        direct = EBSSnapshot(self.account_id, made)
        direct.blocks = {n: _block(data) for n, data in written(RULES[-1].file(volume_id))}
        direct.block_size = BLOCK
        made.status = direct.status = "pending"
        ebs_backends[self.account_id][self.region_name].snapshots[made.id] = direct
        return made

    return create_snapshot


def _describe_snapshots(real: Callable[..., Any]) -> Callable[..., Any]:
    def describe_snapshots(self: Any, *args: Any, **kwargs: Any) -> Any:
        """What is pending is completed when it is looked at for the second time."""
        found = real(self, *args, **kwargs)
        for snapshot in found:
            if snapshot.status == "pending" and snapshot.volume.id in self.volumes:
                if getattr(snapshot, "seen", False):
                    direct = ebs_backends[self.account_id][self.region_name].snapshots[snapshot.id]
                    snapshot.status = direct.status = "completed"
                snapshot.seen = True
        return found

    return describe_snapshots


def _attach_volume(real: Callable[..., Any]) -> Callable[..., Any]:
    def attach_volume(self: Any, volume_id: str, instance_id: str, device_path: str, *args: Any, **kwargs: Any) -> Any:
        volume, instance = self.get_volume(volume_id), self.get_instance(instance_id)
        if volume.attachment:
            raise EC2ClientError("VolumeInUse", f"{volume_id} is already attached to an instance")
        if volume.zone.name != instance.placement.zone:
            raise EC2ClientError("InvalidVolume.ZoneMismatch", f"{volume_id} is not in the zone of {instance_id}")
        if device_path in instance.block_device_mapping:
            message = f"Attachment point {device_path} is already in use"
            raise EC2ClientError("InvalidParameterValue", message)
        if instance.state not in ("running", "stopped"):
            raise EC2ClientError("IncorrectState", f"instance {instance_id} is not 'running' or 'stopped'")
        made = real(self, volume_id, instance_id, device_path, *args, **kwargs)
        for told in (told for rules in RULES for told in rules.attached):
            told(volume_id, instance_id)
        return made

    return attach_volume


def _detach_volume(real: Callable[..., Any]) -> Callable[..., Any]:
    def detach_volume(self: Any, volume_id: str, instance_id: str, device_path: str) -> Any:
        volume = self.get_volume(volume_id)
        if volume.attachment is None:
            raise EC2ClientError("IncorrectState", f"Volume '{volume_id}' is in the 'available' state.")
        instance = volume.attachment.instance
        if instance.state == "running" and volume.attachment.device == instance.root_device_name:
            message = f"Unable to detach root volume '{volume_id}' from instance '{instance.id}'"
            raise EC2ClientError("OperationNotPermitted", message)
        return real(self, volume_id, instance.id, volume.attachment.device)

    return detach_volume


RULES: list[Rules] = []
"""Those that hold, last."""


@contextmanager
def strict(folder: Path) -> Iterator[Rules]:
    """These rules for all of moto in this process; within them, once more with another folder."""
    RULES.append(Rules(folder))
    with ExitStack() as patched:
        patched.callback(RULES.pop)
        if len(RULES) == 1:
            for method in (_start_snapshot, _put_snapshot_block, _complete_snapshot, _get_snapshot_block,
                           _list_changed_blocks, _list_snapshot_blocks):  # fmt: skip
                patched.enter_context(patch.object(EBSResponse, method.__name__[1:], method))
            for made in (_create_volume, _delete_volume, _create_snapshot, _describe_snapshots, _attach_volume,
                         _detach_volume):  # fmt: skip
                name = made.__name__[1:]
                patched.enter_context(patch.object(Volumes, name, made(getattr(Volumes, name))))
            patched.enter_context(strict_ec2.strict())
        yield RULES[-1]
