"""Frames cut in two or joined: the same rows in the same order, as other frames."""

from collections.abc import Sequence
from dataclasses import replace

from drsim.core.batch import WriteBatch
from drsim.core.messages import Frame, Message
from drsim.core.names import StreamId, VmId


def split(frame: Frame, vms: Sequence[VmId], at: int) -> tuple[Frame, Frame]:
    """A frame of a stream of `vms` as two; `at` is a row between its first and its last."""
    head, tail = frame.batch.rows(0, at), frame.batch.rows(at, len(frame.batch))
    counts, sizes = head.per_vm(vms)
    middle = tuple(a + c for a, c in zip(frame.after, counts, strict=True))
    rest = tuple(whole - part for whole, part in zip(frame.sizes, sizes, strict=True))
    return replace(frame, upto=middle, sizes=sizes, batch=head), replace(frame, after=middle, sizes=rest, batch=tail)


def merged(first: Frame, second: Frame) -> Frame:
    """Two frames, the second where the first ends, as one."""
    sizes = tuple(a + b for a, b in zip(first.sizes, second.sizes, strict=True))
    return replace(first, upto=second.upto, sizes=sizes, batch=WriteBatch.join([first.batch, second.batch]))


def stream_of(message: Message) -> StreamId | None:
    """The stream that a message between VRAs is about; None for one between managers."""
    return getattr(message, "stream", None)


def neighbours(first: object, second: object) -> bool:
    """Whether two messages are frames that `merged` takes."""
    return (
        isinstance(first, Frame)
        and isinstance(second, Frame)
        and (first.stream, first.epoch, first.sync, first.upto)
        == (second.stream, second.epoch, second.sync, second.after)
    )
