"""Reading model files: what is accepted, and what every kind of mistake is answered with."""

import re
import shutil
from pathlib import Path

import pytest

import drsim.files.merge
from drsim.core.errors import FileError
from drsim.files.models import load_model, shipped
from drsim.files.shape import Shape, legal
from drsim.spec.model import Model
from drsim.spec.protect import Journal
from drsim.spec.workload import Constant, Poisson, Trace

ROOT = Path(__file__).parents[2] / "models"
_WORKLOAD = re.compile(r"use: workloads/([a-z0-9-]+)")
SMALL = """\
about: small
sites:
  a: {}
  b: {}
datastores:
  s: {site: a}
  t: {site: b}
hosts:
  h: {site: a}
  i: {site: b}
links:
  wan: {between: [a, b], bandwidth: 10 Mbit/s}
vms:
  v: {host: h, datastore: s, workload: {kind: constant, rate: 10}}
vpgs:
  p: {vms: [v], recovery: {hosts: [i], datastore: t}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def workloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped models with the workloads that estates name; stand-ins where the catalogue lacks them."""
    named = {name for path in ROOT.glob("estates/*.yaml") for name in _WORKLOAD.findall(path.read_text("utf-8"))}
    lacking = [name for name in named if not (ROOT / "workloads" / f"{name}.yaml").is_file()]
    if not lacking:
        return
    root = tmp_path / "drsim" / "models"
    shutil.copytree(ROOT, root)
    (root / "workloads").mkdir(exist_ok=True)
    for name in lacking:
        text = "about: a stand-in.\nvalues: {kind: constant, rate: 10}\n"
        (root / "workloads" / f"{name}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("drsim.__file__", str(root.parent / "__init__.py"))


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def changed(*pairs: tuple[str, str]) -> Path:
    """The small model with texts replaced, each of which must be there."""
    text = SMALL
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return write("m.yaml", text)


def refused(path: str | Path, *overrides: str) -> str:
    with pytest.raises(FileError) as caught:
        load_model(path, overrides=overrides)
    text = str(caught.value)
    assert not any(word in text for word in ("pydantic", "http", "Input should", "constrained-str", "function-"))
    return text


def test_a_small_model_loads_with_units_and_defaults(folder: Path) -> None:
    model = load_model(write("m.yaml", SMALL))
    assert model.links["wan"].bandwidth == 10_000_000
    assert model.vpgs["p"].journal.history == 24 * 3600 * 10**9


# -- one mistake each -------------------------------------------------------------------------------------------------

ONE = [
    ("bandwidth: 10", "bandwith: 10", "12: links.wan.bandwith: unknown field 'bandwith'; did you mean 'bandwidth'"),
    ("bandwidth: 10 Mbit/s", "latency: 5 ms", "12: links.wan.bandwidth: is missing; it must be at least 1 Mbit/s"),
    ("10 Mbit/s", "10", "m.yaml:12: links.wan.bandwidth: 10 has no unit; write it like '100 Mbit/s'"),
    ("10 Mbit/s", "10 Mbit", "m.yaml:12: links.wan.bandwidth: '10 Mbit' is not a bandwidth: unknown unit 'Mbit'"),
    ("10 Mbit/s", "0.2 Mbit/s", "links.wan.bandwidth: '0.2 Mbit/s' is out of range; it must be at least 1 Mbit/s"),
    ("[a, b], b", "[a], b", "m.yaml:12: links.wan.between: needs 2 entries, has 1"),
    ("[a, b], b", "[a, b, a], b", "m.yaml:12: links.wan.between: has 3 entries, at most 2 are allowed"),
    ("[a, b], b", "{x: a}, b", "m.yaml:12: links.wan.between: expected a list, not a mapping"),
    ("kind: constant", "kind: constnt", "m.yaml:14: vms.v.workload.kind: no kind 'constnt'; did you mean 'constant'?"),
    ("kind: constant, ", "", "vms.v.workload.kind: is missing; write `kind:` and one of constant, poisson, onoff"),
    ("rate: 10", "rate: ten", "m.yaml:14: vms.v.workload.rate: expected a number, not 'ten'"),
    ("rate: 10", "rate: .inf", "m.yaml:14: vms.v.workload.rate: expected a finite number, not inf"),
    ("rate: 10", "rate: 10, size: 700 B", "'700 B' is out of range; it must be between 512 B and 32 MiB, a multiple"),
    ("host: h,", "host: [h, 3],", "m.yaml:14: vms.v.host.1: expected a text, not 3"),
    ("host: h,", "host: {},", "m.yaml:14: vms.v.host: expected a text or a list, not a mapping"),
    ("  v: {", "  -v: {", "m.yaml:14: vms.-v: '-v' is not a name: write 1 to 80 letters"),
    ("{vms: [v]", "{vms: []", "m.yaml:16: vpgs.p.vms: needs at least 1 entry, has 0"),
    ("{vms: [v]", "{history: 2 h, vms: [v]", "p.history: unknown field 'history' here; write it inside `journal:`"),
    ("datastore: t}", "datastore: t}, priority: hi", "'hi' is not allowed; did you mean 'high'? (allowed: high, low,"),
    ("datastore: t}", "datastore: t}, compression: so", "vpgs.p.compression: expected true or false, not 'so'"),
    ("  a: {}", "  a:", "m.yaml:3: sites.a: expected a mapping, but nothing is given"),
    ("  h: {site: a}", "  h: {site: a, vra: {ram: 40}}", "vra.ram: 40 is out of range; it must be between 1 and 16"),
    ("  h: {site: a}", "  h: {site: a, vra: {ram: 3 GiB}}", "hosts.h.vra.ram: expected a whole number, not '3 GiB'"),
    ("  s: {site: a}", "  s: {site: a, iops: -3}", "datastores.s.iops: -3 is out of range; it must be more than 0"),
    ("site: b}\nlinks", "site: c}\nlinks", "m.yaml:10: hosts.i.site: no site is called 'c'"),
    ("hosts: [i]", "hosts: [ii]", "m.yaml:16: vpgs.p.recovery.hosts.0: no host is called 'ii'; did you mean 'i'?"),
    ("datastore: t}", "datastore: s}", "m.yaml:16: vpgs.p.recovery: the recovery datastore is not on site 'b'"),
    ("about: small", "faults: [{kind: link-cut}]", "1: faults.0.kind: no kind 'link-cut'; did you mean 'link-down'?"),
    ("about: small", "faults: [5]", "m.yaml:1: faults.0: expected a mapping, not 5"),
    ("about: small", "run: {clock: '25:00'}", "1: run.clock: '25:00' is not a clock time; write it like '08:30'"),
    ("about: small", "extends: two-sites", "1: extends: no model is called 'two-sites'; did you mean 'two-site'?"),
    ("about: small", "extends: m.yaml", "m.yaml:1: extends: 'm.yaml' leads back to this file"),
    ("about: small", "extends: other.yaml", "m.yaml:1: extends: no such file: other.yaml"),
    ("about: small", "extends: 3", "m.yaml:1: extends: expected the name of a shipped model or a path"),
    ("[a, b], ", "[a, b], use: links/mpsl-100, ", "m.yaml:12: use: no catalogue entry 'links/mpsl-100'; did you mean"),
    ("[a, b], ", "[a, b], use: x/y.yaml, ", "m.yaml:12: use: no such file: x/y.yaml"),
    ("[a, b], ", "[a, b], use: 7, ", "m.yaml:12: use: expected the name of a catalogue entry"),
    ("kind: constant, rate: 10", "kind: trace, path: t.gz", "m.yaml:14: vms.v.workload.path: no trace file t.gz"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), ONE, ids=[new.strip() for _, new, _ in ONE])
def test_a_mistake_is_named_with_line_path_and_what_is_allowed(folder: Path, old: str, new: str, expected: str) -> None:
    text = refused(changed((old, new)))
    assert expected in text
    assert "errors" not in text.splitlines()[0], "one mistake is one error"


def test_legal_range_is_in_units(folder: Path) -> None:
    tail = "datastore: t}"
    text = refused(changed((tail, tail + ", journal: {history: 10 min, hard_limit: 1 GiB, warning: 2}")))
    assert "vpgs.p.journal.history: '10 min' is out of range; it must be between 1 h and 30 d" in text
    assert "vpgs.p.journal.hard_limit: '1 GiB' is out of range; it must be at least 8 GiB, or 'unlimited'" in text
    assert "vpgs.p.journal.warning: 2 is out of range; it must be more than 0 % and at most 100 %" in text
    assert legal(Shape.of_field(Journal.model_fields["history"])) == "between 1 h and 30 d"


def test_a_misspelt_alternative_names_both(folder: Path) -> None:
    tail = "datastore: t}"
    text = refused(changed((tail, tail + ", journal: {hard_limit: unlimted}")))
    assert "'unlimted' is not a size" in text
    assert text.endswith("or 'unlimited'")


def test_all_errors_at_once_sorted_by_line(folder: Path) -> None:
    text = refused(
        changed(("rate: 10", "rate: x"), ("10 Mbit/s", "1"), ("  a: {}", "  a: {lan: 3}"), ("hosts: [i]", "xyz: 2 h"))
    )
    assert text.startswith("m.yaml: 5 errors\n")
    assert [line.split(":")[1] for line in text.splitlines()[1:]] == ["3", "12", "14", "16", "16"]
    assert "vpgs.p.recovery.hosts: is missing (recovery hosts)" in text


def test_all_wrong_references_at_once(folder: Path) -> None:
    text = refused(changed(("hosts: [i]", "hosts: [j]"), ("{host: h", "{host: k"), ("{vms: [v]", "{vms: [w]")))
    assert text.startswith("m.yaml: 3 errors\n")
    assert "m.yaml:14: vms.v.host: no host is called 'k' (there is: h, i)" in text


# -- files that are no model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "m.yaml: is empty; a model has at least sites"),
        (b"# nothing\n", "m.yaml: is empty"),
        (b"- 1\n", "m.yaml:1: holds a list; a model is a mapping"),
        (b"hello\n", "m.yaml:1: holds only 'hello'; a model is a mapping"),
        (b"a: 1\nb: [1\n", "m.yaml:3: not valid YAML: expected ',' or ']'"),
        (b"a: 1\nb: c: d\n", "m.yaml:2: not valid YAML: mapping values are not allowed here"),
        (b"a:\n\tb: 1\n", "hint: indent with spaces, not tabs"),
        (b"a: *b\n", "m.yaml:1: not valid YAML: found undefined alias 'b'"),
        (b"a: 1\n---\nb: 1\n", "one file holds one model"),
        (b"sites: {}\nhosts: {}\n\nsites: {}\n", "m.yaml:4: 'sites' is given twice, first on line 1"),
        (b"a: !evil 1\n", "m.yaml:1: the tag '!evil' means nothing here; remove it"),
        (b"a: &x\n  b: *x\n", "nest deeper than 40 levels"),
        (b"? [1]\n: 2\n", "m.yaml:1: a key must be a plain text"),
        (b"a: 1\nb: \xff\xfe\n", "m.yaml:2: is not UTF-8 text"),
        (b"PK\x03\x04\x00\x00", "m.yaml: is a binary file"),
        (b"a: 1\nb: \x07\n", "m.yaml:2: the character '\\x07' is not allowed in YAML"),
    ],
)
def test_not_a_model_file(folder: Path, content: bytes, expected: str) -> None:
    Path("m.yaml").write_bytes(content)
    assert expected in refused("m.yaml")


