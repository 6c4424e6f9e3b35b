"""Faults on a timeline: what fails, when, for how long.

A fault names its place by one of the fields `link`, `host`, `datastore`, `site`, `vm`; the model checks these names.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from drsim.spec.base import Name, Spec
from drsim.spec.quantity import Bandwidth, Duration, Ratio, Size

PLACES = ("link", "host", "datastore", "site", "vm")
"""Fields by which a fault names its place, the most telling first."""


class _At(Spec):
    at: Annotated[Duration, Field(ge=0)]
    """Time since the start of the run."""

    @property
    def words(self) -> str:
        """What and where, in a few words for a picture: "datastore slow dr-store"."""
        place = next((getattr(self, field) for field in PLACES if hasattr(self, field)), "")
        return f"{getattr(self, 'kind', '').replace('-', ' ').replace('vra', 'VRA')} {place}".strip()


class _Lasting(_At):
    lasts: Annotated[Duration, Field(gt=0)]
    """How long it lasts."""


class _Instant(_At):
    @property
    def lasts(self) -> int:
        """Nothing: what it changed stays changed, or mends itself."""
        return 0


# -- the wire -------------------------------------------------------------------------------------------------------


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
    jitter: Annotated[Duration, Field(ge=0, le=10 * 10**9)] | None = None
    """Mean of the exponential delay on top while degraded."""

    @model_validator(mode="after")
    def _says_something(self) -> "LinkDegraded":
        if self.bandwidth is None and self.latency is None and self.loss is None and self.jitter is None:
            raise ValueError("say what is degraded: bandwidth, latency, loss or jitter")
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


class LinkPartition(_Lasting):
    """One direction of a WAN link carries nothing; connections are half open until the peer timeout."""

    kind: Literal["link-partition"] = "link-partition"
    link: Name
    """Which link."""
    site: Name
    """Whose messages do not arrive."""


class HalfOpen(_Instant):
    """Every connection over a WAN link is dead at once and nobody notices: a firewall forgot them.

    What is sent vanishes until the peer timeout; new connections work.
    """

    kind: Literal["half-open"] = "half-open"
    link: Name
    """Which link."""


class DataPlaneDown(_Lasting):
    """The VRAs cannot reach each other over a WAN link; the managers can (the data port is blocked)."""

    kind: Literal["data-plane-down"] = "data-plane-down"
    link: Name
    """Which link."""


class ControlPlaneDown(_Lasting):
    """The managers cannot reach each other over a WAN link; the VRAs can (the control port is blocked)."""

    kind: Literal["control-plane-down"] = "control-plane-down"
    link: Name
    """Which link."""


class LatencyTail(_Lasting):
    """Some messages over a WAN link come late; those behind them wait, as on one TCP connection."""

    kind: Literal["latency-tail"] = "latency-tail"
    link: Name
    """Which link."""
    share: Annotated[Ratio, Field(gt=0, le=1)]
    """Share of the messages that come late."""
    delay: Annotated[Duration, Field(gt=0)]
    """Mean of their exponential extra delay."""


# -- VRAs, managers, hosts, sites -------------------------------------------------------------------------------------


class VraRestart(_Lasting):
    """A VRA stops in good order and starts again: what it had in memory goes to its bitmap."""

    kind: Literal["vra-restart"] = "vra-restart"
    host: Name
    """The VRA's host, on either side."""


class VraUpgrade(_Lasting):
    """All VRAs of a site restart in good order, one after another; each is away for `lasts`."""

    kind: Literal["vra-upgrade"] = "vra-upgrade"
    site: Name
    """Whose VRAs."""
    pause: Annotated[Duration, Field(ge=0)] = 60 * 10**9
    """Between the return of one and the restart of the next. Our choice: 1 min, in which it synchronizes."""


class VraCrash(_Lasting):
    """A VRA dies with all its memory, its bitmap included, and is built again from what is durable."""

    kind: Literal["vra-crash"] = "vra-crash"
    host: Name
    """The VRA's host, on either side."""
    noticed: Annotated[Duration, Field(ge=0)] | None = None
    """When its peers notice: after the peer timeout when not said. A process that dies on a machine that lives is
    missed at once: its connections are closed."""


class VraSlow(_Lasting):
    """A VRA is slow and not dead: each message from and to it is that much later."""

    kind: Literal["vra-slow"] = "vra-slow"
    host: Name
    """The VRA's host, on either side."""
    delay: Annotated[Duration, Field(gt=0)]
    """Extra delay of each message."""


class ManagerCrash(_Lasting):
    """A site's manager dies, and is built again from its durable list of checkpoints. VRAs and guests go on."""

    kind: Literal["manager-crash"] = "manager-crash"
    site: Name
    """Whose manager."""


