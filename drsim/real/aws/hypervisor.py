"""AwsHypervisor: VMs that are off, have the disks they are given, and the addresses they are told.

Theory of operation. EC2 launches an instance running, from an image, with that image's disk, and with a first network
adapter that it keeps for life. A VM of the ports begins off, without disks, and gets its adapters later. So:

    create          launch from a small image (the stub), stop it, throw the stub's disk away
    attach          a volume becomes the root device, if there is none, else the next
    set_networks    other adapters: make them with their fixed addresses, launch another *generation* of the instance
                    with them, give it the disks of the older one, terminate that
    delete          terminate; volumes stay, because none is marked to go with an instance

The stub's disk is swapped while the instance is stopped, which is the way that AWS documents for replacing a root
volume; the guest's own boot loader runs at the first power on. It needs ENA and NVMe drivers.

Instances of one owner and name are one VM, and the newest generation is it. `_settle` brings whatever is found to
"one instance, without stub": every operation begins with it, so that one that was killed anywhere is finished by the
next, whichever it is. A launch carries a token made of owner, name and generation.
"""

import asyncio
import json
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.aws import tags
from drsim.real.aws.disks import AwsDisks
from drsim.real.aws.machines import ALIVE, LATER, Machine, Machines, host_of
from drsim.real.aws.session import Facts, Session, TooLate, token
from drsim.real.ports import DiskId, NewVm, NotFound, QuotaReached, Taken, Unsupported
from drsim.spec.aws import GIB


