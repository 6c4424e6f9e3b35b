"""The checks of a model: each rule finds what it should, with the figures by hand, and nothing in a sound model."""

import math
from typing import Any

import pytest

from drsim.spec.model import Model
from drsim.spec.protect import Vm
from drsim.study.check import Finding, check, time_text
from drsim.study.figures import Figures, day_backlog, dirty_bytes, fill_seconds, mathis, reached_history

MB, MIB, GIB = 10**6, 1 << 20, 1 << 30
HOUR = 3600


def base() -> dict[str, Any]:
    """One VM from site a to site b over 100 Mbit/s; sound at 1 MB/s."""
    return {
        "sites": {"a": {}, "b": {}},
        "datastores": {"s": {"site": "a"}, "t": {"site": "b"}},
        "hosts": {"h": {"site": "a"}, "i": {"site": "b"}},
        "links": {"wan": {"between": ["a", "b"], "bandwidth": "100 Mbit/s"}},
        "vms": {
            "v": {
                "host": "h",
                "datastore": "s",
                "workload": {"kind": "constant", "rate": 100, "pattern": "uniform", "compress_to": 1},
            }
        },
        "vpgs": {"p": {"vms": ["v"], "recovery": {"hosts": ["i"], "datastore": "t"}}},
    }


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    found = dict(one)
    for key, value in other.items():
        mine = found.get(key)
        found[key] = merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return found


def model(**changes: Any) -> Model:
    return Model.model_validate(merged(base(), changes))


def findings(rate: float | None = MB, writes: float = 100.0, **changes: Any) -> list[Finding]:
    built = model(**changes)
    rates = None if rate is None else {name: (writes, float(rate)) for name in built.expand()[0]}
    return check(built, rates)


def only(found: list[Finding], severity: str, path: str) -> Finding:
    """The one finding, of this severity at this place."""
    assert [(each.severity, each.path) for each in found] == [(severity, path)]
    return found[0]


def among(found: list[Finding], severity: str, path: str) -> Finding:
    """The finding of this severity at this place, beside others."""
    [one] = [each for each in found if (each.severity, each.path) == (severity, path)]
    return one


def test_a_sound_model_has_no_findings() -> None:
    assert findings() == []


def test_without_rates_a_note_says_so() -> None:
    assert "no write rates are known" in only(findings(None), "note", "vms").message


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_form_3_time_to_bitmap_sync() -> None:
    pool = Figures(model(), None).usable("h")[0]
    assert pool == pytest.approx(0.9 * (1024 * 3 - 563) * MIB)
    assert fill_seconds(pool, 30 * MIB, 20 * MIB) == pytest.approx(225.8, abs=0.1)
    assert math.isinf(fill_seconds(pool, 20, 20))


def test_form_4_distinct_bytes_of_uniform_writes() -> None:
    workload = {"kind": "constant", "rate": 1, "pattern": "uniform", "working_set": 4096 * 1000}
    vm = Vm.model_validate({"host": "h", "datastore": "s", "workload": workload})
    expected = 1000 * 4096 * (1 - (1 - 1 / 1000) ** 500)
    assert dirty_bytes(vm, 1.0, 4096.0, 500) == pytest.approx(expected)
    assert dirty_bytes(vm, 1.0, 4096.0, 1e9) == pytest.approx(4096 * 1000)
    assert dirty_bytes(vm, 0.0, 0.0, 500) == 0
    row = vm.model_copy(update={"workload": vm.workload.model_copy(update={"pattern": "sequential"})})
    assert dirty_bytes(row, 1.0, 4096.0, 500) == 500 * 4096


def test_form_5_reached_history_of_the_published_example() -> None:
    assert reached_history(50 * GIB, 28.4 * MIB) / 60 == pytest.approx(30, abs=0.1)
    assert math.isinf(reached_history(None, 5))


def test_mathis_bound() -> None:
    assert mathis(0.01, 5_000_000) == pytest.approx(1460 / 0.010 * math.sqrt(150))
    assert math.isinf(mathis(0, 5))


def test_day_backlog_over_midnight() -> None:
    window = {"start": "22:00", "end": "02:00", "limit": "8 Mbit/s"}
    link = model(links={"wan": {"throttle": [window]}}).links["wan"]
    backlog, capacity = day_backlog(link, 2.0 * MB)
    assert backlog == pytest.approx(4 * HOUR * MB)
    assert capacity == pytest.approx((20 * 12.5 + 4 * 1) / 24 * MB)


# -- links ------------------------------------------------------------------------------------------------------------


