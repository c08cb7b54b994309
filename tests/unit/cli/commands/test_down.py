"""`labctl down` of a lab that this host has no record of, and other machines remember."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from labctl import app
from labctl.cli import group
from labctl.model.changes import NOTHING
from labctl.providers.base import Capabilities, RunningLab
from labctl.providers.netns import kept
from labctl.providers.netns.kept import NetnsKeeping
from labctl.testing.labs import example_lab
from labctl.testing.provider import ScriptedProvider, running_lab


@dataclass(slots=True, kw_only=True)
class Seeker(ScriptedProvider):
    """Has no lab on record; its machines carry the mark of the lab `remembered`."""

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(seek=self.seek)

    def seek(self, name: str) -> RunningLab | None:
        self.log.append(f"seek {name}")
        found = replace(running_lab(example_lab()), name="remembered", is_whole=False, lab=None)
        return found if name == "remembered" else None


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Seeker:
    seeker = Seeker()
    monkeypatch.setattr(app, "providers", lambda **_: iter((ScriptedProvider(), seeker)))
    monkeypatch.setattr(app, "providers_with_labs", lambda: iter((ScriptedProvider(), seeker)))
    return seeker


def test_the_machines_are_asked_and_the_lab_is_taken_down(world: Seeker) -> None:
    assert group.run(["down", "remembered", "--machines"]) == 0
    assert world.log == ["seek remembered", "teardown remembered"]


def test_a_lab_that_nobody_remembers_is_unknown(world: Seeker, capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["down", "nosuch", "--machines"]) == 2
    assert world.log == ["seek nosuch"]
    assert "no lab named 'nosuch' is up" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", [("down", "remembered"), ("list",), ("status", "remembered"), ("check", "remembered")], ids=" ".join
)
def test_no_machine_is_asked_by_who_did_not_ask_for_it(
    line: tuple[str, ...], world: Seeker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "lists_machines", lambda: True)
    code = group.run(list(line))
    said = capsys.readouterr().err
    assert world.log == []
    assert code == (0 if line == ("list",) else 2)
    assert ("labctl down remembered --machines" in said) is (line[0] == "down")


def test_all_labs_are_those_on_record(world: Seeker) -> None:
    world.running.append(running_lab(example_lab()))
    assert group.run(["down", "--all"]) == 0
    assert world.log == ["teardown example"]


def test_all_labs_going_takes_along_what_a_killed_labctl_left_even_when_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tidied: list[str] = []
    provider = ScriptedProvider(capabilities=Capabilities(tidy=lambda: tidied.append("tidy")))
    monkeypatch.setattr(app, "providers_with_labs", lambda: iter((provider,)))
    assert group.run(["down", "--all"]) == 0
    assert tidied == ["tidy"]
    provider.running.append(running_lab(example_lab()))
    assert group.run(["down", "example"]) == 0
    assert tidied == ["tidy"]
    assert group.run(["down", "--all"]) == 0
    assert tidied == ["tidy", "tidy"]


def test_half_a_copy_of_a_lab_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = NetnsKeeping()
    provider = ScriptedProvider(capabilities=Capabilities(keeping=keeping), running=[running_lab(example_lab())])
    monkeypatch.setattr(app, "providers_with_labs", lambda: iter((provider,)))
    keeping.keep(example_lab(), NOTHING)
    (kept.DIRECTORY / "example" / "lab.json").unlink()
    assert group.run(["down", "example"]) == 0
    assert not kept.DIRECTORY.exists()
