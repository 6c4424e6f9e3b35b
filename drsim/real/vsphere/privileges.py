"""Privileges: the least that drsim's account needs in a vCenter, and for what. The docs' table is this one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """A privilege by its name in the API, and what is not possible without it."""

    privilege: str
    why: str


NEEDED: tuple[Need, ...] = (
    Need("System.View", "see anything"),
    Need("System.Read", "read the inventory"),
    Need("Datastore.Browse", "find disks"),
    Need("Datastore.AllocateSpace", "make disks and VMs"),
    Need("Datastore.FileManagement", "make and delete disks"),
    Need("Network.Assign", "attach VMs to networks"),
    Need("Resource.AssignVMToPool", "place VMs"),
    Need("VirtualMachine.Inventory.Create", "make VMs"),
    Need("VirtualMachine.Inventory.Delete", "delete VMs that drsim made"),
    Need("VirtualMachine.Config.AddExistingDisk", "attach disks"),
    Need("VirtualMachine.Config.RemoveDisk", "detach disks"),
    Need("VirtualMachine.Config.AddRemoveDevice", "give VMs network adapters"),
    Need("VirtualMachine.Config.EditDevice", "change network adapters"),
    Need("VirtualMachine.Config.AdvancedConfig", "write on a VM who made it"),
    Need("VirtualMachine.Config.Annotation", "write that into its notes"),
    Need("VirtualMachine.Config.CPUCount", "give VMs processors"),
    Need("VirtualMachine.Config.Memory", "give VMs memory"),
    Need("VirtualMachine.Config.Settings", "choose their firmware"),
    Need("VirtualMachine.Config.ChangeTracking", "switch changed block tracking on"),
    Need("VirtualMachine.Interact.PowerOn", "start VMs"),
    Need("VirtualMachine.Interact.PowerOff", "stop VMs"),
    Need("VirtualMachine.Provisioning.Customize", "re-IP"),
    Need("VirtualMachine.Provisioning.DiskRandomRead", "ask for changed areas"),
    Need("VirtualMachine.State.CreateSnapshot", "take epochs"),
    Need("VirtualMachine.State.RemoveSnapshot", "end epochs"),
)
