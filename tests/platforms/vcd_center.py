"""The vCenter behind our vCloud Director: what that does to VMs there, by pyvmomi, in a session of its own."""

import xml.etree.ElementTree as ET
from typing import Any

from pyVmomi import SoapStubAdapter, vim, vmodl

V = "{http://www.vmware.com/vcloud/v1.5}"


class Center:
    """A session with the simulator itself. `networks`: the vCenter's name of each of the tenant's."""

    def __init__(self, port: int, user: str, password: str, networks: dict[str, str]) -> None:
        self.networks = networks
        self._stub = SoapStubAdapter(host="127.0.0.1", port=-port, version="vim.version.version11")
        self._content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
        self._content.sessionManager.Login(user, password)

    def _read(self, thing: Any, path: str) -> Any:
        query = vmodl.query.PropertyCollector
        wanted = query.PropertySpec(type=type(thing), pathSet=[path])
        spec = query.FilterSpec(propSet=[wanted], objectSet=[query.ObjectSpec(obj=thing)])
        found = self._content.propertyCollector.RetrieveContents([spec])
        return found[0].propSet[0].val if found and found[0].propSet else None

    def _vm(self, moref: str) -> Any:
        return vim.VirtualMachine(moref, self._stub)

    def _finish(self, task: Any) -> None:
        state = self._read(task, "info.state")
        assert state == "success", f"{state}: {self._read(task, 'info.error')}"

    def name(self, moref: str) -> str | None:
        """Of a VM; None when there is none of this reference."""
        try:
            found: str | None = self._read(self._vm(moref), "name")
        except vmodl.fault.ManagedObjectNotFound:
            return None
        return found

    def moref(self, name: str) -> str:
        """The reference of a VM of this name."""
        root = self._content.rootFolder
        view = self._content.viewManager.CreateContainerView(root, [vim.VirtualMachine], True)
        found = next(each for each in self._read(view, "view") if self._read(each, "name") == name)
        view.Destroy()
        return str(found._moId)

    def power(self, moref: str) -> str:
        """Its state."""
        return str(self._read(self._vm(moref), "runtime.powerState"))

    def rename(self, moref: str, name: str) -> None:
        """Call it otherwise."""
        self._finish(self._vm(moref).Rename_Task(name))

    def turn(self, moref: str, *, on: bool) -> None:
        """Start or stop it, if it is not so."""
        vm = self._vm(moref)
        if (self.power(moref) == "poweredOn") != on:
            self._finish(vm.PowerOnVM_Task() if on else vm.PowerOffVM_Task())

    def destroy(self, moref: str) -> None:
        """Delete it with the disks that it has."""
        self._finish(self._vm(moref).Destroy_Task())

    def connect(self, moref: str, nics: ET.Element) -> None:
        """Give it these adapters in place of its own."""
        vm, spec = self._vm(moref), vim.vm.device.VirtualDeviceSpec
        cards = [each for each in self._read(vm, "config.hardware.device")
                 if isinstance(each, vim.vm.device.VirtualEthernetCard)]  # fmt: skip
        changes = [spec(operation="remove", device=card) for card in cards]
        for n, nic in enumerate(nics.findall(f"{V}NetworkConnection")):
            name = self.networks[nic.get("network", "")]
            backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName=name)
            changes.append(spec(operation="add", device=vim.vm.device.VirtualVmxnet3(key=-1 - n, backing=backing)))
        self._finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes)))

    def customize(self, moref: str, nics: ET.Element) -> None:
        """Have its guest take these addresses when it starts."""
        guest, adapters = vim.vm.customization, []
        for nic in nics.findall(f"{V}NetworkConnection"):
            address = nic.findtext(f"{V}IpAddress")
            manual = nic.findtext(f"{V}IpAddressAllocationMode") == "MANUAL"
            ip = guest.FixedIp(ipAddress=address) if manual else guest.DhcpIpGenerator()
            adapters.append(guest.AdapterMapping(adapter=guest.IPSettings(ip=ip, subnetMask="255.255.255.0")))
        identity = guest.LinuxPrep(hostName=guest.FixedName(name="guest"), domain="test")
        spec = guest.Specification(identity=identity, globalIPSettings=guest.GlobalIPSettings(), nicSettingMap=adapters)
        self._finish(self._vm(moref).CustomizeVM_Task(spec))

    def close(self) -> None:
        """Log out."""
        self._content.sessionManager.Logout()
        self._stub.DropConnections()
