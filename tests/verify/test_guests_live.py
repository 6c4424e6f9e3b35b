"""Guests of a siege forget what no disk can show any more, and nothing else."""

import random
import threading
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from drsim.verify.guests_live import Guests


def guests(rows: list[dict[str, Any]]) -> Guests:
    """That have written these, and write no more."""
    made = Guests.__new__(Guests)
    made.rows, made._lock, made._ids = rows, threading.Lock(), Counter(str(row["vm"]) for row in rows)
    return made


def wrote(vm: int, lba: int, sectors: int, issue: int, ack: int | None) -> dict[str, Any]:
    return {"vm": vm, "lba": lba, "sectors": sectors, "issue": issue} | ({} if ack is None else {"ack": ack})


@given(st.integers(0, 1 << 30), st.integers(0, 40))
def test_what_a_later_state_can_show_is_kept(seed: int, before: int) -> None:
    """Any order of writes that no two of them contradict, and any state with all that was done before."""
    rng = random.Random(seed)
    rows = []
    for issue in range(0, 40, 2):
        ack = issue + rng.randrange(1, 9) if rng.random() < 0.9 else None
        rows.append(wrote(rng.randrange(2), rng.randrange(6), rng.randrange(1, 4), issue, ack))
    order = sorted(rows, key=lambda row: rng.uniform(row["issue"], row.get("ack", 60)))
    done = [n for n, row in enumerate(order) if row.get("ack", before) < before]
    left = guests(list(rows))
    left.forget(before)
    assert left.count == len(rows)
    for upto in range(max(done, default=-1) + 1, len(order) + 1):
        shown = {(row["vm"], at): row for row in order[:upto] for at in range(row["lba"], row["lba"] + row["sectors"])}
        assert all(row in left.rows for row in shown.values())


def test_what_was_surely_overwritten_goes() -> None:
    first, over, beside, open_ = (
        wrote(0, 4, 2, 1, 2),
        wrote(0, 3, 4, 3, 4),
        wrote(1, 4, 2, 1, 2),
        wrote(0, 4, 1, 1, None),
    )
    made = guests([first, over, beside, open_])
    made.forget(4)
    assert first in made.rows, "what is over it was not yet done"
    made.forget(5)
    assert made.rows == [over, beside, open_]
