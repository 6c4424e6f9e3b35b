"""The judge of foreign histories: hand-made ones with the bugs of real products, and what it says of wrong files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from drsim.core.errors import FileError
from drsim.verify.judge import Verdict, document, judge
from drsim.verify.levels import Image, Level, reached
from drsim.verify.oracle import NEVER, Flushes, Truth, Writes
from drsim.verify.records import KINDS
from drsim.verify.sectors import Seen, Stamp, read_sectors, stamp_write

Row = dict[str, Any]
S = 1_000_000_000
ROOT = Path(__file__).resolve().parents[2]


def write(vm: Any, at: float, lba: int, sectors: int = 8, *, lasts: float | None = 0.01, **more: Any) -> Row:
    """A write issued at `at` seconds, which lasts so many (None: never acknowledged)."""
    ack = None if lasts is None else round((at + lasts) * S)
    return {"kind": "write", "vm": vm, "lba": lba, "sectors": sectors, "issue": round(at * S), "ack": ack, **more}


def flush(vm: Any, at: float, lasts: float | None = 0.01, **more: Any) -> Row:
    return {"kind": "flush", "vm": vm, "issue": round(at * S), "ack": lasts and round((at + lasts) * S), **more}


def point(name: str = "p", at: float | None = None, **more: Any) -> Row:
    return {"kind": "checkpoint", "name": name, "time": None if at is None else round(at * S), **more}


def image(vm: Any, *runs: tuple[int, int, int | None], name: str = "p", **more: Any) -> Row:
    return {"kind": "image", "checkpoint": name, "vm": vm, "runs": runs, **more}


def from_file(file: str, *, vm: Any = 1, name: str = "p") -> Row:
    return {"kind": "image", "checkpoint": name, "vm": vm, "file": file}


@pytest.fixture
def judged(tmp_path: Path) -> Any:
    def of(*rows: Row, level: Level | None = None) -> tuple[Verdict, ...]:
        path = tmp_path / "h.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return judge(path, level)

    return of


def only(verdicts: tuple[Verdict, ...]) -> Verdict:
    assert len(verdicts) == 1
    return verdicts[0]


ORDERS = (write("db", 1, 0, order=1), write("db", 2, 8, order=2), write("db", 3, 0, order=3))
"""db: write 1 to sectors 0-7, 2 to 8-15, 3 to 0-7 again."""
PAIR = (*ORDERS, write("web", 1.5, 100, order=1), write("web", 4, 100, order=2))
"""web writes 2 a second after db's 3 was acknowledged."""


# -- recovery points, good and bad ------------------------------------------------------------------------------------


def test_a_good_point_and_what_it_loses(judged: Any) -> None:
    v = only(judged(*PAIR, point(at=3.5), image("db", (0, 8, 1), (8, 8, 2)), image("web", (100, 8, 1))))
    assert v.ok
    assert v.reason == ""
    assert v.reached == (Level.L0, Level.L1, Level.L2)
    assert v.cut == {"db": (2, 3), "web": (1, 2)}
    assert v.loss is not None
    assert (v.loss.ns, v.loss.writes) == (round(0.49 * S), 1), "write 3 of db was acknowledged at 3.01 s"
    assert v.ahead_ns == 0


def test_a_lost_tail_is_a_loss_and_no_fault(judged: Any) -> None:
    v = only(judged(*PAIR, point(at=10), image("db"), image("web")))
    assert v.ok
    assert v.loss is not None
    assert (v.loss.ns, v.loss.writes) == (round(8.99 * S), 5)
    everything = only(judged(*PAIR, point(at=10), image("db", (0, 8, 3), (8, 8, 2)), image("web", (100, 8, 2))))
    assert everything.loss is not None
    assert (everything.loss.ns, everything.loss.writes) == (0, 0)
    early = only(judged(*PAIR, point(at=3.75), image("db", (0, 8, 3), (8, 8, 2)), image("web", (100, 8, 2))))
    assert early.ok
    assert early.ahead_ns == S // 4
    timeless = only(judged(*PAIR, point(), image("db"), image("web")))
    assert timeless.ok
    assert timeless.loss is None