def test_g10_history_of_four_hours_reaches_thirty_minutes() -> None:
    journal = {"history": "4 h", "hard_limit": "50 GiB"}
    found = findings(
        28.4 * MIB, links={"wan": {"bandwidth": "1 Gbit/s"}}, vpgs={"p": {"journal": journal}},
    )  # fmt: skip
    one = only(found, "error", "vpgs.p.journal.hard_limit")
    assert "VM 'v' writes 29.78 MB/s: 4 h of history need 399 GiB, the limit is 50 GiB" in one.message
    assert one.message.endswith("the history reaches back only 30 min")


def test_journal_warning_threshold() -> None:
    found = findings(10 * MB, vpgs={"p": {"journal": {"history": "4 h", "hard_limit": "150 GiB"}}})
    one = only(found, "warning", "vpgs.p.journal.hard_limit")
    assert "need 134 GiB, more than the warning threshold (75 % of 150 GiB)" in one.message


def test_link_below_the_mean_after_compression() -> None:
    journal = {"p": {"journal": {"hard_limit": "unlimited"}}}
    one = only(findings(13 * MB, vpgs=journal), "error", "links.wan.bandwidth")
    assert "100 Mbit/s is less than the mean of what crosses it from 'a', 104 Mbit/s after compression" in one.message
    assert findings(13 * MB, vms={"v": {"workload": {"compress_to": 0.9}}}, vpgs=journal) == []


def test_small_link_needs_no_rates() -> None:
    found = findings(None, links={"wan": {"bandwidth": "4 Mbit/s"}})
    assert "4 Mbit/s is less than the 5 Mbit/s that the field asks for" in found[0].message


def test_throttle_windows() -> None:
    day = [{"start": "08:00", "end": "18:00", "limit": "6 Mbit/s"}]
    one = only(findings(links={"wan": {"throttle": day}}), "warning", "links.wan.throttle")
    assert "leaves 6 Mbit/s, less than the mean load of 8 Mbit/s: up to 8.38 GiB wait" in one.message
    always = [{"start": "00:10", "end": "00:00", "limit": "6 Mbit/s"}]
    one = only(findings(links={"wan": {"throttle": always}}), "error", "links.wan.throttle")
    assert "over a day the throttle leaves 6.653 Mbit/s, less than the mean load of 8 Mbit/s" in one.message


def test_one_stream_under_loss_and_latency() -> None:
    link = {"bandwidth": "1 Gbit/s", "latency": "50 ms", "loss": 0.01}
    one = only(findings(links={"wan": link}), "error", "links.wan.loss")
    assert one.message.startswith("one TCP stream reaches 1.431 Mbit/s at 1 % loss; the stream of VPG")
    half = {"v": {"workload": {"compress_to": 0.5}}}
    assert only(findings(links={"wan": link}, vms=half), "error", "links.wan.loss").message.endswith("needs 4 Mbit/s")
    found = findings(links={"wan": {"latency": "500 ms"}}, tweaks={"window_bytes": "512 KiB"})
    assert "a window of 512 KiB carries 4.194 Mbit/s" in only(found, "error", "tweaks.window_bytes").message


def test_priority_starvation() -> None:
    twice = base()
    twice["vms"]["w"] = twice["vms"]["v"]
    twice["vpgs"]["q"] = {**twice["vpgs"]["p"], "vms": ["w"], "priority": "low"}
    built = Model.model_validate(twice)
    found = check(built, {"v": (100.0, 8.0 * MB), "w": (100.0, 6.0 * MB)})
    one = among(found, "note", "links.wan")
    assert one.message == "medium priority leaves 36 Mbit/s at the tightest, low priority needs 48 Mbit/s"


# -- faults, buffers --------------------------------------------------------------------------------------------------


def cut(lasts: str) -> list[dict[str, str]]:
    return [{"kind": "link-down", "at": "5 min", "lasts": lasts, "link": "wan"}]


def test_history_runs_out_in_an_outage_and_its_drain() -> None:
    short = {"p": {"journal": {"history": "1 h"}}}
    workload = {"v": {"workload": {"pattern": "sequential"}}}
    # 50 min x 6 MB/s = 18 GB; at 6.5 MB/s to spare 46.2 min to ship: 96 min > 60 min.
    found = findings(6 * MB, vpgs=short, vms=workload, faults=cut("50 min"))
    one = among(found, "error", "vpgs.p.journal.history")
    assert "no new checkpoint for 50 min (faults.0) and 46.2 min to ship 16.8 GiB of dirty data" in one.message
    assert one.message.endswith("but the history is 60 min")
    found = findings(1 * MB, vpgs=short, vms=workload, faults=cut("50 min"))
    assert found == [], "4.3 min to ship fit"


