"""Hyper-V: what people write down of a site of Hyper-V hosts."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from drsim.spec.base import Name, Spec
from drsim.spec.platform import Secret
from drsim.spec.quantity import Duration

SECOND = 10**9
Folder = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z]:|\\\\[^\\/:*?\"<>|]+)(\\[^\\/:*?\"<>|]+)+$", max_length=120)
]
"""A folder as Windows writes it: C:\\ClusterStorage\\Volume1, \\\\filer\\vms."""


class HypervHost(Spec):
    """A host, and where its WinRM listens."""

    address: str = Field(min_length=1)
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """None: 5986 with TLS, 5985 without."""


class HypervNetwork(Spec):
    """A network of VMs: a virtual switch of every host, and a VLAN on it."""

    switch: str = Field(min_length=1)
    vlan: Annotated[int, Field(ge=1, le=4094)] | None = None
    """None: untagged."""


class HypervSite(Spec):
    """Hyper-V hosts that share their stores. They are asked one by one; SCVMM and its placement are not used."""

    hosts: Annotated[dict[Name, HypervHost], Field(min_length=1)]
    user: str = Field(min_length=1)
    """DOMAIN\\user or HOST\\user; in Hyper-V Administrators and Remote Management Users of every host."""
    password: Secret
    auth: Literal["negotiate", "ntlm", "kerberos"] = "negotiate"
    tls: bool = True
    """Without it messages are encrypted by NTLM or Kerberos; they are never sent in the clear."""
    ca: str | None = None
    """With TLS: the authority's certificate (PEM) that the hosts' certificates are from, from this file's folder; None:
    those that this machine trusts."""
    stores: Annotated[dict[Name, Folder], Field(min_length=1)]
    """Folders for VMs and disks that all hosts see under one name: cluster shared volumes, or shares."""
    networks: dict[Name, HypervNetwork] = {}
    """Networks with a VLAN. A virtual switch is a network by itself, untagged."""
    appliance: str = Field(min_length=1)
    """The VM with this site's VRA, on one of the hosts."""
    poll: Annotated[Duration, Field(ge=SECOND // 10)] = 5 * SECOND
    """Between looks at what has changed."""
