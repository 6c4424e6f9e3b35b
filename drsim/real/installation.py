"""Installation: one real site in one process. Its VRAs, its manager, its VMs' disks, and the connection to its peer.

Theory of operation. The machines are the core's; what they need to begin with comes from what is durable:

    machine                  built from
    -----------------------  --------------------------------------------------------------------------------------
    ProtectedVra of a host   the VPGs' volumes; in a later life everything is compared with the other side (crashed)
    RecoveryVra of a host    the streams found in the journal store, and what it holds of each
    Vpg (source)             the VPG's state; checkpoints are numbered beyond those of earlier lives
    Catalog (target)         the catalogue store, pins, generation

A VPG is made at its source: the target is asked first (`Adopt`), so that its catalogue is there when the first message
comes. Managers ask each other over the sites' connection (`desk.py`).

Every change is in the state file before anything is done about it. Whatever is asked twice is done once.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import ParamSpec

from drsim.core.catalog import Catalog
from drsim.core.errors import FileError, PlatformError
from drsim.core.events import DeleteAsked, PauseAsked, Reconfigured, SyncAsked, TagAsked
from drsim.core.facts import EpochDue, Fact, StateChanged, VpgDeleted
from drsim.core.machine import Machine
from drsim.core.messages import Checkpoint, Retention, Start
from drsim.core.names import (
    Address,
    Catalogs,
    CheckpointId,
    Managers,
    StreamSpec,
    catalog_address,
    recovery_vra_address,
    vpg_address,
    vra_address,
)  # fmt: skip
from drsim.core.protected_vra import ProtectedVra
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.status import Lifecycle
from drsim.core.units import Ns
from drsim.core.vpg import Vpg
from drsim.real.catalog_store import CatalogStore
from drsim.real.desk import Adopt, Desk, Drop
from drsim.real.distrust import Distrust
from drsim.real.elsewhere import Elsewhere, store_of
from drsim.real.journal_store import JournalStore
from drsim.real.local.hypervisor import LocalHypervisor
from drsim.real.meeting import meet
from drsim.real.own_vms import OwnVms
from drsim.real.planning import streams_of
from drsim.real.platforms import connect
from drsim.real.ports import Hypervisor, Platform
from drsim.real.recovery import Recoveries
from drsim.real.restoring import Restoring
from drsim.real.reverse import Reversal
from drsim.real.splitter import Splitter
from drsim.real.state import FolderLock, StateFile
from drsim.real.transcript import Transcript
from drsim.real.world import Site
from drsim.spec.live import LiveVpg, SiteFile, VpgState

P = ParamSpec("P")
LIFE = 1_000_000
"""Checkpoints that a life of a manager may number: at one a second, eleven days; a later life begins beyond."""


class Installation:
    """A site, from its file. Use as an async context."""

    def __init__(
        self, spec: SiteFile, base: Path, *, transcript: bool = False, platform: Platform | None = None
    ) -> None:  # fmt: skip
        self.spec, self.base = spec, base
        self.folder = base / spec.folder
        self._recorded = transcript
        self.transcript: Transcript | None = None
        """Of this life, if it was asked for."""
        self.facts: list[tuple[Ns, Fact]] = []
        """The last facts, newest last."""
        self.refused: Callable[[str], None] = lambda why: None
        """Is told, from any thread, why a client of the splitter was turned away."""
        self.warned: Callable[[str], None] = lambda why: None
        """Is told what failed at the platform and is tried again."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.own = OwnVms(self)
        self._platform = platform
        self.elsewhere: Elsewhere | None = None
        """Where its VMs run, if not on this machine."""

    async def __aenter__(self) -> "Installation":
        self._lock = FolderLock(self.folder)
        try:
            if self._platform is None and self.spec.platform is not None:
                self._platform = await connect(self.spec.platform, self.base)
            if self._platform is not None:
                store = await store_of(self._platform, self.spec.datastore)
                self.elsewhere = Elsewhere(self, self._platform, store)
                self.spec = await self.elsewhere.discover(self.spec, self.base)
            self._open()
            await meet(self)
        except BaseException:
            await self._close()
            raise
        self.site.start()
        self.own.tell()
        self.recoveries.go_on()
        self._work(self.own.watch())
        if self.elsewhere is not None:
            self._work(self.elsewhere.copy_journals())
            self._work(self.elsewhere.watch())
        for vpg in self.state.state.vpgs.values():
            if vpg.vpg.source == self.spec.site and vpg.deleting is not None:
                self._work(self._delete_again(vpg))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()
        if error is None:
            self.site.check()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if hasattr(self, "reversal"):
            await self.reversal.close()
            await self.restoring.close()
        if hasattr(self, "site"):  # guests first: nothing is closed under one that writes
            for tap in self.site.taps.values():
                tap.release(PlatformError("the site stops", place=self.spec.site))
            if hasattr(self, "splitter"):
                await asyncio.to_thread(self.splitter.close)
            for host in self.site.hosts.values():
                await host.close()
            self.own.recorders.close()
            if hasattr(self, "recoveries"):
                await self.recoveries.close()
            await self.site.close()
        if self.transcript is not None:
            self.transcript.close()
        if self._platform is not None and self.spec.platform is not None:
            await self._platform.close()
        self._lock.close()

    @property
    def machines(self) -> LocalHypervisor | Hypervisor:
        """What powers its VMs."""
        return self.hypervisor if self.elsewhere is None else self.elsewhere.platform.hypervisor

    # -- building ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        spec, folder = self.spec, self.folder
        self.state = StateFile(folder / "state.json")
        self.state.put(lives=self.state.state.lives + 1)
        if self._recorded:
            path = folder / "transcripts" / f"life-{self.state.state.lives}.gz"
            self.transcript = Transcript(path, spec.site, max_steps=spec.tweaks.max_steps)
        self.site = Site(spec.site, folder, tweaks=spec.tweaks, trace=self.transcript)
        if self.transcript is not None:
            self.site.listeners.append(self.transcript.told)
        self.site.observers.append(self._observe)
        store = self.site.journals = JournalStore(folder / "journals", [])
        self.distrust = Distrust(self, store)
        journals = [each.spec for each in store.streams.values()]
        self.splitter = Splitter(lambda why: self.refused(why))
        self.own.open()
        for host in spec.hosts:
            self._add_vras(host, journals)
        for vpg in self.state.state.vpgs.values():
            self._add_vpg(vpg, fresh=False)
        socket = folder / "nbd.sock"
        self.splitter.listen_unix(socket)
        self.hypervisor = LocalHypervisor(folder / "vms", socket, accel=spec.accel, networks=spec.networks)
        self.own.describe()
        self.desk = Desk(self)
        self.reversal, self.restoring = Reversal(self), Restoring(self)
        self.recoveries = Recoveries(self)

    def _add_vras(self, host: str, journals: list[StreamSpec]) -> None:
        site, spec, state = self.site, self.spec, self.state.state
        pool, tweaks = spec.hosts[host].pool, spec.tweaks
        mine = [vpg for vpg in state.vpgs.values() if vpg.vpg.source == spec.site]
        address = vra_address(spec.site, host)
        streams = [s for vpg in mine for s in streams_of(vpg.vpg) if s.id.source == address]
        starts = {s.id: Start.CRASHED for s in streams}
        versions = {vpg.vpg.name: vpg.vpg.version for vpg in mine}
        self.add(
            address, ProtectedVra, address, Managers(spec.site), streams, pool_bytes=pool, tweaks=tweaks,
            starts=starts, versions=versions,
        )  # fmt: skip
        for stream in streams:
            site.tap(stream)
        address = recovery_vra_address(spec.site, host)
        assert site.journals is not None
        theirs = [s for s in journals if s.id.target == address]
        held = {s.id: site.journals.streams[s.id].held() for s in theirs}
        generations = {name: vpg.generation for name, vpg in state.vpgs.items()}
        self.add(
            address, RecoveryVra, address, Catalogs(spec.site), theirs, pool_bytes=pool, tweaks=tweaks, durable=held,
            generations=generations,
        )  # fmt: skip

    def add(self, address: Address, make: Callable[P, Machine], *args: P.args, **named: P.kwargs) -> None:
        """Put a machine on the site; what it is made of goes into the transcript."""
        if self.transcript is not None:
            self.transcript.made(address, make, args, named)
        self.site.add(address, make(*args, **named))

    def _add_vpg(self, known: VpgState, *, fresh: bool) -> None:
        """The machine that this site has of a VPG, and who talks to whom."""
        vpg, site, tweaks = known.vpg, self.site, self.spec.tweaks
        manager, catalog = self.manager(vpg.name), self.catalog(vpg.name)
        pairs = [(manager, catalog), *((s.id.source, s.id.target) for s in streams_of(vpg))]
        if vpg.source == self.spec.site:
            vras = sorted({s.id.source for s in streams_of(vpg)})
            first = CheckpointId(1 if fresh else 1 + LIFE * (self.state.state.lives - 1))
            configured = None if fresh else Reconfigured(vpg.version, tuple(streams_of(vpg)), {})
            paused = known.paused or (self.elsewhere is not None and self.elsewhere.pauses(known))
            self.add(
                manager, Vpg, manager, vpg.name, vras, catalog, interval=Ns(vpg.interval), rpo_alert=Ns(vpg.rpo_alert),
                history=Ns(vpg.history), tweaks=tweaks, first=first, creating=known.creating, paused=paused,
                configured=configured, deleting=known.deleting, epochs=vpg.epochs is not None,
            )  # fmt: skip
            site.peers += pairs
            if self.elsewhere is not None:
                self._work(self.elsewhere.capture(vpg.name))
            return
        store = CatalogStore(self.folder / "catalogs" / f"{vpg.name}.json")
        if vpg.name in self.distrust.vpgs():
            store.forget(None)
        site.catalogs[vpg.name] = store
        pins = [CheckpointId(n) for n in known.pins]
        assert site.journals is not None
        held = [*(s for s in site.journals.streams if s.vpg == vpg.name), *(s.id for s in streams_of(vpg))]
        self.add(
            catalog, Catalog, catalog, vpg.name, manager, list(dict.fromkeys(held)),
            retention=Retention(Ns(vpg.history)), tweaks=tweaks,
            kept=None if fresh else tuple(store.checkpoints.values()), pins=pins, deleting=known.deleting,
            generation=known.generation, fenced=known.fenced,
        )  # fmt: skip
        site.peers += [(there, here) for here, there in pairs]

    # -- names ------------------------------------------------------------------------------------------------

    def manager(self, vpg: str) -> Address:
        """The address of a VPG's manager. Raises FileError when no VPG has this name."""
        return vpg_address(self.known(vpg).vpg.source, vpg)

    def catalog(self, vpg: str) -> Address:
        """The address of its catalogue."""
        return catalog_address(self.known(vpg).vpg.target, vpg)

    def known(self, vpg: str) -> VpgState:
        """What is remembered of a VPG. Raises FileError when there is none of this name."""
        found = self.state.state.vpgs.get(vpg)
        if found is None:
            names = ", ".join(self.state.state.vpgs) or "none"
            raise FileError(f"no VPG is called {vpg!r}", place=self.spec.site, hint=f"there is: {names}")
        return found

    def listed(self, vpg: str) -> list[Checkpoint]:
        """Checkpoints that can be recovered from, oldest first; at the recovery site."""
        machine = self.site.kernel.machines.get(self.catalog(vpg))
        if not isinstance(machine, Catalog):
            raise FileError(
                f"the checkpoints of {vpg} are at site {self.known(vpg).vpg.target}", place=self.spec.site,
                hint="ask there",
            )  # fmt: skip
        return list(machine.listed)

    # -- what operators want ----------------------------------------------------------------------------------

    async def protect(self, vpg: LiveVpg) -> None:
        """Begin to protect. Raises FileError or PlatformError, and nothing was begun."""
        if vpg.name in self.state.state.vpgs:
            raise FileError(f"a VPG is called {vpg.name} already", place=self.spec.site)
        taken = {vm.name: p.vpg.name for p in self.state.state.vpgs.values() for vm in p.vpg.vms}
        for vm in vpg.vms:
            if vm.name in taken:
                raise FileError(f"VM {vm.name} is in VPG {taken[vm.name]} already", place=self.spec.site)
        await self.desk.ask(Adopt(vpg=vpg))
        known = VpgState(vpg=vpg)
        self.adopt(known)
        starts = {s.id: Start.INITIAL for s in streams_of(vpg)}
        self.site.post(self.manager(vpg.name), Reconfigured(vpg.version, tuple(streams_of(vpg)), starts))

    def adopt(self, known: VpgState) -> None:
        """Remember a new VPG, and begin its machine here. Doing it again changes nothing."""
        name = known.vpg.name
        if name in self.state.state.vpgs:
            if self.known(name).vpg != known.vpg:
                raise FileError(f"another VPG is called {name} here", place=self.spec.site)
            return
        missing = {vm.target for vm in known.vpg.vms} - set(self.spec.hosts)
        if known.vpg.target == self.spec.site and missing:
            hosts = ", ".join(self.spec.hosts)
            raise FileError(f"there is no host {missing.pop()} here", place=self.spec.site, hint=f"there is: {hosts}")
        made = max(self.state.state.made, known.vpg.number)
        self.state.put(vpgs={**self.state.state.vpgs, name: known}, made=made)
        self.begin_vpg(name)

    def begin_vpg(self, name: str) -> None:
        """Begin the machine of a VPG that is new in the state."""
        known = self.known(name)
        self._add_vpg(known, fresh=True)
        self.site.begin(self.manager(name) if known.vpg.source == self.spec.site else self.catalog(name))

    def tag(self, vpg: str, tag: str) -> None:
        """Ask for a checkpoint under a name; at the source."""
        self.site.post(self._at_source(vpg), TagAsked(tag))

    def pause(self, vpg: str, *, paused: bool) -> None:
        """Pause replication, or let it go on; at the source."""
        address = self._at_source(vpg)
        self.state.vpg(vpg, lambda known: known.model_copy(update={"paused": paused}))
        waits = self.elsewhere is not None and self.elsewhere.pauses(self.known(vpg))
        self.site.post(address, PauseAsked(paused or waits))

    def force_sync(self, vpg: str) -> None:
        """Compare everything with the other side; at the source."""
        self.site.post(self._at_source(vpg), SyncAsked())

    def delete(self, vpg: str, *, keep_disks: bool) -> None:
        """Delete a VPG on both sides; at the source."""
        address = self._at_source(vpg)
        self.state.vpg(vpg, lambda known: known.model_copy(update={"deleting": keep_disks}))
        self.site.post(address, DeleteAsked(keep_disks))

    def _at_source(self, vpg: str) -> Address:
        known = self.known(vpg)
        if known.vpg.source != self.spec.site:
            raise FileError(
                f"VPG {vpg} is protected at site {known.vpg.source}", place=self.spec.site, hint="ask there"
            )
        return self.manager(vpg)

    def _observe(self, now: Ns, fact: Fact) -> None:
        self.facts.append((now, fact))
        del self.facts[:-1000]
        match fact:
            case StateChanged(vpg, regions) if vpg in self.state.state.vpgs:
                creating = regions.lifecycle is Lifecycle.CREATING
                if self.known(vpg).creating and not creating:
                    self.state.vpg(vpg, lambda known: known.model_copy(update={"creating": False}))
            case EpochDue(vpg) if self.elsewhere is not None:
                self.elsewhere.due(vpg)
            case VpgDeleted(vpg):
                self._work(self._drop(vpg))
            case _:
                pass

    def _work(self, work: Coroutine[None, None, None]) -> None:
        """Something that takes time, beside; a mistake stops the site."""

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.site.failed(error)

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)

    async def _drop(self, vpg: str) -> None:
        """The other side may forget a deleted VPG, and then so do we."""
        await self.desk.insist(Drop(vpg=vpg))
        self.forget(vpg)

    async def _delete_again(self, known: VpgState) -> None:
        """A deletion of an earlier life goes on; the other side may have ended it, and then has to hear of it again."""
        assert known.deleting is not None
        await self.desk.insist(Adopt(vpg=known.vpg))
        self.site.post(self.manager(known.vpg.name), DeleteAsked(known.deleting))

    def forget(self, vpg: str) -> None:
        """A VPG is gone: nothing of it is remembered."""
        if vpg not in self.state.state.vpgs:
            return
        here = self.manager(vpg) if self.known(vpg).vpg.source == self.spec.site else self.catalog(vpg)
        self.site.peers = [pair for pair in self.site.peers if here not in pair]
        self.site.remove(here)
        self.site.catalogs.pop(vpg, None)
        if self.elsewhere is not None:
            self._work(self.elsewhere.forget(self.known(vpg)))
        self.state.vpg(vpg, lambda known: None)
        (self.folder / "catalogs" / f"{vpg}.json").unlink(missing_ok=True)
