"""Digests of regions: what both sides of a comparison compute, each over its own content, to tell what differs."""

from collections.abc import Iterable
from hashlib import sha256

from drsim.core.batch import Payload

DIGEST_BYTES = 16
"""Of SHA-256: two regions that differ are taken for equal once in 2^128, also when somebody tries (PROTOCOL 5)."""


def digest(region: Payload) -> bytes:
    """Of one region."""
    return sha256(region).digest()[:DIGEST_BYTES]


def of_regions(content: Payload, region_bytes: int, unsure: Iterable[int] = ()) -> bytes:
    """Of each region of a stretch that begins with one, the last of which may be shorter, one after another.

    `unsure`: numbers of regions whose content is not known to be right. They get what no region with this content has.
    """
    view = memoryview(content)
    made = [digest(view[at : at + region_bytes]) for at in range(0, len(view), region_bytes)]
    for n in unsure:
        made[n] = bytes(255 - b for b in made[n])
    return b"".join(made)
