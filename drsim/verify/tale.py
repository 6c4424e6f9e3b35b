"""Tale: what there is to tell of a program of any kind; of those that are runs of the explorer, their story."""

from contextlib import suppress
from dataclasses import dataclass

from drsim.core.effects import Perform
from drsim.core.events import Decided, Done, Failed, Started
from drsim.verify.complaint import demand
from drsim.verify.epoch_story import record_epochs
from drsim.verify.hunt import HUNTERS, judge
from drsim.verify.plain import listing
from drsim.verify.recorder import Recorder
from drsim.verify.recovery_programs import rehearsal_of
from drsim.verify.reverse import run_reverse
from drsim.verify.store_programs import HEAD, MASKED, TABLE
from drsim.verify.story import Story, record, remembered, told
from drsim.verify.violation import Violation


@dataclass(frozen=True, slots=True)
class Tale:
    """What there is to tell of a program of any kind. `story` is None for those that are no run of the explorer."""

    cast: str
    lines: list[str]
    verdict: str
    holds: bool
    story: Story | None = None

    @property
    def healing(self) -> int:
        """How many lines there are before faults stop."""
        return len(self.lines) if self.story is None else sum(not step.healing for step in self.story.x.steps)


def tell(kind: str, program: bytes) -> Tale:
    """Play a program of a hunter's kind, and tell what it did."""
    verdict = judge(HUNTERS[kind], program)
    story, said = None, "Every property held"
    if kind == "store":
        cast, lines = "A journal store on a disk that breaks.", _operations(program)
    elif kind == "figures":
        cast, lines = "A simulated estate, whose figures are compared with what closed forms say.", []
    elif kind == "recovery":
        cast, lines = _rehearsed(program)
    elif kind == "reverse":
        cast, lines = _both_ways(program)
    else:
        story = record_epochs(program) if kind == "epochs" else record(program)
        cast, lines, said = story.cast, story.lines(), story.verdict
        if story.broken is not None:
            return Tale(cast, lines, said, holds=False, story=story)
    if verdict is not None:
        seen = verdict.message[0].upper() + verdict.message[1:]
        said = f"{verdict.prop} does not hold: {demand(verdict.prop)}. {seen}"
    return Tale(cast, lines, said.rstrip(".") + ".", holds=verdict is None, story=story)


def _rehearsed(program: bytes) -> tuple[str, list[str]]:
    """A recovery operation: its plan, and what it had carried out, in order."""
    rehearsal = rehearsal_of(program)
    with suppress(Violation, AssertionError):
        rehearsal.play()
    plan, lines = rehearsal.plan, []
    for _, event in rehearsal.history:
        match event:
            case Done(_, Perform(action=action)):
                lines.append(f"{action}: done.")
            case Failed(_, Perform(action=action), error):
                lines.append(f"{action}: failed ({error.message}).")
            case Decided(verdict=verdict):
                lines.append(f"Somebody decides: {verdict}.")
            case Started() if lines:
                lines.append("The operation's manager dies, and is built again from its history.")
    vms = listing([vm.name for vm in plan.vms]) if plan.vms else f"volume {plan.volume}"
    return f"A {plan.kind} of {vms}.", [line[0].upper() + line[1:] for line in lines]


def _both_ways(program: bytes) -> tuple[str, list[str]]:
    """A run that is cut off, and the one that protects the other way."""
    mine, made = remembered(Recorder)
    with suppress(Exception):
        run_reverse(program, explorer=mine)
    first, *second = [[told(step) for step in x.steps] for x in made]
    turn = "The VMs run at the other site from their newest checkpoints, and are protected the other way."
    return Story(made[0], None).cast, [*first, *([turn, *second[0]] if second else [])]


def _operations(program: bytes) -> list[str]:
    """What a store program was to do, by the names of its operations."""
    without = {kind for n, kind in enumerate(MASKED) if (program[2] | program[3] << 8) >> n & 1}
    names = [TABLE[program[at] % len(TABLE)] for at in range(HEAD, len(program) - 2, 3)]
    return [name[0].upper() + name[1:] for name in names if name not in without]
