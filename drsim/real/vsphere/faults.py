"""Faults: what goes wrong with calls of a vCenter: what it means, and in words."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from drsim.core.errors import PlatformError
from drsim.real.certificate import advice
from drsim.real.patience import Verdict
from drsim.real.ports import LoginRefused, NotAllowed, NotFound, QuotaReached, Taken, Unsupported

_AGAIN = (
    vim.fault.TaskInProgress, vim.fault.ConcurrentAccess, vim.fault.Timedout, vmodl.fault.HostCommunication,
    vmodl.fault.RequestCanceled,
)  # fmt: skip
_BLAME: tuple[tuple[tuple[type, ...], type[PlatformError], str], ...] = (
    ((vim.fault.InvalidLogin, vim.fault.NoClientCertificate), LoginRefused, "are user and password right?"),
    ((vmodl.fault.NotEnoughLicenses, vim.fault.NoDiskSpace, vim.fault.InsufficientResourcesFault), QuotaReached, ""),
    ((vim.fault.FileNotFound, vmodl.fault.ManagedObjectNotFound, vim.fault.NotFound), NotFound, ""),
    ((vim.fault.FileLocked, vim.fault.DuplicateName, vim.fault.FileAlreadyExists, vim.fault.AlreadyExists), Taken, ""),
    ((vmodl.fault.NotSupported, vmodl.fault.NotImplemented, vmodl.fault.MethodNotFound), Unsupported, ""),
)


class Refused(Exception):
    """A fault that the vCenter answers. `fault`: as pyvmomi has it."""

    def __init__(self, fault: Any) -> None:
        super().__init__(_said(fault))
        self.fault = fault

    def __str__(self) -> str:
        return str(self.args[0])


TROUBLE = (Refused, OSError, HTTPException, ExpatError)
"""What a call can raise."""


def _said(fault: Any) -> str:
    """A fault in words: its kind and what the vCenter says of it, without the fields."""
    kind = type(fault).__name__.rpartition(".")[2]
    detail = getattr(fault, "msg", None) or ""
    if isinstance(fault, vim.fault.FileFault) and fault.file:
        detail = f"{detail} ({fault.file})" if detail and fault.file not in detail else detail or fault.file
    return f"{kind}: {detail}" if detail and detail != kind else kind


def judge(error: Exception) -> Verdict:
    """What an error of a call means."""
    match error:
        case Refused(fault=fault) if isinstance(fault, vim.fault.NotAuthenticated):
            return Verdict.LOG_IN
        case Refused(fault=fault) if isinstance(fault, _AGAIN):
            return Verdict.AGAIN
        case ssl.SSLCertVerificationError():
            return Verdict.GIVE_UP
        case OSError() | HTTPException() | ExpatError():
            return Verdict.AGAIN
    return Verdict.GIVE_UP


def blamed(error: Exception, what: str, place: str) -> PlatformError:
    """An error of a call as one of the ports'."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"its certificate is not trusted: {error.verify_message}"
        return PlatformError(said, place=place, hint=advice(error.verify_message))
    if not isinstance(error, Refused):
        return PlatformError(f"{what}: {type(error).__name__}: {error}", place=place)
    if isinstance(error.fault, vim.fault.NoPermission):
        missing = error.fault.privilegeId or "a privilege"
        return NotAllowed(f"{what}: the account lacks {missing}", place=place, hint="grant it to the account's role")
    for kinds, blame, hint in _BLAME:
        if isinstance(error.fault, kinds):
            return blame(f"{what}: {error}", place=place, hint=hint)
    return PlatformError(f"{what}: {error}", place=place)


def is_fault(error: BaseException, *kinds: type) -> bool:
    """Whether it is one of these faults of the vCenter."""
    return isinstance(error, Refused) and isinstance(error.fault, kinds)


@contextmanager
def suppress_fault(*kinds: type) -> Iterator[None]:
    """Take one of these faults for what was wanted."""
    try:
        yield
    except Refused as error:
        if not is_fault(error, *kinds):
            raise
