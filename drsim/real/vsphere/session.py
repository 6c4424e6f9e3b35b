"""Session: one login to a vCenter, over TLS; calls it, waits for its tasks, and says its faults in words.

Theory of operation. pyvmomi writes and reads the calls, the wire sends them. `patient` is the one way in for everything
that changes something or looks: it repeats a whole piece of work (look, change, wait for the task) as `patiently` says,
so such a piece looks first. A session that the vCenter has forgotten is renewed by whoever notices first.

A task's outcome is read by the property collector, never by `task.info`: that reads what it does not need, and cannot
read tasks of disks at all. Some tasks have ended when they are looked at; for the others a collector of their own waits
(WaitForUpdatesEx), so nothing is polled. As many calls are under way at once as the site's file allows; what is to be
read meanwhile is read in one call, and tasks that are found to go on are waited for in one call.

TLS is always verified against an explicit context: without one pyvmomi stops verifying by itself for this machine.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar, cast
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from drsim.core.errors import PlatformError
from drsim.real.patience import Login, Verdict
from drsim.real.ports import (
    Limits,
    LoginRefused,
    NotAllowed,
    NotFound,
    QuotaReached,
    Taken,
    Unavailable,
    Unsupported,
)
from drsim.real.vsphere.wire import Wire
from drsim.spec.vsphere import Vsphere

T = TypeVar("T")
_Found = dict[Any, dict[str, Any]]

OLDEST, _VERSION = (6, 5), "vim.version.version11"
"""The oldest API that has all that is used, and that is spoken; every later vCenter speaks it too."""
_POLL = 20
"""Seconds that one wait for updates lasts at most."""
_TASK, _ENDED = ("info.state", "info.result", "info.error"), ("success", "error")

_AGAIN = (
    vim.fault.TaskInProgress, vim.fault.ConcurrentAccess, vim.fault.Timedout, vmodl.fault.HostCommunication,
    vmodl.fault.RequestCanceled,
)  # fmt: skip
_BLAME: tuple[tuple[tuple[type, ...], type[PlatformError], str], ...] = (
    ((vim.fault.InvalidLogin, vim.fault.NoClientCertificate), LoginRefused, "are user and password right?"),
    ((vmodl.fault.NotEnoughLicenses, vim.fault.NoDiskSpace, vim.fault.InsufficientResourcesFault), QuotaReached, ""),
    ((vim.fault.FileNotFound, vmodl.fault.ManagedObjectNotFound, vim.fault.NotFound), NotFound, ""),
    ((vim.fault.FileLocked, vim.fault.DuplicateName, vim.fault.FileAlreadyExists, vim.fault.AlreadyExists), Taken, ""),
    ((vmodl.fault.NotSupported, vmodl.fault.NotImplemented, vmodl.fault.MethodNotFound), Unsupported, ""),
)


class Refused(Exception):
    """A fault that the vCenter answers. `fault`: as pyvmomi has it."""

    def __init__(self, fault: Any) -> None:
        super().__init__(_said(fault))
        self.fault = fault

    def __str__(self) -> str:
        return str(self.args[0])


TROUBLE = (Refused, OSError, HTTPException, ExpatError)
"""What a call can raise."""


class Late(Exception):
    """What was waited for has not come in time."""


def _said(fault: Any) -> str:
    """A fault in words: its kind and what the vCenter says of it, without the fields."""
    kind = type(fault).__name__.rpartition(".")[2]
    detail = getattr(fault, "msg", None) or ""
    if isinstance(fault, vim.fault.FileFault) and fault.file:
        detail = f"{detail} ({fault.file})" if detail and fault.file not in detail else detail or fault.file
    return f"{kind}: {detail}" if detail and detail != kind else kind


def judge(error: Exception) -> Verdict:
    """What an error of a call means."""
    match error:
        case Refused(fault=fault) if isinstance(fault, vim.fault.NotAuthenticated):
            return Verdict.LOG_IN
        case Refused(fault=fault) if isinstance(fault, _AGAIN):
            return Verdict.AGAIN
        case ssl.SSLCertVerificationError():
            return Verdict.GIVE_UP
        case OSError() | HTTPException() | ExpatError():
            return Verdict.AGAIN
    return Verdict.GIVE_UP


def blamed(error: Exception, what: str, place: str) -> PlatformError:
    """An error of a call as one of the ports'."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "give the certificate's authority as ca, and the name in it as address"
        return PlatformError(f"its certificate is not trusted: {error.verify_message}", place=place, hint=hint)
    if not isinstance(error, Refused):
        return PlatformError(f"{what}: {type(error).__name__}: {error}", place=place)
    if isinstance(error.fault, vim.fault.NoPermission):
        missing = error.fault.privilegeId or "a privilege"
        return NotAllowed(f"{what}: the account lacks {missing}", place=place, hint="grant it to the account's role")
    for kinds, blame, hint in _BLAME:
        if isinstance(error.fault, kinds):
            return blame(f"{what}: {error}", place=place, hint=hint)
    return PlatformError(f"{what}: {error}", place=place)


