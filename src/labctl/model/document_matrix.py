"""What may stand in a matrix file: which scenarios are measured against the first, with which checks and placements."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Field, StringConstraints

from labctl.model.document import REFERENCE_PATTERN, Name
from labctl.model.lab import Placement
from labctl.model.parameters import Seconds
from labctl.model.section import Section

MATRIX = "Matrix"

Reference = Annotated[str, StringConstraints(pattern=REFERENCE_PATTERN)]
Rounds = Annotated[int, Ge(1), Le(10_000)]


class MatrixDocument(Section):
    """A labctl matrix: scenarios, checks and placements that are measured in the same interleaved blocks."""

    api_version: Literal["labctl/v1"] = Field(description="The version of the file format.")
    kind: Literal["Matrix"] = Field(description="What the file is.")
    name: Name | None = Field(None, description="The matrix's name. Without it, the file's name is used.")
    scenarios: Annotated[tuple[Reference, ...], Field(min_length=2, max_length=26)] = Field(
        description="Names, or paths ending in .yaml. Each one is compared with the first."
    )
    checks: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        None, description="Names of the checks that a block runs. Default: compare.checks of the first scenario."
    )
    placements: Annotated[tuple[Placement, ...], Field(min_length=1)] | None = Field(
        None, description="Only pairs that are placed so. Default: all pairs that every scenario has."
    )
    rounds: Rounds | None = Field(None, description="How many blocks. Default: compare.rounds of the first scenario.")
    duration_s: Seconds | None = Field(None, description="Seconds of every check that has a duration.")
    seed: Annotated[int, Ge(0)] | None = Field(
        None, description="Decides the order of the runs. Default: a new one, recorded."
    )
    until_percent: Annotated[float, Gt(0), Le(100)] | None = Field(
        None, description="Go on until every primary interval is within so many percent."
    )
    max_rounds: Rounds | None = Field(None, description="With untilPercent: at most so many blocks.")
    reference: bool | None = Field(None, description="Measure between the nodes too: the limit that the wire sets.")
    fail_if: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Thresholds, as with --fail-if: cross-node rtt_p50 > +5%."
    )
