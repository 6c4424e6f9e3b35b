"""Trouble: litmus tests of synchronization, of faults, and of retention."""

from dataclasses import replace

from drsim.core.names import CheckpointId
from drsim.core.recovery_vra import RETRY
from drsim.verify.litmus.interleave import Litmus
from drsim.verify.litmus.steps import (
    H1,
    ONE,
    R1,
    REGIONS,
    WAN,
    acked,
    bags,
    came,
    die,
    do,
    in_sync,
    lists,
    lose,
    old_generation,
    pass_time,
    renew,
    sealed,
    start,
    tick,
    under_way,
    write,
)  # fmt: skip

LATER = do("time passes", pass_time)
PIN = do("checkpoint 1 is pinned", lambda b: b.x.pin(b.vpg.name, CheckpointId(1), True), lists(1))
AGE = do("the history is looked through", lambda b: b.x.age(b.vpg.name), lists(2))

SYNC = (
    Litmus(
        name="a checkpoint during a sync",
        picture="""
        VM 1    (a)  x    (b)    x: the connection is lost and comes back; b lies before a on the disk
        VPG    ........|.......
        """,
        why="A bitmap sync sends dirty regions in the order of the disk: until it is over there is no checkpoint.",
        actors=((write("a", at=16), write("b", after="a")), (lose(acked("a")), renew()), (tick(),)),
        allowed=("none", "{}", "{a}", "{a, b}"),
        forbidden=("{b}",),
        shape=REGIONS,
        free=bags("hold", "held", "data", "disk"),
    ),
    Litmus(
        name="the first checkpoint after a sync",
        picture="""
        VM 1    (a) x (b)  sync
        VPG                     |
        """,
        why="When the sync is over the image is a past state of the source again, with all that was written meanwhile.",
        actors=((write("a", at=16), lose(acked("a")), write("b"), renew(), tick(when=in_sync("a", "b"))),),
        allowed=("{a, b}",),
        forbidden=("{b}",),
        broken=("{}", "{a}", "none"),
        shape=REGIONS,
        free=bags("hold", "held", "flush", "data", "acks", "disk"),
    ),
    Litmus(
        name="a write behind the sync's read",
        picture="""
        VM 1    (a) x   read a...   sent
                          (b)              the same sectors as a
        VPG                               |
        """,
        why="What the sync has read is old when a write follows: the write comes after it and is not undone by it.",
        actors=((write("a"), lose(), renew(), tick(when=in_sync("a", "b"))), (write("b", after="a"),)),
        allowed=("{b}",),
        broken=("{}", "{a}", "none"),
        shape=ONE,
        free=bags("flush", "data", "acks", "disk"),
    ),
    Litmus(
        name="a connection lost between capture and journal",
        picture="""
        VM 1    (a) ~~~x   sync
        VPG                     |
        """,
        why="What was sent and not acknowledged may not have arrived: it is dirty, and the sync brings it.",
        actors=((write("a"), lose(), renew(), tick(when=in_sync("a"))),),
        allowed=("{a}",),
        broken=("{}", "none"),
        shape=ONE,
        free=bags("flush", "data", "acks", "store", "disk"),
    ),
    Litmus(
        name="a sync that is interrupted",
        picture="""
        VM 1    (a) x  read, sent ~~~x  sync
        VPG                                  |
        """,
        why="A region is clean when it is durable at the other side, not when it was read or sent.",
        actors=((write("a"), lose(), renew(), lose(), renew(), tick(when=in_sync("a"))),),
        allowed=("{a}",),
        broken=("{}", "none"),
        shape=ONE,
        free=bags("flush", "data", "acks", "store", "disk"),
    ),
    Litmus(
        name="a checkpoint whose data never came",
        picture="""
        VM 1    (a) ~~~x   (b)  sync     the same sectors as a
        VPG         |
        """,
        why="A cut stays what it was: if its own data was lost, it is dropped, although the journal's numbers pass it.",
        actors=((write("a"), tick("a"), lose(sealed), write("b"), renew()),),
        allowed=("{a}", "none"),
        broken=("{}", "{b}"),
        shape=ONE,
        free=bags("hold", "held", "data", "seal", "await"),
    ),
)

