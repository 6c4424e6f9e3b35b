"""Disks of a live site as file systems on this machine: NBD by QEMU, a file by FUSE, a loop device, ext4, mounted."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import program


def possible() -> None:
    """Skip what cannot be on this machine: mounting needs root, FUSE and a free loop device."""
    program("qemu-storage-daemon", "qemu-system-common")
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("needs /dev/fuse")
    if shutil.which("losetup") is None or run("losetup", "-f", check=False) != 0:
        pytest.skip("needs a free loop device")


def run(*words: str | Path, check: bool = True) -> int:
    """Run a command; its exit code."""
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
    return done.returncode


@contextmanager
def loop(image: Path) -> Iterator[Path]:
    """A file as a block device."""
    made = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True)
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@contextmanager
def mount(device: Path, at: Path) -> Iterator[Path]:
    """A file system, mounted."""
    at.mkdir(parents=True, exist_ok=True)
    run("mount", device, at)
    try:
        yield at
    finally:
        if run("umount", at, check=False):
            run("umount", "-l", at)


@contextmanager
def served(socket: Path, export: str, at: Path) -> Iterator[Path]:
    """An NBD export as a file at `at`."""
    at.parent.mkdir(parents=True, exist_ok=True)
    at.touch(exist_ok=False)
    daemon = subprocess.Popen([
        "qemu-storage-daemon",
        "--blockdev", f"driver=nbd,node-name=disk,server.type=unix,server.path={socket},export={export}",
        "--export", f"type=fuse,id=file,node-name=disk,mountpoint={at},writable=on",
    ])  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while at.stat().st_size == 0:
            assert daemon.poll() is None, "qemu-storage-daemon has ended"
            assert time.monotonic() < deadline, "the disk does not appear"
            time.sleep(0.02)
        yield at
    finally:
        daemon.terminate()
        daemon.wait(20)


@contextmanager
def file_system(socket: Path, export: str, at: Path) -> Iterator[Path]:
    """An export with a new ext4, mounted at `at`."""
    with served(socket, export, at.with_suffix(".disk")) as image, loop(image) as device:
        run("mkfs.ext4", "-q", "-F", device)
        with mount(device, at) as found:
            yield found


@contextmanager
def recovered(image: Path, at: Path) -> Iterator[Path]:
    """A recovered disk as a machine that lost power finds it: the journal is replayed, then nothing may be wrong."""
    assert run("e2fsck", "-p", image, check=False) <= 1, "errors that the journal does not explain"
    assert run("e2fsck", "-f", "-n", image, check=False) == 0
    with loop(image) as device, mount(device, at) as found:
        yield found
