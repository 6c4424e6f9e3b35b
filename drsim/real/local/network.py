"""Network: how a NIC of a local VM reaches its network, and what its guest is told of its addresses.

    the network has         the NIC is
    ----------------------  ------------------------------------------------------------------------------------------
    a bridge                a tap device of QEMU's own on that bridge, in the network namespace that the site names
    nothing                 QEMU's user network without a way out (`restrict=on`): nobody is reached

A tap device lives as long as the QEMU process that has its descriptor; so none is ever left over. To make one needs
CAP_NET_ADMIN, and is refused in words without it.

A VM keeps its MAC addresses wherever it runs, unless its re-IP says otherwise: they are made of its name.

What the guest's hook reads (fw_cfg `opt/drsim/nics.conf`, a line for each NIC that gets an address):

    MAC ADDRESS/PREFIX or dhcp, GATEWAY or -, name servers with commas or -
"""

import ctypes
import fcntl
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from typing import Any

from drsim.core.errors import DrsimError, PlatformError
from drsim.spec.live import LiveNetwork

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_UP = 0x400454CA, 0x0002, 0x1000, 0x4000, 0x1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCBRADDIF = 0x8913, 0x8914, 0x89A2
_CLONE_NEWNET = 0x40000000
_HINT = "the site needs CAP_NET_ADMIN for networks with a bridge, and the bridge has to be there"


def mac_of(vm: str, nic: int) -> str:
    """The MAC address of a NIC: of QEMU's own range, the same for the same name everywhere."""
    tail = sha256(f"{vm}/{nic}".encode()).digest()[:3]
    return ":".join(["52", "54", "00", *(f"{byte:02x}" for byte in tail)])


def told(nics: Sequence[Mapping[str, Any]]) -> str:
    """What the guest's hook is told: a line for each NIC that gets an address from us."""
    lines = []
    for nic in nics:
        if "address" not in nic:
            continue
        address = "dhcp" if nic["address"] is None else str(ipaddress.ip_interface(_with_mask(nic)))
        lines.append(f"{nic['mac']} {address} {nic['gateway'] or '-'} {','.join(nic['dns']) or '-'}")
    return "".join(f"{line}\n" for line in lines)


def _with_mask(nic: Mapping[str, Any]) -> str:
    return f"{nic['address']}/{nic['mask'] or 24}"


def options(
    nics: Sequence[Mapping[str, Any]], networks: Mapping[str, LiveNetwork] | None, taps: ExitStack
) -> tuple[list[str], list[int]]:
    """QEMU's options for the NICs, and the descriptors that it has to inherit; `taps` closes ours.

    Raises PlatformError when a network is not there, or a tap device cannot be made.
    """
    made: list[str] = []
    inherited: list[int] = []
    for n, nic in enumerate(nics):
        name = nic["network"]
        if networks is not None and name not in networks:
            known = ", ".join(networks) or "none"
            raise PlatformError(f"there is no network {name}", hint=f"the site's file has: {known}")
        network = LiveNetwork() if networks is None else networks[name]
        if network.bridge is None:
            backend = f"user,id=net{n},restrict=on"
        else:
            fd = open_tap(network.bridge, network.netns)
            taps.callback(os.close, fd)
            inherited.append(fd)
            backend = f"tap,id=net{n},fd={fd}"
        made += ["-netdev", backend, "-device", f"virtio-net-pci,netdev=net{n},mac={nic['mac']},romfile="]
    return made, inherited


def open_tap(bridge: str, netns: str | None = None) -> int:
    """A tap device on a bridge, up; gives its descriptor. Raises PlatformError."""
    found: list[int] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            if netns is not None:
                _enter(netns)
            found.append(_tap(bridge))
        except (OSError, DrsimError) as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="tap")  # one of its own: it may go to another namespace
    thread.start()
    thread.join()
    if failed:
        place = bridge if netns is None else f"{netns}/{bridge}"
        raise PlatformError(f"no tap device can be made: {failed[0]}", place=place, hint=_HINT) from failed[0]
    return found[0]


def _enter(netns: str) -> None:
    """This thread goes to a network namespace (as `ip netns add` names it)."""
    fd = os.open(f"/run/netns/{netns}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), netns)
    finally:
        os.close(fd)


def _tap(bridge: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        asked = struct.pack("16sH22x", b"drsim%d", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        name = fcntl.ioctl(fd, _TUNSETIFF, asked)[:16]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            index = socket.if_nametoindex(name.rstrip(b"\0").decode())
            fcntl.ioctl(control, _SIOCBRADDIF, struct.pack("16si20x", bridge.encode(), index))
            flags = struct.unpack("16sH22x", fcntl.ioctl(control, _SIOCGIFFLAGS, name + bytes(24)))[1]
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, flags | _IFF_UP))
    except BaseException:
        os.close(fd)
        raise
    return fd
