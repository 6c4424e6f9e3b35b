"""The local platform: QEMU on this machine, with the disks of its VMs served by the site's splitter."""
