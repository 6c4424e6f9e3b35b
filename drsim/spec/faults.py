"""Faults on a timeline: what fails, when, for how long."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from drsim.spec.base import Name, Spec
from drsim.spec.quantity import Bandwidth, Duration, Ratio


class _At(Spec):
    at: Annotated[Duration, Field(ge=0)]
    """Time since the start of the run."""


class _Lasting(_At):
    lasts: Annotated[Duration, Field(gt=0)]
    """How long it lasts."""


class LinkDown(_Lasting):
    """A WAN link carries nothing."""

    kind: Literal["link-down"] = "link-down"
    link: Name
    """Which link."""


class LinkDegraded(_Lasting):
    """A WAN link is slower, longer or lossier than usual; what is not given stays as it is."""

    kind: Literal["link-degraded"] = "link-degraded"
    link: Name
    """Which link."""
    bandwidth: Annotated[Bandwidth, Field(gt=0)] | None = None
    """Bandwidth while degraded."""
    latency: Annotated[Duration, Field(ge=0)] | None = None
    """One-way latency while degraded."""
    loss: Annotated[Ratio, Field(ge=0, lt=1)] | None = None
    """Packet loss while degraded."""

    @model_validator(mode="after")
    def _says_something(self) -> "LinkDegraded":
        if self.bandwidth is None and self.latency is None and self.loss is None:
            raise ValueError("say what is degraded: bandwidth, latency or loss")
        return self


class LinkFlapping(_Lasting):
    """A WAN link goes down and up again and again."""

    kind: Literal["link-flapping"] = "link-flapping"
    link: Name
    """Which link."""
    down: Annotated[Duration, Field(gt=0)]
    """Length of each outage."""
    up: Annotated[Duration, Field(gt=0)]
    """Length of each time between outages."""


class VraRestart(_Lasting):
    """A VRA stops in good order and starts again: what it had in memory goes to its bitmap."""

    kind: Literal["vra-restart"] = "vra-restart"
    host: Name
    """The VRA's host, on either side."""


class DatastoreFull(_Lasting):
    """A datastore takes no further byte; journals on it cannot grow."""

    kind: Literal["datastore-full"] = "datastore-full"
    datastore: Name
    """Which datastore."""


class SiteLoss(_At):
    """Everything on a site stops, for ever."""

    kind: Literal["site-loss"] = "site-loss"
    site: Name
    """Which site."""


Fault = Annotated[
    LinkDown | LinkDegraded | LinkFlapping | VraRestart | DatastoreFull | SiteLoss, Field(discriminator="kind")
]
