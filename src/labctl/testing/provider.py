"""A provider whose world is a list: what its plan made and has not taken back. It can fail or be stopped anywhere.

provider = ScriptedProvider(fails={"make node1-address": StepFailed("the kernel refused")})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import field, replace

from labctl.model.lab import Lab
from labctl.model.plan import Action, Plan, Step
from labctl.providers.base import Capabilities, Executor, OpenLab, Probe, RunningLab
from labctl.values import dataclass

TITLES = ("underlay", "node1", "node2", "record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Make:
    """Puts `thing` into the world, or takes it out; taking out what is not there is no error."""

    thing: str
    undo: bool = False

    def shell(self) -> str:
        return f"{'remove' if self.undo else 'make'} {self.thing}"

    def record(self) -> Mapping[str, object]:
        return {"kind": "Make", "thing": self.thing, "undo": self.undo}


def step(title: str) -> Step:
    """Two acts, so that a step can stop half done, and their undo in reverse."""
    things = (f"{title}-link", f"{title}-address")
    return Step(
        id=title,
        title=title,
        actions=tuple(Make(thing=thing) for thing in things),
        undo=tuple(Make(thing=thing, undo=True) for thing in reversed(things)),
    )


@dataclass(slots=True, kw_only=True)
class ScriptedProvider:
    """A provider and its executor. `fails` are raised when that act is reached (by its shell text); `log` has every
    act in order."""

    name: str = "scripted"
    statement: str = "Nothing is built."
    things: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    fails: dict[str, BaseException] = field(default_factory=dict)
    running: list[RunningLab] = field(default_factory=list)
    is_resumable: bool = False
    refused: Exception | None = None
    """What `executor` and `discover` raise instead of working."""
    lacking: tuple[Probe, ...] = ()
    capabilities: Capabilities = field(default_factory=Capabilities)
    open_lab: OpenLab | None = None

    def statements(self, lab: Lab) -> tuple[str, ...]:
        return (self.statement,)

    def probes(self) -> Iterator[Probe]:
        return iter(self.lacking)

    def refuse(self, lab: Lab) -> None:
        """It can build every lab."""

    def plan(self, lab: Lab) -> Plan:
        return Plan(lab=lab.name, provider=self.name, steps=tuple(map(step, TITLES)), is_resumable=self.is_resumable)

    @contextmanager
    def _executor(self) -> Iterator[Executor]:
        if self.refused is not None:
            raise self.refused
        try:
            yield self
        finally:
            self.log.append("closed")

    def executor(self, lab: Lab) -> AbstractContextManager[Executor]:
        return self._executor()

    def execute(self, actions: Sequence[Action]) -> None:
        for action in actions:
            assert isinstance(action, Make)
            self._act(action.shell())
            if not action.undo:
                self.things.append(action.thing)
            elif action.thing in self.things:
                self.things.remove(action.thing)

    def finish(self, lab: Lab) -> None:
        self._act("finish")

    def discover(self, name: str | None = None) -> tuple[RunningLab, ...]:
        if self.refused is not None:
            raise self.refused
        return tuple(lab for lab in self.running if name in (None, lab.name))

    def teardown(self, name: str) -> None:
        self._act(f"teardown {name}")
        self.things.clear()
        self.running = [lab for lab in self.running if lab.name != name]

    def open(self, lab: Lab) -> AbstractContextManager[OpenLab]:
        assert self.open_lab is not None, "the script has no open lab"
        return nullcontext(self.open_lab)

    def _act(self, what: str) -> None:
        self.log.append(what)
        if what in self.fails:
            raise self.fails[what]


def acts() -> tuple[str, ...]:
    """Every act of building, in order, and the end."""
    return (*(action.shell() for title in TITLES for action in step(title).actions), "finish")


def running_lab(of: Lab, **changes: object) -> RunningLab:
    whole = RunningLab(name=of.name, provider="scripted", scenario=of.scenario, digest=of.digest, is_whole=True, lab=of)
    return replace(whole, **changes)  # type: ignore[arg-type]
