"""Distrust: what becomes of journals that do not verify when a site comes up, and of the VPGs that they were of.

A stream whose files do not verify is set aside (`journal_store.py`), the rest of the site comes up. Of its VPG nothing
can be rebuilt for all VMs any more, so its checkpoints are forgotten. The source believes that everything it had sent
is there: it is told otherwise in the first frame of every connection, before its machines hear of the connection, and
compares everything. When a checkpoint is listed again, that is over. All of it is durable before the site comes up.
"""

from typing import TYPE_CHECKING

from drsim.core.errors import PlatformError
from drsim.core.events import SyncAsked
from drsim.core.facts import CheckpointListed, Fact
from drsim.core.units import Ns
from drsim.real.journal_store import JournalStore

if TYPE_CHECKING:
    from drsim.real.installation import Installation


class Distrust:
    """A site's. `damaged`: streams that were set aside in this life, and why."""

    def __init__(self, site: "Installation", journals: JournalStore) -> None:
        self._site = site
        self.damaged: dict[str, PlatformError] = journals.open_found()
        theirs = {stream.partition(":")[0] for stream in self.damaged}
        self._put({*self.vpgs(), *theirs} & set(site.state.state.vpgs))
        site.site.distrust = self
        site.site.observers.append(self._observe)

    def vpgs(self) -> tuple[str, ...]:
        """VPGs of which something that was durable here is not."""
        return self._site.state.state.distrusted

    def heard(self, vpgs: tuple[str, ...]) -> None:
        """The other site has lost something of these VPGs: everything is compared of those that are ours."""
        for vpg in vpgs:
            known = self._site.state.state.vpgs.get(vpg)
            if known is not None and known.vpg.source == self._site.spec.site:
                self._site.site.post(self._site.manager(vpg), SyncAsked())

    def _observe(self, now: Ns, fact: Fact) -> None:
        if isinstance(fact, CheckpointListed) and fact.vpg in self.vpgs():
            self._put(set(self.vpgs()) - {fact.vpg})

    def _put(self, vpgs: set[str]) -> None:
        if set(self.vpgs()) != vpgs:
            self._site.state.put(distrusted=tuple(sorted(vpgs)))
