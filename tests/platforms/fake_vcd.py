"""A thin vCloud Director: the XML API over TLS, one tenant with two VDCs, its VMs those of a real vCenter simulator.

It checks what it is asked to import in the vCenter behind it, and renames, connects, customises, starts and deletes
those VMs there, by a session of its own that no trouble touches. Tasks end some time after they were answered; what has
a task that runs is busy. Calls that change something are counted, and troubled, together with the vCenter's: by the
rules of its proxy. What an independent client makes of it is asked in `test_vcd.py`.
"""

import base64
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from platforms.https_server import HttpsHandler, HttpsServer
from platforms.soap_proxy import SoapProxy
from platforms.vcd_center import Center

V, X = "http://www.vmware.com/vcloud/v1.5", "http://www.vmware.com/vcloud/extension/v1.5"
OVF = "http://schemas.dmtf.org/ovf/envelope/1"
CLOUD, ADMIN = "application/vnd.vmware.vcloud.", "application/vnd.vmware.admin."
VERSION = "36.0"
QUERIES = ("adminOrgVdc", "orgVdc", "adminVM", "adminVApp", "orgVdcNetwork", "virtualCenter",
           "adminOrgVdcStorageProfile")  # fmt: skip
TASK_SECONDS = 0.005
ON, OFF, NEW = 4, 8, 0
STATES = {ON: "POWERED_ON", OFF: "POWERED_OFF", NEW: "UNRESOLVED"}


class Error(Exception):
    """What is answered instead: HTTP's status, vCloud Director's code, words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)


def node(tag: str, *children: ET.Element, text: str | None = None, space: str = V, **attributes: object) -> ET.Element:
    """An element."""
    made = ET.Element(f"{{{space}}}{tag}", {key: str(value) for key, value in attributes.items()})
    made.text = text
    made.extend(children)
    return made


@dataclass
class Vdc:
    """A part of a provider's vCenter."""

    name: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    enabled: bool = True
    memory: int = 65536


@dataclass
class Vapp:
    """VMs that belong together, and the networks that it is connected to."""

    name: str
    vdc: Vdc
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    networks: ET.Element = field(
        default_factory=lambda: node("NetworkConfigSection", node("Info", space=OVF, text="networks"))
    )


@dataclass
class Vm:
    """A VM of the vCenter that was imported."""

    name: str
    vapp: Vapp
    moref: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ready: bool = False
    deployed: bool = False
    nics: ET.Element = field(
        default_factory=lambda: node("NetworkConnectionSection", node("Info", space=OVF, text="adapters"))
    )
    guest: bool = False


@dataclass
class Task:
    """Work that goes on."""

    operation: str
    busy: set[str]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "running"
    error: tuple[str, str] | None = None


