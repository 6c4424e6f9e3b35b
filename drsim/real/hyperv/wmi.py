"""WMI: the few things of Hyper-V that have no cmdlet of their own (addresses and the system of a guest, changed areas).

A method that takes references is invoked by Invoke-WmiMethod, to which a reference is a path; its arguments go in the
order of their names, which for all that are used here is the order of their documentation too. One that takes plain
values is invoked by Invoke-CimMethod, by name.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from drsim.core.errors import PlatformError
from drsim.real.hyperv.cmdlets import WMI, cmdlet
from drsim.real.hyperv.session import NotNow, Session
from drsim.real.ports import NotAllowed, NotFound, Unsupported

DONE, STARTED = 0, 4096
_STATES_UNDER_WAY, _COMPLETED = (2, 3, 4), 7
_LOOK = 0.2  # seconds between looks at a job
_FEW = 20  # VMs that are asked for by their ids; of more, all that there are
_CODES: Mapping[int, type[PlatformError]] = {
    32769: NotAllowed, 32770: Unsupported, 32774: NotNow, 32777: NotNow, 32779: NotFound, 32772: NotNow,
}  # fmt: skip
"""What the return values of Hyper-V's methods mean; others are failures."""


async def path(session: Session, kind: str, where: str | None = None) -> str:
    """The path of the one object of a class. Raises NotFound."""
    rows = await session.rows(
        cmdlet("Get-WmiObject", Class=kind, Namespace=WMI, Filter=where), properties=("__PATH",)
    )  # fmt: skip
    if not rows:
        raise NotFound(f"there is no {kind}", place=session.host)
    return str(rows[0]["__PATH"])


async def systems(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """What runs in guests, as far as they say: linux or windows, by the ids of VMs that are on, in capitals.

    Guests tell their host (key-value pair exchange): Windows always, Linux and FreeBSD by a daemon.
    """
    if not ids:
        return {}
    where = " OR ".join(f"SystemName='{each}'" for each in ids) if len(ids) <= _FEW else None
    rows = await session.rows(
        cmdlet("Get-WmiObject", Class="Msvm_KvpExchangeComponent", Namespace=WMI, Filter=where),
        properties=("SystemName", "GuestIntrinsicExchangeItems"),
    )
    return {row["SystemName"].upper(): _system(row["GuestIntrinsicExchangeItems"] or ()) for row in rows}


def _system(items: str | Sequence[str]) -> str:
    """Of what a guest tells of itself: an embedded instance for each pair."""
    for item in [items] if isinstance(items, str) else items:
        pair = {each.get("NAME"): each.findtext("VALUE") or "" for each in ElementTree.fromstring(item)}
        if pair.get("Name") == "OSName":
            name = (pair.get("Data") or "").lower()
            return "windows" if "windows" in name else "" if "bsd" in name or not name else "linux"
    return ""


async def invoke(session: Session, target: str, method: str, arguments: Sequence[Any]) -> None:
    """Invoke a method that takes references, and wait for its job. Raises PlatformError."""
    rows = await session.rows(
        cmdlet("Invoke-WmiMethod", Path=target, Name=method, ArgumentList=list(arguments)),
        properties=("ReturnValue", "Job"),
    )
    code = int(rows[0]["ReturnValue"])
    if code == STARTED:
        await _job(session, method, str(rows[0]["Job"]))
    elif code != DONE:
        raise failure(session, method, code)


async def ask(session: Session, kind: str, method: str, arguments: Mapping[str, Any],
              properties: Sequence[str]) -> dict[str, Any]:  # fmt: skip
    """What a method of the one object of a class gives. Raises PlatformError."""
    rows = await session.rows(
        cmdlet("Invoke-CimMethod", Query=f"SELECT * FROM {kind}", Namespace=WMI, MethodName=method,
               Arguments=dict(arguments)),
        properties=("ReturnValue", *properties),
    )  # fmt: skip
    code = int(rows[0]["ReturnValue"])
    if code != DONE:
        raise failure(session, method, code)
    return rows[0]


def failure(session: Session, method: str, code: int) -> PlatformError:
    """The error that a return value means."""
    return _CODES.get(code, PlatformError)(f"{method} fails with {code}", place=session.host)


async def _job(session: Session, method: str, job: str) -> None:
    instance = job.rpartition("InstanceID=")[2].strip('"')
    while True:
        rows = await session.rows(
            cmdlet("Get-WmiObject", Class="Msvm_ConcreteJob", Namespace=WMI, Filter=f"InstanceID='{instance}'"),
            properties=("JobState", "ErrorDescription"),
        )
        if not rows or rows[0]["JobState"] == _COMPLETED:
            return  # jobs that are done are forgotten after a while
        if rows[0]["JobState"] not in _STATES_UNDER_WAY:
            why = rows[0]["ErrorDescription"] or f"state {rows[0]['JobState']}"
            raise PlatformError(f"{method} fails: {why}", place=session.host)
        await asyncio.sleep(_LOOK)
