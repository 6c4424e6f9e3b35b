"""Nics: network adapters and addresses as a vCenter wants them."""

from collections.abc import Sequence
from typing import Any

from pyVmomi import vim

from drsim.core.recovery.plan import Nic
from drsim.real.vsphere.inventory import VsphereInventory


async def card(inventory: VsphereInventory, key: int, network: str) -> Any:
    """What adds an adapter on a network, or on a port group of a distributed switch. Raises NotFound."""
    found = await inventory.find(vim.Network, network)

    async def ask() -> Any:
        facts = await inventory.session.read(found, "key", "config.distributedVirtualSwitch")
        switch = await inventory.session.read(facts["config.distributedVirtualSwitch"], "uuid")
        return vim.dvs.PortConnection(portgroupKey=facts["key"], switchUuid=switch["uuid"])

    if isinstance(found, vim.dvs.DistributedVirtualPortgroup):
        port = await inventory.once(found, ask)
        backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
    else:
        backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName=network, network=found)
    connect = vim.vm.device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=True)
    made = vim.vm.device.VirtualVmxnet3(key=key, backing=backing, connectable=connect, addressType="generated")
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=made)


def addresses(nics: Sequence[Nic], domain: str) -> Any:
    """What gives a guest the addresses of its adapters; DHCP where one has none."""
    guest = vim.vm.customization
    adapters = []
    for nic in nics:
        ip = guest.FixedIp(ipAddress=nic.address) if nic.address else guest.DhcpIpGenerator()
        settings = guest.IPSettings(ip=ip, dnsServerList=list(nic.dns))
        if nic.address:
            settings.subnetMask = str(nic.subnet.netmask)
            settings.gateway = [nic.gateway] if nic.gateway else []
        adapters.append(guest.AdapterMapping(adapter=settings))
    servers = list(dict.fromkeys(server for nic in nics for server in nic.dns))
    identity = guest.LinuxPrep(hostName=guest.VirtualMachineNameGenerator(), domain=domain)
    return guest.Specification(
        identity=identity, globalIPSettings=guest.GlobalIPSettings(dnsServerList=servers), nicSettingMap=adapters
    )
