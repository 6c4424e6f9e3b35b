"""Collector: what is asked of a vCenter's property collector, and how it tells what changes."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from drsim.real.vsphere.faults import TROUBLE
from drsim.real.vsphere.wire import Request

if TYPE_CHECKING:
    from drsim.real.vsphere.session import Session

POLL = 20
"""Seconds that one wait for updates lasts at most."""
Wanted = Mapping[type, tuple[tuple[str, ...], Sequence[Any]]]
"""Of each kind: properties, and the things that they are wanted of."""
_THING = "drsim-thing"
_PARTS = re.compile(rb"(.*?)(<specSet.*?)(<objectSet>.*</objectSet>)(.*</specSet>)(.*)", re.DOTALL)


class Questions:
    """Writes what is read of things. pyvmomi writes each kind of question once, and the things are put in.

    A read is the most frequent call by far, and always the same but for them.
    """

    def __init__(self) -> None:
        self._written: dict[tuple[type, tuple[str, ...]], tuple[bytes, ...]] = {}

    def ask(self, collector: Any, wanted: Wanted) -> Request:
        """What asks for these properties of these things."""
        head = tail = b""
        asked = []
        for kind, (paths, things) in wanted.items():
            head, begin, one, end, tail = self._parts(collector, kind, paths)
            asked += [begin, *(one.replace(_THING.encode(), thing._moId.encode()) for thing in things), end]
        result = vmodl.query.PropertyCollector.RetrieveResult
        return Request(b"".join([head, *asked, tail]), result)

    def _parts(self, collector: Any, kind: type, paths: tuple[str, ...]) -> tuple[bytes, ...]:
        if (kind, paths) not in self._written:
            options = vmodl.query.PropertyCollector.RetrieveOptions()
            written = collector.RetrievePropertiesEx([filter_of([kind(_THING)], kind, paths)], options)
            found = _PARTS.fullmatch(written.body)
            assert found is not None, written.body
            self._written[kind, paths] = found.groups()
        return self._written[kind, paths]


class Updates:
    """What changes of some things, from a collector of their own; their present state comes first."""

    def __init__(self, session: "Session", what: Sequence[tuple[Sequence[Any], type, Sequence[str]]]) -> None:
        self._session, self._what, self._version = session, what, ""
        self._collector: Any = None
        self._waiting = False

    async def __aenter__(self) -> "Updates":
        call = self._session.call
        self._collector = await call(self._session.content.propertyCollector.CreatePropertyCollector)
        for things, kind, paths in self._what:
            await call(self._collector.CreateFilter, filter_of(things, kind, paths), False)
        return self

    async def __aexit__(self, *_: object) -> None:
        call = self._session.call
        with suppress(*TROUBLE):
            if self._waiting:
                await call(self._collector.CancelWaitForUpdates)
            await call(self._collector.DestroyPropertyCollector)

    async def next(self, seconds: float) -> list[Any]:
        """The next changes; none when there were none within so many seconds (at least one is waited)."""
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=max(1, min(POLL, int(seconds))))
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


def filter_of(things: Sequence[Any], kind: type, paths: Sequence[str]) -> Any:
    """Of things of a kind, or of all such that are in a view."""
    query = vmodl.query.PropertyCollector
    view = isinstance(things[0], vim.view.View)
    down = [query.TraversalSpec(name="view", type=type(things[0]), path="view", skip=False)] if view else []
    return query.FilterSpec(
        propSet=[query.PropertySpec(type=kind, pathSet=list(paths), all=False)],
        objectSet=[query.ObjectSpec(obj=thing, skip=view, selectSet=down) for thing in things],
        reportMissingObjectsInResults=None if view else False,
    )
