"""Reading a trace of any format: gzip undone, the format recognised by content, one `BlockTrace` returned."""

import gzip
import zlib
from pathlib import Path
from typing import assert_never

from drsim.core.errors import FileError
from drsim.files.traces import churn, delimited, events, vscsi
from drsim.files.traces.block import BlockTrace, assemble
from drsim.files.traces.table import lines
from drsim.spec.workload import TraceFormat

KNOWN = "vSCSI v1, MSR, Alibaba, Tencent, SSDsim or MQSim, fio iolog, blkparse text, churn CSV"
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed when it is gzip. Raises FileError, also for an incomplete gzip file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(
            f"cannot read the trace: {error.strerror or error}", place=str(path), hint="check the path and its rights"
        ) from None
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileError(
            f"the gzip file is incomplete or damaged: {error}", place=str(path), hint="fetch the trace again"
        ) from None


def recognise(path: Path, data: bytes) -> TraceFormat:
    """The format that the content is in, by its first lines. Raises FileError when it is none that drsim knows."""
    if vscsi.looks_like(data):
        return "vscsi"
    first = [text for _, text in zip(range(3), (text for _, text in lines(data[:65536])), strict=False)]
    if first and b"\0" not in data[:4096]:
        if events.is_fio(first[0]):
            return "fio"
        if churn.is_header(first[0]):
            return "churn"
        if events.is_blkparse(first[0]):
            return "blkparse"
        forms: tuple[TraceFormat, ...] = ("msr", "alibaba", "tencent", "ssdsim")
        for form in forms:
            body = first[1:] if delimited.is_header(first[0], form) else first
            if body and delimited.looks_like(body[0], form):
                return form
    what = f"it begins with {first[0][:60]!r}" if first and b"\0" not in data[:4096] else "it is binary"
    raise FileError(
        f"not a trace that drsim recognises: {what}" if data else "the trace is empty",
        place=f"{path}:line 1" if first and b"\0" not in data[:4096] else str(path),
        hint=f"drsim reads {KNOWN}; name the format in the workload if the first line is damaged",
    )


def read_trace(path: Path | str, *, format: TraceFormat | None = None) -> BlockTrace:  # noqa: A002
    """The writes of a trace file; the format is recognised by content when it is not given.

    Churn is expanded to equal writes (`Churn.expand`). Raises FileError with the file, the record or line, and the
    reason, when anything in the file is not as its format says; then nothing of the file is returned.
    """
    path = Path(path)
    data = read_bytes(path)
    if not data:
        raise FileError("the trace is empty", place=str(path), hint="record some I/O, or name another file")
    form = format or recognise(path, data)
    data = data.removeprefix(_BOM)
    match form:
        case "vscsi":
            return assemble(path, form, vscsi.read(path, data))
        case "msr" | "alibaba" | "tencent" | "ssdsim":
            return assemble(path, form, delimited.read(path, data, form))
        case "fio":
            return assemble(path, form, events.read_fio(path, data))
        case "blkparse":
            return assemble(path, form, events.read_blkparse(path, data))
        case "churn":
            return churn.read_churn(path, data).expand()
        case _:
            assert_never(form)
