"""Site files: reading one into a `SiteFile`, or a `RemoteSite` for commands that speak to it from elsewhere.

A site may also be one of an estate, a model file whose sites say how they are run for real: `estate.yaml:london`.
"""

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from drsim.core.errors import FileError
from drsim.files.estate import site_of
from drsim.files.explain import explain
from drsim.files.models import load_model
from drsim.files.yaml_tree import Place, fail, parse, read_text
from drsim.spec.live import RemoteSite, SiteFile
from drsim.spec.quantity import FROM_FILE
from drsim.spec.sites import Sites


class SitePath(NamedTuple):
    """Where a site is written down. `site`: of an estate; empty for a site's own file."""

    file: Path
    site: str

    @classmethod
    def of(cls, path: Path) -> "SitePath":
        """`FILE` or `FILE:SITE`."""
        file, colon, site = str(path).rpartition(":")
        return cls(Path(file), site) if colon and not path.exists() else cls(path, "")


def load_site(path: Path) -> SiteFile:
    """The site of a file. Raises FileError that names every error with file and line."""
    found = load_any_site(path)
    if isinstance(found, RemoteSite):
        hint = "run this on the site's machine, with the site's own file"
        raise FileError("this file says how to reach a site, not what it is", place=str(path), hint=hint)
    return found


def load_any_site(path: Path) -> SiteFile | RemoteSite:
    """The site of a file or estate, or how to reach it (a file with `connect`). Raises FileError as `load_site`."""
    path, site = SitePath.of(path)
    if site:
        return site_of(load_model(path), site, place=str(path))
    tree = parse(read_text(path), file=path)
    if tree is None:
        raise fail([(Place(path, 1), "the file is empty; it describes a site")], main=path)
    plain = tree.plain()
    kind = RemoteSite if isinstance(plain, dict) and "connect" in plain else SiteFile
    try:
        return kind.model_validate(plain, context=FROM_FILE)
    except ValidationError as error:
        raise fail(explain(error, tree), main=path) from error


def load_sites(path: Path) -> Sites:
    """The sites on platforms of a file. Raises FileError as `load_site` does."""
    tree = parse(read_text(path), file=path)
    if tree is None:
        raise fail([(Place(path, 1), "the file is empty; it describes sites")], main=path)
    try:
        return Sites.model_validate(tree.plain(), context=FROM_FILE)
    except ValidationError as error:
        raise fail(explain(error, tree), main=path) from error
