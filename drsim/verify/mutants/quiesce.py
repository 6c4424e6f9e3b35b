"""Mutants of application-consistent checkpoints: the freeze, the claim, the thaw."""

from drsim.core.effects import Effect, FreezeGuests, Send
from drsim.core.messages import Hold, Thaw
from drsim.core.names import VmId
from drsim.core.protected_vra import ProtectedVra
from drsim.core.vpg import Vpg
from drsim.verify.mutants.base import Patch, mutant, patched, several


@mutant("56", by=("P19",))
def tagged_after_the_thaw() -> Patch:
    """The guests of an application-consistent checkpoint are thawed just before its cut is taken."""
    hold = ProtectedVra._hold

    def mutated(self: ProtectedVra, message: Hold) -> list[Effect]:
        frozen = self._frozen(message.vpg)
        thawed = self._thaw(message.vpg)
        with patched(ProtectedVra, "_frozen", lambda vra, vpg: frozen):
            return [*thawed, *hold(self, message)]

    return patched(ProtectedVra, "_hold", mutated)


@mutant(by=("P19",))
def claimed_since_the_freeze() -> Patch:
    """A checkpoint claims the guests that were frozen for it, whether or not they still are at its cut."""
    froze, frozen = ProtectedVra._froze, ProtectedVra._frozen
    latest: dict[tuple[int, str], tuple[VmId, ...]] = {}

    def noted(self: ProtectedVra, asked: FreezeGuests, vms: tuple[VmId, ...]) -> list[Effect]:
        latest[id(self), asked.vpg] = vms
        return froze(self, asked, vms)

    def mutated(self: ProtectedVra, vpg: str) -> tuple[VmId, ...]:
        return frozen(self, vpg) or latest.get((id(self), vpg), ())

    return several(patched(ProtectedVra, "_froze", noted), patched(ProtectedVra, "_frozen", mutated))


@mutant(by=("P19",))
def freeze_timeout_ignored() -> Patch:
    """Guests stay frozen until somebody thaws them."""
    fired = ProtectedVra._fired

    def mutated(self: ProtectedVra, timer: str) -> list[Effect]:
        return [] if timer.startswith("freeze ") else fired(self, timer)

    return patched(ProtectedVra, "_fired", mutated)


@mutant(by=("P19",))
def thaw_forgotten_after_a_void() -> Patch:
    """Guests are thawed when their checkpoint is sealed, and not when it is void."""
    void = Vpg._void

    def mutated(self: Vpg, reason: str) -> list[Effect]:
        return [e for e in void(self, reason) if not (isinstance(e, Send) and isinstance(e.message, Thaw))]

    return patched(Vpg, "_void", mutated)
