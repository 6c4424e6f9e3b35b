"""VcdSession: one login to a vCloud Director: XML over HTTPS, tasks waited for, errors in words.

A task is asked for its state, more and more seldom: this API tells nothing by itself.
"""

import asyncio
import ssl
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from urllib.parse import quote

import httpx

from drsim.core.errors import PlatformError
from drsim.real.certificate import advice
from drsim.real.patience import Login, Verdict
from drsim.real.ports import Limits, LoginRefused, NotAllowed, NotFound, QuotaReached, Taken
from drsim.spec.vcd import Vcd

VERSION = "36.0"
"""Of the API: vCloud Director 10.3 and later."""
V, X = "http://www.vmware.com/vcloud/v1.5", "http://www.vmware.com/vcloud/extension/v1.5"
MEDIA = "application/vnd.vmware."
_TOKEN = "X-VMWARE-VCLOUD-ACCESS-TOKEN"
_AGAIN = {"BUSY_ENTITY", "RESOURCE_BUSY"}
_BLAME: Mapping[str, type[PlatformError]] = {
    "DUPLICATE_NAME": Taken, "RESOURCE_NOT_FOUND": NotFound, "NOT_FOUND": NotFound, "INVALID_REFERENCE": NotFound,
    "QUOTA_EXCEEDED": QuotaReached, "INSUFFICIENT_RESOURCES": QuotaReached,
    "ACCESS_TO_RESOURCE_IS_FORBIDDEN": NotAllowed,
}  # fmt: skip


class Refused(Exception):
    """An error that it answers: HTTP's status, its own code, its words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code or status}: {message}" if message else code or f"HTTP {status}")
        self.status, self.code = status, code


TROUBLE = (Refused, httpx.HTTPError, ET.ParseError)
"""What a call can raise."""


def judge(error: Exception) -> Verdict:
    """What an error of a call means."""
    match error:
        case Refused(status=401):
            return Verdict.LOG_IN
        case Refused(status=status, code=code) if status in (429, 502, 503, 504) or code in _AGAIN:
            return Verdict.AGAIN
        case httpx.TransportError() if not _untrusted(error):
            return Verdict.AGAIN
    return Verdict.GIVE_UP


def _untrusted(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def blamed(error: Exception, what: str, place: str) -> PlatformError:
    """An error of a call as one of the ports'."""
    untrusted = _untrusted(error)
    if untrusted is not None:
        said = f"its certificate is not trusted: {untrusted.verify_message}"
        return PlatformError(said, place=place, hint=advice(untrusted.verify_message))
    if isinstance(error, Refused):
        return _BLAME.get(error.code, PlatformError)(f"{what}: {error}", place=place)
    return PlatformError(f"{what}: {type(error).__name__}: {error}", place=place)


class VcdSession:
    """A login as the provider."""

    def __init__(self, spec: Vcd, password: str, context: ssl.SSLContext, limits: Limits) -> None:
        self.spec, self.limits = spec, limits
        self.place = f"vCloud Director {spec.address}"
        self._password, self._token = password, ""
        self.login = Login(self._come_in, judge, blamed, TROUBLE, self.place, limits)
        self.patient = self.login.patient
        self._http = httpx.AsyncClient(
            base_url=f"https://{spec.address}:{spec.port}", verify=context, timeout=limits.call, trust_env=False
        )

    async def _come_in(self) -> None:
        headers = {"Accept": f"application/json;version={VERSION}"}
        basic = httpx.BasicAuth(f"{self.spec.user}@System", self._password)
        got = await self._http.post("/cloudapi/1.0.0/sessions/provider", headers=headers, auth=basic)
        if got.status_code == 401:
            hint = "a system administrator's; are user and password right?"
            raise LoginRefused("the login is refused", place=self.place, hint=hint)
        if got.status_code == 406:
            hint = "vCloud Director 10.3 or later"
            raise PlatformError(f"it does not speak version {VERSION} of its API", place=self.place, hint=hint)
        if got.is_error or _TOKEN not in got.headers:
            raise Refused(got.status_code, "", "no session")
        self._token = str(got.headers[_TOKEN])

    async def ask(self, method: str, where: str, body: ET.Element | None = None, media: str = "") -> ET.Element:
        """One call: a path or an address that it has given. Raises Refused, httpx.HTTPError, ET.ParseError."""
        headers = {"Accept": f"application/*+xml;version={VERSION}", "Authorization": f"Bearer {self._token}"}
        content = None
        if body is not None:
            content, headers["Content-Type"] = ET.tostring(body), f"{MEDIA}{media}+xml"
        got = await self._http.request(method, where, content=content, headers=headers)
        if got.is_error:
            code = message = ""
            if got.content.lstrip().startswith(b"<"):
                said = ET.fromstring(got.content)
                code, message = said.get("minorErrorCode", ""), said.get("message", "")
            raise Refused(got.status_code, code, message)
        return ET.fromstring(got.content) if got.content else ET.Element("nothing")

    async def query(self, kind: str, **filters: str) -> list[ET.Element]:
        """All records of a kind, with these values."""
        wanted = ";".join(f"{key}=={quote(value, safe='')}" for key, value in filters.items())
        found: list[ET.Element] = []
        page = 1
        while True:
            where = f"/api/query?type={kind}&format=records&pageSize=128&page={page}"
            got = await self.ask("GET", where + (f"&filter=({wanted})" if wanted else ""))
            records = [each for each in got if each.tag.endswith("Record")]
            found += records
            if not records or len(found) >= int(got.get("total", "0")):
                return found
            page += 1

    async def finished(self, thing: ET.Element) -> None:
        """Wait for the end of a task, or of the tasks that something has. Raises Refused with their error."""
        for task in [thing] if thing.tag == f"{{{V}}}Task" else thing.findall(f"{{{V}}}Tasks/{{{V}}}Task"):
            wait = self.limits.first
            while task.get("status") in ("queued", "preRunning", "running"):
                await asyncio.sleep(wait)
                wait = min(wait * self.limits.factor, self.limits.most)
                task = await self.ask("GET", task.get("href", ""))
            if task.get("status") != "success":
                error = task.find(f"{{{V}}}Error")
                said = error if error is not None else task
                raise Refused(200, said.get("minorErrorCode", ""), said.get("message", task.get("status", "")))

    async def close(self) -> None:
        """Log out."""
        if self._token:
            try:
                async with asyncio.timeout(self.limits.call):
                    await self.ask("DELETE", "/api/session")
            except (*TROUBLE, TimeoutError):
                pass  # it expires by itself
            self._token = ""
        await self._http.aclose()