def test_missing_directory_unknown_and_large(folder: Path) -> None:
    assert refused("no.yaml") == "no.yaml: no such file"
    assert "asked for as 'two-site'" in refused("two-site.yaml")
    Path("d").mkdir()
    assert "d: is a directory, not a model file" in refused("d")
    assert "no model is called 'two-sit'; did you mean 'two-site'? (shipped: hundred-vms," in refused("two-sit")
    Path("big.yaml").write_bytes(b"#" * (5 << 20))
    assert "big.yaml: has 5242880 bytes" in refused("big.yaml")


# -- use, extends, overrides -------------------------------------------------------------------------------------------


def test_use_takes_values_and_own_keys_win(folder: Path) -> None:
    model = load_model(changed(("bandwidth: 10 Mbit/s", "use: links/mpls-100, latency: 3 ms")))
    assert (model.links["wan"].bandwidth, model.links["wan"].latency) == (100_000_000, 3_000_000)
    nested = load_model(changed(("i: {site: b}", "i: {use: hosts/busy, site: b, vra: {vcpus: 4}}")))
    assert (nested.hosts["i"].vra.ram, nested.hosts["i"].vra.vcpus) == (8, 4)


def test_use_prefers_what_lies_beside_the_file(folder: Path) -> None:
    write("models/links/mpls-100.yaml", "about: ours\nvalues: {bandwidth: 7 Mbit/s}\n")
    write("parts/slow.yaml", "about: by path\nvalues: {use: deeper.yaml, latency: 9 ms}\n")
    write("parts/deeper.yaml", "about: by path\nvalues: {bandwidth: 6 Mbit/s}\n")
    assert load_model(changed(("bandwidth: 10 Mbit/s", "use: links/mpls-100"))).links["wan"].bandwidth == 7_000_000
    link = load_model(changed(("bandwidth: 10 Mbit/s", "use: parts/slow.yaml"))).links["wan"]
    assert (link.bandwidth, link.latency) == (6_000_000, 9_000_000)


