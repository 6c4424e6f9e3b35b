"""Transport: one TCP connection between two sites, in order, with loss and return reported, and bounded queues.

Theory of operation. One site connects, the other listens; either way an `End` owns at most one connection:

    state   leaves when                                                          tells the site
    ------  -------------------------------------------------------------------  --------------
    down    a connection is made and the peer's `Hello` has come                 `up`
    up      end of file, error, not a byte for `silence` seconds, a frame that   `down`
            cannot be, a full queue, or a newer connection from the same peer

Promise: what `send` takes while up arrives in order, and without holes, up to the point where the connection breaks;
nothing of an old connection arrives after `down`. What is sent while down is dropped: the core resends from its own
state when it hears of the return. `send` never blocks, so that a step of the core never waits for a network. Memory
is bounded instead: the writer drains the socket's buffer before it takes the next frame, and when more than
`queue_bytes` wait behind it the connection is given up. The core's window is far below that, so a peer that is
merely slow never gets there.

With `tls` both sides show a certificate, and one that is not the expected site's ends the connection (`pki.py`). What
carries no data goes first (order is kept for each stream, and among what belongs to none; PROTOCOL 3 needs holds to be
fast on a busy link). `rate` limits what is written, in bytes per second. While data waits, bodies are compressed where
that saves time: where the link would have taken longer for the bytes saved. Where it did not it is tried again after
some more frames.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from drsim.core.batch import Payload
from drsim.core.errors import DrsimError, PeerError, PlatformError
from drsim.core.messages import Frame, Message
from drsim.core.names import Address
from drsim.real.pipe import Pipe
from drsim.real.pki import check_peer, tell
from drsim.real.post import Post
from drsim.real.thrift import Thrift
from drsim.real.wire import Answer, Ask, Hello, KeepAlive, Letter, Wired, encode, finish, pieces

_FIRST_PAUSE, _LAST_PAUSE = 0.02, 2.0  # seconds between attempts to connect; doubles from the first to the last
_MOST_CALLERS = 8  # connections that a listener serves at once; all but one wait for their hello
_KEEP_ALIVE = encode(KeepAlive())
_MOST_ASKED = 32  # requests of a peer that are being answered
_BURST = 0.05  # seconds' worth of the rate that may be written at once


@dataclass(frozen=True, slots=True)
class Terms:
    """How a connection is used. `silence` in seconds, `rate` in bytes per second, None for no limit.

    `lost` gives the VPGs of which something that was durable here is not. `refused` is told why a peer was turned away.
    """

    silence: float
    queue_bytes: int
    rate: float | None = None
    compress: bool = False
    tls: ssl.SSLContext | None = None
    lost: Callable[[], tuple[str, ...]] = tuple
    refused: Callable[[str], None] = lambda why: None


_Sized = tuple[int, list[Payload]]
"""A frame in pieces, and how many bytes they are."""


class End:
    """One site's end of the connection. `site` and `peer` are site names."""

    def __init__(self, site: str, peer: str, post: Post, terms: Terms) -> None:
        self.site, self.peer = site, peer
        self.error: DrsimError | None = None
        """Why the last connection broke, or could not be made."""
        self.breaks = 0
        self.sent = 0
        """Bytes written to sockets, keep-alives left out."""
        self._post, self._terms, self._silence = post, terms, terms.silence
        self._control: deque[_Sized] = deque()
        self._data: deque[_Sized] = deque()
        self._queued = 0
        self._thrift = Thrift(terms.rate, compress=terms.compress)
        self._asked, self._waiting = 0, dict[int, asyncio.Future[str]]()
        self._answering: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._pipe: Pipe | None = None
        self._place = f"{site} <- {peer}"

    @property
    def connected(self) -> bool:
        """Whether a connection is up."""
        return self._pipe is not None

    def send(self, sender: Address, to: Address, message: Message) -> None:
        """Put a message on the connection; dropped while there is none."""
        if not self.connected:
            return
        size = message.nbytes if isinstance(message, Frame) else 0
        data = self._thrift.encoded(Letter(sender, to, message), size, waiting=bool(self._data))
        if self._queued + sum(map(len, data)) > self._terms.queue_bytes:
            most = self._terms.queue_bytes
            self.error = PeerError(f"more than {most} bytes wait for the peer", place=self._place)
            self.break_off()
            return
        self._put(self._data if hasattr(message, "stream") else self._control, data)

    async def ask(self, text: str, patience: float) -> str:
        """Ask the peer's manager. Raises PlatformError when the connection is lost or no answer comes in time."""
        if not self.connected:
            raise PlatformError("the peer cannot be reached", place=self._place)
        self._asked += 1
        number = self._asked
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        self._put(self._control, pieces(Ask(number, text)))
        try:
            async with asyncio.timeout(patience):
                return await waiting
        except TimeoutError as error:
            raise PlatformError(f"no answer within {patience:g} s", place=self._place) from error
        finally:
            self._waiting.pop(number, None)

    def _put(self, queue: deque[_Sized], data: list[Payload]) -> None:
        size = sum(map(len, data))
        queue.append((size, data))
        self._queued += size
        self._wake.set()

    @property
    def queued(self) -> int:
        """Bytes that wait to be written to the socket."""
        return self._queued

    def break_off(self) -> None:
        """Give up the connection at once; what is on it is lost."""
        if self._pipe is not None:
            self._pipe.abort()
            self._set_down()

    async def wait(self, connected: bool) -> None:
        """Wait until the connection is up, or down."""
        while self.connected != connected:
            self._changed.clear()
            await self._changed.wait()

    # -- one connection ---------------------------------------------------------------------------------------

    async def carry(self, pipe: Pipe) -> None:
        """Serve one connection until it breaks; never raises for what a network or a peer may do."""
        try:
            async with asyncio.timeout(self._silence):
                if self._terms.tls is not None:
                    check_peer(pipe.transport.get_extra_info("peercert"), self.peer, place=self._place)
                pipe.write(encode(Hello(self.site, self._terms.lost())))
                await pipe.drain()
                hello = await self._greet(pipe)
            self._set_up(pipe, hello.lost)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(pipe))
                tasks.create_task(self._write(pipe))
        except* PeerError as group:
            error = _first(group)
            assert isinstance(error, PeerError)
            self.error = error
            self._terms.refused(str(error))
        except* (OSError, EOFError) as group:
            self.error = self.error or PlatformError(f"connection lost: {_first(group)}", place=self._place)
        except* Exception as group:
            self._post.failed(_first(group))
        finally:
            pipe.abort()
            if self._pipe is pipe:
                self._set_down()
            await pipe.closed()

    async def _greet(self, pipe: Pipe) -> Hello:
        hello = await self._next(pipe)
        if not isinstance(hello, Hello):
            raise PeerError("the peer does not begin with a hello", place=self._place)
        if hello.site != self.peer:
            raise PeerError(f"this is site {hello.site!r}", place=self._place, hint="check the peer's address")
        return hello

    async def _next(self, pipe: Pipe) -> Wired:
        """A large frame over a slow link takes its time, and is no silence while more of it comes."""
        while True:
            before = pipe.heard
            try:
                async with asyncio.timeout(self._silence):
                    start, rest = await pipe.next()
                break
            except TimeoutError:
                if pipe.heard == before:
                    raise
        return finish(start, rest, place=self._place)

    async def _read(self, pipe: Pipe) -> None:
        while True:
            wired = await self._next(pipe)
            if self._pipe is not pipe:
                raise EOFError("given up")
            match wired:
                case Letter(sender, to, message):
                    self._post.arrived(sender, to, message)
                case KeepAlive():
                    pass
                case Ask():
                    self._begin_answer(wired, pipe)
                case Answer(number, text):
                    waiting = self._waiting.get(number)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(text)
                case Hello():
                    raise PeerError("a second hello", place=self._place)

    async def _write(self, pipe: Pipe) -> None:
        loop = asyncio.get_running_loop()
        free = loop.time()  # when what was written has gone out at the limited rate
        while True:
            if not (self._control or self._data):
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._silence / 3):
                        await self._wake.wait()
                except TimeoutError:
                    pipe.write(_KEEP_ALIVE)
            elif not self._control and free > loop.time() + _BURST:
                self._wake.clear()
                try:  # a message without data need not wait
                    async with asyncio.timeout(min(free - loop.time() - _BURST, self._silence / 3)):
                        await self._wake.wait()
                except TimeoutError:
                    if free > loop.time() + _BURST:
                        pipe.write(_KEEP_ALIVE)
            else:
                size, data = (self._control or self._data).popleft()
                self._queued -= size
                self.sent += size
                for piece in data:
                    pipe.write(piece)
                if self._terms.rate is not None:
                    free = max(free, loop.time()) + size / self._terms.rate
                began = loop.time()
                await pipe.drain()
                self._thrift.took(size, loop.time() - began)
            await pipe.drain()

    def _begin_answer(self, ask: Ask, pipe: Pipe) -> None:
        if len(self._answering) >= _MOST_ASKED:
            raise PeerError(f"more than {_MOST_ASKED} requests at a time", place=self._place)

        async def answer() -> None:
            try:
                said = await self._post.asked(ask.text)
            except Exception as error:
                self._post.failed(error)
                return
            if self._pipe is pipe:
                self._put(self._control, pieces(Answer(ask.number, said)))

        task = asyncio.create_task(answer(), name=f"answer {self._place}")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def end_answers(self) -> None:
        """Answer nothing any more."""
        for task in self._answering:
            task.cancel()
        if self._answering:
            await asyncio.wait(self._answering)

    def _set_up(self, pipe: Pipe, lost: tuple[str, ...]) -> None:
        self.break_off()
        self.error = None
        self._pipe = pipe
        self._changed.set()
        self._post.up(lost)

    def _set_down(self) -> None:
        self._pipe = None
        self.breaks += 1
        self._control.clear()
        self._data.clear()
        self._queued = 0
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PlatformError("the connection was lost", place=self._place))
        self._changed.set()
        self._post.down()


