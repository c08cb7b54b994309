"""What every mapping of a file has in common: exact types, known keys alone; and the patterns of its texts.

Apart from `sections` and `document` so that a lesson or a class is read without the models of what providers want.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

API_VERSION = "labctl/v1"
SCENARIO, SITE, MATRIX = "Scenario", "Site", "Matrix"
"""The kinds of files about labs."""
LESSON, SOLUTION, CLASS = "Lesson", "Solution", "Class"
"""The kinds of files about lessons."""

SCENARIO_PATTERN = r"^([a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?|.{1,4000}\.yaml)$"
OPERAND_PATTERN = r"^([^\x00-\x20\x7f-][^\x00-\x1f\x7f]*)?$"
VERSION_PATTERN = r"^v?[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$"
REGISTRY_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$"
ADDRESS_PATTERN = r"^([A-Za-z0-9:][A-Za-z0-9.:-]*)?$"
ENGINE_NAME_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$"
DEVICES_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9_.+-]*( [A-Za-z0-9][A-Za-z0-9_.+-]*)*)?$"
USER_PATTERN = r"^[a-z_][a-z0-9_-]{0,31}$"
MACHINE_ADDRESS_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4_PATTERN = rf"^({_OCTET}\.){{3}}{_OCTET}$"
CIDR_PATTERN = rf"^({_OCTET}\.){{3}}{_OCTET}/(3[0-2]|[12]?[0-9])$"
VM_NETWORK_PATTERN = rf"^({_OCTET}\.){{3}}{_OCTET}/(2[0-7]|1[6-9])$"

VARIABLE_PATTERN = r"^(var\.[a-z][A-Za-z0-9]{0,30}|[a-z][A-Za-z0-9]*(\.[A-Za-z0-9_-]+|\[[0-9]+\])+)$"
END_PATTERN = r"^(\$[a-z][A-Za-z0-9]{0,30}|[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?(@[a-z0-9-]{1,40})?)$"
FILE_PATTERN = r"^[a-z0-9][a-z0-9-]{0,50}\.yaml$"
CLASS_PATTERN = r"^[a-z][a-z0-9-]{0,14}[a-z0-9]$"
STUDENT_PATTERN = r"^[a-z][a-z0-9]{0,15}$"
"""No hyphen: a student's labs are all those whose names begin with `STUDENT-`, and nobody else's do."""


class Section(BaseModel):
    """Types are exact, unknown keys are errors, keys are camelCase. A model is made ready when it is first used."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, alias_generator=to_camel, defer_build=True)
