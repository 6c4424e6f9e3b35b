"""Secrets: reads what a site's file only points to."""

import os
from pathlib import Path

from drsim.core.errors import FileError
from drsim.spec.platform import Secret


def reveal(secret: Secret, base: Path) -> str:
    """The secret itself. Raises FileError when it is not there, or when others may read its file."""
    if secret.env is not None:
        found = os.environ.get(secret.env)
        if not found:
            raise FileError(f"the environment variable {secret.env} is not set", hint="set it for this command alone")
        return found
    assert secret.file is not None
    path = base / secret.file
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"the secret cannot be read: {error}", place=str(path)) from error
    if mode & 0o077:
        raise FileError("others may read the secret", place=str(path), hint=f"chmod 600 {path}")
    if not text or not text[0].strip():
        raise FileError("the file is empty", place=str(path), hint="its first line is the secret")
    return text[0].strip()
