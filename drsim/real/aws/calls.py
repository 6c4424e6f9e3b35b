"""The table of calls: everything that drsim asks of AWS, what for, and what it needs to be allowed.

An operation that is not in here cannot be called; the least policy in the docs is generated from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

INSTANCE, VOLUME, SUBNET = "i-0123456789abcdef0", "vol-0123456789abcdef0", "subnet-0123456789abcdef0"
SNAPSHOT, INTERFACE, IMAGE = "snap-0123456789abcdef0", "eni-0123456789abcdef0", "ami-0123456789abcdef0"
_TAG = [{"Key": "drsim:name", "Value": "dry-run"}]


@dataclass(frozen=True, slots=True)
class Call:
    """An operation. `action`: what IAM calls it, where that is another name. `needs`: other actions that belong to it.

    `dry`: with which parameters EC2 is asked whether it would be allowed. `ours`: only on what carries drsim's tag.
    """

    service: str
    operation: str
    why: str
    changes: bool = False
    action: str = ""
    dry: Mapping[str, Any] | None = None
    ours: bool = False
    needs: tuple[str, ...] = field(default=())

    @property
    def allowed_by(self) -> str:
        """The action of IAM that allows it."""
        return f"{self.service}:{self.action or self.operation}"


def _ec2(operation: str, why: str, dry: Mapping[str, Any] | None = None, **more: Any) -> Call:
    return Call("ec2", operation, why, dry={} if dry is None else dry, **more)


CALLS = (
    Call("sts", "GetCallerIdentity", "log in"),
    _ec2("DescribeAvailabilityZones", "whether the zone takes VMs"),
    _ec2("DescribeHosts", "whether a dedicated host takes VMs"),
    _ec2("DescribeImages", "whether the images are there"),
    _ec2("DescribeInstances", "find VMs"),
    _ec2("DescribeInstanceStatus", "whether a guest is up"),
    _ec2("DescribeNetworkInterfaces", "find fixed addresses"),
    _ec2("DescribeSecurityGroups", "whether the security groups are there"),
    _ec2("DescribeSnapshots", "find epochs"),
    _ec2("DescribeSubnets", "networks, and which addresses they have"),
    _ec2("DescribeVolumes", "find disks"),
    _ec2("RunInstances", "make a VM", {"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1}, changes=True),
    _ec2("StartInstances", "power on", {"InstanceIds": [INSTANCE]}, changes=True, ours=True),
    _ec2("StopInstances", "power off, shut down", {"InstanceIds": [INSTANCE]}, changes=True, ours=True),
    _ec2("TerminateInstances", "delete a VM", {"InstanceIds": [INSTANCE]}, changes=True, ours=True),
    _ec2("ModifyInstanceAttribute", "keep a VM's disks when it is deleted", {"InstanceId": INSTANCE},
         changes=True, ours=True),
    _ec2("CreateVolume", "make a disk", {"AvailabilityZone": "zone", "Size": 1}, changes=True),
    _ec2("AttachVolume", "attach", {"VolumeId": VOLUME, "InstanceId": INSTANCE, "Device": "/dev/sdf"}, changes=True),
    _ec2("DetachVolume", "detach", {"VolumeId": VOLUME}, changes=True),
    _ec2("DeleteVolume", "delete a disk", {"VolumeId": VOLUME}, changes=True, ours=True),
    _ec2("CreateNetworkInterface", "an adapter with a fixed address (re-IP)", {"SubnetId": SUBNET}, changes=True),
    _ec2("DeleteNetworkInterface", "delete it", {"NetworkInterfaceId": INTERFACE}, changes=True, ours=True),
    _ec2("CreateSnapshots", "begin an epoch", {"InstanceSpecification": {"InstanceId": INSTANCE}}, changes=True),
    _ec2("DeleteSnapshot", "delete an old epoch", {"SnapshotId": SNAPSHOT}, changes=True, ours=True),
    _ec2("CreateTags", "an epoch has ended; and all tags of what is made",
         {"Resources": [VOLUME], "Tags": _TAG}, changes=True),
    _ec2("DeleteTags", "a VM is whole", {"Resources": [INSTANCE], "Tags": _TAG}, changes=True, ours=True),
    Call("ebs", "ListChangedBlocks", "what changed between two epochs"),
    Call("ebs", "ListSnapshotBlocks", "what an epoch holds"),
    Call("ebs", "GetSnapshotBlock", "read it"),
    Call("s3", "PutObject", "write a part of a journal", changes=True,
         needs=("s3:PutObjectRetention",)),
    Call("s3", "GetObject", "read it back"),
    Call("s3", "HeadObject", "whose it is, and how it was cut", action="GetObject"),
    Call("s3", "ListObjectsV2", "which there are", action="ListBucket"),
    Call("s3", "DeleteObject", "delete one", changes=True, needs=("s3:DeleteObjectVersion",)),
)  # fmt: skip
BY_NAME: Mapping[str, Call] = {call.operation: call for call in CALLS}


def policy(bucket: str = "BUCKET", prefix: str = "drsim/") -> str:
    """The least policy of IAM that allows all calls, as JSON."""

    def actions(*services: str, ours: bool = False) -> list[str]:
        wanted = [c for c in CALLS if c.service in services and c.ours == ours]
        return sorted({a for c in wanted for a in (c.allowed_by, *c.needs)} - {"sts:GetCallerIdentity"})

    in_bucket = actions("s3")
    in_bucket.remove("s3:ListBucket")
    tagged = {"StringLike": {"aws:ResourceTag/drsim:owner": "*"}}
    statements: list[dict[str, Any]] = [
        {"Sid": "Look", "Action": [a for a in actions("ec2") if ":Describe" in a], "Resource": "*"},
        {"Sid": "Make", "Action": [a for a in actions("ec2") if ":Describe" not in a], "Resource": "*"},
        {"Sid": "ChangeWhatIsOurs", "Action": actions("ec2", ours=True), "Resource": "*", "Condition": tagged},
        {"Sid": "ReadEpochs", "Action": actions("ebs"), "Resource": "arn:aws:ec2:*::snapshot/*"},
        {"Sid": "Journal", "Action": in_bucket, "Resource": f"arn:aws:s3:::{bucket}/{prefix}*"},
        {"Sid": "JournalList", "Action": ["s3:ListBucket"], "Resource": f"arn:aws:s3:::{bucket}"},
    ]  # fmt: skip
    made = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **each} for each in statements]}
    return json.dumps(made, indent=2)
