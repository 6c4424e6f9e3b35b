"""Story: a run of the explorer told step by step, and why it is wrong, with the very writes that show it."""

from collections.abc import Callable
from dataclasses import dataclass

from drsim.core.names import Address, CheckpointId, VmId
from drsim.core.window import reaches
from drsim.verify.complaint import demand
from drsim.verify.guests import Guest, Write
from drsim.verify.plain import listing
from drsim.verify.program import run
from drsim.verify.recorder import Recorder
from drsim.verify.spans import Step
from drsim.verify.violation import Violation


@dataclass(frozen=True, slots=True)
class Broken:
    """What shows that a property does not hold. `why` in words; the rest where the property speaks of such things.

    present: the write that is there (in a cut, in a mirror). missing: the one that ought to be there too. at: the
    machine where it broke.
    """

    prop: str
    why: str
    vpg: str = ""
    checkpoint: CheckpointId | None = None
    present: Write | None = None
    missing: Write | None = None
    at: Address | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """A run, and what is broken; None when every property held."""

    x: Recorder
    broken: Broken | None

    @property
    def cast(self) -> str:
        """Who takes part: the VMs of each VPG, their hosts, and where they are recovered."""
        parts = []
        for vpg in self.x.estate.vpgs:
            vms = listing([f"VM {vm} on {host(s.id.source)}" for s in vpg.streams for vm in s.vms])
            parts.append(f"VPG {vpg.name}: {vms}, recovered by {listing([host(t) for t in vpg.targets])}.")
        return " ".join(parts)

    def lines(self) -> list[str]:
        """The steps, each with what came of it; they are counted from 1."""
        return [told(step) for step in self.x.steps]

    @property
    def verdict(self) -> str:
        """One paragraph: the property, what it demands, what was seen."""
        broken = self.broken
        if broken is None:
            return f"Every property held in these {len(self.x.steps)} steps, and in the end the system was well."
        return f"{broken.prop} does not hold: {demand(broken.prop)}. {broken.why}."


def host(address: Address) -> str:
    """The host of a VRA."""
    return address.split("/")[1]


def told(step: Step) -> str:
    """A step in words."""
    then = list(dict.fromkeys(text for say in step.then if (text := say())))
    text = "; ".join([step.say(), *then])
    return f"{text[0].upper()}{text[1:]}."


# -- why ----------------------------------------------------------------------------------------------------------


def why(x: Recorder, seen: Violation) -> Broken:
    """What shows that a property does not hold, from a run that has just violated it."""
    match seen.prop:
        case "P4" if seen.checkpoint is not None:
            return _open_cut(x, seen, seen.checkpoint)
        case "P5" if seen.checkpoint is not None and seen.vm is not None and (seen.vpg, seen.checkpoint) in x.held_at:
            return _stale(x, seen, seen.checkpoint, seen.vm) or _other_image(x, seen, seen.checkpoint, seen.vm)
        case "P12" if seen.checkpoint is not None:
            return _aged(x, seen, seen.checkpoint)
        case "P12" if seen.vm is not None and seen.sector is not None:
            return _forgotten(x, seen, seen.vm, seen.sector)
        case "P3" | "P11" if seen.checkpoint is not None and seen.vm is not None:
            return _other_image(x, seen, seen.checkpoint, seen.vm)
        case "P11" if seen.checkpoint is not None:
            return _aged(x, seen, seen.checkpoint)
        case "P8" if seen.stream is not None:
            return _not_durable(x, seen)
    said = seen.message
    for address in x.estate.addresses:
        said = said.replace(address, x.words.place(address))
    return Broken(seen.prop, said[0].upper() + said[1:], seen.vpg, seen.checkpoint, at=x.last)


def _step_of(x: Recorder, moment: int | None) -> int:
    """The number of the step that has a moment."""
    return next(
        (n for n, s in enumerate(x.steps, 1) if moment is not None and s.first <= moment <= s.last), len(x.steps)
    )


def _issued(x: Recorder, write: Write) -> int:
    return _step_of(x, x.wrote(write).issued)


def _acked(x: Recorder, write: Write) -> int:
    return _step_of(x, x.wrote(write).acked)


def _open_cut(x: Recorder, seen: Violation, checkpoint: CheckpointId) -> Broken:
    cut = x.checks.cuts[seen.vpg, checkpoint]
    guests = [x.guests[vm] for vm in cut]
    inside = [w for g in guests for w in g.writes[: cut[g.vm]]]
    outside = [(g.acked[w.index - 1], w.index, w) for g in guests for w in g.writes[cut[g.vm] :]]
    present = max(inside, key=lambda w: w.issued)
    missing = min(outside, key=lambda each: each[:2])[2]
    said = (
        f"Checkpoint {checkpoint} holds {x.words.write(present)}, issued at step {_issued(x, present)}, but not "
        f"{x.words.write(missing)}, which had been acknowledged at step {_acked(x, missing)}. Whoever issued the one "
        "could have known of the other and built on it"
    )
    return Broken("P4", said, seen.vpg, checkpoint, present, missing)


def _stale(x: Recorder, seen: Violation, checkpoint: CheckpointId, vm: VmId) -> Broken | None:
    asked = x.checks.asked[seen.vpg, checkpoint]
    guest, k = x.guests[vm], x.checks.cuts[seen.vpg, checkpoint][vm]
    missing = next((w for w, acked in zip(guest.writes[k:], guest.acked[k:], strict=True) if acked < asked), None)
    if missing is None:
        return None
    said = (
        f"Checkpoint {checkpoint} lacks {x.words.write(missing)}, which had been acknowledged at step "
        f"{_acked(x, missing)}, before the checkpoint was asked for"
    )
    return Broken("P5", said, seen.vpg, checkpoint, None, missing, x.last)


