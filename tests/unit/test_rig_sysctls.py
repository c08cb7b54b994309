"""The host's sysctls around a rig (tests/rig): written down once and whole, put back whatever became of the rig."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rig_engine

BEFORE = {
    "fs/inotify/max_user_instances": "128",
    "fs/inotify/max_user_watches": "1048576",
    "kernel/panic": "0",
    "net/netfilter/nf_conntrack_max": "65536",
}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name, value in BEFORE.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(f"{value}\n")
    count = tmp_path / "sys/net/netfilter/nf_conntrack_count"
    count.write_text("7\n")
    count.chmod(0o444)
    return tmp_path / "sys"


def now(top: Path) -> dict[str, str]:
    return {name: (top / name).read_text().strip() for name in BEFORE}


def test_what_the_host_had_is_put_back(top: Path, tmp_path: Path) -> None:
    saved = tmp_path / "sysctls.json"
    rig_engine.remember_sysctls(saved, top)
    assert now(top)["fs/inotify/max_user_instances"] == "1024"
    assert now(top)["fs/inotify/max_user_watches"] == "1048576", "more than enough already"
    (top / "kernel/panic").write_text("10")  # as a kubelet does
    (top / "net/netfilter/nf_conntrack_count").chmod(0o644)
    (top / "net/netfilter/nf_conntrack_count").write_text("9")
    assert rig_engine.put_back_sysctls(saved, top) == []
    assert now(top) == BEFORE
    assert (top / "net/netfilter/nf_conntrack_count").read_text() == "9", "a counter is nobody's setting"


def test_a_start_after_a_kill_does_not_take_the_rigs_own_values_for_the_hosts(top: Path, tmp_path: Path) -> None:
    saved = tmp_path / "sysctls.json"
    rig_engine.remember_sysctls(saved, top)
    rig_engine.remember_sysctls(saved, top)
    assert json.loads(saved.read_text())["fs/inotify/max_user_instances"] == "128"
    assert list(tmp_path.glob("*.new")) == []


def test_what_cannot_be_put_back_is_named_and_the_rest_is(top: Path, tmp_path: Path) -> None:
    saved = tmp_path / "sysctls.json"
    rig_engine.remember_sysctls(saved, top)
    (top / "kernel/panic").write_text("10")
    (top / "fs/inotify/max_user_instances").unlink()
    (top / "fs/inotify/max_user_instances").mkdir()  # neither read nor written
    (top / "net/netfilter/nf_conntrack_max").unlink()
    (top / "net/netfilter/nf_conntrack_max").symlink_to("/proc/sys/kernel/osrelease")  # read, and not written
    assert rig_engine.put_back_sysctls(saved, top) == ["net/netfilter/nf_conntrack_max"]
    assert now_of(top, "kernel/panic") == "0"


def now_of(top: Path, name: str) -> str:
    return (top / name).read_text().strip()


def test_nothing_is_written_where_nothing_was_remembered(top: Path, tmp_path: Path) -> None:
    assert rig_engine.put_back_sysctls(tmp_path / "sysctls.json", top) == []
    assert now(top) == BEFORE
