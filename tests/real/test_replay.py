"""Replay of a script: the same cuts and journals every time, as the script says."""

import asyncio
from pathlib import Path

import pytest

from drsim.core.errors import PlatformError
from drsim.real.replay import Step, replay

SCRIPT: list[Step] = [
    ("write", 0, 0, 0, 8), ("write", 1, 1, 3, 1), ("checkpoint", "a"), ("checkpoint", "b"),
    ("write", 0, 0, 4, 8), ("write", 0, 0, 2040, 8), ("checkpoint", "c"), ("write", 1, 1, 4, 8),
]  # fmt: skip


def test_cuts_and_content_are_what_the_script_says(tmp_path: Path) -> None:
    stream = "crm:london/london-1/vra>leeds/leeds-1/recovery-vra"
    for n in range(2):
        cuts, content = asyncio.run(replay(SCRIPT, tmp_path / str(n)))
        assert cuts == {"a": {stream: (1, (1, 1))}, "b": {stream: (1, (1, 1))}, "c": {stream: (1, (3, 1))}}
        assert content == {0: [(1, 0, 0, 8), (2, 0, 4, 8), (3, 0, 2040, 8)], 1: [(1, 1, 3, 1), (2, 1, 4, 8)]}


@pytest.mark.parametrize("step", [("write", 0, 1, 0, 8), ("write", 0, 0), ("sleep", 1)])
def test_a_step_that_is_none(tmp_path: Path, step: Step) -> None:
    with pytest.raises(ValueError, match="step 0"):
        asyncio.run(replay([step], tmp_path / "x"))


def test_an_extent_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(PlatformError):
        asyncio.run(replay([("write", 0, 0, 2048, 1)], tmp_path / "x"))