def test_snapshots_taken_vm_by_vm_without_a_barrier(judged: Any) -> None:
    """B08 of the catalogue of bugs: ceph #38740."""
    v = only(judged(*PAIR, point(at=4.5), image("db", (0, 8, 1), (8, 8, 2)), image("web", (100, 8, 2))))
    assert not v.ok
    assert v.reached == (Level.L0,), "each VM is right by itself; no flush is recorded"
    assert v.cut == {"db": (2, 3), "web": (2, 2)}
    assert v.reason == (
        "VM web has write 2 (issued at 4 s), which was issued after write 3 of VM db was acknowledged (3.01 s), "
        "and that one is missing"
    )
    assert v.witness is not None
    assert v.witness["missing"] == {
        "vm": "db", "write": 3, "disk": "0", "lba": 0, "sectors": 8, "issue_ns": 3 * S, "ack_ns": 301 * S // 100,
    }  # fmt: skip


def test_a_half_copied_point(judged: Any) -> None:
    """B07: ceph tracker 80281. The copy ended before sector 8, so write 2 is missing and the later write 3 is not."""
    v = only(judged(*ORDERS, point(), image("db", (0, 8, 3))))
    assert v.reached == ()
    assert v.cut is None
    assert v.reason == (
        "VM db has write 3 (issued at 3 s) and lacks write 2 (acknowledged at 2.01 s), which came first: "
        "sector 8 of disk 0 holds what was there before any write"
    )


def test_a_small_write_that_overtook_a_large_one(judged: Any) -> None:
    """B01: crucible #1448. With the disk's own order it is wrong even if both were in flight; by times only if not."""
    large, small = write(1, 1, 0, 256, lasts=0.5, order=1), write(1, 1.2, 512, order=2)
    assert not only(judged(large, small, point(), image(1, (512, 8, 2)))).ok
    unordered = [{k: v for k, v in row.items() if k != "order"} for row in (large, small)]
    assert only(judged(*unordered, point(), image(1, (512, 8, 2)))).ok
    unordered[0]["ack"] = int(1.1 * S)
    v = only(judged(*unordered, point(), image(1, (512, 8, 2))))
    assert v.reason.startswith("VM 1 has write 2 (issued at 1.2 s) and lacks write 1 (acknowledged at 1.1 s)")


def test_a_torn_write(judged: Any) -> None:
    v = only(judged(*ORDERS, point(), image("db", (0, 3, 3), (3, 5, 1), (8, 8, 2))))
    assert v.reason == "VM db has only a part of write 3 (issued at 3 s): sector 3 of disk 0 holds write 1"


def test_of_overlapping_writes_in_flight_either_may_be_the_last(judged: Any) -> None:
    both = (write(1, 1, 0, lasts=1), write(1, 1.5, 4, lasts=1))
    for runs in ([(0, 8, 1), (8, 4, 2)], [(0, 4, 1), (4, 8, 2)], [(4, 8, 2)], [(0, 8, 1)], []):
        assert only(judged(*both, point(), image(1, *runs))).ok, runs
    woven = only(judged(*both, point(), image(1, (0, 6, 1), (6, 6, 2))))
    assert woven.reason == (
        "VM 1 has parts of write 2 (issued at 1.5 s) and write 1 (issued at 1 s), which were in flight together, "
        "and no order of landing leaves them so"
    ) or woven.reason == (
        "VM 1 has parts of write 1 (issued at 1 s) and write 2 (issued at 1.5 s), which were in flight together, "
        "and no order of landing leaves them so"
    )
    known = [{**row, "order": n} for n, row in enumerate(both)]
    assert not only(judged(*known, point(), image(1, (0, 8, 1), (8, 4, 2)))).ok


def test_without_order_the_rows_may_come_in_any_order(judged: Any) -> None:
    rows = [{k: v for k, v in row.items() if k != "order"} | {"id": n} for n, row in enumerate(ORDERS, 1)]
    v = only(judged(*reversed(rows), point(at=9), image("db", (0, 8, 3), (8, 8, 2))))
    assert v.ok
    assert v.cut == {"db": (3, 3)}
    assert v.loss is not None
    assert v.loss.writes == 0