def test_an_error_in_a_catalogue_file_names_that_file(folder: Path) -> None:
    write("models/links/mine.yaml", "about: x\n# a comment\nvalues:\n  bandwidth: 3\n")
    assert "models/links/mine.yaml:4: links.wan.bandwidth: 3 has no unit" in refused(
        changed(("bandwidth: 10 Mbit/s", "use: links/mine"))
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("about: x\n", "models/links/mine.yaml:1: a catalogue file is a mapping with `about`"),
        ("", "models/links/mine.yaml:1: a catalogue file is a mapping"),
        ("about: x\nvalues: {}\nvalue: 3\n", "mine.yaml:3: value: unknown field of a catalogue file; did you mean"),
        ("about: x\nvalues: {use: links/mine}\n", "mine.yaml:2: use: 'links/mine' leads back to itself"),
    ],
)
def test_a_wrong_catalogue_file(folder: Path, content: str, expected: str) -> None:
    write("models/links/mine.yaml", content)
    assert expected in refused(changed(("between: [a, b], ", "between: [a, b], use: links/mine, ")))


def test_extends_overlays_and_another_kind_replaces(folder: Path) -> None:
    write("base.yaml", SMALL.replace("kind: constant, ", "kind: onoff, on: 1 s, off: 1 s, size: 8 KiB, "))
    over = "extends: base.yaml\nlinks: {wan: {latency: 9 ms}}\nvms: {v: {workload: {kind: poisson, rate: 3}}}\n"
    model = load_model(write("sub/over.yaml", over.replace("base.yaml", "../base.yaml")))
    assert (model.links["wan"].bandwidth, model.links["wan"].latency) == (10_000_000, 9_000_000)
    assert model.vms["v"].workload == Poisson(rate=3)
    assert model.about == ""
    same = "extends: base.yaml\nvms: {v: {workload: {kind: onoff, off: 3 s}}}\n"
    assert load_model(write("same.yaml", same)).vms["v"].workload.model_dump()["off"] == 3 * 10**9
    text = refused(write("bad.yaml", "extends: base.yaml\n\nlinks:\n  wan: {latency: 9}\n"))
    assert text == "bad.yaml:4: links.wan.latency: 9 has no unit; write it like '5 s'"


