"""The transport: order, loss and return, hello, silence, and queues with an end."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drsim.core.batch import WriteBatch
from drsim.core.errors import FileError, PeerError, PlatformError
from drsim.core.messages import Frame, Message, Release
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.units import SECTOR
from drsim.real import pki
from drsim.real.pipe import Pipe
from drsim.real.transport import Connector, Listener, Terms
from drsim.real.wire import Hello, KeepAlive, Letter, encode, finish

A, B = Address("london/vpg/crm"), Address("leeds/catalog/crm")


@dataclass
class Box:
    """Takes what comes, as text."""

    seen: list[str] = field(default_factory=list)

    def arrived(self, sender: Address, to: Address, message: Message) -> None:
        assert isinstance(message, Release)
        self.seen.append(str(message.checkpoint))

    def up(self, lost: tuple[str, ...]) -> None:
        self.seen.append("up")

    def down(self) -> None:
        self.seen.append("down")

    def failed(self, error: BaseException) -> None:
        self.seen.append(f"failed: {error}")


def note(n: int) -> Release:
    return Release("crm" * 300, CheckpointId(n))


@dataclass
class Ends:
    near: Connector
    far: Listener
    at_near: Box
    at_far: Box


def with_ends(check: Callable[[Ends], Awaitable[None]], *, silence: float = 5, queue_bytes: int = 1 << 20) -> None:
    """Run a check on two connected ends; leave nothing behind."""

    async def run() -> None:
        boxes = Box(), Box()
        terms = Terms(silence, queue_bytes)
        far = Listener("leeds", "london", boxes[1], terms)
        port = await far.listen()
        near = Connector("london", "leeds", boxes[0], "127.0.0.1", port, terms)
        try:
            async with asyncio.timeout(20):
                await near.wait(connected=True)
                await far.wait(connected=True)
                await check(Ends(near, far, *boxes))
        finally:
            await near.close()
            await far.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def test_messages_keep_their_order_in_both_directions() -> None:
    async def check(ends: Ends) -> None:
        for n in range(300):
            ends.near.send(A, B, note(n))
            ends.far.send(B, A, note(n))
        await until(lambda: len(ends.at_near.seen) == len(ends.at_far.seen) == 301)
        assert ends.at_near.seen == ends.at_far.seen == ["up", *map(str, range(300))]

    with_ends(check)


def test_loss_and_return_are_told_and_nothing_old_arrives_after() -> None:
    async def check(ends: Ends) -> None:
        for round_ in range(5):
            for n in range(200):
                ends.near.send(A, B, note(round_ * 1000 + n))
            await asyncio.sleep(0.001 * round_)
            ends.near.sever()
            ends.near.send(A, B, note(999))  # while down: dropped
            await ends.far.wait(connected=False)
            ends.near.mend()
            await ends.near.wait(connected=True)
            await ends.far.wait(connected=True)
        rounds = " ".join(ends.at_far.seen).split("up")[1:]
        assert len(rounds) == 6
        for round_, text in enumerate(rounds[:5]):
            *numbers, last = text.split()
            assert last == "down"
            assert numbers == [str(round_ * 1000 + n) for n in range(len(numbers))], "a prefix, in order"
        assert ends.at_near.seen == ["up", "down"] * 5 + ["up"]

    with_ends(check)


def test_what_has_come_but_was_not_read_when_an_end_gives_up_is_lost() -> None:
    async def check(ends: Ends) -> None:
        arrived = ends.at_far.arrived

        def give_up(sender: Address, to: Address, message: Message) -> None:
            arrived(sender, to, message)
            if ends.at_far.seen[-1] == "5":
                ends.far.break_off()

        ends.at_far.arrived = give_up  # type: ignore[method-assign]
        for n in range(50):
            ends.near.send(A, B, note(n))
        await until(lambda: ends.at_far.seen.count("up") == 2)
        assert ends.at_far.seen == ["up", *"012345", "down", "up"]

    with_ends(check)


def test_a_second_connection_from_the_peer_takes_over() -> None:
    async def check(ends: Ends) -> None:
        ends.near._wanted.clear()
        _, writer = await asyncio.open_connection(*ends.near._target)
        writer.write(encode(Hello("london")))
        await until(lambda: ends.at_far.seen == ["up", "down", "up"])
        await ends.near.wait(connected=False)
        writer.close()
        await writer.wait_closed()
        await ends.far.wait(connected=False)

    with_ends(check)


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n".ljust(64), encode(Hello("paris")), encode(KeepAlive()), b""]
)
def test_a_stranger_does_not_disturb(first: bytes) -> None:
    async def check(ends: Ends) -> None:
        reader, writer = await asyncio.open_connection(*ends.near._target)
        writer.write(first)
        if not first:
            writer.write_eof()
        await reader.read(1000)
        with pytest.raises((ConnectionError, AssertionError)):
            assert await reader.read(1000), "the stranger is thrown out"
        writer.close()
        ends.near.send(A, B, note(1))
        await until(lambda: ends.at_far.seen == ["up", "1"])
        assert isinstance(ends.far.error, PeerError if first else PlatformError)

    with_ends(check)


def test_a_silent_peer_is_lost_and_a_quiet_one_is_not() -> None:
    async def check(ends: Ends) -> None:
        await asyncio.sleep(1.3)
        assert ends.at_near.seen == ends.at_far.seen == ["up"], "keep-alives are heard"
        ends.near._wanted.clear()
        _, writer = await asyncio.open_connection(*ends.near._target)
        writer.write(encode(Hello("london")))  # takes over, then says nothing
        await until(lambda: ends.at_far.seen == ["up", "down", "up"])
        await until(lambda: ends.at_far.seen[3:] == ["down"])
        writer.close()

    with_ends(check, silence=0.6)


def test_a_large_frame_that_comes_slowly_is_no_silence() -> None:
    """A frame may take longer than the patience with a silent peer: four megabytes over a slow link do."""

    async def check(ends: Ends) -> None:
        ends.near._wanted.clear()
        _, writer = await asyncio.open_connection(*ends.near._target)
        writer.write(encode(Hello("london")))
        await until(lambda: ends.at_far.seen == ["up", "down", "up"])
        frame = encode(Letter(A, B, Release("crm" * 200_000, CheckpointId(7))))
        for at in range(0, len(frame), len(frame) // 10):
            writer.write(frame[at : at + len(frame) // 10])
            await asyncio.sleep(0.12)
        await until(lambda: ends.at_far.seen[3:] == ["7"])
        writer.close()

    with_ends(check, silence=0.6)


def test_a_peer_that_does_not_read_costs_a_bounded_queue() -> None:
    async def check(ends: Ends) -> None:
        ends.near._wanted.clear()
        _, writer = await asyncio.open_connection(*ends.near._target)
        writer.write(encode(Hello("london")))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: ends.at_far.seen == ["up", "down", "up"])
        sent = 0
        while ends.far.connected:
            ends.far.send(B, A, note(sent))
            sent += 1
            assert ends.far.queued <= 100_000
            if not sent % 50:
                await asyncio.sleep(0)  # lets the writer drain as far as the socket takes it
        assert sent > 100
        assert ends.far.queued == 0
        assert "wait for the peer" in str(ends.far.error)
        assert ends.at_far.seen[3:] == ["down"]
        writer.transport.abort()

    with_ends(check, queue_bytes=100_000)


def test_bits_that_flip_on_the_way_break_the_connection_and_nothing_wrong_arrives() -> None:
    async def run() -> None:
        boxes = Box(), Box()
        far = Listener("leeds", "london", boxes[1], Terms(5, 1 << 20))
        port, flips, proxied = await far.listen(), [0], set[asyncio.Task[None]]()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, flip: bool) -> None:
            passed = 0
            while data := bytearray(await reader.read(4096)):
                passed += len(data)
                if flip and passed > 20_000 and flips[0] < 4:
                    flips[0] += 1
                    data[len(data) // 2] ^= 1
                    passed = -1 << 40
                writer.write(data)
                await writer.drain()
            writer.close()

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            proxied.add(task)
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.gather(
                    pump(reader, forth, flip=True), pump(back, writer, flip=False), return_exceptions=True
                )
            finally:
                forth.close()
                writer.close()

        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        at = server.sockets[0].getsockname()[1]
        near = Connector("london", "leeds", boxes[0], "127.0.0.1", at, Terms(5, 1 << 20))
        async with asyncio.timeout(30):
            for round_ in range(5):
                await near.wait(connected=True)
                await far.wait(connected=True)
                breaks = far.breaks
                for n in range(60):
                    near.send(A, B, note(round_ * 1000 + n))
                if round_ < 4:
                    await until(lambda before=breaks: far.breaks > before)  # type: ignore[misc]
                    await near.wait(connected=False)
            await until(lambda: boxes[1].seen[-1] == "4059")
        rounds = " ".join(boxes[1].seen).split("up")[1:]
        for round_, text in enumerate(rounds):
            numbers = text.replace("down", "").split()
            assert numbers == [str(round_ * 1000 + n) for n in range(len(numbers))]
            assert (len(numbers) < 60) == (round_ < 4)
        await near.close()
        await far.close()
        server.close()
        await asyncio.wait(proxied)
        await server.wait_closed()

    asyncio.run(run())


def test_a_connector_waits_for_a_listener_that_is_late() -> None:
    async def run() -> None:
        first = Listener("leeds", "london", Box(), Terms(5, 1 << 20))
        port = await first.listen()
        await first.close()
        box = Box()
        near = Connector("london", "leeds", box, "127.0.0.1", port, Terms(5, 1 << 20))
        await until(lambda: near.error is not None)
        assert isinstance(near.error, PlatformError)
        second = Listener("leeds", "london", Box(), Terms(5, 1 << 20))
        await second.listen(port=port)
        async with asyncio.timeout(20):
            await near.wait(connected=True)
        assert box.seen == ["up"]
        await near.close()
        await second.close()

    asyncio.run(run())


# -- terms ------------------------------------------------------------------------------------------------------


STREAM = StreamId("crm", A, B)


def data(n: int, payload: bytes) -> Frame:
    """A frame of one row, whose number is in its checkpoint-like epoch."""
    batch = WriteBatch.of([0], [0], [0], [len(payload) // SECTOR], [0], payload)
    return Frame(STREAM, 1, n, (0,), (1,), (len(payload),), False, batch)


@dataclass
class Order(Box):
    """Remembers the order in which data and the rest arrived."""

    def arrived(self, sender: Address, to: Address, message: Message) -> None:
        assert isinstance(message, Frame | Release)
        self.seen.append(f"data {message.epoch}" if isinstance(message, Frame) else f"note {message.checkpoint}")


def test_a_frames_memory_is_used_again_when_nobody_looks_at_it_and_not_before() -> None:
    async def run() -> None:
        pipe = Pipe("here")

        async def receive(n: int) -> WriteBatch:
            """One frame, in pieces, with a payload of its own."""
            left = encode(Letter(Address("a/one"), Address("b/two"), data(n, bytes([n]) * (512 << 10))))
            while left:
                room = pipe.get_buffer(-1)[: 100 << 10]
                now, left = left[: len(room)], left[len(room) :]
                room[: len(now)] = now
                pipe.buffer_updated(len(now))
            wired = finish(*await pipe.next(), place="here")
            assert isinstance(wired, Letter)
            assert isinstance(wired.message, Frame)
            return wired.message.batch

        def memory(batch: WriteBatch) -> object:
            assert isinstance(batch.columns.payload, memoryview)
            return batch.columns.payload.obj

        kept = [await receive(n) for n in range(1, 4)]
        assert len({id(memory(batch)) for batch in kept}) == 3
        assert [batch.payload for batch in kept] == [bytes([n]) * (512 << 10) for n in range(1, 4)]
        was = id(memory(kept.pop()))
        again = await receive(4)
        assert id(memory(again)) == was
        assert again.payload == bytes([4]) * (512 << 10)

    asyncio.run(run())


def over(terms: Terms, check: Callable[[Ends], Awaitable[None]], *, far_terms: Terms | None = None) -> None:
    async def run() -> None:
        boxes = Order(), Order()
        far = Listener("leeds", "london", boxes[1], far_terms or terms)
        port = await far.listen()
        near = Connector("london", "leeds", boxes[0], "127.0.0.1", port, terms)
        try:
            async with asyncio.timeout(20):
                await check(Ends(near, far, *boxes))
        finally:
            await near.close()
            await far.close()

    asyncio.run(run())


def test_a_limited_rate_holds_and_what_carries_no_data_goes_first() -> None:
    async def check(ends: Ends) -> None:
        await ends.near.wait(connected=True)
        begun = asyncio.get_running_loop().time()
        for n in range(1, 11):
            ends.near.send(A, B, data(n, bytes(64 << 10)))
        await until(lambda: "data 1" in ends.at_far.seen)
        ends.near.send(A, B, note(1))
        await until(lambda: "data 10" in ends.at_far.seen)
        assert asyncio.get_running_loop().time() - begun > 0.8 * 0.64, "640 KiB at 1 MiB/s"
        order = [each for each in ends.at_far.seen if each != "up"]
        assert order.index("note 1") <= 3, order
        assert [each for each in order if each != "note 1"] == [f"data {n}" for n in range(1, 11)]

    over(Terms(5, 1 << 24, rate=1 << 20), check)


@pytest.mark.parametrize(("payload", "smaller"), [(bytes(1 << 16), True), (os.urandom(1 << 16), False)])
def test_waiting_data_is_compressed_if_that_pays(payload: bytes, smaller: bool) -> None:
    async def check(ends: Ends) -> None:
        await ends.near.wait(connected=True)
        for n in range(1, 21):
            ends.near.send(A, B, data(n, payload))
        await until(lambda: "data 20" in ends.at_far.seen)
        assert (ends.near.sent < 10 * len(payload)) == smaller
        assert ends.far.error is None

    over(Terms(5, 1 << 24, rate=4 << 20, compress=True), check)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of two installations, and one that is over."""
    directory = tmp_path_factory.mktemp("pki")
    pki.init(directory / "ours", ["london", "leeds", "paris"])
    pki.init(directory / "theirs", ["london"])
    key, authority = pki._authority(directory / "ours")
    (directory / "late").mkdir()
    pki._site(directory / "late" / "london", "london", key, authority, days=-1)
    return directory


