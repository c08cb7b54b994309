"""What every test may use: a unique lab name, a host that must be left as it was found, and no silent skips in CI."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import host_snapshot
from labctl.system import locks, netns, process
from labctl.system.powers import Powers

MAY_SKIP = {
    "needs_docker": "needs a docker daemon that can run privileged containers; run it with: make test-kind",
    "needs_machines": "needs dockerd, 12 GiB of disk and an hour; run it with: make test-machines",
    "needs_vagrant": "needs vagrant and a hypervisor, which virtual machines rarely have inside",
    "needs_cluster": "needs a Kubernetes cluster, whose kubeconfig LABCTL_TEST_KUBECONFIG names; run it with: "
    "make test-machines",
    "needs_charts": "needs Cilium's charts in the folder that LABCTL_CILIUM_CHARTS names; they are not ours to ship",
}
"""Markers of tests that may be skipped even in CI, with what it is that CI cannot be expected to have."""

THOROUGH = "thorough"
"""Marks what takes long against machines made on the spot, or repeats a test in more cells, and of which `make test`
has a sample: it is left out, and run by `make test-thorough` (LABCTL_THOROUGH=1)."""

NEEDS_KIND = "needs_kind"
"""Marks tests that need the real kind and helm, which setup/prepare.sh builds into .tools/bin where Go is: they may be
skipped even in CI where Go itself is missing, and only there."""

ASKED_FOR = os.environ.get("LABCTL_TEST_VM")
collect_ignore = [] if ASKED_FOR else ["vm"]
"""Other kernels are booted by `make test-vm` and `make test-sample` only."""

UNIT = Path(__file__).parent / "unit"
TOOLS = Path(__file__).resolve().parents[1] / ".tools" / "bin"
GO_PLACES = "/usr/local/go/bin"

_PR_SET_CHILD_SUBREAPER = 36


# The same examples in every run: what a test says does not depend on chance, nor on how busy the machine is.
settings.register_profile(
    "labctl", derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("labctl")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores SIGINT and SIGQUIT, nohup SIGHUP, and what they start inherits that: tests of
    # Ctrl-C and of a closed terminal would fail there, or hang. With a handler we go on without heeding it, and what we
    # start heeds it.
    heard: dict[int, Callable[..., None]] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: lambda number, frame: None,
        signal.SIGQUIT: lambda number, frame: None,
    }
    for number, handler in heard.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    for marker, reason in MAY_SKIP.items():
        config.addinivalue_line("markers", f"{marker}: {reason}")
    config.addinivalue_line("markers", f"{THOROUGH}: takes long; run by: make test-thorough")
    config.addinivalue_line("markers", f"{NEEDS_KIND}: needs the real kind and helm: setup/prepare.sh test")
    if TOOLS.is_dir():
        os.environ["PATH"] = f"{TOOLS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("LABCTL_THOROUGH") == "1":
        return
    left_out = [item for item in items if item.get_closest_marker(THOROUGH)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _may_skip(item: pytest.Item) -> bool:
    if any(item.get_closest_marker(marker) for marker in MAY_SKIP):
        return True
    has_go = shutil.which("go") or shutil.which("go", path=GO_PLACES)
    return item.get_closest_marker(NEEDS_KIND) is not None and not has_go


def _skips_are_failures() -> bool:
    return os.environ.get("LABCTL_NO_SKIP") == "1"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    found = report.longrepr
    return str(found[2]) if isinstance(found, tuple) else str(found)


def _forbid(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip into a failure that names its reason."""
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} was skipped where nothing may be (LABCTL_NO_SKIP=1): {_reason(report)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if is_skip and not _may_skip(item) and _skips_are_failures():
        _forbid(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module can be skipped too (importorskip)."""
    report = yield
    if report.skipped and _skips_are_failures():
        _forbid(report)
    return report


@pytest.fixture(autouse=True)
def unit_tests_see_no_labs(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever runs them may have labs up, and be root: a `down --all` that meets the real providers would take them."""
    if UNIT not in request.path.parents:
        return
    nowhere = tmp_path_factory.getbasetemp() / f"nowhere-{secrets.token_hex(4)}"
    names, host = netns.names, netns.DIRECTORY
    monkeypatch.setattr(netns, "names", lambda: names() if host != netns.DIRECTORY else ())
    monkeypatch.setattr(netns, "RUN_DIRECTORY", nowhere / "labctl")
    monkeypatch.setattr("labctl.providers.netns.kept.DIRECTORY", nowhere / "kept" / "labs")
    monkeypatch.setattr("labctl.system.systemd.UNITS", nowhere / "units")
    monkeypatch.setattr("labctl.system.systemd.RUNNING", nowhere / "systemd")
    monkeypatch.setattr(locks, "ROOT_DIRECTORY", nowhere / "labctl" / "locks")
    monkeypatch.setenv("XDG_STATE_HOME", str(nowhere / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(nowhere / "session"))


@pytest.fixture
def lab_prefix() -> str:
    """What the names of this test's labs begin with; no other test and no other run has it."""
    return f"t{secrets.token_hex(3)}"


@pytest.fixture
def host_as_found(lab_prefix: str) -> Iterator[str]:
    """Fails the test when it leaves anything behind on the host or changes anything there; gives `lab_prefix`.

    Ask for it before fixtures that build something, so that they are undone before it looks.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.geteuid() == 0:  # the first process of the PID namespace for checks lives as long as this process does
        process.run(("true",), timeout_s=120, namespace=Path("/proc/self/ns/net"), powers=Powers.POD)
        _wait_until_it_has_become_itself()
    host_snapshot.collect_all_orphans()
    before = host_snapshot.snapshot(lab_prefix)
    yield lab_prefix
    found = host_snapshot.settled(before, lab_prefix)
    assert not found, "the host is not as it was found:\n  " + "\n  ".join(found)


def _wait_until_it_has_become_itself() -> None:
    """The first process is setpriv for a moment, then a shell with a child; on a busy machine that takes a while."""
    deadline = time.monotonic() + 60
    while not any(_children(child) for child in _children(os.getpid())) and time.monotonic() < deadline:
        time.sleep(0.01)


def _children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    with contextlib.suppress(OSError):
        return [int(child) for thread in threads for child in thread.read_text().split()]
    return []


def pytest_report_header() -> list[str]:
    return [f"skips are {'failures' if _skips_are_failures() else 'allowed'}; root: {os.geteuid() == 0}"]
