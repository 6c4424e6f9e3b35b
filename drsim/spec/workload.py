"""Workloads: what a VM writes. Plain ones for tests, a generator fitted to real disks, and recorded traces."""

from typing import Annotated, Literal

from pydantic import Field

from drsim.spec.base import Spec
from drsim.spec.quantity import Duration, Ratio, Size

SECTOR = 512

TraceFormat = Literal["vscsi", "msr", "alibaba", "tencent", "ssdsim", "fio", "blkparse", "churn"]


class SizeMix(Spec):
    """One write size and its share of all writes."""

    size: Annotated[Size, Field(ge=SECTOR, le=32 << 20, multiple_of=SECTOR)]
    """Bytes; a multiple of the 512-byte sector."""
    share: Annotated[Ratio, Field(gt=0, le=1)]
    """Share of the writes."""


class Plain(Spec):
    """What the plain workloads share."""

    rate: Annotated[float, Field(gt=0, le=1e7)]
    """Writes per second."""
    size: Annotated[Size, Field(ge=SECTOR, le=32 << 20, multiple_of=SECTOR)] = 4096
    """Bytes of each write."""
    pattern: Literal["sequential", "uniform"] = "sequential"
    """Where the writes go: one after another, or anywhere on the working set."""
    working_set: Annotated[Size, Field(ge=SECTOR)] | None = None
    """Bytes at the start of the disk that are written; the whole disk by default."""
    compress_to: Annotated[Ratio, Field(gt=0, le=1)] = 0.6
    """Compressed size over size (Zerto's planning example: 40 % saved, products.md 1.9)."""


class Constant(Plain):
    """Equal writes at equal distances."""

    kind: Literal["constant"] = "constant"


class Poisson(Plain):
    """Equal writes at random: exponential distances."""

    kind: Literal["poisson"] = "poisson"


class OnOff(Plain):
    """Poisson writes in on-periods, silence in off-periods (both of fixed length)."""

    kind: Literal["onoff"] = "onoff"
    on: Annotated[Duration, Field(gt=0)]
    """Length of an on-period; `rate` is the rate inside it."""
    off: Annotated[Duration, Field(ge=0)]
    """Length of an off-period."""


class Burst(Spec):
    """Variation of the rate at one time scale: every `scale` a new factor with mean 1 is drawn."""

    scale: Annotated[Duration, Field(gt=0)]
    """How long a factor holds."""
    sigma: Annotated[float, Field(ge=0, le=4)]
    """Standard deviation of the factor's logarithm."""


class Fitted(Spec):
    """The generator fitted to real VMware disks (`drsim fit` prints its parameters and the fit's error)."""

    kind: Literal["fitted"] = "fitted"
    rate: Annotated[float, Field(gt=0, le=1e6)]
    """Mean writes per second."""
    bursts: tuple[Burst, ...] = ()
    """The rate is the mean times the product of these factors."""
    sizes: tuple[SizeMix, ...]
    """The mix of write sizes; shares add up to 1."""
    hot_share: Annotated[Ratio, Field(ge=0, le=1)]
    """Share of the writes that go to the hot set."""
    hot_set: Annotated[Size, Field(ge=SECTOR)]
    """Bytes of the hot set."""
    sequential: Annotated[Ratio, Field(ge=0, le=1)]
    """Share of the writes that continue where the one before ended."""
    working_set: Annotated[Size, Field(ge=SECTOR)]
    """Bytes that are written at all."""
    compress_to: Annotated[Ratio, Field(gt=0, le=1)] = 0.6
    """Compressed size over size."""


class Trace(Spec):
    """Replay of a recorded block trace or of per-interval churn."""

    kind: Literal["trace"] = "trace"
    path: str
    """The trace file; gzip is recognised. Relative to the model file."""
    format: TraceFormat | None = None
    """Recognised by content when absent."""
    device: str | None = None
    """Only this device of a trace that holds several."""
    speed: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Time runs this many times faster; 2 doubles the rate."""
    scale: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Copies of every write (a fraction keeps that share of them)."""
    loop: bool = True
    """Start again at the end."""
    shift: Duration = 0
    """Start this far into the trace, so that one trace feeds many VMs."""
    stagger: Duration = 0
    """Further shift for each next VM that uses the same workload."""
    compress_to: Annotated[Ratio, Field(gt=0, le=1)] = 0.6
    """Compressed size over size."""


Workload = Annotated[Constant | Poisson | OnOff | Fitted | Trace, Field(discriminator="kind")]
