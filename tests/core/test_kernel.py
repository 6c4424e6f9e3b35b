"""Kernel and trace: numbers of effects, livelock, digests that are the same in every process."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest
from support import writes

from drsim.core.effects import Arm, Effect, EffectId, Publish, Send
from drsim.core.errors import CoreError, PeerError, StoreFull
from drsim.core.events import Event, Failed, Fired, GuestWrote, Lost, Started, Stopped
from drsim.core.facts import SyncEnded
from drsim.core.kernel import Kernel
from drsim.core.messages import Cut, Held, Released, Trigger
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.status import Sync
from drsim.core.trace import TraceDigest, TraceLines, text
from drsim.core.units import Ns
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer

A, B = Address("a"), Address("b")
STREAM = StreamId("crm", A, B)


class Echo:
    """Answers each event with as many alarms as it has seen events."""

    def __init__(self) -> None:
        self.seen = 0

    def handle(self, now: Ns, event: Event) -> Sequence[Effect]:
        self.seen += 1
        return [Arm(f"t{n}", Ns(n)) for n in range(self.seen - 1)]


def test_effects_are_numbered_by_address() -> None:
    kernel = Kernel(max_steps=9)
    kernel.add(A, Echo())
    kernel.add(B, Echo())
    assert kernel.post(Ns(0), A, Started()) == []
    assert [id_ for id_, _ in kernel.post(Ns(0), A, Started())] == [EffectId(A, 0)]
    kernel.post(Ns(1), B, Started())
    assert [id_ for id_, _ in kernel.post(Ns(2), A, Started())] == [EffectId(A, 1), EffectId(A, 2)]
    assert [id_.n for id_, _ in kernel.post(Ns(2), B, Started())] == [0]
    assert kernel.steps == 5


def test_one_machine_at_an_address() -> None:
    kernel = Kernel(max_steps=9)
    kernel.add(A, Echo())
    with pytest.raises(CoreError, match="two machines at one address"):
        kernel.add(A, Echo())


def test_a_machine_that_died_is_replaced_and_numbers_go_on() -> None:
    kernel = Kernel(max_steps=9)
    kernel.add(A, Echo())
    kernel.post(Ns(0), A, Started())
    kernel.post(Ns(1), A, Started())
    kernel.replace(A, heir := Echo())
    assert kernel.post(Ns(2), A, Started()) == []
    assert [id_ for id_, _ in kernel.post(Ns(3), A, Started())] == [EffectId(A, 1)]
    assert heir.seen == 2
    with pytest.raises(CoreError, match="no machine to replace"):
        kernel.replace(B, Echo())


def test_a_livelock_is_reported_and_time_ends_it() -> None:
    kernel = Kernel(max_steps=3)
    kernel.add(A, Echo())
    for now in (0, 1, 1, 1):
        kernel.post(Ns(now), A, Started())
    with pytest.raises(CoreError, match="more than 3 steps at one instant"):
        kernel.post(Ns(1), A, Started())
    kernel.post(Ns(2), A, Started())
    with pytest.raises(AssertionError, match="time does not go back"):
        kernel.post(Ns(1), A, Started())


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Started(), "Started"),
        (STREAM, "crm:a>b"),
        (Trigger.COMMUNICATION, "recovery VRA communication problem"),
        (Fired("flush"), "Fired(timer=flush)"),
        (Send(A, Released("crm", CheckpointId(3), B)), "Send(to=a message=Released(vpg=crm checkpoint=3 vra=b))"),
        (
            Publish(SyncEnded(STREAM, Sync.DELTA, 7, 9)),
            "Publish(fact=SyncEnded(stream=crm:a>b sync=DeltaSync sent_bytes=7 compared_bytes=9))",
        ),
        (StoreFull("no room", place="here"), "no room"),
        ((1, None, "x"), "(1 None x)"),
        ({"b": 2, "a": 1}, "{a=1 b=2}"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_text(value: object, written: str) -> None:
    assert text(value) == written


def test_text_of_a_batch_is_its_size_and_content() -> None:
    one, other = text(writes((1, 1, 0, 8))), text(writes((1, 1, 1, 8)))
    assert re.fullmatch(r"\[1 writes 4096 B [0-9a-f]{16}\]", one)
    assert one != other


def test_text_does_not_depend_on_the_order_of_a_dict() -> None:
    other = StreamId("crm", B, A)
    one, two = Cut(1, (1,)), Cut(1, (2,))
    held = [Held("crm", CheckpointId(1), A, d) for d in ({STREAM: one, other: two}, {other: two, STREAM: one})]
    assert text(held[0]) == text(held[1])


def test_digest_is_of_the_steps() -> None:
    def digest(*steps: tuple[int, Event]) -> str:
        found = TraceDigest()
        for now, event in steps:
            found.record(Ns(now), A, event, [])
        return found.hexdigest

    assert digest((1, Started())) == digest((1, Started()))
    others = [((2, Started()),), ((1, Stopped()),), ((1, Lost(B)),), ((1, Started()), (1, Started()))]
    assert len({digest((1, Started())), *(digest(*steps) for steps in others)}) == 5


def test_lines_tell_event_and_effects() -> None:
    lines = TraceLines()
    kernel = Kernel(max_steps=9, trace=lines)
    kernel.add(A, Echo())
    kernel.post(Ns(0), A, Started())
    kernel.post(Ns(7), A, Failed(EffectId(A, 0), Arm("x", Ns(1)), StoreFull("no room")))
    assert lines.lines == [
        "0 a Started -> -",
        "7 a Failed(id=EffectId(address=a n=0) effect=Arm(timer=x delay=1) error=no room) -> Arm(timer=t0 delay=0)",
    ]


SCRIPT = """
from drsim.verify.program import random_program, run
from drsim.core.trace import TraceDigest
digest = TraceDigest()
for seed in (3, 4):
    run(random_program(seed), trace=digest)
print(digest.hexdigest)
"""


def test_the_digest_is_the_same_under_any_hash_seed() -> None:
    tests = os.path.dirname(os.path.dirname(__file__))
    found = set()
    for seed in ("0", "1", "4242"):
        path = os.pathsep.join([tests, os.path.dirname(tests)])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_a_machine_refuses_what_it_cannot_get() -> None:
    x = Explorer(Shape())
    assert len(x.kernel.machines) == 5
    for address, machine in x.kernel.machines.items():
        with pytest.raises(PeerError, match="cannot take"):
            machine.handle(Ns(0), Fired("no such timer") if address == x.estate.catalogs["crm"] else object())  # type: ignore[arg-type]
    with pytest.raises(PeerError, match="cannot take"):
        x.kernel.machines[x.streams[0].target].handle(Ns(0), GuestWrote(x.streams[0], writes((1, 10, 0, 1))))
