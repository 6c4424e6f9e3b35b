"""The arm AWS: moto on loopback, strict; volumes are files of a folder, which QEMU boots and the appliance finds."""

import asyncio
import atexit
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
from botocore.config import Config
from moto import settings
from moto.backends import get_backend
from moto.core.authorization import ActionAuthenticatorMixin
from platforms import strict_ebs
from platforms.aws_server import Server

from drsim.real.aws.connect import connect
from drsim.real.ports import DiskId, Limits, Platform
from drsim.spec.aws import AwsSite
from drsim.verify.conformance.bench import Arm, Bench, Label, Trouble
from drsim.verify.conformance.boot import boot

REGIONS, ACCOUNT, BUCKET = ("eu-west-1", "eu-central-1"), "123456789012", "drsim-journals"
"""The bucket of the first region; of others with their name."""
ZONE = f"{REGIONS[0]}a"
LIMITS = Limits(call=120.0, attempts=4, first=0.002, most=0.02)
LABELS = {"locator": Label.NEVER, "changes": Label.FAKE}


class Cloud:
    """A region of the one server of this process, with what does not change: two subnets, an image, a bucket."""

    def __init__(self, region: str) -> None:
        self.server, self.region, self.zone = server(), region, f"{region}a"
        self.bucket = BUCKET if region == REGIONS[0] else f"{BUCKET}-{region}"
        self.ec2 = self.client("ec2")
        vpc = self.ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
        self.subnets: dict[str, str] = {}
        for n, name in enumerate(("lan", "test")):
            made = self.ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.20.{n}.0/24", AvailabilityZone=self.zone)
            self.subnets[name] = made["Subnet"]["SubnetId"]
        self.group = self.ec2.create_security_group(GroupName="drsim", Description="VMs", VpcId=vpc)["GroupId"]
        images = self.ec2.describe_images()["Images"]
        self.image = next(i["ImageId"] for i in images if i["RootDeviceName"] == "/dev/sda1")
        self.client("s3").create_bucket(
            Bucket=self.bucket, ObjectLockEnabledForBucket=True,
            CreateBucketConfiguration={"LocationConstraint": region},
        )  # fmt: skip

    def client(self, service: str, **more: Any) -> Any:
        """Of an administrator, who is never troubled on purpose."""
        given = {"aws_access_key_id": "admin", "aws_secret_access_key": "admin"} | more
        once = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        return boto3.Session(region_name=self.region, **given).client(
            service, endpoint_url=self.server.url, config=once
        )

    @property
    def backend(self) -> Any:
        """moto's EC2."""
        return get_backend("ec2")[ACCOUNT][self.region]

    def objects(self) -> Any:
        """What moto's bucket holds, by key."""
        return get_backend("s3")[ACCOUNT]["aws"].buckets[self.bucket].keys

    def clear(self) -> None:
        """Nothing is left of an earlier bench."""
        ec2 = self.backend
        for part in (ec2.reservations, ec2.volumes, ec2.attachments, ec2.enis, ec2.hosts, ec2.snapshots):
            part.clear()  # of snapshots also those of moto's images: hundreds, which every look would go through
        get_backend("ebs")[ACCOUNT][self.region].snapshots.clear()
        self.objects().clear()
        for subnet in self.subnets.values():
            ec2.get_subnet(subnet)._subnet_ips.clear()


@cache
def server() -> Server:
    """The one of this process."""
    made = Server()
    atexit.register(made.close)
    return made


def cloud(region: str = REGIONS[0]) -> Cloud:
    """A region of it."""
    return _cloud(region)


_cloud = cache(Cloud)


@contextmanager
def guarded() -> Iterator[None]:
    """IAM is asked about every call, with its signature."""
    settings.INITIAL_NO_AUTH_ACTION_COUNT, ActionAuthenticatorMixin.request_count = 0, 0
    try:
        yield
    finally:
        settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")


