"""Tests of the trace parsers: made-up lines of every format, every reason to refuse, and the real traces if present."""

import gzip
import os
import struct
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsim.core.errors import FileError
from drsim.files.traces import BlockTrace, Churn, read_churn, read_trace
from drsim.spec.workload import TraceFormat

MSR = """\
128166372003061629,usr,0,Write,1024,4096,551
128166372003061639,usr,1,Read,7014609920,24576,41286
128166372003061649,web,0,Write,512,512,100
"""
ALIBABA = "419,W,8192,4096,1577808144360767\n420,R,0,512,1577808144360867\n419,W,1000,100,1577808144361767\n"
TENCENT = "1538323200,12910952,128,0,1063\n1538323201,64,8,1,1063\n1538323203,0,16,1,1327\n"
SSDSIM = "0 0 303567 7 0\n26214000 1 240840 6 1\n78643005 1 55596 6 0\n"
FIO2 = """\
fio version 2 iolog
/dev/sdb add
/dev/sdb open
/dev/sdb write 4096 8192
/dev/sdb wait 1500 0
/dev/sdb read 0 512
/dev/sdb trim 0 4096
/dev/sdb write 0 512
/dev/sdb close
"""
FIO3 = """\
fio version 3 iolog
10 /dev/sdb add
20 /dev/sdb open
100 /dev/sdb write 4096 8192
1600 /dev/sdb write 0 512
"""
BLKPARSE = """\
  8,0    3        1     0.000000000   697  G   W 223490 + 8 [kjournald]
  8,0    3        2     0.000001829   697  Q   W 223490 + 8 [kjournald]
  8,0    3        3     0.000002000   697  P   N [kjournald]
  8,0    3        4     0.000010000   697  Q   R 100 + 8 [cat]
  8,0    3        5     0.500000000   697  D   W 223490 + 8 [kjournald]
  8,0    3        6     0.600000000   697  Q FWFSM 0 + 0 [kjournald]
  8,16   3        7     1.000001829   697  Q  WS 64 + 16 [db]
CPU3 (8,0):
 Reads Queued:           1,        4KiB  Writes Queued:           2,       12KiB
"""
CHURN = "vm,ts_s,write_bytes,unique_bytes\na,60,163840,81920\nb,60,16384,16384\na,120,0,0\nb,120,32768,16384\n"
TEXTS: dict[TraceFormat, str] = {
    "msr": MSR,
    "alibaba": ALIBABA,
    "tencent": TENCENT,
    "ssdsim": SSDSIM,
    "fio": FIO2,
    "blkparse": BLKPARSE,
    "churn": CHURN,
}


def vscsi(*records: tuple[int, int, int, int], version: int = 0x0100) -> bytes:
    """Records from (operation, first sector, bytes, microseconds)."""
    return b"".join(
        struct.pack("<IIIHHQQ", n, length, 1, op, version, lba, micros)
        for n, (op, lba, length, micros) in enumerate(records)
    )


VSCSI = vscsi((0x2A, 63, 4096, 5_000_000), (0x28, 0, 512, 5_000_010), (0x8A, 100, 513, 5_000_100))


@pytest.fixture
def write(tmp_path: Path):
    def put(content: str | bytes, name: str = "trace") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return put


def rows(trace: BlockTrace) -> list[tuple[int, str, int, int]]:
    return [
        (t, trace.devices[d], lba, n)
        for t, d, lba, n in zip(
            trace.issued.tolist(), trace.device.tolist(), trace.lba.tolist(), trace.sectors.tolist(), strict=True
        )
    ]


def test_msr_counts_filetime_and_names_devices_by_host_and_disk(write):
    trace = read_trace(write(MSR))
    assert trace.format == "msr"
    assert rows(trace) == [(0, "usr.0", 2, 8), (2000, "web.0", 1, 1)]
    assert trace.reads == 1
    assert trace.duration == 2000 + 1000