def test_a_vm_of_unknown_order_takes_part_in_the_cut(judged: Any) -> None:
    unordered = [{k: v for k, v in row.items() if k != "order"} for row in PAIR if row["vm"] == "web"]
    rows = (*ORDERS, *unordered)
    bad = only(judged(*rows, point(), image("db", (0, 8, 1), (8, 8, 2)), image("web", (100, 8, 2))))
    assert bad.reason.startswith("VM web has write 2 (issued at 4 s), which was issued after write 3 of VM db")
    late = (*rows, write("db", 5, 0, order=4))
    bad = only(judged(*late, point(), image("db", (0, 8, 4), (8, 8, 2)), image("web", (100, 8, 1))))
    assert bad.reason.startswith("VM db has write 4 (issued at 5 s), which was issued after write 2 of VM web")
    assert only(judged(*late, point(), image("db", (0, 8, 4), (8, 8, 2)), image("web", (100, 8, 2)))).ok


def test_what_another_vm_shows_tells_what_was_overwritten(judged: Any) -> None:
    """Write 1 of a cannot be seen; that b's write came after it is what says that it is there."""
    rows = (write("a", 1, 0, lasts=0.3), write("a", 1.2, 0, lasts=None), write("b", 2, 0), point(at=3))
    v = only(judged(*rows, image("a", (0, 8, 2)), image("b", (0, 8, 1))))
    assert v.cut == {"a": (2, 2), "b": (1, 1)}
    assert v.loss is not None
    assert v.loss.writes == 0


# -- levels -----------------------------------------------------------------------------------------------------------


def test_a_point_must_reach_what_is_asked_or_else_what_it_claims(judged: Any) -> None:
    rows = [*PAIR, point("a", level="L0"), point("b", level="L2"), point("c")]
    rows += [image("db", (0, 8, 1), (8, 8, 2), name=n) for n in "abc"] + [
        image("web", (100, 8, 2), name=n) for n in "abc"
    ]
    assert [(v.level, v.ok) for v in judged(*rows)] == [(Level.L0, True), (Level.L2, False), (Level.L2, False)]
    assert all(v.ok for v in judged(*rows, level=Level.L0))
    assert not any(v.ok for v in judged(*rows, level=Level.L3))


def test_flush_epochs(judged: Any) -> None:
    rows = (write(1, 1, 0), write(1, 2, 8), flush(1, 2.5), write(1, 3, 16), write(1, 4, 24), point(level="L1"))
    torn = only(judged(*rows, image(1, (0, 8, 1), (8, 8, 2), (24, 3, 4))))
    assert torn.ok, "of what no flush covers, any subset and any part"
    assert torn.reached == (Level.L1,)
    v = only(judged(*rows, image(1, (0, 8, 1), (8, 6, 2), (24, 8, 4))))
    assert v.reason == (
        "VM 1 lacks write 2 (acknowledged at 2.01 s), which was durable before write 4 (issued at 4 s) of VM 1, "
        "and that one is there"
    )
    other = (*rows[:2], flush(1, 2.5, disk=1), *rows[3:], image(1, (24, 8, 4)), image(1, disk=1))
    assert only(judged(*other)).ok, "a flush of another disk"
    fua = (write(1, 1, 0, fua=True), write(1, 2, 8), point(level="L1"))
    assert not only(judged(*fua, image(1, (8, 8, 2)))).ok
    plain = (write(1, 1, 0), write(1, 2, 8), point(level="L1"))
    v = only(judged(*plain, image(1, (8, 8, 2))))
    assert v.reason == "no flush of its VMs is recorded, so nothing tells what their disks had to keep"
    assert v.reached == ()
    never = (write(1, 1, 0), flush(1, 1.5, None), write(1, 2, 8), point(level="L1"))
    assert only(judged(*never, image(1, (8, 8, 2)))).ok, "the flush did not return"


def freeze(vm: Any, at: float, thaw: float) -> Row:
    return {"kind": "freeze", "checkpoint": "p", "vm": vm, "freeze": round(at * S), "thaw": int(thaw * S)}


