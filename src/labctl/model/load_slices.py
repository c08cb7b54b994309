"""What the slices of one run of the load program come to, read from its file again. Pure data.

Base units throughout. A slice that was measured again counts as repeated; times are those of all round trips.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from labctl.codec import NULL, Key
from labctl.model.lab import Placement
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceKind:
    """All slices of one kind of load. `argument` is the number of streams, or of requests a second; a stream has no
    round trips. `waited_share` is the share of the slices' time in which the ends stood in a run queue."""

    kind: str
    argument: int
    slices: int
    repeated: int
    operations: int
    duration_s: float
    byte: int
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    p999_s: float | None
    longest_s: float | None
    cpu_s: float
    waited_share: float
    resent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicesOfRun:
    """One check run's file. `differs` is what the file gives otherwise than the run's record has it; empty where both
    say the same to the last bit. `unread` is why the file could not be read: then there are no kinds."""

    block: int
    side: str
    check: str
    client: str
    server: str
    placement: Placement
    file: str
    conditions: Mapping[str, object]
    kinds: tuple[SliceKind, ...]
    differs: Annotated[str, NULL] = ""
    unread: Annotated[str, Key("unread"), NULL] = ""

    @property
    def is_as_recorded(self) -> bool:
        return not self.differs and not self.unread
