"""What providers tell from within steps reaches whoever listens to the engine; those that tell nothing need not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from labctl.engine.build import build, remove
from labctl.engine.events import Event, Working
from labctl.providers.base import Capabilities, Executor, Tell
from labctl.testing.labs import example_lab
from labctl.testing.provider import ScriptedProvider

LAB = example_lab()


@dataclass(slots=True, kw_only=True)
class Teller(ScriptedProvider):
    """Tells one act of building and one of teardown, while anybody listens."""

    tell: Tell | None = None

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(telling=self.telling)

    @contextmanager
    def telling(self, tell: Tell) -> Iterator[None]:
        self.tell = tell
        try:
            yield
        finally:
            self.tell = None

    @contextmanager
    def _executor(self) -> Iterator[Executor]:
        assert self.tell is not None
        self.tell("Load", None)
        self.tell("Load", 2.5)
        yield self

    def teardown(self, name: str) -> None:
        assert self.tell is not None
        self.tell("Reset", None)


def working(events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, Working)]


def test_what_a_provider_does_within_steps_is_heard_while_it_builds() -> None:
    events: list[Event] = []
    world = Teller()
    build(world, LAB, events.append)
    assert working(events) == [
        Working(lab="example", text="Load"), Working(lab="example", text="Load", duration_s=2.5),
    ]  # fmt: skip
    assert world.tell is None


def test_it_is_heard_while_a_lab_is_removed() -> None:
    events: list[Event] = []
    remove(Teller(), "example", events.append)
    assert working(events) == [Working(lab="example", text="Reset")]


def test_a_provider_that_tells_nothing_is_built_all_the_same() -> None:
    events: list[Event] = []
    build(ScriptedProvider(), LAB, events.append)
    assert working(events) == []
