"""Alerts follow the state and nothing else: what stands is what the predicates say, and never twice."""

import re
from collections.abc import Iterable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from drsim.core.alert_table import (
    ALERTS,
    LATER,
    OF,
    TABLE,
    Alert,
    Entity,
    JournalState,
    Kind,
    Severity,
    SiteState,
    State,
    StoreState,
    Terms,
    VpgState,
    VraState,
)  # fmt: skip
from drsim.core.alerts import Alerts, Change, Cleared, Raised, vra_of
from drsim.core.facts import (
    BitmapGivenUp,
    CheckpointListed,
    CheckpointSealed,
    CheckpointsRetired,
    Fact,
    StateChanged,
    StoreChanged,
    SyncEnded,
    SyncStarted,
)  # fmt: skip
from drsim.core.messages import Trigger
from drsim.core.names import CheckpointId, StreamId, recovery_vra_address, vra_address
from drsim.core.status import Health, Lifecycle, Peer, Phase, Regions, Sync
from drsim.core.units import SECOND, Ns

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "alerts.md"
HOUR = 3600 * SECOND
TERMS = {
    "crm": Terms(300 * SECOND, 24 * HOUR, "london – leeds"),
    "web": Terms(60 * SECOND, 4 * HOUR, "london – leeds", failsafe=3 * HOUR),
}
STREAMS = [
    StreamId(vpg, vra_address("london", host), recovery_vra_address("leeds", "b1"))
    for vpg in TERMS
    for host in ("a1", "a2")
]
CRM = Entity(Kind.VPG, "crm", "crm")

# -- any state, any fact -------------------------------------------------------------------------------------------

