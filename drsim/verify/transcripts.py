"""Transcripts: what the core of a live site was told, told again to fresh machines (P28). An incident is a test case.

The machines are made as they were made then, from what was durable. Each is told the same, at the same times, and has
to answer with the same effects. Not compared: what guests wrote, which no machine reads and no transcript has.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drsim.core.effects import Effect, EffectId
from drsim.core.errors import FileError
from drsim.core.events import Done, Event, Failed
from drsim.core.kernel import Kernel, Sink
from drsim.core.names import Address
from drsim.core.trace import text
from drsim.core.units import Ns
from drsim.real.transcript import named, read, value_of
from drsim.verify.violation import Violation


@dataclass(frozen=True)
class Replayed:
    """What was played again. `broke`: what the last step raised, when the site failed or was killed in it."""

    site: str
    version: str
    machines: int
    steps: int
    broke: str = ""


def replay(path: Path, sink: Sink | None = None) -> Replayed:
    """Play a transcript; `sink` sees the steps. Raises Violation P28 at the first other effect, FileError."""
    records = read(path)
    _, site, version, max_steps = next(records, None) or _empty(path)
    player = _Player(int(max_steps), sink)
    for line, record in enumerate(records, 2):
        try:
            player.play(record)
        except (ValueError, TypeError, KeyError) as error:
            raise FileError(f"cannot be played: {error}", place=f"{path}:{line}") from error
        except Violation as violation:
            raise Violation("P28", f"line {line} of {path.name}: {violation.message}") from None
    return Replayed(site, version, player.machines, player.kernel.steps, player.broke)


def _empty(path: Path) -> list[Any]:
    raise FileError("nothing is in this transcript: the site was killed before it began", place=str(path))


class _Player:
    def __init__(self, max_steps: int, sink: Sink | None) -> None:
        self.kernel = Kernel(max_steps=max_steps, trace=sink)
        self.machines, self.broke = 0, ""
        self._asked: dict[EffectId, Effect] = {}
        self._gave: list[str] | None = None  # what the step gave that was taken last

    def play(self, record: list[Any]) -> None:
        if self.broke:
            raise Violation("P28", self.broke)
        match record:
            case ["made", address, kind, args, options]:
                self.kernel.machines.pop(address, None)
                machine = named(kind)(*map(value_of, args), **{name: value_of(each) for name, each in options.items()})
                self.kernel.add(address, machine)
                self.machines += 1
            case ["told", now, address, event]:
                self._step(Ns(now), Address(address), value_of(event))
            case ["gave", effects]:
                if self._gave != effects:
                    raise Violation("P28", f"other effects\n  then: {_shown(effects)}\n  now:  {_shown(self._gave)}")
            case _:
                raise ValueError("no record of a transcript")

    def _step(self, now: Ns, address: Address, event: Event) -> None:
        if isinstance(event, Done | Failed):
            if event.id not in self._asked:
                raise Violation("P28", f"{text(event.id)} was answered, and nobody asks for it now")
            event = replace(event, effect=self._asked.pop(event.id))
        try:
            issued = self.kernel.post(now, address, event)
        except Exception as error:  # the core is on trial: whatever it raises is the finding
            self.broke = f"{address}, told {text(event)}, raised {type(error).__name__}: {error}"
            return
        self._asked.update(issued)
        self._gave = [text(effect) for _, effect in issued]


def _shown(effects: list[str] | None) -> str:
    return "; ".join(effects or ()) or "none"