def test_a_hot_set_drains_sooner_than_all_that_was_written() -> None:
    hot = {"v": {"workload": {"working_set": "1 GiB"}}}
    found = findings(6 * MB, writes=1500, vpgs={"p": {"journal": {"history": "1 h"}}}, vms=hot, faults=cut("50 min"))
    assert "vpgs.p.journal.history" not in [each.path for each in found]


def test_buffer_full_before_the_peer_is_given_up() -> None:
    fast = {"wan": {"bandwidth": "10 Gbit/s"}}
    changes = {"links": fast, "vpgs": {"p": {"journal": {"hard_limit": "unlimited"}}}, "faults": cut("5 min")}
    changes["hosts"] = {"h": {"vra": {"vcpus": 2}}}
    changes["datastores"] = {"s": {"bandwidth": "40 Gbit/s"}, "t": {"bandwidth": "40 Gbit/s"}}
    message = only(findings(290 * MIB, **changes), "warning", "hosts.h.vra.ram").message
    assert message.startswith("the VRA buffers 2.21 GiB (3 GiB of RAM); in faults.0, which lasts 5 min")
    assert "it is full after 7.79 s, then bitmap sync" in message
    assert findings(200 * MIB, **changes) == [], "11.3 s; after 10 s the peer is given up"


def test_buffer_full_on_a_degraded_link_is_form_3() -> None:
    degraded = {"kind": "link-degraded", "at": 1, "lasts": "1 h", "link": "wan", "bandwidth": 20 * MIB * 8}
    unlimited = {"p": {"journal": {"hard_limit": "unlimited"}}}
    found = findings(30 * MIB, links={"wan": {"bandwidth": "1 Gbit/s"}}, faults=[degraded], vpgs=unlimited)
    assert "full after 226 s, then bitmap sync" in among(found, "warning", "hosts.h.vra.ram").message


def test_buffer_full_in_a_burst() -> None:
    workload = {"kind": "onoff", "rate": 100, "on": "10 min", "off": "50 min", "compress_to": 1}
    # On: 6 x 4 MB/s against 12.5 MB/s: 2368 MB fill in 206 s.
    vms = {"v": {"host": "h", "datastore": "s", "workload": workload}}
    raw = {**base(), "vms": vms, "vpgs": merged(base()["vpgs"], {"p": {"journal": {"hard_limit": "unlimited"}}})}
    one = only(check(Model.model_validate(raw), {"v": (100.0, 4.0 * MB)}), "warning", "hosts.h.vra.ram")
    assert "a burst of VM 'v', 24 MB/s for 10 min, fills it in 206 s, then bitmap sync" in one.message


def test_faults_after_the_end_and_loss_of_the_protected_site() -> None:
    late = [{"kind": "site-loss", "at": "2 h", "site": "a"}]
    assert "the run ends at 1 h" in only(findings(faults=late), "warning", "faults.0.at").message
    soon = [{"kind": "site-loss", "at": "30 min", "site": "a"}]
    assert "the protected site 'a' stops at 30 min" in only(findings(faults=soon), "note", "faults.0").message
    assert findings(faults=[{**soon[0], "site": "b"}]) == []


# -- hosts, stores, platforms -----------------------------------------------------------------------------------------


def test_too_many_volumes_for_a_vra() -> None:
    volumes = [{"name": f"d{n}", "size": "1 GiB"} for n in range(51)]
    found = findings(10_000.0, writes=1.0, vms={"v": {"count": 30, "volumes": volumes}})
    one = among(found, "error", "hosts.h")
    assert one.message == "its VRA protects 1530 and recovers 0 volumes, together 1530; the most is 1500"
    among(found, "error", "hosts.i")


def test_recovery_store_too_slow_and_too_small() -> None:
    found = findings(datastores={"t": {"bandwidth": "20 Mbit/s"}})
    one = only(found, "error", "datastores.t.bandwidth")
    assert one.message.startswith("20 Mbit/s is less than the mean of guest writes, journal appends and aging")
    assert one.message.endswith("24 Mbit/s")
    found = findings(datastores={"t": {"iops": 50}})
    assert "50 I/Os a second are fewer than the mean need of 134.3" in only(found, "error", "datastores.t.iops").message
    found = findings(datastores={"t": {"capacity": "40 GiB"}})
    assert "40 GiB are less than the 80.5 GiB that full journals hold" in found[0].message


