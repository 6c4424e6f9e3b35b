"""Order: litmus tests of what a checkpoint may hold while nothing breaks but a hold or the manager."""

from dataclasses import replace

from drsim.verify.litmus.bench import Bench
from drsim.verify.litmus.interleave import Litmus
from drsim.verify.litmus.steps import MANAGER, ONE, TWO, bags, die, issue, land, tick, write


def _like_the_disk(bench: Bench) -> None:
    bench.notes.append("the image is the disk" if bench.same_as_disk(1) else "the image is not the disk")


def _when_done(bench: Bench) -> None:
    """When a guest that wrote during a hold was told that the write is done."""
    a = bench.writes.get("a")
    if a is not None:
        late = a.guest.acked[a.index - 1] > a.issued
        done = "a is done after the hold" if late else "a is done during the hold"
        bench.notes.append(done if bench.is_acked("a") else "a waits for ever")


def _lost(bench: Bench) -> None:
    bench.notes.append("b counts as lost" if bench.counts_as_lost("b") else "b counts as safe")


ORDER = (
    Litmus(
        name="two writes in order",
        picture="""
        VM 1    (a) (b)
        VPG    ....|....
        """,
        why="A VM's image is its disk after some first few of its writes: never a later write without an earlier one.",
        actors=((write("a"), write("b", at=4, after="a")), (tick(),)),
        allowed=("{}", "{a}", "{a, b}"),
        forbidden=("{b}",),
        shape=ONE,
        free=bags("hold", "held", "flush", "data", "await", "reach"),
    ),
    Litmus(
        name="two volumes of one VM",
        picture="""
        VM 1, volume 0    (a)
        VM 1, volume 1        (b)
        VPG              ....|....
        """,
        why="All disks of a VM are one image: a database's log on one volume and its data on another stay in order.",
        actors=((write("a"), write("b", volume=1, after="a")), (tick(),)),
        allowed=("{}", "{a}", "{a, b}"),
        forbidden=("{b}",),
        shape=replace(ONE, volumes=(8, 8)),
        free=bags("hold", "held", "flush", "data", "await", "reach"),
    ),
    Litmus(
        name="overlapping writes in flight",
        picture="""
        VM 1    (  a  )
                 (  b  )    the same sectors
        VPG             |
        """,
        why="Which of two overlapping writes in flight wins is the disk's choice, and the image follows the disk.",
        actors=(
            (issue("a"),),
            (issue("b"),),
            (land("a"),),
            (land("b"),),
            (tick("a", "b"),),
        ),
        allowed=("{a}", "{b}", "the image is the disk"),
        broken=("{}", "the image is not the disk"),
        shape=ONE,
        free=bags("hold", "held", "flush", "data", "await", "reach"),
        end=_like_the_disk,
    ),
    Litmus(
        name="a write of many sectors",
        picture="""
        VM 1    (a: sectors 0-5) (b: sectors 3-8)
        VPG    ...............|...............
        """,
        why="A checkpoint lies between writes, never inside one: a write is there with all its sectors or with none.",
        actors=((write("a", n=6), write("b", at=3, n=6, after="a")), (tick(),)),
        allowed=("{}", "{a}", "{a, b}"),
        forbidden=("{b}", "{½a}", "{½b}", "{a, ½b}"),
        shape=ONE,
        free=bags("hold", "held", "flush", "data", "await", "reach"),
    ),
    Litmus(
        name="discard",
        picture="""
        VM 1    (a) (d: discards a's sectors)
        VPG                                  |
        """,
        why="A discard or write-zeroes is a write like any other: what it took away does not come back.",
        actors=((write("a"), write("d", discard=True, after="a"), tick("d")),),
        allowed=("{}",),
        broken=("{a}", "none"),
        shape=ONE,
        free=bags("hold", "held", "flush", "data", "await", "reach"),
    ),
)

