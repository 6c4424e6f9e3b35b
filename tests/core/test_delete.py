"""Deleting a VPG (T30), and what the recovery site says while it is alone (T13)."""

from collections.abc import Iterable

import pytest
from support import writes

from drsim.core.catalog import Catalog
from drsim.core.effects import Discard, Effect, EffectId, Forget, Keep, Publish, Send, UntapVolumes
from drsim.core.errors import PlatformError
from drsim.core.events import (
    Connected,
    DeleteAsked,
    Done,
    Event,
    Failed,
    Fired,
    Lost,
    Received,
    Reconfigured,
    Started,
    TagAsked,
)  # fmt: skip
from drsim.core.facts import CheckpointsRetired, RecoverySideChanged, StateChanged, VpgDeleted
from drsim.core.messages import (
    Await,
    Checkpoint,
    Close,
    Closed,
    Configure,
    Cut,
    Delete,
    Deleted,
    Frame,
    Hold,
    Reached,
    Retention,
    Sealed,
    StoreState,
    Where,
)
from drsim.core.names import Address, CheckpointId, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.protected_vra import ProtectedVra
from drsim.core.recovery_vra import RETRY, RecoveryVra
from drsim.core.status import Lifecycle, Peer, Status, project
from drsim.core.units import SECTOR, Ns
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
        self.catalog = Catalog(CATALOG, "crm", MANAGER, [STREAM], retention=Retention(Ns(1000)), tweaks=TINY)
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
    assert ended == [Close("crm", STREAM, keep)]
    assert messages(rig.hears(Delete("crm", keep), MANAGER)) == [], "the journals are there still"
    assert messages(rig.hears(Closed("crm", STREAM), TARGET)) == [Deleted("crm")]
    assert messages(rig.hears(Delete("crm", keep), MANAGER)) == [Deleted("crm")], "the answer was lost"


def test_a_vra_is_told_to_close_until_it_has() -> None:
    rig = List()
    rig.hears(Delete("crm", keep_disks=False), MANAGER)
    rig.done(Forget("crm", None))
    assert Close("crm", STREAM) in messages(rig(Connected(TARGET)))
    rig.hears(Closed("crm", STREAM), TARGET)
    assert Close("crm", STREAM) not in messages(rig(Connected(TARGET)))
    opened = StoreState("crm", STREAM, True, "")
    assert messages(rig.hears(opened, TARGET)) == [Close("crm", STREAM)], "a sender had not heard of it, and came back"


def test_a_stream_that_nobody_knew_of_is_closed_too() -> None:
    other = StreamId("crm", VRA, TARGET, 7)
    rig = List()
    rig.hears(Delete("crm", keep_disks=True), MANAGER)
    rig.done(Forget("crm", None))
    assert messages(rig.hears(StoreState("crm", other, True, ""), TARGET)) == [Close("crm", other, True)]


def test_a_manager_that_died_goes_on_deleting() -> None:
    gone = Reconfigured(2, (), {})
    heir = Vpg(
        MANAGER, "crm", [VRA], CATALOG, interval=Ns(50), rpo_alert=Ns(500), history=Ns(1000), tweaks=TINY,
        first=CheckpointId(1001), configured=gone, deleting=True,
    )  # fmt: skip
    heir.handle(Ns(0), Started())
    assert Delete("crm", keep_disks=True) in messages(heir.handle(Ns(0), Connected(CATALOG)))
    assert Configure("crm", 2, (), {}) in messages(heir.handle(Ns(0), Connected(VRA)))
    assert project(heir.regions)[0] is Status.DELETING


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
    discard = Discard(STREAM, (VmId(1),), keep)
    again = Received(CATALOG, Close("crm", STREAM, keep))
    assert effects == [discard]
    assert vra.handle(Ns(0), again) == []
    vra.handle(Ns(0), Failed(EffectId(TARGET, 0), discard, PlatformError("broken")))
    assert discard in vra.handle(Ns(0), Fired(RETRY))
    assert discard in vra.handle(Ns(0), Started())
    assert messages(vra.handle(Ns(0), Done(EffectId(TARGET, 0), discard))) == [Closed("crm", STREAM)]
    assert messages(vra.handle(Ns(0), again)) == [Closed("crm", STREAM)], "the answer was lost"
    assert not messages(vra.handle(Ns(0), Connected(VRA)))
    assert Where(STREAM, 1, SPEC).spec is SPEC


def test_journals_go_when_what_is_on_its_way_to_them_has_landed() -> None:
    vra = RecoveryVra(TARGET, {"crm": CATALOG}, [SPEC], pool_bytes=1 << 20, tweaks=TINY)
    batch = writes((1, 1, 0, 8))
    frame = Frame(STREAM, 1, 1, (0,), (1,), (8 * SECTOR,), False, batch)
    (append,) = vra.handle(Ns(0), Received(VRA, frame))
    close = Received(CATALOG, Close("crm", STREAM))
    assert vra.handle(Ns(0), close) == vra.handle(Ns(0), close) == vra.handle(Ns(0), Fired(RETRY)) == []
    assert vra.handle(Ns(0), Done(EffectId(TARGET, 0), append)) == [Discard(STREAM, (VmId(1),))]
