"""Violation: a property of PROTOCOL.md 9 does not hold. The name of the property is part of the verdict."""

from drsim.core.names import CheckpointId, StreamId, VmId


class Violation(Exception):
    """`prop` is the property's number ("P12"), `message` what was seen; the rest says of what, where that is known.

    `sector` is one of the VM's one sector space.
    """

    def __init__(
        self, prop: str, message: str, *, vpg: str = "", checkpoint: CheckpointId | None = None,
        stream: StreamId | None = None, vm: VmId | None = None, sector: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(f"{prop}: {message}")
        self.prop, self.message = prop, message
        self.vpg, self.checkpoint, self.stream, self.vm, self.sector = vpg, checkpoint, stream, vm, sector
