"""AWS: a site in one availability zone. Instances are VMs, EBS volumes are disks, a bucket keeps journals.

Theory of operation. `session.py` makes every call, from a table of calls; `connect.py` puts the ports together.

    port            by
    --------------  -------------------------------------------------------------------------------------------------
    Inventory       instances by their Name; hosts and stores are parts of the zone that the site's file sets aside
    Hypervisor      an instance cannot be made switched off or without a disk, nor given another first network adapter:
                    `hypervisor.py` says how it is done all the same
    Disks           EBS volumes, whole GiB
    DiskLocator     the NVMe controller with the volume's serial number
    ChangeSource    snapshots of all volumes of an instance at once, and EBS direct
    ObjectStore     S3, written once, with checksums

Everything that is made carries its owner from the moment it is made (tags in the call itself), and a token that says
what it is, so that a call whose answer was lost makes nothing twice, also where a look would come too early to see it.
"""
