"""Output folders: written whole beside their place, then renamed, so that a half-written one never stands there."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from drsim.core.errors import FileError

MARK = "summary.json"


def refuse_foreign(out: Path) -> None:
    """Raise FileError when `out` cannot become an output folder of ours."""
    if out.exists() and not out.is_dir():
        raise FileError("the output folder is a file", place=str(out), hint="choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).exists():
        raise FileError(
            "the folder holds something that is not a drsim result", place=str(out),
            hint="choose another --out, or empty it; only an earlier result is replaced",
        )  # fmt: skip


@contextmanager
def folder(out: Path) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of `out` when the block ends well and goes otherwise."""
    refuse_foreign(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    except OSError as error:
        raise FileError(f"cannot write there: {error.strerror}", place=str(out), hint="choose another --out") from error
    try:
        beside.chmod(0o755)
        yield beside
        old = beside.with_suffix(".old")
        if out.exists():
            out.rename(old)
        beside.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise FileError(
            f"writing the results failed: {error.strerror}", place=str(out),
            hint="nothing was left behind; free some space or choose another --out",
        ) from error  # fmt: skip
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_tables(where: Path, summary: dict[str, Any], frames: dict[str, pd.DataFrame]) -> None:
    """summary.json and one Parquet file for each frame."""
    for name, frame in frames.items():
        frame.to_parquet(where / f"{name}.parquet", index=False)
    (where / MARK).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")


def write_file(path: Path, text: str) -> None:
    """Write one file beside its place and rename it. Raises FileError."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        beside.rename(path)
    except OSError as error:
        raise FileError(f"cannot write: {error.strerror}", place=str(path), hint="choose another --out") from error
    finally:
        beside.unlink(missing_ok=True)