def test_application_consistency(judged: Any) -> None:
    rows = (*PAIR, point(level="L3"), image("db", (0, 8, 1), (8, 8, 2)), image("web", (100, 8, 1)))
    assert only(judged(*rows)).reason == "no VM was frozen for it"
    v = only(judged(*rows, freeze("db", 2.5, 2.9)))
    assert v.ok
    assert v.reached[-1] is Level.L3
    assert only(judged(*rows, freeze("db", 2.5, 2.9), freeze("web", 2, 3))).ok
    assert only(judged(*rows, freeze("db", 3.5, 3.9))).reason == (
        "VM db lacks write 3 (acknowledged at 3.01 s) from before its freeze (3.5 s)"
    )
    v = only(judged(*rows, freeze("db", 1.5, 1.9)))
    assert v.reason == "VM db has write 2 (issued at 2 s) from after its thaw (1.9 s)"
    assert v.witness is not None
    assert v.witness["freeze_ns"] == 1.5 * S
    assert v.reached == (Level.L0, Level.L1, Level.L2)


# -- disks and places -------------------------------------------------------------------------------------------------


def test_the_disks_of_a_vm_are_one_space(judged: Any) -> None:
    rows = (write(1, 1, 5, disk="c", order=1), write(1, 2, 5, disk="d", order=2))
    assert only(judged(*rows, point(), image(1, (5, 8, 1), disk="c"), image(1, (5, 8, 2), disk="d"))).ok
    v = only(judged(*rows, point(), image(1, disk="c"), image(1, (5, 8, 2), disk="d")))
    assert v.reason.endswith("lacks write 1 (acknowledged at 1.01 s), which came first: sector 5 of disk c holds "
                             "what was there before any write")  # fmt: skip
    v = only(judged(*rows, point(), image(1, (5, 8, 1), disk="c")))
    assert not v.ok
    assert v.reason == "there is no image of disk d of VM 1"
    assert v.reached == ()


def test_a_point_of_some_vms_is_judged_by_these(judged: Any) -> None:
    rows = (*PAIR, point(vms=["web"]), image("web", (100, 8, 2)))
    v = only(judged(*rows))
    assert v.ok
    assert v.cut == {"web": (2, 2)}


@pytest.mark.parametrize(
    ("run", "holds"),
    [
        ((0, 8, None), "content that no test guest wrote"),
        ((0, 8, 99), "write 99, which the history does not have"),
        ((16, 1, 1), "write 1, which was not written there"),
    ],
)
def test_content_that_nobody_wrote_there(judged: Any, run: tuple[int, int, int | None], holds: str) -> None:
    v = only(judged(*ORDERS, point(), image("db", run)))
    assert v.reason == f"VM db holds {holds}, at sector {run[0]} of disk 0"
    assert v.reached == ()


def test_runs_may_be_cut_anywhere(judged: Any) -> None:
    runs = [(x, 1, 3 if x < 8 else 2) for x in range(16)]
    assert only(judged(*ORDERS, point(), image("db", *reversed(runs)))).ok


def test_cells_judge_as_sectors_do(tmp_path: Path) -> None:
    """The same random groups, through a history and its cells, and straight by sectors."""
    seen = set()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        rows, images = [], []
        for vm in range(2):
            n, sizes = int(rng.integers(1, 7)), (12, 9)
            issue = np.sort(rng.integers(0, 30, n))
            ack = np.where(rng.random(n) < 0.1, NEVER, issue + rng.integers(0, 8, n))
            disk, lba, length = rng.integers(0, 2, n), rng.integers(0, 7, n), rng.integers(1, 3, n)
            ordered = bool(rng.random() < 0.6)
            start = lba + disk * sizes[0]
            durable = rng.integers(0, 25)
            flushes = Flushes(*(np.array([x]) for x in (durable, durable + 2, 0, sum(sizes))))
            truth = Truth(Writes(issue, ack, start, start + length, None, flushes), sum(sizes), ordered=ordered)
            ver = truth.after(int(rng.integers(0, n + 1)))
            if rng.random() < 0.4:
                x = int(rng.integers(0, n))
                ver[start[x]] = rng.integers(0, n + 1)
            images.append(Image(truth, ver))
            for i in range(n):
                w = {"kind": "write", "vm": vm, "disk": int(disk[i]), "lba": int(lba[i]), "sectors": int(length[i])}
                w |= {"issue": int(issue[i]), "ack": None if ack[i] == NEVER else int(ack[i]), "id": i + 1}
                rows.append(w | ({"order": i} if ordered else {}))
            rows.append({"kind": "flush", "vm": vm, "issue": int(durable), "ack": int(durable) + 2})
            for d, (offset, size) in enumerate(((0, sizes[0]), sizes)):
                runs = [(x, 1, int(ver[offset + x])) for x in range(size) if ver[offset + x] or rng.random() < 0.5]
                rows.append(image(vm, *runs, disk=d))
        path = tmp_path / "h.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, point()]))
        found = only(judge(path)).reached
        assert found == reached(images), seed
        seen.add(found)
    assert len(seen) >= 4, "all kinds of groups came along"


