"""Clock: this machine's time in nanoseconds since 1970, which never goes back and never jumps while a process lives."""

from time import monotonic_ns, time_ns

_OFFSET = time_ns() - monotonic_ns()


def now_ns() -> int:
    """The time of day when the process began, and what has passed since."""
    return _OFFSET + monotonic_ns()
