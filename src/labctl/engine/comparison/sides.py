"""The sides of a comparison: a lab each with a name that does not clash, or one lab on which they take turns.

Whether they take turns, why, the switch from one to the next, and in which mode a lab is left are here; in which order
they do is `compare/order.py`'s, and proving and measuring are `measure.py`'s.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from labctl.engine.events import BuildDone, BuildStarted, Observer, StepDone, StepStarted
from labctl.errors import UsageError
from labctl.model.comparison import Side
from labctl.model.lab import Lab, Strategy
from labctl.names import is_name
from labctl.providers.base import Provider
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """`statement` is what a reader of the report must know; empty where nothing was to be chosen."""

    takes_turns: bool
    statement: str = ""


SIDE_BY_SIDE = Turns(takes_turns=False)
_PROBE = "switched"


def choose(labs: Sequence[Lab], providers: Mapping[str, Provider], asked: Strategy = Strategy.AUTO) -> Turns:
    """Raises UsageError when turns are asked for, on the command line or in the scenario, and are impossible."""
    names = {lab.provider for lab in labs}
    provider = providers[labs[0].provider]
    switching = provider.capabilities.switching
    if len(names) > 1 or switching is None:
        if asked is Strategy.SWITCH:
            raise UsageError(
                what="--strategy switch cannot be had here",
                cause=f"the scenarios have different providers: {', '.join(sorted(names))}"
                if len(names) > 1
                else f"the provider {provider.name} cannot change the datapath of a lab that is up",
                remedy="leave it out: the labs are then built side by side",
            )
        return SIDE_BY_SIDE
    if asked is Strategy.PARALLEL:
        return _parallel("--strategy parallel was asked for")
    if asked is Strategy.SWITCH:
        because, is_asked = "--strategy switch was asked for", True
    else:
        choice = switching.strategy(labs[0], sides=len(labs))
        if not choice.switches:
            return _parallel(choice.because)
        because, is_asked = choice.because, choice.is_asked
    # A switch is possible from every side to the next when the labs differ in their datapath alone.
    as_one = [replace(lab, name=_PROBE) for lab in labs]
    try:
        for before, after in pairwise(as_one):
            switching.switch(before, after)
    except UsageError as refusal:
        if is_asked:
            raise
        return _parallel(f"{because}; but {refusal.what}: {refusal.cause}")
    return Turns(
        takes_turns=True,
        statement=f"the sides took turns on one lab that was switched between them (strategy switch: {because})",
    )


def _parallel(because: str) -> Turns:
    return Turns(takes_turns=False, statement=f"the labs stood side by side (strategy parallel: {because})")


def switch(provider: Provider, before: Lab, after: Lab, observer: Observer) -> None:
    """Changes the datapath of a lab that is up. Nothing is undone when that fails: the caller that built the lab
    removes it.

    Raises UsageError when this provider cannot, StepFailed when a step fails.
    """
    switching = provider.capabilities.switching
    if switching is None:
        raise UsageError(what=f"the provider {provider.name} cannot change the datapath of a lab that is up")
    plan = switching.switch(before, after)
    begun = time.monotonic()
    observer(BuildStarted(lab=after.name, steps=len(plan.steps)))
    with provider.executor(after) as executor:
        for number, step in enumerate(plan.steps, start=1):
            observer(StepStarted(lab=after.name, id=step.id, title=step.title, number=number, steps=len(plan.steps)))
            step_begun = time.monotonic()
            executor.execute(step.actions)
            observer(StepDone(lab=after.name, id=step.id, title=step.title, duration_s=time.monotonic() - step_begun))
        # From here on the lab is the other one, also for later commands.
        executor.finish(after)
    observer(BuildDone(lab=after.name, duration_s=time.monotonic() - begun))


def mode_in_words(side: LabSide) -> str:
    """What the side asks of the datapath: `hostRouting bpf, encapsulation vxlan, …`."""
    asked = side.lab.datapath.asked()
    words = (f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in asked.items())
    return ", ".join(words) or "whatever is in force"


KEYS = "abcdefghijklmnopqrstuvwxyz"
# names.NAME_PATTERN allows 40 characters; the rest is for `-a-3fa9`.
SCENARIO_IN_NAME = 30
LONGEST_NAME = 33
_TOKEN = re.compile(r"[0-9a-f]{4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSide:
    """One side: its key (`a`, `b`, …), the lab that will be built for it, and who builds it."""

    key: str
    lab: Lab
    provider: Provider
    statements: tuple[str, ...] = ()
    """What a reader must know beyond what the provider says."""

    @property
    def title(self) -> str:
        return f"side {self.key} ({self.lab.scenario})"

    @property
    def look_again(self) -> str:
        """The commands that build this side by itself and show its evidence."""
        source = self.lab.source or self.lab.scenario
        return f"labctl up {source} --name look && labctl status look"

    def described(self) -> Side:
        """The side as reports show it."""
        return Side(
            key=self.key,
            scenario=self.lab.scenario,
            lab=self.lab.name,
            provider=self.lab.provider,
            digest=self.lab.digest,
            datapath=self.lab.asked(),
            source=self.lab.source,
            statements=(*self.provider.statements(self.lab), *self.statements),
        )


def sides_of(
    labs: Sequence[Lab], providers: Mapping[str, Provider], token: str, turns: Turns = SIDE_BY_SIDE, *, name: str = ""
) -> tuple[LabSide, ...]:
    """The sides in the order given. `token` makes the labs' names the run's own, so that a comparison never meets
    a lab that is up already. Sides that take turns are one lab, and have one name. With `name` the labs' names begin
    with it. Raises UsageError when they cannot."""
    if name and (not is_name(name) or len(name) > LONGEST_NAME):
        raise UsageError(
            what=f"the labs of a comparison cannot be called {name[:60]!r}",
            cause=f"names have lower-case letters, digits and hyphens; this one at most {LONGEST_NAME} characters, "
            f"since the labs are called NAME-a-{token}, NAME-b-{token}, …",
            remedy="choose another: --name my-comparison",
        )

    return tuple(
        LabSide(
            key=key,
            lab=replace(lab, name=_lab_name(name, key, lab, token, takes_turns=turns.takes_turns)),
            provider=providers[lab.provider],
            statements=(turns.statement,) if turns.statement else (),
        )
        for key, lab in zip(KEYS, labs, strict=False)
    )


def _lab_name(name: str, key: str, lab: Lab, token: str, *, takes_turns: bool) -> str:
    if takes_turns:
        return f"{name or 'in-turns'}-{token}"
    return f"{name or lab.scenario[:SCENARIO_IN_NAME].rstrip('-')}-{key}-{token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftLab:
    """A lab that is still up after a comparison: kept, or not removed. It is in the mode of that side, unless it was
    being switched to another scenario when the comparison ended."""

    lab: str
    provider: str
    side: str
    scenario: str
    mode: Mapping[str, object]
    is_kept: bool
    switching_to: str = ""

    def record(self) -> dict[str, object]:
        return {
            "lab": self.lab,
            "provider": self.provider,
            "kept": self.is_kept,
            "side": None if self.switching_to else self.side,
            "scenario": None if self.switching_to else self.scenario,
            "mode": None if self.switching_to else dict(self.mode),
            "switchedFrom": self.scenario if self.switching_to else None,
            "switchedTo": self.switching_to or None,
        }


def left_text(left: LeftLab) -> str:
    """In which mode it is left, as a sentence."""
    if left.switching_to:
        return (
            f"lab {left.lab} is left in the middle of a switch from {left.scenario} to {left.switching_to}: which mode "
            f"is in force is not known; labctl status {left.lab}  # proves it"
        )
    said = ", ".join(f"{key} {value}" for key, value in left.mode.items())
    return f"lab {left.lab} is left in the mode of side {left.side} ({left.scenario}): {said}"


def require_own_names(labs: Mapping[str, Lab], token: str, *, takes_turns: bool) -> None:
    """Raises UsageError when the labs of a stored comparison, by side, have other names than `sides_of` would have
    given them: what is built and removed under them would be another lab."""
    first, *_ = labs
    end = f"-{token}" if takes_turns else f"-{first}-{token}"
    name = labs[first].name.removesuffix(end)
    for given in ("", name if is_name(name) and len(name) <= LONGEST_NAME else ""):
        if _TOKEN.fullmatch(token) and all(
            lab.name == _lab_name(given, key, lab, token, takes_turns=takes_turns) for key, lab in labs.items()
        ):
            return
    raise UsageError(
        what="the run names labs that are not its own",
        cause=f"{', '.join(lab.name for lab in labs.values())}: labctl calls the labs of this comparison "
        f"{'NAME' if takes_turns else 'NAME-a'}-{token[:40] or 'TOKEN'}, …; the run was written by hand",
        remedy="measure again: labctl compare A B",
    )