class AwsBench:
    """A fresh site at AWS, in a region of its own."""

    host, other_host, store, network, test_network = "host-1", "host-2", "gp3", "lan", "test"
    address, mask, stride = "10.20.0.200", "255.255.255.0", 4

    def __init__(self, folder: Path, rules: strict_ebs.Rules) -> None:
        self.folder, self.rules, self.cloud = folder, rules, cloud(REGIONS[len(strict_ebs.RULES) - 1])
        self.front = self.cloud.server.front
        self.appliance = ""
        self.platform: Platform

    async def open(self) -> None:
        """Hosts, the appliance, credentials; and connect."""
        self.cloud.clear()
        (self.folder / "secret").write_text("very-secret\n")
        (self.folder / "secret").chmod(0o600)
        await asyncio.to_thread(self._build)
        self.front.clear()
        await self.restart()

    def _build(self) -> None:
        ec2 = self.cloud.ec2
        self.hosts = ec2.allocate_hosts(AvailabilityZone=self.cloud.zone, InstanceType="m5.large", Quantity=2)[
            "HostIds"
        ]
        launched = ec2.run_instances(
            ImageId=self.cloud.image, MinCount=1, MaxCount=1, InstanceType="m5.large",
            SubnetId=self.cloud.subnets["lan"],
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "vra"}]}],
        )  # fmt: skip
        self.appliance = launched["Instances"][0]["InstanceId"]

    def spec(self, **changes: Any) -> AwsSite:
        """The site's file."""
        return AwsSite.model_validate({
            "region": self.cloud.region, "zone": self.cloud.zone, "endpoint": self.cloud.server.url,
            "access_key": "AKIADRSIM", "secret": {"file": "secret"}, "appliance": self.appliance,
            "networks": self.cloud.subnets,
            "security_groups": [self.cloud.group],
            "hosts": {n: {"dedicated": h} for n, h in zip((self.host, self.other_host), self.hosts, strict=True)},
            "stores": {self.store: {"type": "gp3", "encrypted": False}},
            "types": {"m5.large": {"cpus": 2, "memory": 8 << 30}, "t2.micro": {"cpus": 1, "memory": 1 << 30}},
            "images": {"bios": self.cloud.image}, "bucket": {"name": self.cloud.bucket}, "poll": 20_000_000,
        } | changes)  # fmt: skip

    async def restart(self) -> Platform:
        """The bench's."""
        self.platform = await self.connect()
        return self.platform

    async def connect(self, *, limits: Limits = LIMITS, **changes: Any) -> Platform:
        """Once more, with another site's file if need be."""
        sysfs, dev = self.machine()
        return await connect(self.spec(**changes), self.folder, limits=limits, sysfs=sysfs, dev=dev)

    def machine(self) -> tuple[Path, Path]:
        """What the appliance's /sys and /dev would show now: an NVMe controller for each volume."""
        sysfs, dev = self.folder / "sys", self.folder / "dev"
        (sysfs / "devices/virtual/dmi/id").mkdir(parents=True, exist_ok=True)
        (sysfs / "devices/virtual/dmi/id/board_asset_tag").write_text(f"{self.appliance}\n")
        dev.mkdir(exist_ok=True)
        return sysfs, dev

    def plugged(self, volume: str, instance: str) -> None:
        """A volume appears in the appliance."""
        if instance == self.appliance:
            sysfs, dev = self.machine()
            n = len(list(dev.iterdir()))
            (sysfs / f"class/nvme/nvme{n}").mkdir(parents=True)
            (sysfs / f"class/nvme/nvme{n}/serial").write_text(volume.replace("-", "") + "\n")
            (dev / f"nvme{n}n1").symlink_to(self.rules.file(volume))

    def trouble(self, trouble: Trouble, times: int = 1, skip: int = 0) -> None:
        """The bench's."""
        self.front.expect(trouble, times, skip)

    def changes(self) -> int:
        """The bench's."""
        return self.front.changes

    async def lose_host(self, name: str) -> None:
        """The bench's: EC2 says of it what it says of a host that failed."""
        dedicated = dict(zip((self.host, self.other_host), self.hosts, strict=True))[name]
        self.cloud.backend.hosts[dedicated].state = "permanent-failure"

    async def move_vm(self, name: str, host: str) -> None:
        """The bench's: EC2 says that it is on another dedicated host."""
        dedicated = dict(zip((self.host, self.other_host), self.hosts, strict=True))[host]
        found = await asyncio.to_thread(
            self.cloud.ec2.describe_instances,
            Filters=[{"Name": "tag:Name", "Values": [name]}, {"Name": "instance-state-name", "Values": ["stopped"]}],
        )  # fmt: skip
        for id_ in [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]]:
            self.cloud.backend.get_instance(id_).placement.host_id = dedicated

    async def refused(self) -> Platform:
        """The bench's: the key is of nobody."""
        (self.folder / "wrong").write_text("wrong-secret\n")
        (self.folder / "wrong").chmod(0o600)
        with guarded():
            return await self.connect(secret={"file": "wrong"})

    async def booted(self, vm: str) -> str:
        """The bench's: what EC2 says is at the root of the instance that has the name and runs."""
        ec2 = self.cloud.ec2
        found = await asyncio.to_thread(
            ec2.describe_instances,
            Filters=[{"Name": "tag:Name", "Values": [vm]}, {"Name": "instance-state-name", "Values": ["running"]}],
        )  # fmt: skip
        (instance,) = [i for r in found["Reservations"] for i in r["Instances"]]
        places = {m["DeviceName"]: m["Ebs"]["VolumeId"] for m in instance["BlockDeviceMappings"]}
        return await boot(self.rules.file(places[instance["RootDeviceName"]]))

    async def fill(self, disk: DiskId, content: bytes) -> None:
        """The bench's."""
        with self.rules.file(disk).open("r+b") as file:
            file.write(content)

    async def content(self, disk: DiskId, length: int) -> bytes:
        """The bench's."""
        with self.rules.file(disk).open("rb") as file:
            return file.read(length)


@asynccontextmanager
async def open_aws() -> AsyncIterator[Bench]:
    """Opens one."""
    async with aws_bench() as bench:
        yield bench


@asynccontextmanager
async def aws_bench() -> AsyncIterator[AwsBench]:
    """Opens one, for tests that know what it is."""
    with TemporaryDirectory() as folder, strict_ebs.strict(Path(folder)) as rules:
        bench = AwsBench(Path(folder), rules)
        rules.attached.append(bench.plugged)
        await bench.open()
        yield bench


AWS = Arm("aws", open_aws, Label.SIMULATOR, labels=LABELS, every=24, lacks=frozenset())
