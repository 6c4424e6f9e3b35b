"""What becomes of a VM on another platform."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsim.core.convert import GIB, KINDS, MIB, TIB, Machine, Weight, check, converted, place, rounded, stopped

SIZES = st.integers(1, 16 * TIB // 512).map(lambda sectors: 512 * sectors)


@given(SIZES, st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(KINDS)))
def test_a_disk_only_grows_and_settles(size: int, there: str, back: str) -> None:
    new = rounded(size, there)
    assert size <= new <= max(size + KINDS[there].step, KINDS[there].least)
    assert new % KINDS[there].step == 0
    assert rounded(new, there) == new
    assert rounded(rounded(new, back), there) >= new


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_every_disk_has_a_place_of_its_own_in_order(kind: str, firmware: str) -> None:
    most = KINDS[kind].disks[""]
    places = [place(n, kind, firmware) for n in range(most)]
    assert len(set(places)) == most
    assert places[1:] == sorted(places[1:])
    if kind in ("vsphere", "vcd"):
        assert 7 not in {unit for _, _, unit in places}
    with pytest.raises(ValueError, match="no place"):
        place(300, kind, firmware)


def test_generation_1_starts_from_ide_and_2_from_scsi() -> None:
    assert place(0, "hyperv", "bios") == ("IDE", 0, 0)
    assert place(1, "hyperv", "bios") == place(0, "hyperv", "uefi") == ("synthetic SCSI", 0, 0)


@pytest.mark.parametrize(
    ("vm", "to", "words"),
    [
        (Machine("db", "vsphere", (GIB,), firmware="uefi"), "local", "starts with UEFI"),
        (Machine("db", "vsphere", (GIB, 20 * TIB)), "aws", "disk 1 has 20 TiB; aws takes at most 16 TiB"),
        (Machine("db", "vsphere", (3 * TIB,)), "hyperv", "a BIOS starts from at most 2 TiB"),
        (Machine("db", "vsphere", (GIB,), nics=9), "hyperv", "9 network adapters; hyperv takes at most 8"),
        (Machine("db", "vsphere", (GIB,) * 30, system="windows"), "aws", "30 disks; aws takes at most 26"),
        (Machine("db", "vsphere", (GIB,), cpus=300), "hyperv", "300 processors"),
        (Machine("db", "vsphere", (GIB,), memory=16 * TIB), "hyperv", "16 TiB of memory"),
        (Machine("db", "hyperv", (GIB, 63 * TIB)), "vsphere", "disk 1 has 63 TiB"),
        (Machine("db", "hyperv", (GIB,), system="windows", static=True), "vsphere", "Windows no static address"),
        (Machine("db", "vsphere", (GIB,), system="windows", static=True), "vsphere", "would run Sysprep"),
        (Machine("db", "hyperv", (GIB,), system="windows", static=True), "local", "the hook"),
    ],
)
def test_what_will_not_convert_is_said(vm: Machine, to: str, words: str) -> None:
    (said,) = stopped(check(vm, to))
    assert said.startswith("db: ")
    assert words in said
    assert all(each.hint for each in check(vm, to) if each.weight is Weight.STOPS)


@pytest.mark.parametrize("to", sorted(KINDS))
def test_an_ordinary_vm_goes_everywhere(to: str) -> None:
    vm = Machine("web", "vsphere", (40 * GIB, 100 * GIB), system="linux")
    assert not stopped(check(vm, to))
    assert converted(vm, to).disks == vm.disks
    assert not stopped(check(converted(vm, to), "vsphere"))


@pytest.mark.parametrize("system", ["", "linux", "windows"])
@pytest.mark.parametrize("to", sorted(KINDS))
def test_who_may_have_a_static_address(to: str, system: str) -> None:
    """Who asks for none is told of it, and goes."""
    none = system == "windows" and to in ("vsphere", "local")
    vm = Machine("web", to, (40 * GIB,), system=system)
    assert bool(stopped(check(replace(vm, static=True), to))) is none
    assert not stopped(check(vm, to))
    assert any("static" in each.what for each in check(vm, to)) is none


def test_what_will_be_different_is_said() -> None:
    vm = Machine("web", "vsphere", (MIB + 512,), firmware="uefi", secure_boot=True, system="linux")
    said = {each.weight: each.what for each in check(vm, "hyperv")}
    texts = " | ".join(each.what for each in check(vm, "hyperv"))
    assert "grows from 1049088 to 3145728 bytes" in texts
    assert "without Secure Boot" in texts
    assert "generation 2" in texts
    assert "hv_storvsc" in said[Weight.NEEDS]
    assert not converted(vm, "hyperv").secure_boot
    same = Machine("web", "hyperv", (4 * MIB,), firmware="uefi")
    assert check(same, "hyperv") == []
