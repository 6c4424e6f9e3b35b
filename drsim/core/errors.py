"""Errors by blame: the file, the peer, the platform, ourselves. Each says what, where and what to do."""


class DrsimError(Exception):
    """Base of everything drsim raises on purpose.

    `place` is where (a file and line, an address), `hint` what to do about it.
    """

    def __init__(self, message: str, *, place: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.place, self.hint = message, place, hint

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{where}{self.message}{hint}"

    @property
    def line(self) -> str:
        """The same in one line, for reports."""
        return str(self).replace("\n  hint: ", "; ")


class FileError(DrsimError):
    """The user's file is wrong: a model, a trace, an option."""


class PeerError(DrsimError):
    """The other side broke the protocol: a frame that cannot be, an old generation."""


class PlatformError(DrsimError):
    """A disk, a network or a platform's interface failed."""


class StoreFull(PlatformError):
    """A store has no room. Replication stops, nothing that is listed is lost."""


class CoreError(DrsimError):
    """Our own mistake: a broken invariant, a livelock."""
