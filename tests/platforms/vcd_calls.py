"""The calls of our vCloud Director, by method and path."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from platforms.fake_vcd import ADMIN, CLOUD, OFF, ON, QUERIES, Error, FakeVcd, V, Vapp, Vdc, Vm, X, node

Made = tuple[int, ET.Element | None]
Call = Callable[..., Made]
_CALLS: list[tuple[str, re.Pattern[str], str, Call]] = []
_ID = "([0-9a-f-]{36})"


def _on(method: str, path: str, media: str = "") -> Callable[[Call], Call]:
    def keep(work: Call) -> Call:
        _CALLS.append((method, re.compile(path.replace("ID", _ID)), media, work))
        return work

    return keep


def call(here: FakeVcd, method: str, target: str, body: bytes, media: str, token: str) -> Made:
    """Carry one out. Raises Error."""
    path = urlsplit(target).path
    for verb, pattern, wanted, work in _CALLS:
        found = pattern.fullmatch(path)
        if found and verb == method:
            if wanted and media != wanted:
                raise Error(415, "UNSUPPORTED_MEDIA_TYPE", f"{media} is not {wanted}")
            if path == "/api/session" and method == "DELETE":
                here.tokens.discard(token)
            if path == "/api/query":
                return 200, here.query(parse_qs(urlsplit(target).query)) if "type" in target else _queries(here)
            more: list[Any] = [ET.fromstring(body)] if wanted else []
            return work(here, *found.groups(), *more)
    raise Error(404, "NOT_FOUND", f"{method} {path}")


# -- looking ----------------------------------------------------------------------------------------------------------


def _queries(here: FakeVcd) -> ET.Element:
    links = [
        node("Link", rel="down", type=f"{CLOUD}query.records+xml", name=kind,
             href=f"{here.base}/api/query?type={kind}&format=records")
        for kind in QUERIES
    ]  # fmt: skip
    return node("QueryList", *links)


@_on("GET", "/api/query")
def _query(here: FakeVcd) -> Made:
    return 200, _queries(here)


@_on("GET", "/api/session")
def _session(here: FakeVcd) -> Made:
    links = {"query.queryList": "query", "orgList": "org", "admin.vcloud": "admin"}
    made = [
        node("Link", rel="down", type=f"{CLOUD}{kind}+xml", href=f"{here.base}/api/{at}") for kind, at in links.items()
    ]
    return 200, node("Session", *made, user="drsim", org="System", href=f"{here.base}/api/session")


@_on("DELETE", "/api/session")
def _log_out(here: FakeVcd) -> Made:
    return 204, None


@_on("GET", "/api/admin")
def _admin(here: FakeVcd) -> Made:
    return 200, node("VCloud", node("Description", text="10.3.3.19610875 of a test"), name="VMware Cloud Director")


@_on("GET", "/api/org")
def _orgs(here: FakeVcd) -> Made:
    return 200, node(
        "OrgList", node("Org", name="acme", href=f"{here.base}/api/org/{here.org}", type=f"{CLOUD}org+xml")
    )


@_on("GET", "/api/org/ID")
def _org(here: FakeVcd, org: str) -> Made:
    vdcs = node("Link", rel="down", type=f"{CLOUD}query.records+xml", href=f"{here.base}/api/query?type=orgVdc")
    return 200, node("Org", vdcs, name="acme", href=f"{here.base}/api/org/{org}", type=f"{CLOUD}org+xml")


def _vdc_of(here: FakeVcd, vdc: str) -> Vdc:
    found = next((each for each in here.vdcs if each.id == vdc), None)
    if found is None:
        raise Error(403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN", "No access to the VDC.")
    return found


@_on("GET", "/api/vdc/ID")
def _vdc(here: FakeVcd, vdc: str) -> Made:
    found = _vdc_of(here, vdc)
    entities = [
        node("ResourceEntity", name=a.name, href=f"{here.base}/api/vApp/vapp-{a.id}", type=f"{CLOUD}vApp+xml")
        for a in here.vapps.values()
        if a.vdc is found
    ]
    return 200, node("Vdc", node("ResourceEntities", *entities), name=found.name, href=f"{here.base}/api/vdc/{vdc}",
                     id=f"urn:vcloud:vdc:{vdc}", type=f"{CLOUD}vdc+xml")  # fmt: skip


@_on("GET", "/api/task/ID")
def _task(here: FakeVcd, task: str) -> Made:
    if task not in here.tasks:
        raise Error(403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN", "No access to the task.")
    return 200, here.show_task(here.tasks[task])


def _vm_of(here: FakeVcd, vm: str) -> Vm:
    if vm not in here.vms:
        raise Error(403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN", "No access to entity.")
    return here.vms[vm]


def _vapp_of(here: FakeVcd, vapp: str) -> Vapp:
    if vapp not in here.vapps:
        raise Error(403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN", "No access to entity.")
    return here.vapps[vapp]


@_on("GET", "/api/vApp/vapp-ID")
def _vapp(here: FakeVcd, vapp: str) -> Made:
    return 200, here.show_vapp(_vapp_of(here, vapp))


@_on("GET", "/api/vApp/vm-ID")
def _vm(here: FakeVcd, vm: str) -> Made:
    return 200, here.show_vm(_vm_of(here, vm))


@_on("GET", "/api/vApp/vm-ID/networkConnectionSection")
def _nics(here: FakeVcd, vm: str) -> Made:
    return 200, _vm_of(here, vm).nics


@_on("GET", "/api/vApp/vapp-ID/networkConfigSection")
def _networks(here: FakeVcd, vapp: str) -> Made:
    return 200, _vapp_of(here, vapp).networks


# -- import -----------------------------------------------------------------------------------------------------------


@_on("GET", "/api/admin/extension/vimServer/ID")
def _vim_server(here: FakeVcd, server: str) -> Made:
    at = f"{here.base}/api/admin/extension/vimServer/{server}"
    kinds = {"importVmAsVAppParams": "importVmAsVApp", "importVmIntoExistingVAppParams": "importVmIntoVApp"}
    links = [node("Link", rel="add", type=f"{ADMIN}{kind}+xml", href=f"{at}/{to}") for kind, to in kinds.items()]
    return 200, node("VimServer", *links, space=X, name="vc-1", href=at)


def _imported(here: FakeVcd, asked: ET.Element, vapp: Vapp, what: str) -> Any:
    """Start the import of a VM into a vApp."""
    moref, name = asked.findtext(f"{{{X}}}VmMoRef") or "", asked.findtext(f"{{{X}}}VmName") or ""
    if here.center.name(moref) is None:
        raise Error(400, "INVALID_REFERENCE", f"The VC entity {moref} was not found.")
    if any(vm.moref == moref for vm in here.vms.values()):
        raise Error(400, "BAD_REQUEST", f"The virtual machine {moref} is managed already.")
    profile = asked.find(f"{{{X}}}VdcStorageProfile")
    if profile is not None and profile.get("href", "").rpartition("/")[2] != here.policies[vapp.vdc.id]:
        raise Error(400, "INVALID_REFERENCE", "The storage profile is not the VDC's.")
    if any(vm.name == name and vm.vapp is vapp for vm in here.vms.values()):
        raise Error(400, "DUPLICATE_NAME", f"The VM name {name} is used in the vApp.")
    vm = Vm(name, vapp, moref)

    def work() -> None:
        here.center.rename(moref, f"{name}-{vm.id[:4]}")
        vm.ready = True

    task = here.start("importSingletonVapp", work, vm.id, vapp.id)
    here.vapps[vapp.id], here.vms[vm.id] = vapp, vm
    return task if what == "task" else here.show_vapp(vapp)


@_on("POST", "/api/admin/extension/vimServer/ID/importVmAsVApp", f"{ADMIN}importVmAsVAppParams+xml")
def _import(here: FakeVcd, server: str, asked: ET.Element) -> Made:
    where, name = asked.find(f"{{{X}}}Vdc"), asked.get("name", "")
    vdc = _vdc_of(here, where.get("href", "").rpartition("/")[2] if where is not None else "")
    if not vdc.enabled:
        raise Error(400, "BAD_REQUEST", f"The VDC {vdc.name} is disabled.")
    if any(each.name == name and each.vdc is vdc for each in here.vapps.values()):
        raise Error(400, "DUPLICATE_NAME", f"The vApp name {name} is used in the VDC.")
    return 201, _imported(here, asked, Vapp(name, vdc), "vapp")


@_on("POST", "/api/admin/extension/vimServer/ID/importVmIntoVApp", f"{ADMIN}importVmIntoExistingVAppParams+xml")
def _import_into(here: FakeVcd, server: str, asked: ET.Element) -> Made:
    where = asked.find(f"{{{X}}}VApp")
    vapp = _vapp_of(here, where.get("href", "").rpartition("vapp-")[2] if where is not None else "")
    return 202, here.show_task(_imported(here, asked, vapp, "task"))


# -- changes ----------------------------------------------------------------------------------------------------------


@_on("PUT", "/api/vApp/vapp-ID/networkConfigSection", f"{CLOUD}networkConfigSection+xml")
def _set_networks(here: FakeVcd, vapp: str, asked: ET.Element) -> Made:
    found = _vapp_of(here, vapp)
    for each in asked.findall(f"{{{V}}}NetworkConfig"):
        parent = each.find(f"{{{V}}}Configuration/{{{V}}}ParentNetwork")
        known = {n: name for (vdc, name), n in here.networks.items() if vdc == found.vdc.id}
        if parent is None or known.get(parent.get("href", "").rpartition("/")[2]) != each.get("networkName"):
            raise Error(400, "INVALID_REFERENCE", "The network is not the VDC's.")
    return 202, here.show_task(here.start("vappUpdateVApp", lambda: setattr(found, "networks", asked), vapp))


@_on("PUT", "/api/vApp/vm-ID/networkConnectionSection", f"{CLOUD}networkConnectionSection+xml")
def _set_nics(here: FakeVcd, vm: str, asked: ET.Element) -> Made:
    found = _vm_of(here, vm)
    has = {each.get("networkName") for each in found.vapp.networks.findall(f"{{{V}}}NetworkConfig")}
    for nic in asked.findall(f"{{{V}}}NetworkConnection"):
        if nic.get("network") not in has:
            raise Error(400, "BAD_REQUEST", f"The vApp has no network {nic.get('network')}.")
        for wanted in ("NetworkConnectionIndex", "IsConnected", "IpAddressAllocationMode"):
            if nic.find(f"{{{V}}}{wanted}") is None:
                raise Error(400, "BAD_REQUEST", f"{wanted} is missing")

    def work() -> None:
        here.center.connect(found.moref, asked)
        for nic in asked.findall(f"{{{V}}}NetworkConnection"):
            if nic.find(f"{{{V}}}NetworkAdapterType") is None:
                nic.append(node("NetworkAdapterType", text="VMXNET3"))
        found.nics = asked

    return 202, here.show_task(here.start("vappUpdateVm", work, vm))


@_on("PUT", "/api/vApp/vm-ID/guestCustomizationSection", f"{CLOUD}guestCustomizationSection+xml")
def _set_guest(here: FakeVcd, vm: str, asked: ET.Element) -> Made:
    found, wanted = _vm_of(here, vm), asked.findtext(f"{{{V}}}Enabled") == "true"
    return 202, here.show_task(here.start("vappUpdateVm", lambda: setattr(found, "guest", wanted), vm))


@_on("POST", "/api/vApp/vm-ID/power/action/(powerOn|powerOff)")
def _power(here: FakeVcd, vm: str, verb: str) -> Made:
    found = _vm_of(here, vm)
    if here.status(found) != (OFF if verb == "powerOn" else ON):
        raise Error(400, "BAD_REQUEST", "The VM is not in the state for that.")

    def work() -> None:
        if verb == "powerOn":
            found.deployed = True
            if found.guest and len(found.nics.findall(f"{{{V}}}NetworkConnection")):
                here.center.customize(found.moref, found.nics)
                found.guest = False
        here.center.turn(found.moref, on=verb == "powerOn")

    return 202, here.show_task(here.start(verb, work, vm))


@_on("POST", "/api/vApp/(vm|vapp)-ID/action/undeploy", f"{CLOUD}undeployVAppParams+xml")
def _undeploy(here: FakeVcd, kind: str, thing: str, asked: ET.Element) -> Made:
    vms = [_vm_of(here, thing)] if kind == "vm" else [vm for vm in here.vms.values() if vm.vapp.id == thing]
    if not any(vm.deployed for vm in vms):
        raise Error(400, "BAD_REQUEST", "It is not deployed.")

    def work() -> None:
        for vm in vms:
            here.center.turn(vm.moref, on=False)
            vm.deployed = False

    return 202, here.show_task(here.start("vappUndeploy", work, thing, *(vm.id for vm in vms)))


@_on("DELETE", "/api/vApp/(vm|vapp)-ID")
def _delete(here: FakeVcd, kind: str, thing: str) -> Made:
    vms = (
        [_vm_of(here, thing)] if kind == "vm" else [vm for vm in here.vms.values() if vm.vapp is _vapp_of(here, thing)]
    )
    if any(vm.deployed or here.status(vm) == ON for vm in vms):
        raise Error(400, "BAD_REQUEST", "It is deployed; undeploy it first.")

    def work() -> None:
        for vm in vms:
            here.center.destroy(vm.moref)
            del here.vms[vm.id]
        here.vapps.pop(thing, None)

    return 202, here.show_task(here.start("vdcDeleteVapp", work, thing, *(vm.id for vm in vms)))
