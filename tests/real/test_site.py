"""The site alone, with a machine that says what it is told to say: order, timers, answers, stops."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from live import SPEC, STREAM, frame

from drsim.core.effects import (
    Append,
    Arm,
    Effect,
    EffectId,
    Forget,
    FreezeGuests,
    Keep,
    Promote,
    Publish,
    ReadRegions,
    Send,
    ThawGuests,
)
from drsim.core.errors import CoreError, PeerError, PlatformError, StoreFull
from drsim.core.events import Done, Event, Failed, Fired, GuestWrote, Received, Started, Stopped, TagAsked
from drsim.core.facts import CheckpointSkipped
from drsim.core.messages import Checkpoint, Cut, Release
from drsim.core.names import Address, CheckpointId, VmId
from drsim.core.units import SECTOR, Ns
from drsim.real.catalog_store import CatalogStore
from drsim.real.disk import open_disks
from drsim.real.journal_store import JournalStore
from drsim.real.world import Site
from drsim.spec.tweaks import MS, Tweaks

A, B = Address("here/a"), Address("here/b")


class Scripted:
    """Answers `TagAsked(name)` with the effects of that name; remembers every event."""

    def __init__(self, script: dict[str, list[Effect]]) -> None:
        self.script, self.seen = script, list[Event]()

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        assert threading.current_thread() is threading.main_thread()
        self.seen.append(event)
        return self.script.get(event.tag, []) if isinstance(event, TagAsked) else []


Check = Callable[[Site, Scripted, Scripted], Awaitable[None]]


def on_site(directory: Path, script: dict[str, list[Effect]], check: Check) -> None:
    """Run a check on a started site with a scripted machine and a mute one."""

    async def run() -> None:
        async with Site("here", directory, tweaks=Tweaks()) as site:
            a, b = Scripted(script), Scripted({})
            site.add(A, a)
            site.add(B, b)
            site.journals = JournalStore(directory / "journals", [SPEC])
            site.catalogs["crm"] = CatalogStore(directory / "crm.json")
            site.start()
            async with asyncio.timeout(20):
                await check(site, a, b)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def numbers(machine: Scripted) -> list[int]:
    return [e.message.checkpoint for e in machine.seen if isinstance(e, Received) and isinstance(e.message, Release)]


def test_local_messages_keep_their_order(tmp_path: Path) -> None:
    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        site.post(A, TagAsked("go"))
        site.post(A, TagAsked("go"))
        assert numbers(b) == [0, 1, 2, 3, 4] * 2
        assert all(e.sender == A for e in b.seen if isinstance(e, Received))

    on_site(tmp_path, {"go": [Send(B, Release("crm", CheckpointId(n))) for n in range(5)]}, check)


def test_an_alarm_replaces_the_earlier_one_of_its_name_and_machine(tmp_path: Path) -> None:
    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        site.post(A, TagAsked("soon"))
        site.post(A, TagAsked("later"))
        await until(lambda: Fired("t") in a.seen)
        assert loop.time() - begin >= 0.15
        await asyncio.sleep(0.05)
        assert [e for e in a.seen if isinstance(e, Fired)] == [Fired("other"), Fired("t")]

    on_site(tmp_path, {
        "soon": [Arm("t", Ns(20 * MS)), Arm("other", Ns(30 * MS))], "later": [Arm("t", Ns(150 * MS))]
    }, check)  # fmt: skip


def test_without_agents_nobody_takes_part_in_a_freeze(tmp_path: Path) -> None:
    freeze = FreezeGuests("crm", 1, (VmId(0), VmId(1)), Ns(20 * MS))

    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        site.post(A, TagAsked("go"))
        answers = [e for e in a.seen if isinstance(e, Done | Failed)]
        assert answers == [Done(EffectId(A, 0), freeze, ())]

    on_site(tmp_path, {"go": [freeze, ThawGuests("crm", 1)]}, check)


def test_effects_on_one_target_are_performed_and_answered_in_order_each_once(tmp_path: Path) -> None:
    first = frame([(0, 0, 0, b"a" * SECTOR)], (0, 0))
    second = frame([(1, 1, 0, b"b" * SECTOR)], first.upto)
    hole = frame([(1, 1, 0, b"c" * SECTOR)], (5, 5))
    checkpoint = Checkpoint("crm", CheckpointId(1), Ns(5), {STREAM: Cut(1, (1, 1))})
    effects: list[Effect] = [
        Append(first), Append(hole), Append(second), Promote(STREAM, (0, 0), first.upto, SECTOR, None),
        Keep(checkpoint), Forget("crm", None),
    ]  # fmt: skip

    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        site.post(A, TagAsked("go"))
        await until(lambda: len([e for e in a.seen if isinstance(e, Done | Failed)]) == len(effects))
        answers = [e for e in a.seen if isinstance(e, Done | Failed)]
        journal = [e for e in answers if not isinstance(e.effect, Keep | Forget)]
        assert [e.effect for e in journal] == effects[:4]
        assert [e.effect for e in answers if isinstance(e.effect, Keep | Forget)] == effects[4:]
        assert sorted(e.id.n for e in answers) == list(range(len(effects)))
        assert [type(e) for e in journal] == [Done, Failed, Done, Done]
        assert site.journals is not None
        assert site.journals.streams[STREAM].state.promoted == first.upto
        assert not site.catalogs["crm"].checkpoints

    on_site(tmp_path, {"go": effects}, check)


def test_a_store_without_room_is_a_failure_with_its_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        def append(frame: object) -> None:
            raise StoreFull("no room left")

        monkeypatch.setattr(site.journals, "append", append)
        site.post(A, TagAsked("go"))
        await until(lambda: isinstance(a.seen[-1], Failed))
        assert isinstance(a.seen[-1].error, StoreFull)  # type: ignore[union-attr]

    on_site(tmp_path, {"go": [Append(frame([(0, 0, 0, b"a" * SECTOR)], (0, 0)))]}, check)


def test_a_read_sees_what_was_captured_before_its_answer_and_nothing_else(tmp_path: Path) -> None:
    """Of a write and a read under way together, whatever the read saw is captured before the read is reported."""
    vra = STREAM.source
    asked = frame([(0, 0, 0, bytes(SECTOR))], (0, 0)).batch

    async def run() -> None:
        async with Site("london", tmp_path, tweaks=Tweaks()) as site:
            machine = Scripted({"read": [ReadRegions(STREAM, asked)]})
            site.add(vra, machine)
            site.disks = open_disks(site.directory / "disks", SPEC.volumes)
            tap = site.tap(SPEC)
            site.start()
            for n in range(1, 200):
                writing = asyncio.create_task(tap.write(0, 0, bytes([n]) * SECTOR))
                if n % 2:
                    await asyncio.sleep(0)
                site.post(vra, TagAsked("read"))
                await writing
                await until(lambda count=n: sum(isinstance(e, Done) for e in machine.seen) == count)  # type: ignore[misc]
        newest = 0
        for event in machine.seen:
            if isinstance(event, GuestWrote):
                newest = bytes(event.batch.payload or b"")[0]
            elif isinstance(event, Done):
                assert bytes(event.value.payload)[0] <= newest  # type: ignore[attr-defined]

    asyncio.run(run())


def test_machines_start_first_and_stop_last(tmp_path: Path) -> None:
    machines: list[Scripted] = []

    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        machines.extend((a, b))
        site.post(A, TagAsked("go"))

    on_site(tmp_path, {"go": [Arm("t", Ns(0)), Append(frame([(0, 0, 0, b"a" * SECTOR)], (0, 0)))]}, check)
    assert [type(e) for e in machines[0].seen] == [Started, TagAsked, Stopped], "nothing comes after the stop"
    assert [type(e) for e in machines[1].seen] == [Started, Stopped]


def test_what_is_published_reaches_every_observer_and_wakes_who_waits(tmp_path: Path) -> None:
    fact = CheckpointSkipped("crm", CheckpointId(3), "test")

    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        seen: list[object] = []
        site.observers += [lambda now, f: seen.append(f), lambda now, f: seen.append(now)]
        waiting = asyncio.create_task(site.wait(lambda: len(seen) == 2))
        await asyncio.sleep(0)
        site.post(A, TagAsked("go"))
        await waiting
        assert seen[0] == fact

    on_site(tmp_path, {"go": [Publish(fact)]}, check)


@pytest.mark.parametrize("kind", [CoreError, PeerError, ZeroDivisionError])
def test_a_machine_that_raises_stops_the_site(tmp_path: Path, kind: type[Exception]) -> None:
    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        def handle(now: Ns, event: Event) -> list[Effect]:
            raise kind("broken")

        b.handle = handle  # type: ignore[method-assign]
        site.post(A, TagAsked("go"))
        site.post(A, TagAsked("go"))
        assert a.seen == [Started(), TagAsked("go")]
        with pytest.raises(kind, match="broken"):
            await site.wait(lambda: True)

    with pytest.raises(kind, match="broken"):
        on_site(tmp_path, {"go": [Send(B, Release("crm", CheckpointId(1)))]}, check)


def test_work_that_breaks_without_a_blame_stops_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        monkeypatch.setattr(site.journals, "append", lambda frame: 1 // 0)
        site.post(A, TagAsked("go"))
        await until(lambda: site.failure is not None)

    with pytest.raises(ZeroDivisionError):
        on_site(tmp_path, {"go": [Append(frame([(0, 0, 0, b"a" * SECTOR)], (0, 0)))]}, check)


def test_an_effect_that_cannot_be_performed_here_stops_the_site(tmp_path: Path) -> None:
    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        site.journals.close()  # type: ignore[union-attr]
        site.journals = None
        site.post(A, TagAsked("go"))

    with pytest.raises(CoreError, match="without journals"):
        on_site(tmp_path, {"go": [Append(frame([(0, 0, 0, b"a" * SECTOR)], (0, 0)))]}, check)


def test_a_message_for_nobody_is_dropped_and_one_that_cannot_be_is_the_peers_mistake(tmp_path: Path) -> None:
    async def check(site: Site, a: Scripted, b: Scripted) -> None:
        there = Address("there/somebody")
        site.arrived(there, Address("here/nobody"), Release("crm", CheckpointId(1)))
        for sender, to in ((A, B), (there, Address("elsewhere/x"))):
            with pytest.raises(PeerError):
                site.arrived(sender, to, Release("crm", CheckpointId(1)))
        assert a.seen == b.seen == [Started()]

    on_site(tmp_path, {}, check)


def test_a_journal_that_cannot_be_opened_has_a_blame(tmp_path: Path) -> None:
    (tmp_path / "journals").touch()
    with pytest.raises(PlatformError):
        on_site(tmp_path, {}, None)  # type: ignore[arg-type]
