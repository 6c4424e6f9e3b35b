"""Machines: instances as VMs with names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from drsim.real.aws import tags
from drsim.real.aws.session import Facts, Session
from drsim.real.ports import DiskId, Firmware, NotFound, Power, VmFacts

ALIVE = ("pending", "running", "stopping", "stopped")
LATER = [f"/dev/sd{c}" for c in "fghijklmnop"] + [f"/dev/xvd{a}{b}" for a in "bc" for b in "abcdefghijklmnopqrstuvwxyz"]
"""Names of the places of a VM's disks behind the first, in order."""


@dataclass(frozen=True, slots=True)
class Machine:
    """An instance. `name`: its Name, or its id where it has none or shares it."""

    id: str
    name: str
    owner: str
    generation: int
    state: str
    facts: Facts

    @property
    def tags(self) -> dict[str, str]:
        """All of its tags."""
        return tags.read(self.facts)

    @property
    def root(self) -> str:
        """The place of its first disk."""
        return str(self.facts.get("RootDeviceName") or "/dev/sda1")

    @property
    def places(self) -> dict[str, str]:
        """Its volumes by their places, in the order in which the guest sees them."""
        order = [self.root, *LATER]
        found = {m["DeviceName"]: m["Ebs"]["VolumeId"] for m in self.facts.get("BlockDeviceMappings", [])
                 if m.get("Ebs", {}).get("Status") != "detaching"}  # fmt: skip
        ranked = sorted(found, key=lambda place: (order.index(place) if place in order else len(order), place))
        return {place: found[place] for place in ranked}

    @property
    def adapters(self) -> list[Facts]:
        """Its network interfaces, in order."""
        return sorted(self.facts.get("NetworkInterfaces", []), key=lambda n: n["Attachment"]["DeviceIndex"])


class Machines:
    """Finds instances."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def all(self, filters: Sequence[Facts] = (), **given: object) -> list[Machine]:
        """Those that are not being deleted. Newer generations first."""
        state = {"Name": "instance-state-name", "Values": list(ALIVE)}
        found = await self.session.all("DescribeInstances", "Reservations", Filters=[state, *filters], **given)
        facts = [instance for reservation in found for instance in reservation["Instances"]]
        names = Counter(tags.read(f).get("Name", "") for f in facts if tags.OWNER not in tags.read(f))
        return sorted((_machine(f, names) for f in facts if f["State"]["Name"] in ALIVE), key=lambda m: -m.generation)

    async def named(self, name: str) -> list[Machine]:
        """All generations of the VM of a name, newest first; nothing when there is none."""
        if name.startswith("i-"):
            try:
                return await self.all(InstanceIds=[name])
            except NotFound:
                return []
        found = await self.all([{"Name": "tag:Name", "Values": [name]}])
        if any(m.name != name for m in found):
            ids = ", ".join(sorted(m.id for m in found))
            raise NotFound(f"several instances are called {name}: {ids}", place=self.session.place, hint="use an id")
        return found

    async def one(self, name: str) -> Machine:
        """The VM of a name. Raises NotFound."""
        found = await self.named(name)
        if not found:
            raise NotFound(f"no VM is called {name}", place=self.session.place)
        return found[0]

    async def state(self, id_: str) -> str:
        """The state of an instance, also of one that is gone."""
        try:
            found = await self.session.ask("DescribeInstances", InstanceIds=[id_])
        except NotFound:
            return "unknown"
        return str(found["Reservations"][0]["Instances"][0]["State"]["Name"]) if found["Reservations"] else "unknown"

    async def settled(self, id_: str, *wanted: str) -> str:
        """Wait until an instance is in one of these states. Raises PlatformError."""

        async def look() -> str | None:
            state = await self.state(id_)
            return state if state in wanted else None

        return await self.session.until(f"{id_} becomes {' or '.join(wanted)}", look)

    def vm(self, m: Machine) -> VmFacts:
        """As the ports tell it."""
        spec, type_ = self.session.spec, self.session.spec.types.get(m.facts["InstanceType"])
        names = {subnet: name for name, subnet in spec.networks.items()}
        cpu = m.facts.get("CpuOptions", {})
        return VmFacts(
            m.name, m.owner, host_of(m, self.session), Power.OFF if m.state in ("stopped", "stopping") else Power.ON,
            type_.cpus if type_ else cpu.get("CoreCount", 0) * cpu.get("ThreadsPerCore", 1),
            type_.memory if type_ else 0,
            Firmware.UEFI if m.facts["ImageId"] == spec.images.uefi else Firmware.BIOS,
            tuple(DiskId(volume) for volume in m.places.values()),
            tuple(str(names.get(n["SubnetId"], n["SubnetId"])) for n in m.adapters),
            tuple(n["PrivateIpAddress"] for n in m.adapters),
            tools=True, system="windows" if m.facts.get("Platform", "").lower() == "windows" else "linux",
        )  # fmt: skip


def host_of(m: Machine, session: Session) -> str:
    """The name of the host that a VM is on: where EC2 says it is, else where it was put."""
    hosts, dedicated = session.spec.hosts, m.facts.get("Placement", {}).get("HostId")
    found = next((name for name, host in hosts.items() if dedicated and host.dedicated == dedicated), None)
    return found or m.tags.get(tags.HOST) or next((name for name, host in hosts.items() if not host.dedicated), "")


def _machine(facts: Facts, names: Counter[str]) -> Machine:
    found = tags.read(facts)
    name, owner = found.get("Name", ""), found.get(tags.OWNER, "")
    if not name or (not owner and names[name] > 1):
        name = facts["InstanceId"]
    return Machine(
        facts["InstanceId"], name, owner, int(found.get(tags.GENERATION, 0)), facts["State"]["Name"], facts
    )  # fmt: skip
