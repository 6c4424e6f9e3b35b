"""Operations: what one byte of a program does to the explorer. A table of weights, and one small function each.

A program holds the code of each operation, its place in `OPERATIONS`, so that a token means the same after weights
change; random bytes become codes by weight (`program.weighed`).

Each function gets the explorer and two bytes, from which it picks among what is possible now; when nothing is, it
does nothing. Byte 0 is the most harmless operation and 0 the simplest pick, so shrinking towards zeros simplifies.
A class of faults has a bit in the swarm mask: a program that does without it looks deeper elsewhere (verification.md
4.5: 6 to 22 times faster on deep bugs).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from drsim.core.catalog import AGE
from drsim.core.messages import Ack, Frame, Nack
from drsim.core.names import Address, Extent, VmId
from drsim.core.vpg import DEADLINE, TICK
from drsim.verify.explorer import Explorer
from drsim.verify.frames import neighbours, stream_of
from drsim.verify.guests import Write
from drsim.verify.operators import (
    add_volume,
    delete,
    dismiss,
    enlist,
    fence,
    force,
    force_some,
    grow,
    inventory,
    keep,
    pause,
    remove_volume,
    retarget,
    vmotion,
    volume_lost,
)

Step = Callable[[Explorer, int, int], None]
PATIENCE = 40  # choices until something is compared


@dataclass(frozen=True, slots=True)
class Operation:
    """`weight` of the 256 byte values; `fault` is the class whose bit in the swarm mask takes it away."""

    name: str
    weight: int
    step: Step
    fault: str = ""


def _rows(x: Explorer, a: int, b: int, count: int) -> list[Write]:
    """Writes of one stream, the first on VM number `a`."""
    first = x.vms[a % len(x.vms)]
    if first in x.freezer.frozen:
        return []
    mine = _beside(x, first) if count > 1 else []
    made = []
    for n in range(count):
        vm = first if n == 0 else mine[(a + n) % len(mine)]
        seed = b + 37 * n
        volumes = x.guests[vm].volumes
        index = int(seed % 5 == 4) % len(volumes) if len(volumes) < 3 else seed % 5 % len(volumes)
        size = volumes[index].sectors
        if volumes[index].id in x.missing:
            continue
        sectors = 1 + seed // 5 % min(6, size)
        made.append(x.new_write(vm, index, seed * 7 % (size - sectors + 1), sectors, discard=seed % 8 == 7))
    return made


def _beside(x: Explorer, first: VmId) -> list[VmId]:
    """The VMs of one's stream that may write."""
    stream = x.guests[first].stream
    mine = [first] if stream is None else [vm for vm in x.specs[stream].vms if x.guests[vm].stream == stream]
    return [vm for vm in mine if vm not in x.freezer.frozen]


def deliver(x: Explorer, a: int, b: int) -> None:
    """Messages of one connection arrive."""
    links = x.carrying
    if links:
        x.arrive(links[a % len(links)], 1 + b % 4)