class AwsHypervisor:
    """Instances."""

    def __init__(self, session: Session, machines: Machines, disks: AwsDisks) -> None:
        self.session, self.machines, self.disks, self.spec = session, machines, disks, session.spec

    # -- make and delete --------------------------------------------------------------------------------------

    async def create(self, vm: NewVm) -> None:
        """The port's."""
        for kind, name, known in (("host", vm.host, self.spec.hosts), ("store", vm.store, self.spec.stores)):
            if name not in known:
                raise NotFound(f"no {kind} is called {name}", place=self.session.place, hint=f"see {kind}s in its file")
        there = await self.machines.named(vm.name)
        if any(m.owner != vm.owner for m in there):
            raise Taken(f"a VM is called {vm.name} already", place=self.session.place)
        if not there:
            subnet = self.spec.networks[self.spec.network or next(iter(self.spec.networks))]
            net: Facts = {"SubnetId": subnet}
            net |= {"SecurityGroupIds": list(self.spec.security_groups)} if self.spec.security_groups else {}
            await self._launch(vm.owner, vm.name, 1, vm.host, self._type(vm), self._image(vm), net)
        await self._settle(vm.name)

    def _type(self, vm: NewVm) -> str:
        enough = [(t.cpus, t.memory, name) for name, t in self.spec.types.items()
                  if t.cpus >= vm.cpus and t.memory >= vm.memory]  # fmt: skip
        if not enough:
            message = f"no instance type has {vm.cpus} CPUs and {vm.memory / GIB:g} GiB"
            raise Unsupported(message, place=self.session.place, hint="add one to types in the site's file")
        return min(enough)[2]

    def _image(self, vm: NewVm) -> str:
        image: str | None = getattr(self.spec.images, vm.firmware)
        if image is None:
            hint = f"add images.{vm.firmware} to the site's file"
            raise Unsupported(f"no image for firmware {vm.firmware}", place=self.session.place, hint=hint)
        return image

    async def _launch(
        self, owner: str, name: str, generation: int, host: str, type_: str, image: str, net: Facts
    ) -> None:
        dedicated = self.spec.hosts[host].dedicated if host in self.spec.hosts else None
        where: Facts = {"AvailabilityZone": self.spec.zone}
        where |= {"HostId": dedicated, "Tenancy": "host"} if dedicated else {}
        what = ("instance", owner, name, str(generation), host, type_, image, json.dumps(net, sort_keys=True))
        while True:
            mark = token(*what, self.session.burnt[what])
            common = tags.written(owner=owner, name=name, vm=name, generation=str(generation)) | {"Name": name}
            specs = [
                tags.on("instance", common | {tags.HOST: host, tags.STUB: mark}),
                tags.on("volume", common | {tags.STUB: mark}),
            ]
            specs += [tags.on("network-interface", common)] if "SubnetId" in net else []
            made = await self.session.ask(
                "RunInstances", MinCount=1, MaxCount=1, ImageId=image, InstanceType=type_, Placement=where,
                ClientToken=mark, TagSpecifications=specs, InstanceInitiatedShutdownBehavior="stop",
                MetadataOptions={"HttpTokens": "required"}, **net,
            )  # fmt: skip
            if await self._lives(made["Instances"][0]["InstanceId"]):
                return
            self.session.burnt[what] += 1

    async def _lives(self, id_: str) -> bool:
        """Wait until a launch is seen; False when its token made an instance that was terminated since."""
        for wait in (*self.session.limits.waits(), 0.0):
            state = await self.machines.state(id_)
            if state != "unknown":
                return state in ALIVE
            await asyncio.sleep(wait)
        return False

    async def delete(self, name: str, owner: str) -> None:
        """The port's; also adapters and stubs of a launch that never came to anything."""
        mine = [m for m in await self.machines.named(name) if m.owner == owner and owner]
        await asyncio.gather(*(self._terminate(m) for m in mine))
        await self._sweep(owner, name, ())
        await self._drop_stubs(tags.having(owner=owner, vm=name))

    async def _terminate(self, machine: Machine) -> None:
        going = {m["DeviceName"]: tags.STUB in tags.read(await self.disks.volume(m["Ebs"]["VolumeId"]))
                 for m in machine.facts.get("BlockDeviceMappings", [])
                 if m["Ebs"].get("DeleteOnTermination")}  # fmt: skip
        kept = [{"DeviceName": d, "Ebs": {"DeleteOnTermination": False}} for d, stub in going.items() if not stub]
        if kept:
            await self.session.ask("ModifyInstanceAttribute", InstanceId=machine.id, BlockDeviceMappings=kept)
        try:
            await self.session.ask("TerminateInstances", InstanceIds=[machine.id])
        except NotFound:
            return
        await self.machines.settled(machine.id, "terminated", "unknown")

    # -- bringing in order ------------------------------------------------------------------------------------

    async def _settle(self, name: str) -> Machine:
        """One instance without stub, whatever was left half done. Raises NotFound when there is none."""
        newest, *older = await self.machines.named(name) or [await self.machines.one(name)]
        mark = newest.tags.get(tags.STUB)
        if not mark and not older:
            return newest
        if mark:
            if newest.state in ("pending", "running"):
                await self.machines.settled(newest.id, "running", "stopping", "stopped")
                await self.session.ask("StopInstances", InstanceIds=[newest.id], Force=True)
            await self.machines.settled(newest.id, "stopped")
            await self._drop_stubs(tags.having(stub=mark))
        for old in older:
            await self._take_over(await self.machines.one(newest.id), old)
        await self._sweep(newest.owner, name, [n["NetworkInterfaceId"] for n in newest.adapters])
        if mark:
            await self.session.ask("DeleteTags", Resources=[newest.id], Tags=[{"Key": tags.STUB}])
        return await self.machines.one(newest.id)

    async def _drop_stubs(self, filters: Sequence[Facts]) -> None:
        found = await self.session.all("DescribeVolumes", "Volumes", Filters=list(filters))
        for volume in found:
            if tags.STUB in tags.read(volume) and volume["State"] not in ("deleting", "deleted"):
                await self._detached(volume)
                try:
                    await self.session.ask("DeleteVolume", VolumeId=volume["VolumeId"])
                except NotFound:
                    continue

    async def _take_over(self, new: Machine, old: Machine) -> None:
        """Give an instance the disks of an older one, in order, and terminate that. All are stopped."""
        for disk in old.places.values():
            volume = await self.disks.volume(disk)
            if tags.STUB not in tags.read(volume):
                await self._detached(volume)
                await self._attached(new, DiskId(disk))
                new = await self.machines.one(new.id)
        await self._terminate(old)

    async def _sweep(self, owner: str, name: str, kept: Sequence[str]) -> None:
        """Delete the adapters that were made for a VM and are not in use."""
        if not owner:
            return
        found = await self.session.all(
            "DescribeNetworkInterfaces", "NetworkInterfaces", Filters=tags.having(owner=owner, vm=name)
        )  # fmt: skip
        for each in found:
            if each["NetworkInterfaceId"] not in kept and each["Status"] == "available":
                try:
                    await self.session.ask("DeleteNetworkInterface", NetworkInterfaceId=each["NetworkInterfaceId"])
                except NotFound:
                    continue

    # -- disks ------------------------------------------------------------------------------------------------

    async def attach(self, name: str, disk: DiskId) -> None:
        """The port's."""
        machine, volume = await self._settle(name), await self.disks.volume(disk)
        at = {a["InstanceId"] for a in volume.get("Attachments", [])}
        if at - {machine.id}:
            raise Taken(
                f"{disk} is attached to {', '.join(at)}", place=self.session.place, hint="detach it there first"
            )
        if volume["AvailabilityZone"] != self.spec.zone:
            message = f"{disk} is in {volume['AvailabilityZone']}, the site in {self.spec.zone}"
            raise Unsupported(message, place=self.session.place, hint="make a volume here from a snapshot of it")
        await self._attached(machine, disk)

    async def _attached(self, machine: Machine, disk: DiskId) -> None:
        if disk not in machine.places.values():
            order, used = [machine.root, *LATER], list(machine.places)
            behind = max((order.index(p) + 1 for p in used if p in order), default=0)
            free = [p for p in (*order[behind:], *order) if p not in used]
            if not free:
                raise QuotaReached(f"{machine.name} has no room for another disk", place=self.session.place)
            await self.session.ask(
                "AttachVolume", VolumeId=disk, InstanceId=machine.id, Device=free[0],
                unless=lambda: self._is_at(disk, machine, "attaching", "attached", "busy"),
            )  # fmt: skip

        async def look() -> bool | None:
            return await self._is_at(disk, machine, "attached") or None

        await self.session.until(f"{disk} is attached", look)

    async def _is_at(self, disk: str, machine: Machine, *states: str) -> bool:
        at = (await self.disks.volume(disk)).get("Attachments", [])
        return any(a["InstanceId"] == machine.id and a["State"] in states for a in at)

    async def detach(self, name: str, disk: DiskId) -> None:
        """The port's. The first disk of a VM that runs stays: EC2 takes it from a stopped one only."""
        machines = await self.machines.named(name)
        try:
            volume = await self.disks.volume(disk)
        except NotFound:
            return
        if {a["InstanceId"] for a in volume.get("Attachments", [])} & {m.id for m in machines}:
            await self._detached(volume)

    async def _detached(self, volume: Facts) -> None:
        id_, at = volume["VolumeId"], volume.get("Attachments", [])

        async def look() -> bool | None:
            try:
                return (await self.disks.volume(id_))["State"] == "available" or None
            except NotFound:
                return True

        if any(a["State"] != "detaching" for a in at):
            try:
                await self.session.ask("DetachVolume", VolumeId=id_)
            except PlatformError:
                if not await look():  # else an earlier attempt has done it, whose answer was lost
                    raise
        await self.session.until(f"{id_} is detached; the guest may still use it", look)

    # -- networks ---------------------------------------------------------------------------------------------

    async def set_networks(self, name: str, nics: Sequence[Nic]) -> None:
        """The port's: addresses come by DHCP, from the adapter. A VM that has other adapters is launched anew."""
        machine = await self._settle(name)
        wanted = [(await self._subnet(nic), nic.address) for nic in nics]
        have = [(n["SubnetId"], n["PrivateIpAddress"]) for n in machine.adapters]
        fits = (s == subnet and a in (None, address) for (s, a), (subnet, address) in zip(wanted, have, strict=False))
        if not wanted or (len(wanted) == len(have) and all(fits)):
            return
        if not machine.owner:
            raise Unsupported(f"{name} is not drsim's; its adapters are for life", place=self.session.place)
        if machine.state not in ("stopped", "stopping"):
            raise PlatformError(f"{name} runs; its adapters can be changed while it is off", place=self.session.place)
        generation = machine.generation + 1
        adapters = [await self._adapter(machine, generation, n, *each) for n, each in enumerate(wanted)]
        net = {"NetworkInterfaces": [{"NetworkInterfaceId": eni, "DeviceIndex": n} for n, eni in enumerate(adapters)]}
        host = host_of(machine, self.session)
        type_, image = machine.facts["InstanceType"], machine.facts["ImageId"]
        await self._launch(machine.owner, name, generation, host, type_, image, net)
        await self._settle(name)

    async def _subnet(self, nic: Nic) -> str:
        """Where an adapter goes. Raises NotFound, and PlatformError when its address cannot be there."""
        id_ = self.spec.networks.get(nic.network)
        if id_ is None:
            hint = f"there are {', '.join(self.spec.networks)}"
            raise NotFound(f"no network is called {nic.network}", place=self.session.place, hint=hint)
        if nic.address is not None:
            answer = await self.session.ask("DescribeSubnets", SubnetIds=[id_])
            self._fits(nic, IPv4Network(answer["Subnets"][0]["CidrBlock"]))
        return id_

    def _fits(self, nic: Nic, subnet: IPv4Network) -> None:
        """AWS's DHCP says what mask and gateway are, and keeps the first four addresses of a subnet, and the last."""
        first, last = subnet[4], subnet[-2]
        wrong = {
            f"{nic.address} is no address of": not first <= IPv4Address(nic.address or first) <= last,
            f"{nic.mask} is not the mask of": bool(nic.mask) and nic.subnet.netmask != subnet.netmask,
            f"{nic.gateway} is not the gateway of": nic.gateway not in (None, str(subnet[1])),
        }
        for what in (what for what, holds in wrong.items() if holds):
            hint = f"addresses {first} to {last}, mask {subnet.netmask}, gateway {subnet[1]}"
            raise PlatformError(f"{what} network {nic.network} ({subnet})", place=self.session.place, hint=hint)

    async def _adapter(self, machine: Machine, generation: int, n: int, subnet: str, address: str | None) -> str:
        common = tags.written(
            owner=machine.owner, name=f"{machine.name}-{n}", vm=machine.name, generation=str(generation)
        )  # fmt: skip
        index = {"Name": "tag:drsim:name", "Values": [common[tags.NAME]]}
        found = await self.session.all(
            "DescribeNetworkInterfaces", "NetworkInterfaces",
            Filters=[*tags.having(owner=machine.owner, generation=str(generation)), index],
        )  # fmt: skip
        for each in found:
            if each["SubnetId"] == subnet and address in (None, each["PrivateIpAddress"]):
                return str(each["NetworkInterfaceId"])
        given: Facts = {"PrivateIpAddress": address} if address else {}
        given |= {"Groups": list(self.spec.security_groups)} if self.spec.security_groups else {}
        mark = token("adapter", machine.id, generation, n, subnet, address)
        made = await self.session.ask(
            "CreateNetworkInterface", SubnetId=subnet, ClientToken=mark, Description=f"drsim {machine.name}",
            TagSpecifications=[tags.on("network-interface", common)], **given,
        )  # fmt: skip
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    # -- power ------------------------------------------------------------------------------------------------

    async def power_on(self, name: str) -> None:
        """The port's."""
        machine = await self._settle(name)
        if machine.state == "stopping":
            await self.machines.settled(machine.id, "stopped")
        if machine.state in ("stopping", "stopped"):
            await self.session.ask("StartInstances", InstanceIds=[machine.id])
        if machine.state != "running":
            await self.machines.settled(machine.id, "running")

    async def power_off(self, name: str) -> None:
        """The port's."""
        machine = await self._settle(name)
        await self._stop(machine, force=True)
        await self.machines.settled(machine.id, "stopped", "terminated", "unknown")

    async def _stop(self, machine: Machine, *, force: bool) -> None:
        if machine.state == "pending":
            await self.machines.settled(machine.id, "running", "stopping", "stopped")
        if machine.state in ("pending", "running"):
            await self.session.ask("StopInstances", InstanceIds=[machine.id], Force=force)

    async def shut_down(self, name: str, timeout: float) -> bool:
        """The port's. EC2 itself pulls the plug of a guest that does not stop for some minutes."""
        machine = await self._settle(name)
        await self._stop(machine, force=False)

        async def look() -> bool | None:
            return await self.machines.state(machine.id) == "stopped" or None

        try:
            return await self.session.until(f"{name} stops", look, seconds=timeout)
        except TooLate:
            return False

    async def wait(self, name: str, timeout: float) -> None:
        """The port's: until both of EC2's status checks have passed, of which one needs the guest's network."""
        machine = await self.machines.one(name)
        if machine.state not in ("pending", "running"):
            raise PlatformError(f"{name} does not run ({machine.state})", place=self.session.place)

        async def look() -> bool | None:
            answer = await self.session.ask("DescribeInstanceStatus", InstanceIds=[machine.id])
            checks = [s[c]["Status"] for s in answer["InstanceStatuses"] for c in ("InstanceStatus", "SystemStatus")]
            return (bool(checks) and all(check == "ok" for check in checks)) or None

        await self.session.until(f"the guest of {name} is up", look, seconds=timeout)
