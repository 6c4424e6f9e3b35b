"""Token: one line that reproduces a program anywhere: which kind, which version found it, and the program itself.

    dr1.explorer.0-1-0.eNpjZGBgYGBk...
    |   |        |     the program: zlib, with its CRC-32 in front, base64url
    |   |        the version of drsim that wrote it
    |   the hunter that plays it (hunt.py)
    the format

A token of another version plays as well; whether it still shows what it showed is another matter.
"""

import base64
import binascii
import re
import zlib
from dataclasses import dataclass

import drsim
from drsim.core.errors import FileError
from drsim.verify.hunt import HUNTERS

FORMAT = "dr1"
HINT = "copy the whole line, from dr1. to its end"


@dataclass(frozen=True, slots=True)
class Token:
    """A program and who plays it. `version` is that of the drsim that wrote it."""

    kind: str
    program: bytes
    version: str = drsim.__version__

    def __str__(self) -> str:
        packed = zlib.crc32(self.program).to_bytes(4, "big") + zlib.compress(self.program, 9)
        payload = base64.urlsafe_b64encode(packed).decode().rstrip("=")
        return ".".join((FORMAT, self.kind, self.version.replace(".", "-"), payload))


def decode(text: str) -> Token:
    """The token of a line, also of one that was wrapped. Raises FileError when it is none, or was cut or changed."""
    text = "".join(text.split())
    parts = text.split(".")
    if len(parts) != 4 or not re.fullmatch(r"dr\d+", parts[0]):
        raise FileError("this is no reproduction token", place=_short(text), hint=HINT)
    if parts[0] != FORMAT:
        raise FileError(f"a token of format {parts[0]}", place=_short(text), hint=f"this drsim reads {FORMAT} only")
    _, kind, version, payload = parts
    if kind not in HUNTERS:
        raise FileError(f"no programs of kind {kind!r}", place=_short(text), hint=f"kinds: {', '.join(HUNTERS)}")
    try:
        packed = base64.b64decode(payload + "=" * (-len(payload) % 4), altchars=b"-_", validate=True)
        program = zlib.decompress(packed[4:])
    except (binascii.Error, ValueError, zlib.error) as error:
        raise FileError("the token was cut or changed", place=_short(text), hint=HINT) from error
    if zlib.crc32(program).to_bytes(4, "big") != packed[:4]:
        raise FileError("the token was changed", place=_short(text), hint=HINT)
    if len(program) < HUNTERS[kind].head:
        said = f"a program of {len(program)} bytes, and {kind} programs begin with {HUNTERS[kind].head}"
        raise FileError(said, place=_short(text), hint="it was written by another version of drsim")
    return Token(kind, program, version.replace("-", "."))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:30]}...{text[-6:]}"