def test_overrides_change_and_add(folder: Path) -> None:
    path = changed(("  h: {site: a}", "  h.example.org: {site: a}"), ("{host: h", "{host: h.example.org"))
    model = load_model(
        path,
        overrides=[
            "links.wan.bandwidth=20 Mbit/s",
            "links.wan.between.1=b",
            "tweaks.hold_budget=10 ms",
            "hosts.h.example.org.vra.ram=5",
            "faults.0={use: faults/wan-cut-10min, at: 1 h, link: wan}",
            "faults.0.lasts=3 min",
            "run.clock=08:00",
            "vms.v.workload={kind: constant, rate: 5}",
        ],
    )
    assert model.links["wan"].bandwidth == 20_000_000
    assert model.tweaks.hold_budget == 10**7
    assert model.hosts["h.example.org"].vra.ram == 5
    assert model.faults[0].model_dump()["lasts"] == 180 * 10**9
    assert model.run.clock == "08:00"
    assert model.vms["v"].workload == Constant(rate=5)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("links.wann.bandwidth=3 Mbit/s", "links has no 'wann'; did you mean 'wan'? (there is: wan)"),
        ("links.wan.bandwith=3 Mbit/s", "unknown field 'bandwith' of links.wan; did you mean 'bandwidth'?"),
        ("lniks.wan=3", "unknown field 'lniks'; did you mean 'links'?"),
        ("links.wan.bandwidth.x=3", "links.wan.bandwidth holds a plain value; nothing lies below it"),
        ("links.wan.between.2=a", "links.wan.between has no entry '2'; its 2 entries are numbered 0 to 1"),
        ("links.wan.latency.x=3", "links.wan.latency holds a plain value; nothing lies below it"),
        ("links.wan.between.7=a", "links.wan.between has no entry '7'; its 2 entries are numbered 0 to 1"),
        ("vms.v.volumes.0.size=3 GiB", "vms.v.volumes has no entries in the file; set the whole list"),
        ("links.wan.bandwidth=3", "links.wan.bandwidth: 3 has no unit"),
        ("links.wan.latency=20 s", "links.wan.latency: '20 s' is out of range; it must be between 0 and 10 s"),
        ("links.wan.bandwidth", "write it as path=value"),
        ("links.wan.bandwidth=", "gives no value"),
        ("links.wan.throttle=[1", "the value is not valid YAML"),
        ("vpgs.p.recovery.hosts=[nobody]", "vpgs.p.recovery.hosts.0: no host is called 'nobody'"),
    ],
)
def test_a_wrong_override_is_named_as_such(folder: Path, override: str, expected: str) -> None:
    text = refused(write("m.yaml", SMALL), override)
    assert text.startswith(f"--set {override}: ")
    assert expected in text


