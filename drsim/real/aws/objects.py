"""S3Objects: objects that are written once, verified by the store when they are written and by us when they are read.

A part of an object cannot be verified by a checksum of all of it. So an object says in its metadata how it was cut and
what the digest of each cut is, and a read takes whole cuts.

    x-amz-meta-drsim-put     whose write made it: tells our own attempt, whose answer was lost, from somebody else's
    x-amz-meta-drsim-cuts    bytes of a cut : digests of the cuts, 32 hex digits each
"""

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from secrets import token_hex

from drsim.core.errors import PlatformError
from drsim.core.units import SECTOR
from drsim.real.aws.session import Facts, Session, code_of
from drsim.real.ports import NotFound
from drsim.spec.aws import AwsBucket

CUTS = 32
"""Cuts of an object at most: S3 takes 2 KB of metadata."""
DIGITS = 32
THERE = ("PreconditionFailed", "412")


class S3Objects:
    """A bucket, under a prefix."""

    def __init__(self, session: Session, bucket: AwsBucket) -> None:
        self.session, self.bucket = session, bucket
        self.place = f"s3://{bucket.name}/{bucket.prefix}"

    async def put(self, key: str, data: bytes) -> bool:
        """The port's: a conditional write, with the bucket's lock if the site's file says so."""
        mine, size = token_hex(16), max(64 * SECTOR, -(-len(data) // CUTS))
        digests = "".join(_digest(data[at : at + size]) for at in range(0, len(data), size))
        given: Facts = {}
        if self.bucket.lock_days is not None:
            until = datetime.now(UTC) + timedelta(days=self.bucket.lock_days)
            given = {"ObjectLockMode": self.bucket.lock, "ObjectLockRetainUntilDate": until}
        try:
            await self.session.ask(
                "PutObject", Bucket=self.bucket.name, Key=self.bucket.prefix + key, Body=data,
                IfNoneMatch="*", ChecksumAlgorithm="SHA256",
                ChecksumSHA256=b64encode(sha256(data).digest()).decode(),
                Metadata={"drsim-put": mine, "drsim-cuts": f"{size}:{digests}"}, **given,
            )  # fmt: skip
        except PlatformError as error:
            if error.__cause__ is None or code_of_cause(error) not in THERE:
                raise
            return bool((await self._head(key))["Metadata"].get("drsim-put") == mine)
        return True

    async def _head(self, key: str) -> Facts:
        try:
            return await self.session.ask("HeadObject", Bucket=self.bucket.name, Key=self.bucket.prefix + key)
        except NotFound as error:
            raise NotFound(f"there is no object {key}", place=self.place) from error

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The port's."""
        head = await self._head(key)
        size, _, digests = head["Metadata"].get("drsim-cuts", "").partition(":")
        total = head["ContentLength"]
        if not size.isdecimal() or len(digests) != -(-total // max(1, int(size))) * DIGITS:
            raise PlatformError(f"{key} does not carry drsim's digests", place=self.place, hint="who wrote it?")
        cut = int(size)
        stop = total if length is None else min(total, start + length)
        if start >= stop:
            return b""
        first, last = start // cut, -(-stop // cut)
        answer = await self.session.ask(
            "GetObject", Bucket=self.bucket.name, Key=self.bucket.prefix + key,
            Range=f"bytes={first * cut}-{min(total, last * cut) - 1}", IfMatch=head["ETag"],
        )  # fmt: skip
        data: bytes = answer["Body"]
        for n in range(first, last):
            if _digest(data[(n - first) * cut :][:cut]) != digests[n * DIGITS :][:DIGITS]:
                hint = "it was damaged; an older version, or the site itself, may have it"
                raise PlatformError(f"{key} does not verify at byte {n * cut}", place=self.place, hint=hint)
        return data[start - first * cut : stop - first * cut]

    async def keys(self, prefix: str) -> Sequence[str]:
        """The port's."""
        whole = self.bucket.prefix + prefix
        found = await self.session.all("ListObjectsV2", "Contents", Bucket=self.bucket.name, Prefix=whole)
        return sorted(each["Key"].removeprefix(self.bucket.prefix) for each in found)

    async def delete(self, key: str) -> None:
        """The port's. In a bucket with versions the object is hidden, and goes when its lock and rules let it."""
        version: Facts = {}
        if self.bucket.lock_days is not None:  # without a version S3 would hide it, and say that all is well
            try:
                version = {"VersionId": (await self._head(key))["VersionId"]}
            except NotFound:
                return
        await self.session.ask("DeleteObject", Bucket=self.bucket.name, Key=self.bucket.prefix + key, **version)


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:DIGITS]


def code_of_cause(error: PlatformError) -> str:
    """AWS's code of the error that an error of ours was made of."""
    return code_of(error.__cause__) if isinstance(error.__cause__, Exception) else ""
