"""Pair: a protected site and a recovery site in one process, over loopback TCP, with one VPG between them.

The proof of the boundary: the machines are the core's, unchanged; everything around them is real.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from drsim.core.catalog import Catalog
from drsim.core.errors import FileError, PlatformError
from drsim.core.events import PinAsked, TagAsked
from drsim.core.kernel import Sink
from drsim.core.messages import Checkpoint, Retention
from drsim.core.names import (
    Address,
    Catalogs,
    Managers,
    StreamId,
    StreamSpec,
    VmId,
    VolumeInfo,
    catalog_address,
    recovery_vra_address,
    vpg_address,
    vra_address,
)  # fmt: skip
from drsim.core.protected_vra import ProtectedVra
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.units import SECOND, Ns
from drsim.core.vpg import Vpg
from drsim.real.catalog_store import CatalogStore
from drsim.real.disk import MAX_WRITE, open_disks
from drsim.real.journal_store import JournalStore
from drsim.real.news import News
from drsim.real.tap import Tap
from drsim.real.transport import Connector, Listener, Terms
from drsim.real.world import Site
from drsim.spec.tweaks import Tweaks


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a pair is built. Times in nanoseconds, sizes in bytes."""

    vpg: str = "crm"
    protected: str = "london"
    recovery: str = "leeds"
    recovery_host: str = "leeds-1"
    interval: int = 5 * SECOND
    history: int = 24 * 3600 * SECOND
    rpo_alert: int = 300 * SECOND
    journal_limit: int | None = None
    pool_bytes: int = 64 << 20
    segment_bytes: int = 64 << 20
    tweaks: Tweaks = field(default_factory=Tweaks)


class Pair:
    """Two sites and the connection between them."""

    def __init__(self, protected: Site, recovery: Site, vpg: str, connector: Connector, news: News) -> None:
        self.protected, self.recovery, self.vpg, self.link = protected, recovery, vpg, connector
        self._news = news
        self._taps = {v.id: tap for tap in protected.taps.values() for v in tap.spec.volumes}
        self.manager = vpg_address(protected.name, vpg)
        self._catalog = catalog_address(recovery.name, vpg)

    async def write(self, volume: int, offset: int, data: bytes) -> None:
        """A guest writes; see Tap.write."""
        tap = next((tap for id_, tap in self._taps.items() if id_ == volume), None)
        if not isinstance(tap, Tap):
            raise PlatformError(f"no volume {volume} here", place=self.protected.name)
        await tap.write(volume, offset, data)

    @property
    def syncing(self) -> bool:
        """Whether any stream is out of sync, as its sender sees it."""
        vras = (m for m in self.protected.kernel.machines.values() if isinstance(m, ProtectedVra))
        return any(sender.syncing for vra in vras for sender in vra.senders.values())

    @property
    def listed(self) -> list[Checkpoint]:
        """Checkpoints that can be recovered from, oldest first."""
        catalog = self.recovery.kernel.machines[self._catalog]
        assert isinstance(catalog, Catalog)
        return list(catalog.listed)

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; looked at whenever a fact is published. Raises what stops a site."""

        def holds() -> bool:
            self.protected.check()
            self.recovery.check()
            return condition()

        await self._news.wait(holds)

    async def checkpoint(self, tag: str) -> Checkpoint:
        """Ask for a checkpoint under a tag that is not in use, and wait until it is listed.

        One that is asked for while the VPG synchronizes, or whose word is lost with the connection, is not taken;
        then this waits for ever: use a timeout.
        """
        self.protected.post(self.manager, TagAsked(tag))
        await self.wait(lambda: any(c.tag == tag for c in self.listed))
        return next(c for c in self.listed if c.tag == tag)

    def pin(self, checkpoint: Checkpoint, *, pinned: bool = True) -> None:
        """Keep a checkpoint and all after it from aging, or no longer."""
        self.recovery.post(self._catalog, PinAsked(checkpoint.id, pinned))

    async def rebuild(self, checkpoint: Checkpoint, target: Path) -> dict[int, Path]:
        """Image files of all volumes at a checkpoint; see StreamStore.rebuild."""
        journals = self.recovery.journals
        assert journals is not None
        images: dict[int, Path] = {}
        for stream, cut in checkpoint.cut.items():
            store = journals.streams[stream]
            images |= await self.recovery.lane(f"journal {stream}").call(lambda s=store, c=cut: s.rebuild(c, target))  # type: ignore[misc]
        return images


def _specs(settings: Settings, volumes: Sequence[VolumeInfo], hosts: Mapping[VmId, str]) -> list[StreamSpec]:
    target = recovery_vra_address(settings.recovery, settings.recovery_host)
    specs: list[StreamSpec] = []
    for host in sorted(set(hosts.values())):
        vms = tuple(sorted(vm for vm, at in hosts.items() if at == host))
        mine = tuple(v for v in volumes if v.vm in vms)
        stream = StreamId(settings.vpg, vra_address(settings.protected, host), target)
        specs.append(StreamSpec(stream, vms, mine, settings.journal_limit))
    return specs


def _add_machines(settings: Settings, protected: Site, recovery: Site, specs: list[StreamSpec]) -> None:
    """The core's machines at their addresses, and who talks to whom."""
    vpg, tweaks, pool = settings.vpg, settings.tweaks, settings.pool_bytes
    manager, catalog = vpg_address(protected.name, vpg), catalog_address(recovery.name, vpg)
    vras = sorted({s.id.source for s in specs})
    protected.add(
        manager,
        Vpg(
            manager, vpg, vras, catalog, interval=Ns(settings.interval), rpo_alert=Ns(settings.rpo_alert),
            history=Ns(settings.history), tweaks=tweaks,
        ),
    )  # fmt: skip
    for vra in vras:
        mine = [s for s in specs if s.id.source == vra]
        protected.add(vra, ProtectedVra(vra, Managers(protected.name), mine, pool_bytes=pool, tweaks=tweaks))
    target = specs[0].id.target
    recovery.add(target, RecoveryVra(target, Catalogs(recovery.name), specs, pool_bytes=pool, tweaks=tweaks))
    streams = [s.id for s in specs]
    recovery.add(
        catalog, Catalog(catalog, vpg, manager, streams, retention=Retention(Ns(settings.history)), tweaks=tweaks)
    )
    pairs: list[tuple[Address, Address]] = [(manager, catalog), *((s.source, s.target) for s in streams)]
    protected.peers = pairs
    recovery.peers = [(there, here) for here, there in pairs]


