"""vSphere's wire: HTTP as it comes, calls that are given up, connections that end, and reads that go together."""

import asyncio
import gzip
import time
from http.client import HTTPException
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms.soap_proxy import Rule
from platforms.vcenter import VCenter
from platforms.vsphere_arm import APPLIANCE, LIMITS, VsphereBench, certificates, spec_of
from pyVmomi import vim

from drsim.real.ports import Limits, NewVm, Platform, Unavailable
from drsim.real.vsphere import connect
from drsim.real.vsphere.wire import Wire, _answer

ME, HOST, STORE, MIB = "suite/op 1", VsphereBench.host, VsphereBench.store, 1 << 20


def session_of(platform: Platform) -> Any:
    return platform.inventory.session  # type: ignore[attr-defined]


async def here(center: VCenter, limits: Limits = LIMITS) -> Platform:
    return await connect(spec_of(center), certificates(), limits=limits)


# -- HTTP -------------------------------------------------------------------------------------------------------------


def read(sent: bytes) -> tuple[int, dict[str, str], bytes]:
    async def work() -> tuple[int, dict[str, str], bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(sent)
        reader.feed_eof()
        found = await _answer(reader)
        assert await reader.read() == b"", "what is left would be taken for the next answer"
        return found

    return asyncio.run(work())


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.booleans())
def test_an_answer_is_read_however_it_is_sent(pieces: list[bytes], zipped: bool) -> None:
    whole = b"".join(pieces)
    if zipped:
        pieces = [gzip.compress(whole)]
    content = b"".join(pieces)
    head = b"HTTP/1.1 200 OK\r\nX-Other: 1\r\n" + (b"Content-Encoding: gzip\r\n" if zipped else b"")
    chunks = b"".join(b"%X;more=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    for sent in (
        head + b"content-length:%d\r\n\r\n" % len(content) + content,
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n",
        head + b"\r\n" + content,
    ):
        status, headers, got = read(sent)
        assert (status, headers["x-other"], got) == (200, "1", whole)
    with pytest.raises(asyncio.IncompleteReadError):
        read(head + b"Content-Length: %d\r\n\r\n" % (len(content) + 1) + content)


@pytest.mark.parametrize(
    "sent",
    [b"220 mail.example ESMTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_said_to_be_none(sent: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        wire = Wire("127.0.0.1", server.sockets[0].getsockname()[1], "vim.version.version11", None, 1, 5.0)  # type: ignore[arg-type]  # no TLS
        with pytest.raises(HTTPException, match="no HTTP"):
            await wire.post(b"")
        server.close()

    asyncio.run(work())


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_that_is_given_up_leaves_nothing_behind(center: VCenter) -> None:
    """Its connection is closed, so that its answer is nobody else's; the next call has another one."""

    async def work() -> None:
        platform = await here(center, Limits(call=0.3, attempts=2, first=0.001))
        center.proxy.rules = [Rule("CurrentTime", "delay", times=2, seconds=1.0)]
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=r"no answer within 0.3 s"):
            await platform.inventory.about()
        assert time.monotonic() - begun < 2.0
        assert (await platform.inventory.about()).version == "6.5"
        await platform.close()

    asyncio.run(work())


def test_a_connection_that_has_ended_is_not_used(center: VCenter) -> None:
    """vCenter closes those that are idle for a while; that is no trouble, so nothing is waited for or asked again."""

    async def work() -> None:
        platform = await here(center, Limits(attempts=1))
        wire = session_of(platform)._wire
        [(reader, writer)] = wire._idle
        writer.transport.abort()
        await asyncio.sleep(0.05)
        await platform.inventory.stores()
        assert (reader, writer) not in wire._idle
        await platform.close()

    asyncio.run(work())


def test_reads_that_wait_go_as_one_call(center: VCenter) -> None:
    """And what is not there any more spoils no other's."""

    async def work() -> None:
        platform = await here(center)
        for name in ("one", "two"):
            await platform.hypervisor.create(NewVm(name, ME, HOST, STORE, memory=64 * MIB))
        session, find = session_of(platform), platform.inventory.find  # type: ignore[attr-defined]
        vms = [await find(vim.VirtualMachine, name) for name in (APPLIANCE, "one", "two")]
        tasks = [vim.Task("task-1", vms[0]._stub)]
        before = center.proxy.calls.count("RetrievePropertiesEx")
        names = await asyncio.gather(*(session.read(vm, "name") for vm in vms))
        assert [found["name"] for found in names] == [APPLIANCE, "one", "two"]
        both = await asyncio.gather(session.read(vms[1], "name"), session.read(vms[1], "runtime.powerState"))
        assert both == [{"name": "one"}, {"runtime.powerState": "poweredOff"}]
        assert center.proxy.calls.count("RetrievePropertiesEx") - before == 3
        await platform.hypervisor.delete("one", ME)
        found = await asyncio.gather(*(session.read(each, "name") for each in vms + tasks), return_exceptions=True)
        assert [one if isinstance(one, dict) else type(one).__name__ for one in found] == [
            {"name": APPLIANCE}, "Refused", {"name": "two"}, "Refused",
        ]  # fmt: skip
        await platform.hypervisor.delete("two", ME)
        await platform.close()

    asyncio.run(work())


def test_tasks_that_go_on_are_waited_for_together(center: VCenter) -> None:
    async def work() -> None:
        platform = await here(center)
        await platform.disks.create("first", MIB, STORE, ME)

        def hook(called: str, request: bytes, got: bytes) -> bytes:
            return got.replace(b">success<", b">running<") if called == "RetrievePropertiesEx" else got

        center.proxy.after.append(hook)
        before = len(center.proxy.calls)
        await asyncio.gather(*(platform.disks.create(f"disk {n}", MIB, STORE, ME) for n in range(12)))
        calls = center.proxy.calls[before:]
        assert calls.count("CreateVirtualDisk_Task") == 12
        assert calls.count("CreatePropertyCollector") <= 6
        center.proxy.after.remove(hook)
        for disk in await platform.disks.owned(ME):
            await platform.disks.delete(disk.id, ME)
        await platform.close()

    asyncio.run(work())


def test_devices_that_nobody_looks_at_are_passed_over(center: VCenter) -> None:
    async def work() -> None:
        platform = await here(center)
        found = await platform.inventory.find(vim.VirtualMachine, APPLIANCE)  # type: ignore[attr-defined]
        devices = (await session_of(platform).read(found, "config.hardware.device"))["config.hardware.device"]
        kinds = {type(device).__name__.rpartition(".")[2] for device in devices}
        assert "VirtualDisk" in kinds
        assert not kinds & {"VirtualKeyboard", "VirtualMachineVideoCard", "VirtualIDEController"}
        card = next(each for each in devices if isinstance(each, vim.vm.device.VirtualEthernetCard))
        assert card.deviceInfo.label
        hardware = (await session_of(platform).read(found, "config.hardware"))["config.hardware"]
        assert [type(device) for device in hardware.device] == [type(device) for device in devices]
        assert hardware.numCPU == 1
        await platform.close()

    asyncio.run(work())