def is_fault(error: BaseException, *kinds: type) -> bool:
    """Whether it is one of these faults of the vCenter."""
    return isinstance(error, Refused) and isinstance(error.fault, kinds)


@contextmanager
def suppress_fault(*kinds: type) -> Iterator[None]:
    """Take one of these faults for what was wanted."""
    try:
        yield
    except Refused as error:
        if not is_fault(error, *kinds):
            raise


class _Together:
    """Reads that go as one call. `wanted`: of each kind the properties, the same for all of its things."""

    def __init__(self) -> None:
        self.wanted: dict[type, tuple[tuple[str, ...], list[Any]]] = {}
        self.found: asyncio.Future[_Found | None]


class Session:
    """A login. `calls` have been made so far."""

    def __init__(self, spec: Vsphere, base: Path, password: str, context: ssl.SSLContext, limits: Limits) -> None:
        self.spec, self.base, self.limits, self.calls = spec, base, limits, 0
        self.place = f"vCenter {spec.address}"
        self._password = password
        self._wire = Wire(spec.address, spec.port, _VERSION, context, spec.connections, limits.call + _POLL)
        self._places = asyncio.Semaphore(spec.connections)
        self._reading = list[_Together]()
        self._ending: dict[Any, asyncio.Future[dict[str, Any]]] | None = None
        self._telling = set[asyncio.Task[None]]()
        self.login = Login(self._come_in, judge, blamed, TROUBLE, self.place, limits)
        self.patient = self.login.patient
        self.root = vim.ServiceInstance("ServiceInstance", self._wire.stub)
        self.content: Any = None
        self.fresh: list[Callable[[], None]] = []
        """Called after a login: what belonged to the old session is gone."""

    async def call(self, method: Callable[..., T], *args: Any, **options: Any) -> T:
        """One call. Raises Refused, OSError, HTTPException, ExpatError."""
        async with self._places:
            return await self.wait(method, *args, **options)

    async def wait(self, method: Callable[..., T], *args: Any, **options: Any) -> T:
        """One call that may last: it takes no other call's place."""
        self.calls += 1
        try:
            request: Any = method(*args, **options)
            return cast(T, await self._wire.send(request))
        except (vmodl.MethodFault, vmodl.RuntimeFault) as fault:
            raise Refused(fault) from None

    async def _come_in(self) -> None:
        self._wire.cookie = ""  # a login within a login is refused
        self.content = await self.call(self.root.RetrieveContent)
        version = self.content.about.apiVersion
        if tuple(map(int, version.split(".")[:2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise PlatformError(f"its API is {version}; {oldest} is the oldest that will do", place=self.place)
        await self.call(self.content.sessionManager.Login, self.spec.user, self._password)
        for forget in self.fresh:
            forget()

    async def close(self) -> None:
        """Log out and let the connections go."""
        inside, self.login.number = self.login.number, 0
        if inside:
            with suppress(*TROUBLE):
                async with asyncio.timeout(self.limits.call):
                    await self.call(self.content.sessionManager.Logout)
        for each in self._telling:
            each.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)
        await self._wire.close()

    # -- the property collector --------------------------------------------------------------------------------------

    async def read(self, thing: Any, *paths: str) -> dict[str, Any]:
        """Properties of one thing; those that are not set are left out. Reads that wait for a place go as one call."""
        fits = (each for each in self._reading if each.wanted.get(type(thing), (paths, []))[0] == paths)
        together = next(fits, None)
        if together is None:
            together = _Together()
            together.found = asyncio.ensure_future(self._read(together))
            self._reading.append(together)
        together.wanted.setdefault(type(thing), (paths, []))[1].append(thing)
        found = await asyncio.shield(together.found)
        if found is None:
            found = dict(await self.read_all(thing, type(thing), *paths))
        return found.get(thing, {})

    async def _read(self, together: "_Together") -> _Found | None:
        """Properties of things; None when that is refused: whose matter that is shows only when each asks alone."""
        found: _Found = {}
        try:
            async with self._places:
                self._reading.remove(together)
                filters = [_filter(things, kind, paths) for kind, (paths, things) in together.wanted.items()]
                page = await self._retrieve(self.wait, filters)
            async for thing, facts in self._pages(page):
                found.setdefault(thing, {}).update(facts)
        except Refused:
            return None
        return found

    async def read_all(self, root: Any, kind: type, *paths: str) -> list[tuple[Any, dict[str, Any]]]:
        """Properties of one thing, or of all in a view."""
        try:
            page = await self._retrieve(self.call, [_filter([root], kind, paths)])
        except Refused as error:
            if isinstance(root, vim.view.View) and is_fault(error, vmodl.fault.ManagedObjectNotFound):
                gone = error.fault.obj == root  # with its session; else one of its objects has gone just now
                raise Refused(vim.fault.NotAuthenticated() if gone else vim.fault.ConcurrentAccess()) from error
            raise
        return [each async for each in self._pages(page)]

    async def _retrieve(self, call: Callable[..., Awaitable[Any]], filters: list[Any]) -> Any:
        options = vmodl.query.PropertyCollector.RetrieveOptions()
        return await call(self.content.propertyCollector.RetrievePropertiesEx, filters, options)

    async def _pages(self, page: Any) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
        """What a page has, and those behind it."""
        while page is not None:
            for each in page.objects:
                yield each.obj, {item.name: item.val for item in each.propSet}
            if not page.token:
                return
            page = await self.call(self.content.propertyCollector.ContinueRetrievePropertiesEx, page.token)

    async def finished(self, start: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Start a task and wait for its end. Gives its result. Raises Refused with its error."""
        task = await self.call(start, *args, **options)
        facts = await self.read(task, *_TASK)
        if facts.get("info.state") not in _ENDED:
            facts = await self._end(task)
        if facts["info.state"] == "error":
            raise Refused(facts["info.error"])
        return facts.get("info.result")

    async def _end(self, task: Any) -> dict[str, Any]:
        """Wait until a task has ended. Those that are waited for from the same moment on have one collector."""
        if self._ending is None:
            self._ending = {}
            telling = asyncio.create_task(self._tell(self._ending))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
        future = self._ending.setdefault(task, asyncio.get_running_loop().create_future())
        return await future

    async def _tell(self, ending: dict[Any, "asyncio.Future[dict[str, Any]]"]) -> None:
        self._ending, seen = None, dict[Any, dict[str, Any]]()
        try:
            async with Updates(self, [(list(ending), vim.Task, _TASK)]) as updates:
                while not all(future.done() for future in ending.values()):
                    for update in await updates.next(_POLL):
                        facts = seen.setdefault(update.obj, {})
                        facts |= {change.name: change.val for change in update.changeSet}
                        if update.kind == "leave":
                            raise Refused(vmodl.fault.ManagedObjectNotFound(obj=update.obj))
                        if facts.get("info.state") in _ENDED and not ending[update.obj].done():
                            ending[update.obj].set_result(facts)
        except TROUBLE as error:
            for future in ending.values():
                if not future.done():
                    future.set_exception(error)

    async def until(
        self,
        thing: Any,
        paths: Sequence[str],
        enough: Callable[[Mapping[str, Any]], bool],
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Wait until one thing's properties are so; gives them. Raises Late after `timeout` seconds."""
        seen: dict[str, Any] = {}
        ends = None if timeout is None else time.monotonic() + timeout
        async with Updates(self, [([thing], type(thing), paths)]) as updates:
            while True:
                left = _POLL if ends is None else ends - time.monotonic()
                if left <= 0:
                    raise Late
                for update in await updates.next(left):
                    if update.kind == "leave":
                        raise Refused(vmodl.fault.ManagedObjectNotFound(obj=thing))
                    seen |= {change.name: change.val for change in update.changeSet}
                if enough(seen):
                    return seen

    async def told(
        self, thing: Any, paths: Sequence[str], enough: Callable[[Mapping[str, Any]], bool], timeout: float
    ) -> bool:
        """Whether its properties come to be so in time. Raises Unavailable when the session or connection is lost."""
        try:
            await self.until(thing, paths, enough, timeout)
        except Late:
            return False
        except TROUBLE as error:
            if judge(error) is Verdict.GIVE_UP:
                raise blamed(error, "wait", self.place) from error
            raise Unavailable(f"lost while waiting: {error}", place=self.place) from error
        return True


class Updates:
    """What changes of some things, from a collector of their own; their present state comes first."""

    def __init__(self, session: Session, what: Sequence[tuple[Sequence[Any], type, Sequence[str]]]) -> None:
        self._session, self._what, self._version = session, what, ""
        self._collector: Any = None
        self._waiting = False

    async def __aenter__(self) -> "Updates":
        call = self._session.call
        self._collector = await call(self._session.content.propertyCollector.CreatePropertyCollector)
        for things, kind, paths in self._what:
            await call(self._collector.CreateFilter, _filter(things, kind, paths), False)
        return self

    async def __aexit__(self, *_: object) -> None:
        call = self._session.call
        with suppress(*TROUBLE):
            if self._waiting:
                await call(self._collector.CancelWaitForUpdates)
            await call(self._collector.DestroyPropertyCollector)

    async def next(self, seconds: float) -> list[Any]:
        """The next changes; none when there were none within so many seconds (at least one is waited)."""
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=max(1, min(_POLL, int(seconds))))
        found: list[Any] = []
        while True:
            self._waiting = True
            got = await self._session.wait(self._collector.WaitForUpdatesEx, self._version, options)
            self._waiting = False
            if got is None:
                return found
            self._version = got.version
            found += [update for each in got.filterSet for update in each.objectSet]
            if not got.truncated:
                return found


def _filter(things: Sequence[Any], kind: type, paths: Sequence[str]) -> Any:
    """Of things of a kind, or of all such that are in a view."""
    query = vmodl.query.PropertyCollector
    view = isinstance(things[0], vim.view.View)
    down = [query.TraversalSpec(name="view", type=type(things[0]), path="view", skip=False)] if view else []
    return query.FilterSpec(
        propSet=[query.PropertySpec(type=kind, pathSet=list(paths), all=False)],
        objectSet=[query.ObjectSpec(obj=thing, skip=view, selectSet=down) for thing in things],
        reportMissingObjectsInResults=None if view else False,
    )
