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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from pyVmomi import vim, vmodl

from drsim.core.errors import PlatformError
from drsim.real.patience import Login, Verdict
from drsim.real.platforms import outdated
from drsim.real.ports import Limits, Unavailable
from drsim.real.vsphere.collector import POLL, Questions, Updates, filter_of
from drsim.real.vsphere.faults import TROUBLE, Refused, blamed, is_fault, judge
from drsim.real.vsphere.wire import Wire
from drsim.spec.vsphere import Vsphere

T = TypeVar("T")
_Found = dict[Any, dict[str, Any]]

_VERSION = "vim.version.version11"
"""That of the oldest API that has all that is used, 6.5; every later vCenter speaks it too."""
_TASK, _ENDED = ("info.state", "info.result", "info.error"), ("success", "error")


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
        self._wire = Wire(spec.address, spec.port, _VERSION, context, spec.connections, limits.call + POLL)
        self._places = asyncio.Semaphore(spec.connections)
        self._reading, self._questions = list[_Together](), Questions()
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
        if oldest := outdated("vsphere", version):
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
                page = await self.wait(self._questions.ask, self.content.propertyCollector, together.wanted)
            async for thing, facts in self._pages(page):
                found.setdefault(thing, {}).update(facts)
        except Refused:
            return None
        return found

    async def read_all(self, root: Any, kind: type, *paths: str) -> list[tuple[Any, dict[str, Any]]]:
        """Properties of one thing, or of all in a view."""
        collector, options = self.content.propertyCollector, vmodl.query.PropertyCollector.RetrieveOptions()
        try:
            page = await self.call(collector.RetrievePropertiesEx, [filter_of([root], kind, paths)], options)
        except Refused as error:
            if isinstance(root, vim.view.View) and is_fault(error, vmodl.fault.ManagedObjectNotFound):
                gone = error.fault.obj == root  # with its session; else one of its objects has gone just now
                raise Refused(vim.fault.NotAuthenticated() if gone else vim.fault.ConcurrentAccess()) from error
            raise
        return [each async for each in self._pages(page)]

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
                    for update in await updates.next(POLL):
                        facts = seen.setdefault(update.obj, {})
                        facts |= {change.name: change.val for change in update.changeSet}
                        future = ending[update.obj]
                        if update.kind == "leave" and not future.done():
                            future.set_exception(Refused(vmodl.fault.ManagedObjectNotFound(obj=update.obj)))
                        elif facts.get("info.state") in _ENDED and not future.done():
                            future.set_result(facts)
        except Exception as error:  # whoever waits has it
            for future in ending.values():
                if not future.done():
                    future.set_exception(error)
        finally:
            for future in ending.values():
                future.cancel()

    async def told(
        self, thing: Any, paths: Sequence[str], enough: Callable[[Mapping[str, Any]], bool], timeout: float
    ) -> bool:
        """Whether its properties come to be so in time. Raises Unavailable when the session or connection is lost."""
        seen: dict[str, Any] = {}
        ends = time.monotonic() + timeout
        try:
            async with Updates(self, [([thing], type(thing), paths)]) as updates:
                while not enough(seen):
                    left = ends - time.monotonic()
                    if left <= 0:
                        return False
                    for update in await updates.next(left):
                        if update.kind == "leave":
                            raise Refused(vmodl.fault.ManagedObjectNotFound(obj=thing))
                        seen |= {change.name: change.val for change in update.changeSet}
        except TROUBLE as error:
            if judge(error) is Verdict.GIVE_UP:
                raise blamed(error, "wait", self.place) from error
            raise Unavailable(f"lost while waiting: {error}", place=self.place) from error
        return True
