"""Transcripts of live sites: what their cores were told gives the same effects again (P28)."""

import asyncio
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from live_sites import Sites, on_sites, write_sites
from typer.testing import CliRunner

from drsim.cli.main import program
from drsim.core.catalog import Catalog
from drsim.core.effects import Effect, Keep
from drsim.core.errors import FileError, PlatformError
from drsim.core.events import Event
from drsim.core.trace import TraceLines
from drsim.core.units import SECTOR, Ns
from drsim.real.ports import LoginRefused
from drsim.real.transcript import plain, value_of
from drsim.verify.transcripts import replay
from drsim.verify.violation import Violation


@pytest.fixture
def lives(tmp_path: Path) -> list[Path]:
    """Transcripts of two lives of two sites: writes, checkpoints, a restart, a tag, a deletion."""
    write_sites(tmp_path)

    async def first(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db", "app"))
        await write(sites, b"secret of the guest")
        await sites.checkpoint("crm", "one")

    async def second(sites: Sites) -> None:
        await write(sites, b"another one")
        await sites.checkpoint("crm", "two")
        sites.london.delete("crm", keep_disks=False)
        await sites.until(lambda: not sites.london.state.state.vpgs and not sites.leeds.state.state.vpgs)
        await sites.london.protect(sites.vpg("crm", "app"))
        await sites.checkpoint("crm", "three")

    on_sites(tmp_path, first, second)
    return sorted(tmp_path.glob("*/transcripts/*"))


async def write(sites: Sites, content: bytes) -> None:
    for lba in range(0, 160, 16):
        await asyncio.to_thread(sites.write, "db/system", lba * SECTOR, content.ljust(4 * SECTOR))


def changed(path: Path, change: Any) -> Path:
    """A transcript with its records changed."""
    with gzip.open(path, "rt") as file:
        records = [json.loads(line) for line in file]
    made = path.with_name("changed.gz")
    with gzip.open(made, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in change(records))
    return made


def test_every_life_of_a_site_is_played_again_step_by_step(lives: list[Path]) -> None:
    assert [path.parent.parent.name + "/" + path.name for path in lives] == [
        f"{site}/life-{n}.gz" for site in ("leeds", "london") for n in (1, 2)
    ]
    for path in lives:
        lines = TraceLines()
        played = replay(path, lines)
        assert played.site == path.parent.parent.name
        assert played.steps == len(lines.lines) > 20
        assert played.broke == ""
        content = gzip.decompress(path.read_bytes())
        assert b"secret of the guest" not in content
        assert b"secret of the guest".hex().encode() not in content


def test_a_core_that_does_something_else_is_seen(lives: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rightly = Catalog.handle

    def forgetful(self: Catalog, now: Ns, event: Event) -> Sequence[Effect]:
        return [effect for effect in rightly(self, now, event) if not isinstance(effect, Keep)]

    monkeypatch.setattr(Catalog, "handle", forgetful)
    with pytest.raises(Violation, match=r"then: .*Keep\(checkpoint="):
        replay(lives[0])
    without = changed(lives[3], lambda records: [r for n, r in enumerate(records) if n != told(records, "GuestWrote")])
    with pytest.raises(Violation, match="P28"):
        replay(without)


def told(records: list[Any], event: str) -> int:
    return next(n for n, r in enumerate(records) if r[0] == "told" and r[3].get("is", "").endswith(event))


def test_what_a_killed_site_had_not_written_is_just_missing(lives: list[Path], tmp_path: Path) -> None:
    whole = replay(lives[0]).steps
    torn = tmp_path / "torn.gz"
    torn.write_bytes(lives[0].read_bytes()[:-200])
    assert 0 < replay(torn).steps < whole


def test_the_command_says_what_was_played_and_what_differs(lives: list[Path], tmp_path: Path) -> None:
    app, run = program(["replay"]), CliRunner().invoke
    fine = run(app, ["replay", str(lives[3])])
    assert fine.exit_code == 0, fine.output
    assert "site london, drsim" in fine.output
    assert "the same effects in every step" in fine.output

    def other(records: list[Any]) -> list[Any]:
        n = next(n for n, record in enumerate(records) if record[0] == "gave" and record[1])
        return [*records[:n], ["gave", ["Arm(timer=x delay=1)"]], *records[n + 1 :]]

    differs = run(app, ["replay", str(changed(lives[3], other))])
    assert differs.exit_code == 1
    assert "P28 does not hold" in differs.output
    assert "then: Arm(timer=x delay=1)" in differs.output

    def broken(records: list[Any]) -> list[Any]:
        n = told(records, "GuestWrote")
        event = records[n][3] | {"stream": records[n][3]["stream"] | {"vpg": "nobody"}}
        return [*records[:n], [*records[n][:3], event]]

    fails = run(app, ["replay", str(changed(lives[3], broken))])
    assert fails.exit_code == 1
    assert "the core fails in the last step" in fails.output
    assert "raised KeyError" in fails.output

    (tmp_path / "none.gz").write_bytes(b"no transcript")
    with pytest.raises(FileError, match="this is no transcript"):
        replay(tmp_path / "none.gz")
    evil = changed(lives[3], lambda records: [records[0], ["made", "a", "os:system", ["true"], {}]])
    with pytest.raises(FileError, match="no place in a transcript"):
        replay(evil)


def test_an_error_of_a_platform_is_the_cores_in_a_transcript() -> None:
    said = value_of(json.loads(json.dumps(plain(LoginRefused("no", place="vc", hint="ask")))))
    assert type(said) is PlatformError
    assert (said.message, said.place, said.hint) == ("no", "vc", "ask")
