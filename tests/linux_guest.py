"""A Linux guest for tests: a bootable disk with a kernel of Debian's, busybox, and drsim's hook for re-IP.

The disk is FAT, and SYSLINUX boots it like any other disk. Beyond the file system the guest writes two sectors: how it
has booted, and that it was asked to stop.
"""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from programs import program

import drsim.real.local

FAT, SIZE = 32 << 20, 33 << 20
BOOTED, STOPPED = FAT, FAT + 512
"""Where the guest writes."""
MODULES = (
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "failover",
    "net_failover", "virtio_net", "qemu_fw_cfg", "button", "evdev",
)  # fmt: skip
HOOK = Path(drsim.real.local.__file__).with_name("reip-hook.sh")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
cd /lib; for m in {modules}; do insmod $m.ko; done
ip link set lo up
ip addr add {address} dev eth0; ip link set eth0 up
sh /reip-hook.sh
say() {{ echo "$1" | dd of=/dev/vda bs=512 seek=$2 conv=notrunc,sync,fsync 2>/dev/null; }}
say booted {booted}
echo "addresses: $(ip -4 -o addr show dev eth0 | while read -r a b c d e; do echo -n "$d "; done)"
echo READY
stop() {{ say "stopped in good order" {stopped}; poweroff -f; }}
for button in /dev/input/event*; do (head -c 24 $button >/dev/null; stop) & done
wait
"""
CONFIG = """DEFAULT linux
PROMPT 0
TIMEOUT 0
LABEL linux
 KERNEL vmlinuz
 APPEND initrd=initrd.gz console=ttyS0 quiet panic=1 tsc=reliable
"""


def kernel() -> tuple[Path, Path]:
    """A kernel of Debian's and its modules: installed, or unpacked under DRSIM_LINUX."""
    root = Path(os.environ.get("DRSIM_LINUX", "/"))
    for image in sorted(root.glob("boot/vmlinuz-*-cloud-amd64"), reverse=True):
        modules = root / "lib" / "modules" / image.name.removeprefix("vmlinuz-")
        if modules.is_dir():
            return image, modules
    if os.environ.get("DRSIM_REQUIRE") == "all":
        pytest.fail("no kernel; .ci/run unpacks Debian's linux-image-cloud-amd64 and sets DRSIM_LINUX")
    pytest.skip("needs a kernel: Debian package linux-image-cloud-amd64, installed or unpacked under DRSIM_LINUX")


def image(folder: Path, address: str) -> Path:
    """A disk whose guest has a static address of its own, like 10.0.0.5/24."""
    vmlinuz, modules = kernel()
    busybox, mkfs = program("busybox", "busybox-static"), program("mkfs.vfat", "dosfstools")
    mcopy, syslinux = program("mcopy", "mtools"), program("syslinux", "syslinux")
    tree = folder / "tree"
    for name in ("bin", "lib", "proc", "sys", "dev", "etc"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin" / "busybox")
    shutil.copy(HOOK, tree / "reip-hook.sh")
    for name in MODULES:
        (found,) = modules.rglob(f"{name}.ko")
        shutil.copy(found, tree / "lib")
    init = tree / "init"
    places = {"booted": BOOTED // 512, "stopped": STOPPED // 512}
    init.write_text(INIT.format(modules=" ".join(MODULES), address=address, **places))
    init.chmod(0o755)
    names = "\n".join(str(p.relative_to(tree)) for p in tree.rglob("*")).encode()
    words = [busybox, "cpio", "-o", "-H", "newc"]
    archive = subprocess.run(words, cwd=tree, input=names, capture_output=True, check=True)
    (folder / "initrd.gz").write_bytes(gzip.compress(archive.stdout, 1))
    (folder / "syslinux.cfg").write_text(CONFIG)
    disk = folder / "linux.img"
    with disk.open("wb") as file:
        file.truncate(FAT)
    subprocess.run([mkfs, disk], check=True, capture_output=True)
    for source, name in ((vmlinuz, "vmlinuz"), (folder / "initrd.gz", "initrd.gz"), (folder / "syslinux.cfg", "")):
        subprocess.run([mcopy, "-i", disk, source, f"::{name or 'syslinux.cfg'}"], check=True)
    subprocess.run([syslinux, "--install", disk], check=True)
    os.truncate(disk, SIZE)
    return disk
