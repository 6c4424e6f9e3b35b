"""Trace: one record for each step of the kernel, as a running digest or as plain text lines.

The digest is the same for the same steps in any process: it is taken from text in which every value is written out,
never from hashes of Python objects. A batch is written as its rows' content digest.
"""

import hashlib
from collections.abc import Sequence
from enum import Enum

import numpy as np

from drsim.core.batch import WriteBatch, content_digest
from drsim.core.effects import Append, Effect, Forget, Keep, Promote, ReadRegions
from drsim.core.errors import DrsimError
from drsim.core.events import Done, Event, Fired, GuestWrote, Received, WritesMissed
from drsim.core.messages import (
    Ack,
    Await,
    Checkpoint,
    Frame,
    Held,
    Hold,
    Listed,
    Reached,
    Release,
    Released,
    Sealed,
)  # fmt: skip
from drsim.core.names import Address, StreamId
from drsim.core.units import Ns
from drsim.core.value import field_names


def text(value: object) -> str:
    """A value written out: classes by name, fields in order, sets sorted, dicts in the order of their keys."""
    kind: type = type(value)
    match value:
        case WriteBatch():
            digest = content_digest(value, np.arange(len(value), dtype=np.int64))
            return f"[{len(value)} writes {value.nbytes} B {digest:016x}]"
        case StreamId():
            return str(value)
        case Enum():
            return str(value.value)
        case DrsimError():
            return value.message
        case _ if (names := field_names(kind)) is not None:
            inner = " ".join(f"{name}={text(getattr(value, name))}" for name in names)
            return f"{kind.__name__}({inner})" if inner else kind.__name__
        case tuple() | list():
            return "(" + " ".join(text(v) for v in value) + ")"
        case frozenset():
            return "{" + " ".join(sorted(text(v) for v in value)) + "}"
        case dict():
            return "{" + " ".join(f"{text(k)}={text(v)}" for k, v in sorted(value.items())) + "}"
        case _:
            return str(value)


def line(now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> str:
    """One step as one line."""
    return f"{now} {address} {text(event)} -> {'; '.join(text(e) for e in effects) or '-'}"


def brief(event: Event) -> str:
    """An event of the data path in a few numbers, any other one as text.

    Enough to tell two runs apart: the rows themselves are in the digest of the journals.
    """
    match event:
        case GuestWrote(stream, batch):
            return f"w {stream.vpg} {stream.target} {len(batch)} {batch.nbytes} {batch.lba[0]}"
        case WritesMissed(stream, batch):
            return f"m {stream.vpg} {stream.target} {len(batch)} {batch.lba[0]}"
        case Received(_, Frame(epoch=epoch, upto=upto)):
            return f"f {epoch} {upto}"
        case Received(_, Ack(epoch=epoch, durable=durable)):
            return f"a {epoch} {durable}"
        case Done(id_, Append(), _):
            return f"d{id_.n}"
        case Fired(timer):
            return f"t{timer}"
        case Received(_, Held(checkpoint=checkpoint, cut=cut)):
            return f"h{checkpoint}{[(c.epoch, c.position) for c in cut.values()]}"
        case Received(_, Sealed(Checkpoint(id=id_, cut=cut))):
            return f"s{id_}{[(c.epoch, c.position) for c in cut.values()]}"
        case Received(_, (Hold() | Await() | Reached() | Listed() | Release() | Released()) as message):
            return f"{type(message).__name__}{message.checkpoint}"
        case Done(id_, (Keep() | Promote() | Forget() | ReadRegions()), _):
            return f"d{id_.n}"
        case _:
            return text(event)


class TraceDigest:
    """A digest of all steps. Effects are a function of the events, so the events alone identify a run."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def record(self, now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> None:
        """Add a step."""
        self._hash.update(f"{now} {address} {len(effects)} {brief(event)}\n".encode())

    @property
    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._hash.hexdigest()


class TraceLines:
    """All steps as lines, for golden conversations."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def record(self, now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> None:
        """Add a step."""
        self.lines.append(line(now, address, event, effects))
