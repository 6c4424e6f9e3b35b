"""Deleting a VPG (T30), and what the recovery site says while it is alone (T13)."""

from collections.abc import Iterable

import pytest

from drsim.core.catalog import Catalog
from drsim.core.effects import Discard, Effect, EffectId, Forget, Keep, Publish, Send, UntapVolumes
from drsim.core.events import Connected, DeleteAsked, Done, Event, Lost, Received, Started, TagAsked
from drsim.core.facts import CheckpointsRetired, RecoverySideChanged, StateChanged, VpgDeleted
from drsim.core.messages import (
    Await,
    Checkpoint,
    Close,
    Configure,
    Cut,
    Delete,
    Deleted,
    Hold,
    Reached,
    Sealed,
    Where,
)
from drsim.core.names import Address, CheckpointId, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.protected_vra import ProtectedVra
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.status import Lifecycle, Peer, Status, project
from drsim.core.units import Ns
from drsim.core.vpg import TICK, Vpg
from drsim.verify.estate import TINY

VRA, TARGET, MANAGER, CATALOG = (Address(a) for a in ("west/h", "east/r", "west/vpg/crm", "east/catalog/crm"))
STREAM = StreamId("crm", VRA, TARGET)
SPEC = StreamSpec(STREAM, (VmId(1),), (VolumeInfo(VolumeId(1), VmId(1), 64),))


def messages(effects: Iterable[Effect]) -> list[object]:
    return [e.message for e in effects if isinstance(e, Send)]


def facts(effects: Iterable[Effect], kind: type) -> list:
    return [e.fact for e in effects if isinstance(e, Publish) and isinstance(e.fact, kind)]


class Manager:
    def __init__(self) -> None:
        self.vpg = Vpg(
            MANAGER, "crm", [VRA], CATALOG, interval=Ns(50), rpo_alert=Ns(500), history=Ns(1000), tweaks=TINY
        )
        self(Started())

    def __call__(self, event: Event) -> list[Effect]:
        return self.vpg.handle(Ns(0), event)


class List:
    """A catalogue with one listed checkpoint."""

    def __init__(self, *, listed: bool = True) -> None:
        self.catalog = Catalog(CATALOG, "crm", MANAGER, [STREAM], history=Ns(1000), tweaks=TINY)
        self(Started())
        if listed:
            checkpoint = Checkpoint("crm", CheckpointId(1), Ns(0), {STREAM: Cut(1, (3,))})
            self.hears(Sealed(checkpoint), MANAGER)
            self.hears(Reached("crm", CheckpointId(1), STREAM), TARGET)
            self.done(Keep(checkpoint))

    def __call__(self, event: Event) -> list[Effect]:
        return self.catalog.handle(Ns(0), event)

    def hears(self, message: object, sender: Address) -> list[Effect]:
        return self(Received(sender, message))  # type: ignore[arg-type]

    def done(self, effect: Effect) -> list[Effect]:
        return self(Done(EffectId(CATALOG, 0), effect))


# -- the protected manager ----------------------------------------------------------------------------------------


def test_the_manager_ends_capture_and_tells_the_recovery_site() -> None:
    rig = Manager()
    effects = rig(DeleteAsked(keep_disks=True))
    assert messages(effects)[0] == Configure("crm", 2, (), {})
    assert Delete("crm", keep_disks=True) in messages(effects)
    assert project(rig.vpg.regions) == (Status.DELETING, "Deleting")
    assert facts(effects, StateChanged)[0].regions.lifecycle is Lifecycle.DELETING
    assert rig(DeleteAsked(keep_disks=False)) == [], "once"


def test_no_checkpoint_is_taken_any_more() -> None:
    rig = Manager()
    rig(DeleteAsked(keep_disks=False))
    tagged = rig(TagAsked("late"))
    rig(Received(CATALOG, Deleted("crm")))
    from drsim.core.events import Fired

    assert not [m for m in messages([*tagged, *rig(Fired(TICK))]) if isinstance(m, Hold)]


