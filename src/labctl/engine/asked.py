"""What a comparison was asked: everything that is decided before anything is built, as it stands in the run's manifest.

Together with the journal this gives the result again, and lets a run that was cut short go on as if nothing had been.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from labctl.compare.order import Schedule, WorkItem, schedule
from labctl.compare.sequential import confidence_at
from labctl.compare.statistics import CONFIDENCE
from labctl.model.comparison import CheckMetrics, Look, Side, Stopping
from labctl.model.lab import Pair, Placement
from labctl.model.parameters import CompareParameters
from labctl.names import is_name
from labctl.store.decoding import typed
from labctl.store.encoding import plain

SETTING = "asked"
MOST_ROUNDS = 10_000
MOST_WORK = 10_000
MOST_RUNS = 1_000_000
"""The schedule of a comparison is made in memory: what a run on disk asks for has to fit there."""

_TOKEN = re.compile(r"[a-z0-9]{0,40}")
_KEY = re.compile(r"[a-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The order follows from `sides`, `work`, `rounds`, `seed`, `rebuilds`, `together` and `takes_turns` alone.

    `token` is in the names of the labs. `references` are pairs of nodes whose runs show the physical limit. With
    `until` the comparison may end at one of `looks`, before `rounds`.
    """

    sides: tuple[Side, ...]
    token: str
    seed: int
    rounds: int
    rebuilds: int
    work: tuple[WorkItem, ...]
    together: tuple[str, ...]
    checks: tuple[CheckMetrics, ...]
    parameters: CompareParameters
    references: tuple[Reference, ...] = ()
    until: float | None = None
    looks: tuple[Look, ...] = ()
    fail_if: tuple[str, ...] = ()
    takes_turns: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for what no command line could have asked: a run on disk may say anything."""
        keys = [side.key for side in self.sides]
        if not all(map(_KEY.fullmatch, keys)) or len(set(keys)) != len(keys) or len(keys) < 2:
            raise ValueError(f"its sides are {', '.join(key[:20] for key in keys)}, not a, b, …")
        if not _TOKEN.fullmatch(self.token):
            raise ValueError("its token cannot be part of a lab's name")
        if not all(is_name(side.lab) or not side.lab for side in self.sides):
            raise ValueError("a side has a lab whose name cannot be one")
        runs = self.rounds * len(self.work) * len(self.sides)
        if not 1 <= self.rounds <= MOST_ROUNDS or len(self.work) > MOST_WORK or runs > MOST_RUNS:
            raise ValueError(f"it asks for {self.rounds:,} rounds of {len(self.work):,} runs a side")
        if not 0 <= self.rebuilds <= self.rounds:
            raise ValueError(f"it asks for {self.rebuilds:,} rebuilds in {self.rounds:,} rounds")

    def schedule(self) -> Schedule:
        return schedule(
            [side.key for side in self.sides],
            self.work,
            self.rounds,
            self.seed,
            rebuilds=self.rebuilds,
            together=self.together,
            takes_turns=self.takes_turns,
        )

    def confidence(self, blocks: int) -> float:
        """The level of the intervals after that many blocks."""
        return confidence_at(self.looks, blocks) if self.looks else CONFIDENCE

    def stopping(self, blocks: int) -> Stopping | None:
        if self.until is None:
            return None
        return Stopping(until=self.until, looks=self.looks, after=blocks, half_width=None)

    def limits(self) -> Mapping[tuple[str, str], tuple[str, str]]:
        """The two nodes between which the limit of a pair was measured, by client and server."""
        return {(each.client, each.server): (each.client_node, each.server_node) for each in self.references}

    def settings(self) -> dict[str, object]:
        """For the manifest: the same for programs, and the order for people."""
        order = self.schedule().text()
        return {"seed": self.seed, "rounds": self.rounds, "order": order, SETTING: plain(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The physical limit of a pair: the same checks between the nodes that its pods are on."""

    client: str
    server: str
    client_node: str
    server_node: str

    def pair(self) -> Pair:
        return Pair(client=self.client_node, server=self.server_node, placement=Placement.CROSS_NODE)


def asked_from(settings: Mapping[str, object], where: str) -> Asked:
    """The inverse of `Asked.settings`. Raises LabError when it was written by another version, or changed."""
    return typed(Asked, settings.get(SETTING), where=where)
