"""Scrub: read everything again that a recovery may need, and say what of it does not verify.

    what                             by
    -------------------------------  ------------------------------------------------------------
    what a stream is                 its seal (`journal_store.py`)
    state of a stream, promotions    entries that number themselves (`ledger.py`)
    the journals' records            their envelopes, and where they belong (`vm_log.py`)
    mirrors                          a checksum of every sector (`mirror.py`)
    what the site remembers          a checksum, and what the site holds (`state.py`)
    the lists of checkpoints         a checksum, and what the manager holds (`catalog_store.py`)

A site that runs scrubs itself, each stream in its lane between other work: nothing is read while it is written. Of a
site that does not run the files are opened as it would open them, under its lock, and one that does not open is what
is found; the rest is looked through all the same. Nothing is repaired: what is found is evidence.

Not compared: disks of recovered VMs, which their guests change, and kept mirrors, which are nobody's any more.
"""

from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsim.core.errors import PlatformError
from drsim.real.catalog_store import CatalogStore
from drsim.real.files import blame, noted
from drsim.real.journal_store import places, spec_in
from drsim.real.state import StateFile
from drsim.real.stream_store import StreamStore

if TYPE_CHECKING:
    from drsim.real.installation import Installation


@dataclass(slots=True)
class Scrubbed:
    """How much was looked through, and what was found."""

    streams: int = 0
    catalogs: int = 0
    flaws: list[PlatformError] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        flaws = [{"place": e.place, "what": e.message, "hint": e.hint} for e in self.flaws]
        return {"streams": self.streams, "catalogs": self.catalogs, "flaws": flaws}


async def scrub_site(site: "Installation") -> Scrubbed:
    """A site that runs."""
    done, journals = Scrubbed(), site.site.journals
    assert journals is not None
    for stream in list(journals.streams):
        with noted(done.flaws):
            done.flaws += await site.site.lane(f"journal {stream}").call(partial(journals.scrub, stream))
        done.streams += 1
    for name, catalog in list(site.site.catalogs.items()):
        with noted(done.flaws):
            await site.site.lane(f"catalog {name}").call(catalog.verify)
        done.catalogs += 1
    with noted(done.flaws):
        site.state.verify()
    return done


def scrub_folder(folder: Path) -> Scrubbed:
    """The folder of a site that does not run: its lock is the caller's. Raises PlatformError."""
    done = Scrubbed()
    with noted(done.flaws):
        StateFile(folder / "state.json")
    with blame(folder):
        for place in places(folder / "journals"):
            with noted(done.flaws), closing(StreamStore(place, spec_in(place))) as store:
                done.flaws += store.scrub()
            done.streams += 1
        for path in sorted((folder / "catalogs").glob("*.json")):
            with noted(done.flaws):
                CatalogStore(path)
            done.catalogs += 1
    return done
