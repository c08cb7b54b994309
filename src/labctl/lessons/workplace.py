"""The lab of a lesson: built, looked at, broken and brought back, through the seams of its provider.

A fault goes into the running lab and nowhere else: no record, digest or command line has it. Which namespaces were
there when it went in is remembered, so that a lab that was built again is not taken for a repaired one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.checks.base import Check
from labctl.engine.build import build, find, remove, require_host
from labctl.engine.events import Observer
from labctl.errors import StepFailed, UsageError
from labctl.model.lab import NETNS, Lab, Pair, Scenario
from labctl.names import UNDERLAY, namespace_of
from labctl.providers.base import Changing, Provider
from labctl.system import netns

if TYPE_CHECKING:
    from labctl.facts.readings import Readings


class Workplace:
    """One lab by its name. `lab` is what it is meant to be as long as no task changed it."""

    def __init__(
        self,
        lab: Lab,
        provider: Callable[[], Provider],
        checks: Callable[[], Mapping[str, Check]],
        observer: Observer,
        overrides: Sequence[str],
    ) -> None:
        """`overrides` are what made the lab of its scenario."""
        self.lab, self.overrides = lab, tuple(overrides)
        self._provider = provider
        self._checks, self._observer = checks, observer

    @cached_property
    def provider(self) -> Provider:
        """Loaded when the lab is looked at: a prediction and a text need none."""
        return self._provider()

    @property
    def name(self) -> str:
        return self.lab.name

    def standing(self) -> Lab | None:
        """The lab as its own record has it, whatever a fault or a student changed in it; None where it is not up, or
        cannot be looked at."""
        from labctl.engine.apply import complete

        found = find([self.provider], self.name)
        if found is None or found.running.lab is None or not (found.running.is_whole or found.running.can_be_opened):
            return None
        return complete(self.provider, found.running.lab, self._observer) or found.running.lab

    def is_whole(self) -> bool:
        """Whether nothing of it is missing: a build that was cut off may leave a lab that can be looked at."""
        found = find([self.provider], self.name)
        return found is not None and found.running.is_whole

    def build(self) -> None:
        """What is left of an earlier one goes first."""
        require_host(self.provider, self.lab)
        if find([self.provider], self.name) is not None:
            remove(self.provider, self.name, self._observer)
        build(self.provider, self.lab, self._observer)

    def remove(self) -> None:
        """With what `labctl up --apply` keeps of it, as `labctl down` does."""
        remove(self.provider, self.name, self._observer)
        if (keeping := self.provider.capabilities.keeping) is not None:
            keeping.forget(self.name)

    @contextlib.contextmanager
    def readings(self, lab: Lab) -> Iterator[Readings]:
        """A look at the lab as it is now."""
        from labctl.facts.readings import Readings  # with every check: not for those who only reset

        changing = self.provider.capabilities.changing

        def differing(pair: Pair) -> Callable[[Sequence[str]], tuple[str, ...]]:
            return lambda parts: () if changing is None else changing.differing(lab, pair, parts)

        with self.provider.open(lab) as open_lab:
            yield Readings(open_lab, self._checks(), differing)

    def break_(self, lab: Lab, fault: str) -> None:
        self._changing().break_(lab, fault, seed=None, is_hidden=True)

    def restore(self) -> None:
        """As it was built: no fault, no change, and the scenario that it was begun with."""
        from labctl.engine.apply import apply
        from labctl.engine.mend import mend

        standing = self.standing()
        if standing is None:
            self.build()
            return
        changing = self.provider.capabilities.changing
        if changing is not None:
            changing.settle(standing)
        if standing.digest != self.lab.digest:
            apply(self.provider, standing, self.lab, self._observer)
            standing = self.lab
        mend(self.provider, standing, self._observer)

    def places(self) -> dict[str, str]:
        """By namespace of the lab, what the kernel knows it by; nothing for providers whose labs have none here."""
        if self.lab.provider != NETNS:
            return {}
        lab = self.lab
        parts = (UNDERLAY, *(node.name for node in lab.nodes), *(pod.name for pod in lab.pods))
        keys = {part: netns.key_of(namespace_of(self.name, part)) for part in parts}
        return {part: f"{key[0]}:{key[1]}" for part, key in keys.items() if key is not None}

    def _changing(self) -> Changing:
        if (changing := self.provider.capabilities.changing) is not None:
            return changing
        raise UsageError(
            what=f"labs of the provider {self.provider.name} cannot be broken for a lesson",
            remedy="a lesson with the provider netns",
        )


class SharedWorkplace(Workplace):
    """A lab of the trainer's on a real cluster. A lesson looks at it, and neither builds nor changes nor removes it."""

    def standing(self) -> Lab | None:
        found = find([self.provider], self.name)
        return found.running.lab if found is not None and found.running.is_whole else None

    def build(self) -> None:
        raise not_standing(self.name)

    def remove(self) -> None:
        return None

    def restore(self) -> None:
        return None

    def break_(self, lab: Lab, fault: str) -> None:
        raise UsageError(
            what=f"lab {self.name} is the trainer's: nothing is broken in it",
            cause="all students of the class look at it",
            remedy="a lesson that only predicts and observes",
        )


def not_standing(name: str) -> StepFailed:
    return StepFailed(
        what=f"lab {name} of the trainer's is not up",
        cause="the lesson looks at it, and builds no lab of its own",
        remedy=f"ask the trainer, who sees it with: labctl status {name}",
    )


def shared_lab(name: str, provider: Provider) -> Lab:
    """The trainer's lab of that name as it is. Raises StepFailed."""
    found = find([provider], name)
    if found is None or not found.running.is_whole or found.running.lab is None:
        raise not_standing(name)
    return found.running.lab


def lab_for(
    scenario: str | Path,
    name: str,
    overrides: Sequence[str],
    refuse: Callable[[Scenario], None],
    *,
    trust: bool = False,
) -> Lab:
    """The lab that a lesson builds. Raises ScenarioInvalid, UsageError."""
    from labctl.loading import load_scenario
    from labctl.planning.resolve import resolve

    return resolve(load_scenario(scenario, overrides=overrides, lab_name=name, refuse=refuse, trust=trust), name=name)


def require_up(lab: Lab | None, lesson: str) -> Lab:
    if lab is not None:
        return lab
    raise StepFailed(
        what=f"the lab of lesson {lesson} is not up, or not in one piece",
        cause="it was removed, or the host was restarted",
        remedy=f"labctl lesson start {lesson}  # builds it again; what was passed stays passed",
    )
