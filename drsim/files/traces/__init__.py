"""Recorded block traces: eight file formats in, one `BlockTrace` of writes out."""

from drsim.files.traces.block import BlockTrace
from drsim.files.traces.churn import Churn, read_churn
from drsim.files.traces.reader import read_bytes, read_trace

__all__ = ["BlockTrace", "Churn", "read_bytes", "read_churn", "read_trace"]
