"""Session: makes the calls of the table (`calls.py`), patiently, and turns what AWS says into errors of the ports.

    AWS says                             here
    -----------------------------------  --------------------------------------------------------
    too many, not now, no connection     asked again within `Limits`; then Unavailable
    the token has expired                credentials are read anew, and it is asked again
    the key or its signature is wrong    LoginRefused
    not authorized                       NotAllowed, with the action that IAM has to allow
    a limit or no capacity               QuotaReached
    no such thing                        NotFound
    anything else                        PlatformError

The SDK's own attempts are switched off: there is one place that waits. A call that was given up may still be carried
out by AWS; therefore all that make something carry a token or look first.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.loaders
import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)  # fmt: skip
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from drsim.core.errors import PlatformError
from drsim.core.units import Ns
from drsim.real.aws.calls import BY_NAME, CALLS, Call
from drsim.real.patience import Verdict, patiently
from drsim.real.ports import Limits, LoginRefused, NotAllowed, NotFound, QuotaReached, Taken, Unavailable
from drsim.real.secret import reveal
from drsim.spec.aws import SECOND, AwsSite

T = TypeVar("T")
Facts = dict[str, Any]
"""What AWS answers."""

THROTTLED = {
    "RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "RequestThrottledException",
    "SlowDown", "TooManyRequestsException", "ServiceUnavailable", "Unavailable", "InternalError", "InternalFailure",
    "InternalServerException", "ConditionalRequestConflict", "OperationAborted", "RequestTimeout",
    "ConcurrentLimitExceededException", "EC2ThrottledException", "BandwidthLimitExceeded",
}  # fmt: skip
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
REFUSED = {
    "AuthFailure", "InvalidClientTokenId", "InvalidAccessKeyId", "SignatureDoesNotMatch", "UnrecognizedClientException",
    "InvalidSignatureException", "IncompleteSignature", "MissingAuthenticationToken", "InvalidToken",
}  # fmt: skip
DENIED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "403"}
QUOTA = {
    "VcpuLimitExceeded", "InstanceLimitExceeded", "VolumeLimitExceeded", "MaxIOPSLimitExceeded",
    "AttachmentLimitExceeded", "NetworkInterfaceLimitExceeded", "InsufficientInstanceCapacity", "InsufficientCapacity",
    "InsufficientHostCapacity", "InsufficientVolumeCapacity", "InsufficientFreeAddressesInSubnet", "HostLimitExceeded",
    "ServiceQuotaExceededException", "TagLimitExceeded", "SnapshotLimitExceeded",
    "InsufficientCapacityOnHost", "PrivateIpAddressLimitExceeded", "ResourceLimitExceeded",
    "PendingSnapshotLimitExceeded", "ConcurrentSnapshotLimitExceeded",
}  # fmt: skip
TAKEN = {"InvalidIPAddress.InUse", "VolumeInUse", "InvalidNetworkInterface.InUse"}
NOT_THERE = {"NoSuchKey", "NoSuchBucket", "404", "ResourceNotFoundException", "NotFound"}


_MODELS = botocore.loaders.create_loader()
"""The SDK's descriptions of services: large, and the same for all sessions."""


class TooLate(PlatformError):
    """Something has not become what it was asked to be, in the time that it had."""


