"""Every probe is registered, can be reached by the code as it is, and is read from the facts as it says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from drsim.core.facts import (
    CheckpointListed,
    CheckpointSkipped,
    CheckpointsRetired,
    Fact,
    FrameRefused,
    StateChanged,
    SyncEnded,
    SyncStarted,
)  # fmt: skip
from drsim.core.messages import Refusal, Trigger
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.protected_vra import TRIGGER_OF
from drsim.core.status import Health, Peer, Regions, Sync
from drsim.core.units import Ns
from drsim.verify import probes
from drsim.verify.bags import TARGETS
from drsim.verify.probes import PROBES, RETIRED, SKIPPED, TRIGGERS, reached
from drsim.verify.program import random_program, run

ROOT = Path(__file__).resolve().parents[2] / "drsim"
STREAM = StreamId("crm", Address("west/h1/vra"), Address("east/r1/recovery-vra"))
STORE = re.compile("store_.*")  # their probes are members of an enumeration


def nodes(folder: str, *, without: re.Pattern[str] = re.compile("$^")) -> Iterator[ast.AST]:
    for path in sorted((ROOT / folder).glob("*.py")):
        if not without.fullmatch(path.name):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def functions(folder: str, *names: str) -> list[ast.FunctionDef]:
    return [n for n in nodes(folder) if isinstance(n, ast.FunctionDef) and n.name in names]


def pattern(node: ast.expr) -> str:
    """Which texts an expression may be: a literal as it stands, what a format puts in as anything."""
    match node:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=values):
            return "".join(pattern(v) if isinstance(v, ast.Constant) else ".+" for v in values)
        case ast.IfExp(body=body, orelse=orelse):
            return f"(?:{pattern(body)}|{pattern(orelse)})"
    raise AssertionError(f"line {node.lineno}: a probe's name should be written where it is hit")


def hit() -> list[str]:
    """What is added to a set of probes, anywhere in the package."""
    found = []
    for node in nodes("verify", without=STORE):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="probes"), attr="add"), args=[name]):
                found.append(pattern(name))
    return found


def test_every_name_that_is_hit_is_registered() -> None:
    names = hit()
    assert len(names) > 20
    for name in names:
        assert any(re.fullmatch(name, known) for known in PROBES), f"{name!r} is not in PROBES"


def test_every_name_that_is_registered_is_hit() -> None:
    """Somewhere: by an operation, or in what `reached` reads."""
    somewhere = hit()
    for function in functions("verify", "reached", "_shown"):
        for node in ast.walk(function):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="names"), attr="add"), args=[name]):
                    somewhere.append(pattern(name))
                case ast.Dict(keys=keys):
                    somewhere += [pattern(key) for key in keys if key is not None]
    for name in PROBES:
        assert any(re.fullmatch(one, name) for one in somewhere), f"nothing hits {name!r}"


def test_formats_give_registered_names_only() -> None:
    """The two places that put a name together: by the target of an effect, and by what a component is."""
    for kind, _ in TARGETS.values():
        assert f"an effect failed: {kind}" in PROBES
    (role,) = functions("verify", "_role")
    roles = [n.value for n in ast.walk(role) if isinstance(n, ast.Return)]
    assert len(roles) == 4
    for one in roles:
        assert isinstance(one, ast.Constant)
        assert f"{one.value} crashed" in PROBES


def test_programs_hit_nothing_that_is_not_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PROBES", _Everything())
    for seed in range(60):
        x = run(random_program(seed))
        assert (x.probes | reached(x)) <= PROBES.keys()


class _Everything:
    """Stands for a registry that knows every name, so that nothing is left out for being unknown."""

    def keys(self) -> "_Everything":
        return self

    def __rand__(self, names: set[str]) -> set[str]:
        return names


def test_each_reason_of_the_core_has_its_probe() -> None:
    """Skips, retirements, refusals and triggers: one that is added to the core is added here."""
    said: dict[str, set[str]] = {}
    for node in nodes("core"):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args):
                said.setdefault(name, set()).update(
                    n.value for n in args if isinstance(n, ast.Constant) and isinstance(n.value, str)
                )
    (begin,) = (f for f in functions("core", "_begin") if any(a.arg == "tag" for a in f.args.args))
    texts = (n.value for a in ast.walk(begin) if isinstance(a, ast.Assign)
             for n in ast.walk(a.value) if isinstance(n, ast.Constant))  # fmt: skip
    at_once = {text for text in texts if isinstance(text, str) and text}
    withdrawn = said["_withdraw"] | said["_retire"]
    skipped = said["_void"] | said["Aborted"] | said["_let_go"] | said["CheckpointSkipped"] | at_once
    assert set(RETIRED) == withdrawn
    assert set(SKIPPED) == skipped | said["_withdraw"] | {"broken"}, "a store's own words are `broken`"
    assert {name for name in PROBES if name.startswith("refused: ")} == {f"refused: {r.value}" for r in Refusal}


def test_each_trigger_that_begins_a_synchronization_has_its_probe() -> None:
    """What is given to `fold` or `lost`; a protected disk that cannot be read only prolongs one."""
    (lost,) = functions("core", "lost")
    given = [n for n in nodes("core") if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
             and n.func.attr in ("fold", "lost", "distrust", "_begin", "_rest")]  # fmt: skip
    triggers = {
        Trigger[n.attr] for one in (*given, lost.args) for n in ast.walk(one)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "Trigger"
    }  # fmt: skip
    assert set(TRIGGERS) == triggers | set(TRIGGER_OF.values())


def test_every_probe_says_what_it_means() -> None:
    assert all(len(text) > 15 for text in PROBES.values())


# -- what is read from the facts --------------------------------------------------------------------------------------


def of(*facts: Fact) -> set[str]:
    return reached(SimpleNamespace(facts=list(facts)))  # type: ignore[arg-type]


def listed(vpg: str = "crm", tag: str = "") -> CheckpointListed:
    return CheckpointListed(vpg, CheckpointId(1), Ns(5), tag)


def began(trigger: Trigger = Trigger.COMMUNICATION) -> SyncStarted:
    return SyncStarted(STREAM, Sync.BITMAP, trigger, 512)


def withdrawn(reason: str = "journal limit") -> CheckpointsRetired:
    return CheckpointsRetired("crm", None, None, reason)


SYNC, WITHDRAWN = f"sync began: {Trigger.COMMUNICATION.value}", "retired: journal limit"


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        ([], set()),
        ([listed()], set()),
        ([listed(tag="before the update")], {"tag listed"}),
        ([began(), listed()], {SYNC, "listed after a sync"}),
        ([listed(), began()], {SYNC}),
        ([began(), listed("erp")], {SYNC}),
        ([SyncEnded(STREAM, Sync.BITMAP, 512, 0)], {"sync ended", "synchronized: BitmapSync"}),
        ([withdrawn(), listed()], {WITHDRAWN, "listed after a withdrawal"}),
        ([withdrawn(), listed("erp")], {WITHDRAWN}),
        ([CheckpointsRetired("crm", CheckpointId(3), Ns(5), "journal limit"), listed()], {WITHDRAWN}),
        ([CheckpointsRetired("crm", CheckpointId(3), Ns(5), "history")], {"retired: history"}),
        ([FrameRefused(STREAM, "gap")], {"refused: gap"}),
        ([CheckpointSkipped("crm", CheckpointId(3), "VRA stops")], {"skipped: VRA stops"}),
    ],
)
def test_what_the_facts_say(facts: list[Fact], names: set[str]) -> None:
    assert of(*facts) == names


@pytest.mark.parametrize(
    ("regions", "names"),
    [
        (Regions(), set()),
        (Regions(peer=Peer.DISCONNECTED), {"status: peer gone"}),
        (Regions(peer=Peer.DISCONNECTED_NO_POINTS), {"status: no recovery points"}),
        (Regions(health=Health.JOURNAL_STORAGE), {"status: journal storage"}),
        (Regions(sync=Sync.PAUSED_SYSTEM), {"status: paused"}),
        (Regions(rpo_ok=False), {"status: RPO missed"}),
        (Regions(history_ok=False), set()),
    ],
)
def test_what_a_state_shows(regions: Regions, names: set[str]) -> None:
    assert of(StateChanged("crm", regions, "")) == names