def test_it_is_told_again_until_the_answer_comes() -> None:
    rig = Manager()
    rig(DeleteAsked(keep_disks=False))
    rig(Lost(CATALOG))
    assert project(rig.vpg.regions) == (Status.DELETING, "PendingRemove")
    assert Delete("crm", keep_disks=False) in messages(rig(Connected(CATALOG)))
    assert facts(rig(Received(CATALOG, Deleted("crm"))), VpgDeleted) == [VpgDeleted("crm")]
    assert Delete("crm", keep_disks=False) not in messages(rig(Connected(CATALOG)))
    assert facts(rig(Received(CATALOG, Deleted("crm"))), VpgDeleted) == [], "once"


# -- the catalogue ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_first_nothing_is_listed_then_the_journals_go(keep: bool) -> None:
    rig = List()
    effects = rig.hears(Delete("crm", keep), MANAGER)
    assert facts(effects, CheckpointsRetired)[0].before is None
    assert Forget("crm", None) in effects
    assert not [m for m in messages(effects) if isinstance(m, Close | Deleted)], "the list first"
    ended = messages(rig.done(Forget("crm", None)))
    assert ended == [Close("crm", STREAM, keep), Deleted("crm")]
    assert messages(rig.hears(Delete("crm", keep), MANAGER)) == [Deleted("crm")], "the answer was lost"


def test_a_checkpoint_on_its_way_does_not_come_back() -> None:
    rig = List()
    late = Checkpoint("crm", CheckpointId(2), Ns(5), {STREAM: Cut(1, (4,))})
    assert [m for m in messages(rig.hears(Sealed(late), MANAGER)) if isinstance(m, Await)]
    rig.hears(Delete("crm", keep_disks=False), MANAGER)
    assert rig.hears(Reached("crm", CheckpointId(2), STREAM), TARGET) == []
    rig.done(Forget("crm", None))
    assert not rig.catalog.listed


def test_the_recovery_site_says_what_it_can_do_alone() -> None:
    rig = List()
    assert facts(rig(Lost(MANAGER)), RecoverySideChanged) == [RecoverySideChanged("crm", Peer.RECOVERY_POSSIBLE)]
    assert facts(rig(Connected(MANAGER)), RecoverySideChanged) == [RecoverySideChanged("crm", Peer.CONNECTED)]
    assert facts(rig(Lost(TARGET)), RecoverySideChanged) == [], "a VRA of its own is no peer"


def test_without_a_checkpoint_it_can_do_nothing() -> None:
    rig = List(listed=False)
    assert facts(rig(Lost(MANAGER)), RecoverySideChanged) == [RecoverySideChanged("crm", Peer.DISCONNECTED_NO_POINTS)]


# -- the VRAs -----------------------------------------------------------------------------------------------------


def test_a_protected_vra_drops_the_streams() -> None:
    vra = ProtectedVra(VRA, {"crm": MANAGER}, [SPEC], pool_bytes=1 << 20, tweaks=TINY)
    assert vra.handle(Ns(0), Received(MANAGER, Configure("crm", 2, (), {}))) == [UntapVolumes(STREAM)]
    assert not vra.senders


@pytest.mark.parametrize("keep", [False, True])
def test_a_recovery_vra_discards(keep: bool) -> None:
    vra = RecoveryVra(TARGET, {"crm": CATALOG}, [SPEC], pool_bytes=1 << 20, tweaks=TINY)
    effects = vra.handle(Ns(0), Received(CATALOG, Close("crm", STREAM, keep)))
    assert effects == [Discard(STREAM, (VmId(1),), keep)]
    assert vra.handle(Ns(0), Received(CATALOG, Close("crm", STREAM, keep))) == []
    assert not messages(vra.handle(Ns(0), Connected(VRA)))
    assert Where(STREAM, 1, SPEC).spec is SPEC