class FakeVcd(HttpsServer):
    """One that listens. `center`: the vCenter behind it; `gate`: whose rules and counts are used."""

    def __init__(
        self, certificate: Path, center: Center, gate: SoapProxy, call: Any, *, user: str, password: str
    ) -> None:
        self.center, self.gate, self.call, self.login = center, gate, call, f"{user}@System:{password}"
        self.org, self.server, self.tokens = str(uuid.uuid4()), str(uuid.uuid4()), set[str]()
        self.vdcs = [Vdc("gold"), Vdc("silver")]
        self.networks = {(vdc.id, name): str(uuid.uuid4()) for vdc in self.vdcs for name in ("lan", "bubble")}
        self.policies = {vdc.id: str(uuid.uuid4()) for vdc in self.vdcs}
        self.vapps, self.vms, self.tasks = dict[str, Vapp](), dict[str, Vm](), dict[str, Task]()
        self.asked: list[str] = []
        self.task_seconds = TASK_SECONDS
        super().__init__(certificate, _Handler)
        self.base = f"https://127.0.0.1:{self.port}"

    # -- tasks -------------------------------------------------------------------------------------------------------

    def start(self, operation: str, work: Callable[[], None], *busy: str) -> Task:
        """A task that does its work soon. Raises Error while something has another one."""
        for running in self.tasks.values():
            if running.status == "running" and running.busy & set(busy):
                raise Error(400, "BUSY_ENTITY", "The entity is busy completing an operation.")
        task = Task(operation, set(busy))
        self.tasks[task.id] = task
        timer = threading.Timer(self.task_seconds, self._finish, (task, work))
        timer.daemon = True
        timer.start()
        return task

    def _finish(self, task: Task, work: Callable[[], None]) -> None:
        with self.lock:
            try:
                work()
                task.status = "success"
            except Error as error:
                task.status, task.error = "error", (error.args[1], error.args[2])
            except Exception as error:
                task.status, task.error = "error", ("INTERNAL_SERVER_ERROR", type(error).__name__)
                self.mistakes.append(error)

    def show_task(self, task: Task) -> ET.Element:
        """As XML."""
        found = node("Task", status=task.status, operation=task.operation, operationName=task.operation, name="task",
                     id=f"urn:vcloud:task:{task.id}", href=f"{self.base}/api/task/{task.id}", type=f"{CLOUD}task+xml",
                     startTime="2026-01-01T00:00:00.000Z", expiryTime="2026-04-01T00:00:00.000Z")  # fmt: skip
        found.append(node("Owner", href=f"{self.base}/api/x", name="x", type="x"))
        if task.error:
            found.append(node("Error", majorErrorCode=400, minorErrorCode=task.error[0], message=task.error[1]))
        return found

    # -- what there is -----------------------------------------------------------------------------------------------

    def status(self, vm: Vm) -> int:
        """Of a VM, as the vCenter has it."""
        if not vm.ready:
            return NEW
        return ON if self.center.power(vm.moref) == "poweredOn" else OFF

    def at(self, vm: Vm) -> str:
        """A VM's address."""
        return f"{self.base}/api/vApp/vm-{vm.id}"

    def show_vm(self, vm: Vm) -> ET.Element:
        """As XML, with links for what may be done now."""
        at, status = self.at(vm), self.status(vm)
        made = node("Vm", name=vm.name, id=f"urn:vcloud:vm:{vm.id}", href=at, status=status,
                    deployed=str(vm.deployed).lower(), type=f"{CLOUD}vm+xml")  # fmt: skip
        verb = "powerOff" if status == ON else "powerOn"
        made.append(node("Link", rel=f"power:{verb}", href=f"{at}/power/action/{verb}"))
        if vm.deployed:
            made.append(
                node("Link", rel="undeploy", type=f"{CLOUD}undeployVAppParams+xml", href=f"{at}/action/undeploy")
            )
        reference = node("VmVimObjectRef", node("MoRef", text=vm.moref, space=X), space=X)
        made.append(node("VCloudExtension", node("VmVimInfo", reference, space=X), required="false"))
        made.append(vm.nics)
        return made

    def show_vapp(self, vapp: Vapp) -> ET.Element:
        """As XML, with its VMs and tasks."""
        vms = [vm for vm in self.vms.values() if vm.vapp is vapp]
        deployed, at = any(vm.deployed for vm in vms), f"{self.base}/api/vApp/vapp-{vapp.id}"
        made = node("VApp", name=vapp.name, id=f"urn:vcloud:vapp:{vapp.id}", href=at, type=f"{CLOUD}vApp+xml",
                    status=ON if deployed else OFF, deployed=str(deployed).lower())  # fmt: skip
        tasks = [self.show_task(t) for t in self.tasks.values() if t.status == "running" and vapp.id in t.busy]
        if tasks:
            made.append(node("Tasks", *tasks))
        made.append(vapp.networks)
        made.append(node("Children", *map(self.show_vm, vms)))
        return made

    def records(self, kind: str) -> list[ET.Element]:
        """All records of a kind."""
        base = self.base
        match kind:
            case "adminOrgVdc" | "orgVdc":
                return [
                    node("AdminVdcRecord" if kind == "adminOrgVdc" else "OrgVdcRecord", name=v.name, orgName="acme",
                         href=f"{base}/api/vdc/{v.id}", isEnabled=str(v.enabled).lower(), memoryLimitMB=v.memory,
                         memoryUsedMB=1024, cpuLimitMhz=32000, cpuUsedMhz=2000)
                    for v in self.vdcs
                ]  # fmt: skip
            case "adminVM":
                return [
                    node("AdminVMRecord", name=vm.name, href=self.at(vm), moref=vm.moref, isVAppTemplate="false",
                         vdc=f"{base}/api/vdc/{vm.vapp.vdc.id}", container=f"{base}/api/vApp/vapp-{vm.vapp.id}",
                         vc=f"{base}/api/admin/extension/vimServer/{self.server}", status=STATES[self.status(vm)],
                         isDeployed=str(vm.deployed).lower())
                    for vm in self.vms.values()
                ]  # fmt: skip
            case "adminVApp":
                return [
                    node("AdminVAppRecord", name=a.name, href=f"{base}/api/vApp/vapp-{a.id}",
                         vdc=f"{base}/api/vdc/{a.vdc.id}")
                    for a in self.vapps.values()
                ]  # fmt: skip
            case "orgVdcNetwork":
                return [
                    node("OrgVdcNetworkRecord", name=name, href=f"{base}/api/admin/network/{n}", linkType=0,
                         connectedTo=self.center.networks[name], vdc=f"{base}/api/vdc/{vdc}")
                    for (vdc, name), n in self.networks.items()
                ]  # fmt: skip
            case "adminOrgVdcStorageProfile":
                return [
                    node("AdminOrgVdcStorageProfileRecord", name="fast", href=f"{base}/api/admin/vdcStorageProfile/{n}",
                         vdc=f"{base}/api/vdc/{vdc}")
                    for vdc, n in self.policies.items()
                ]  # fmt: skip
            case "virtualCenter":
                at = f"{base}/api/admin/extension/vimServer/{self.server}"
                return [node("VirtualCenterRecord", name="vc-1", href=at)]
        raise Error(400, "BAD_REQUEST", f"The query type {kind} is invalid.")

    def query(self, asked: dict[str, list[str]]) -> ET.Element:
        """Records with certain values; a page of them."""
        kind, size, page = asked["type"][0], int(asked.get("pageSize", ["25"])[0]), int(asked.get("page", ["1"])[0])
        found = self.records(kind)
        for term in filter(None, unquote(asked.get("filter", [""])[0]).strip("()").split(";")):
            key, _, value = term.partition("==")
            if found and found[0].get(key) is None:
                raise Error(400, "BAD_REQUEST", f"Unknown property name {key}")
            found = [each for each in found if each.get(key) == value]
        shown = found[(page - 1) * size : page * size]
        return node("QueryResultRecords", *shown, total=len(found), page=page, pageSize=size, name=kind)


