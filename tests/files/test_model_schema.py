"""The JSON schema of model files: it accepts what is shipped and refuses what loading refuses."""

from pathlib import Path

import jsonschema
from ruamel.yaml import YAML

from drsim.files.models import model_schema

ROOT = Path(__file__).parents[2] / "models"
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


def plain(path: Path) -> object:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def valid(text: str) -> bool:
    return jsonschema.Draft202012Validator(model_schema()).is_valid(YAML(typ="safe", pure=True).load(text))


def test_schema_accepts_every_shipped_estate() -> None:
    schema = model_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in sorted((ROOT / "estates").glob("*.yaml")):
        jsonschema.validate(plain(path), schema, cls=jsonschema.Draft202012Validator)


def test_schema_refuses_what_loading_refuses() -> None:
    assert valid(SMALL)
    assert valid("extends: two-site\nlinks: {wan: {bandwidth: 5 Mbit/s}}\n")
    assert valid(SMALL.replace("bandwidth: 10 Mbit/s", "use: links/mpls-100"))
    for old, new in [
        ("bandwidth: 10", "bandwith: 10"),
        ("10 Mbit/s", "10"),
        ("kind: constant", "kind: constnt"),
        ("kind: constant, ", ""),
        ("between: [a, b], ", ""),
        ("about: small", "about: 3"),
    ]:
        assert not valid(SMALL.replace(old, new)), new
    assert not valid("extends: two-site\nlinks: {wan: {bandwith: 5 Mbit/s}}\n")


def test_schema_describes_with_ranges_and_units() -> None:
    defs = model_schema()["$defs"]
    assert "Allowed: between 1 h and 30 d." in defs["Journal"]["properties"]["history"]["description"]
    assert defs["Journal"]["properties"]["history"]["default"] == "24 h"
    assert "extends" in defs["Model"]["properties"]
