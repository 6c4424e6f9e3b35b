"""`drsim doctor` against AWS, as moto plays it: each thing that may be wrong has a line with what to do."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from platforms.aws_arm import BUCKET, AwsBench, aws_bench, cloud, guarded
from platforms.test_aws import user

from drsim.core.units import SECOND
from drsim.real import doctor
from drsim.real.aws.calls import policy
from drsim.real.clock import now_ns
from drsim.real.doctor import Examination, Line
from drsim.real.ports import Limits
from drsim.spec.sites import PlatformSite

LIMITS = Limits(call=20.0, attempts=2, first=0.01, most=0.02)
GOOD = {"stores": ["gp3"], "networks": ["lan", "test"], "hosts": ["host-1", "host-2"]}
NO = "0123456789abcdef0"


async def examined(bench: AwsBench, *, self_test: bool = False, site: dict[str, Any] = GOOD, **spec: Any) -> list[Line]:
    """What doctor says. `spec`: of the platform, other than it is."""
    plain = json.loads(bench.spec(**spec).model_dump_json(exclude_none=True))
    found = Examination("cloud", PlatformSite.model_validate({"platform": {"kind": "aws", **plain}, **site}),
                        bench.folder, LIMITS)  # fmt: skip
    try:
        await found.run(self_test=self_test)
    finally:
        await found.close()
    assert all(line.hint for line in found.lines if line.fine is False)
    assert "very-secret" not in str(found.lines)
    return found.lines


def wrong(lines: list[Line]) -> list[str]:
    return [f"{line.check}: {line.what}" for line in lines if line.fine is False]


def on_aws(proof: Callable[[AwsBench], Awaitable[None]]) -> None:
    """On a fresh bench."""

    async def run() -> None:
        async with aws_bench() as bench:
            await proof(bench)
            await bench.platform.close()

    asyncio.run(run())


def test_all_is_well_and_the_self_test_leaves_nothing() -> None:
    async def proof(bench: AwsBench) -> None:
        lines = await examined(bench)
        assert wrong(lines) == []
        assert bench.changes() == 0
        assert [line.check for line in lines if line.check != "hosts" and line.check != "networks"] == [
            "reachable", "login", "privileges", "version", "clock", "datastores", "capacity", "appliance",
        ]  # fmt: skip
        lines = await examined(bench, self_test=True)
        assert wrong(lines) == []
        assert (lines[-1].check, lines[-1].fine) == ("self-test", True)
        assert bench.changes() > 0
        assert [vm.name for vm in await bench.platform.inventory.vms()] == ["vra"]
        left = await asyncio.to_thread(cloud(bench.cloud.region).ec2.describe_volumes)
        assert not [v for v in left["Volumes"] if any(tag["Key"].startswith("drsim") for tag in v.get("Tags", []))]

    on_aws(proof)


@pytest.mark.parametrize(
    ("spec", "site", "words"),
    [
        ({"zone": "eu-west-1z"}, {}, "hosts: host-1 takes no VMs"),
        ({"hosts": {"host-1": {"dedicated": f"h-{NO}"}}}, {}, "hosts: host-1 takes no VMs"),
        ({"images": {"bios": f"ami-{NO}"}}, {}, "login: whether the images are there"),
        ({"security_groups": [f"sg-{NO}"]}, {}, "login: whether the security groups are there"),
        ({"bucket": {"name": "nobodys-bucket"}}, {}, "login: which there are"),
        ({"appliance": f"i-{NO}"}, {}, f"login: no VM is called i-{NO}"),
        ({"networks": {"lan": f"subnet-{NO}"}}, {}, "networks: lan is not there"),
        ({}, {"networks": ["dmz"]}, "networks: dmz is not there"),
        ({}, {"stores": ["gold"]}, "datastores: gold is not there"),
        ({}, {"hosts": ["host-9"]}, "hosts: host-9 is not there"),
        ({}, {"room": "60 TiB"}, "capacity: gp3: "),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(spec: dict[str, Any], site: dict[str, Any], words: str) -> None:
    async def proof(bench: AwsBench) -> None:
        said = wrong(await examined(bench, self_test=True, site=GOOD | site, **spec))
        assert any(each.startswith(words) for each in said), said
        assert bench.changes() == 0

    on_aws(proof)


def test_nobody_listens_no_login_a_lost_host_a_late_clock_and_an_appliance_that_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def proof(bench: AwsBench) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
            assert [each.partition(":")[0] for each in wrong(await examined(bench, endpoint=nobody))] == ["reachable"]
        (bench.folder / "wrong").write_text("wrong-secret\n")
        (bench.folder / "wrong").chmod(0o600)
        with guarded():
            lines = await examined(bench, secret={"file": "wrong"})
        assert [each.partition(":")[0] for each in wrong(lines)] == ["login"]
        assert "wrong-secret" not in str(lines)
        await bench.lose_host("host-2")
        await asyncio.to_thread(bench.cloud.ec2.stop_instances, InstanceIds=[bench.appliance])
        monkeypatch.setattr(doctor, "now_ns", lambda: now_ns() + 90 * SECOND)
        said = wrong(await examined(bench))
        assert len(said) == 3, said
        assert said[0].startswith(("clock: 90.", "clock: 91."))
        assert said[1:] == ["hosts: host-2 takes no VMs", "appliance: vra is off"]

    on_aws(proof)


def test_actions_that_iam_does_not_allow_are_named() -> None:
    async def proof(bench: AwsBench) -> None:
        less = json.loads(policy(BUCKET))
        for statement in less["Statement"]:
            statement["Action"] = [
                a for a in statement["Action"] if a not in ("ec2:RunInstances", "ec2:DescribeImages")
            ]
        key, secret = await asyncio.to_thread(user, "doctor", json.dumps(less))
        (bench.folder / "less").write_text(secret)
        (bench.folder / "less").chmod(0o600)
        with guarded():
            lines = await examined(bench, access_key=key, secret={"file": "less"})
        said = [each for each in wrong(lines) if "ebs:" not in each]  # see test_aws._missing
        assert said == ["privileges: missing: ec2:DescribeImages", "privileges: missing: ec2:RunInstances"]
        assert secret not in str(lines)

    on_aws(proof)
