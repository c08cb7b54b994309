"""A lesson from start to stop against its live lab: what passes, what does not, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_running import needs_labs

from labctl.cli.group import run
from labctl.lessons.own_scenario import write_beginning
from labctl.system import netns, users

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
    assert lesson("answer", "predict-mode", "bpf", "--because", "配置里要求这样")["mark"] == "passed"
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


def test_a_link_in_a_students_folder_leads_root_to_no_place_where_the_student_may_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = 65534
    for name in ("SUDO_UID", "SUDO_GID"):
        monkeypatch.setenv(name, str(nobody))
    own, roots = tmp_path / "own", tmp_path / "roots"
    for folder, owner in ((own, nobody), (roots, 0)):
        folder.mkdir(mode=0o755)
        os.chown(folder, owner, owner)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)  # the student may pass
    (own / "work").symlink_to(roots)
    with users.as_person():
        assert write_beginning(own / "mine.yaml", "a: 1\n")
        with pytest.raises(PermissionError):
            write_beginning(own / "work" / "mine.yaml", "a: 1\n")
    assert (own / "mine.yaml").stat().st_uid == nobody
    assert write_beginning(roots / "mine.yaml", "a: 1\n")  # root is itself again
    assert not list(roots.glob(".mine*"))


def test_every_process_of_a_removed_student_ends_and_no_other(host_as_found: str) -> None:
    alone, other = 64_321, 64_322
    argv = [("setpriv", "--reuid", str(uid), "--clear-groups", "sleep", "600") for uid in (alone, alone, other)]
    started = [subprocess.Popen(one) for one in argv]
    try:
        while [len(users.processes_of(uid)) for uid in (alone, other)] != [2, 1]:
            assert not [one for one in started if one.poll() is not None]
        assert users.end_processes_of(alone) >= 2
        assert [one.wait(60) for one in started[:2]] == [-signal.SIGKILL] * 2
        assert started[2].poll() is None
    finally:
        for one in started:
            one.kill()
            one.wait()