def test_alibaba_bytes_off_the_sector_grid_touch_whole_sectors(write):
    trace = read_trace(write(ALIBABA))
    assert trace.format == "alibaba"
    assert rows(trace) == [(0, "419", 16, 8), (1_000_000, "419", 1, 2)]


def test_tencent_sectors_and_seconds(write):
    trace = read_trace(write(TENCENT))
    assert trace.format == "tencent"
    assert rows(trace) == [(10**9, "1063", 64, 8), (3 * 10**9, "1327", 0, 16)]
    assert trace.duration == 4_500_000_000


def test_ssdsim(write):
    trace = read_trace(write(SSDSIM))
    assert trace.format == "ssdsim"
    assert rows(trace) == [(0, "0", 303567, 7), (78643005, "1", 55596, 6)]


@pytest.mark.parametrize("text", [FIO2, FIO3])
def test_fio_waits_and_timestamps_are_microseconds(write, text):
    trace = read_trace(write(text))
    assert trace.format == "fio"
    assert rows(trace) == [(0, "/dev/sdb", 8, 16), (1_500_000, "/dev/sdb", 0, 1)]


def test_blkparse_takes_what_was_queued_once(write):
    trace = read_trace(write(BLKPARSE))
    assert trace.format == "blkparse"
    assert rows(trace) == [(0, "8,0", 223490, 8), (10**9, "8,16", 64, 16)]
    assert trace.reads == 1


def test_blkparse_without_queueing_takes_what_was_issued(write):
    text = "".join(line + "\n" for line in BLKPARSE.splitlines() if "  Q " not in line)
    assert rows(read_trace(write(text))) == [(0, "8,0", 223490, 8)]


def test_blkparse_takes_the_first_action_that_has_a_write(write):
    text = BLKPARSE.replace("Q   W", "M   W").replace("Q  WS", "I  WS")
    assert rows(read_trace(write(text))) == [(0, "8,0", 223490, 8)]


def test_vscsi_rounds_lengths_up_and_starts_the_clock_at_the_first_request(write):
    trace = read_trace(write(VSCSI))
    assert trace.format == "vscsi"
    assert rows(trace) == [(0, "disk", 63, 8), (100_000, "disk", 100, 2)]
    assert (trace.reads, trace.nbytes) == (1, 5120)
    assert trace.duration == 100_000 + 50_000


