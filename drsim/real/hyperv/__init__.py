"""Hyper-V: VMs and disks of Hyper-V hosts, by PowerShell cmdlets over WinRM."""

from drsim.real.hyperv.site import connect

__all__ = ["connect"]
