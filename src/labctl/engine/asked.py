"""What a comparison was asked: everything that is decided before anything is built, as it stands in the run's manifest.

Together with the journal this gives the result again, and lets a run that was cut short go on as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labctl.compare.order import Schedule, WorkItem, schedule
from labctl.compare.sequential import confidence_at
from labctl.compare.statistics import CONFIDENCE
from labctl.model.comparison import CheckMetrics, Look, Side, Stopping
from labctl.model.lab import Pair, Placement
from labctl.model.parameters import CompareParameters
from labctl.store.decoding import typed
from labctl.store.encoding import plain

SETTING = "asked"


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
