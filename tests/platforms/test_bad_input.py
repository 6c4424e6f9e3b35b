"""Bad input at a vCenter, and at a vCloud Director over one: said in words that an administrator acts on, by `doctor`
and by an operation's pre-check, before anything is changed."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from platforms.arms import BY_NAME, open_memory
from platforms.soap_proxy import Rule, fault
from platforms.test_pairs import Estate, protected, until
from platforms.tls import certify
from platforms.vcd_arm import cloud, spec_over
from platforms.vcenter import PASSWORD, VCenter, vcenter
from platforms.vsphere_arm import APPLIANCE, LIMITS, VsphereBench, certificates, spec_of

from drsim.core.errors import PlatformError
from drsim.core.names import Address
from drsim.core.recovery.plan import Kind
from drsim.real import inspection
from drsim.real.doctor import Examination, Line, conversions
from drsim.real.planning import Wish
from drsim.real.ports import NewVm
from drsim.real.vsphere import connect
from drsim.spec.base import Spec
from drsim.spec.platform import Secret
from drsim.spec.sites import PlatformSite

STORE, NETWORK, HOST = VsphereBench.store, VsphereBench.network, VsphereBench.host


def site_of(kind: str, spec: Spec, **more: Any) -> PlatformSite:
    return PlatformSite.model_validate(
        {"platform": {"kind": kind, **json.loads(spec.model_dump_json(exclude_none=True))}, **more}
    )


async def examined(site: PlatformSite, self_test: bool = False) -> list[Line]:
    found = Examination("leeds", site, certificates(), LIMITS)
    try:
        await found.run(self_test=self_test)
    finally:
        await found.close()
    assert all(line.hint for line in found.lines if line.fine is False)
    assert not {secret for secret in (PASSWORD, "wrong-secret") if secret in str(found.lines)}
    return found.lines


def wrong(lines: list[Line]) -> list[str]:
    return [f"{line.check}: {line.what}" for line in lines if line.fine is False]


def rewrite(center: VCenter, method: str, old: str, new: str) -> None:
    """Answers of a method say something else."""
    center.proxy.after.append(
        lambda called, _, got: got.replace(old.encode(), new.encode()) if called == method else got
    )


def _old(center: VCenter) -> None:
    rewrite(center, "RetrieveServiceContent", "<apiVersion>6.5<", "<apiVersion>6.0<")


def _poor(center: VCenter) -> None:
    has = "<privId>VirtualMachine.Interact.PowerOn</privId><isGranted>"
    rewrite(center, "HasUserPrivilegeOnEntities", f"{has}true", f"{has}false")


def _nothing(center: VCenter) -> None:
    pass


def test_a_good_vcenter_and_its_self_test(center: VCenter) -> None:
    good = {"stores": [STORE], "networks": [NETWORK], "hosts": [HOST], "room": "1 MiB"}
    before = center.proxy.changing()
    assert wrong(asyncio.run(examined(site_of("vsphere", spec_of(center), **good)))) == []
    assert center.proxy.changing() == before
    lines = asyncio.run(examined(site_of("vsphere", spec_of(center), **good), self_test=True))
    assert wrong(lines) == []
    assert (lines[-1].check, lines[-1].fine) == ("self-test", True)
    assert center.proxy.changing() > before


@pytest.mark.parametrize(
    ("spoil", "changes", "more", "words"),
    [
        (_nothing, {"password": Secret(file="wrong")}, {}, "login: log in: InvalidLogin"),
        (_nothing, {"datacenter": "Berlin"}, {}, "login: no datacenter is called Berlin"),
        (_nothing, {"appliance": "nobody"}, {}, "appliance: no VM is called nobody"),
        (_nothing, {}, {"stores": ["gold"]}, "datastores: gold is not there"),
        (_nothing, {}, {"networks": ["dmz"]}, "networks: dmz is not there"),
        (_nothing, {}, {"room": "8000 TiB"}, f"capacity: {STORE}: "),
        (_old, {}, {}, "login: its API is 6.0; 6.5 is the oldest that will do"),
        (_poor, {}, {}, "privileges: missing: VirtualMachine.Interact.PowerOn"),
    ],
)
def test_doctor_says_what_is_wrong_and_changes_nothing(
    center: VCenter, spoil: Callable[[VCenter], None], changes: dict[str, Any], more: dict[str, Any], words: str
) -> None:
    spoil(center)
    before = center.proxy.changing()
    said = wrong(asyncio.run(examined(site_of("vsphere", spec_of(center, **changes), **more), self_test=True)))
    assert any(each.startswith(words) for each in said), said
    assert center.proxy.changing() == before


def test_an_expired_certificate(tmp_path: Path) -> None:
    certify(tmp_path, days=-1)
    with vcenter(tmp_path / "server.pem") as center:
        spec = spec_of(center, ca=str(tmp_path / "ca.pem"))
        said = asyncio.run(examined(site_of("vsphere", spec)))
        assert [each for each in wrong(said) if "certificate has expired" in each]
        assert [line.hint for line in said if line.check == "TLS"] == ["renew the certificate"]
        with pytest.raises(PlatformError, match="certificate has expired\n  hint: renew the certificate"):
            asyncio.run(connect(spec, certificates(), limits=LIMITS))
        assert center.proxy.calls == []


@contextmanager
def nobody() -> Iterator[int]:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield free.getsockname()[1]


def test_a_vcloud_director_and_the_vcenter_below_are_looked_at(center: VCenter, tmp_path: Path) -> None:
    certify(tmp_path)
    with cloud(center) as here, nobody() as port:
        spec = spec_over(center, here)
        lines = asyncio.run(examined(site_of("vcd", spec)))
        assert len([line for line in lines if (line.check, line.fine) == ("reachable", True)]) == 2
        said = wrong(asyncio.run(examined(site_of("vcd", spec.model_copy(update={"port": port})))))
        assert [each.partition(":")[0] for each in said] == ["reachable"]
        below = spec.model_copy(update={"vcenter": spec_of(center, ca=str(tmp_path / "ca.pem"))})
        said = wrong(asyncio.run(examined(site_of("vcd", below))))
        assert [each.partition(":")[0] for each in said] == ["TLS"]


def test_a_name_that_is_in_use_at_the_other_site(center: VCenter) -> None:
    async def work() -> list[Line]:
        one, other = [
            Examination(name, site_of("vsphere", spec_of(center), vms=[APPLIANCE]), certificates(), LIMITS)
            for name in ("leeds", "york")
        ]
        await one.run()
        await other.run()
        try:
            return await conversions(one, other)
        finally:
            await one.close()
            await other.close()

    assert f"to york: {APPLIANCE}: a VM is called so there" in wrong(asyncio.run(work()))


def test_the_pre_check_of_an_operation_says_so_too(center: VCenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the account lacks, a version that is too old, names in use, networks, room."""

    async def work(store: str = STORE) -> Any:
        platform = await connect(spec_of(center), certificates(), limits=LIMITS)
        elsewhere: Any = SimpleNamespace(platform=platform, store=store)
        await platform.hypervisor.create(NewVm("mine", "leeds/operation/1", HOST, STORE, memory=64 << 20))
        before = center.proxy.changing()
        room = await inspection._elsewhere(elsewhere, "vsphere", Address("leeds/operation/1"))
        assert center.proxy.changing() == before
        await platform.hypervisor.delete("mine", "leeds/operation/1")
        await platform.close()
        return room

    assert asyncio.run(work()).lacks == ()
    (gone,) = asyncio.run(work("gold")).lacks
    assert gone.startswith("datastore gold is not at vSphere; bring it back, or name another one of: ")
    assert STORE in gone
    _poor(center)
    monkeypatch.setattr("drsim.real.platforms.OLDEST", {"vsphere": (7, 0)})
    monkeypatch.setattr("drsim.real.vsphere.session.outdated", lambda *_: "")  # it lets us in all the same
    room = asyncio.run(work())
    right, old = room.lacks
    assert right.startswith("the account at vSphere lacks VirtualMachine.Interact.PowerOn; grant it")
    assert old == "vSphere is 6.5; update it to 7.0 or later"
    assert room.names == {APPLIANCE}
    assert NETWORK in room.networks
    assert room.free > 0
    assert HOST in room.memory


