"""Many labctl at once on one host, by its command line: the same lab, different ones, other users, names used again.

Takes minutes: `make test-concurrency` (LABS="50"), in a host of its own (tests/world.sh).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from labctl.system import netns

CHECKOUT = Path(__file__).resolve().parents[2]
LABS = int(os.environ.get("LABCTL_TEST_CONCURRENCY") or 0)
LONG_S = 1500.0
SOON_S = 120.0
"""What does not wait for another labctl ends by itself in a second, on a busy machine in a minute."""
STARTED_AT_ONCE = 10
NOBODY = ("env", "HOME=/tmp", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not LABS, reason="takes minutes: make test-concurrency"),
]


def argv(*words: str) -> list[str]:
    return [sys.executable, "-m", "labctl", *words]


def labctl(*words: str, before: Sequence[str] = (), timeout_s: float = LONG_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, *argv(*words)], capture_output=True, text=True, timeout=timeout_s, check=False, cwd=CHECKOUT
    )


def ok(*words: str, timeout_s: float = LONG_S) -> str:
    done = labctl(*words, timeout_s=timeout_s)
    assert done.returncode == 0, f"labctl {' '.join(words)}: {done.returncode}\n{done.stderr}"
    return done.stdout


def together(commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Exit code and what it said of each, run at the same time, so many at once."""
    waiting, found = list(enumerate(commands)), dict[int, tuple[int, str]]()
    running: dict[int, subprocess.Popen[str]] = {}
    while waiting or running:
        while waiting and len(running) < STARTED_AT_ONCE:
            number, words = waiting.pop(0)
            running[number] = subprocess.Popen(
                argv(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=CHECKOUT
            )
        number, process = next(iter(running.items()))
        said, _ = process.communicate(timeout=LONG_S)
        found[number] = (process.returncode, said)
        del running[number]
    return [found[number] for number in range(len(commands))]


def labs() -> dict[str, Any]:
    return {lab["lab"]: lab for lab in json.loads(ok("list", "--json", timeout_s=SOON_S))["labs"]}


@pytest.fixture
def prefix(lab_prefix: str) -> Iterator[str]:
    yield lab_prefix
    for name in [one for one in labs() if one.startswith(lab_prefix)]:
        labctl("down", name)
    left = [name for name in netns.names() if lab_prefix in name]
    assert not left, left


def test_many_labs_with_the_same_addresses_are_up_at_once_and_none_hears_another(prefix: str) -> None:
    """All have the addresses of lab.yaml. Each pod is reached in its own lab, whichever others are there."""
    names = [f"{prefix}-{number}" for number in range(LABS)]
    scenarios = ["bpf", "legacy"]
    begun = time.monotonic()
    ended = together([("up", scenarios[number % 2], "--name", name) for number, name in enumerate(names)])
    built_s = time.monotonic() - begun
    assert [said for code, said in ended if code] == []
    there = labs()
    assert set(names) <= set(there)
    for number in (0, 1, LABS // 2, LABS - 1):
        found = json.loads(ok("check", names[number], "ping", "--json"))
        assert {result["verdict"] for result in found["results"]} == {"pass"}
    begun = time.monotonic()
    ended = together([("down", name) for name in names])
    print(f"{LABS} labs: up in {built_s:.0f} s, down in {time.monotonic() - begun:.0f} s")
    assert [said for code, said in ended if code] == []
    assert not set(names) & set(labs())


def test_the_same_lab_asked_for_by_several_at_once_is_built_once(prefix: str) -> None:
    name = f"{prefix}-one"
    ended = together([("up", "bpf", "--name", name)] * 4)
    assert 0 in {code for code, _ in ended}
    assert all(code in (0, 2, 4) for code, _ in ended)
    assert not [said for _, said in ended if "Traceback" in said]
    assert "Traceback" not in ok("status", name)
    ended = together([("down", name)] * 3)
    assert 0 in {code for code, _ in ended}
    assert not [said for _, said in ended if "Traceback" in said]
    assert name not in labs()


@contextlib.contextmanager
def stopped_in_the_middle(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `labctl up` that has begun and does not go on: it holds every lock that it has taken."""
    with subprocess.Popen(
        argv("up", "bpf", "--name", name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=CHECKOUT
    ) as building:
        deadline = time.monotonic() + LONG_S
        while not any(f".{name}." in one or one.endswith(f".{name}") for one in netns.names()):
            assert building.poll() is None, "it was built before it could be stopped"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        building.send_signal(signal.SIGSTOP)
        try:
            yield building
        finally:
            building.kill()


def test_list_and_status_do_not_wait_for_a_labctl_that_is_stopped_in_the_middle(prefix: str) -> None:
    name, other = f"{prefix}-half", f"{prefix}-whole"
    ok("up", "legacy", "--name", other)
    with stopped_in_the_middle(name):
        for words in (("list",), ("list", "--json"), ("status", other), ("status", name), ("doctor",)):
            said = labctl(*words, timeout_s=SOON_S)
            assert "Traceback" not in said.stderr
        said = labctl("list", before=NOBODY, timeout_s=SOON_S)
        assert said.returncode in (0, 3)
        assert "Traceback" not in said.stderr
        ok("down", other, timeout_s=LONG_S)  # another lab is not held up
    ok("down", name)  # the lock died with its owner
    assert name not in labs()


def test_what_a_killed_labctl_left_does_not_keep_the_next_one_from_the_name(prefix: str) -> None:
    name = f"{prefix}-again"
    with stopped_in_the_middle(name) as building:
        building.kill()
        building.wait(timeout=SOON_S)
        ok("up", "legacy", "--name", name)
        assert labs()[name]["scenario"] == "legacy"


def test_a_name_that_is_used_again_at_once_is_the_new_lab(prefix: str) -> None:
    name = f"{prefix}-name"
    for scenario in ("bpf", "legacy", "bpf-native"):
        ok("up", scenario, "--name", name)
        assert labs()[name]["scenario"] == scenario
        ok("down", name)
