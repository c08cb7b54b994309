"""Runs one check against scripted targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from labctl.checks.base import Check, CheckContext
from labctl.model.lab import CheckSpec
from labctl.model.parameters import CheckParameters
from labctl.model.result import CheckResult
from labctl.testing.labs import CLIENT, SERVER, example_lab
from labctl.testing.scripted import Answer, MemoryRaw, ScriptedLab, ScriptedTarget

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checks"

Script = Sequence[Answer]
RunCheck = Callable[[Check, CheckParameters, Script, Script], "Ran"]


class Ran:
    """A check that was run: its result, what it saved, and what its two pods were asked."""

    def __init__(self, check: Check, parameters: CheckParameters, client: Script, server: Script) -> None:
        self.client = ScriptedTarget(CLIENT, client)
        self.server = ScriptedTarget(SERVER, server)
        self.raw = MemoryRaw()
        lab = example_lab()
        self.result: CheckResult = check.run(
            CheckContext(
                open_lab=ScriptedLab(lab, [self.client, self.server]),
                pair=lab.pairs[0],
                spec=CheckSpec(name=f"my-{check.kind}", kind=check.kind, parameters=parameters),
                raw=self.raw,
                client_cpu=0,
                server_cpu=1,
            )
        )

    @property
    def values(self) -> dict[str, float]:
        return {sample.metric: sample.value for sample in self.result.samples}


@pytest.fixture
def run_check() -> RunCheck:
    return Ran


@pytest.fixture
def recorded() -> Callable[[str], bytes]:
    return lambda name: (FIXTURES / name).read_bytes()
