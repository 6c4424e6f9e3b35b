"""The window against a plain list of frames, in any order of sending and acknowledging."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support import writes

from drsim.core.messages import Frame, Position
from drsim.core.names import Address, StreamId
from drsim.core.units import SECTOR
from drsim.core.window import Window

STREAM = StreamId("crm", Address("a"), Address("b"))
MOST, MOST_BYTES = 4, 20 * SECTOR


class WindowStates(RuleBasedStateMachine):
    """A stream of two VMs; `frames` are in flight, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(max_frames=MOST, max_bytes=MOST_BYTES)
        self.frames: list[Frame] = []
        self.sent: Position = (0, 0)
        self.durable: Position = (0, 0)

    # -- what happens -----------------------------------------------------------------------------------------

    @rule(first=st.integers(0, 2), second=st.integers(0, 2), sectors=st.integers(1, 25))
    def send(self, first: int, second: int, sectors: int) -> None:
        if not self.window.has_room(sectors * SECTOR):
            return
        upto = (self.sent[0] + max(first, not second), self.sent[1] + second)
        frame = Frame(STREAM, 1, 1, self.sent, upto, (sectors * SECTOR, 0), False, writes((1, 1, 0, sectors)))
        self.window.add(frame)
        self.frames.append(frame)
        self.sent = upto

    @rule(first=st.integers(0, 5), second=st.integers(0, 5))
    def acknowledge(self, first: int, second: int) -> None:
        """As far as the peer is durable; late acknowledgements say less than earlier ones."""
        durable = (min(first, self.sent[0]), min(second, self.sent[1]))
        freed = 0
        while self.frames and all(d >= u for d, u in zip(durable, self.frames[0].upto, strict=True)):
            freed += self.frames.pop(0).nbytes
        assert self.window.acknowledge(durable) == freed

    @rule(back=st.integers(0, 2))
    def acknowledge_all_but(self, back: int) -> None:
        if len(self.frames) > back:
            last = self.frames[len(self.frames) - 1 - back]
            del self.frames[: len(self.frames) - back]
            self.window.acknowledge(last.upto)

    @rule()
    def epoch_ends(self) -> None:
        assert self.window.clear() == self.frames, "everything in flight is handed back"
        self.frames.clear()

    # -- what must hold ---------------------------------------------------------------------------------------

    @invariant()
    def what_is_not_covered_is_in_flight_in_order(self) -> None:
        assert [id(f) for f in self.window] == [id(f) for f in self.frames]
        assert len(self.window) == len(self.frames)

    @invariant()
    def bytes_are_those_of_the_frames(self) -> None:
        assert self.window.nbytes == sum(f.nbytes for f in self.frames)

    @invariant()
    def it_is_bounded_but_one_frame_may_always_go(self) -> None:
        assert len(self.frames) <= MOST
        assert len(self.frames) <= 1 or self.window.nbytes <= MOST_BYTES
        for sectors in (0, 1, 12, 30):
            fits = len(self.frames) < MOST and self.window.nbytes + sectors * SECTOR <= MOST_BYTES
            assert self.window.has_room(sectors * SECTOR) == (fits or not self.frames)


TestWindowStates = WindowStates.TestCase
