"""The table of properties in the docs is generated from the code: what holds, who looks, and what each check compares.

`pytest --rewrite-golden` writes it anew. Look at the diff before you commit it.
"""

import ast
import re
from pathlib import Path

from drsim.verify.properties import PROPERTIES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "properties.md"

HEAD = """# The properties

What must hold, whatever happens, and who looks. `drsim verify` prints these numbers; a failure names one of them. This
page is generated from the code. What a recovery point promises in the end is shown by the
[litmus tests](../guides/litmus.md).

| | what holds | who looks |
| --- | --- | --- |
"""
CHECKS = """
## What each check compares

| check | properties, when, and what it does not compare |
| --- | --- |
"""


def number(prop: str) -> int:
    return int(prop.removeprefix("P"))


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def blamed(function: ast.FunctionDef) -> set[str]:
    """The properties that a function may report as violated."""
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.args]
    first = [c.args[0] for c in calls if c.func.id in ("Violation", "Verdict", "images")]  # type: ignore[attr-defined]
    last = [c.args[-1] for c in calls if c.func.id == "images"]  # type: ignore[attr-defined]
    constants = (n for arg in (*first, *last) for n in ast.walk(arg) if isinstance(n, ast.Constant))
    return {str(n.value) for n in constants if str(n.value) in PROPERTIES}


def lookers() -> dict[str, list[str]]:
    """Of each property, the functions that may say that it is violated; if there are none, the tests that name it."""
    found: dict[str, list[str]] = {prop: [] for prop in PROPERTIES}
    for path in sorted((ROOT / "drsim" / "verify").glob("*.py")):
        for function in functions(path):
            for prop in blamed(function):
                found[prop].append(f"`{path.stem}.{function.name}`")
    for prop, places in found.items():
        if not places:
            for path in sorted((ROOT / "tests").rglob("test_*.py")):
                if path != Path(__file__).resolve() and re.search(rf"\b{prop}\b", path.read_text()):
                    places.append(f"`{path.relative_to(ROOT)}`")
    return found


def checks() -> list[tuple[str, str]]:
    """Checkers and what their docstrings say."""
    paths = [
        ROOT / "drsim" / "verify" / f"{name}.py"
        for name in ("superset", "content", "reports", "quiesce", "recovery_checks")
    ]
    said = [(f.name, " ".join((ast.get_docstring(f) or "").split())) for path in paths for f in functions(path)]
    return [(name, text) for name, text in said if re.match(r"P\d", text)]


def page() -> str:
    """The page as it should be."""
    rows = [(prop, PROPERTIES[prop], ", ".join(places)) for prop, places in lookers().items()]
    table = "".join(f"| {prop} | {what} | {who} |\n" for prop, what, who in sorted(rows, key=lambda r: number(r[0])))
    details = "".join(f"| `{name}` | {text} |\n" for name, text in checks())
    return HEAD + table + CHECKS + details


def test_the_page_is_what_the_code_says(rewrite_golden: bool) -> None:
    if rewrite_golden:
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "pytest --rewrite-golden writes it anew"


def test_somebody_looks_at_every_property() -> None:
    assert not [prop for prop, places in lookers().items() if not places]


def test_no_property_is_missing() -> None:
    assert sorted(map(number, PROPERTIES)) == list(range(1, 29))
