"""Runs the command line in this process, with a scripted provider and scripted checks behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from labctl import app
from labctl.checks.base import CheckContext
from labctl.cli import group
from labctl.model.lab import Lab
from labctl.model.result import CheckResult, Sample, Verdict
from labctl.model.signature import Signature
from labctl.networks.cilium.expected import expected_for
from labctl.testing.provider import ScriptedProvider, running_lab
from labctl.testing.scripted import ScriptedCheck, ScriptedLab, ScriptedTarget


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one command line gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document of stdout; anything else there fails the test."""
        return json.loads(self.out)


@dataclass(kw_only=True)
class VerdictCheck(ScriptedCheck):
    """Stands for every check: the verdict that the test gives to its name, `pass` without one."""

    verdicts: dict[str, Verdict]

    def run(self, context: CheckContext) -> CheckResult:
        raw = context.raw.save("output", b"what the tool printed")
        verdict = self.verdicts.get(context.spec.name, Verdict.PASS)
        return self.result(
            context, verdict, f"scripted to {verdict}", samples=(Sample(metric="rtt_p50", value=2e-5, unit="s"),),
            raw=(raw,), signature=self._signature(context) if self.kind == "tcpdump" else None,
        )  # fmt: skip

    def _signature(self, context: CheckContext) -> Signature:
        return expected_for(context.open_lab.lab, context.pair, packets=3).signature


@dataclass(kw_only=True)
class Bench:
    """The scripted host: labs that are up, verdicts by check name, and the command line in front of it."""

    capsys: pytest.CaptureFixture[str]
    provider: ScriptedProvider = field(default_factory=lambda: ScriptedProvider(name="netns"))
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def run(self, *args: str) -> Said:
        self.capsys.readouterr()
        code = group.run(list(args))
        captured = self.capsys.readouterr()
        return Said(code=code, out=captured.out, err=captured.err)

    def is_up(self, name: str, **changes: object) -> None:
        """A lab of scenario bpf of that name is up from now on."""
        from labctl.cli.options import load_lab

        lab = load_lab("bpf", provider=None, name=name, overrides=())
        self.provider.running.append(running_lab(lab, **changes))
        self.opens(lab)

    def opens(self, lab: Lab) -> None:
        names = [*(node.name for node in lab.nodes), *(pod.name for pod in lab.pods)]
        self.provider.open_lab = ScriptedLab(lab, [ScriptedTarget(name) for name in names])


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    made = Bench(capsys=capsys)
    kinds = ("ping", "load", "latency", "iperf", "tcpdump")
    monkeypatch.setattr(app, "provider", lambda name, **_: made.provider)
    monkeypatch.setattr(app, "providers", lambda **_: iter((made.provider,)))
    checks: Callable[[], dict[str, VerdictCheck]] = lambda: {  # noqa: E731
        kind: VerdictCheck(kind=kind, verdicts=made.verdicts) for kind in kinds
    }
    monkeypatch.setattr(app, "checks", checks)
    monkeypatch.setenv("LABCTL_RUNS_DIR", str(tmp_path / "runs"))
    return made
