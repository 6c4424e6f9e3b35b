"""AwsInventory: what there is in the zone, and what changes, as far as looking again and again can tell."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from drsim.real.aws import tags
from drsim.real.aws.machines import Machine, Machines, host_of
from drsim.real.aws.session import Session
from drsim.real.ports import About, Change, Gone, HostChanged, HostFacts, Moved, NotAllowed, StoreFacts, VmFacts
from drsim.spec.aws import GIB, SECOND


class AwsInventory:
    """Looks."""

    def __init__(self, session: Session, machines: Machines) -> None:
        self.session, self.machines, self.spec = session, machines, session.spec
        self._known: dict[str, bool] = {}
        """Which hosts were usable when `changes` last told of them, or when it was first looked."""

    async def about(self) -> About:
        """The port's. `missing`: actions of IAM."""
        _, clock = await self.session.identity()
        missing = await self.session.missing()
        return About("Amazon EC2", f"2016-11-15 in {self.spec.region}", clock, missing)

    async def look(self) -> None:
        """The first look: changes are told from here on. Raises NotFound for what the file names and is not there."""
        await self._usable()
        spec, images = self.spec, [image for image in (self.spec.images.bios, self.spec.images.uefi) if image]
        wanted: dict[str, dict[str, Any]] = {"DescribeImages": {"ImageIds": images}}
        if spec.security_groups:
            wanted["DescribeSecurityGroups"] = {"GroupIds": list(spec.security_groups)}
        if spec.bucket is not None:
            wanted["ListObjectsV2"] = {"Bucket": spec.bucket.name, "Prefix": spec.bucket.prefix, "MaxKeys": 1}
        for operation, given in wanted.items():
            with suppress(NotAllowed):  # `about` says so
                await self.session.ask(operation, **given)

    async def hosts(self) -> Sequence[HostFacts]:
        """The parts of the zone that the site's file sets aside, less what drsim's VMs there take."""
        usable, used = await self._usable(), await self.machines.all()
        found = []
        for name, host in self.spec.hosts.items():
            mine = [self.machines.vm(m) for m in used if m.owner and host_of(m, self.session) == name]
            memory, cpus = host.memory - sum(vm.memory for vm in mine), host.cpus - sum(vm.cpus for vm in mine)
            found.append(HostFacts(name, max(0, memory), max(0, cpus), usable[name]))
        return found

    async def _usable(self) -> dict[str, bool]:
        zones = await self.session.ask("DescribeAvailabilityZones", ZoneNames=[self.spec.zone])
        zone = any(z["State"] == "available" for z in zones["AvailabilityZones"])
        dedicated = [host.dedicated for host in self.spec.hosts.values() if host.dedicated]
        well: set[str] = set()
        if dedicated:
            hosts = await self.session.ask("DescribeHosts", HostIds=dedicated)
            well = {h["HostId"] for h in hosts["Hosts"] if h["State"] == "available"}
        usable = {name: zone and (not h.dedicated or h.dedicated in well) for name, h in self.spec.hosts.items()}
        self._known = self._known or usable
        return usable

    async def stores(self) -> Sequence[StoreFacts]:
        """The kinds of EBS volumes that the site's file sets aside, less what drsim's disks take."""
        volumes = await self.session.all(
            "DescribeVolumes", "Volumes", Filters=[{"Name": "tag-key", "Values": [tags.STORE]}]
        )  # fmt: skip
        used = dict.fromkeys(self.spec.stores, 0)
        for volume in volumes:
            store = tags.read(volume)[tags.STORE]
            used[store] = used.get(store, 0) + volume["Size"] * GIB
        return [
            StoreFacts(name, store.capacity, max(0, store.capacity - used[name]))
            for name, store in self.spec.stores.items()
        ]

    async def networks(self) -> Sequence[str]:
        """The subnets of the site's file that are in its zone."""
        ids = {"Name": "subnet-id", "Values": list(self.spec.networks.values())}
        zone = {"Name": "availability-zone", "Values": [self.spec.zone]}
        there = {each["SubnetId"] for each in await self.session.all("DescribeSubnets", "Subnets", Filters=[ids, zone])}
        return [name for name, subnet in self.spec.networks.items() if subnet in there]

    async def vms(self, owner: str | None = None) -> Sequence[VmFacts]:
        """The port's; of a VM that is being launched anew, the newer instance."""
        newest: dict[tuple[str, str], Machine] = {}
        for machine in await self.machines.all(tags.having(owner=owner) if owner else []):
            newest.setdefault((machine.owner, machine.name), machine)
        return [self.machines.vm(m) for _, m in sorted(newest.items())]

    async def vm(self, name: str) -> VmFacts:
        """The port's."""
        return self.machines.vm(await self.machines.one(name))

    async def changes(self) -> AsyncIterator[Change]:
        """The port's. EC2 tells nobody: it is looked again after each `poll` of the site's file."""
        vms = await self._places()
        while True:
            usable, places = await self._usable(), await self._places()
            for name in (name for name, well in usable.items() if self._known[name] != well):
                self._known[name] = usable[name]
                yield HostChanged(name, usable[name])
            for name, host in vms.items():
                if name not in places:
                    yield Gone(name)
                elif places[name] != host:
                    yield Moved(name, places[name])
            vms = places
            await asyncio.sleep(self.spec.poll / SECOND)

    async def _places(self) -> dict[str, str]:
        return {vm.name: vm.host for vm in await self.vms()}
