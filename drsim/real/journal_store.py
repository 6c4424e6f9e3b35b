"""JournalStore: the stores of a recovery site's streams, which come and go (`stream_store.py`).

Each stream has a directory of its own, in which a sealed file `spec` says what the stream is: after a restart the
site knows from its disk alone which streams it holds. A stream is discarded by giving its directory a name that
means so, in one step, and deleting it then; what a crash leaves of that is swept up with the next look.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from urllib.parse import quote, unquote

from drsim.core.effects import Discard, Promote, ReadDigests
from drsim.core.errors import PeerError, PlatformError
from drsim.core.messages import Cut, Frame, Position
from drsim.core.names import Extent, StreamId, StreamSpec, VolumeId
from drsim.real.codec import build, plain
from drsim.real.envelope import PRELUDE, opened, prelude, seal
from drsim.real.files import blame, make_directory, noted, replace_file, sync_directory
from drsim.real.stream_store import StreamStore

MAGIC = b"DRSS"
KEPT = "kept"
"""Where the mirrors of a stream lie whose disks were to be kept."""
DAMAGED = "damaged"
"""Where streams lie whose files did not verify, for whoever wants to look; nobody uses them."""
GONE = ".gone"
"""The end of the name of a directory that is being deleted."""


class JournalStore:
    """The stores of a recovery site's streams, under one directory."""

    def __init__(
        self, directory: Path, streams: list[StreamSpec], *, segment_bytes: int = 64 << 20, ledger_bytes: int = 1 << 18
    ) -> None:
        self.directory = directory
        self.streams: dict[StreamId, StreamStore] = {}
        self._bytes = segment_bytes, ledger_bytes
        try:
            for spec in streams:
                self.open(spec)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def found(directory: Path) -> list[StreamSpec]:
        """The streams that were opened under a directory and not discarded. Raises PlatformError."""
        with blame(directory):
            return [spec_in(place) for place in places(directory)]

    def open_found(self) -> dict[str, PlatformError]:
        """Open every stream that is here; give why, by name, for those that are set aside because they do not verify.

        Raises PlatformError when the disk fails: then nothing is known about them.
        """
        damaged: dict[str, PlatformError] = {}
        with blame(self.directory):
            for place in places(self.directory):
                try:
                    self.open(spec_in(place))
                except PlatformError as error:
                    cause = error.__cause__
                    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                        raise
                    damaged[unquote(place.name)] = error
                    make_directory(self.directory / DAMAGED)
                    aside = self.directory / DAMAGED / place.name
                    os.replace(place, next(path for n in count(1) if not (path := aside.with_suffix(f".{n}")).exists()))
                    sync_directory(self.directory / DAMAGED)
        return damaged

    def _place(self, stream: StreamId) -> Path:
        return self.directory / quote(str(stream), safe="")

    def open(self, spec: StreamSpec) -> None:
        """Open a stream, or begin it. Raises PlatformError."""
        if spec.id in self.streams:
            return
        place, (segment_bytes, ledger_bytes) = self._place(spec.id), self._bytes
        with blame(place):
            make_directory(place)
            if not (place / "spec").exists() or spec_in(place) != spec:
                replace_file(place / "spec", seal(MAGIC, json.dumps(plain(spec)).encode()))
        self.streams[spec.id] = StreamStore(place, spec, segment_bytes=segment_bytes, ledger_bytes=ledger_bytes)

    def seed(self, spec: StreamSpec, disks: Mapping[VolumeId, Path]) -> None:
        """Begin a stream with disks that are there for mirrors. Raises PlatformError."""
        self.open(spec)
        self.streams[spec.id].seed(disks)

    def discard(self, stream: StreamId, *, keep_disks: bool) -> None:
        """Delete a stream's journals and mirrors; or apply the journals first, and leave the mirrors in `kept`."""
        store, place = self.streams.pop(stream, None), self._place(stream)
        with blame(place):
            if store is not None:
                if keep_disks:
                    store.promote(store.state.end)
                store.close()
            if not place.exists():
                return
            if keep_disks:
                make_directory(self.directory / KEPT)
                for mirror in place.glob("volume-*.mirror"):
                    os.replace(mirror, self.directory / KEPT / mirror.name)
                sync_directory(self.directory / KEPT)
            gone = place.with_name(place.name + GONE)
            os.replace(place, gone)
            sync_directory(self.directory)
            shutil.rmtree(gone)

    def scrub(self, stream: StreamId) -> list[PlatformError]:
        """What of a stream's files does not verify; nothing when it is not here any more."""
        store = self.streams.get(stream)
        if store is None:
            return []
        place, flaws = store.directory, list[PlatformError]()
        with noted(flaws), blame(place):
            if spec_in(place) != store.spec:
                raise PlatformError("the stream's spec is not what was written", place=str(place / "spec"))
        return [*flaws, *store.scrub()]

    def _store(self, stream: StreamId) -> StreamStore:
        if stream not in self.streams:
            raise PeerError(f"there is no stream {stream} here", hint="do both sites have the same VPGs?")
        return self.streams[stream]

    def perform(self, effect: Promote | ReadDigests | Discard, spec: StreamSpec | None, region_bytes: int) -> object:
        """An effect on a stream, which is opened first if its spec is given; gives what it answers."""
        if spec is not None:
            self.open(spec)
        match effect:
            case Promote(stream, _, upto):
                self.promote(stream, upto)
            case ReadDigests(stream, _, extent):
                return self.digests(stream, extent, region_bytes)
            case Discard(stream, _, keep_disks):
                self.discard(stream, keep_disks=keep_disks)
        return None

    def append(self, *frames: Frame) -> None:
        """See StreamStore.append; of one stream. Raises PeerError for one that is not here, as all methods do."""
        self._store(frames[0].stream).append(*frames)

    def append_all(self, frames: Sequence[Frame], spec: StreamSpec | None) -> list[BaseException | None]:
        """Frames of one stream in order, made durable together; gives what each of them raised, if anything.

        The stream is opened first if its spec is given. When they cannot be there together, each is tried alone.
        """
        try:
            if spec is not None:
                self.open(spec)
            self.append(*frames)
        except Exception as error:
            if len(frames) == 1:
                return [error]
            return [found for frame in frames for found in self.append_all([frame], None)]
        return [None] * len(frames)

    def promote(self, stream: StreamId, upto: Position) -> None:
        """See StreamStore.promote."""
        self._store(stream).promote(upto)

    def digests(self, stream: StreamId, extent: Extent, region_bytes: int) -> bytes:
        """See StreamStore.digests."""
        return self._store(stream).digests(extent, region_bytes)

    def rebuild(self, cut: Mapping[StreamId, Cut], target: Path) -> dict[int, Path]:
        """Image files of every volume at a checkpoint's cut. See StreamStore.rebuild."""
        images: dict[int, Path] = {}
        for stream, part in cut.items():
            images |= self._store(stream).rebuild(part, target)
        return images

    def close(self) -> None:
        """Close all files."""
        for store in self.streams.values():
            store.close()


def places(directory: Path) -> list[Path]:
    """The directories of the streams under one; what is left of discarded ones is deleted. Raises OSError."""
    for place in directory.glob(f"*{GONE}"):
        shutil.rmtree(place)
    found = sorted(path for path in directory.glob("*") if path.is_dir() and path.name not in (KEPT, DAMAGED))
    return [place for place in found if any(path.name != "spec.new" for path in place.iterdir())]


def spec_in(place: Path) -> StreamSpec:
    """What the stream in a directory is. Raises OSError, and PlatformError when its spec does not verify."""
    data = (place / "spec").read_bytes()
    try:
        header, _ = opened(prelude(MAGIC, data), data[PRELUDE:])
        spec: StreamSpec = build(StreamSpec, json.loads(header))
        if quote(str(spec.id), safe="") != place.name:
            raise ValueError(f"it is the spec of {spec.id}")
    except ValueError as error:
        hint = "nothing was changed; put the file back, or discard the stream"
        raise PlatformError(f"the stream's spec is corrupt: {error}", place=str(place / "spec"), hint=hint) from error
    return spec
