"""The arms of the conformance suite that are here on this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from platforms.aws_arm import AWS
from platforms.hyperv_arm import ARM as HYPERV
from platforms.local_arm import LOCAL
from platforms.vcd_arm import VCD
from platforms.vsphere_arm import VSPHERE

from drsim.verify.conformance.bench import Arm, Bench, Label
from drsim.verify.conformance.memory import MemoryBench


@asynccontextmanager
async def open_memory(kind: type[MemoryBench] = MemoryBench) -> AsyncIterator[Bench]:
    """A platform in memory; its disks are files."""
    with TemporaryDirectory() as folder:
        yield kind(Path(folder))


ARMS: tuple[Arm, ...] = (Arm("sim", open_memory, Label.MODEL), LOCAL, VSPHERE, AWS, HYPERV, VCD)
BY_NAME = {arm.name: arm for arm in ARMS}
