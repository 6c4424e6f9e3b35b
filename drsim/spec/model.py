"""A model: sites, hosts, datastores, links, VMs, VPGs, faults and how to run them. What a model file holds."""

from collections.abc import Iterable
from math import ceil
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from drsim.spec.base import Name, Spec
from drsim.spec.faults import PLACES, DatastoreEnlarged, Fault, HostLoss, LinkPartition, VraUpgrade
from drsim.spec.live import LivePlace
from drsim.spec.operations import RECOVERIES, Operation
from drsim.spec.protect import Throttle, Vm, Vpg
from drsim.spec.quantity import Bandwidth, Duration, Ratio, Size, format_size
from drsim.spec.recovery import Hypervisor
from drsim.spec.reference import Reference, closest
from drsim.spec.timeline import check_operations
from drsim.spec.tweaks import Tweaks

MIB = 1 << 20
MOST_VPGS = 3
"""Of one VM, each with another recovery site ("one-to-many")."""
Fidelity = Literal["write", "slice", "fluid"]


class Site(Spec):
    """A place with hosts and a manager."""

    platform: Literal["vsphere", "hyperv", "aws", "vcd", "local"] = "vsphere"
    """What runs there."""
    lan_latency: Annotated[Duration, Field(ge=0, le=10**9)] = 200_000
    """One way between manager and VRAs. Our choice: 0.2 ms, a switched LAN."""
    lan_jitter: Annotated[Duration, Field(ge=0, le=10**9)] = 100_000
    """Mean of the exponential delay on top. Our choice."""
    inventory_delay: Annotated[Duration, Field(gt=0, le=600 * 10**9)] = 5 * 10**9
    """Until the site's manager knows that a VM runs on another host. Our choice."""
    networks: tuple[Name, ...] = ()
    """Networks for recovered VMs."""
    hypervisor: Hypervisor = Hypervisor()
    """How long its platform takes for what recovery asks of it."""
    live: LivePlace | None = None
    """How the site is run for real; a simulation does not look at it."""
    clock_ahead: Annotated[Duration, Field(ge=0, le=366 * 86400 * 10**9)] = 0
    """How far the site's clocks are ahead of the others' from the start; people see times by the true one."""


class Datastore(Spec):
    """Storage that hosts of a site share."""

    site: Name
    latency: Annotated[Duration, Field(ge=0, le=10**9)] = 1_000_000
    """Of one I/O that finds the store idle. Our choice: 1 ms, flash behind a network."""
    iops: Annotated[float, Field(gt=0)] = 20_000.0
    """I/Os per second at most."""
    bandwidth: Annotated[Bandwidth, Field(gt=0)] = 4_000_000_000
    """Bytes moved at most; 4 Gbit/s."""
    capacity: Annotated[Size, Field(gt=0)] = 100 << 40
    """Room for journals."""


class Vra(Spec):
    """The replication appliance of a host. `vra: none` says that the host has none."""

    installed: bool = True
    """Whether there is one; VMs on a host without are not protected."""
    ram: Annotated[int, Field(ge=1, le=16)] = 3
    """GiB; 1 to 16, 3 by default (products.md 1.6)."""
    vcpus: Annotated[int, Field(ge=1, le=4)] = 1
    """1 to 4, 1 by default (products.md 1.6)."""
    compress_rate: Annotated[Bandwidth, Field(gt=0)] = 2_400_000_000
    """What one vCPU compresses: 300 MB/s. Our choice: the order of LZ4 on one core."""
    compress_patience: Annotated[Duration, Field(ge=0)] = 100_000_000
    """When the CPU is behind by more than this, frames go uncompressed. Our choice."""

    @property
    def pool_bytes(self) -> int:
        """I/O buffer pool: (1024 x GB - 563) MB (products.md 1.6, G9), MB being MiB."""
        return (1024 * self.ram - 563) * MIB


