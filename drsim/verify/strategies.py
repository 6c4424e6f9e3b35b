"""Strategies: programs for Hypothesis, and what it should look for more of.

Why they look as they do (verification.md 4.5; measured again on mutants of this core):

- The length is fixed. Hypothesis draws short lists and short bytes when it may, and short programs find nothing.
- A program is one draw. Operations drawn one by one shrink no better, and cost twice the time to find and to shrink.
- An operation of zero bytes is left out. So the simplest program is an empty one on the smallest estate, and
  shrinking towards zeros takes operations away.
- The bytes of the swarm mask are as random as the rest, so half of the programs do without any one class of faults.
"""

from collections.abc import Sequence

from hypothesis import note, target
from hypothesis import strategies as st

from drsim.core.facts import CheckpointListed, CheckpointsRetired, SyncStarted
from drsim.core.names import StreamId
from drsim.verify.explorer import Explorer
from drsim.verify.guests import Write
from drsim.verify.hunt import HUNTERS
from drsim.verify.program import run
from drsim.verify.token import Token


def programs(hunter: str = "explorer", *, operations: int | None = None) -> st.SearchStrategy[bytes]:
    """Programs of a kind (`hunt.HUNTERS`), of at most `operations` operations; as many as the swarm's by default."""
    kind = HUNTERS[hunter]
    length = kind.length if operations is None else kind.head + operations * kind.unit

    def lean(program: bytes) -> bytes:
        body = (program[at : at + kind.unit] for at in range(kind.head, length, kind.unit))
        return program[: kind.head] + b"".join(operation for operation in body if any(operation))

    return st.binary(min_size=length, max_size=length).map(kind.weighed).map(lean)


class Watched(Explorer):
    """An explorer that notes how deep its queues were. `deepest` in bytes that a sender held."""

    deepest = 0

    def captured(self, stream: StreamId, writes: Sequence[Write]) -> None:
        """The tap has captured these writes; afterwards a queue may be deeper than ever."""
        super().captured(stream, writes)
        self.deepest = max(self.deepest, self.sender(stream).used)


def observe(x: Watched) -> None:
    """Tell Hypothesis how far a finished run went: queues, synchronization, live checkpoints."""
    dirty, listed, live = 0, dict[str, set[int]](), 0
    for fact in x.facts:
        match fact:
            case SyncStarted(dirty_bytes=nbytes):
                dirty = max(dirty, nbytes)
            case CheckpointListed(vpg=vpg, checkpoint=id_):
                listed.setdefault(vpg, set()).add(id_)
                live = max(live, len(listed[vpg]))
            case CheckpointsRetired(vpg=vpg, before=before):
                listed[vpg] = {c for c in listed.get(vpg, ()) if before is not None and c >= before}
    target(float(x.deepest), label="bytes that a sender held")
    target(float(dirty), label="bytes dirty when a synchronization began")
    target(float(live), label="live checkpoints of a VPG")


def verify(program: bytes, *, hunter: str = "explorer") -> None:
    """Play a program inside a Hypothesis test. Raises what it finds; the report has the token that reproduces it."""
    token = Token(hunter, program)
    note(f"drsim replay {token}")
    if hunter == "explorer":
        observe(run(program, explorer=Watched))  # type: ignore[arg-type]
    else:
        HUNTERS[hunter].play(program)
