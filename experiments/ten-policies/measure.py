"""The writes of the model's VM under each policy."""

from functools import cache
from pathlib import Path

from drsim.files.models import load_model
from drsim.study.policies import POLICIES
from drsim.study.policies.compare import Compared, compare
from drsim.study.policies.compare import draw as drawn
from drsim.study.policies.estate import load_of, wan_of

MODEL = Path(__file__).parent / "model.yaml"


@cache
def _rows() -> list[Compared]:
    model = load_model(MODEL)
    wan, squeeze = wan_of(model, "app")
    return compare(POLICIES, load_of(model, "app"), wan, squeeze=squeeze)


def policies() -> dict[str, float]:
    """RPO, WAN, storage and points of each."""
    found: dict[str, float] = {}
    for row in _rows():
        for key in ("mean", "p50", "p95", "p99", "max", "wait"):
            found[f"{row.name}.{key}_s"] = getattr(row, key)
        found |= {f"{row.name}.wan.bytes": row.wan, f"{row.name}.storage.bytes": row.storage}
        found[f"{row.name}.points"] = row.points
    return found


def draw(path: Path) -> None:
    """All of them, side by side."""
    drawn(_rows(), path)
