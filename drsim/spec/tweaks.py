"""Tweaks: every tunable of the core, with its default, its legal range and the reason for it."""

from typing import Annotated

from pydantic import Field

from drsim.spec.base import Spec
from drsim.spec.quantity import Duration, Ratio, Size

MS, S, MIN = 10**6, 10**9, 60 * 10**9
KIB, MIB = 1 << 10, 1 << 20


class Tweaks(Spec):
    """Tunables of the replication core. Sweep them by name: `--set tweaks.hold_budget="10 ms"`."""

    hold_budget: Annotated[Duration, Field(ge=MS, le=1000 * MS)] = 20 * MS
    """Longest time a VRA withholds guest acknowledgements for one checkpoint (PROTOCOL 3: 20 ms)."""

    freeze_timeout: Annotated[Duration, Field(ge=10 * MS, le=600 * S)] = 60 * S
    """Longest time applications stay frozen for one checkpoint; half of it is for getting there.

    As long as VSS lets a writer be frozen by default (dwTimeoutFreeze of CVssWriter::Initialize: 60 s).
    """

    frame_delay: Annotated[Duration, Field(ge=0, le=60 * S)] = 5 * MS
    """Longest time a captured write waits for company in its frame. Our choice: well under a WAN round trip."""

    frame_bytes: Annotated[Size, Field(ge=4 * KIB, le=64 * MIB)] = 2 * MIB
    """A frame is cut when its writes reach this size. Our choice: several fit the window, so the link stays busy."""

    frame_writes: Annotated[int, Field(ge=1, le=65536)] = 4096
    """A frame is cut at this many writes. Our choice: columns are fast from about 500 writes."""

    window_bytes: Annotated[Size, Field(ge=64 * KIB, le=1024 * MIB)] = 16 * MIB
    """Sent and not yet acknowledged, per stream. Our choice: covers 1 Gbit/s x 100 ms."""

    window_frames: Annotated[int, Field(ge=1, le=65536)] = 1024
    """Frames sent and not yet acknowledged, per stream."""

    buffer_use_protect: Annotated[Ratio, Field(gt=0, le=1)] = 0.90
    """Share of the VRA's pool that outgoing data may fill before bitmap sync (products.md 1.6: 90 %)."""

    buffer_use_recover: Annotated[Ratio, Field(gt=0, le=1)] = 0.75
    """Share of the VRA's pool that arriving data may fill before it refuses more (products.md 1.6: 75 %)."""

    retry_pause: Annotated[Duration, Field(ge=MS, le=60 * S)] = 1 * S
    """How long a VRA waits before it tries a store or disk again that failed. Our choice."""

    limit_margin: Annotated[Ratio, Field(gt=0, le=0.5)] = 0.05
    """A journal asks for early aging when less than this share of its hard limit is free. Our choice."""

    region_bytes: Annotated[Size, Field(ge=512, le=64 * MIB)] = 4 * KIB
    """Bytes that one bit of the dirty bitmap stands for (as DRBD's bitmap: 4 KiB a bit)."""

    bitmap_regions: Annotated[int, Field(ge=1)] = 1 << 25
    """Regions that one stream's bitmap has memory for; beyond, it is given up for a delta sync. Our choice: 256 MiB."""

    compare_bytes: Annotated[Size, Field(ge=512, le=1024 * MIB)] = 64 * MIB
    """How much of the disks is compared by one exchange of digests. Our choice: hides a round trip of 20 ms."""

    sync_bytes: Annotated[Size, Field(ge=4 * KIB, le=64 * MIB)] = 4 * MIB
    """Most dirty data read for one sync frame. Our choice: keeps live frames from waiting behind it."""

    sync_tail: Annotated[Ratio, Field(ge=0, le=0.5)] = 0.10
    """A bitmap sync numbers new writes again when what is left fits in this share of the pool."""

    history_while_filling: bool = False
    """Whether a history that is still filling misses its service level (products.md 1.3 leaves it open)."""

    pause_checkpoints: Annotated[int, Field(ge=1)] = 200
    """A sync is paused when so few checkpoints are left (products.md 1.3, T7: 200)."""

    replication_pause: Annotated[Duration, Field(ge=0, le=24 * 60 * MIN)] = 0
    """For how long a sync is paused then; 0: never (products.md 1.3, T7: "replication pause time")."""

    peer_timeout: Annotated[Duration, Field(ge=10 * MS, le=3600 * S)] = 10 * S
    """Silence after which a peer counts as lost. Our choice: two checkpoint intervals."""

    age_interval: Annotated[Duration, Field(ge=S, le=3600 * S)] = 60 * S
    """How often checkpoints leave the history and their data is applied to the mirror disks."""

    max_steps: Annotated[int, Field(ge=100)] = 10_000_000
    """Steps that the kernel runs at one instant before it reports a livelock."""
