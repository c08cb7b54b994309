"""Labs that are really built, broken on the way, crashed and removed; the host must be as it was found."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from netns_building import build, names_of, needs_root, ping, program_ids, running

from labctl.errors import LabError, StepFailed, UsageError
from labctl.model.lab import Encapsulation, HostRouting
from labctl.names import namespace_of
from labctl.providers.netns.execute import NetnsExecutor
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.record import parts_of, record_path
from labctl.system import netns
from labctl.system.process import Process
from labctl.testing.labs import RECORDED, sample_lab

pytestmark = [pytest.mark.root, needs_root]
PROVIDER = NetnsProvider()


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_a_lab_comes_up_answers_and_goes_away(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    lab = sample_lab(host_as_found, host_routing=host_routing, encapsulation=encapsulation)
    with running(lab):
        assert names_of(lab.name) == tuple(sorted(parts_of(lab)))
        for address in (lab.pod("neighbour").address, lab.pod("server").address, lab.node("node2").address.ip):
            answered = ping(lab, "client", address)
            assert answered.returncode == 0, answered.stdout + answered.stderr
        attached = program_ids(lab)
        assert attached
    assert names_of(lab.name) == ()
    assert not record_path(lab.name).exists()
    assert_programs_are_freed(attached)


def assert_programs_are_freed(ids: set[int]) -> None:
    deadline = time.monotonic() + 60
    while left := {number for number in ids if program_exists(number)}:
        assert time.monotonic() < deadline, f"programs {left} are still loaded"
        time.sleep(0.05)


def program_exists(number: int) -> bool:
    done = subprocess.run(["bpftool", "prog", "show", "id", str(number)], capture_output=True, check=False)
    return done.returncode == 0


def test_the_found_lab_is_the_one_that_was_built(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    with running(lab):
        found = [one for one in PROVIDER.discover() if one.name == lab.name]
        assert len(found) == 1
        assert found[0].is_whole
        assert found[0].lab == lab
        assert found[0].digest == lab.digest
    assert not [one for one in PROVIDER.discover() if one.name == lab.name]


def test_a_lab_without_its_record_is_found_and_removed_by_its_marks(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    with running(lab):
        record_path(lab.name).unlink()
        found = next(one for one in PROVIDER.discover() if one.name == lab.name)
        assert (found.is_whole, found.lab, found.scenario) == (False, None, lab.scenario)
        assert lab.digest.startswith(found.digest)
    assert names_of(lab.name) == ()


def test_a_missing_part_is_named(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    with running(lab):
        netns.delete(namespace_of(lab.name, "server"))
        found = next(one for one in PROVIDER.discover() if one.name == lab.name)
        assert found.missing == (namespace_of(lab.name, "server"),)
        with pytest.raises(UsageError, match="is incomplete"), PROVIDER.open(lab):
            pass


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """An action that always fails."""

    def shell(self) -> str:
        return "false"

    def record(self) -> Mapping[str, object]:
        return {"kind": "Broken"}


STEPS = len(PROVIDER.plan(sample_lab("counted")).steps)


@pytest.mark.parametrize("number", range(STEPS))
def test_a_failure_in_any_step_is_undone_to_nothing(host_as_found: str, number: int) -> None:
    lab = sample_lab(host_as_found)
    steps = PROVIDER.plan(lab).steps
    with PROVIDER.executor(lab) as executor:
        for step in steps[:number]:
            executor.execute(step.actions)
        with pytest.raises(TypeError, match="Broken"):
            executor.execute((*steps[number].actions, Broken()))
        for step in reversed(steps[: number + 1]):
            executor.execute(step.undo)
    assert names_of(lab.name) == ()
    assert not record_path(lab.name).exists()


def test_a_kernel_refusal_says_the_command_and_the_kernels_words(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    steps = PROVIDER.plan(lab).steps
    with PROVIDER.executor(lab) as executor:
        try:
            executor.execute(steps[0].actions)
            bridge = steps[0].actions[-1]
            with pytest.raises(StepFailed) as failed:
                executor.execute((bridge,))
        finally:
            executor.execute(steps[0].undo)
    assert failed.value.what.startswith(f"the kernel refused: ip -n labctl.{lab.name}.underlay link add name underlay")
    assert failed.value.cause == "File exists"


def test_undo_leaves_a_namespace_alone_that_was_there_before(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    first = PROVIDER.plan(lab).steps[0]
    executor = NetnsExecutor()
    netns.prepare_directory()
    name = namespace_of(lab.name, "underlay")
    os.close(netns.create(name, lambda: None))
    try:
        with pytest.raises(StepFailed, match="ip netns add"):
            executor.execute(first.actions)
        executor.execute(first.undo)
        assert netns.is_mounted(name)
    finally:
        executor.close()
        netns.delete(name)
        netns.tidy_directory()


def test_a_namespace_without_the_mark_is_left_alone_and_reported(
    host_as_found: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab = sample_lab(host_as_found)
    stranger = namespace_of(lab.name, "somebody-elses")
    netns.prepare_directory()
    os.close(netns.create(stranger, lambda: None))
    try:
        with caplog.at_level(logging.WARNING):
            PROVIDER.teardown(lab.name)
        assert netns.is_mounted(stranger)
        assert f"{stranger} has no mark of labctl" in caplog.text
        assert not [one for one in PROVIDER.discover() if one.name == lab.name]
    finally:
        netns.delete(stranger)
        netns.tidy_directory()


def test_a_lab_that_is_there_is_not_built_over(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    with running(lab):
        with pytest.raises(UsageError, match="is there already"):
            build(lab)
        assert ping(lab, "client", lab.pod("server").address).returncode == 0


def test_two_builders_of_one_name_do_not_meet(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    with (
        PROVIDER.executor(lab),
        pytest.raises(UsageError, match="is being built by another labctl right now"),
        PROVIDER.executor(lab),
    ):
        pass


CRASHING = """
import sys, time
from labctl.providers.netns.provider import NetnsProvider
from labctl.testing.labs import sample_lab
lab = sample_lab(sys.argv[1])
provider = NetnsProvider()
with provider.executor(lab) as executor:
    for step in provider.plan(lab).steps[: int(sys.argv[2])]:
        executor.execute(step.actions)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("steps", [1, STEPS // 2, STEPS - 1])
def test_a_builder_that_is_killed_leaves_nothing_that_down_cannot_remove(host_as_found: str, steps: int) -> None:
    argv = [sys.executable, "-c", CRASHING, host_as_found, str(steps)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "ready\n"
        builder.send_signal(signal.SIGKILL)
    assert names_of(host_as_found)
    found = next(one for one in PROVIDER.discover() if one.name == host_as_found)
    assert not found.is_whole
    PROVIDER.teardown(host_as_found)
    assert names_of(host_as_found) == ()
    PROVIDER.teardown(host_as_found)


def test_a_name_whose_mount_never_happened_is_removed(host_as_found: str) -> None:
    name = namespace_of(host_as_found, "node1")
    netns.prepare_directory()
    Path("/run/netns", name).write_bytes(b"labctl\n")
    assert [one.name for one in PROVIDER.discover() if one.name == host_as_found] == [host_as_found]
    PROVIDER.teardown(host_as_found)
    assert names_of(host_as_found) == ()


def test_processes_inside_the_lab_end_with_it_and_others_do_not(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    with Process(("sleep", "60")) as outside:
        with running(lab):
            inside = Process(("sleep", "60"), namespace=netns.path_of(namespace_of(lab.name, "client")))
            assert inside.is_alive()
        assert inside.wait(timeout_s=60).returncode == -signal.SIGKILL
        assert outside.is_alive()


def test_nothing_of_the_lab_is_in_the_hosts_own_namespace(host_as_found: str) -> None:
    before = Path("/proc/net/dev").read_text().count("\n")
    with running(sample_lab(host_as_found)):
        assert Path("/proc/net/dev").read_text().count("\n") == before


def test_an_executor_refuses_what_it_does_not_know() -> None:
    with pytest.raises((TypeError, LabError), match="Broken"):
        NetnsExecutor().execute((Broken(),))