def test_churn_is_spread_evenly_over_its_intervals(write):
    path = write(CHURN)
    churn = read_churn(path, path.read_bytes())
    assert churn.devices == ("a", "b")
    trace = read_trace(path)
    a, b = trace.select("a"), trace.select("b")
    assert (a.nbytes, b.nbytes) == (163840, 3 * 16384)
    assert np.diff(a.issued).tolist() == [6 * 10**9] * 9
    assert (a.lba // 32).tolist() == [0, 1, 2, 3, 4] * 2
    assert b.issued.tolist() == [30 * 10**9, 75 * 10**9, 105 * 10**9]
    assert trace.duration == 120 * 10**9


def test_churn_does_not_smear_over_a_gap_and_joins_rows_of_one_end(write):
    text = "ts_s,write_pages4k\n60,4\n120,4\n120,4\n180,4\n99999,4\n"
    churn = read_churn(write(text), text.encode())
    assert churn.starts.tolist() == [0, 60 * 10**9, 120 * 10**9, (99999 - 60) * 10**9]
    assert churn.written.tolist() == [16384, 32768, 16384, 16384]
    assert churn.unique is None


def test_a_large_churn_gets_larger_writes():
    ns = np.array([10**9], np.int64)
    amount = np.array([1 << 30], np.int64)
    churn = Churn(("d",), np.zeros(1, np.int32), np.zeros(1, np.int64), ns, amount, None)
    trace = churn.expand(most=1000)
    assert len(trace) <= 1000
    assert trace.nbytes == 1 << 30


@pytest.mark.parametrize("form", TEXTS)
def test_every_text_format_is_recognised_packed_and_by_name(write, form):
    plain = read_trace(write(TEXTS[form]))
    assert plain.format == form
    packed = read_trace(write(gzip.compress(TEXTS[form].replace("\n", "\r\n").encode()), "trace.gz"))
    named = read_trace(str(write(TEXTS[form])), format=form)
    bom = read_trace(write(b"\xef\xbb\xbf" + TEXTS[form].encode()), format=form)
    assert rows(plain) == rows(packed) == rows(named) == rows(bom)


@pytest.mark.parametrize("form", ["msr", "alibaba"])
def test_a_header_line_and_blank_lines_are_passed_over(write, form):
    head = {"msr": "Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime"}
    text = head.get(form, "device_id,opcode,offset,length,timestamp") + "\n" + TEXTS[form] + "\n\n"
    assert rows(read_trace(write(text))) == rows(read_trace(write(TEXTS[form])))


def test_input_out_of_order_is_sorted_stably(write):
    trace = read_trace(write("50 0 1 1 0\n0 0 2 1 0\n50 0 3 1 0\n0 0 4 1 0\n"))
    assert trace.lba.tolist() == [2, 4, 1, 3]
    assert trace.issued.tolist() == [0, 0, 50, 50]
    many = "".join(f"{n * 7 % 5} 0 {n} 1 0\n" for n in range(1000))
    trace = read_trace(write(many))
    assert trace.lba.tolist() == sorted(range(1000), key=lambda n: n * 7 % 5)


def test_select_keeps_the_clock_and_refuses_what_is_not_there(write):
    trace = read_trace(write(SSDSIM.replace("240840 6 1", "240840 6 0") + "78643009 7 1 1 1\n"))
    one = trace.select("1")
    assert one.issued.tolist() == [26214000, 78643005]
    assert (one.devices, one.device.tolist(), one.duration) == (("1",), [0, 0], trace.duration)
    assert trace.select(None) is trace
    with pytest.raises(FileError, match="no device '9'") as error:
        trace.select("9")
    assert "0, 1, 7" in error.value.hint
    with pytest.raises(FileError, match="writes nothing"):
        trace.select("7")


WRONG_LINES = [
    (MSR.replace("512,512,100", "512,0,100"), 3, "length is 0, less than 1"),
    (MSR.replace("512,512,100", "512,-5,100"), 3, "length is -5"),
    (MSR.replace("Read", "Peek"), 2, "type is 'Peek'"),
    (MSR.replace(",web,", ",,"), 3, "host is empty"),
    (MSR.replace(",41286", ""), 2, "6 fields where 7 belong"),
    (MSR.replace(",41286", ",1,2"), 2, "8 fields where 7 belong"),
    (MSR.replace("7014609920", "99999999999999999"), 2, "offset is 99999999999999999, more than"),
    (MSR.replace("7014609920", "99999999999999999999999"), 2, "not a whole number"),
    (MSR.replace("7014609920", "-1"), 2, "offset is -1, less than 0"),
    (ALIBABA.replace("420,R", "420,X"), 2, "opcode is 'X'"),
    (ALIBABA.replace("1000,100,", "1000,ten,"), 3, "length is 'ten', not a whole number"),
    (ALIBABA.replace("1000,100,", "1000,1.5,"), 3, "length is '1.5', not a whole number"),
    (ALIBABA.replace("1000,100,", "1000,,"), 3, "length is '', not a whole number"),
    (TENCENT.replace("16,1,1327", "16,2,1327"), 3, "iotype is 2, more than 1"),
    (TENCENT.replace("64,8,1", "64,0,1"), 2, "length is 0"),
    (SSDSIM.replace("55596 6 0", "55596 6 5"), 3, "op is 5"),
    (SSDSIM.replace("55596 6 0", "55596 6"), 3, "4 fields where 5 belong"),
    (SSDSIM + "\n\nwhat is this\n", 6, "3 fields where 5 belong"),
    (FIO2.replace("write 0 512", "write 0 0"), 8, "length is 0"),
    (FIO2.replace("write 0 512", "write 0"), 8, "write with 1 numbers"),
    (FIO2.replace("write 0 512", "scribble 0 512"), 8, "unknown action 'scribble'"),
    (FIO2.replace("write 0 512", "write -8 512"), 8, "offset is -8"),
    (FIO2.replace("wait 1500 0", "wait soon 0"), 5, "time is 'soon'"),
    (FIO2 + "lonely\n", 10, "without an action"),
    (FIO3.replace("1600", "later"), 5, "time is 'later'"),
    (FIO2.replace("version 2", "version 9"), 1, "iolog version 9"),
    (BLKPARSE.replace("64 + 16", "64 + 0"), 7, "sector count is 0"),
    (BLKPARSE.replace("64 + 16", "99999999999999 + 16"), 7, "sector is 99999999999999, more than"),
    (BLKPARSE.replace("64 + 16 ", ""), 7, "without 'sector \\+ count'"),
    (BLKPARSE.replace("  8,0    3        4 ", "garbage in between"), 4, "not an event"),
    (CHURN.replace("b,60,16384", "b,60,-1"), 3, "write_bytes is -1"),
    (CHURN.replace("b,60,16384", "b,60,much"), 3, "write_bytes is 'much'"),
    (CHURN.replace("b,60,16384,16384", "b,60,16384"), 3, "3 fields where 4 belong"),
]


@pytest.mark.parametrize(("text", "line", "reason"), WRONG_LINES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_line_is_refused_by_its_number_and_reason(write, text, line, reason, packed):
    path = write(gzip.compress(text.encode()) if packed else text)
    with pytest.raises(FileError, match=reason) as error:
        read_trace(path)
    assert error.value.place == f"{path}:line {line}"
    assert error.value.hint


GOOD = (0x2A, 0, 512, 1)
WRONG_RECORDS = [
    (vscsi(GOOD, GOOD)[:-1], 2, "ends inside a record: 31 of 32 bytes"),
    (vscsi(GOOD) + b"\0", 2, "1 of 32 bytes"),
    (vscsi(GOOD, (0x35, 0, 512, 1)), 2, "operation 0x35"),
    (vscsi(GOOD, GOOD, (0x2A, 0, 0, 1)), 3, "length zero"),
    (vscsi(GOOD, (0x2A, 1 << 60, 512, 1)), 2, "beyond any disk"),
    (vscsi(GOOD, (0x2A, 0, 1 << 31, 1)), 2, "more than 1 GiB"),
    (vscsi(GOOD, (0x2A, 0, 512, 1 << 63)), 2, "cannot be microseconds"),
    (vscsi(GOOD, version=0x0200), 1, "version 2, not 1"),
    (vscsi(GOOD) + vscsi(GOOD, version=0x0300), 2, "version 3, not 1"),
    (vscsi(GOOD, (0x2A, 0, 0, 1), (0x35, 0, 512, 1)), 2, "length zero"),
]


@pytest.mark.parametrize(("data", "record", "reason"), WRONG_RECORDS)
def test_a_wrong_record_is_refused_by_its_number_and_reason(write, data, record, reason):
    path = write(data)
    with pytest.raises(FileError, match=reason) as error:
        read_trace(path)
    assert error.value.place == f"{path}:record {record}"


def test_a_truncated_or_damaged_gzip_is_refused(write):
    packed = gzip.compress(SSDSIM.encode() * 50)
    for broken in (packed[:-9], packed[: len(packed) // 2], packed[:40] + b"\xff" * 8 + packed[48:]):
        with pytest.raises(FileError, match="gzip file is incomplete or damaged"):
            read_trace(write(broken))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (b"\n\n\n", "not a trace"),
        (b"%PDF-1.7 hello\n", "begins with '%PDF-1.7 hello'"),
        (b"\x7fELF\x02\x01\x01\x00" + bytes(100), "it is binary"),
        (b"name,age\nx,3\n", "not a trace"),
        (b"fio version 2 iolog\n/d add\n", "no requests"),
        (b"0 0 1 1 1\n5 0 1 1 1\n", "none of the 2 requests is a write"),
        (vscsi((0x28, 0, 512, 1)), "none of the 1 requests"),
        (b"ts_s,write_bytes\n60,0\n", "no interval writes anything"),
        (b"ts_s,write_bytes\n", "no interval writes anything"),
        (b"ts_s,write_bytes\n60,1\n30,1\n", "before the end"),
        (b"0 0 1 1 0\n400000000000000000 0 1 1 0\n5 0 1 1 0\n", "more than ten years; request 2 is"),
        (b"5,d1,W,0,512,0\n", "not a trace"),
        (b"419,W,0,512,1\n4\xff9,W,0,512,2\n", "device is not UTF-8 text"),
    ],
)
def test_foreign_and_empty_content_is_refused(write, content, reason):
    path = write(content)
    with pytest.raises(FileError, match=reason) as error:
        read_trace(path)
    assert str(path) in error.value.place
    assert error.value.hint


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileError, match="cannot read the trace"):
            read_trace(path)


@pytest.mark.parametrize("form", ["msr", "alibaba", "tencent", "ssdsim", "fio", "blkparse", "churn", "vscsi"])
def test_a_format_named_wrongly_is_refused(write, form):
    with pytest.raises(FileError):
        read_trace(write("this is no trace of any kind, is it\n"), format=form)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_damaged_trace_is_refused_or_whole(data, tmp_path_factory):
    form = data.draw(st.sampled_from(sorted([*TEXTS, "vscsi"])))
    content = bytearray(VSCSI if form == "vscsi" else TEXTS[form].encode())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "trace"
    path.write_bytes(content)
    try:
        trace = read_trace(path, format=form)
    except FileError:
        return
    n = len(trace)
    assert n == len(trace.device) == len(trace.lba) == len(trace.sectors) > 0
    assert trace.sectors.min() > 0
    assert trace.lba.min() >= 0
    assert np.all(np.diff(trace.issued) >= 0)
    assert trace.issued[0] >= 0
    assert trace.issued[-1] < trace.duration


def real(name: str) -> Path:
    """A real trace; skips when it is not there."""
    root = Path(os.environ.get("DRSIM_TRACES", Path(__file__).parents[2] / ".." / "shared" / "traces"))
    if not (root / name).is_file():
        pytest.skip(f"no real trace {name}: name its directory by DRSIM_TRACES")
    return root / name


def test_the_real_vscsi_trace_has_the_known_figures_and_reads_fast():
    path = real("cloudPhysicsIO.vscsi.gz")
    trace = read_trace(path)
    assert len(trace) + trace.reads == 113_872
    assert len(trace) == 66_898
    assert trace.nbytes == pytest.approx(2.41e9, rel=0.005)
    assert len(trace) / trace.duration * 1e9 == pytest.approx(9.3, rel=0.005)
    per_second = np.bincount(trace.issued // 10**9, trace.sectors * 512.0)
    assert per_second.max() == pytest.approx(148e6, rel=0.005)
    best = min(_seconds(path) for _ in range(3))
    assert best < 0.3


def _seconds(path: Path) -> float:
    start = time.perf_counter()
    read_trace(path)
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("name", "writes", "devices"), [("tpcc_small.mqsim.gz", 2618, 16), ("ssdsim_example.ascii.gz", 5923, 22)]
)
def test_the_real_ssdsim_traces(name, writes, devices):
    trace = read_trace(real(name))
    assert (trace.format, len(trace), len(trace.devices)) == ("ssdsim", writes, devices)


def test_the_real_churn_keeps_every_byte():
    path = real("cloudphysics_53vm_30min.csv.gz")
    churn = read_churn(path, gzip.decompress(path.read_bytes()))
    trace = read_trace(path)
    assert len(trace.devices) == 53
    assert trace.nbytes == pytest.approx(int(churn.written.sum()), rel=0.001)
    assert int(churn.written.sum()) == int(pd.read_csv(path).write_pages4k.sum()) * 4096