FAULTS = (
    Litmus(
        name="a lost frame",
        picture="""
        VM 1    (a) ~~~x      (b) ~~~>
        VPG    ...............|.......
        """,
        why="A frame beyond a gap is not taken: the sender hears of the gap and sends again from there.",
        actors=(
            (write("a"), do("a's frame is lost", lambda b: b.x.drop(WAN), under_way), write("b", at=4)),
            (tick(),),
        ),
        allowed=("{}", "{a}", "{a, b}"),
        forbidden=("{b}",),
        shape=ONE,
        free=bags("hold", "held", "flush", "data", "acks"),
    ),
    Litmus(
        name="a frame that comes twice",
        picture="""
        VM 1    (a) ~~~>  (b) ~~~>        the same sectors
                  a's frame again  ~~~>
        VPG                         |
        """,
        why="What was received before is acknowledged again and not applied, however late it comes.",
        actors=(
            (write("a"), write("b", after="a"), tick("b")),
            (do("a frame comes again", lambda b: b.x.replay(b.x.frames[0]), came),),
        ),
        allowed=("{b}",),
        broken=("{}", "{a}", "none"),
        shape=ONE,
        free=bags("hold", "held", "flush", "data"),
    ),
    Litmus(
        name="a frame of an old generation",
        picture="""
        VM 1    (a) ~~~>  (b) ~~~>                       the same sectors
                  a's frame of the generation before  ~~~>
        VPG                                               |
        """,
        why="When the right to write has moved, nothing that the old side still sends is applied.",
        actors=(
            (write("a"), write("b", after="a"), tick("b")),
            (do("a frame of an old generation comes", old_generation, came),),
        ),
        allowed=("{b}",),
        broken=("{}", "{a}", "none"),
        shape=ONE,
        free=bags("hold", "held", "flush", "data"),
    ),
    Litmus(
        name="the recovery VRA dies",
        picture="""
        VM 1            (a)
        recovery VRA         x  up  sync
        VPG                              |
        """,
        why="What was acknowledged to the sender is durable, and the rest is still dirty there: a is lost in no order.",
        actors=(
            (
                write("a"),
                die(R1, "recovery VRA"),
                start(R1),
                tick(when=in_sync("a")),
            ),
        ),
        allowed=("{a}",),
        broken=("{}", "none"),
        shape=ONE,
        free=bags("flush", "data", "acks", "store", "disk"),
    ),
    Litmus(
        name="the protected VRA dies",
        picture="""
        VM 1             (a) (b)
        protected VRA            x  up  sync
        VPG                                  |
        """,
        why="Its memory and its bitmap are gone, so nothing is trusted: all is sent before there is a checkpoint.",
        actors=(
            (
                write("a"),
                write("b", at=4, after="a"),
                die(H1, "protected VRA"),
                start(H1),
                tick(when=in_sync("a", "b")),
            ),
        ),
        allowed=("{a, b}",),
        forbidden=("{b}",),
        broken=("{}", "{a}", "none"),
        shape=REGIONS,
        free=bags("flush", "data", "acks", "disk"),
    ),
    Litmus(
        name="a full store",
        picture="""
        VM 1    (a)
        store   full.......room
        VPG         |
        """,
        why="Only what is durable counts: the checkpoint waits until the store has taken its data.",
        actors=(
            (write("a"), tick("a")),
            (
                do("the store is full", lambda b: b.x.full.add((R1, "crm"))),
                do("there is room", lambda b: b.x.full.discard((R1, "crm"))),
                do("it is tried again", lambda b: b.x.expire(R1, RETRY), lambda b: (R1, RETRY) in b.x.timers),
            ),
        ),
        allowed=("{a}",),
        broken=("{}", "none"),
        shape=ONE,
        free=bags("hold", "held", "flush", "data", "store"),
    ),
)

RETENTION = (
    Litmus(
        name="the history passes",
        picture="""
        VM 1    (a)   .......    (b)   (c)
        VPG         |                |       the first is older than the history now
                    1                2
        """,
        why="A checkpoint leaves the list before data beyond it goes to the mirror: it is whole, or it is not listed.",
        actors=(
            (write("a"), tick("a"), LATER, write("b", at=4), tick("b", when=lists(1))),
            (write("c", at=8, when=lists(2)),),
            (AGE,),
        ),
        allowed=("1: {a}", "1: none", "2: {a, b}"),
        broken=("1: {}", "1: {a, b}", "1: {a, b, c}", "2: {}", "2: {a}", "2: none", "2: {a, b, c}"),
        shape=replace(ONE, history=60),
        free=bags("flush", "data", "await", "reach", "list", "mirror"),
    ),
    Litmus(
        name="a pinned checkpoint",
        picture="""
        VM 1    (a)    .......    (b)
        VPG         |pin              |   the first is older than the history now
                    1                 2
        """,
        why="What a test or a failover uses is not aged past, however old it is.",
        actors=((write("a"), tick("a"), PIN, LATER, write("b", at=4), tick("b", when=lists(1)), AGE),),
        allowed=("1: {a}", "2: {a, b}"),
        broken=("1: none", "1: {}", "1: {a, b}", "2: {}", "2: {a}", "2: none"),
        shape=replace(ONE, history=60),
        free=bags("await", "reach", "list", "mirror"),
    ),
    Litmus(
        name="a full journal",
        picture="""
        VM 1    (a)   (b)   (c)      the journal has room for one of them
        VPG         |     |     |
                    1     2     3
        """,
        why="At the hard limit the oldest history goes first, and the newest checkpoint never.",
        actors=(
            (
                write("a", n=4),
                tick("a"),
                write("b", at=4, n=4, when=lists(1)),
                tick("b"),
                write("c", at=8, n=4, when=lists(2)),
                tick("c"),
            ),
        ),
        allowed=("1: {a}", "1: none", "2: {a, b}", "3: {a, b, c}"),
        broken=("1: {}", "2: {}", "2: {a}", "2: none", "3: {}", "3: {a}", "3: {a, b}", "3: none"),
        shape=replace(ONE, limit=6),
        free=bags("flush", "data", "await", "reach", "list", "mirror"),
    ),
)