def write(x: Explorer, a: int, b: int) -> None:
    """Guests write, several rows at once."""
    rows = _rows(x, a % 16, b, 1 + a // 16 % 4)
    if rows:
        x.write(rows)


def pair(x: Explorer, a: int, b: int) -> None:
    """A write, and one of another VM that depends on it: of another host if there is one."""
    for cause in _rows(x, a, b, 1):
        x.write([cause])
        _follow(x, cause, b)


def _follow(x: Explorer, cause: Write, b: int) -> None:
    if x.checks.is_acknowledged(cause):
        vpg = next((v for v in x.estate.vpgs if cause.guest.vm in v.vms), x.estate.vpgs[0])
        others = [vm for vm in vpg.vms if x.guests[vm].host != cause.guest.host]
        vm = others[b % len(others)] if others else cause.guest.vm
        volumes = x.guests[vm].volumes
        index = [v.id for v in cause.guest.volumes].index(cause.volume) % len(volumes)  # type: ignore[arg-type]
        sectors = min(cause.sectors, volumes[index].sectors)
        lba = min(cause.lba, volumes[index].sectors - sectors)
        if vm not in x.freezer.frozen and volumes[index].id not in x.missing:
            x.write([x.new_write(VmId(vm), index, lba, sectors)])


def miss(x: Explorer, a: int, b: int) -> None:
    """Guests write while their tap has no room for content."""
    x.roomless = True
    write(x, a, b)
    x.roomless = False


def write_compared(x: Explorer, a: int, b: int) -> None:
    """What is under way goes on until digests are compared, and a guest writes there before the answer comes."""
    known = [id_ for id_ in x.estate.streams if x.has(id_)]
    unsure = [id_ for id_ in known if x.sender(id_).bitmap.unsure or x.sender(id_)._comparing is not None]
    if not unsure:
        return
    id_ = unsure[a % len(unsure)]
    for _ in range(PATIENCE):
        extent = x.sender(id_)._comparing if x.has(id_) else None
        if extent is not None and not x.work.get(("store", id_.source, id_)):  # the source's digests were read
            _write_to(x, extent, b)
            return
        links, keys = x.carrying, x.busy
        if links:
            x.arrive(links[0])
        elif keys:
            x.finish(keys[0])
        else:
            return


def _write_to(x: Explorer, extent: Extent, b: int) -> None:
    guest, lba = x.guests[extent.vm], extent.lba + b % extent.sectors
    if guest.stream is None or guest.vm in x.freezer.frozen or extent.volume in x.missing:
        return
    for index, volume in enumerate(guest.volumes):
        if volume.id == extent.volume and lba < volume.sectors:
            x.probes.add("a region was written while it was compared")
            x.write([x.new_write(guest.vm, index, lba, 1)])


def issue(x: Explorer, a: int, b: int) -> None:
    """A write is issued and stays in flight, beside others."""
    for one in _rows(x, a, b, 1):
        x.issue(one)


def land(x: Explorer, a: int, b: int) -> None:
    """A write in flight lands, not necessarily the oldest."""
    waiting = [w for guest in x.guests.values() for w in guest.in_flight if w.volume not in x.missing]
    if waiting:
        one = waiting[a % len(waiting)]
        if one is not one.guest.in_flight[0]:
            x.probes.add("a write landed before an older one")
        x.land(one)


def perform(x: Explorer, a: int, b: int) -> None:
    """Effects on one target are performed and answered."""
    for _ in range(1 + b % 3):
        keys = x.busy
        if keys:
            x.finish(keys[a % len(keys)])


def drain(x: Explorer, a: int, b: int) -> None:
    """Everything under way arrives and is done."""
    x.drain()


def flush(x: Explorer, a: int, b: int) -> None:
    """A frame has waited long enough."""
    _fire(x, a, "flush")


def hold_ends(x: Explorer, a: int, b: int) -> None:
    """A hold has lasted too long."""
    timers = [t for t in x.timers if t[1].startswith("hold") and (t[0], t[1].removeprefix("hold ")) in x.held]
    if timers:
        x.probes.add("a hold ended by itself")
        address, timer = timers[a % len(timers)]
        x.expire(address, timer)
        vms = [n for n, vm in enumerate(x.vms) if x.guests[vm].host == address]
        if b % 4 and vms:  # guests that go on may tell others of it
            pair(x, vms[b % len(vms)], b)


def deadline(x: Explorer, a: int, b: int) -> None:
    """A manager has waited long enough for a checkpoint."""
    _fire(x, a, DEADLINE)


def alarm(x: Explorer, a: int, b: int) -> None:
    """Any timer but the periodic ones runs out."""
    timers = [t for t in x.timers if t[1] not in (TICK, AGE)]
    if timers:
        x.expire(*timers[a % len(timers)])


def _fire(x: Explorer, a: int, prefix: str) -> None:
    timers = [t for t in x.timers if t[1].startswith(prefix)]
    if timers:
        x.expire(*timers[a % len(timers)])


def tick(x: Explorer, a: int, b: int) -> None:
    """A checkpoint is due."""
    x.tick(x.estate.vpgs[a % len(x.estate.vpgs)].name)


def age(x: Explorer, a: int, b: int) -> None:
    """Time passes, and the history is looked through."""
    x.now += b
    name = x.estate.vpgs[a % len(x.estate.vpgs)].name
    x.age(name)
    listed = x.catalog(name).listed
    if x.pins[name] and listed and listed[0].taken < listed[-1].taken - x.catalog(name).retention.history:
        x.probes.add("pin held the history")


def tag(x: Explorer, a: int, b: int) -> None:
    """An operator wants a checkpoint."""
    x.tag(x.estate.vpgs[a % len(x.estate.vpgs)].name, f"tag {b}")


def pin(x: Explorer, a: int, b: int) -> None:
    """An operation needs a checkpoint, or no longer."""
    name = x.estate.vpgs[a % len(x.estate.vpgs)].name
    listed = x.catalog(name).listed
    if listed:
        x.pin(name, listed[b // 4 % len(listed)].id, bool(b % 4))


def lose(x: Explorer, a: int, b: int) -> None:
    """A connection is gone; one in four within a site."""
    links = x.links if b >= 192 else x.estate.wan
    x.break_link(links[a % len(links)])


def connect(x: Explorer, a: int, b: int) -> None:
    """A connection can be used again."""
    cut = sorted(x.cut)
    if cut:
        x.renew(cut[a % len(cut)])


def clog(x: Explorer, a: int, b: int) -> None:
    """One direction of a connection carries nothing for a while, or carries again."""
    if b % 2 and x.clogged:
        x.clogged.discard(sorted(x.clogged)[a % len(x.clogged)])
    else:
        link = x.links[a % len(x.links)]
        x.clogged.add(link if b & 2 else link[::-1])


def half_open(x: Explorer, a: int, b: int) -> None:
    """A connection swallows everything, and nobody has noticed yet."""
    link = x.links[a % len(x.links)]
    if link not in x.cut:
        x.half_open.add(link)


def _data(x: Explorer, a: int) -> tuple[str, str] | None:
    links = [link for link, queue in x.queues.items() if queue and isinstance(queue[0], Frame | Ack | Nack)]
    return links[a % len(links)] if links else None


def drop(x: Explorer, a: int, b: int) -> None:
    """A frame or an answer is lost."""
    link = _data(x, a)
    if link:
        x.drop(link)  # type: ignore[arg-type]
        x.probes.add("data was lost on its way")


def duplicate(x: Explorer, a: int, b: int) -> None:
    """A frame or an answer comes twice, or the rows of a frame come again with those behind them."""
    link = _data(x, a)
    if link:
        queue = x.queues[link]  # type: ignore[index]
        if b % 4 and len(queue) > 1 and neighbours(queue[0], queue[1]):
            x.overlap(link)  # type: ignore[arg-type]
            x.probes.add("a frame overlapped another")
        else:
            x.again(link)  # type: ignore[arg-type]
            x.probes.add("data came twice")


def overtake(x: Explorer, a: int, b: int) -> None:
    """A frame arrives before the one sent before it."""
    links = [k for k, q in x.queues.items() if len(q) > 1 and isinstance(q[0], Frame) and isinstance(q[1], Frame)]
    if links:
        x.overtake(links[a % len(links)])
        x.probes.add("a frame overtook another")


def prefer(x: Explorer, a: int, b: int) -> None:
    """A stream of another VPG goes first on a link that carries both."""
    queues = x.queues.items()
    ready = [(k, n) for k, q in queues for n, m in enumerate(q) if stream_of(m) not in (None, stream_of(q[0]))]
    if ready:
        link, n = ready[a % len(ready)]
        stream = stream_of(x.queues[link][n])
        first = next(i for i, m in enumerate(x.queues[link]) if stream_of(m) == stream)
        x.prefer(link, first)
        x.probes.add("a stream overtook another")


def resize(x: Explorer, a: int, b: int) -> None:
    """A frame arrives as two, or two as one."""
    if b % 2:
        links = [k for k, q in x.queues.items() if q and isinstance(q[0], Frame) and len(q[0].batch) > 1]
        if links:
            link = links[a % len(links)]
            frame = x.queues[link][0]
            assert isinstance(frame, Frame)
            x.cut_frame(link, 1 + b // 2 % (len(frame.batch) - 1))
            x.probes.add("a frame was cut in two")
    else:
        links = [k for k, q in x.queues.items() if len(q) > 1 and neighbours(q[0], q[1])]
        if links:
            x.join_frames(links[a % len(links)])
            x.probes.add("two frames were joined")


def old(x: Explorer, a: int, b: int) -> None:
    """A frame of an earlier connection comes again; one in four as of an earlier generation."""
    frames = [frame for frame in x.frames if x.has(frame.stream)]
    if not frames:
        return
    frame = frames[a % len(frames)]
    if b % 4 == 3:
        position = x.receiver(frame.stream).accepted
        counts = tuple(u - p for p, u in zip(frame.after, frame.upto, strict=True))
        upto = tuple(p + c for p, c in zip(position, counts, strict=True))
        epoch = x.receiver(frame.stream).epoch
        x.replay(replace(frame, generation=0, epoch=epoch, after=position, upto=upto))
        x.probes.add("a frame of an old generation came")
    else:
        if frame.epoch < x.receiver(frame.stream).epoch:
            x.probes.add("a frame of an old epoch came")
        x.replay(frame)


def fail(x: Explorer, a: int, b: int) -> None:
    """An effect fails, and leaves no trace."""
    keys = x.busy
    rare = [key for key in keys if key[0] in ("list", "mirror")]
    keys = rare if rare and b % 2 else keys
    if keys:
        x.finish(keys[a % len(keys)], fail=True)


def _store(x: Explorer, a: int) -> tuple[Address, str]:
    stream = x.streams[a % len(x.streams)]
    return stream.target, stream.vpg


def fill(x: Explorer, a: int, b: int) -> None:
    """A store has no room any more."""
    x.full.add(_store(x, a))


def make_room(x: Explorer, a: int, b: int) -> None:
    """A store has room again."""
    x.full.discard(_store(x, a))


def _component(x: Explorer, a: int) -> str:
    vras = [v for v in x.estate.addresses if v not in x.estate.owners]
    choice = [*vras, *x.estate.owners]
    return choice[a % len(choice)]


def stop(x: Explorer, a: int, b: int) -> None:
    """A component goes down in good order."""
    x.halt(_component(x, a), b % 3)  # type: ignore[arg-type]


def crash(x: Explorer, a: int, b: int) -> None:
    """A component dies; what it becomes again is built from what is durable."""
    address = _component(x, a)
    x.crash(address, b % 3)  # type: ignore[arg-type]
    if b // 3 % 2:
        x.boot(address)  # type: ignore[arg-type]


def black_out(x: Explorer, a: int, b: int) -> None:
    """Everything on one side dies at once."""
    side = [v for v in x.estate.addresses if v.startswith(("west/", "east/")[a % 2])]
    for address in side:
        x.crash(address, b % 3)
    x.probes.add("a whole side died")


def start(x: Explorer, a: int, b: int) -> None:
    """A component comes up again."""
    down = sorted(x.down)
    if down:
        x.boot(down[a % len(down)])


def clock(x: Explorer, a: int, b: int) -> None:
    """A site's clocks jump ahead; or a manager that is ahead is restarted, with its clock put right."""
    ahead = [m for m in x.estate.managers.values() if x.skew.get(m) and m not in x.down]
    if a % 4 == 3 and ahead:
        x.crash(ahead[b % len(ahead)], b % 3)
        x.boot(ahead[b % len(ahead)])
    else:
        x.step_clock(("west", "east")[a % 2], 8 * b)
        x.probes.add("a clock jumped")


def transaction(x: Explorer, a: int, b: int) -> None:
    """An application opens a transaction, or closes the one that is open."""
    for one in _rows(x, a, b, 1):
        one.opens = not one.guest.open[-1]
        x.write([one])


def quiesce(x: Explorer, a: int, b: int) -> None:
    """An operator wants a checkpoint with applications at rest."""
    x.tag(x.estate.vpgs[a % len(x.estate.vpgs)].name, f"quiesced {b}", quiesce=True)


def freeze_ends(x: Explorer, a: int, b: int) -> None:
    """Guests have been frozen too long, and their applications go on; or a manager has waited long enough for it."""
    timers = [t for t in x.timers if t[1].startswith("freeze")]
    if timers:
        address, timer = timers[a % len(timers)]
        mine = [n for n, vm in enumerate(x.vms) if x.freezer.frozen.get(vm, ("",))[0] == address]
        x.expire(address, timer)
        if mine:
            x.probes.add("a freeze ended by itself")
            transaction(x, mine[b % len(mine)], b)


def freeze_fails(x: Explorer, a: int, b: int) -> None:
    """A VM cannot be frozen from now on; or it can again."""
    vm = x.vms[a % len(x.vms)]
    (x.freezer.failing.add if b % 2 else x.freezer.failing.discard)(vm)


OPERATIONS = (
    Operation("deliver", 28, deliver),
    Operation("write", 27, write),
    Operation("pair", 20, pair),
    Operation("perform", 30, perform),
    Operation("drain", 8, drain),
    Operation("tick", 14, tick),
    Operation("flush", 10, flush),
    Operation("issue", 6, issue, "in flight"),
    Operation("land", 8, land),
    Operation("age", 6, age),
    Operation("hold ends", 6, hold_ends, "slow"),
    Operation("deadline", 2, deadline, "slow"),
    Operation("alarm", 3, alarm),
    Operation("lose", 4, lose, "links"),
    Operation("connect", 8, connect),
    Operation("clog", 2, clog, "half links"),
    Operation("half-open", 1, half_open, "half links"),
    Operation("drop", 2, drop, "loss"),
    Operation("duplicate", 2, duplicate, "order"),
    Operation("overtake", 2, overtake, "order"),
    Operation("prefer", 1, prefer, "order"),
    Operation("resize", 2, resize, "order"),
    Operation("old", 2, old, "old"),
    Operation("fail", 6, fail, "effects"),
    Operation("fill", 2, fill, "full"),
    Operation("make room", 2, make_room),
    Operation("stop", 2, stop, "restarts"),
    Operation("crash", 2, crash, "crashes"),
    Operation("black out", 1, black_out, "crashes"),
    Operation("start", 4, start),
    Operation("tag", 1, tag),
    Operation("pin", 3, pin, "pins"),
    Operation("clock", 3, clock, "clocks"),
    Operation("pause", 2, pause, "pauses"),
    Operation("force", 1, force),
    Operation("vMotion", 2, vmotion, "moves"),
    Operation("inventory", 2, inventory),
    Operation("enlist", 1, enlist, "edits"),
    Operation("dismiss", 1, dismiss, "edits"),
    Operation("transaction", 4, transaction),
    Operation("quiesce", 3, quiesce),
    Operation("freeze ends", 3, freeze_ends, "slow"),
    Operation("freeze fails", 1, freeze_fails, "effects"),
    Operation("delete", 1, delete, "edits"),
    Operation("force some", 1, force_some),
    Operation("add volume", 1, add_volume, "edits"),
    Operation("grow", 1, grow, "edits"),
    Operation("remove volume", 1, remove_volume, "edits"),
    Operation("retarget", 2, retarget, "edits"),
    Operation("keep", 1, keep, "edits"),
    Operation("volume lost", 2, volume_lost, "effects"),
    Operation("fence", 2, fence, "pauses"),
    Operation("write compared", 2, write_compared),
    Operation("miss", 2, miss, "full"),
)
"""An operation's place is its code in programs, and so in tokens: append only, never reorder, never remove."""


def codes(operations: Sequence[Operation]) -> tuple[int, ...]:
    """A table from which a byte picks an operation's code by weight."""
    table = tuple(code for code, op in enumerate(operations) for _ in range(op.weight))
    assert len(table) <= 256, "a byte picks by weight"
    return table


def faults(operations: Sequence[Operation]) -> tuple[str, ...]:
    """The classes of faults that a program may do without, by the bits of its swarm mask."""
    classes = tuple(dict.fromkeys(op.fault for op in operations if op.fault))
    assert len(classes) <= 16, "the swarm mask has 16 bits"
    return classes


TABLE, FAULTS = codes(OPERATIONS), faults(OPERATIONS)