ACROSS = (
    Litmus(
        name="cause and effect on two hosts",
        picture="""
        VM 1 on host 1    (a)
        VM 2 on host 2        (b)     issued when a is done
        VPG              ....|....
        """,
        why="Who made b may have known of a: a checkpoint with b has a, though the hosts share no clock and no stream.",
        actors=((write("a"), write("b", vm=2, after="a")), (tick(),)),
        allowed=("{}", "{a}", "{a, b}"),
        forbidden=("{b}",),
        shape=TWO,
    ),
    Litmus(
        name="cause and effect on three hosts",
        picture="""
        VM 1 on host 1    (a)
        VM 2 on host 2        (b)
        VM 3 on host 3            (c)
        VPG              .....|......
        """,
        why="What b knew of a, c may know through b: a checkpoint is closed under all of it.",
        actors=((write("a"), write("b", vm=2, after="a"), write("c", vm=3, after="b")), (tick(),)),
        allowed=("{}", "{a}", "{a, b}", "{a, b, c}"),
        forbidden=("{b}", "{c}", "{a, c}", "{b, c}"),
        shape=replace(TWO, protected=3),
    ),
    Litmus(
        name="cause and effect on one host",
        picture="""
        VM 1 on host 1    (a)
        VM 2 on host 1        (b)
        VPG              ....|....
        """,
        why="A VPG on a single host needs no hold: the order in which its VRA captured the writes is the cut.",
        actors=((write("a"), write("b", vm=2, after="a")), (tick(),)),
        allowed=("{}", "{a}", "{a, b}"),
        forbidden=("{b}",),
        shape=replace(ONE, vms=2),
        free=bags("hold", "held", "flush", "data", "await", "reach"),
    ),
    Litmus(
        name="writes that know nothing of each other",
        picture="""
        VM 1 on host 1    ( a )
        VM 2 on host 2    ( b )
        VPG              ...|...
        """,
        why="Neither was done before the other was issued, so a checkpoint may have either, both or none.",
        actors=((issue("a"), land("a")), (issue("b", vm=2), land("b")), (tick(),)),
        allowed=("{}", "{a}", "{b}", "{a, b}"),
        shape=TWO,
    ),
    Litmus(
        name="a write during a hold",
        picture="""
        VM 1 on host 1      [(a  ])
        VM 2 on host 2       [ ]
        VPG               |
        """,
        why="The disk has the write, but its guest learns of it only after the release, so nobody builds on it before.",
        actors=((tick(),), (write("a", when=lambda b: b.is_held(1)),)),
        allowed=("{}", "none", "a is done after the hold"),
        broken=("{a}", "a is done during the hold", "a waits for ever"),
        shape=TWO,
        free=bags("hold", "held", "holds"),
        end=_when_done,
    ),
    Litmus(
        name="a hold that ends early",
        picture="""
        VM 1 on host 1     [ ] (a)            the hold has lasted too long
        VM 2 on host 2             (b) [ ]
        VPG              |
        """,
        why="A VRA that let go by itself cannot vouch for the cut: the checkpoint is void, whatever others say.",
        actors=((write("a"), write("b", vm=2, after="a")), (tick(),)),
        allowed=("none", "{}", "{a}", "{a, b}"),
        forbidden=("{b}",),
        shape=TWO,
        free=bags("hold", "held", "holds"),
    ),
    Litmus(
        name="one journal lags",
        picture="""
        VM 1 on host 1    (a) ~~~~~~~~> journal    slow
        VM 2 on host 2        (b) ~~~> journal
        VPG                      |
        """,
        why="A checkpoint is listed when the last journal has reached it, not the first.",
        actors=((write("a"), write("b", vm=2, after="a"), tick("b")),),
        allowed=("{a, b}",),
        forbidden=("{b}",),
        broken=("{}", "{a}", "none"),
        shape=TWO,
        free=bags("flush", "data", "await", "reach"),
    ),
    Litmus(
        name="the manager dies during a checkpoint",
        picture="""
        VM 1 on host 1     [ (a) ]
        VM 2 on host 2         (b)
        VPG              |  x
        """,
        why="Half a checkpoint is none: the holds run out, the guests go on, and what was not sealed is never listed.",
        actors=(
            (write("a"), write("b", vm=2, after="a")),
            (tick(), die(MANAGER, "manager")),
        ),
        allowed=("none", "{}", "{a}", "{a, b}"),
        forbidden=("{b}",),
        shape=TWO,
        free=bags("hold", "held", "holds"),
    ),
    Litmus(
        name="done after the checkpoint",
        picture="""
        VM 1    (a)     (b)
        VPG         |
        """,
        why="What is done when a checkpoint is asked for is in it. Later writes are not: the RPO counts them as lost.",
        actors=((write("a"), tick("a"), write("b", at=4, when=lambda b: bool(b.listed))),),
        allowed=("{a}", "b counts as lost"),
        forbidden=("{b}",),
        broken=("{}", "{a, b}", "none", "b counts as safe"),
        shape=ONE,
        free=bags("hold", "held", "flush", "data", "await", "reach", "tell"),
        end=_lost,
    ),
)
