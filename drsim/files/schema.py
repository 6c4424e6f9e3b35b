"""The JSON schema of model files, for editors: completion, ranges and descriptions while typing."""

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel

from drsim.files.shape import Shape, legal
from drsim.spec import faults, model, protect, tweaks, workload
from drsim.spec.base import Spec
from drsim.spec.quantity import format_bandwidth, format_duration, format_size

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

_FORMAT: dict[str, Callable[[int], str]] = {
    "5 s": format_duration,
    "150 GiB": format_size,
    "100 Mbit/s": format_bandwidth,
}
_PARTIAL = "Partial"
_USE: Schema = {
    "type": "string",
    "description": "A catalogue entry whose values this mapping takes, such as links/mpls-100, or a path that ends in "
    ".yaml; the other keys of the mapping are laid over them.",
    "examples": ["links/mpls-100", "workloads/disk-median"],
}
_EXTENDS: Schema = {
    "type": "string",
    "description": "A shipped model, or a path that ends in .yaml, that this model starts from.",
    "examples": ["two-site"],
}


def model_schema() -> Schema:
    """The schema (draft 2020-12) of a model file as people write it: quantities with units, `use` and `extends`.

    A file that `extends` another may leave out what that one says, so every required field is optional in it.
    """
    schema = model.Model.model_json_schema(mode="validation")
    defs: dict[str, Schema] = schema.pop("$defs")
    for spec in _specs():
        own = schema if spec is model.Model else defs.get(spec.__name__)
        if own is not None:
            _describe(own, spec)
    defs["Model"] = schema
    partial = {f"{_PARTIAL}{name}": _without_required(copy.deepcopy(each)) for name, each in defs.items()}
    for name, each in defs.items():
        if name != "Model":
            _allow_use(each)
    for name in ("Model", f"{_PARTIAL}Model"):
        whole = {**defs, **partial}[name]
        whole["properties"]["extends"] = _EXTENDS
        whole["properties"]["$schema"] = {"type": "string"}
    return {
        "$schema": DRAFT,
        "title": "drsim model",
        "description": inspect.getdoc(model.Model),
        "if": {"required": ["extends"]},
        "then": {"$ref": f"#/$defs/{_PARTIAL}Model"},
        "else": {"$ref": "#/$defs/Model"},
        "$defs": {**defs, **partial},
    }


def _specs() -> Iterable[type[BaseModel]]:
    for module in (faults, model, protect, tweaks, workload):
        for _, each in inspect.getmembers(module, inspect.isclass):
            if issubclass(each, Spec):
                yield each


def _describe(schema: Schema, spec: type[BaseModel]) -> None:
    """Ranges into descriptions, quantities as texts with units, alternatives that `use` can stand for."""
    for name, field in schema.get("properties", {}).items():
        _quantities(field)
        field.pop("title", None)
        allowed = next((text for text in map(legal, Shape.of_field(spec.model_fields[name]).choices()) if text), "")
        allowed = allowed or legal(Shape.of_field(spec.model_fields[name]))
        if allowed:
            field["description"] = f"{field.get('description', '')} Allowed: {allowed}.".strip()
    if "const" in schema.get("properties", {}).get("kind", {}):
        schema["required"] = ["kind", *(each for each in schema.get("required", ()) if each != "kind")]


def _quantities(node: Any) -> None:
    """Defaults with units, and a bare 0 where a unit would say nothing. `use` may stand for any of several kinds."""
    if isinstance(node, list):
        for each in node:
            _quantities(each)
        return
    if not isinstance(node, dict):
        return
    if "oneOf" in node:
        node["anyOf"] = node.pop("oneOf")
        node.pop("discriminator", None)
    examples = [each for each in node.get("examples", ()) if isinstance(each, str)]
    format_ = next((_FORMAT[each] for each in examples if each in _FORMAT), None)
    if format_ is not None and node.get("type") == "string":
        del node["type"]
        node["anyOf"] = [{"type": "string"}, {"const": 0}]
        if isinstance(node.get("default"), int):
            node["default"] = format_(node["default"])
    for key, each in list(node.items()):
        if key == "default" and isinstance(each, dict | list):
            del node[key]
        elif key != "examples":
            _quantities(each)


def _allow_use(schema: Schema) -> None:
    """A mapping may take its values from the catalogue; then it need not say them itself."""
    if schema.get("type") != "object" or "properties" not in schema:
        return
    schema["properties"]["use"] = _USE
    required = schema.pop("required", None)
    if required:
        schema["anyOf"] = [{"required": ["use"]}, {"required": required}]


def _without_required(node: Any) -> Any:
    """The schema with nothing required and its references to schemas of the same sort."""
    if isinstance(node, list):
        return [_without_required(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _without_required(each) for key, each in node.items() if key not in ("required", "minProperties")}
    if isinstance(found.get("$ref"), str):
        found["$ref"] = found["$ref"].replace("#/$defs/", f"#/$defs/{_PARTIAL}")
    if found.get("type") == "object" and "properties" in found:
        found["properties"]["use"] = _USE
    return found
