"""Journaling: carries out what a site's recovery VRAs ask of the journal store, in each stream's lane.

Frames of one stream that wait in its lane one after another are made durable together: the slower the disk, the more
come together while it works, and the less often it has to be synced.
"""

from threading import Lock
from typing import TYPE_CHECKING

from drsim.core.effects import Append, Discard, EffectId, Promote, ReadDigests
from drsim.core.errors import CoreError
from drsim.core.names import StreamId, StreamSpec
from drsim.core.recovery_vra import RecoveryVra
from drsim.real.journal_store import JournalStore
from drsim.real.lane import Outcome

if TYPE_CHECKING:
    from drsim.real.world import Site

MOST = 32 << 20
"""Bytes that are made durable together, about: the first of them should not wait for ever."""


class Gathering:
    """Frames in order; `add` from the event loop, `append_to` once, in the lane."""

    def __init__(self, id_: EffectId, effect: Append, spec: StreamSpec | None) -> None:
        self._lock = Lock()
        self._items = [(id_, effect)]
        self._nbytes = effect.frame.nbytes
        self._spec = spec
        self._open = True

    def add(self, id_: EffectId, effect: Append, spec: StreamSpec | None) -> bool:
        """Take one more frame; False when it is too late, or there are enough."""
        with self._lock:
            if not self._open or self._nbytes >= MOST:
                return False
            self._items.append((id_, effect))
            self._nbytes += effect.frame.nbytes
            self._spec = spec
            return True

    def append_to(self, journals: JournalStore) -> list[tuple[EffectId, Append, BaseException | None]]:
        """Append them; gives what became of each."""
        with self._lock:
            self._open = False
        errors = journals.append_all([effect.frame for _, effect in self._items], self._spec)
        return [(id_, effect, error) for (id_, effect), error in zip(self._items, errors, strict=True)]


class Journaling:
    """See the module. Use from the event loop's thread."""

    def __init__(self, site: "Site") -> None:
        self._site = site
        self._gathering: dict[StreamId, Gathering] = {}

    def perform(self, id_: EffectId, effect: Append | Promote | ReadDigests | Discard) -> None:
        """In the stream's lane; one that the VRA has opened since gets its files there, too."""
        site = self._site
        journals, machine, region = site.journals, site.kernel.machines[id_.address], site.tweaks.region_bytes
        if journals is None:
            raise CoreError(f"{type(effect).__name__} on a site without journals", place=site.name)
        stream = effect.frame.stream if isinstance(effect, Append) else effect.stream
        known = machine.receivers.get(stream) if isinstance(machine, RecoveryVra) else None
        spec = None if known is None else known.spec
        if not isinstance(effect, Append):
            self._gathering.pop(stream, None)  # what comes after this is done after it
            site.work(id_, effect, f"journal {stream}", lambda: journals.perform(effect, spec, region))
            return
        gathering = self._gathering.get(stream)
        if gathering is None or not gathering.add(id_, effect, spec):
            begun = self._gathering[stream] = Gathering(id_, effect, spec)
            site.lane(f"journal {stream}").submit(lambda: begun.append_to(journals), self._appended)

    def _appended(self, outcome: Outcome[list[tuple[EffectId, Append, BaseException | None]]]) -> None:
        for id_, effect, error in outcome.value:
            self._site.answer(id_, effect, Outcome(None, error))
