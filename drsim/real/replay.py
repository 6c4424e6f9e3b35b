"""Replay of a script in the real world: guest writes and tagged checkpoints, one after another, over TCP and files.

The other side of the cross-world test: what the journals hold and where checkpoints lie must be the same in every
world, whatever the times.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from drsim.core.names import VmId, VolumeId, VolumeInfo
from drsim.core.units import SECOND, SECTOR
from drsim.real.pair import Settings, protect
from drsim.spec.tweaks import MS, Tweaks

Step = tuple[str, int, int, int, int] | tuple[str, str]
"""("write", vm, volume, lba, sectors) or ("checkpoint", tag)."""

Cuts = dict[str, dict[str, tuple[int, tuple[int, ...]]]]
"""Of each tag, of each stream as text: epoch and position."""

Content = dict[int, list[tuple[int, int, int, int]]]
"""Of each VM, its journal's rows: (number, volume, lba, sectors)."""

_SECTORS = (1 << 20) // SECTOR
_END = "\0end of the script"


async def replay(script: Iterable[Step], directory: Path) -> tuple[Cuts, Content]:
    """Run a script in an empty directory: VPG crm, VMs 0 and 1 with volumes 0 and 1 of 1 MiB, london-1 to leeds-1.

    Each write is acknowledged, and each checkpoint listed, before the next step. Raises ValueError for a step that is
    none, PlatformError for an extent that is none, TimeoutError when a checkpoint is not listed within a minute.
    """
    vms = (VmId(0), VmId(1))
    volumes = [VolumeInfo(VolumeId(vm), vm, _SECTORS) for vm in vms]
    settings = Settings(interval=3600 * SECOND, tweaks=Tweaks(hold_budget=1000 * MS))
    cuts: Cuts = {}
    async with protect(directory, volumes, dict.fromkeys(vms, "london-1"), settings=settings) as pair:
        for n, step in enumerate([*script, ("checkpoint", _END)]):
            match step:
                case ("write", int(vm), int(volume), int(lba), int(sectors)) if vm == volume:
                    await pair.write(volume, lba * SECTOR, n.to_bytes(8, "little") * (sectors * SECTOR // 8))
                case ("checkpoint", str(tag)):
                    async with asyncio.timeout(60):
                        checkpoint = await pair.checkpoint(tag)
                    cuts[tag] = {str(stream): (c.epoch, c.position) for stream, c in checkpoint.cut.items()}
                case _:
                    raise ValueError(f"step {n} of the script is none: {step!r}")
        del cuts[_END]
        journals = pair.recovery.journals
        assert journals is not None
        content: Content = {}
        for stream, store in journals.streams.items():
            for vm in store.spec.vms:
                lane = pair.recovery.lane(f"journal {stream}")
                content[vm] = await lane.call(lambda s=store, v=vm: list(s.rows(v)))  # type: ignore[misc]
    return cuts, content
