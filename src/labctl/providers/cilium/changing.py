"""What a person may change in a running lab on a cluster: faults of its nodes. `Changing` of the provider seam.

The record stands beside the lab's own. What a killed command had begun is healed by the next one. Links, nodes and
impairments are the engine's, the machines' or the cluster's matter, and are refused in words.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from labctl.codec import json_document, typed
from labctl.errors import LabError, StepFailed, UsageError
from labctl.faults.clusters import CLUSTER_FAULTS
from labctl.faults.table import chosen, repairs
from labctl.json_text import parse_json
from labctl.model.changes import NOTHING, Broken, ChangeKind, Changes, Pending
from labctl.model.fault import Command, FaultAct, FaultSite, FaultText
from labctl.model.lab import Lab, Pair
from labctl.providers.base import Target
from labctl.providers.cilium.commands import LabFiles, read_state, write_private
from labctl.system import files, locks
from labctl.system.signals import uninterrupted
from labctl.values import dataclass

if TYPE_CHECKING:
    from labctl.model.changes import Power
    from labctl.model.impairment import Impairment
    from labctl.model.links import LinkState

_ACT_S = 120.0
_TURN_S = 10.0
_FILE = "changes.json"
Nodes = Callable[[str], Target]
"""The way into a node, by the scenario's name for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterChanging:
    """`nodes` opens the ways into a lab's nodes; `elsewhere` says by which tool links and nodes are changed there."""

    provider: str
    elsewhere: str
    files: Callable[[str], LabFiles]
    nodes: Callable[[Lab], AbstractContextManager[Nodes]]

    def changes(self, lab: Lab) -> Changes:
        """Nothing where there is no record, or one that cannot be read."""
        path = self._path(lab)
        try:
            return typed(Changes, parse_json(read_state(path) or "{}"), where=str(path))
        except (ValueError, UsageError):
            return NOTHING

    def settle(self, lab: Lab) -> tuple[str, ...]:
        finished = []
        for act in self.changes(lab).pending:
            with locks.held(self._lock(lab), timeout_s=0) as is_mine:
                if is_mine:
                    self._carry_out(lab, repairs(lab, (act.name,), CLUSTER_FAULTS))
                    self._update(lab, lambda changes, act=act: changes.without(act).ended(act))  # type: ignore[misc]
                    finished.append(str(act))
        return tuple(finished)

    def faults(self, lab: Lab) -> tuple[tuple[FaultText, str], ...]:
        return tuple((entry.text, entry.unfit(lab)) for entry in CLUSTER_FAULTS)

    def break_(self, lab: Lab, name: str, *, seed: int | None, is_hidden: bool) -> tuple[FaultText, FaultSite]:
        entry = chosen(lab, name, seed, CLUSTER_FAULTS)
        site, act = entry.site(lab, seed), Pending(kind=ChangeKind.FAULT, name=entry.name)
        with self._turn(lab):
            if not is_hidden:
                broken = Broken(fault=entry.name, where=site.where, seed=seed)
                self._update(lab, lambda changes: changes.begun(act).with_fault(broken))
            try:
                with uninterrupted():
                    self._carry_out(lab, site.breaks)
            except BaseException:
                with contextlib.suppress(LabError):
                    self._carry_out(lab, site.mends)
                self._update(lab, lambda changes: changes.without(act).ended(act))
                raise
            self._update(lab, lambda changes: changes.ended(act))
        return entry.text, site

    def mend(self, lab: Lab, name: str | None) -> tuple[str, ...]:
        """A program that runs is started without effect: what mends one of these faults mends the other as well."""
        if name is not None:
            chosen(lab, name, None, CLUSTER_FAULTS)
        recorded = tuple(one.fault for one in self.changes(lab).faults)
        with self._turn(lab):
            self._carry_out(lab, repairs(lab, () if name is None else (name,), CLUSTER_FAULTS))
            self._update(lab, lambda changes: _without_faults(changes, recorded))
        return recorded

    def differing(self, lab: Lab, pair: Pair, parts: Sequence[str]) -> tuple[str, ...]:
        """What of a cluster is not as planned `labctl diff` asks; a trace does not."""
        del lab, pair, parts
        return ()

    def restore(self, lab: Lab, changes: Changes) -> tuple[tuple[str, LabError], ...]:
        """Labs on clusters are not brought back after a boot: nothing asks for this."""
        del lab
        assert changes == NOTHING
        return ()

    def links(self, lab: Lab) -> tuple[LinkState, ...]:
        self._refuse(lab, "links")

    def set_link(self, lab: Lab, names: Sequence[str], *, is_up: bool) -> str:
        del names, is_up
        self._refuse(lab, "links")

    def flap(
        self,
        lab: Lab,
        names: Sequence[str],
        *,
        every_s: float,
        for_s: float,
        stopped: Callable[[], bool],
        tell: Callable[[bool], None],
    ) -> int:
        del names, every_s, for_s, stopped, tell
        self._refuse(lab, "links")

    def set_node(self, lab: Lab, name: str, power: Power) -> tuple[str, ...]:
        del name, power
        self._refuse(lab, "nodes")

    def impairments(self, lab: Lab) -> Mapping[str, Impairment]:
        """None can be set here, nor be asked for by a scenario."""
        del lab
        return {}

    def impair(self, lab: Lab, names: Sequence[str], asked: Impairment | None) -> str:
        del names, asked
        self._refuse(lab, "impairments")

    def impaired(self, lab: Lab, names: Sequence[str], asked: Impairment) -> AbstractContextManager[str]:
        del names, asked
        self._refuse(lab, "impairments")

    def _refuse(self, lab: Lab, what: str) -> NoReturn:
        raise UsageError(
            what=f"labctl does not change {what} of running labs of the provider {self.provider}",
            cause=f"of lab {lab.name} it changes faults alone (labctl break {lab.name}); {self.elsewhere}",
            remedy="a lab of the provider netns: labctl up SCENARIO --provider netns",
        )

    def _carry_out(self, lab: Lab, acts: Iterable[FaultAct]) -> None:
        with self.nodes(lab) as node:
            for act in acts:
                if not isinstance(act, Command):
                    raise TypeError(f"a fault of a cluster has no way to carry out {type(act).__name__}")
                target = node(act.part)
                done = target.run(act.argv, timeout_s=_ACT_S)
                if (done.returncode != 0 or done.timed_out) and not act.may_fail:
                    raise StepFailed(
                        what=f"{act.part}: {shlex.join(act.argv)} failed",
                        cause=done.error_text.strip()[-300:] or f"it ended with status {done.returncode}",
                        remedy=shlex.join(target.command(act.argv)),
                    )

    @contextlib.contextmanager
    def _turn(self, lab: Lab) -> Iterator[None]:
        with locks.held(self._lock(lab), timeout_s=_TURN_S) as is_mine:
            if not is_mine:
                raise UsageError(what=f"the lab {lab.name} is being changed by another labctl right now")
            yield

    def _update(self, lab: Lab, change: Callable[[Changes], Changes]) -> None:
        changed, path = change(self.changes(lab)), self._path(lab)
        if changed == NOTHING:
            files.remove_own(path)
        elif path.parent.is_dir():  # else the lab was removed meanwhile
            write_private(path, json_document(changed).decode())

    def _path(self, lab: Lab) -> Path:
        return self.files(lab.name).record.with_name(_FILE)

    def _lock(self, lab: Lab) -> str:
        return f"change-{self.provider}-{lab.name}"


def _without_faults(changes: Changes, names: Iterable[str]) -> Changes:
    for name in names:
        changes = changes.without_fault(name)
    return changes
