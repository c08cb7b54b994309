"""Labs of thousands of pods: what looks at each pod is done for who asks for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from labctl.cli import options
from labctl.cli.options import MOST_UNASKED_PODS, known_drift, uncompared
from labctl.errors import LabError
from labctl.model.lab import Lab
from labctl.providers.base import Capabilities, Compared, RunningLab
from labctl.testing.labs import sample_lab
from labctl.testing.provider import ScriptedProvider


class Quick:
    """Compares quickly, as a provider says of itself, and counts how often."""

    is_quick = True

    def __init__(self) -> None:
        self.compared_labs: list[str] = []

    def compared(self, lab: Lab, *, parts: Collection[str] = (), scenario: str = "") -> Compared:
        self.compared_labs.append(lab.name)
        raise LabError("not to be compared here")


def of_pods(count: int) -> tuple[ScriptedProvider, RunningLab, Quick]:
    seam = Quick()
    provider = ScriptedProvider(name="netns")
    provider.capabilities = Capabilities(drifting=seam)  # type: ignore[arg-type]
    pods = tuple((f"pod{number}", "node1") for number in range(count))
    lab = sample_lab("wide", nodes=1, pods=pods)
    running = RunningLab(name="wide", provider="netns", scenario="wide", digest=lab.digest, is_whole=True, lab=lab)
    return provider, running, seam


@pytest.mark.parametrize(("count", "is_compared"), [(2, True), (3, False)])
def test_a_lab_of_more_pods_than_that_is_compared_only_by_who_asks(
    monkeypatch: pytest.MonkeyPatch, count: int, is_compared: bool
) -> None:
    monkeypatch.setattr(options, "MOST_UNASKED_PODS", 2)
    provider, running, seam = of_pods(count)
    assert known_drift(provider, running) is None
    assert seam.compared_labs == (["wide"] if is_compared else [])
    said = uncompared(provider, running)
    assert said == (
        "" if is_compared else "lab wide has 3 pods, and is not compared with its plan unasked: labctl diff wide"
    )


def test_labs_of_workshops_and_of_a_thousand_pods_are_compared_unasked() -> None:
    assert MOST_UNASKED_PODS >= 1_000


def test_a_provider_that_never_compares_unasked_says_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "MOST_UNASKED_PODS", 2)
    provider, running, _ = of_pods(3)
    provider.capabilities = replace(provider.capabilities, drifting=None)
    assert uncompared(provider, running) == ""
