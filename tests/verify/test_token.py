"""Tokens: one line that reproduces a program, and that says so when it was cut or changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsim.core.errors import FileError
from drsim.verify.token import Token, decode


@given(st.binary(max_size=400), st.sampled_from(["explorer", "store", "twins", "figures"]))
def test_a_token_says_what_it_was_made_of(program: bytes, kind: str) -> None:
    assert decode(str(Token(kind, program))) == Token(kind, program)


def test_a_token_of_another_version_is_read() -> None:
    assert decode(str(Token("explorer", b"abc", version="7.8.9"))) == Token("explorer", b"abc", "7.8.9")


GOOD = str(Token("explorer", bytes(range(60))))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "no reproduction token"),
        (GOOD[:-6], "cut or changed"),
        (GOOD[:-3] + "AAA", "changed"),
        (GOOD.replace("explorer", "explored"), "no programs of kind 'explored'"),
        (GOOD + "!!", "changed"),
    ],
)
def test_a_broken_token_is_told(text: str, said: str) -> None:
    with pytest.raises(FileError, match=said) as error:
        decode(text)
    assert error.value.hint


def test_every_character_counts() -> None:
    payload = GOOD.rindex(".") + 1
    for at in range(payload, len(GOOD) - 1):
        other = "A" if GOOD[at] != "A" else "B"
        with pytest.raises(FileError):
            decode(GOOD[:at] + other + GOOD[at + 1 :])
