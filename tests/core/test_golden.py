"""Golden conversations: what the machines say to each other in the situations that matter, readable as a diff.

`pytest --rewrite-golden` writes what they say now. Look at the diff before you commit it.
"""

from pathlib import Path

import pytest
from conversation import replay

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("path", GOLDEN, ids=[p.stem for p in GOLDEN])
def test_conversation(path: Path, rewrite_golden: bool) -> None:
    written = path.read_text(encoding="utf-8")
    assert written.startswith("# "), "say first why this conversation is kept"
    found = replay(written)
    if rewrite_golden:
        path.write_text(found, encoding="utf-8")
    assert found.splitlines() == written.splitlines() or rewrite_golden


def test_there_are_some() -> None:
    assert len(GOLDEN) >= 8


def test_an_unknown_command_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such command: dance r1"):
        replay("# why\n> bag protected=1\n> dance r1\n")
