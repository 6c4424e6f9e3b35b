"""Columns: batches, their windows, hashes; units and names."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import writes

from drsim.core.batch import OpenFrame, WriteBatch, content_digest
from drsim.core.errors import CoreError, FileError
from drsim.core.names import StreamId, VmId, catalog_address, site_of, vpg_address, vra_address
from drsim.core.units import SECOND, SECTOR

VMS = (VmId(2), VmId(5), VmId(9))
ROWS = st.lists(
    st.tuples(st.sampled_from(VMS), st.integers(0, 3), st.integers(0, 1 << 35), st.integers(1, 9)), max_size=30
)


def filled(rows: list[tuple[int, int, int, int]], *, payload: bool = True) -> WriteBatch:
    """A batch whose row n holds bytes of value n."""
    content = b"".join(bytes([n % 256]) * (row[3] * SECTOR) for n, row in enumerate(rows))
    return WriteBatch.of(*(list(c) for c in zip(*rows, strict=True)), range(len(rows)), content if payload else None)


def test_units_and_names() -> None:
    assert (SECTOR, SECOND) == (512, 10**9)
    assert vra_address("west", "h1") == "west/h1/vra"
    assert vpg_address("west", "crm") == "west/vpg/crm"
    assert catalog_address("east", "crm") == "east/catalog/crm"
    assert {site_of(a) for a in (vra_address("west", "h"), vpg_address("west", "crm"))} == {"west"}
    stream = StreamId("crm", vra_address("a", "h"), vra_address("b", "h"))
    assert str(stream) == "crm:a/h/vra>b/h/vra"
    assert stream < StreamId("crm", vra_address("b", "h"), vra_address("a", "h"))


def test_an_error_says_what_where_and_what_to_do() -> None:
    assert str(FileError("no such host", place="m.yaml:3", hint="add it")) == "m.yaml:3: no such host\n  hint: add it"
    assert str(FileError("plain")) == "plain"


@pytest.mark.parametrize("short", range(5))
def test_columns_must_agree(short: int) -> None:
    columns = [[1, 1], [1, 1], [0, 8], [8, 8], [0, 0]]
    columns[short].pop()
    with pytest.raises(CoreError, match="different lengths"):
        WriteBatch.of(*columns)


def test_payload_must_have_the_size_of_the_extents() -> None:
    with pytest.raises(CoreError, match="payload has 3 bytes, the extents say 512"):
        WriteBatch.of([1], [1], [0], [1], [0], b"abc")


@given(ROWS.filter(bool), st.data())
def test_cut_and_joined_a_batch_is_the_same(rows: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    batch = filled(rows)
    inner = data.draw(st.lists(st.integers(0, len(rows)), max_size=4))
    edges = sorted([0, *inner, len(rows)])
    parts = [batch.rows(a, b) for a, b in itertools.pairwise(edges)]
    assert WriteBatch.join(parts) == batch
    assert WriteBatch.join(parts).columns is batch.columns, "neighbours are joined without a copy"
    copies = [p.take(np.ones(len(p), bool)) for p in parts if len(p)]
    joined = WriteBatch.join(copies)
    assert joined == batch
    if len(copies) > 1:
        assert joined.columns.payload == tuple(c.payload for c in copies), "joined without a copy"
    for a, b in itertools.combinations(edges, 2):
        assert joined.rows(a, b) == batch.rows(a, b)
        assert joined.rows(a, b).take(np.ones(b - a, bool)) == batch.rows(a, b)
    assert sum(len(p) for p in parts) == len(batch)
    assert sum(p.nbytes for p in parts) == batch.nbytes
    opened = OpenFrame()
    for part in parts:
        opened.add(part, part.nbytes)
    assert len(opened.parts) == 1
    assert (opened.rows, opened.nbytes) == (len(batch), batch.nbytes)
    assert opened.cut() == batch
    assert (opened.rows, opened.nbytes, opened.parts) == (0, 0, [])


@given(ROWS.filter(bool), st.data())
def test_take_keeps_the_rows_and_their_bytes(rows: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, len(rows) - 1))
    window = filled(rows).rows(lo, len(rows))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(window), max_size=len(window))))
    taken = window.take(mask)
    kept = [lo + int(n) for n in np.flatnonzero(mask)]
    assert list(zip(taken.vm, taken.volume, taken.lba, taken.sectors, strict=True)) == [rows[n] for n in kept]
    assert bytes(taken.payload or b"") == b"".join(bytes([n % 256]) * (rows[n][3] * SECTOR) for n in kept)


@given(ROWS, st.integers(0, 200 * SECTOR))
def test_rows_within(rows: list[tuple[int, int, int, int]], nbytes: int) -> None:
    batch = writes((2, 0, 0, 7), *rows).rows(1, len(rows) + 1)
    n = batch.rows_within(nbytes)
    assert batch.rows(0, n).nbytes <= nbytes
    assert n == len(rows) or batch.rows(0, n + 1).nbytes > nbytes


@given(ROWS)
def test_per_vm_and_ranks(rows: list[tuple[int, int, int, int]]) -> None:
    batch = writes(*rows)
    counts, sizes = batch.per_vm(VMS)
    assert counts == tuple(sum(r[0] == vm for r in rows) for vm in VMS)
    assert sizes == tuple(sum(r[3] for r in rows if r[0] == vm) * SECTOR for vm in VMS)
    assert batch.ranks().tolist() == [sum(r[0] == row[0] for r in rows[:n]) for n, row in enumerate(rows)]


@pytest.mark.parametrize("vms", [(1,), (1, 2), (1, 9), (4, 5)])
def test_a_row_of_another_vm(vms: tuple[int, ...]) -> None:
    with pytest.raises(CoreError):
        writes((3, 0, 0, 1)).per_vm([VmId(v) for v in vms])


@given(ROWS, st.data())
def test_content_digest_does_not_see_cuts(rows: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    batch, lsn = writes(*rows), np.arange(len(rows), dtype=np.int64) + 17
    edge = data.draw(st.integers(0, len(rows)))
    parts = [(batch.rows(0, edge), lsn[:edge]), (batch.rows(edge, len(rows)), lsn[edge:])]
    assert sum(content_digest(b, n) for b, n in parts) % 2**64 == content_digest(batch, lsn)
    if rows:
        assert content_digest(batch, lsn + 1) != content_digest(batch, lsn)


def test_content_digest_sees_every_column_and_whose_number_it_is() -> None:
    rows, lsn = [(2, 0, 8, 1), (5, 1, 9, 2), (2, 0, 16, 3)] * 4, np.arange(12, dtype=np.int64)
    seen = {content_digest(writes(*rows), lsn), content_digest(writes(*rows), lsn[::-1])}
    for row in (0, 11):
        for column in range(4):
            changed = [list(r) for r in rows]
            changed[row][column] += 1
            seen.add(content_digest(writes(*map(tuple, changed)), lsn))
    assert len(seen) == 2 + 2 * 4
    assert content_digest(writes(), lsn[:0]) == 0


def test_equality_and_repr() -> None:
    a = filled([(2, 0, 8, 1), (5, 0, 8, 2)])
    assert a != a.rows(0, 1)
    assert a != filled([(2, 0, 8, 1), (5, 0, 8, 2)], payload=False), "content counts"
    assert a != filled([(2, 0, 8, 1), (5, 0, 9, 2)])
    assert a != "a batch"
    assert repr(a) == "WriteBatch(2 writes, 1536 bytes)"
    with pytest.raises(TypeError):
        hash(a)
