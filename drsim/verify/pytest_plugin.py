"""The pytest plugin (entry point `drsim`): verification among a user's own tests.

    fixture         gives
    --------------  ---------------------------------------------------------------------------------------------
    drsim_verify    a call that plays programs, and fails with the property, what was seen, and a token
    drsim_program   one program; a test that takes it runs once for each of `--drsim-programs`
    drsim_explorer  a call that makes a small estate with every check on, for a scenario of one's own

Nothing else of drsim is imported until a fixture is used, so that the plugin costs nothing where it only lies about.
"""

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer
    from drsim.verify.swarm import Tally

HERE = Path(__file__).resolve().parents[1]
PROGRAMS = 200  # two seconds
COUNTED = ("drsim programs", "drsim steps")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the fixtures read."""
    group = parser.getgroup("drsim", "verification of replication (drsim)")
    group.addoption("--drsim-programs", type=_count, default=PROGRAMS, metavar="N",
                    help=f"how many programs a test plays ({PROGRAMS} by default)")  # fmt: skip
    group.addoption("--drsim-seconds", type=float, metavar="S", help="for how long drsim_verify plays, instead")
    group.addoption("--drsim-seed", type=_count, default=0, metavar="N",
                    help="number of the first program; the same number is the same program everywhere")  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each program."""
    if "drsim_program" in metafunc.fixturenames:
        first, count = (metafunc.config.getoption(name) for name in ("drsim_seed", "drsim_programs"))
        metafunc.parametrize("drsim_program", range(first, first + count), indirect=True)


@pytest.fixture
def drsim_program(request: pytest.FixtureRequest) -> bytes:
    """The explorer's program of a number (`drsim.verify.program.run` plays it)."""
    from drsim.verify.program import random_program

    return random_program(request.param)


@pytest.fixture
def drsim_verify(request: pytest.FixtureRequest) -> "Callable[..., Tally]":
    """Plays programs of every kind in this process: `drsim_verify(programs=None, seconds=None, seed=None)`.

    What is not given comes from the options; `seconds` goes before `programs`. Fails the test with the first program
    that fails, shrunk. Returns the `Tally` of what was played.
    """

    def verify(*, programs: int | None = None, seconds: float | None = None, seed: int | None = None) -> "Tally":
        from drsim.verify.complaint import complaint

        options = request.config.option
        if programs is None and seconds is None:
            programs, seconds = options.drsim_programs, options.drsim_seconds
        tally = _play(programs, seconds, options.drsim_seed if seed is None else seed)
        request.node.user_properties += zip(COUNTED, (tally.programs, tally.steps), strict=True)
        if tally.found:
            pytest.fail(complaint(tally.found[0]), pytrace=False)
        return tally

    return verify


def _play(programs: int | None, seconds: float | None, seed: int) -> "Tally":
    from drsim.verify.hunt import HUNTERS
    from drsim.verify.swarm import Tally, batches, play_batch

    tally, began = Tally(), time.monotonic()
    for kind, first in batches(seed):
        count = HUNTERS[kind].batch
        if seconds is not None:
            wanted = time.monotonic() - began < seconds
        else:
            count = min(count, (programs or 0) - tally.programs)
            wanted = count > 0
        if tally.found or not wanted:
            break
        tally += play_batch(kind, first, count=count)
    return tally


@pytest.fixture
def drsim_explorer() -> "Iterator[Callable[..., Explorer]]":
    """Makes estates: `drsim_explorer(protected=2, vms=1, ...)`, whose arguments are those of `estate.Shape`.

    Properties are checked at every step; at the end of the test everything that can be recovered is looked at.
    """
    from drsim.verify.estate import Shape
    from drsim.verify.explorer import Explorer

    made: list[Explorer] = []

    def build(**shape: Any) -> Explorer:
        made.append(Explorer(Shape(**shape)))
        return made[-1]

    yield build
    for explorer in made:
        explorer.checks.whole()


# -- reports ------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A violation is shown where the user's test met it, and says what its property demands."""
    found = call.excinfo
    if found is not None and type(found.value).__module__ == "drsim.verify.violation":
        from drsim.verify.complaint import demand

        prop: str = found.value.prop  # type: ignore[attr-defined]
        found.value.add_note(f"{prop} demands: {demand(prop)}")
        if not item.config.getoption("fulltrace", False):
            _end_outside(found.value)
    report = yield
    program = getattr(item, "funcargs", {}).get("drsim_program")
    if report.failed and program is not None:
        from drsim.verify.token import Token

        report.sections.append(("drsim", f"drsim replay {Token('explorer', program)}"))
    return report


def _end_outside(error: BaseException) -> None:
    """Let a traceback end with the last frame that is not drsim's own."""
    last, entry = None, error.__traceback__
    while entry is not None:
        if HERE not in Path(entry.tb_frame.f_code.co_filename).parents:
            last = entry
        entry = entry.tb_next
    if last is not None:
        last.tb_next = None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was looked at, over all tests and workers."""
    totals = dict.fromkeys(COUNTED, 0)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name in totals:
                        totals[name] += value
    if any(totals.values()):
        programs, steps = totals.values()
        terminalreporter.write_line(f"drsim: {programs:,} programs, {steps:,} steps of the core")
