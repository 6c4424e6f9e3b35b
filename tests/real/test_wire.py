"""The wire: every message survives it, nothing broken does."""

import json
from enum import Enum
from types import UnionType
from typing import Any, NewType, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsim.core.batch import WriteBatch
from drsim.core.errors import CoreError, PeerError
from drsim.core.messages import Compare, Cut, Frame, Message
from drsim.core.names import Address, Extent, StreamId, VmId, VolumeId
from drsim.real import wire
from drsim.real.codec import hints
from drsim.real.envelope import PRELUDE, opened, prelude, seal
from drsim.real.wire import Hello, KeepAlive, Letter, decode, encode

NUMBERS = st.integers(-(2**63), 2**63 - 1)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: NUMBERS, str: st.text(max_size=20), bool: st.booleans(), bytes: st.binary(max_size=20), type(None): st.none(),
}  # fmt: skip


@st.composite
def batches(draw: st.DrawFn) -> WriteBatch:
    n = draw(st.integers(0, 6))
    int32 = st.integers(0, 2**31 - 1)
    columns = [draw(st.lists(s, min_size=n, max_size=n)) for s in (int32, int32, st.integers(0, 2**62))]
    sectors = draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
    issued = draw(st.lists(NUMBERS, min_size=n, max_size=n))
    payload = draw(st.none() | st.binary(min_size=512 * sum(sectors), max_size=512 * sum(sectors)))
    batch = WriteBatch.of(*columns, sectors, issued, payload)
    lo = draw(st.integers(0, n))
    return batch.rows(lo, draw(st.integers(lo, n)))


def values(type_: Any) -> st.SearchStrategy[Any]:
    """Values of a declared type."""
    while isinstance(type_, NewType):
        type_ = type_.__supertype__
    if type_ is WriteBatch:
        return batches()
    if type_ in PLAIN:
        return PLAIN[type_]
    inner = get_args(type_)
    if get_origin(type_) is tuple:
        return st.lists(values(inner[0]), max_size=4).map(tuple)
    if get_origin(type_) is dict:
        return st.dictionaries(values(inner[0]), values(inner[1]), max_size=3)
    if get_origin(type_) in (Union, UnionType):
        return st.one_of([values(t) for t in inner])
    if issubclass(type_, Enum):
        return st.sampled_from(type_)
    return st.builds(type_, **{name: values(t) for name, t in hints(type_).items()})


MESSAGES = st.sampled_from(get_args(Message)).flatmap(values)
LETTERS = st.builds(Letter, st.text(max_size=20).map(Address), st.text(max_size=20).map(Address), MESSAGES)
STREAM = StreamId("crm", Address("a/b/vra"), Address("c/d/recovery-vra"))


def a_frame() -> Letter:
    batch = WriteBatch.of([0, 1], [0, 1], [5, 9], [1, 1], [3, 4], bytes(range(256)) * 4)
    frame = Frame(STREAM, 1, 2, (4, 4), (5, 5), (512, 512), False, batch)
    return Letter(Address("a/b/vra"), Address("c/d/recovery-vra"), frame)


@given(LETTERS | st.builds(Hello, st.text(max_size=20)) | st.just(KeepAlive()))
def test_what_is_sent_arrives(wired: wire.Wired) -> None:
    assert decode(encode(wired)) == wired


@pytest.mark.parametrize("cls", get_args(Message), ids=lambda c: c.__name__)
def test_every_message_has_a_frame(cls: type) -> None:
    @given(values(cls))
    def check(message: Any) -> None:
        letter = Letter(Address("x"), Address("y"), message)
        assert decode(encode(letter)) == letter

    check()


def test_any_flipped_bit_is_seen() -> None:
    data = encode(a_frame())
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PeerError):
            decode(broken)


@given(LETTERS, st.data())
def test_any_flipped_bit_of_any_message_is_seen(letter: Letter, data: st.DataObject) -> None:
    broken = bytearray(encode(letter))
    bit = data.draw(st.integers(0, 8 * len(broken) - 1))
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PeerError):
        decode(broken)


def test_a_frame_that_is_cut_or_too_long_is_refused() -> None:
    data = encode(a_frame())
    for size in range(len(data)):
        with pytest.raises(PeerError):
            decode(data[:size])
    with pytest.raises(PeerError):
        decode(data + b"\0")


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        decode(data)


def test_an_oversize_frame_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(a_frame())
    monkeypatch.setattr(wire, "MAX_BODY", 1000)
    with pytest.raises(PeerError, match="too large"):
        wire.expect(data[:PRELUDE])
    with pytest.raises(Exception, match="a peer takes"):
        encode(a_frame())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, v in inner for p in places(v, (*path, key)))]


@given(LETTERS | st.just(a_frame()), st.data())
def test_a_header_that_makes_no_sense_is_refused_or_read_never_worse(letter: Letter, data: st.DataObject) -> None:
    raw = encode(letter)
    header, body = opened(prelude(wire.MAGIC, raw), memoryview(raw)[PRELUDE:])
    content: Any = json.loads(header)
    path = data.draw(st.sampled_from(places(content)))
    new = data.draw(JSON)
    if path:
        at = content
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = new
    else:
        content = new
    try:
        decoded = decode(seal(wire.MAGIC, json.dumps(content).encode(), [body]))
    except PeerError:
        return
    assert decode(encode(decoded)) == decoded


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(kind="Nothing"),
        lambda h: h.update(rows=-1),
        lambda h: h.update(rows=3),
        lambda h: h.update(payload=False),
        lambda h: h["fields"].pop("epoch"),
        lambda h: h["fields"].update(more=1),
        lambda h: h["fields"].update(epoch=True),
        lambda h: h["fields"].update(epoch=1 << 64),
    ],
)
def test_headers_that_cannot_be(change: Any) -> None:
    raw = encode(a_frame())
    header, body = opened(prelude(wire.MAGIC, raw), memoryview(raw)[PRELUDE:])
    content = json.loads(header)
    change(content)
    with pytest.raises(PeerError):
        decode(seal(wire.MAGIC, json.dumps(content).encode(), [body]))


def test_a_key_that_occurs_twice_is_refused() -> None:
    from drsim.real.codec import parse, plain

    value = {STREAM: Cut(1, (2, 3))}
    assert parse(dict[StreamId, Cut], plain(value)) == value
    with pytest.raises(ValueError, match="twice"):
        parse(dict[StreamId, Cut], plain(value) * 2)


def test_the_digests_of_many_regions_fit_and_more_are_our_own_mistake() -> None:
    """Said here: a peer would refuse the frame, and the connection with it, again and again."""
    extent = Extent(VmId(1), VolumeId(1), 0, 8 << 17)

    def letter(regions: int) -> Letter:
        return Letter(Address("x"), Address("y"), Compare(STREAM, 1, 2, extent, bytes(16 * regions)))

    assert decode(encode(letter(1 << 17))) == letter(1 << 17)
    with pytest.raises(CoreError):
        encode(letter(1 << 18))
