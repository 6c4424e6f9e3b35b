"""Complaint: what a person reads when a program failed. The property, what was seen, and how to see it again."""

from drsim.verify.properties import PROPERTIES
from drsim.verify.swarm import Found


def demand(prop: str) -> str:
    """What a property demands. A verdict "core" names none: then the core itself raised."""
    return PROPERTIES.get(prop, "the core raises no error, whatever its peers and platforms do")


def complaint(found: Found) -> str:
    """A failure in a few lines, to be printed as they stand."""
    prop = found.verdict.prop
    operations = "1 operation" if found.operations == 1 else f"{found.operations} operations"
    return "\n".join(
        (
            f"{prop if prop in PROPERTIES else 'drsim'} does not hold: {demand(prop)}",
            "",
            f"  seen     {found.verdict.message}",
            f"  after    {operations}: what is left of {found.kind} program {found.seed}",
            f"  token    {found.token}",
            f"  replay   drsim replay {found.token}",
            f"  explain  drsim explain {found.token} --svg story.svg",
        )
    )