class Host(Spec):
    """A hypervisor host with its VRA."""

    site: Name
    vra: Vra = Vra()
    cpus: Annotated[int, Field(ge=1)] = 64
    """Cores for recovered VMs. Our choice."""
    memory: Annotated[Size, Field(ge=1 << 30)] = 512 << 30
    """Memory for recovered VMs. Our choice."""

    @field_validator("vra", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return {"installed": False} if value == "none" else value


class Framing(Spec):
    """What protocols add to data on a link. Nothing unless said, so that closed forms stay closed.

    `drsim calibrate` finds these for real sites.
    """

    write: Annotated[Size, Field(ge=0)] = 0
    """Bytes that go with each write: where it belongs."""
    frame: Annotated[Size, Field(ge=0)] = 0
    """Bytes that go with each frame: its header, and what answers it."""
    packet: Annotated[Size, Field(ge=0)] = 0
    """Bytes of headers of each packet."""
    segment: Annotated[Size, Field(ge=64)] = 1448
    """Bytes of content of a packet: Ethernet's 1500 less 52 of headers."""

    def whole(self, nbytes: float) -> float:
        """Bytes of the packets that carry so much."""
        return nbytes + ceil(nbytes / self.segment) * self.packet if self.packet else nbytes


class Link(Spec):
    """A WAN link between two sites (or within one, for same-site protection), the same both ways."""

    between: tuple[Name, Name]
    bandwidth: Annotated[Bandwidth, Field(ge=1_000_000)]
    """At least 1 Mbit/s (the field asks for 5 Mbit/s, products.md 1.6; `drsim check` warns below)."""
    latency: Annotated[Duration, Field(ge=0, le=10 * 10**9)] = 5_000_000
    """One way."""
    jitter: Annotated[Duration, Field(ge=0, le=10 * 10**9)] = 0
    """Mean of the exponential delay on top; order within a stream is kept, as TCP does."""
    loss: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0
    """Packet loss; bounds one TCP stream at MSS / RTT x sqrt(3/2) / sqrt(loss) (Mathis et al., 1997)."""
    throttle: tuple[Throttle, ...] = ()
    """Daily windows in which replication data gets less."""
    framing: Framing = Framing()
    """What protocols add to data."""
    reconnect: Annotated[Duration, Field(ge=0, le=60 * 10**9)] | None = None
    """From the end of an outage until the peers have met again; one round trip when not said."""


class RunSpec(Spec):
    """How a model is run, unless the command line says otherwise."""

    until: Annotated[Duration, Field(gt=0, le=366 * 86400 * 10**9)] = 3600 * 10**9
    """Simulated time."""
    clock: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "00:00"
    """Clock time at the start, for throttle windows."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of all random streams."""
    fidelity: Fidelity = "slice"
    """`write`: one event a write; `slice`: columns, one event a slice; `fluid`: rates, no events."""
    slice: Annotated[Duration, Field(ge=10**6, le=60 * 10**9)] = 10**9
    """Length of a slice; also the time scale on which `slice` agrees with `write`."""
    tick: Annotated[Duration, Field(ge=10**8, le=600 * 10**9)] = 5 * 10**9
    """Step of a fluid run: rates are constant within it. Our choice: a checkpoint interval."""


class Model(Spec):
    """A whole model. Names of one kind are unique; every reference names something that exists."""

    about: str = ""
    """One sentence for people."""
    sites: Annotated[dict[Name, Site], Field(min_length=1)]
    datastores: Annotated[dict[Name, Datastore], Field(min_length=1)]
    hosts: Annotated[dict[Name, Host], Field(min_length=1)]
    links: dict[Name, Link] = {}
    vms: Annotated[dict[Name, Vm], Field(min_length=1)]
    vpgs: Annotated[dict[Name, Vpg], Field(min_length=1)]
    faults: tuple[Fault, ...] = ()
    operations: tuple[Operation, ...] = ()
    run: RunSpec = RunSpec()
    tweaks: Tweaks = Tweaks()

    def members(self) -> dict[str, list[str]]:
        """The single VMs that each name of `vms` stands for: itself, or as many as its `count`."""
        return {
            name: [name]
            if vm.count == 1
            else [f"{name}-{n + 1:0{max(3, len(str(vm.count)))}}" for n in range(vm.count)]
            for name, vm in self.vms.items()
        }

    def expand(self) -> tuple[dict[str, Vm], dict[str, Vpg]]:
        """VMs and VPGs with `count` and `split` carried out: each VM has one host, each VPG names single VMs."""
        vms: dict[str, Vm] = {}
        members = self.members()
        for name, vm in self.vms.items():
            hosts = (vm.host,) if isinstance(vm.host, str) else vm.host
            for n, each in enumerate(members[name]):
                vms[each] = vm.model_copy(update={"host": hosts[n % len(hosts)], "count": 1})
        vpgs: dict[str, Vpg] = {}
        for name, vpg in self.vpgs.items():
            names = [each for group in vpg.vms for each in members[group]]
            size = vpg.split or len(names)
            parts = [names[n : n + size] for n in range(0, len(names), size)]
            for n, part in enumerate(parts):
                each = name if len(parts) == 1 else f"{name}-{n + 1:0{max(2, len(str(len(parts))))}}"
                vpgs[each] = vpg.model_copy(update={"vms": tuple(part), "split": None})
        return vms, vpgs

    @model_validator(mode="after")
    def _references(self) -> "Model":
        wrong = [
            Reference(f"no {kind} is called {name!r}{closest(name, known)}", path)
            for path, kind, name, known in self._all_references()
            if name not in known
        ]
        if wrong:
            raise Reference(str(wrong[0]), wrong[0].path, wrong[1:])
        self._check_protection()
        self._check_vras()
        self._check_faults()
        check_operations(self)
        return self

    def _all_references(self) -> Iterable[tuple[tuple[str | int, ...], str, str, Iterable[str]]]:
        for name, store in self.datastores.items():
            yield ("datastores", name, "site"), "site", store.site, self.sites
        for name, host in self.hosts.items():
            yield ("hosts", name, "site"), "site", host.site, self.sites
        for name, link in self.links.items():
            for n, end in enumerate(link.between):
                yield ("links", name, "between", n), "site", end, self.sites
        for name, vm in self.vms.items():
            for each in (vm.host,) if isinstance(vm.host, str) else vm.host:
                yield ("vms", name, "host"), "host", each, self.hosts
            yield ("vms", name, "datastore"), "datastore", vm.datastore, self.datastores
        for name, vpg in self.vpgs.items():
            for n, each in enumerate(vpg.vms):
                yield ("vpgs", name, "vms", n), "VM", each, self.vms
            for n, each in enumerate(vpg.recovery.hosts):
                yield ("vpgs", name, "recovery", "hosts", n), "host", each, self.hosts
            yield ("vpgs", name, "recovery", "datastore"), "datastore", vpg.recovery.datastore, self.datastores
        known: dict[str, Iterable[str]] = {
            "link": self.links,
            "host": self.hosts,
            "datastore": self.datastores,
            "site": self.sites,
            "vm": self.vms,
        }
        for n, fault in enumerate(self.faults):
            for field in PLACES:
                if hasattr(fault, field):
                    kind = "VM" if field == "vm" else field
                    yield ("faults", n, field), kind, getattr(fault, field), known[field]
            if isinstance(fault, HostLoss) and fault.restart is not None:
                yield ("faults", n, "restart", "on"), "host", fault.restart.on, self.hosts
        vms, vpgs = self.expand() if self.operations else ({}, {})
        single: dict[str, tuple[str, Iterable[str]]] = {
            "vm": ("VM", vms),
            "vpg": ("VPG", vpgs),
            "to": ("host", self.hosts),
        }
        for n, operation in enumerate(self.operations):
            if isinstance(operation, RECOVERIES):
                for k, each in enumerate(getattr(operation, "vms", ())):
                    yield ("operations", n, "vms", k), "VM", each, vms
            for field, (kind, names) in single.items():
                if getattr(operation, field, None) is not None:
                    yield ("operations", n, field), kind, getattr(operation, field), names

    def _check_faults(self) -> None:
        """Faults that name what exists and still cannot be."""
        for n, fault in enumerate(self.faults):
            match fault:
                case LinkPartition(link=name, site=site):
                    one, other = self.links[name].between
                    if site not in (one, other):
                        raise Reference(
                            f"link {name!r} joins {one!r} and {other!r}, not {site!r}", ("faults", n, "site")
                        )
                    if one == other:
                        text = f"link {name!r} joins {one!r} to itself and has no directions; use link-down"
                        raise Reference(text, ("faults", n, "link"))
                case VraUpgrade(site=site) if all(host.site != site for host in self.hosts.values()):
                    raise Reference(f"no host is on site {site!r}: it has no VRAs", ("faults", n, "site"))
                case DatastoreEnlarged(datastore=name, to=int(size)) if size <= self.datastores[name].capacity:
                    text = f"datastore {name!r} has {format_size(self.datastores[name].capacity)} already"
                    raise Reference(text, ("faults", n, "to"))

    def _check_vras(self) -> None:
        """VMs in a VPG need a VRA on their host, at first, and on their recovery host."""
        for name, vpg in self.vpgs.items():
            for group in vpg.vms:
                hosts = self.vms[group].host
                for host in (hosts,) if isinstance(hosts, str) else hosts:
                    if not self.hosts[host].vra.installed:
                        text = f"host {host!r} of VM {group!r} in a VPG has no VRA"
                        raise Reference(text, ("hosts", host, "vra"))
            for n, host in enumerate(vpg.recovery.hosts):
                if not self.hosts[host].vra.installed:
                    raise Reference(f"recovery host {host!r} has no VRA", ("vpgs", name, "recovery", "hosts", n))

    def site_of(self, vm: Vm) -> str:
        """The site on which a VM runs."""
        return self.hosts[vm.host if isinstance(vm.host, str) else vm.host[0]].site

    def clash(self, vm: str, has: dict[str, Vpg], name: str, vpg: Vpg) -> str | None:
        """Why a VM that is in some VPGs cannot be in this one too."""
        if name in has:
            return f"VM {vm!r} is already in VPG {name!r}"
        if len(has) == MOST_VPGS:
            return f"VM {vm!r} is in {MOST_VPGS} VPGs already ({', '.join(has)}), and no VM can be in more"
        site = self._recovery_site(vpg)
        same = next((each for each, other in has.items() if self._recovery_site(other) == site), None)
        if same is None:
            return None
        return f"VM {vm!r} is already in VPG {same!r}, which recovers to site {site!r} too; name another site"

    def _recovery_site(self, vpg: Vpg) -> str:
        return self.hosts[vpg.recovery.hosts[0]].site

    def _check_protection(self) -> None:
        seen: dict[str, dict[str, Vpg]] = {vm: {} for vm in self.vms}
        for name, vpg in self.vpgs.items():
            for n, vm in enumerate(vpg.vms):
                if clash := self.clash(vm, seen[vm], name, vpg):
                    raise Reference(clash, ("vpgs", name, "vms", n))
                seen[vm][name] = vpg
        for name, vpg in self.vpgs.items():
            here = ("vpgs", name, "recovery", "hosts")
            targets = {self.hosts[h].site for h in vpg.recovery.hosts}
            if len(targets) > 1:
                raise Reference(f"recovery hosts lie on several sites: {', '.join(sorted(targets))}", here)
            target = targets.pop()
            if self.datastores[vpg.recovery.datastore].site != target:
                raise Reference(f"the recovery datastore is not on site {target!r}", ("vpgs", name, "recovery"))
            sources = set()
            for group in vpg.vms:
                hosts = self.vms[group].host
                sources |= {self.hosts[h].site for h in ((hosts,) if isinstance(hosts, str) else hosts)}
            if len(sources) > 1:
                raise Reference(f"VMs lie on several sites: {', '.join(sorted(sources))}", ("vpgs", name, "vms"))
            source = sources.pop()
            if self.link_between(source, target) is None:
                raise Reference(f"no link joins site {source!r} and site {target!r}", here)
            unlimited = vpg.journal.hard_limit == "unlimited"
            if self.sites[target].platform == "aws" and not unlimited:
                raise Reference(
                    "recovery to AWS has no journal limit (products.md 1.4); write `hard_limit: unlimited`",
                    ("vpgs", name, "journal", "hard_limit"),
                )

    def link_between(self, one: str, other: str) -> str | None:
        """The name of the link that joins two sites."""
        for name, link in self.links.items():
            if sorted(link.between) == sorted((one, other)):
                return name
        return None
