"""Reference: a name in a model that nothing has, or that has what cannot be; and what may have been meant."""

import difflib
from collections.abc import Iterable, Sequence


class Reference(ValueError):
    """A name that nothing has; `path` is where it stands in the model, `others` are further ones."""

    def __init__(self, message: str, path: tuple[str | int, ...], others: "Sequence[Reference]" = ()) -> None:
        super().__init__(message)
        self.path, self.others = path, tuple(others)


def closest(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: what the wrong name may have meant, and what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    return f"{meant} (there is: {shown or 'none'})"
