"""Post: who takes what comes out of the connection between two sites."""

from typing import Protocol

from drsim.core.messages import Message
from drsim.core.names import Address


class Post(Protocol):
    """Takes what comes out of a connection. Called from the event loop's thread."""

    def arrived(self, sender: Address, to: Address, message: Message) -> None:
        """A message came."""
        ...

    def up(self, lost: tuple[str, ...]) -> None:
        """The peer can be reached, over a new connection; it has lost something of these VPGs."""
        ...

    def down(self) -> None:
        """The connection is gone."""
        ...

    def failed(self, error: BaseException) -> None:
        """A mistake of our own; nothing goes on."""
        ...

    async def asked(self, text: str) -> str:
        """The peer's manager asks; gives the answer."""
        ...
