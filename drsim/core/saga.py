"""Saga: what has to be undone, newest first.

An undo is registered *before* what it undoes is asked for. So whatever is known of a step, that it was done, that it
failed half-way, or nothing because its answer was lost, its undo is carried out, and finds out what there is to undo.
Clean-up after an error, the end of a test and a roll back are the same `unwind`.

An undo may be *guarded*: it is left out, and reported, when an undo before it did not work. So the source gets its
right to write back only when it is certain that nothing runs in its place.
"""

from typing import TypeVar

from drsim.core.action import Action
from drsim.core.errors import DrsimError
from drsim.core.workflow import Operation, Together

T = TypeVar("T")


class Saga:
    """The undo steps of an operation, or of one of its branches. `failed`: what could not be undone, and why."""

    def __init__(self, operation: Operation, failed: list[str] | None = None) -> None:
        self._operation = operation
        self._undo: list[tuple[Action[object], bool] | tuple[Saga, ...]] = []
        self.failed: list[str] = [] if failed is None else failed

    async def do(self, action: Action[T], undo: Action[object], *, guarded: bool = False) -> T:
        """Carry out an action that this undoes."""
        self._undo.append((undo, guarded))
        return await action

    def branches(self, count: int) -> "tuple[Saga, ...]":
        """Sagas for branches that go on at the same time; they unwind at the same time."""
        made = tuple(Saga(self._operation, self.failed) for _ in range(count))
        self._undo.append(made)
        return made

    async def unwind(self) -> None:
        """Undo everything, whatever fails; nobody can cancel that."""
        self._operation.settle()
        await self.rewind()

    async def rewind(self) -> None:
        """Undo everything, whatever fails, in an operation that goes on."""
        while self._undo:
            match self._undo.pop():
                case (Action() as action, bool(guarded)):
                    await self._try(action, guarded=guarded)
                case sagas:
                    await Together([saga.rewind() for saga in sagas if isinstance(saga, Saga)])

    async def _try(self, action: Action[object], *, guarded: bool) -> None:
        if guarded and self.failed:
            self.failed.append(f"{action}: not before the rest is cleaned up")
            return
        try:
            await action
        except DrsimError as error:
            self.failed.append(f"{action}: {error.line}")

    def keep(self) -> None:
        """Nothing is undone any more."""
        self._operation.settle()
        self._undo.clear()