bytes_ = st.integers(0, 1000)
regions = st.builds(
    lambda lifecycle, **rest: Regions(
        lifecycle, Phase.COMMITTING if lifecycle in (Lifecycle.FAILING_OVER, Lifecycle.MOVING) else Phase.NONE, **rest
    ),
    st.sampled_from(Lifecycle),
    sync=st.sampled_from(Sync),
    peer=st.sampled_from(Peer),
    health=st.sampled_from(Health),
    rpo_ok=st.booleans(),
    history_ok=st.booleans(),
)
seen: dict[Kind, st.SearchStrategy[State]] = {
    Kind.JOURNAL: st.builds(
        JournalState, bytes_, st.just(1000), st.sampled_from([0.05, 0.5, 0.75, 1.0]), st.just(0.05)
    ),
    Kind.VRA: st.builds(VraState, st.booleans(), st.integers(0, 2), bytes_, st.just(1000)),
    Kind.DATASTORE: st.builds(
        StoreState, bytes_, st.just(1000), st.booleans(), st.booleans(), st.integers(0, 60 * SECOND // 1000)
    ),
    Kind.SITE: st.builds(SiteState, st.frozensets(st.sampled_from("ab"))),
}
looks = st.sampled_from(list(seen)).flatmap(
    lambda kind: st.tuples(st.builds(Entity, st.just(kind), st.sampled_from(["london/a1", "other"])), seen[kind])
)
vpgs, streams, times = st.sampled_from(list(TERMS)), st.sampled_from(STREAMS), st.integers(0, 30 * HOUR).map(Ns)
number = st.integers(1, 9).map(CheckpointId)
reasons = st.sampled_from(["datastore full", "the store failed"])
facts: st.SearchStrategy[Fact] = st.one_of(
    st.builds(StateChanged, vpgs, regions, st.just("")),
    st.builds(CheckpointListed, vpgs, number, times, st.just("")),
    st.builds(CheckpointSealed, vpgs, number, times, st.just("")),
    st.builds(CheckpointsRetired, vpgs, number, times, st.sampled_from(["history", "journal limit"])),
    st.builds(CheckpointsRetired, vpgs, st.none(), st.none(), st.just("journal limit")),
    st.builds(SyncStarted, streams, st.sampled_from(Sync), st.sampled_from(Trigger), st.just(0)),
    st.builds(SyncEnded, streams, st.sampled_from(Sync), st.just(0), st.just(0)),
    st.builds(BitmapGivenUp, streams),
    st.builds(StoreChanged, streams, st.booleans(), reasons),
)
Step = tuple[Entity, State] | Fact | Entity | None
"""A look, a fact, an entity that goes, or time passing."""
steps = st.lists(st.one_of(looks, facts, facts, st.none(), st.sampled_from([CRM, vra_of(STREAMS[0].source)])))


def carry_out(alerts: Alerts, now: Ns, step: Step) -> list[Change]:
    match step:
        case None:
            return alerts.tick(now)
        case Entity():
            return alerts.gone(now, step)
        case (entity, state):
            return alerts.see(now, entity, state)
        case fact:
            return alerts.fact(now, fact)


def stands(alert: Alert, history: Iterable[State]) -> bool:
    """What a predicate says of all that an entity has been through."""
    result = False
    for state in history:
        result = not alert.cleared_by(state) if result else alert.when(state)
    return result


@given(steps)
def test_what_stands_is_what_the_predicates_say(steps: list[Step]) -> None:
    alerts, histories, standing = Alerts(TERMS), dict[tuple[Entity, type], list[State]](), set[tuple[Entity, str]]()
    for n, step in enumerate(steps):
        now = Ns(n * HOUR)
        changes = carry_out(alerts, now, step)
        for change in changes:
            key = change.entity, change.alert
            assert change.time == now
            assert (key in standing) == isinstance(change, Cleared), "never twice without the other between"
            standing ^= {key}
        assert standing == alerts.raised.keys()
        if isinstance(step, Entity):
            histories = {key: history for key, history in histories.items() if key[0] != step}
        for entity, state in [*alerts.states(), *([step] if isinstance(step, tuple) else [])]:
            histories.setdefault((entity, type(state)), []).append(state)
        expected = {
            (entity, alert.id)
            for (entity, of), history in histories.items()
            for alert in OF[of]
            if stands(alert, history)
        }
        assert standing == expected


@given(st.one_of(*seen.values()))
def test_no_state_both_raises_and_clears(state: State) -> None:
    assert not [a.id for a in OF[type(state)] if a.when(state) and a.cleared_by(state)]


vpg_states = st.builds(
    VpgState, st.sampled_from(list(TERMS.values())), times, times, regions, st.one_of(st.none(), times),
    st.one_of(st.none(), times), st.booleans(),
)  # fmt: skip


@given(vpg_states, *(seen[kind] for kind in (Kind.JOURNAL, Kind.DATASTORE)))
def test_an_error_comes_on_top_of_its_warning(vpg: State, journal: State, store: State) -> None:
    for state, error, warning in (
        (vpg, "VPG0004", "VPG0003"), (vpg, "VPG0010", "VPG0009"), (journal, "VRA0039", "VRA0040"),
        (store, "STR0002", "STR0004"),
    ):  # fmt: skip
        assert (ALERTS[error].severity, ALERTS[warning].severity) == (Severity.ERROR, Severity.WARNING)
        assert ALERTS[warning].when(state) or not ALERTS[error].when(state)


# -- one by one ----------------------------------------------------------------------------------------------------


def said(changes: Iterable[Change]) -> list[str]:
    """Raised ones with +, cleared ones with -."""
    return [f"{'+' if isinstance(c, Raised) else '-'}{c.alert} {c.entity.name}" for c in changes]


def state(vpg: str = "crm", **changed: object) -> StateChanged:
    return StateChanged(vpg, Regions(**changed), "")  # type: ignore[arg-type]


def test_a_target_rpo_is_a_warning_and_twice_of_it_an_error() -> None:
    alerts = Alerts(TERMS)
    assert not alerts.fact(Ns(0), state())
    assert not alerts.tick(Ns(301 * SECOND)), "the manager says when the target is missed"
    assert said(alerts.fact(Ns(301 * SECOND), state(rpo_ok=False))) == ["+VPG0009 crm"]
    assert not alerts.tick(Ns(600 * SECOND))
    assert said(alerts.tick(Ns(601 * SECOND))) == ["+VPG0010 crm"]
    listed = CheckpointListed("crm", CheckpointId(1), Ns(599 * SECOND), "")
    assert said(alerts.fact(Ns(602 * SECOND), listed)) == ["-VPG0010 crm"]
    assert said(alerts.fact(Ns(603 * SECOND), state())) == ["-VPG0009 crm"]


def test_a_vpg_that_is_not_protected_yet_has_no_service_level() -> None:
    alerts = Alerts(TERMS)
    assert not alerts.fact(Ns(0), state(lifecycle=Lifecycle.CREATING, rpo_ok=False, history_ok=False))
    assert said(alerts.fact(Ns(1), state(rpo_ok=False))) == ["+VPG0009 crm"]


def test_a_history_cut_short_is_told_apart_from_a_young_one() -> None:
    alerts = Alerts(TERMS)
    alerts.fact(Ns(0), state())
    alerts.fact(Ns(SECOND), CheckpointListed("crm", CheckpointId(1), Ns(SECOND), ""))
    now = Ns(10 * HOUR)
    assert said(alerts.fact(now, state(history_ok=False))) == ["+VPG0003 crm"]
    early = CheckpointsRetired("crm", CheckpointId(9), Ns(6 * HOUR), "journal limit")
    assert said(alerts.fact(now, early)) == ["+VPG0004 crm", "+VPG0037 crm"], "4 h of the 10 h there could be"
    later = Ns(30 * HOUR)
    assert said(alerts.fact(later, state())) == ["-VPG0003 crm", "-VPG0004 crm", "-VPG0037 crm"]


def test_the_fail_safe_history_makes_an_error_of_a_shorter_loss() -> None:
    """3 h of a configured 4 h must be kept: 2 h 30 min are more than half, and yet too little."""
    web = VpgState(TERMS["web"], Ns(0), Ns(9 * HOUR), Regions(history_ok=False), Ns(9 * HOUR), Ns(int(6.5 * HOUR)))
    without = VpgState(Terms(60, 4 * HOUR, ""), web.began, web.at, web.regions, web.newest, web.oldest)
    assert web.history > web.due / 2
    assert ALERTS["VPG0004"].when(web)
    assert not ALERTS["VPG0004"].when(without)


def test_a_journal_that_still_fills_may_be_made_to_count() -> None:
    for filling, due in ((False, HOUR), (True, 4 * HOUR)):
        assert VpgState(Terms(60, 4 * HOUR, "", filling=filling), Ns(0), Ns(HOUR)).due == due


def test_a_connection_is_lost_while_it_is_for_any_vpg() -> None:
    alerts = Alerts(TERMS)
    link = "london – leeds"
    assert said(alerts.fact(Ns(0), state(peer=Peer.DISCONNECTED))) == [f"+ZVM0003 {link}"]
    assert not alerts.fact(Ns(1), state("web", peer=Peer.DISCONNECTED))
    assert not alerts.fact(Ns(2), state(peer=Peer.CONNECTED))
    assert said(alerts.fact(Ns(3), state("web"))) == [f"-ZVM0003 {link}"]


def test_no_recovery_point() -> None:
    """Then the RPO counts from the beginning, and nothing is said about the connection."""
    alerts = Alerts(TERMS)
    alerts.fact(Ns(0), state(peer=Peer.DISCONNECTED))
    now = Ns(2 * HOUR)
    alerts.fact(now, CheckpointListed("crm", CheckpointId(1), now, ""))
    assert not alerts.fact(now, CheckpointsRetired("crm", None, None, "journal limit"))
    nothing = state(peer=Peer.DISCONNECTED_NO_POINTS, rpo_ok=False)
    assert said(alerts.fact(now, nothing)) == ["+VPG0009 crm", "+VPG0010 crm", "+VPG0038 crm"]
    alerts.fact(now, CheckpointListed("crm", CheckpointId(2), now, ""))
    assert "-VPG0038 crm" in said(alerts.fact(now, state()))


def test_history_grows_with_the_list_and_is_as_long_as_it() -> None:
    alerts = Alerts(TERMS)
    alerts.fact(Ns(0), state())
    for n in (1, 2, 3):
        alerts.fact(Ns(n * HOUR), CheckpointListed("crm", CheckpointId(n), Ns(n * HOUR), ""))
    assert dict(alerts.states())[CRM].history == 2 * HOUR  # type: ignore[union-attr]
    alerts.fact(Ns(3 * HOUR), CheckpointsRetired("crm", CheckpointId(2), Ns(2 * HOUR), "history"))
    assert dict(alerts.states())[CRM].history == HOUR  # type: ignore[union-attr]
    assert said(alerts.fact(Ns(3 * HOUR), state(history_ok=False))) == ["+VPG0003 crm", "+VPG0004 crm"], "not 37"


def test_syncs_of_a_vra() -> None:
    alerts, one, two = Alerts(TERMS), STREAMS[0], STREAMS[2]
    assert one.source == two.source
    vra = vra_of(one.source).name
    began = SyncStarted(one, Sync.BITMAP, Trigger.COMMUNICATION, 0)
    assert said(alerts.fact(Ns(0), began)) == [f"+VRA0025 {vra}"]
    full = SyncStarted(two, Sync.BITMAP, Trigger.NETWORK_CONGESTION, 0)
    assert said(alerts.fact(Ns(1), full)) == [f"+DRV0001 {vra}"]
    assert said(alerts.fact(Ns(2), BitmapGivenUp(one))) == [f"+DRV0002 {vra}"]
    assert not alerts.fact(Ns(3), SyncStarted(one, Sync.DELTA, Trigger.PROTECTED_VRA, 0))
    assert said(alerts.fact(Ns(4), SyncEnded(two, Sync.BITMAP, 0, 0))) == [f"-DRV0001 {vra}"]
    assert said(alerts.fact(Ns(5), SyncEnded(one, Sync.DELTA, 0, 0))) == [f"-VRA0025 {vra}", f"-DRV0002 {vra}"]


def test_journals_that_cannot_be_written() -> None:
    alerts, stream = Alerts(TERMS), STREAMS[0]
    assert said(alerts.fact(Ns(0), StoreChanged(stream, False, "datastore full"))) == ["+VRA0006 leeds/b1"]
    other = StoreChanged(STREAMS[1], False, "I/O error")
    assert said(alerts.fact(Ns(1), other)) == ["+VRA0007 leeds/b1"]
    assert said(alerts.fact(Ns(2), StoreChanged(stream, True, ""))) == ["-VRA0006 leeds/b1"]


def test_a_journal_stays_alarmed_between_its_thresholds() -> None:
    """Early aging at the limit is one alert, not hundreds."""
    alerts, entity = Alerts(TERMS), Entity(Kind.JOURNAL, "app", "crm")
    way = [
        (74, ""), (75, "+VRA0040"), (94, ""), (96, "+VRA0039"), (90, ""), (96, ""), (71, ""), (69, "-VRA0039 -VRA0040"),
        (75, "+VRA0040"),
    ]  # fmt: skip
    for used, changes in way:
        got = said(alerts.see(Ns(0), entity, JournalState(used, 100, 0.75, 0.05)))
        assert " ".join(got) == changes.replace(" ", " app ") + " app" * bool(changes), used


def test_what_is_gone_has_no_alerts() -> None:
    alerts = Alerts(TERMS)
    alerts.fact(Ns(0), state(health=Health.ERROR))
    assert said(alerts.gone(Ns(1), CRM)) == ["-VPG0005 crm"]
    assert not alerts.tick(Ns(2))
    assert CRM not in dict(alerts.states())


# -- the page ------------------------------------------------------------------------------------------------------


def test_the_table_is_well_formed() -> None:
    assert len(ALERTS) == len(TABLE)
    coming = {id_ for ids in LATER for id_ in re.findall(r"[A-Z]{3}\d{4}", ids)}
    assert not coming & ALERTS.keys()
    for alert in TABLE:
        assert re.fullmatch(r"[A-Z]{3}\d{4}", alert.id)
        assert re.fullmatch(r"[A-Z].*\.", alert.words), alert.words
        assert not alert.rule.endswith(".")


HEAD = """# Alerts

What operators are told without asking. The identifiers are those of the field; the words, and the rules that raise and
clear an alert, are ours. An alert is raised when its rule begins to hold of the state and cleared when it no longer
does, or as the rule says; nobody raises or clears one by hand. An error comes on top of its warning. Alerts are in the
report, in `summary.json` and in `events.parquet`. This page is generated from the code.

| | | about | what it says | stands while |
| --- | --- | --- | --- | --- |
"""
TAIL = """
## Later

They need parts of drsim that are not there yet, named in brackets.

| | |
| --- | --- |
"""


def page() -> str:
    table = "".join(f"| {a.id} | {a.severity} | {a.kind} | {a.words} | {a.rule} |\n" for a in TABLE)
    return HEAD + table + TAIL + "".join(f"| {ids} | {what} |\n" for ids, what in LATER.items())


def test_the_page_is_what_the_code_says(rewrite_golden: bool) -> None:
    if rewrite_golden:
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "pytest --rewrite-golden writes it anew"
