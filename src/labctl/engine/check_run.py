"""One `labctl check`: the mode proven first, then every check on every pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from labctl.checks.base import Check, RawSink
from labctl.codec import plain
from labctl.engine.events import Observer
from labctl.engine.prove import prove
from labctl.engine.run_checks import run_checks
from labctl.model.evidence import ModeInForce
from labctl.model.lab import CheckSpec
from labctl.model.result import CheckResult
from labctl.providers.base import OpenLab
from labctl.values import dataclass

PROVEN = "mode"
CHECKED = "check"


class Journal(Protocol):
    """The run on disk as the engine sees it."""

    def sink(self, name: str) -> RawSink:
        """The place for the raw files of one check run."""
        ...

    def record(self, kind: str, content: Mapping[str, object]) -> None:
        """Appends one entry to the run's journal."""
        ...

    def sync(self) -> None:
        """Syncs everything so far to the disk."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    mode: ModeInForce
    results: tuple[CheckResult, ...]


def check_lab(
    checks: Mapping[str, Check], open_lab: OpenLab, specs: Sequence[CheckSpec], journal: Journal, observer: Observer
) -> Checked:
    """Checks go on when the mode is not the one asked for: what the network does is still worth knowing."""
    proven = prove(checks, open_lab, journal.sink, observer)
    journal.record(PROVEN, {"mode": plain(proven.mode)})
    results = []
    for result in run_checks(checks, open_lab, specs, open_lab.lab.pairs, journal.sink, observer):
        journal.record(CHECKED, {"result": plain(result)})
        results.append(result)
    return Checked(mode=proven.mode, results=tuple(results))