def test_trace_paths_are_relative_to_the_file_that_names_them(folder: Path) -> None:
    write("sub/data/t.csv", "x")
    write("sub/m.yaml", SMALL.replace("kind: constant, rate: 10", "kind: trace, path: data/t.csv"))
    load = load_model("sub/m.yaml").vms["v"].workload
    assert isinstance(load, Trace)
    assert load.path == str((folder / "sub/data/t.csv").resolve())
    write("here.csv", "x")
    load = load_model("sub/m.yaml", overrides=["vms.v.workload.path=here.csv"]).vms["v"].workload
    assert isinstance(load, Trace)
    assert load.path == str((folder / "here.csv").resolve())


def test_yaml_merge_keys_and_aliases(folder: Path) -> None:
    model = load_model(changed(("  a: {}\n  b: {}", "  a: &x {lan_latency: 3 ms}\n  b: {<<: *x, lan_jitter: 1 ms}")))
    assert (model.sites["b"].lan_latency, model.sites["b"].lan_jitter) == (3_000_000, 1_000_000)


# -- what is shipped ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "estates").glob("*.yaml")))
def test_shipped_estates_load_and_say_what_they_are(name: str, workloads: None) -> None:
    model = load_model(name)
    assert model.about
    assert shipped()[name] == model.about


@pytest.mark.parametrize("kind", ["hosts", "vras", "links", "journals", "faults"])
def test_the_catalogue_fits_the_specs_and_names_its_sources(kind: str) -> None:
    assert 3 <= len(shipped(kind)) <= (40 if kind == "faults" else 8)
    for name, about in shipped(kind).items():
        assert about.endswith(".")
        for line in (ROOT / kind / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            key = line.strip().partition(":")[0]
            if line.startswith("  ") and key not in ("vra", "throttle", "kind", "use"):
                assert "our choice" in line or "products.md" in line, f"{kind}/{name}: {line}"


def test_catalogue_entries_load_in_a_model(folder: Path) -> None:
    for name in shipped("links"):
        load_model(changed(("bandwidth: 10 Mbit/s", f"use: links/{name}")))
    for name in shipped("hosts"):
        load_model(changed(("h: {site: a}", f"h: {{use: hosts/{name}, site: a}}")))
    for name in shipped("vras"):
        load_model(changed(("h: {site: a}", f"h: {{site: a, vra: {{use: vras/{name}}}}}")))
    for name in shipped("journals"):
        load_model(changed(("datastore: t}", f"datastore: t}}, journal: {{use: journals/{name}}}")))
    where = {"link": "wan", "host": "h", "datastore": "t", "site": "a", "vm": "v"}  # as the small model calls them
    for name, about in shipped("faults").items():
        places = ", ".join(f"{field}: {place}" for field, place in where.items() if f"`{field}`" in about)
        fault = f"{{use: faults/{name}, at: 1 h, {places}}}"
        load_model(changed(("about: small", f"faults: [{fault}]")))


def test_unknown_kind_of_shipped_file() -> None:
    with pytest.raises(FileError, match="drsim ships no 'link'; did you mean 'links'"):
        shipped("link")


def test_models_are_found_in_an_installed_wheel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("site-packages/drsim/models/estates/only.yaml", SMALL)
    monkeypatch.setattr("drsim.__file__", str(folder / "site-packages/drsim/__init__.py"))
    assert shipped() == {"only": "small"}
    assert isinstance(load_model("only"), Model)
    monkeypatch.setattr("drsim.__file__", str(folder / "nowhere/drsim/__init__.py"))
    with pytest.raises(FileError, match="install drsim again"):
        drsim.files.merge.shipped_root()
