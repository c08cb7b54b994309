"""A lesson from start to stop against its live lab: what passes, what does not, and what is left of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_running import needs_labs

from labctl.cli.group import run
from labctl.system import netns

pytestmark = needs_labs
LESSON = "which-mode"


def test_a_lesson_is_started_answered_checked_reset_and_stopped(
    host_as_found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def lesson(*words: str, code: int = 0) -> Any:
        assert run(["lesson", *words, "--student", host_as_found, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    begun = lesson("start", LESSON)
    assert (begun["current"], begun["lab"]) == ("predict-mode", f"{host_as_found}-{LESSON}")
    assert lesson("answer", "predict-mode", "bpf", "--because", "the scenario asks for it")["mark"] == "passed"
    right = {"iptables": "legacy", "bpf": "bpf"}[begun["variant"]["datapath.masquerade"]]
    wrong = {"legacy": "bpf", "bpf": "legacy"}[right]
    missed = lesson("answer", "observe-mode", wrong, code=1)
    assert (missed["mark"], missed["tasks"][1]["tries"]) == ("failed", 1)
    assert right not in " ".join(missed["said"]).replace(wrong, "")
    assert lesson("answer", "observe-mode", right)["unlocked"] == "one-packet"
    assert lesson("check", code=1)["task"] == "one-packet"
    assert lesson("reset", "observe-mode")["current"] == "observe-mode"
    stopped = lesson("stop")
    assert (stopped["running"], stopped["tasks"][1]["tries"]) == (False, 2)
    assert not [name for name in netns.names() if name.startswith(f"labctl.{host_as_found}")]
