"""Platforms: which code connects to which kind, loaded when it is needed, with a word on what to install."""

import re
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from drsim.core.errors import PlatformError
from drsim.real.ports import Platform

CONNECTS: Mapping[str, str] = MappingProxyType({
    "vsphere": "drsim.real.vsphere.connect", "aws": "drsim.real.aws.connect", "hyperv": "drsim.real.hyperv.site",
    "vcd": "drsim.real.vcd.connect",
})  # fmt: skip
"""The module of each kind that has `connect(spec, base, *, limits)`. The extra to install is called like the kind."""
OLDEST: Mapping[str, tuple[int, ...]] = MappingProxyType({"vsphere": (6, 5), "hyperv": (10, 0, 14393)})
"""The oldest versions that have all that drsim asks for; a service without versions is not here.

Windows Server 2016 is the first with changed areas (RCT) and checkpoints for backup.
"""


def connector(kind: str) -> Callable[..., Awaitable[Platform]]:
    """The function that connects to a kind of platform. Raises PlatformError when its SDK is not installed."""
    module = CONNECTS.get(kind)
    if module is None:
        raise PlatformError(f"no platform is called {kind!r}", hint=f"one of: {', '.join(CONNECTS)}")
    try:
        found: Callable[..., Awaitable[Platform]] = import_module(module).connect
    except ModuleNotFoundError as error:
        hint = f"install drsim[{kind}]"
        raise PlatformError(f"{kind} needs the package {error.name}", place=module, hint=hint) from error
    return found


def outdated(kind: str, version: str) -> str:
    """The oldest version that will do, if a platform's is older."""
    oldest = OLDEST.get(kind, ())
    number = tuple(int(part) for part in re.findall(r"\d+", version))
    return ".".join(map(str, oldest)) if number < oldest else ""


async def connect(spec: Any, base: Path, **options: Any) -> Platform:
    """Connect to the platform of a site's file in the folder `base`. Raises what its adapter raises."""
    return await connector(spec.kind)(spec, base, **options)
