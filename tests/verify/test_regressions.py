"""Programs that once broke a property hold for ever. `drsim verify --save` writes such files; see the README beside."""

import re
from pathlib import Path

import pytest

from drsim.core.catalog import Catalog
from drsim.core.effects import Effect
from drsim.core.messages import Checkpoint
from drsim.verify.hunt import HUNTERS, judge
from drsim.verify.token import decode

FOLDER = Path(__file__).parent / "regressions"
TOKENS = sorted(FOLDER.glob("*.token"))


@pytest.mark.parametrize("path", TOKENS, ids=lambda path: path.stem)
def test_what_once_failed_passes(path: Path) -> None:
    token = decode(path.read_text(encoding="utf-8"))
    verdict = judge(HUNTERS[token.kind], token.program)
    assert verdict is None, f"{verdict}\n  drsim explain {token}"


def test_the_folder_holds_tokens_named_after_mistakes() -> None:
    assert TOKENS
    for path in FOLDER.iterdir():
        assert path.name == "README.md" or re.fullmatch(r"(p\d+|core)(-[a-z0-9]+)+\.token", path.name), path.name


def test_an_old_mistake_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that this can fail: the catalogue forgets again what it has given up."""
    sealed = Catalog._sealed

    def forgetful(self: Catalog, checkpoint: Checkpoint) -> list[Effect]:
        self.newest_seen = max([*(c.id for c in self.listed), *self._arriving, *self._keeping], default=0)
        return sealed(self, checkpoint)

    monkeypatch.setattr(Catalog, "_sealed", forgetful)
    token = decode((FOLDER / "p5-given-up-and-sealed-again.token").read_text(encoding="utf-8"))
    verdict = judge(HUNTERS[token.kind], token.program)
    assert verdict is not None
    assert verdict.prop == "P5"
