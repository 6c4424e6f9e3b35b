"""Quantities with units: "5 ms", "150 GiB", "100 Mbit/s" to integers, and back for print.

Inside drsim a duration is integer nanoseconds, a size is integer bytes, a bandwidth is integer bits per second
and a ratio is a float. A model file must say the unit of every quantity; Python callers may pass the base unit.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

FROM_FILE: Mapping[str, bool] = {"from_file": True}
"""Validation context of a model file, in which a bare number is refused."""

DURATION_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
SIZE_UNITS = {
    "B": 1,
    **{prefix + "B": 10 ** (3 * n) for n, prefix in enumerate(("k", "M", "G", "T"), 1)},
    "KB": 10**3,
    **{prefix + "iB": 1 << (10 * n) for n, prefix in enumerate(("K", "M", "G", "T"), 1)},
}
BANDWIDTH_UNITS = {
    **{prefix + "bit/s": 1000**n for n, prefix in enumerate(("", "k", "M", "G"))},
    **{prefix + "bps": 1000**n for n, prefix in enumerate(("", "k", "M", "G"))},
    **{prefix + "B/s": 8 * 1000**n for n, prefix in enumerate(("", "k", "M", "G"))},
    "KB/s": 8 * 1000,
}

_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ/%]+)")


def _parse(text: str, units: Mapping[str, int], kind: str, example: str) -> int:
    total, at = 0.0, 0
    exact = 0
    while at < len(text.rstrip()):
        part = _PART.match(text, at)
        if part is None or part[2] not in units:
            known = ", ".join(dict.fromkeys(units))
            found = f"unknown unit {part[2]!r}" if part else "not a number followed by a unit"
            raise ValueError(f"{text!r} is not a {kind}: {found}; write it like {example!r} (units: {known})")
        if "." in part[1]:
            total += float(part[1]) * units[part[2]]
        else:
            exact += int(part[1]) * units[part[2]]
        at = part.end()
    if at == 0:
        raise ValueError(f"an empty text is not a {kind}; write it like {example!r}")
    return exact + round(total)


def parse_duration(text: str) -> int:
    """Nanoseconds of "5 ms", "24 h", "2h30m". Raises ValueError on an unknown unit."""
    return _parse(text, DURATION_UNITS, "duration", "5 s")


def parse_size(text: str) -> int:
    """Bytes of "150 GiB" (powers of 1024) or "150 GB" (powers of 1000). Raises ValueError."""
    return _parse(text, SIZE_UNITS, "size", "150 GiB")


def parse_bandwidth(text: str) -> int:
    """Bits per second of "100 Mbit/s" or "12.5 MB/s". Raises ValueError."""
    return _parse(text, BANDWIDTH_UNITS, "bandwidth", "100 Mbit/s")


def parse_ratio(text: str) -> float:
    """A share of one, from "75 %" or "0.75". Raises ValueError."""
    body = text.strip()
    try:
        value = float(body.removesuffix("%")) / (100 if body.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"{text!r} is not a ratio; write it like '75 %' or 0.75") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite ratio")
    return value


def _shortest(value: int, units: list[tuple[str, int]], digits: int = 6) -> str:
    for name, factor in units:
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g} {name}"
    return f"{value} {units[-1][0]}"


def format_duration(ns: int) -> str:
    """The shortest text: "24 h", "5 ms"."""
    day = DURATION_UNITS["d"]
    if ns > day and ns % day == 0:
        return f"{ns // day} d"
    return _shortest(ns, [(u, DURATION_UNITS[u]) for u in ("h", "min", "s", "ms", "us", "ns")])


def format_size(nbytes: int) -> str:
    """Binary units when they fit exactly, decimal otherwise: "150 GiB", "2.41 GB"."""
    for name in ("TiB", "GiB", "MiB", "KiB"):
        if nbytes and nbytes % SIZE_UNITS[name] == 0:
            return f"{nbytes // SIZE_UNITS[name]} {name}"
    return _shortest(nbytes, [(u, SIZE_UNITS[u]) for u in ("TB", "GB", "MB", "kB", "B")], digits=4)


def format_bandwidth(bits_per_s: int) -> str:
    """Decimal units, as links are sold: "100 Mbit/s"."""
    return _shortest(bits_per_s, [(u, BANDWIDTH_UNITS[u]) for u in ("Gbit/s", "Mbit/s", "kbit/s", "bit/s")], digits=4)


def _before(parse: Callable[[str], Any], number: type, example: str) -> BeforeValidator:
    def check(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"expected a text with a unit like {example!r}, not {type(value).__name__}")
        if info.context and info.context.get("from_file") and number is int and value != 0:
            raise ValueError(f"{value!r} has no unit; write it like {example!r}")
        return value

    return BeforeValidator(check)


def _schema(description: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, "examples": [example]})


Duration = Annotated[
    int,
    _before(parse_duration, int, "5 s"),
    PlainSerializer(format_duration, when_used="json"),
    _schema("duration with a unit: ns, us, ms, s, min, h, d", "5 s"),
]
"""Nanoseconds."""

Size = Annotated[
    int,
    _before(parse_size, int, "150 GiB"),
    PlainSerializer(format_size, when_used="json"),
    _schema("size with a unit: B, KiB, MiB, GiB, TiB (1024) or kB, MB, GB, TB (1000)", "150 GiB"),
]
"""Bytes."""

Bandwidth = Annotated[
    int,
    _before(parse_bandwidth, int, "100 Mbit/s"),
    PlainSerializer(format_bandwidth, when_used="json"),
    _schema("bandwidth with a unit: kbit/s, Mbit/s, Gbit/s, MB/s", "100 Mbit/s"),
]
"""Bits per second."""

Ratio = Annotated[
    float,
    _before(parse_ratio, float, "75 %"),
    WithJsonSchema({"type": ["string", "number"], "description": "share of one", "examples": ["75 %", 0.75]}),
]
"""A share of one."""
