"""Hosts whose disks a process of its own serves: the same guests, checkpoints and restarts; and a process that dies."""

import asyncio
import os
import random
import signal
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_sites import LONDON, Sites, on_sites, write_sites
from nbd_client import connected

from drsim.core.batch import WriteBatch
from drsim.core.errors import FileError, PeerError, PlatformError
from drsim.core.facts import CheckpointSkipped, SyncStarted
from drsim.core.messages import Trigger
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.files.traces.reader import read_trace
from drsim.real import host_words as words
from drsim.real.chunk import BYTES, Chunk, Piece, Pool, size_of
from drsim.real.host import HostLink
from drsim.real.vra import command, own

SIZE = 4 << 20
VOLUME = VolumeInfo(VolumeId(3), VmId(7), 1 << 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the files of two sites."""
    write_sites(tmp_path, LONDON + "processes: true\n")
    return tmp_path


def hosts(sites: Sites) -> list[HostLink]:
    return list(sites.london.site.hosts.values())


async def stopped(sites: Sites) -> tuple[HostLink, int]:
    """A host whose process is stopped just now, with its VMs and another host's protected."""
    await sites.london.protect(sites.vpg("crm", "db", "app"))
    await sites.checkpoint("crm", "first")
    host = hosts(sites)[0]
    pid = host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    return host, pid


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


# -- words and chunks ---------------------------------------------------------------------------------------------


def test_every_word_is_heard_as_it_was_said_with_its_memory() -> None:
    stream = StreamId("crm", Address("london/london-1/vra"), Address("leeds/leeds-1/recovery"))
    spec = StreamSpec(stream, (VOLUME.vm,), (VOLUME,))
    said: list[words.Word] = [
        words.Open(1, VOLUME, "db.disk", must_exist=True), words.Close(6, 3), words.Serve(3, b"\x00rest"),
        words.Watch(1, spec), words.Unwatch(1), words.Want(1, content=True), words.HoldOn(2, 1),
        words.LetGo(1, failed=True), words.Settle(3, 1), words.Missed(1, bytes(24 * words.ROWS)),
        words.Freed(1, 9), words.Record(5, "db", (3,), on=True), words.Answered(1, 2),
        words.Refused(1, "StoreFull", "no room", "disk", "add some"),
        words.Chunked(1, 2, BYTES), words.Wrote(1, 2, 3, 4), words.TurnedAway("no request"),
    ]  # fmt: skip
    assert {type(word) for word in said} == set(words.Word.__args__), "all of them"
    one, other = (words.Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    with closing(one), closing(other):
        for word in said:
            fd = words.shared(8)
            os.pwrite(fd, b"memory", 0)
            one.say(word, fd)
            os.close(fd)
            heard, theirs = other.hear()
            assert heard == word
            with words.mapped(theirs, 8) as memory:
                assert memory[:6] == b"memory"
        for garbage in (b"{}", b"[1]", b'{"Freed": {"tap": 1}}', b'{"Nothing": {}}', b"\xff"):
            one.socket.send(garbage)
            with pytest.raises(PeerError, match="no word"):
                other.hear()
        one.close()
        with pytest.raises(EOFError):
            other.hear()


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=9), min_size=1, max_size=12), st.integers())
@settings(max_examples=40, deadline=None)
def test_windows_hold_what_was_put_however_it_is_pulled(runs: list[list[int]], seed: int) -> None:
    rng = random.Random(seed)
    chunk = Chunk(bytearray(size_of(BYTES)), BYTES)
    rows: list[tuple[int, int, bytes]] = []
    waiting: list[Piece] = []
    pulled: list[WriteBatch] = []
    for issued, run in enumerate(runs):
        parts = [rng.randbytes(sectors * SECTOR) for sectors in run]
        offsets = [rng.randrange(1 << 20) * SECTOR for _ in run]
        n, nbytes = chunk.put(parts)
        assert (n, nbytes) == (len(run), sum(map(len, parts)))
        waiting.append(Piece(chunk, VOLUME, offsets, [len(p) for p in parts], issued, nbytes))
        rows += zip(offsets, [issued] * n, parts, strict=True)
        if rng.random() < 0.5:
            pulled.append(chunk.window(waiting))
            waiting = []
    if waiting:
        pulled.append(chunk.window(waiting))
    whole = WriteBatch.join(pulled)
    assert whole.columns is pulled[0].columns, "joined for nothing"
    sectors = [len(data) // SECTOR for _, _, data in rows]
    assert whole == WriteBatch.of(
        [VOLUME.vm] * len(rows), [VOLUME.id] * len(rows), [at // SECTOR for at, _, _ in rows], sectors,
        [issued for _, issued, _ in rows], b"".join(data for _, _, data in rows),
    )  # fmt: skip


def test_memory_is_used_again_when_nobody_looks_at_it() -> None:
    pool = Pool(4)
    chunk = pool.chunk(0)
    memory = chunk.memory
    chunk.put([b"a" * SECTOR])
    kept: WriteBatch | None = chunk.window([Piece(chunk, VOLUME, [0], [SECTOR], 1, SECTOR)])
    pool.rest(chunk)
    del chunk
    other = pool.chunk(0)
    assert other.memory is not memory, "a frame is still in it"
    assert kept is not None
    assert bytes(kept.payload or b"") == b"a" * SECTOR
    kept = None
    assert pool.chunk(0).memory is memory
    assert len(pool.chunk(3 * BYTES).memory) == size_of(3 * BYTES), "a long write has one of its own"


# -- sites --------------------------------------------------------------------------------------------------------


def test_what_vms_write_over_nbd_is_recovered_as_it_was_and_every_process_ends(folder: Path) -> None:
    pids: list[int] = []

    async def check(sites: Sites) -> None:
        pids.extend(host.pid or 0 for host in hosts(sites))
        rng = random.Random(1)
        before, long = rng.randbytes(64 * SECTOR), rng.randbytes(3 << 20)
        await asyncio.to_thread(sites.write, "db/log", 8 * SECTOR, before)
        await sites.london.protect(sites.vpg("crm", "db", "app"))
        after = rng.randbytes(8 * SECTOR)
        await asyncio.to_thread(sites.write, "db/system", 0, after)
        await asyncio.to_thread(sites.write, "app/system", 8 * SECTOR, long)
        kept = await sites.checkpoint("crm", "good")
        await asyncio.to_thread(sites.write, "app/system", 0, after)
        found = sites.rebuilt(kept, "images")
        numbers = sites.london.state.state.volumes
        assert found[numbers["db/log"]] == bytes(8 * SECTOR) + before + bytes(SIZE - 72 * SECTOR)
        assert found[numbers["db/system"]] == after + bytes(SIZE - 8 * SECTOR)
        assert found[numbers["app/system"]] == bytes(8 * SECTOR) + long + bytes(SIZE - len(long) - 8 * SECTOR)

    on_sites(folder, check)
    assert len(pids) == 2
    assert not any(map(alive, pids))


def test_a_process_that_is_killed_is_started_again_and_protection_returns(folder: Path) -> None:
    """Again and again, while a client writes that connects anew as a hypervisor does."""
    acknowledged: dict[int, bytes] = {}
    rng = random.Random(5)
    over = threading.Event()

    def writes(sites: Sites) -> None:
        while not over.is_set():
            lba = -1
            with (
                suppress(OSError, EOFError, AssertionError),
                connected(sites.london.folder / "nbd.sock", "db/system") as nbd,
            ):
                while not over.is_set():
                    lba, data = rng.randrange(SIZE // SECTOR), rng.randbytes(SECTOR)
                    while nbd.write(lba * SECTOR, data):
                        pass
                    acknowledged[lba], lba = data, -1
            acknowledged.pop(lba, None)  # nobody knows whether this one is there

    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db"))
        await sites.checkpoint("crm", "first")
        writer = asyncio.create_task(asyncio.to_thread(writes, sites))
        host = hosts(sites)[0]
        for _ in range(3):
            await asyncio.sleep(0.2)
            pid = host.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await sites.until(lambda p=pid: host.pid not in (None, p))  # type: ignore[misc]
            newest = max(c.id for c in sites.leeds.listed("crm"))
            await sites.until(lambda n=newest: max(c.id for c in sites.leeds.listed("crm")) > n)  # type: ignore[misc]
        over.set()
        await writer
        number = sites.london.state.state.volumes["db/system"]
        kept = await sites.checkpoint("crm", "after")
        on_disk = (folder / "london" / "db.disk").read_bytes()
        assert sites.rebuilt(kept, "images")[number] == on_disk
        assert len(acknowledged) > 20
        for lba, data in acknowledged.items():
            assert on_disk[lba * SECTOR : (lba + 1) * SECTOR] == data

    on_sites(folder, check)


def test_guests_do_not_wait_for_a_site_that_does_not_hear_of_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there is no room for is known by place: the site finds out by itself when it hears again."""
    monkeypatch.setattr("drsim.real.vra._SPARE", -60)  # 8 MiB in all
    before, after = threading.Event(), threading.Event()

    def writes(sites: Sites) -> None:
        rng = random.Random(8)
        with connected(sites.london.folder / "nbd.sock", "db/system") as nbd:
            before.set()
            after.wait()
            for _ in range(1500):
                size = rng.choice((SECTOR, 8 * SECTOR, 128 * SECTOR))
                nbd.write(rng.randrange((SIZE - size) // SECTOR + 1) * SECTOR, rng.randbytes(size))

    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db", "app"))
        await sites.checkpoint("crm", "first")
        writer = threading.Thread(target=writes, args=(sites,))
        writer.start()
        await asyncio.to_thread(before.wait)
        after.set()
        writer.join(60)  # in the event loop's thread: the site is deaf
        assert not writer.is_alive(), "a guest waits for its site"
        kept = await sites.checkpoint("crm", "after")
        assert (
            sites.rebuilt(kept, "images")[sites.london.state.state.volumes["db/system"]]
            == (folder / "london" / "db.disk").read_bytes()
        )
        began = [fact for _, fact in sites.london.facts if isinstance(fact, SyncStarted)]
        assert began[-1].trigger is Trigger.PROTECTED_VRA

    on_sites(folder, check)


def test_a_process_that_does_not_answer_a_hold_is_killed_and_no_checkpoint_has_its_guests(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drsim.real.host.PATIENCE", 0.2)

    async def check(sites: Sites) -> None:
        host, pid = await stopped(sites)
        await sites.until(lambda: host.pid not in (None, pid))
        assert not alive(pid)
        await asyncio.to_thread(sites.write, "db/system", 0, b"x" * SECTOR)
        kept = await sites.checkpoint("crm", "after")
        assert sites.rebuilt(kept, "images")[sites.london.state.state.volumes["db/system"]][:SECTOR] == b"x" * SECTOR

    on_sites(folder, check)


def test_a_process_that_does_not_answer_holds_up_nobody_else(folder: Path) -> None:
    """PROTOCOL 3: whatever fails, no guest waits for longer than the budget. When it answers again, it is as before."""

    async def check(sites: Sites) -> None:
        host, pid = await stopped(sites)
        try:
            void = CheckpointSkipped, "hold budget"
            await sites.until(lambda: void in [(type(f), getattr(f, "reason", "")) for _, f in sites.london.facts])
            await asyncio.to_thread(sites.write, "app/system", 0, b"x" * SECTOR)
        finally:
            os.kill(pid, signal.SIGCONT)
        await asyncio.to_thread(sites.write, "db/system", 0, b"y" * SECTOR)
        found = sites.rebuilt(await sites.checkpoint("crm", "after"), "images")
        numbers = sites.london.state.state.volumes
        assert (found[numbers["app/system"]][:1], found[numbers["db/system"]][:1]) == (b"x", b"y")
        assert host.pid == pid

    on_sites(folder, check)


def test_guests_of_all_hosts_are_held_at_the_same_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    hold, holds = HostLink.hold, HostLink.holds
    monkeypatch.setattr(HostLink, "hold", lambda link, tap: order.append("asked") or hold(link, tap))
    monkeypatch.setattr(HostLink, "holds", lambda link, *ask: order.append("waited for") or holds(link, *ask))

    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db", "app"))
        await sites.checkpoint("crm", "first")
        assert order[:4] == ["asked", "asked", "waited for", "waited for"]

    on_sites(folder, check)


def test_a_process_is_not_late_with_a_hold_that_came_before_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was asked for while none served; the next process would be ended for it, long after."""
    monkeypatch.setattr("drsim.real.host.PATIENCE", 0.2)

    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db"))
        await sites.checkpoint("crm", "first")
        host = hosts(sites)[0]
        tap, pid = next(iter(sites.london.site.taps.values())), host.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await sites.until(lambda: host.pid is None)
        tap.hold()
        assert tap.holds(0.0)
        await sites.until(lambda: host.pid is not None)
        later = host.pid
        await asyncio.sleep(0.4)
        await sites.checkpoint("crm", "after")
        assert host.pid == later

    on_sites(folder, check)


def test_a_second_process_for_the_same_host_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsim.real.vra.LOCKED", 0)

    async def check(sites: Sites) -> None:
        begin = command(sites.london.folder, "london-1", 1 << 20)
        with pytest.raises(PlatformError, match="another process serves this host's disks"):
            HostLink(sites.london.site, Address("london/london-1/vra"), lambda: own(begin), lambda _: None)

    on_sites(folder, check)


def test_a_disk_that_cannot_be_opened_is_named_and_the_others_are_served(folder: Path) -> None:
    (folder / "london").mkdir()
    (folder / "london" / "db.disk").write_bytes(b"too short")

    async def check(sites: Sites) -> None:
        (why,) = sites.london.own.missing.values()
        assert "db.disk" in why.place
        assert why.message.startswith("is 9 bytes long")
        await asyncio.to_thread(sites.write, "db/log", 0, bytes(SECTOR))

    on_sites(folder, check)


def test_what_a_vm_writes_is_recorded(folder: Path) -> None:
    async def check(sites: Sites) -> None:
        path, _ = sites.london.own.record("db", on=True)
        for lba in range(0, 80, 8):
            await asyncio.to_thread(sites.write, "db/log" if lba % 16 else "db/system", lba * SECTOR, bytes(8 * SECTOR))
        assert sites.london.own.record("db", on=False) == (path, 10)
        assert read_trace(path).lba.tolist() == list(range(0, 80, 8))
        with pytest.raises(FileError, match="not being recorded"):
            sites.london.own.record("db", on=False)

    on_sites(folder, check)


def test_a_client_that_breaks_the_protocol_is_turned_away_with_a_word(folder: Path) -> None:
    said: list[str] = []

    async def check(sites: Sites) -> None:
        sites.london.refused = said.append

        def talk() -> None:
            with suppress(OSError, EOFError), connected(sites.london.folder / "nbd.sock", "db/system") as client:
                client.socket.sendall(b"?" * 64)
                client.socket.recv(1)

        await asyncio.to_thread(talk)
        await sites.until(lambda: said == ["what came is no request"])

    on_sites(folder, check)