@asynccontextmanager
async def protect(
    directory: Path, volumes: Sequence[VolumeInfo], hosts: Mapping[VmId, str], *, settings: Settings | None = None,
    trace: Sink | None = None,
) -> AsyncIterator[Pair]:  # fmt: skip
    """Protect VMs (by number, each on a host) with these volumes, from empty disks, in an empty directory.

    Yields the running pair. `trace` sees the steps of both sites. Raises FileError when the directory is not empty,
    and on leaving whatever stopped a site.
    """
    settings = settings or Settings()
    if directory.exists() and any(directory.iterdir()):
        raise FileError("the directory is not empty", place=str(directory), hint="initial sync is not there yet")
    tweaks, news = settings.tweaks, News()
    specs = _specs(settings, volumes, hosts)
    most = max(tweaks.frame_bytes, tweaks.sync_bytes) + MAX_WRITE
    queue = len(specs) * 2 * (tweaks.window_bytes + most) + (1 << 20)
    terms = Terms(tweaks.peer_timeout / SECOND, queue)
    async with (
        Site(settings.recovery, directory / settings.recovery, tweaks=tweaks, news=news, trace=trace) as recovery,
        Site(settings.protected, directory / settings.protected, tweaks=tweaks, news=news, trace=trace) as protected,
    ):
        _add_machines(settings, protected, recovery, specs)
        protected.disks.update(open_disks(protected.directory / "disks", volumes))
        for spec in specs:
            protected.tap(spec)
        recovery.journals = JournalStore(recovery.directory / "journals", specs, segment_bytes=settings.segment_bytes)
        recovery.catalogs[settings.vpg] = CatalogStore(recovery.directory / "catalogs" / f"{settings.vpg}.json")
        listener = Listener(recovery.name, protected.name, recovery, terms)
        recovery.end = listener
        port = await listener.listen()
        connector = Connector(protected.name, recovery.name, protected, "127.0.0.1", port, terms)
        protected.end = connector
        await connector.wait(connected=True)
        await listener.wait(connected=True)
        recovery.start()
        protected.start()
        yield Pair(protected, recovery, settings.vpg, connector, news)
