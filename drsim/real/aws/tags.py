"""Tags: what is written on everything that drsim makes at AWS, in the call that makes it."""

from collections.abc import Mapping
from typing import Any

OWNER, NAME, VM = "drsim:owner", "drsim:name", "drsim:vm"
HOST, STORE = "drsim:host", "drsim:store"
GENERATION = "drsim:generation"
"""Of an instance, and of its adapters: a VM that gets other adapters is launched anew (`hypervisor.py`)."""
STUB = "drsim:stub"
"""On an instance that still has the disk it was launched with, and on that disk; its token."""
EPOCH, ENDED = "drsim:epoch", "drsim:ended"


def written(**given: str) -> dict[str, str]:
    """Tags by their short names: owner, name, vm ..."""
    return {f"drsim:{name}": value for name, value in given.items()}


def listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """As AWS wants them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def on(kind: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """A TagSpecification for one kind of thing."""
    return {"ResourceType": kind, "Tags": listed(tags)}


def read(facts: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a thing that AWS describes."""
    return {tag["Key"]: tag["Value"] for tag in facts.get("Tags", facts.get("TagSet", []))}


def having(**given: str) -> list[dict[str, Any]]:
    """Filters for things with these tags of ours."""
    return [{"Name": f"tag:drsim:{name}", "Values": [value]} for name, value in given.items()]