# -- self-describing sectors ------------------------------------------------------------------------------------------


def sectors(*stamps: tuple[int, int, int], size: int = 32, run: int = 7, vm: int = 1, disk: int = 0) -> np.ndarray:
    """A disk after writes (id, lba, sectors)."""
    data = bytearray(size * 512)
    for n, lba, length in stamps:
        data[lba * 512 : (lba + length) * 512] = stamp_write(Stamp(run, vm, disk, n, lba, length, n * S))
    return np.frombuffer(data, np.uint8)


def test_the_layout_is_the_documented_one() -> None:
    data = stamp_write(Stamp(run=7, vm=1, disk=2, write=9, lba=100, sectors=2, issue=5))
    second = data[512:]
    assert len(data) == 1024
    assert second[:8] == b"drsim\x00\x01\n"
    numbers = [(8, 8, 7), (16, 4, 1), (20, 4, 2), (24, 8, 9), (32, 8, 101), (40, 4, 2), (44, 4, 1), (48, 8, 5)]
    for at, size, value in numbers:
        assert int.from_bytes(second[at : at + size], "little") == value
    assert second[56:508] == bytes(452)
    table = [0] * 256
    for n in range(256):
        c = n
        for _ in range(8):
            c = (c >> 1) ^ (0xEDB88320 if c & 1 else 0)
        table[n] = c
    crc = 0xFFFFFFFF
    for byte in second[:508]:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    assert int.from_bytes(second[508:], "little") == crc ^ 0xFFFFFFFF


def test_sectors_say_what_they_are() -> None:
    data = sectors((1, 0, 4), (2, 8, 4)).copy()
    data[512 + 100] ^= 1  # rot in the free part
    data[9 * 512 : 10 * 512] = data[8 * 512 : 9 * 512]  # misdirected
    data[20 * 512] = 1  # not ours
    runs = read_sectors(data, 0, vm=1, disk=0, run=7)
    columns = (runs.lba, runs.sectors, runs.write, runs.seen)
    assert [*zip(*(column.tolist() for column in columns), strict=True)] == [
        (0, 1, 1, Seen.OURS), (1, 1, 0, Seen.CORRUPT), (2, 2, 1, Seen.OURS), (4, 4, 0, Seen.ZERO),
        (8, 1, 2, Seen.OURS), (9, 1, 0, Seen.MISPLACED), (10, 2, 2, Seen.OURS), (12, 8, 0, Seen.ZERO),
        (20, 1, 0, Seen.UNKNOWN), (21, 11, 0, Seen.ZERO),
    ]  # fmt: skip
    for strange in ({"vm": 2}, {"disk": 1}, {"run": 8}):
        runs = read_sectors(sectors((1, 0, 4)), 0, **{"vm": 1, "disk": 0, "run": 7, **strange})
        assert runs.seen.tolist() == [Seen.STRANGER, Seen.ZERO]
    assert read_sectors(sectors((1, 0, 4)), 0, vm=1, disk=0).seen[0] == Seen.OURS, "any run"


