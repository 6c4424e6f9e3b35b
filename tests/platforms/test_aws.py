"""AWS: what only AWS has. What every platform promises is in the conformance suite (`test_conformance.py`)."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from live import SPEC
from platforms.aws_arm import BUCKET, ZONE, AwsBench, aws_bench, cloud, guarded
from platforms.strict_ebs import BLOCK
from pydantic import ValidationError
from real.test_journal_copy import Site

from drsim.core.errors import DrsimError, PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.aws.calls import CALLS, policy
from drsim.real.aws.changes import AwsChanges
from drsim.real.aws.objects import S3Objects
from drsim.real.aws.session import verdict
from drsim.real.patience import Verdict
from drsim.real.ports import (
    Area,
    LoginRefused,
    NewVm,
    NotAllowed,
    NotFound,
    Power,
    QuotaReached,
    Taken,
    Unsupported,
    Untrusted,
)  # fmt: skip
from drsim.spec.aws import AwsSite
from drsim.verify.conformance.bench import Trouble
from drsim.verify.conformance.claims import OWNER, SIZE, a_disk, a_vm
from drsim.verify.conformance.trouble import made_once, make, unmake

ROOT = Path(__file__).resolve().parents[2]
Proof = Callable[[AwsBench], Awaitable[None]]


def on_aws(proof: Proof) -> Callable[[], None]:
    """A test on a fresh bench."""

    def test() -> None:
        async def run() -> None:
            async with aws_bench() as bench:
                await proof(bench)
                await bench.platform.close()

        asyncio.run(run())

    test.__name__, test.__doc__ = proof.__name__, proof.__doc__
    return test


def refused(code: str, work: Callable[[], Any]) -> None:
    """AWS refuses a call in this way."""
    with pytest.raises(ClientError) as caught:
        work()
    assert caught.value.response["Error"]["Code"] == code, caught.value


# -- the strict rules, through the real SDK ---------------------------------------------------------------------------


def digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@on_aws
async def test_ebs_direct_is_as_strict_as_its_manual(bench: AwsBench) -> None:
    await asyncio.to_thread(_strict, bench)


def _strict(bench: AwsBench) -> None:
    ebs, data = cloud().client("ebs"), b"a" * BLOCK

    def put(snapshot: str, index: int = 0, content: bytes = data, **more: Any) -> Any:
        given = {"DataLength": len(content), "Checksum": digest(content), "ChecksumAlgorithm": "SHA256"} | more
        return ebs.put_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockData=content, **given)

    one = ebs.start_snapshot(VolumeSize=1, ClientToken="one")
    assert ebs.start_snapshot(VolumeSize=1, ClientToken="one")["SnapshotId"] == one["SnapshotId"]
    refused("ConflictException", lambda: ebs.start_snapshot(VolumeSize=2, ClientToken="one"))
    first = one["SnapshotId"]
    put(first)
    refused("ValidationException", lambda: put(first, Checksum=digest(b"other")))
    refused("ValidationException", lambda: put(first, content=b"a" * 4096))
    refused("ValidationException", lambda: put(first, 2048))
    refused("ValidationException", lambda: ebs.list_snapshot_blocks(SnapshotId=first))
    refused("ValidationException", lambda: ebs.complete_snapshot(SnapshotId=first, ChangedBlocksCount=7))
    ebs.complete_snapshot(SnapshotId=first, ChangedBlocksCount=1)
    refused("ValidationException", lambda: put(first))
    refused("ResourceNotFoundException", lambda: put("snap-00000000000000000"))
    second = ebs.start_snapshot(VolumeSize=1, ParentSnapshotId=first)["SnapshotId"]
    for n in (1, 3, 5):
        put(second, n, bytes([n]) * BLOCK)
    ebs.complete_snapshot(SnapshotId=second, ChangedBlocksCount=3)
    bench.rules.page = 2
    listed = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)
    assert [b["BlockIndex"] for b in listed["ChangedBlocks"]] == [1, 3]
    assert all("FirstBlockToken" not in b for b in listed["ChangedBlocks"])
    more = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second, NextToken=listed["NextToken"])
    assert [b["BlockIndex"] for b in more["ChangedBlocks"]] == [5]
    assert "NextToken" not in more
    blocks = ebs.list_snapshot_blocks(SnapshotId=second)["Blocks"]
    assert [b["BlockIndex"] for b in blocks] == [0, 1], "what the parent has is inherited"
    got = ebs.get_snapshot_block(SnapshotId=second, BlockIndex=0, BlockToken=blocks[0]["BlockToken"])
    assert got["BlockData"].read() == data
    wrong = blocks[1]["BlockToken"]
    refused("ValidationException", lambda: ebs.get_snapshot_block(SnapshotId=second, BlockIndex=0, BlockToken=wrong))
    bench.trouble(Trouble.THROTTLED)
    refused("RequestThrottledException", lambda: ebs.start_snapshot(VolumeSize=1))


@on_aws
async def test_a_snapshot_has_its_volumes_content_and_a_volume_its_snapshots(bench: AwsBench) -> None:
    disk = await a_disk(bench, content=b"content" * 1000)

    def copy() -> str:
        ec2 = cloud().ec2
        snapshot = ec2.create_snapshot(VolumeId=disk)["SnapshotId"]
        return str(ec2.create_volume(SnapshotId=snapshot, AvailabilityZone=ZONE)["VolumeId"])

    made = await asyncio.to_thread(copy)
    assert await bench.content(made, 7000) == b"content" * 1000  # type: ignore[arg-type]


# -- who may, how much, and what is said ------------------------------------------------------------------------------


def user(name: str, allowed: str) -> tuple[str, str]:
    """A user of IAM with a policy; the key and its secret."""
    iam = cloud().client("iam")
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="drsim", PolicyDocument=allowed)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


async def _missing(bench: AwsBench) -> list[str]:
    """But of EBS direct: moto computes another signature of its calls than the SDK, and refuses all of them."""
    missing = (await bench.platform.inventory.about()).missing
    return [action for action in missing if not action.startswith("ebs:")]


@on_aws
async def test_the_policy_of_the_docs_is_enough_and_no_more_is_there(bench: AwsBench) -> None:
    """IAM is asked about every call; without one action it is named, before anything is changed."""
    key, secret = await asyncio.to_thread(user, "least", policy(BUCKET))
    (bench.folder / "least").write_text(secret)
    (bench.folder / "least").chmod(0o600)
    with guarded():
        bench.platform = await bench.connect(access_key=key, secret={"file": "least"})
        assert await _missing(bench) == []
        await make(bench)
        await made_once(bench, "with the least policy")
        changes = bench.platform.changes
        assert changes is not None
        epoch = await changes.begin("web", OWNER)
        await changes.end(epoch)
        await unmake(bench)
        assert isinstance(changes, AwsChanges)
        await changes.forget("web", OWNER)
        less = json.loads(policy(BUCKET))
        for statement in less["Statement"]:
            statement["Action"] = [a for a in statement["Action"] if a not in ("ec2:RunInstances", "ec2:CreateVolume")]
    key, secret = await asyncio.to_thread(user, "less", json.dumps(less))
    (bench.folder / "less").write_text(secret)
    (bench.folder / "less").chmod(0o600)
    with guarded():
        bench.platform = await bench.connect(access_key=key, secret={"file": "less"})
        assert await _missing(bench) == ["ec2:CreateVolume", "ec2:RunInstances"]
        with pytest.raises(NotAllowed, match="ec2:RunInstances") as caught:
            await a_vm(bench)
        assert secret not in f"{caught.value} {caught.value.__cause__}"
        assert not await bench.platform.inventory.vms(OWNER)


@on_aws
async def test_no_credentials_wrong_ones_and_a_secret_that_others_may_read(bench: AwsBench) -> None:
    with pytest.raises(LoginRefused) as caught:
        await bench.refused()
    assert "wrong-secret" not in f"{caught.value} {caught.value.__cause__!r}"
    (bench.folder / "secret").chmod(0o644)
    with pytest.raises(DrsimError, match="others may read the secret"):
        await bench.connect()


@on_aws
async def test_limits_and_lack_of_room_are_named(bench: AwsBench) -> None:
    for action, code, work in (
        ("RunInstances", "VcpuLimitExceeded", lambda: a_vm(bench)),
        ("RunInstances", "InsufficientInstanceCapacity", lambda: a_vm(bench)),
        ("CreateVolume", "VolumeLimitExceeded", lambda: a_disk(bench)),
    ):
        bench.front.refusals.append((action, 400, code))
        with pytest.raises(QuotaReached, match=code):
            await work()
    small = {bench.store: {"type": "gp3", "encrypted": False, "capacity": 1 << 30}}
    bench.platform = await bench.connect(stores=small)
    await a_disk(bench)
    with pytest.raises(QuotaReached, match="1 of 1 GiB"):
        await a_disk(bench, "another")
    (store,) = await bench.platform.inventory.stores()
    assert (store.capacity, store.free) == (1 << 30, 0)
    with pytest.raises(Unsupported, match="no instance type has 64 CPUs"):
        await bench.platform.hypervisor.create(NewVm("web", OWNER, bench.host, bench.store, cpus=64))


def test_what_is_asked_again() -> None:
    def error(code: str, status: int = 400) -> ClientError:
        return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "x")  # type: ignore[typeddict-item]

    assert verdict(error("RequestLimitExceeded", 503)) is Verdict.AGAIN
    assert verdict(error("SomethingNew", 500)) is Verdict.AGAIN
    assert verdict(error("InsufficientInstanceCapacity", 500)) is Verdict.GIVE_UP
    assert verdict(error("ExpiredToken")) is Verdict.LOG_IN
    assert verdict(error("UnauthorizedOperation", 403)) is Verdict.GIVE_UP
    assert verdict(ValueError("ours")) is Verdict.GIVE_UP


# -- VMs --------------------------------------------------------------------------------------------------------------


@on_aws
async def test_addresses_that_cannot_be_are_refused_before_anything_is_made(bench: AwsBench) -> None:
    await a_vm(bench)
    before = bench.changes()
    for nic, why in (
        (Nic("lan", "10.9.0.5"), "10.9.0.5 is no address of network lan"),
        (Nic("lan", "10.20.0.2"), "10.20.0.2 is no address"),
        (Nic("lan", "10.20.0.9", "255.255.0.0"), "255.255.0.0 is not the mask"),
        (Nic("lan", "10.20.0.9", "23"), "23 is not the mask"),
        (Nic("lan", "10.20.0.9", None, "10.20.0.254"), "10.20.0.254 is not the gateway"),
    ):
        with pytest.raises(PlatformError, match=why):
            await bench.platform.hypervisor.set_networks("web", [nic])
    assert bench.changes() == before
    await a_vm(bench, "app")
    two = [Nic("lan", "10.20.0.99", "24"), Nic("test", "10.20.1.99", "255.255.255.0")]
    await bench.platform.hypervisor.set_networks("app", two)
    assert (await bench.platform.inventory.vm("app")).addresses == ("10.20.0.99", "10.20.1.99")
    with pytest.raises(Taken, match="in use"):
        await bench.platform.hypervisor.set_networks("web", two)
    for name in ("web", "app"):
        await bench.platform.hypervisor.delete(name, OWNER)
    left = await asyncio.to_thread(cloud().ec2.describe_network_interfaces)
    assert [n["TagSet"] for n in left["NetworkInterfaces"] if n["TagSet"]] == []


@on_aws
async def test_a_first_disk_of_a_vm_that_runs_stays(bench: AwsBench) -> None:
    await make(bench)
    here, (disk,) = bench.platform, (await bench.platform.inventory.vm("web")).disks
    with pytest.raises(PlatformError, match="root volume"):
        await here.hypervisor.detach("web", disk)
    assert await here.hypervisor.shut_down("web", 5.0)
    assert (await here.inventory.vm("web")).power is Power.OFF
    await here.hypervisor.detach("web", disk)
    assert (await here.inventory.vm("web")).disks == ()


@on_aws
async def test_instances_of_others_that_share_a_name_are_told_apart(bench: AwsBench) -> None:
    def launch() -> list[str]:
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "twin"}]}]
        net = {"SubnetId": cloud().subnets["lan"]}
        made = cloud().ec2.run_instances(ImageId=cloud().image, MinCount=2, MaxCount=2, TagSpecifications=tags, **net)
        return [i["InstanceId"] for i in made["Instances"]]

    ids = await asyncio.to_thread(launch)
    here = bench.platform.inventory
    assert {vm.name for vm in await here.vms()} == {"vra", *ids}
    with pytest.raises(NotFound, match="several instances are called twin"):
        await here.vm("twin")
    assert (await here.vm(ids[0])).power is Power.ON
    with pytest.raises(NotFound):
        await here.vm("i-00000000000000000")


@on_aws
async def test_the_appliance_knows_its_disks_by_their_serial_numbers_and_itself(bench: AwsBench) -> None:
    here, disk = bench.platform, await a_disk(bench)
    await here.hypervisor.attach("vra", disk)
    assert (await here.locator.locate("vra", disk)).resolve() == bench.rules.file(disk)
    serial = next(p for p in bench.folder.glob("sys/class/nvme/*/serial") if disk[4:] in p.read_text())
    serial.write_text("vol0\n")
    with pytest.raises(NotFound, match="no NVMe controller"):
        await here.locator.locate("vra", disk)
    (bench.folder / "sys/devices/virtual/dmi/id/board_asset_tag").write_text("i-another\n")
    with pytest.raises(PlatformError, match="this machine is i-another, not the appliance"):
        await here.locator.locate("vra", disk)


# -- epochs -----------------------------------------------------------------------------------------------------------


@on_aws
async def test_epochs_come_in_pages_are_verified_and_leave_nothing(bench: AwsBench) -> None:
    changes, content = bench.platform.changes, bytearray(b"old." * (SIZE * 2 // 4))
    assert isinstance(changes, AwsChanges)
    bench.rules.page = 1
    await a_vm(bench)
    disk, other = await a_disk(bench, "one", content=bytes(content)), await a_disk(bench, "two", content=b"two")
    for each in (disk, other):
        await bench.platform.hypervisor.attach("web", each)
    one = await changes.begin("web", OWNER)
    assert await changes.changed(one, disk, None) == [Area(0, 4 * BLOCK)]
    await changes.end(one)
    content[BLOCK : BLOCK + 3] = content[3 * BLOCK : 3 * BLOCK + 3] = b"new"
    await bench.fill(disk, bytes(content))
    two = await changes.begin("web", OWNER)
    marks = dict(one.marks)
    areas = await changes.changed(two, disk, marks[disk])
    assert areas == [Area(BLOCK, BLOCK), Area(3 * BLOCK, BLOCK)]
    assert await changes.changed(two, other, marks[other]) == []
    bench.rules.damaged.add(dict(two.marks)[disk])
    assert await changes.read(two, disk, Area(BLOCK - 512, 1024)) == bytes(content[BLOCK - 512 : BLOCK + 512])
    with pytest.raises(Untrusted, match="two volumes"):
        await changes.changed(two, other, marks[disk])
    await changes.end(two)
    three = await changes.begin("web", OWNER)
    with pytest.raises(Untrusted, match="is gone"):
        await changes.changed(three, disk, marks[disk])
    assert await changes.changed(three, disk, dict(two.marks)[disk]) == []
    unfinished = {mark for _, mark in three.marks}
    four = await changes.begin("web", OWNER)
    left = await asyncio.to_thread(cloud().ec2.describe_snapshots, OwnerIds=["self"])
    assert {s["SnapshotId"] for s in left["Snapshots"]} == {mark for e in (two, four) for _, mark in e.marks}
    assert not unfinished & {mark for _, mark in four.marks}
    await changes.forget("web", OWNER)
    left = await asyncio.to_thread(cloud().ec2.describe_snapshots, OwnerIds=["self"])
    assert not left["Snapshots"]


@on_aws
async def test_an_epoch_whose_answer_is_lost_is_taken_once(bench: AwsBench) -> None:
    await make(bench)
    assert bench.platform.changes is not None
    bench.trouble(Trouble.LOST_ANSWER)
    epoch = await bench.platform.changes.begin("web", OWNER)
    assert len(epoch.marks) == 1
    left = await asyncio.to_thread(cloud().ec2.describe_snapshots, OwnerIds=["self"])
    assert len(left["Snapshots"]) == 1


# -- objects ----------------------------------------------------------------------------------------------------------


def objects_of(bench: AwsBench) -> S3Objects:
    assert isinstance(bench.platform.objects, S3Objects)
    return bench.platform.objects


@on_aws
async def test_an_object_is_written_once_verified_and_read_in_parts(bench: AwsBench) -> None:
    here, data = objects_of(bench), bytes(range(256)) * 1024
    assert await here.put("a/1", data)
    assert not await here.put("a/1", b"another")
    assert await here.put("a/0", b"")
    assert await here.get("a/1") == data
    assert await here.get("a/1", 100_000, 50_000) == data[100_000:150_000]
    assert await here.get("a/1", 262_000, 50_000) == data[262_000:]
    assert await here.get("a/1", 1 << 30) == await here.get("a/0") == b""
    assert await here.keys("a/") == ["a/0", "a/1"]
    for absent in (here.get("a/2"), here.get("b")):
        with pytest.raises(NotFound):
            await absent
    bucket = bench.cloud.objects()
    bucket["drsim/a/1"].value = data[:200_000] + b"!" + data[200_001:]
    assert await here.get("a/1", 0, 1000) == data[:1000]
    with pytest.raises(PlatformError, match="does not verify at byte 196608"):
        await here.get("a/1", 199_000, 2000)
    with pytest.raises(PlatformError, match=r"checksum|does not verify"):  # the whole is verified by the SDK as well
        await here.get("a/1")
    await here.delete("a/1")
    await here.delete("a/1")
    assert await here.keys("") == ["a/0"]


@on_aws
async def test_whatever_happens_to_a_write_it_is_ours_or_theirs_and_whole(bench: AwsBench) -> None:
    here = objects_of(bench)
    for n, trouble in enumerate(Trouble):
        bench.trouble(trouble)
        assert await here.put(f"key-{n}", b"ours"), trouble
        bench.trouble(trouble)
        assert not await here.put(f"key-{n}", b"theirs"), trouble
        assert await here.get(f"key-{n}") == b"ours"
    bench.trouble(Trouble.THROTTLED, 0)
    both = await asyncio.gather(*(here.put("race", bytes([n]) * 1000) for n in range(4)))
    assert sorted(both) == [False, False, False, True]
    assert await here.get("race") == bytes([both.index(True)]) * 1000


@on_aws
async def test_what_is_locked_stays(bench: AwsBench) -> None:
    bench.platform = await bench.connect(bucket={"name": BUCKET, "lock_days": 7, "lock": "COMPLIANCE"})
    here = objects_of(bench)
    assert await here.put("locked", b"for a week")
    with pytest.raises(NotAllowed):
        await here.delete("locked")
    assert await here.get("locked") == b"for a week"


@on_aws
async def test_a_checksum_that_is_wrong_is_refused_by_the_store(bench: AwsBench) -> None:
    def put() -> None:
        given = {"Bucket": BUCKET, "Key": "x", "ChecksumSHA256": digest(b"other")}
        cloud().client("s3").put_object(Body=b"this", **given)

    await asyncio.to_thread(refused, "BadDigest", put)


@on_aws
async def test_a_sites_journals_come_back_from_the_bucket(bench: AwsBench) -> None:
    """The folder is lost; what is fetched scrubs clean, and every checkpoint restores to what it was."""
    here = OnLoop(objects_of(bench), asyncio.get_running_loop())
    await asyncio.to_thread(_lose_and_fetch, bench.folder / "leeds", here)


class OnLoop:
    """An object store of another event loop: the proof below runs its own."""

    def __init__(self, objects: S3Objects, loop: asyncio.AbstractEventLoop) -> None:
        self._objects, self._loop = objects, loop

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            work = getattr(self._objects, name)(*args)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

        return call


def _lose_and_fetch(folder: Path, objects: Any) -> None:
    site = Site(folder, objects)
    for n in range(4):
        site.write()
        if n == 2:
            site.promote(2)
        if n % 2:
            site.round()
    before = site.images(folder / "images")
    site.lose()
    assert site.come_back() == {"crm": len(before)}
    assert site.images(folder / "images") == before
    assert list(site.journals.streams) == [SPEC.id]
    site.journals.close()


# -- what people write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"access_key": "AKIA"}, "access_key and secret together"),
        ({"network": "dmz"}, "network dmz is not one of lan"),
        ({"zone": "us-east-1a"}, "is not in region"),
        ({"images": {}}, "give an image"),
        ({"appliance": "vra"}, "pattern"),
    ],
)
def test_a_sites_file_that_cannot_be(change: dict[str, Any], why: str) -> None:
    good: dict[str, Any] = {
        "region": "eu-west-1", "zone": "eu-west-1a", "appliance": "i-0123456789abcdef0",
        "networks": {"lan": "subnet-0123456789abcdef0"}, "hosts": {"a": {}}, "stores": {"gp3": {}},
        "types": {"m5.large": {"cpus": 2, "memory": 8 << 30}}, "images": {"bios": "ami-0123456789abcdef0"},
    }  # fmt: skip
    AwsSite.model_validate(good)
    with pytest.raises(ValidationError, match=why):
        AwsSite.model_validate(good | change)


def test_the_guide_has_the_policy_and_every_call() -> None:
    guide = (ROOT / "docs/guides/aws.md").read_text()
    assert policy() in guide
    for call in CALLS:
        assert f"`{call.service}:{call.operation}`" in guide
