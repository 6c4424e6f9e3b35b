"""History: what the workflows of a site were told, durably, and what was begun and done about it.

    operation   number, plan, report when it is over
    event       all that the operation's machine was given, in order: replayed, it is where it was
    step        what it asked for: begun (the intent), and how it ended
    pinned      when its checkpoint was taken

An event is here before the machine hears of it, an intent before anything is done about it, its outcome before the
machine hears of that. An intent without an outcome is *reconciled* by whoever carries it out: every action looks at
what is there first (`recovery.py`), so asking again does nothing twice. SQLite keeps it, synced at every commit.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

from drsim.core.action import Action, Step
from drsim.core.effects import EffectId, Perform
from drsim.core.errors import DrsimError, FileError, PeerError, PlatformError, StoreFull
from drsim.core.events import Decided, Done, Event, Failed, Fired, Started, Stopped, Verdict
from drsim.core.names import Address
from drsim.core.recovery.facts import Facts
from drsim.core.recovery.plan import Plan
from drsim.core.units import Ns
from drsim.core.value import value
from drsim.core.workflow import History
from drsim.real.codec import build, plain

_ERRORS = {cls.__name__: cls for cls in (PlatformError, PeerError, FileError, StoreFull)}
_TABLES = """
CREATE TABLE IF NOT EXISTS operation (number INTEGER PRIMARY KEY, plan TEXT NOT NULL, asked INTEGER NOT NULL,
    report TEXT);
CREATE TABLE IF NOT EXISTS event (operation INTEGER NOT NULL, n INTEGER NOT NULL, at INTEGER NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (operation, n));
CREATE TABLE IF NOT EXISTS step (operation INTEGER NOT NULL, step TEXT NOT NULL, action TEXT NOT NULL, outcome TEXT,
    PRIMARY KEY (operation, step));
CREATE TABLE IF NOT EXISTS pinned (operation INTEGER PRIMARY KEY, taken INTEGER NOT NULL);
"""


@value
class Said(Action[object]):
    """Stands for an action in a history: only its step matters there."""

    def __str__(self) -> str:
        return "as recorded"


class HistoryStore:
    """One site's. Use from one thread. Methods raise PlatformError when the file cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
        except sqlite3.Error as error:
            raise PlatformError(f"the history cannot be opened: {error}", place=str(path)) from error

    def _do(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise PlatformError(f"the history: {error}", place=str(self.path)) from error

    # -- operations -------------------------------------------------------------------------------------------

    def begin(self, plan: Plan, asked: Ns) -> int:
        """A new operation; its number."""
        text = json.dumps(plain(plan))
        return int(self._do("INSERT INTO operation (plan, asked) VALUES (?, ?) RETURNING number", text, asked)[0][0])

    def end(self, number: int, report: dict[str, Any]) -> None:
        """An operation is over."""
        self._do("UPDATE operation SET report = ? WHERE number = ?", json.dumps(report), number)

    def open(self) -> list[tuple[int, Plan, Ns]]:
        """Operations that are not over: number, plan, when they were asked for."""
        rows = self._do("SELECT number, plan, asked FROM operation WHERE report IS NULL ORDER BY number")
        return [(number, build(Plan, json.loads(text)), Ns(asked)) for number, text, asked in rows]

    def reports(self) -> dict[int, dict[str, Any]]:
        """Of all that are over, by number."""
        rows = self._do("SELECT number, report FROM operation WHERE report IS NOT NULL ORDER BY number")
        return {number: json.loads(text) for number, text in rows}

    def pinned(self, number: int, taken: Ns) -> None:
        """An operation goes on with a checkpoint that was taken then."""
        self._do("INSERT OR REPLACE INTO pinned VALUES (?, ?)", number, taken)

    def taken(self, number: int) -> Ns | None:
        """When its checkpoint was taken, if it has one."""
        rows = self._do("SELECT taken FROM pinned WHERE operation = ?", number)
        return Ns(rows[0][0]) if rows else None

    # -- events -----------------------------------------------------------------------------------------------

    def heard(self, number: int, now: Ns, event: Event) -> None:
        """An operation's machine is about to be told this."""
        if isinstance(event, Stopped):
            return
        n = self._do("SELECT count(*) FROM event WHERE operation = ?", number)[0][0]
        self._do("INSERT INTO event VALUES (?, ?, ?, ?)", number, n, now, json.dumps(_told(event)))

    def events(self, number: int, address: Address) -> History:
        """All that it was told."""
        rows = self._do("SELECT at, body FROM event WHERE operation = ? ORDER BY n", number)
        return [(Ns(at), _telling(json.loads(body), address)) for at, body in rows]

    # -- steps ------------------------------------------------------------------------------------------------

    def intend(self, number: int, step: Step, action: Action[object]) -> Event | None:
        """Something is about to be done; what came of it, if it was done before."""
        key = json.dumps(step)
        self._do("INSERT OR IGNORE INTO step VALUES (?, ?, ?, NULL)", number, key, str(action))
        (outcome,) = self._do("SELECT outcome FROM step WHERE operation = ? AND step = ?", number, key)[0]
        return None if outcome is None else _telling(json.loads(outcome), Address(""))

    def outcome(self, number: int, step: Step, answer: Event) -> None:
        """How it ended."""
        text = json.dumps(_told(answer))
        self._do("UPDATE step SET outcome = ? WHERE operation = ? AND step = ?", text, number, json.dumps(step))

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _told(event: Event) -> dict[str, Any]:
    match event:
        case Started():
            return {"event": "started"}
        case Fired(timer):
            return {"event": "fired", "timer": timer}
        case Decided(verdict, note):
            return {"event": "decided", "verdict": verdict.value, "note": note}
        case Done(_, Perform(step), Facts() as facts):
            return {"event": "done", "step": step, "facts": plain(facts)}
        case Done(_, Perform(step), bool() | int() | None as value):
            return {"event": "done", "step": step, "value": value}
        case Failed(_, Perform(step), error):
            words = {"error": type(error).__name__, "message": error.message, "place": error.place, "hint": error.hint}
            return {"event": "failed", "step": step, **words}
        case _:
            raise TypeError(f"a workflow is not told {event!r}")


def _telling(told: dict[str, Any], address: Address) -> Event:
    match told:
        case {"event": "started"}:
            return Started()
        case {"event": "fired", "timer": timer}:
            return Fired(timer)
        case {"event": "decided", "verdict": verdict, "note": note}:
            return Decided(Verdict(verdict), note)
        case {"event": "done", "step": step, "facts": facts}:
            return Done(EffectId(address, 0), Perform(tuple(step), Said()), build(Facts, facts))
        case {"event": "done", "step": step, "value": value}:
            return Done(EffectId(address, 0), Perform(tuple(step), Said()), value)
        case {"event": "failed", "step": step, "error": kind, "message": message, "place": place, "hint": hint}:
            error = _ERRORS.get(kind, DrsimError)(message, place=place, hint=hint)
            return Failed(EffectId(address, 0), Perform(tuple(step), Said()), error)
        case _:
            raise TypeError(f"no event: {told!r}")