def test_an_operation_that_is_not_let_in_says_so_and_touches_nothing(tmp_path: Path) -> None:
    """The password has been changed since the site came up."""

    async def work() -> None:
        async with asyncio.timeout(90), open_memory() as source, BY_NAME["vsphere"].bench() as target:
            assert isinstance(target, VsphereBench)
            estate, proxy = Estate(source, target), target.center.proxy
            await estate.make()
            async with protected(tmp_path, estate) as (london, leeds):
                warned: list[str] = []
                leeds.warned = warned.append
                proxy.instead["Login"] = lambda _: fault("InvalidLogin", "Cannot complete login")
                proxy.rules, before = [Rule("RetrievePropertiesEx", "expire")], proxy.changing()
                number = leeds.recoveries.begin(leeds.recoveries.plan(Wish(kind=Kind.LIVE, vpg="crm")))
                await until(lambda: bool(leeds.recoveries.status(number)["outcome"]), london, leeds)
                report = leeds.recoveries.status(number)
                assert report["outcome"] == "failed"
                (reason,) = report["reasons"]
                assert reason.startswith("vCenter 127.0.0.1: log in: InvalidLogin")
                assert reason.endswith("; are user and password right?")
                assert proxy.changing() == before
                assert PASSWORD not in f"{report} {warned} {leeds.elsewhere.failing if leeds.elsewhere else None}"

    asyncio.run(work())
