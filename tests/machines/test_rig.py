"""The rig itself: what becomes of it, and of the host, when whoever started it is killed: make test-machines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rig_engine
import rig_place

HERE = Path(__file__).resolve().parent
pytestmark = [
    pytest.mark.root,
    pytest.mark.needs_machines,
    pytest.mark.skipif(
        os.environ.get("LABCTL_TEST_MACHINES") != "1", reason="machines are made by: make test-machines"
    ),
]
WATCHED = ("fs/inotify/max_user_instances", "fs/inotify/max_user_watches", "kernel/panic", "vm/overcommit_memory")
START = "import rig_engine, time; rig_engine.start(); print('up', flush=True); time.sleep(600)"


def _sysctls() -> dict[str, str]:
    return {name: (Path("/proc/sys") / name).read_text().strip() for name in WATCHED}


def _rules() -> list[str]:
    saved = subprocess.run(("iptables-save",), capture_output=True, text=True, check=False).stdout
    return [line for line in saved.splitlines() if rig_place.NAME in line]


def test_a_rig_whose_owner_is_killed_is_gone_and_the_hosts_sysctls_are_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if reason := rig_place.why_not():
        pytest.skip(reason)
    if rig_engine.is_up():
        pytest.skip("a rig is up that this test did not start")
    rig_engine.clear()  # of a run that was killed before there was a guard
    rig_place.build()
    monkeypatch.delenv("LABCTL_RIG_KEEP", raising=False)
    before = _sysctls()
    owner = subprocess.Popen(
        (sys.executable, "-c", START),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE.parent / "rig")},
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert rig_engine.is_up()
        (Path("/proc/sys") / "kernel/panic").write_text(str(int(before["kernel/panic"]) + 10))  # as a kubelet does
        assert _sysctls() != before
        owner.send_signal(signal.SIGKILL)
        owner.wait(timeout=30)
        deadline = time.monotonic() + 90
        while rig_place.RUN.exists():
            assert time.monotonic() < deadline, "the guard has not cleared it"
            time.sleep(0.2)
    finally:
        owner.kill()
        owner.communicate(timeout=30)
        rig_engine.clear()
    assert _sysctls() == before
    assert not Path("/sys/class/net", rig_place.BRIDGE).exists()
    assert _rules() == []
    assert not rig_engine.is_up()