def _forgotten(x: Recorder, seen: Violation, vm: VmId, sector: int) -> Broken:
    guest = x.guests[vm]
    missing = next(w for w in reversed(guest.writes) if w.start <= sector < w.stop)
    assert guest.stream is not None
    disks = x.disks[guest.stream].vms[vm]
    old = _holder(guest, disks.tip, sector)
    has = f"still has {x.words.write(old)} there" if old else "still has there what was there before any write"
    said = (
        f"Sector {sector} of VM {vm} was written at step {_issued(x, missing)} ({x.words.write(missing)}). The "
        f"recovery site {has}, and the sector is neither dirty nor queued nor in flight: nobody will ever send it, and "
        "the VM would be recovered without it"
    )
    return Broken("P12", said, present=old, missing=missing, at=guest.host)


def _holder(guest: Guest, image: bytes | bytearray, sector: int) -> Write | None:
    """The write whose data a sector of an image holds."""
    stamp = int.from_bytes(image[2 * sector : 2 * sector + 2], "little")
    return guest.writes[stamp - 1] if 0 < stamp <= len(guest.writes) else None


def _other_image(x: Recorder, seen: Violation, checkpoint: CheckpointId, vm: VmId) -> Broken:
    guest = x.guests[vm]
    parts = x.kept[seen.vpg][checkpoint].cut
    stream = next(s for s, cut in parts.items() if vm in dict(x.disks[s].cut_through(cut)))
    cut, disks, k = parts[stream], x.disks[stream], x.checks.cuts[seen.vpg, checkpoint][vm]
    image, expected = disks.image(vm, cut.position[list(disks.vms).index(vm)]), guest.images[k]
    unlike = int.from_bytes(image, "little") ^ int.from_bytes(expected, "little")
    unlike &= x.checks.tapped[seen.vpg, checkpoint][vm]
    sector = ((unlike & -unlike).bit_length() - 1) // 16
    found, wanted = _holder(guest, image, sector), _holder(guest, expected, sector)
    holds = f"the data of {x.words.write(found)}" if found else "nothing"
    ought = f"the data of {x.words.write(wanted)}" if wanted else "nothing"
    said = (
        f"Checkpoint {checkpoint} is VM {vm} after write {k}. Recovered from it now, sector {sector} of the VM holds "
        f"{holds}; it ought to hold {ought}"
    )
    return Broken(seen.prop, said, seen.vpg, checkpoint, found, wanted, stream.target)


def _aged(x: Recorder, seen: Violation, checkpoint: CheckpointId) -> Broken:
    assert seen.stream is not None
    cut, disks = x.checks.cuts[seen.vpg, checkpoint], x.disks[seen.stream]
    beyond = [w for vm, each in disks.vms.items() for w in each.writes if w is not None and w.index > cut[vm]]
    present = min(beyond, key=lambda w: w.index, default=None)
    what = x.words.write(present) if present else "what came with a sync"
    said = (
        f"{x.words.place(seen.stream.target)} is about to apply {what} to the mirror disks, although checkpoint "
        f"{checkpoint} is listed and does not have it. From then on nobody can rebuild the checkpoint"
    )
    return Broken(seen.prop, said[0].upper() + said[1:], seen.vpg, checkpoint, present, None, seen.stream.target)


def _not_durable(x: Recorder, seen: Violation) -> Broken:
    assert seen.stream is not None
    receiver, rows = x.receiver(seen.stream), x.rows[seen.stream].writes
    frames = [f for f in receiver.pending if not reaches(x.disks[seen.stream].end, f.upto)]
    lost = [rows[row] for f in frames if f.batch.payload is None for row in f.batch.issued.tolist()]
    what = x.words.writes(lost) if lost else "data of a sync"
    said = (
        f"{x.words.place(seen.stream.target)} acknowledges {what}, which no journal has yet. "
        f"{x.words.place(seen.stream.source)} will forget it, and if the recovery VRA dies now, nobody has it"
    )
    return Broken("P8", said[0].upper() + said[1:], missing=lost[0] if lost else None, at=seen.stream.target)


# -- a run of our own ---------------------------------------------------------------------------------------------


def remembered(recorder: type[Recorder]) -> tuple[type[Recorder], list[Recorder]]:
    """A recorder of this kind, and all that are made of it, also by a run that fails."""
    made: list[Recorder] = []

    class Mine(recorder):  # type: ignore[misc, valid-type]  # the kind is an argument
        def __init__(self, *args: object, **options: object) -> None:
            made.append(self)
            super().__init__(*args, **options)

    return Mine, made


def record(
    program: bytes, play: Callable[..., object] = run, recorder: type[Recorder] = Recorder,
    reason: Callable[[Recorder, Violation], Broken] = why,
) -> Story:  # fmt: skip
    """Play a program of the explorer, or of one of its kind, and remember it. `reason`: what shows a violation."""
    mine, made = remembered(recorder)
    try:
        play(program, explorer=mine)
    except Violation as violation:
        return Story(made[0], reason(made[0], violation))
    except Exception as error:  # whatever the core raises is a finding
        who = made[0].words.place(made[0].last) if made[0].last else "the core"
        said = f"{type(error).__name__}: {error} ({who}, step {len(made[0].steps)})"
        return Story(made[0], Broken("core", said, at=made[0].last))
    return Story(made[0], None)
