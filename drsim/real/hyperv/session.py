"""Session: pipelines of cmdlets on one Hyper-V host, over WinRM (PSRP), and what a host's errors mean.

Theory of operation. A session has at most one shell on its host, opened when it is first needed. Whatever goes wrong
with the connection or the shell, that shell is given up, and the next call opens another: so an expired session, a lost
shell and a host that was restarted are one case. pypsrp blocks; each call runs in a thread of its own and has the
session to itself. A call that is not waited for any more leaves its shell to its thread.

An answer is read by ConvertTo-Json, with three traps: one object is no list, none at all is no text, and enumerations
come as numbers. A pipeline that ends well may still have failed: errors that do not end it have a stream of their own.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import requests
from pypsrp.complex_objects import PSInvocationState
from pypsrp.exceptions import AuthenticationError, WinRMError, WinRMTransportError, WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.serializer import TaggedValue
from pypsrp.wsman import WSMan

from drsim.core.errors import PlatformError
from drsim.real.certificate import advice
from drsim.real.hyperv.cmdlets import Step, cmdlet
from drsim.real.patience import Verdict, patiently
from drsim.real.ports import (
    Limits,
    LoginRefused,
    NotAllowed,
    NotFound,
    QuotaReached,
    Taken,
    Unsupported,
)

T = TypeVar("T")
_TAGS = {"int16": "I16", "int": "I32", "int64": "I64", "uint64": "U64"}
_CONNECT_TIMEOUT = 10  # seconds
_OPERATION_TIMEOUT = 5  # seconds after which the server says "not yet", and is asked again


class NotNow(PlatformError):
    """The host cannot be reached, is busy, or has lost our shell. Worth another attempt."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a host. `ca`: a file of authorities; None: this machine's. The password never leaves this."""

    host: str
    address: str
    port: int
    user: str
    password: Callable[[], str]
    auth: str
    tls: bool
    ca: str | None = None


# What an error record says, by its text, category or name; the first that fits.
_MEANINGS: Sequence[tuple[str, type[PlatformError], str]] = (
    (r"CommandNotFound", Unsupported, "install the Hyper-V module for Windows PowerShell on the host"),
    (r"PermissionDenied|0x80070005|required permission|access is denied", NotAllowed,
     "put the account into Hyper-V Administrators and Remote Management Users of the host"),
    (r"0x80070070|not enough space", QuotaReached, "free space on the volume, or choose another store"),
    (r"0x8007000E|not enough memory|0x800705AA", QuotaReached, "free memory on the host, or choose another host"),
    (r"0x80070020|being used by another process", Taken, "which VM has the disk? detach it there first"),
    (r"0x80070050|0x800700B7|ResourceExists|already exists", Taken, "choose another name, or remove what has it"),
    (r"unable to find|ObjectNotFound|PathNotFound|0x80070002|0x80070003|does not exist", NotFound, ""),
    (r"ResourceBusy|ResourceUnavailable|0x80048054|0x800703E3|object is in use", NotNow, ""),
)  # fmt: skip


