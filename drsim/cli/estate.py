"""What an estate's file says of a VPG, as a real site's manager is asked to protect it."""

from pathlib import Path
from typing import Any

from drsim.core.errors import FileError
from drsim.files.estate import vpg_of_estate
from drsim.files.models import load_model
from drsim.files.sites import SitePath

SECOND = 10**9


def of_estate(site: Path, name: str) -> dict[str, Any]:
    """What the API is asked to protect. Raises FileError."""
    path = SitePath.of(site)
    if not path.site:
        raise FileError("say which VMs, and which host would run them", place="--vm, --to", hint="or use an estate")
    spec = vpg_of_estate(load_model(path.file), name, place=str(path.file))
    return {
        "name": name, "vms": spec.vms, "target_host": spec.recovery.hosts, "journal_bytes": spec.journal.limit_bytes,
        "interval": spec.checkpoint_interval / SECOND, "history": spec.journal.history / SECOND,
        "rpo_alert": spec.rpo_alert / SECOND, "boot_delay": spec.boot_delay / SECOND,
        "groups": {vm: n for n, group in enumerate(spec.boot_groups, 1) for vm in group},
    }  # fmt: skip
