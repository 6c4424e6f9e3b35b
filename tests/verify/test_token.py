"""A token is one line that brings a program anywhere, and says so when it did not arrive whole."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import drsim
from drsim.core.errors import FileError
from drsim.verify.hunt import HUNTERS
from drsim.verify.program import random_program
from drsim.verify.token import Token, decode

KINDS = sorted(HUNTERS)
LETTERS = "ABCXYZabcxyz0189-_"
LINE = str(Token("explorer", random_program(7, operations=6)))


@st.composite
def tokens(draw: st.DrawFn) -> Token:
    kind = draw(st.sampled_from(KINDS))
    return Token(kind, draw(st.binary(min_size=HUNTERS[kind].head, max_size=400)))


@given(tokens())
def test_a_token_brings_its_program(token: Token) -> None:
    line = str(token)
    assert decode(line) == token
    assert re.fullmatch(r"dr1\.[a-z]+\.[0-9-]+\.[A-Za-z0-9_-]+", line), "one word for a shell, a mail and a URL"


def test_the_line_stays_readable_to_later_versions() -> None:
    """Written down: tokens in reports and regressions are read by every drsim to come."""
    written = "dr1.explorer.0-1-0.PGVHX3jaY2CAAX0GBgAAmgAw"
    assert decode(written) == Token("explorer", bytes(10) + b"\x2f\0\0", "0.1.0")


def test_blanks_around_and_a_wrapped_line_do_no_harm() -> None:
    assert decode(f"  {LINE}\n") == decode(LINE)
    assert decode(f"{LINE[:30]}\n   {LINE[30:50]}\r\n{LINE[50:]}") == decode(LINE)


def test_a_cut_token_is_refused() -> None:
    for length in range(len(LINE)):
        with pytest.raises(FileError):
            decode(LINE[:length])
    with pytest.raises(FileError):
        decode(LINE[1:])


@settings(max_examples=300)
@given(st.integers(0, len(LINE) - 1), st.sampled_from(LETTERS))
def test_a_changed_letter_never_gives_another_program(at: int, letter: str) -> None:
    changed = LINE[:at] + letter + LINE[at + 1 :]
    try:
        token = decode(changed)
    except FileError:
        return
    assert token.program == decode(LINE).program
    assert token.kind == "explorer"


def test_two_changes_that_zlib_does_not_see_are_seen() -> None:
    """The check is of the program, not only of the packing."""
    one, other = str(Token("explorer", bytes(10))), str(Token("explorer", bytes(11)))
    head, _, payload = one.rpartition(".")
    mixed = f"{head}.{payload[:4]}{other.rpartition('.')[2][4:]}"
    with pytest.raises(FileError, match="changed"):
        decode(mixed)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no reproduction token"),
        ("hello", "no reproduction token"),
        ("tests/verify/regressions/p5.token", "no reproduction token"),
        (LINE.replace("dr1", "dr7", 1), "format dr7"),
        (LINE.replace("explorer", "nobody", 1), "no programs of kind 'nobody'"),
        (LINE[:-4], "cut or changed"),
        (LINE + "\u00e9", "cut or changed"),
        ("dr1.explorer.0-1-0.", "cut or changed"),
        (str(Token("explorer", bytes(9))), "9 bytes, and explorer programs begin with 10"),
    ],
)
def test_what_is_wrong_with_it_is_said(line: str, said: str) -> None:
    with pytest.raises(FileError, match=re.escape(said)) as error:
        decode(line)
    assert error.value.hint
    assert len(error.value.place) <= 40
    assert bool(error.value.place) == bool(line)


def test_the_hint_for_an_unknown_kind_names_the_kinds() -> None:
    with pytest.raises(FileError) as error:
        decode(LINE.replace("explorer", "nobody", 1))
    assert all(kind in error.value.hint for kind in KINDS)


def test_a_token_of_another_version_says_which() -> None:
    token = decode(str(Token("explorer", bytes(13), "0.0.9")))
    assert token.version == "0.0.9"
    assert decode(LINE).version == drsim.__version__
