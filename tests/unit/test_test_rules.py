"""The rules that conftest.py gives to every test, tried on small test files in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def outcome(tmp_path: Path, body: str, *, wrapper: tuple[str, ...] = (), **environment: str) -> str:
    """What pytest prints about a test file with this body, with our conftest and the given environment."""
    for name in ("conftest.py", "host_snapshot.py"):
        (tmp_path / name).write_text((TESTS / name).read_text())
    (tmp_path / "test_it.py").write_text("import pytest\n" + textwrap.dedent(body))
    ended = subprocess.run(
        [
            *wrapper,
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rA",
            "--strict-markers",
            "-p",
            "no:cacheprovider",
            "--rootdir=.",
        ],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if not key.startswith("LABCTL_")} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.stdout + ended.stderr


SKIPS = """
    def test_it():
        pytest.skip("no sockperf here")
"""


def test_a_skip_is_a_skip_for_people(tmp_path: Path) -> None:
    assert "1 skipped" in outcome(tmp_path, SKIPS)


@pytest.mark.parametrize(
    "body",
    [
        SKIPS,
        '@pytest.mark.skip(reason="no sockperf here")\ndef test_it():\n    pass\n',
        '@pytest.mark.skipif(True, reason="no sockperf here")\ndef test_it():\n    pass\n',
        'pytest.skip("no sockperf here", allow_module_level=True)\n',
        '@pytest.fixture\ndef tool():\n    pytest.skip("no sockperf here")\ndef test_it(tool):\n    pass\n',
    ],
    ids=["in the test", "mark", "conditional mark", "whole module", "in a fixture"],
)
def test_in_ci_every_kind_of_skip_fails_and_names_its_reason(tmp_path: Path, body: str) -> None:
    said = outcome(tmp_path, body, LABCTL_NO_SKIP="1")
    assert "was skipped where nothing may be" in said
    assert "no sockperf here" in said
    assert "1 failed" in said or "1 error" in said


def test_in_ci_a_test_marked_as_needing_docker_may_be_skipped(tmp_path: Path) -> None:
    said = outcome(tmp_path, "@pytest.mark.needs_docker" + textwrap.dedent(SKIPS), LABCTL_NO_SKIP="1")
    assert "1 skipped" in said
    assert "failed" not in said


@pytest.mark.parametrize(("has_go", "outcome_word"), [(True, "1 failed"), (False, "1 skipped")])
def test_in_ci_tests_of_the_real_kind_may_be_skipped_only_where_go_is_missing(
    tmp_path: Path, has_go: bool, outcome_word: str
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    if has_go:
        (tools / "go").write_text("#!/bin/sh\n")
        (tools / "go").chmod(0o755)
    body = f'import conftest\nconftest.GO_PLACES = "{tools}"\n@pytest.mark.needs_kind' + textwrap.dedent(SKIPS)
    assert outcome_word in outcome(tmp_path, body, LABCTL_NO_SKIP="1", PATH=str(tmp_path / "nowhere"))


def test_in_ci_an_expected_failure_stays_one(tmp_path: Path) -> None:
    said = outcome(tmp_path, "@pytest.mark.xfail\ndef test_it():\n    assert False\n", LABCTL_NO_SKIP="1")
    assert "1 xfailed" in said


@pytest.mark.parametrize("name", ["INT", "HUP", "QUIT"])
def test_tests_of_signals_work_in_background_jobs_and_under_nohup_too(tmp_path: Path, name: str) -> None:
    """Where the signal is ignored, and stays so in every program that is started there."""
    body = f"""
        import os, signal, subprocess, sys
        def test_it():
            program = "import os, signal; os.kill(os.getpid(), signal.SIG{name})"
            program = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); " + program
            assert subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL).returncode != 0
    """
    ignoring = ("sh", "-c", f'trap "" {name}; exec "$@"', "sh")
    assert "1 passed" in outcome(tmp_path, body, wrapper=ignoring)


def test_a_test_that_leaves_the_host_alone_passes(tmp_path: Path) -> None:
    assert "1 passed" in outcome(tmp_path, "def test_it(host_as_found):\n    assert host_as_found\n")


def test_a_process_left_behind_fails_the_test_even_when_it_was_set_adrift(tmp_path: Path) -> None:
    body = """
        import host_snapshot, subprocess
        host_snapshot.SETTLE_S = 0.3
        def test_it(host_as_found):
            started = 'until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
            subprocess.run(["sh", "-c", f"setsid sleep 9 >/dev/null 2>&1 & {started}"], check=True)
    """
    said = outcome(tmp_path, body)
    assert "the host is not as it was found" in said
    assert "processes: left behind" in said
    assert "sleep" in said


@pytest.mark.root
@pytest.mark.parametrize(("name", "is_told"), [("veth0a1b2c3", False), ("br-0a1b2c3d4e5f", False), ("vethours", True)])
def test_what_docker_makes_meanwhile_is_no_difference_and_another_device_is(
    tmp_path: Path, name: str, is_told: bool
) -> None:
    """In a network namespace of its own, which stands for the host."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    body = f"""
        import host_snapshot, subprocess
        host_snapshot.SETTLE_S = 0.3
        def test_it(host_as_found):
            subprocess.run(["ip", "link", "add", "{name}", "type", "bridge"], check=True)
    """
    said = outcome(tmp_path, body, wrapper=("unshare", "--net"))
    assert ("links: left behind" in said) is is_told
    assert ("1 passed" in said and "error" not in said) is not is_told


@pytest.mark.root
def test_a_namespace_of_the_test_left_behind_fails_the_test(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    body = """
        import host_snapshot, subprocess
        host_snapshot.SETTLE_S = 0.3
        def test_it(host_as_found):
            open("name", "w").write(f"labctl.{host_as_found}.node1")
            subprocess.run(["ip", "netns", "add", f"labctl.{host_as_found}.node1"], check=True)
    """
    said = outcome(tmp_path, body)
    namespace = (tmp_path / "name").read_text()
    subprocess.run(["ip", "netns", "delete", namespace], check=True)
    assert f"namespaces: left behind: {namespace}" in said
    assert f"mounts: left behind: /run/netns/{namespace}" in said