class Session:
    """Pipelines on one host."""

    def __init__(self, access: Access, limits: Limits) -> None:
        self._access, self._limits = access, limits
        self._lock, self._pool = asyncio.Lock(), None
        self.asked = 0

    _pool: RunspacePool | None

    @property
    def host(self) -> str:
        """Its name in the site's file."""
        return self._access.host

    async def patiently(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` gives, which may be repeated. Raises what `ports` says."""
        return await patiently(call, judge, what=what, place=self.host, limits=self._limits)

    async def rows(self, *steps: Step, properties: Sequence[str]) -> list[dict[str, Any]]:
        """These properties of the objects that a pipeline gives."""
        return (await self.tables((steps, properties)))[0]

    async def tables(self, *asked: tuple[Sequence[Step], Sequence[str]]) -> list[list[dict[str, Any]]]:
        """The same for several pipelines, asked at once. No two may have the same properties."""
        as_text = cmdlet("ConvertTo-Json", Depth=3, Compress=True)
        said = await self._run(
            [[*steps, cmdlet("Select-Object", Property=list(names)), as_text] for steps, names in asked]
        )  # fmt: skip
        parts = [found if isinstance(found, list) else [found] for found in map(json.loads, said)]
        return [next((part for part in parts if set(part[0]) == set(properties)), []) for _, properties in asked]

    async def run(self, *steps: Step) -> list[Any]:
        """One cmdlet after the other, in one request; what they give.

        Raises NotNow, or what the first error means; what comes after that error is carried out all the same.
        """
        return await self._run([[step] for step in steps])

    async def _run(self, pipelines: Sequence[Sequence[Step]]) -> list[Any]:
        async with self._lock:
            self.asked += 1
            pool, self._pool = self._pool, None  # given back when the call has ended well
            (output, errors), self._pool = await asyncio.to_thread(self._invoke, pool, pipelines)
        if errors:
            raise _meaning([step for steps in pipelines for step in steps], errors[0], self.host)
        return output

    async def close(self) -> None:
        """End the shell; what goes wrong with that does not matter."""
        async with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(_close, pool)

    # -- in a thread ------------------------------------------------------------------------------------------

    def _invoke(
        self, pool: RunspacePool | None, pipelines: Sequence[Sequence[Step]]
    ) -> tuple[tuple[list[Any], list[Any]], RunspacePool]:
        try:
            pool = pool or self._open()
            shell = PowerShell(pool)
            for steps in pipelines:
                for step in steps:
                    _add(shell, step)
                shell.add_statement()
            output = self._wait(shell)
            errors = list(shell.streams.error)
            shell.close()
        except (WinRMError, requests.RequestException, OSError) as error:
            raise self._trouble(error) from None  # its text may quote what was sent
        return (output, errors), pool

    def _wait(self, shell: PowerShell) -> list[Any]:
        deadline = time.monotonic() + self._limits.call
        shell.begin_invoke()
        while shell.state == PSInvocationState.RUNNING:
            if time.monotonic() > deadline:
                raise NotNow(f"not done within {self._limits.call:g} s", place=self.host)
            shell.poll_invoke()
        return list(shell.output)

    def _open(self) -> RunspacePool:
        access = self._access
        wait = max(1, int(self._limits.call))
        connection = WSMan(
            access.address, port=access.port, ssl=access.tls, auth=access.auth, username=access.user,
            password=access.password(), cert_validation=access.ca or True,  # type: ignore[arg-type]  # a path is taken, too
            encryption="auto" if access.tls else "always",
            no_proxy=True, connection_timeout=min(wait, _CONNECT_TIMEOUT), read_timeout=wait + _OPERATION_TIMEOUT,
            operation_timeout=_OPERATION_TIMEOUT,
        )  # fmt: skip
        pool = RunspacePool(connection, no_profile=True)
        pool.open()
        return pool

    def _trouble(self, error: Exception) -> PlatformError:
        access, host = self._access, self.host
        match error:
            case AuthenticationError():
                hint = f"check user and password of {access.user}, and that the host takes {access.auth}"
                return LoginRefused("the host refuses the login", place=host, hint=hint)
            case requests.exceptions.SSLError() if _reason(error):
                why = _reason(error)
                return LoginRefused(f"the host's certificate is not accepted: {why}", place=host, hint=advice(why))
            case WSManFaultError() if error.code == 5:
                hint = "put the account into Remote Management Users of the host"
                return NotAllowed("the account may not use WinRM", place=host, hint=hint)
            case WSManFaultError():
                return NotNow(f"WinRM says {error.code}: {error.reason}", place=host)
            case WinRMTransportError():
                return NotNow(f"HTTP status {error.code}", place=host)
            case requests.RequestException() | OSError():
                return NotNow(f"no connection to {access.address}:{access.port}", place=host)
            case _:
                return NotNow(f"the answer makes no sense ({type(error).__name__})", place=host)


def _add(shell: PowerShell, step: Step) -> None:
    shell.add_cmdlet(step.cmdlet.name)
    for key, value in step.parameters.items():
        if step.cmdlet.types[key] != "switch":
            shell.add_parameter(key, tagged(step.cmdlet.types[key], value))
        elif value:
            shell.add_parameter(key)


def tagged(kind: str, value: Any) -> Any:
    """A value as PSRP sends it: numbers of the right width."""
    if kind in _TAGS:
        return TaggedValue(_TAGS[kind], value)
    if kind == "table":
        return {key: TaggedValue("U64", each) if isinstance(each, int) else each for key, each in value.items()}
    return value


def _close(pool: RunspacePool) -> None:
    try:
        pool.close()
    except (WinRMError, requests.RequestException, OSError):
        return


def judge(error: Exception) -> Verdict:
    """What to do about an error."""
    return Verdict.AGAIN if isinstance(error, NotNow) else Verdict.GIVE_UP


def _meaning(steps: Sequence[Step], record: Any, host: str) -> PlatformError:
    text = str(record).strip()
    name = " ".join(str(getattr(record, key, "") or "") for key in ("fq_error", "message", "reason"))
    signs = f"{name} {_category(record)} {text}"
    names = [step.cmdlet.name for step in steps if step.cmdlet.name not in ("Select-Object", "ConvertTo-Json")]
    what = " | ".join(dict.fromkeys(names))
    for pattern, kind, hint in _MEANINGS:
        if re.search(pattern, signs, re.IGNORECASE):
            return kind(f"{what}: {text}", place=host, hint=hint)
    return PlatformError(f"{what}: {text}", place=host)


def _category(record: Any) -> str:
    return _CATEGORIES.get(getattr(record, "category", None) or 0, "")


_CATEGORIES: Mapping[int, str] = MappingProxyType({
    13: "ObjectNotFound", 18: "PermissionDenied", 19: "ResourceBusy", 20: "ResourceExists", 21: "ResourceUnavailable",
})  # fmt: skip
"""Those of PowerShell's error categories that say more than the text."""


def _reason(error: BaseException) -> str:
    found = re.search(r"certificate verify failed: ([^(\"']+)", str(error))
    return found[1].strip() if found else ""
