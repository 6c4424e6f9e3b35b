"""`drsim vra up`: VRAs that are programs of their own, beside sites that come and go."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from live_sites import LONDON, Sites, on_sites, write_sites

from drsim.core.units import SECTOR


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the files of two sites."""
    write_sites(tmp_path, LONDON + "processes: apart\n")
    return tmp_path


def command(folder: Path, host: str) -> list[str]:
    return [sys.executable, "-m", "drsim.cli.main", "vra", "up", str(folder / "london.yaml"), host]


@dataclass
class Program:
    """A VRA, and what it says."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())


@contextmanager
def up(folder: Path, *hosts: str) -> Iterator[list[Program]]:
    """VRAs that wait for their site."""
    made = [Program(subprocess.Popen(command(folder, host), stdout=subprocess.PIPE, text=True)) for host in hosts]
    ears = [threading.Thread(target=program.listen) for program in made]
    try:
        for ear in ears:
            ear.start()
        while not all(program.lines for program in made):
            assert all(program.process.poll() is None for program in made)
        yield made
    finally:
        for program in made:
            program.process.terminate()
        for program, ear in zip(made, ears, strict=True):
            with program.process:
                ear.join()


def numbers(sites: Sites) -> list[int | None]:
    return [host.pid for host in sites.london.site.hosts.values()]


def test_the_site_restarts_beside_its_vras_and_what_was_written_is_in_the_checkpoint(folder: Path) -> None:
    rng = random.Random(3)
    before, after = rng.randbytes(8 * SECTOR), rng.randbytes(8 * SECTOR)

    async def begins(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db", "app"))
        await asyncio.to_thread(sites.write, "db/log", 0, before)
        await sites.checkpoint("crm", "first")

    async def goes_on(sites: Sites) -> None:
        await asyncio.to_thread(sites.write, "app/system", 0, after)
        kept = await sites.checkpoint("crm", "second")
        found, volumes = sites.rebuilt(kept, "images"), sites.london.state.state.volumes
        assert found[volumes["db/log"]][: len(before)] == before
        assert found[volumes["app/system"]][: len(after)] == after

    with up(folder, "london-1", "london-2") as programs:
        on_sites(folder, begins, goes_on)
        assert all(program.process.poll() is None for program in programs), "they stay when their site goes"
        said = [line for program in programs for line in program.lines]
    assert sum("its site is here" in line for line in said) == 4
    assert sum("its site is gone" in line for line in said) >= 2
    assert not (folder / "london" / "hosts" / "london-1.sock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["told to end", "its process killed", "its process does not answer"])
def test_a_vra_that_dies_is_found_again_when_it_is_up_and_protection_returns(
    folder: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drsim.real.host.PATIENCE", 1.0)
    data = random.Random(4).randbytes(8 * SECTOR)

    async def check(sites: Sites) -> None:
        with up(folder, "london-2"):
            await dies(sites)

    async def dies(sites: Sites) -> None:
        await sites.until(lambda: len(numbers(sites)) == 1)
        await sites.london.protect(sites.vpg("crm", "db"))
        await sites.checkpoint("crm", "first")
        (old,) = numbers(sites)
        assert old is not None
        if way == "told to end":
            vra.__exit__(None, None, None)
            vra_again.__enter__()
        else:
            os.kill(old, signal.SIGKILL if way == "its process killed" else signal.SIGSTOP)
        await sites.until(lambda: numbers(sites)[0] not in (None, old))
        await asyncio.to_thread(sites.write, "db/system", 0, data)
        kept = await sites.checkpoint("crm", "after")
        assert sites.rebuilt(kept, "images")[sites.london.state.state.volumes["db/system"]][: len(data)] == data

    vra, vra_again = up(folder, "london-1"), up(folder, "london-1")
    vra.__enter__()
    try:
        on_sites(folder, check)
    finally:
        (vra_again if way == "told to end" else vra).__exit__(None, None, None)


def test_a_site_whose_vra_is_not_up_names_it_and_serves_the_others(folder: Path) -> None:
    async def check(sites: Sites) -> None:
        assert set(sites.london.own.missing) == {"db/system", "db/log"}
        why = str(sites.london.own.missing["db/system"])
        assert "the VRA of host london-1 is not up" in why
        assert "drsim vra up" in why
        await asyncio.to_thread(sites.write, "app/system", 0, bytes(SECTOR))

    with up(folder, "london-2"):
        on_sites(folder, check)


def test_what_cannot_be_is_said(folder: Path) -> None:
    def said(host: str) -> str:
        done = subprocess.run(command(folder, host), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        return done.stderr

    assert "site london has no host 'london-9'" in said("london-9")
    with up(folder, "london-1"):
        assert "a server listens here already" in said("london-1")
    file = folder / "london.yaml"
    file.write_text(file.read_text().replace("processes: apart", "processes: true"))
    assert "write `processes: apart` into it" in said("london-1")