def with_tls(folder: Path, *, listening: bool) -> Terms:
    return Terms(2, 1 << 20, tls=pki.contexts(folder)[0 if listening else 1])


def test_sites_with_certificates_of_one_authority_talk(keys: Path) -> None:
    async def check(ends: Ends) -> None:
        await ends.near.wait(connected=True)
        for n in range(50):
            ends.near.send(A, B, note(n))
        await until(lambda: "note 49" in ends.at_far.seen)

    near, far = keys / "ours" / "london", keys / "ours" / "leeds"
    over(with_tls(near, listening=False), check, far_terms=with_tls(far, listening=True))


@pytest.mark.parametrize(
    ("folder", "why"), [("ours/paris", "of drsim:paris"), ("theirs/london", ""), ("late/london", ""), (None, "")]
)
def test_a_peer_without_the_right_certificate_is_turned_away(keys: Path, folder: str | None, why: str) -> None:
    """Another site's, a stranger's, one that is over, none at all."""

    async def check(ends: Ends) -> None:
        await until(lambda: ends.near.error is not None)
        await asyncio.sleep(0.1)
        assert not ends.near.connected
        assert not ends.far.connected
        assert ends.at_far.seen == []
        assert why in str(ends.far.error)

    near = Terms(2, 1 << 20) if folder is None else with_tls(keys / folder, listening=False)
    over(near, check, far_terms=with_tls(keys / "ours" / "leeds", listening=True))


def test_the_wrong_server_is_left(keys: Path) -> None:
    async def check(ends: Ends) -> None:
        await until(lambda: "of drsim:paris" in str(ends.near.error))
        assert ends.at_near.seen == []

    far = with_tls(keys / "ours" / "paris", listening=True)
    over(with_tls(keys / "ours" / "london", listening=False), check, far_terms=far)


def test_keys_are_for_their_owner_only_and_nothing_is_overwritten(keys: Path) -> None:
    for key in keys.rglob("*.key"):
        assert key.stat().st_mode & 0o077 == 0, key
    with pytest.raises(FileError, match="has its files already"):
        pki.init(keys / "ours", ["london"])
    with pytest.raises(FileError, match="no name for a site"):
        pki.init(keys / "ours", ["../../etc"])
    with pytest.raises(FileError, match="drsim pki init"):
        pki.contexts(keys / "nowhere")