class _Handler(HttpsHandler):
    server: FakeVcd

    def _any(self) -> None:
        here, body = self.server, self.content()
        path, session = urlsplit(self.path).path, "session" in self.path
        rule = None
        with here.gate.lock:
            here.asked.append(f"{self.command} {self.path}")
            if self.command != "GET" and not session:
                here.gate.calls.append(f"{self.command} {path}")
                rule = next((rule for rule in here.gate.rules if rule.hits(f"{self.command} {path}")), None)
        match rule.do if rule else "":
            case "delay":
                time.sleep(rule.seconds)
            case "reset":
                return self.cut()
            case "status":
                return self.send(429, b"", {})
            case "expire":
                here.tokens.clear()
        status, content, headers = self._answer(path, body)
        return self.cut() if rule and rule.do == "lost" else self.send(status, content, headers)

    do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        here, xml = self.server, {"Content-Type": f"application/*+xml;version={VERSION}"}
        try:
            if path == "/api/versions":
                number = "http://www.vmware.com/vcloud/versions"
                version = node(
                    "VersionInfo", node("Version", text=VERSION, space=number), space=number, deprecated="false"
                )
                return 200, ET.tostring(node("SupportedVersions", version, space=number)), xml
            if f"version={VERSION}" not in self.headers.get("Accept", ""):
                raise Error(406, "NOT_ACCEPTABLE", "The request has invalid accept header")
            if path.startswith("/cloudapi/1.0.0/sessions"):
                return self._log_in()
            if self.headers.get("Authorization", "").removeprefix("Bearer ") not in here.tokens:
                raise Error(401, "ACCESS_TO_RESOURCE_IS_FORBIDDEN", "The session is not valid.")
            with here.lock:
                media = self.headers.get("Content-Type", "").partition(";")[0]
                status, made = here.call(here, self.command, self.path, body, media, self.headers["Authorization"][7:])
                return status, b"" if made is None else ET.tostring(made), xml
        except Error as error:
            status, code, message = error.args
            made = node("Error", majorErrorCode=status, minorErrorCode=code, message=message)
            return status, ET.tostring(made), {"Content-Type": f"{CLOUD}error+xml"}
        except Exception as error:
            here.mistakes.append(error)
            return 500, b"", {}

    def _log_in(self) -> tuple[int, bytes, dict[str, str]]:
        said = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        if said != self.server.login:
            return 401, b'{"minorErrorCode":"ACCESS_TO_RESOURCE_IS_FORBIDDEN","message":"Unauthorized"}', {
                "Content-Type": "application/json"
            }  # fmt: skip
        token = uuid.uuid4().hex
        self.server.tokens.add(token)
        headers = {"X-VMWARE-VCLOUD-ACCESS-TOKEN": token, "X-VMWARE-VCLOUD-TOKEN-TYPE": "Bearer"}
        return 200, b"{}", {"Content-Type": "application/json", **headers}