class Connector(End):
    """The end that connects, and connects again, with pauses that double."""

    def __init__(self, site: str, peer: str, post: Post, host: str, port: int, terms: Terms) -> None:
        super().__init__(site, peer, post, terms)
        self._target = host, port
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._over = False
        self._task = asyncio.create_task(self._keep(), name=f"connect {site} -> {peer}")

    def sever(self) -> None:
        """Take the link down until `mend`."""
        self._wanted.clear()
        self.break_off()

    def mend(self) -> None:
        """Let the link come back."""
        self._wanted.set()

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while not self._over:  # a task group that ends with an error at the same time forgets that it was cancelled
            await self._wanted.wait()
            try:
                async with asyncio.timeout(self._silence):
                    _, pipe = await asyncio.get_running_loop().create_connection(
                        lambda: Pipe(self._place), *self._target, ssl=self._terms.tls
                    )
            except OSError as error:
                self.error = PlatformError(f"cannot connect: {error}", place=self._place)
            else:
                before = self.breaks
                await self.carry(pipe)
                if self.breaks > before:
                    pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    async def close(self) -> None:
        """Give up the connection for good."""
        await self.end_answers()
        self._over = True
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


class Listener(End):
    """The end that waits to be connected to. The newest connection wins."""

    def __init__(self, site: str, peer: str, post: Post, terms: Terms) -> None:
        super().__init__(site, peer, post, terms)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Begin; returns the port. Raises PlatformError when it is taken."""
        if self._terms.tls is not None:
            tell(self._terms.tls, self._terms.refused)
        try:
            made = lambda: Pipe(self._place, self._accept)  # noqa: E731
            self._server = await asyncio.get_running_loop().create_server(made, host, port, ssl=self._terms.tls)
        except OSError as error:
            raise PlatformError(f"cannot listen on {host}:{port}: {error}", place=self.site) from error
        return int(self._server.sockets[0].getsockname()[1])

    def _accept(self, pipe: Pipe) -> None:
        if len(self._tasks) >= _MOST_CALLERS:
            pipe.abort()
            return
        task = asyncio.create_task(self.carry(pipe), name=f"serve {self.site} <- {self.peer}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: pipe.abort())  # also when it was cancelled before it began

    async def close(self) -> None:
        """Stop listening, give up the connection."""
        await self.end_answers()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._server is not None:
            await self._server.wait_closed()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
