"""Tokens of bugs that were found and fixed: played for ever."""

from pathlib import Path

import pytest

from drsim.verify.hunt import HUNTERS
from drsim.verify.token import decode

TOKENS = sorted((Path(__file__).parent / "regressions").glob("*.token"))


@pytest.mark.parametrize("path", TOKENS, ids=[path.stem for path in TOKENS])
def test_it_does_not_come_back(path: Path) -> None:
    token = decode(path.read_text())
    HUNTERS[token.kind].play(token.program)


def test_there_are_some() -> None:
    assert TOKENS