def test_images_by_file(judged: Any, tmp_path: Path) -> None:
    rows = [
        {"kind": "history", "run": 7},
        write(1, 1, 0, 4), write(1, 2, 8, 4), write(1, 3, 2, 4),
        point("good"), point("hole"), point("rot"), point("other"),
    ]  # fmt: skip
    rot = sectors((1, 0, 4)).copy()
    rot[3 * 512 + 60] ^= 8
    files = {
        "good": sectors((1, 0, 4), (2, 8, 4)), "hole": sectors((1, 0, 4), (3, 2, 4)), "rot": rot,
        "other": sectors((1, 0, 3)),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / f"{name}.raw").write_bytes(data.tobytes())
        rows.append(from_file(f"{name}.raw", name=name))
    good, hole, rotten, other = judged(*rows)
    assert good.ok
    assert good.cut == {"1": (2, 3)}
    assert hole.reason == (
        "VM 1 has write 3 (issued at 3 s) and lacks write 2 (acknowledged at 2.01 s), which came first: "
        "sector 8 of disk 0 holds what was there before any write"
    )
    assert rotten.reason == "VM 1 holds a sector whose checksum is wrong, at sector 3 of disk 0"
    assert other.reason == (
        "VM 1 holds write 1, but one of 3 sectors from sector 0 on, which the history does not have, "
        "at sector 0 of disk 0"
    )


