"""Model files: reading one into a `Model`, listing those that drsim ships, and the JSON schema for editors."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from drsim.core.errors import FileError
from drsim.files.explain import explain
from drsim.files.merge import Assembly, estate_path, near, shipped_root
from drsim.files.schema import model_schema
from drsim.files.yaml_tree import Item, parse, read_text, shown
from drsim.spec.model import Model
from drsim.spec.quantity import FROM_FILE

__all__ = ["load_model", "model_schema", "shipped"]


def load_model(reference: str | Path, *, overrides: Sequence[str] = ()) -> Model:
    """The model of a file, or of a shipped name such as `two-site`.

    `overrides` are texts like `links.wan.bandwidth=20 Mbit/s`, carried out after merging; list entries are numbers
    (`faults.0.lasts=5 min`). Trace paths are relative to the file that names them; in an override, to the current
    directory. Raises FileError that names every error with file and line, sorted, and changes nothing.
    """
    path = estate_path(reference)
    assembly = Assembly(path)
    tree = assembly.extended(path)
    for each in overrides:
        assembly.override(tree, each)
    _traces(tree, assembly)
    try:
        model = Model.model_validate(tree.plain(), context=FROM_FILE)
    except ValidationError as error:
        found = explain(error, tree)
        assembly.wrong.extend(w for w in found if not (w[0] in assembly.lacking and ": is missing" in w[1]))
        model = None
    assembly.stop()
    assert model is not None, "a model without errors validates"
    return model


def shipped(kind: str = "estates") -> dict[str, str]:
    """The shipped files of one kind (`estates`, `links`, `faults` ...): name to its one sentence.

    Raises FileError for a kind that there is not.
    """
    root = shipped_root()
    kinds = [each.name for each in root.iterdir() if each.is_dir() and any(each.glob("*.yaml"))]
    if kind not in kinds:
        raise FileError(f"drsim ships no {kind!r}{near(kind, kinds)}", place=shown(root))
    return {path.stem: _about(path) for path in sorted((root / kind).glob("*.yaml"))}


def _about(path: Path) -> str:
    tree = parse(read_text(path), file=path)
    about = tree.value.get("about") if tree is not None and isinstance(tree.value, dict) else None
    return about.value if about is not None and isinstance(about.value, str) else ""


def _traces(tree: Item, assembly: Assembly) -> None:
    """Make the trace paths of workloads absolute, and see that the files are there."""
    vms = tree.value.get("vms")
    for name, vm in vms.value.items() if vms is not None and isinstance(vms.value, dict) else ():
        workload = vm.value.get("workload") if isinstance(vm.value, dict) else None
        fields = workload.value if workload is not None and isinstance(workload.value, dict) else {}
        kind, trace = fields.get("kind"), fields.get("path")
        if kind is None or kind.value != "trace" or trace is None or not isinstance(trace.value, str):
            continue
        base = Path.cwd() if trace.place.option else trace.place.file.parent
        path = (base / Path(trace.value).expanduser()).resolve()
        if not path.is_file():
            text = f"vms.{name}.workload.path: no trace file {shown(path)}; the path is relative to {shown(base)}"
            assembly.wrong.append((trace.place, text))
        trace.value = str(path)