def test_g12_journal_and_scratch_limits_are_independent() -> None:
    journal = {"hard_limit": "160 GiB", "scratch": "160 GiB"}
    found = findings(vpgs={"p": {"journal": journal}}, datastores={"t": {"capacity": "300 GiB"}})
    one = only(found, "warning", "datastores.t.capacity")
    assert "grow to 160 GiB and the scratch of a test of all VMs to 160 GiB, together 320 GiB of 300 GiB" in one.message


def test_cpu_too_slow_to_compress() -> None:
    found = findings(hosts={"h": {"vra": {"compress_rate": "4 Mbit/s"}}})
    assert "its VMs write 1 MB/s, its VRA compresses 500 kB/s" in only(found, "warning", "hosts.h.vra.vcpus").message


def test_rpo_alert_below_the_rpo_in_health() -> None:
    found = findings(vpgs={"p": {"rpo_alert": "5 s"}})
    one = only(found, "warning", "vpgs.p.rpo_alert")
    assert "5 s is less than the RPO in health, up to 5.011 s (checkpoint interval 5 s and latency)" in one.message


def test_aws_volumes() -> None:
    def with_volumes(count: int) -> list[Finding]:
        volumes = [{"name": f"d{n}", "size": "1 GiB"} for n in range(count)]
        journal = {"journal": {"hard_limit": "unlimited"}}
        return findings(sites={"b": {"platform": "aws"}}, vms={"v": {"volumes": volumes}}, vpgs={"p": journal})

    assert with_volumes(26) == []
    only(with_volumes(40), "note", "vms.v.volumes")
    one = only(with_volumes(41), "error", "vms.v.volumes")
    assert one.message == "41 volumes; recovery to AWS takes 40 of a Linux VM, 26 of Windows"


def test_vcd_profile_sizes() -> None:
    found = findings(sites={"b": {"platform": "vcd"}}, vpgs={"p": {"journal": {"hard_limit": "120 GiB"}}})
    one = only(found, "warning", "vpgs.p.journal.hard_limit")
    assert (one.message[:26], one.hint) == ("120 GiB is no step of a vC", "the profile would make it 150 GiB")


def test_names_that_exist_but_do_not_fit() -> None:
    assert (
        "the disks lie at site 'b', the VM runs at a"
        in only(findings(vms={"v": {"datastore": "t"}}), "error", "vms.v.datastore").message
    )
    extra = {"links": {"spare": {"between": ["b", "a"], "bandwidth": "9 Mbit/s"}}}
    assert only(findings(**extra), "note", "links.spare").message == "carries no VPG"
    alone = {"vms": {"w": base()["vms"]["v"]}}
    assert "is in no VPG" in only(findings(**alone), "note", "vms.w").message
    same = {"datastores": {"t": {"site": "a"}}, "hosts": {"i": {"site": "a"}}}
    found = findings(**same, links={"wan": {"between": ["a", "a"]}}, vpgs={"p": {"recovery": {"hosts": ["h", "i"]}}})
    assert "h both protects and recovers it" in only(found, "warning", "vpgs.p.recovery.hosts").message


def test_workloads_that_do_not_add_up() -> None:
    fitted = {
        "kind": "fitted", "rate": 10, "sizes": [{"size": 4096, "share": 0.5}], "hot_share": 0.5, "hot_set": "1 GiB",
        "sequential": 0.1, "working_set": "200 GiB", "bursts": [],
    }  # fmt: skip
    raw = base()
    raw["vms"]["v"]["workload"] = fitted
    found = check(Model.model_validate(raw), {"v": (10.0, 40960.0)})
    assert "add up to 50 %, not 100 %" in among(found, "error", "vms.v.workload.sizes").message
    assert "200 GiB is larger than the disks, 100 GiB" in among(found, "warning", "vms.v.workload.working_set").message


def test_worst_first() -> None:
    spare = {"between": ["b", "a"], "bandwidth": "9 Mbit/s"}
    found = findings(13 * MB, vpgs={"p": {"rpo_alert": "5 s"}}, links={"spare": spare})
    order = [each.severity for each in found]
    assert order == sorted(order, key=["error", "warning", "note"].index)
    assert set(order) == {"error", "warning", "note"}


def test_durations_in_words() -> None:
    texts = [time_text(seconds) for seconds in (0.5, 226, 300, 4 * HOUR, 2 * 86400, math.inf)]
    assert texts == ["0.5 s", "226 s", "5 min", "4 h", "2 d", "for ever"]
