"""StoreState: what a stream's ledgers say of its journals and mirrors (`stream_store.py`)."""

from dataclasses import dataclass

from drsim.core.messages import Position
from drsim.core.names import StreamSpec, VolumeId
from drsim.real.codec import build, parse
from drsim.real.vm_log import Tail


@dataclass(frozen=True, slots=True)
class StoreState:
    """What holds of one stream. Each tuple has one item for each VM, in the stream's order.

    `tails` and `firsts` are where the rows held lie in the logs. The mirrors hold what is `promoted`; a promotion
    that is not done may have changed them up to `promoting`. `mirrors`: the volumes of which one holds anything.
    """

    stream: str
    epoch: int
    end: Position
    tails: tuple[Tail, ...]
    firsts: tuple[int, ...]
    promoted: Position
    promoting: Position
    mirrors: tuple[VolumeId, ...] = ()


def begun(spec: StreamSpec) -> StoreState:
    """A stream of which nothing has come."""
    zero: Position = (0,) * len(spec.vms)
    return StoreState(str(spec.id), 1, zero, ((0, 0),) * len(spec.vms), zero, zero, zero)


def state_of(spec: StreamSpec, data: object) -> StoreState:
    """A state from its plain form. Raises ValueError when it is none, or another stream's."""
    state: StoreState = build(StoreState, data)
    columns = (state.end, state.tails, state.firsts, state.promoted, state.promoting)
    if state.stream != str(spec.id) or {len(c) for c in columns} != {len(spec.vms)}:
        raise ValueError(f"the ledger is of stream {state.stream}, or of other VMs than {spec.vms}")
    return state


def position_of(spec: StreamSpec, data: object) -> Position:
    """A position from its plain form. Raises ValueError when it is none, or of other VMs."""
    position: Position = parse(Position, data)
    if len(position) != len(spec.vms):
        raise ValueError(f"a position of {len(position)} VMs, the stream has {len(spec.vms)}")
    return position
