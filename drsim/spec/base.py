"""What every spec shares: frozen, closed to unknown fields, names of the field's objects."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints


class Spec(BaseModel):
    """A noun that people write down. Frozen; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
"""The name of a site, host, VM ...: letters, digits, dot, dash, underscore."""