class Session:
    """Calls for one site. Use from one event loop."""

    def __init__(self, spec: AwsSite, base: Path, limits: Limits) -> None:
        self.spec, self.limits, self._base = spec, limits, base
        self.place = f"AWS {spec.region}"
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._session: Any = None
        self._slots = asyncio.Semaphore(32)
        self.calls = 0
        """How many were made."""
        self.burnt: Counter[tuple[str, ...]] = Counter()
        """How many tokens of a thing are known to have made one that is deleted by now."""

    async def ask(self, operation: str, *, unless: Callable[[], Awaitable[bool]] | None = None, **given: Any) -> Facts:
        """Make a call; give what AWS answers. Raises as the module says.

        `unless`: asked before each attempt but the first, whether an earlier one has done it; then nothing is given.
        """
        call, attempts = BY_NAME[operation], count()

        async def attempt() -> Facts:
            if next(attempts) and unless is not None and await unless():
                return {}
            return await self._once(call, given)

        try:
            return await patiently(
                attempt, verdict, what=call.why, place=self.place, limits=self.limits, log_in=self.log_in
            )  # fmt: skip
        except PlatformError:
            raise
        except Exception as error:
            raise self.blame(error, call) from error

    async def _once(self, call: Call, given: Mapping[str, Any]) -> Facts:
        def work() -> Facts:
            answer = getattr(self._client(call.service), xform_name(call.operation))(**given)
            if "Body" in answer:
                answer["Body"] = answer["Body"].read()
            if "BlockData" in answer:
                answer["BlockData"] = answer["BlockData"].read()
            return dict(answer)

        async with self._slots:
            self.calls += 1
            return await asyncio.to_thread(work)

    async def all(self, operation: str, part: str, **given: Any) -> list[Facts]:
        """All items of an answer that comes in pages. Raises as `ask`."""
        found: list[Facts] = []
        name = "ContinuationToken" if operation == "ListObjectsV2" else "NextToken"
        while True:
            answer = await self.ask(operation, **given)
            found += answer.get(part, [])
            token = answer.get("NextContinuationToken" if name == "ContinuationToken" else "NextToken")
            if not token:
                return found
            given[name] = token

    async def until(self, what: str, look: Callable[[], Awaitable[T | None]], *, seconds: float | None = None) -> T:
        """What `look` gives when it gives something. Raises TooLate after `settle` seconds of the site's file."""
        limit = self.spec.settle / SECOND if seconds is None else seconds
        clock, wait = asyncio.get_running_loop().time, self.limits.first
        deadline = clock() + limit
        while True:
            found = await look()
            if found is not None:
                return found
            if clock() >= deadline:
                raise TooLate(f"{what}: not within {limit:g} s", place=self.place)
            await asyncio.sleep(min(wait, max(0.0, deadline - clock())))
            wait = min(self.limits.most, wait * self.limits.factor)

    # -- who asks ---------------------------------------------------------------------------------------------

    async def log_in(self) -> None:
        """Read the credentials anew; what was known is forgotten."""
        with self._lock:
            self._clients, self._session = {}, None

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await asyncio.to_thread(client.close)
        await self.log_in()

    async def identity(self) -> tuple[str, Ns]:
        """Who we are to AWS, and what time it is there. Raises LoginRefused, Unavailable."""
        answer = await self.ask("GetCallerIdentity")
        date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return answer["Arn"], Ns(int(date.timestamp()) * SECOND)

    def _client(self, service: str) -> Any:
        with self._lock:
            if self._session is None:
                self._session = self._opened()
            if service not in self._clients:
                config = Config(
                    connect_timeout=min(10.0, self.limits.call), read_timeout=0.9 * self.limits.call,
                    retries={"total_max_attempts": 1, "mode": "standard"}, max_pool_connections=32,
                    s3={"addressing_style": "path" if self.spec.endpoint else "auto"},
                )  # fmt: skip
                self._clients[service] = self._session.client(service, endpoint_url=self.spec.endpoint, config=config)
            return self._clients[service]

    def _opened(self) -> Any:
        spec, core = self.spec, botocore.session.get_session()
        core.register_component("data_loader", _MODELS)
        if spec.secret is None:
            return boto3.Session(region_name=spec.region, botocore_session=core)
        token = None if spec.session_token is None else reveal(spec.session_token, self._base)
        return boto3.Session(
            aws_access_key_id=spec.access_key, aws_secret_access_key=reveal(spec.secret, self._base),
            aws_session_token=token, region_name=spec.region, botocore_session=core,
        )  # fmt: skip

    async def missing(self) -> tuple[str, ...]:
        """The actions that IAM does not allow us, as far as can be found out without doing anything."""
        found = await asyncio.gather(*(self._denied(call) for call in CALLS))
        return tuple(sorted({action for action in found if action}))

    async def _denied(self, call: Call) -> str:
        bucket = self.spec.bucket
        probe: dict[str, Any]
        if call.dry is not None:
            probe = {**call.dry, "DryRun": True}
        elif call.service == "ebs":
            ids = ("FirstSnapshotId", "SecondSnapshotId") if call.operation == "ListChangedBlocks" else ("SnapshotId",)
            probe = dict.fromkeys(ids, "snap-0123456789abcdef0")
            if call.operation == "GetSnapshotBlock":
                probe |= {"BlockIndex": 0, "BlockToken": "none"}
        elif call.operation == "ListObjectsV2" and bucket is not None:
            probe = {"Bucket": bucket.name, "Prefix": bucket.prefix, "MaxKeys": 1}
        elif call.operation == "GetObject" and bucket is not None:
            probe = {"Bucket": bucket.name, "Key": f"{bucket.prefix}what-is-not-there"}
        else:
            return ""
        try:
            await self.ask(call.operation, **probe)
        except NotAllowed:
            return call.allowed_by
        except (LoginRefused, Unavailable):
            raise
        except PlatformError:
            return ""  # it would have been allowed (DryRunOperation), or what is asked for is not there
        return ""

    # -- errors -----------------------------------------------------------------------------------------------

    def blame(self, error: Exception, call: Call) -> PlatformError:
        """Our error for one of the SDK's."""
        code, said = code_of(error), f"{call.why}: {words(error)}"
        if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
            hint = "give access_key and secret in the site's file, or let AWS's SDK find credentials"
            return LoginRefused(said, place=self.place, hint=hint)
        if code in REFUSED:
            return LoginRefused(said, place=self.place, hint="are the access key and its secret those of this account?")
        if code in DENIED:
            message = f"{call.why}: not allowed ({call.allowed_by})"
            return NotAllowed(message, place=self.place, hint=f"allow {call.allowed_by}; docs/guides/aws.md has all")
        if code in QUOTA:
            return QuotaReached(said, place=self.place, hint=f"{code}: ask AWS for more, or make room")
        if code in TAKEN:
            return Taken(said, place=self.place)
        if code in NOT_THERE or code.endswith((".NotFound", ".Malformed")):
            return NotFound(said, place=self.place)
        if isinstance(error, SSLError):
            return PlatformError(said, place=self.place, hint="the endpoint's certificate is not trusted")
        return PlatformError(said, place=self.place)


def code_of(error: Exception) -> str:
    """AWS's code of an error; empty when it has none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def words(error: Exception) -> str:
    """What AWS says, shortly."""
    if isinstance(error, ClientError):
        return f"{error.response.get('Error', {}).get('Message', '')} ({code_of(error)})"
    return str(error)


def verdict(error: Exception) -> Verdict:
    """What to do about an error."""
    code = code_of(error)
    if code in EXPIRED:
        return Verdict.LOG_IN
    if code in THROTTLED:
        return Verdict.AGAIN
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return Verdict.AGAIN if status >= 500 and code not in QUOTA else Verdict.GIVE_UP
    if isinstance(error, SSLError) or not isinstance(error, BotoCoreError):
        return Verdict.AGAIN if isinstance(error, ResponseParserError) else Verdict.GIVE_UP
    return Verdict.AGAIN if isinstance(error, NoConnection | HTTPClientError) else Verdict.GIVE_UP


def token(*parts: object) -> str:
    """What AWS is told so that it makes the same thing once: the same for the same parts."""
    return sha256("\0".join(map(str, parts)).encode()).hexdigest()
