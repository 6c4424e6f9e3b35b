"""Platform: what people write down of a platform's access, whichever platform it is."""

from typing import Self

from pydantic import Field, model_validator

from drsim.spec.base import Spec


class Secret(Spec):
    """Where a password, token or key is: never in the file itself."""

    file: str | None = Field(default=None, min_length=1)
    """A file that holds it in its first line, from this file's folder; only its owner may read it."""
    env: str | None = Field(default=None, min_length=1)
    """An environment variable that holds it."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("give one of file and env")
        return self
