"""Quiesce: the manager's part of application-consistent checkpoints. Which tag is being frozen, and by whom.

Theory of operation. A tag may ask that applications be at rest at its cut (a VSS agent or a script in the guest does
it; products.md 1.4). Around the checkpoint of such a tag there is a freeze:

    step    who      what
    ------  -------  ---------------------------------------------------------------------------------------------
    freeze  manager  `Freeze` to every protected VRA of the VPG; automatic checkpoints go on meanwhile
    frozen  VRA      has had its guests frozen, as many as can be in half of the freeze timeout; answers `Frozen`
    hold    manager  when all have answered, or the freeze timeout has run out: the checkpoint, as any other
    held    VRA      says in `Held` which guests are frozen at this moment
    thaw    manager  when the checkpoint is sealed or void, `Thaw` to the same VRAs

What a checkpoint claims is what the `Held` said: each guest came to rest before its VRA's part of the cut was fixed,
and was at rest then, so the cut has no transaction of it open. Who thaws after that changes nothing. A guest without
an agent, one that fails, is too slow or thawed before is not claimed; for it the checkpoint is crash consistent.

A VRA keeps guests frozen at most for the freeze timeout, whatever fails, and not when it has lost its manager or
stops. When a VRA did not answer in time, the tag is tried again without a freeze: otherwise one VRA that is down
would have the guests of all others frozen most of the time. A manager that restarts thaws; one that crashed is lost
to its VRAs, and they do.

Invariant: there is one freeze at a time, and the manager's tags wait for its end.
"""

from dataclasses import dataclass, replace

from drsim.core.effects import Arm, Effect, Send
from drsim.core.messages import Freeze, Frozen, Thaw
from drsim.core.names import Address
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class Tag:
    """What an operator asked for: a name, and applications at rest. Automatic checkpoints have neither."""

    name: str = ""
    quiesce: bool = False


UNTAGGED = Tag()


class Quiesce:
    """The freeze of one VPG's manager, if there is one."""

    def __init__(self, vpg: str, tweaks: Tweaks) -> None:
        self.vpg, self.tweaks = vpg, tweaks
        self.tag: Tag | None = None
        """Whose guests are frozen, or about to be."""
        self.number = 0  # of the latest freeze
        self._vras: tuple[Address, ...] = ()
        self._waiting: set[Address] = set()  # for their answers
        self._late = False  # somebody did not answer in time

    @property
    def ready(self) -> bool:
        """Whether there is nothing more to wait for before the hold."""
        return self.tag is not None and not self._waiting

    def begin(self, number: int, tag: Tag, vras: tuple[Address, ...]) -> list[Effect]:
        """Have the guests of these VRAs frozen."""
        assert self.tag is None, "one freeze at a time"
        self.tag, self.number, self._vras, self._waiting, self._late = tag, number, vras, set(vras), False
        asked = [Send(vra, Freeze(self.vpg, number)) for vra in vras]
        return [*asked, Arm(FREEZE, Ns(self.tweaks.freeze_timeout))]

    def frozen(self, message: Frozen) -> None:
        """A VRA has answered."""
        if message.number == self.number:
            self._waiting.discard(message.vra)

    def timeout(self) -> None:
        """Wait no longer."""
        self._late = bool(self._waiting)
        self._waiting.clear()

    def again(self, tag: Tag) -> Tag:
        """What a tag asks for when its checkpoint is void: no further freeze if this one took too long."""
        return replace(tag, quiesce=False) if self._late else tag

    def end(self) -> list[Effect]:
        """Let the applications go on, if there is a freeze."""
        if self.tag is None:
            return []
        self.tag, self._late = None, False
        self._waiting.clear()
        return [Send(vra, Thaw(self.vpg, self.number)) for vra in self._vras]
