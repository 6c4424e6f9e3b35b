"""Site files: reading one into a `SiteFile`."""

from pathlib import Path

from pydantic import ValidationError

from drsim.files.explain import explain
from drsim.files.yaml_tree import Place, fail, parse, read_text
from drsim.spec.live import SiteFile
from drsim.spec.quantity import FROM_FILE


def load_site(path: Path) -> SiteFile:
    """The site of a file. Raises FileError that names every error with file and line."""
    tree = parse(read_text(path), file=path)
    if tree is None:
        raise fail([(Place(path, 1), "the file is empty; it describes a site")], main=path)
    try:
        return SiteFile.model_validate(tree.plain(), context=FROM_FILE)
    except ValidationError as error:
        raise fail(explain(error, tree), main=path) from error