class Restart(Spec):
    """The platform's high availability starts the VMs of a lost host on another one, where they stay."""

    on: Name
    """The host."""
    after: Annotated[Duration, Field(ge=0)] = 120 * 10**9
    """Since the loss. Our choice: 2 min, to notice it and to boot."""


class HostLoss(_Lasting):
    """A host is gone with its VRA; its protected VMs write nothing. It comes back as after a crash."""

    kind: Literal["host-loss"] = "host-loss"
    host: Name
    """Which host, on either side."""
    restart: Restart | None = None
    """Where its VMs start again; else they wait until the host is back."""


class SiteLoss(_At):
    """Everything on a site stops, for ever."""

    kind: Literal["site-loss"] = "site-loss"
    site: Name
    """Which site."""


# -- stores -----------------------------------------------------------------------------------------------------------


class _StoreFault(_Lasting):
    datastore: Name
    """Which datastore."""


class DatastoreFull(_StoreFault):
    """A datastore takes no further byte; journals on it cannot grow."""

    kind: Literal["datastore-full"] = "datastore-full"


class DatastoreSlow(_StoreFault):
    """A datastore is slower than usual, for guests too."""

    kind: Literal["datastore-slow"] = "datastore-slow"
    latency: Annotated[float, Field(ge=1)] = 1.0
    """So many times the latency of an idle I/O."""
    iops: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    """Share of the I/Os per second that is left."""
    bandwidth: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    """Share of the bandwidth that is left."""

    @model_validator(mode="after")
    def _says_something(self) -> "DatastoreSlow":
        if self.latency == self.iops == self.bandwidth == 1:
            raise ValueError("say what is slow: latency (times), iops or bandwidth (share that is left)")
        return self


class DatastoreGone(_StoreFault):
    """Every I/O on a datastore fails; guests on it stand still. What it holds is there again afterwards."""

    kind: Literal["datastore-gone"] = "datastore-gone"


class DatastoreReadOnly(_StoreFault):
    """A recovery datastore can be read, but every write of a VRA to it fails."""

    kind: Literal["datastore-read-only"] = "datastore-read-only"


class DatastoreHung(_StoreFault):
    """I/Os on a datastore hang; their answers come when it ends. Guests on it stand still."""

    kind: Literal["datastore-hung"] = "datastore-hung"


class DatastoreEnlarged(_Instant):
    """A datastore gets more room, for good. Say `by` how much or `to` what size."""

    kind: Literal["datastore-enlarged"] = "datastore-enlarged"
    datastore: Name
    """Which datastore."""
    by: Annotated[Size, Field(gt=0)] | None = None
    """How much room is added."""
    to: Annotated[Size, Field(gt=0)] | None = None
    """How much room there is then."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "DatastoreEnlarged":
        if (self.by is None) == (self.to is None):
            raise ValueError("say either `by` how much the datastore grows or `to` what size")
        return self


class ReadErrors(_StoreFault):
    """Some reads of VRAs from a datastore fail: what a sync reads on the protected side, digests on either."""

    kind: Literal["read-errors"] = "read-errors"
    share: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    """Share of the reads that fail."""


# -- guests -----------------------------------------------------------------------------------------------------------


class _GuestFault(_Lasting):
    vm: Name
    """Which VM; one with a `count` stands for all of them."""


class GuestBurst(_GuestFault):
    """A guest does everything faster: so many times the writes in the same time."""

    kind: Literal["guest-burst"] = "guest-burst"
    factor: Annotated[float, Field(ge=0.001, le=1000)]
    """How many times as fast; rounded to thousandths."""


class GuestPause(_GuestFault):
    """A guest stands still (suspended, or its snapshot is consolidated), and then goes on where it was."""

    kind: Literal["guest-pause"] = "guest-pause"


class GuestCrash(_GuestFault):
    """A guest is off: what it would have written meanwhile is never written."""

    kind: Literal["guest-crash"] = "guest-crash"


# -- time -------------------------------------------------------------------------------------------------------------


class ClockStep(_Instant):
    """The clocks of a site jump ahead, for good."""

    kind: Literal["clock-step"] = "clock-step"
    site: Name
    """Whose clocks."""
    by: Annotated[Duration, Field(gt=0)]
    """How far."""


Fault = Annotated[
    LinkDown | LinkDegraded | LinkFlapping | LinkPartition | HalfOpen | DataPlaneDown | ControlPlaneDown | LatencyTail
    | VraRestart | VraUpgrade | VraCrash | VraSlow | ManagerCrash | HostLoss | SiteLoss
    | DatastoreFull | DatastoreSlow | DatastoreGone | DatastoreReadOnly | DatastoreHung | DatastoreEnlarged | ReadErrors
    | GuestBurst | GuestPause | GuestCrash | ClockStep,
    Field(discriminator="kind"),
]  # fmt: skip
