"""What every mapping in a scenario file has in common. Owns no key of any file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

OPERAND_PATTERN = r"^([^\x00-\x20\x7f-][^\x00-\x1f\x7f]*)?$"

Operand = Annotated[str, StringConstraints(pattern=OPERAND_PATTERN, max_length=4096)]
"""A path, a URL or a name that a tool gets as it is: it does not begin with `-`, which the tool would read as an
option, nor with a blank, and it is one line. May be empty."""


class Section(BaseModel):
    """Types are exact, unknown keys are errors, keys are camelCase."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, alias_generator=to_camel)
