"""Two real sites in one process, over TLS, for tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from nbd_client import connected

from drsim.core.messages import Checkpoint
from drsim.files.sites import load_site
from drsim.real import pki
from drsim.real.installation import Installation
from drsim.real.loopback import free_port
from drsim.real.planning import vpg_of
from drsim.spec.live import LiveVpg
from drsim.verify.transcripts import replay

LONDON = """
site: london
folder: london
pki: pki/london
link: {{peer: leeds, connect: "127.0.0.1:{port}"}}
hosts: {{london-1: {{}}, london-2: {{}}}}
vms:
  db:
    host: london-1
    disks: {{system: {{path: london/db.disk, size: 4 MiB}}, log: {{path: london/log.disk, size: 4 MiB}}}}
  app: {{host: london-2, disks: {{system: {{path: london/app.disk, size: 4 MiB}}}}}}
tweaks: {{peer_timeout: 2 s, frame_delay: 1 ms}}
"""
LEEDS = """
site: leeds
folder: leeds
pki: pki/leeds
link: {{peer: london, listen: "127.0.0.1:{port}"}}
hosts: {{leeds-1: {{}}}}
tweaks: {{peer_timeout: 2 s}}
"""


def write_sites(folder: Path, london: str = LONDON, leeds: str = LEEDS) -> None:
    """The files of two sites, with certificates."""
    port = free_port()
    for name, text in (("london", london), ("leeds", leeds)):
        (folder / f"{name}.yaml").write_text(text.format(port=port))
    pki.init(folder / "pki", ["london", "leeds"])


@dataclass
class Sites:
    """Two sites that run."""

    folder: Path
    london: Installation
    leeds: Installation

    def vpg(self, name: str, *vms: str) -> LiveVpg:
        spec, state = self.london.spec, self.london.state.state
        return vpg_of(
            spec, state, name, vms, "leeds-1", interval=200_000_000, history=3600 * 10**9, rpo_alert=60 * 10**9,
            journal=None,
        )  # fmt: skip

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.london.site.check()
            self.leeds.site.check()
            await asyncio.sleep(0.01)

    async def checkpoint(self, vpg: str, tag: str) -> Checkpoint:
        """Listed, after everything that was acknowledged before."""
        self.london.tag(vpg, tag)
        await self.until(lambda: any(c.tag == tag for c in self.leeds.listed(vpg)))
        return next(c for c in self.leeds.listed(vpg) if c.tag == tag)

    def rebuilt(self, checkpoint: Checkpoint, into: str) -> dict[int, bytes]:
        assert self.leeds.site.journals is not None
        made = self.leeds.site.journals.rebuild(checkpoint.cut, self.folder / into)
        return {volume: path.read_bytes() for volume, path in made.items()}

    def write(self, export: str, offset: int, data: bytes) -> None:
        with connected(self.london.folder / "nbd.sock", export) as client:
            assert client.write(offset, data) == 0


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Sites]:
    async with AsyncExitStack() as stack:
        sites = [
            await stack.enter_async_context(Installation(load_site(folder / f"{name}.yaml"), folder, transcript=True))
            for name in ("leeds", "london")
        ]
        for site in sites:
            assert site.site.end is not None
            await site.site.end.wait(connected=True)
        yield Sites(folder, sites[1], sites[0])


def on_sites(
    folder: Path,
    *checks: Callable[[Sites], Awaitable[None]],
    last: Callable[[Sites], Awaitable[None]] | None = None,
    seconds: float = 90,
) -> None:
    """Each check in a life of its own; `last`, whatever came of them. Every life is then played again (P28)."""

    async def run() -> None:
        try:
            for check in checks:
                async with asyncio.timeout(seconds), running(folder) as sites:
                    await check(sites)
        finally:
            if last is not None:
                async with asyncio.timeout(30), running(folder) as sites:
                    await last(sites)

    asyncio.run(run())
    for transcript in folder.glob("*/transcripts/*.gz"):
        assert replay(transcript).broke == ""