def test_a_large_image_is_read_in_pieces(judged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsim.verify.sectors.AT_ONCE", 5)
    (tmp_path / "a.raw").write_bytes(sectors((1, 0, 4), (2, 8, 4)).tobytes())
    rows = (
        write(1, 1, 0, 4),
        write(1, 2, 8, 4),
        point(),
        from_file("a.raw"),
    )
    v = only(judged(*rows))
    assert v.ok
    assert v.cut == {"1": (2, 2)}


# -- formats and files ------------------------------------------------------------------------------------------------


def as_parquet(rows: list[Row], path: Path) -> None:
    frame = pd.DataFrame(rows)
    for name in frame.columns:
        if name in ("lba", "sectors", "issue", "ack", "order", "time", "id"):
            frame[name] = frame[name].astype("Int64")
        elif name in ("vm", "disk", "name", "checkpoint"):
            frame[name] = frame[name].astype("string")
    frame.to_parquet(path)


def test_parquet_says_the_same(judged: Any, tmp_path: Path) -> None:
    rows = [*PAIR, point(at=4.5), image("db", (0, 8, 1), (8, 8, 2)), image("web", (100, 8, 2))]
    as_parquet(rows, tmp_path / "h.parquet")
    assert document(judge(tmp_path / "h.parquet")) == document(judged(*rows))


def test_times_of_a_calendar_are_told_from_the_first_write_on(judged: Any) -> None:
    began = 1_700_000_000 * S
    shifted = [{**row, "issue": row["issue"] + began, "ack": row["ack"] + began} for row in PAIR]
    v = only(judged(*shifted, point(), image("db", (0, 8, 1), (8, 8, 2)), image("web", (100, 8, 2))))
    assert "(issued at 3 s)" in v.reason, "web's write 2, 3 s after the first of all"


def test_ids_are_those_of_the_history(judged: Any) -> None:
    rows = (write(1, 1, 0, id=70, order=5), write(1, 2, 8, id=30, order=9))
    v = only(judged(*rows, point(), image(1, (8, 8, 30))))
    assert v.reason.startswith("VM 1 has write 30 (issued at 2 s) and lacks write 70 (acknowledged at 1.01 s)")
    assert only(judged(*rows, point(), image(1, (0, 8, 70)))).ok


W, IMAGE = write(1, 1, 0), image(1)


@pytest.mark.parametrize(
    ("rows", "line", "says", "hint"),
    [
        (["{"], 1, "not JSON", "one JSON object a line"),
        (["[1]"], 1, "not a JSON object", "one JSON object a line"),
        ([{"vm": 1}], 1, "a record has no kind", "kind is one of history, write"),
        ([{"kind": "wirte"}], 1, "no record is of kind 'wirte'", "kind is one of history, write"),
        ([{**W, "akc": 4}], 1, "a write has no field 'akc'", "did you mean 'ack'?"),
        ([{"kind": "write", "vm": 1, "lba": 0, "sectors": 1}], 1, "a write needs the field 'issue'", "nanoseconds"),
        ([{**W, "issue": 1.5}], 1, "issue of a write: 1.5 is not a whole number", "astype('Int64')"),
        ([{**W, "issue": "now"}], 1, "issue of a write: 'now' is not a whole number", "whole nanoseconds"),
        ([{**W, "sectors": 0}], 1, "sectors of a write: 0 is not greater than or equal to 1", ""),
        ([{**W, "vm": True}], 1, "vm of a write: True is not", ""),
        ([{**W, "ack": 5}], 1, "the write is acknowledged (5) before it is issued (1000000000)", ""),
        ([{**flush(1, 1), "ack": 5}], 1, "the flush is acknowledged (5) before it is issued", ""),
        ([{**IMAGE, "runs": [[0, 1]]}], 1, "run 1 of an image: a number is missing", "a run is [lba, sectors, write]"),
        ([{**IMAGE, "runs": [[0, 1, 1], [4, "x", 1]]}], 1, "run 2 of an image: 'x' is not", "a run is"),
        ([{**point(), "level": "L7"}], 1, "level of a checkpoint: 'L7' is not 'L0'", ""),
        ([{"kind": "history", "version": 2}], 1, "version of a history: 2 is not 1", ""),
        ([W, {"kind": "history"}], 2, "'history' is not the first", ""),
        ([W], None, "there is nothing to judge: the history has no checkpoint", "--example"),
        ([W, point(), "", point()], 4, "a second checkpoint is called 'p'", ""),
        ([W, point(), {**IMAGE, "checkpoint": "q"}], 3, "no checkpoint is called 'q'", "there are p"),
        ([W, point(), IMAGE, IMAGE], 4, "a second image of disk 0 of VM 1", ""),
        ([W, point(), {**IMAGE, "file": "x"}], 3, "an image needs either runs or file", ""),
        ([W, point(), from_file("x")], 3, "cannot read the image: No such", ""),
        ([W, point(), from_file("h.jsonl")], 3, "not whole sectors of 512", ""),
        ([W, point(), from_file("x", vm="a")], 3, "whole numbers for vm and disk", ""),
        ([W, point(), image(1, (0, 4, 1), (3, 1, 1))], 3, "two runs of the image hold sector 3", ""),
        ([W, point(vms=[1, 2]), IMAGE], 2, "the checkpoint names VM 2, of which there is nothing", "there are 1"),
        ([W, write(2, 1, 0), point(vms=[2]), IMAGE], 3, "an image of VM 1, which the checkpoint does not name", ""),
        ([W, {**W, "id": 4}, point()], 1, "this write of VM 1 has no id, and others of the VM have one", "position"),
        ([{**W, "order": 4}, W, point()], 2, "this write of VM 1 has no order", "leave it out of all"),
        ([{**W, "id": 4}, {**W, "id": 4}, point()], 2, "a second write of VM 1 has the id 4", ""),
        ([{**W, "order": 4}, {**W, "order": 4}, point()], 2, "a second write of VM 1 has the order 4", ""),
        ([write(1, 1, 0, order=2), write(1, 3, 0, order=1), point()], 1,
         "the order puts write 2 of VM 1 before write 1, which was acknowledged (1010000000) before write 2 was issued "
         "(3000000000)", "leave it out if that is not known"),
        ([W, point(), freeze(1, 3, 2)], 3, "the VM is thawed (2000000000) before it is frozen (3000000000)", ""),
        ([W, point(), freeze(1, 2, 3), freeze(1, 2, 3)], 4, "a second freeze of VM 1", ""),
        ([W, point(), freeze(2, 2, 3)], 3, "VM 2 is frozen, and there is nothing else of it", "there are 1"),
    ],
)  # fmt: skip
def test_a_wrong_history_is_refused_with_its_line(
    tmp_path: Path, rows: list[Row | str], line: int | None, says: str, hint: str
) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    with pytest.raises(FileError) as caught:
        judge(path)
    assert says in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.place == (f"{path}:{line}" if line else str(path))


def test_a_wrong_row_of_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    pd.DataFrame([W, {**W, "ack": None}]).to_parquet(path)  # a gap makes floats of all
    with pytest.raises(FileError, match=r"h.parquet: row 1: ack of a write: 1010000000.0 is not a whole number"):
        judge(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(FileError, match="not a Parquet file that can be read"):
        judge(path)
    with pytest.raises(FileError, match="cannot read the history: No such file"):
        judge(tmp_path / "none")


def test_every_field_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "history-format.md").read_text()
    for kind, record in KINDS.items():
        section = text.split(f"## `{kind}`")[1].split("\n## ")[0]
        for name in record.model_fields:
            assert f"| `{name}` |" in section, (kind, name)
