"""Running through a door: signals, status, CPU time, missing programs, with real processes behind the plainest door."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from labctl.checks.base import CheckContext
from labctl.checks.outcome import RawFiles
from labctl.checks.server import ServerCommand, exchange
from labctl.errors import MeasureFailed, ToolMissing
from labctl.model.lab import CheckSpec
from labctl.model.parameters import LatencyParameters
from labctl.providers.base import Completed, TargetKind
from labctl.providers.cilium.commands import HostCommands
from labctl.providers.cilium.monitor import argv_monitor
from labctl.providers.cilium.targets import Door, DoorTarget, parse_times, unwrapped, wrapped
from labctl.testing.labs import example_lab
from labctl.testing.scripted import MemoryRaw, ScriptedLab


@pytest.fixture
def here() -> DoorTarget:
    """`env` as the door: it takes argv and runs it, as `docker exec NODE` does."""
    return DoorTarget(
        name="here", kind=TargetKind.POD, door=Door(closed=("env",), open=("env",)), commands=HostCommands("kind")
    )


def test_output_status_and_error_text_come_through(here: DoorTarget) -> None:
    done = here.run(("sh", "-c", "echo out; echo err >&2; exit 3"), timeout_s=60)
    assert (done.text, done.error_text, done.returncode) == ("out\n", "err\n", 3)
    assert done.argv == ("sh", "-c", "echo out; echo err >&2; exit 3")


def test_standard_input_comes_through_whole(here: DoorTarget) -> None:
    data = bytes(range(256)) * 1000
    assert here.run(("cat",), timeout_s=60, stdin=data).stdout == data


def test_everything_runs_in_the_c_locale(here: DoorTarget) -> None:
    assert here.run(("sh", "-c", "echo $LC_ALL"), timeout_s=60).text == "C\n"


def test_the_cpu_time_is_the_programs_own(here: DoorTarget) -> None:
    done = here.run(("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"), timeout_s=60)
    assert done.cpu_s is not None
    assert 0.05 < done.cpu_s <= done.duration_s + 0.1


def test_a_program_that_sleeps_has_used_no_cpu(here: DoorTarget) -> None:
    done = here.run(("sleep", "0.5"), timeout_s=60)
    assert done.cpu_s is not None
    assert done.cpu_s < 0.5


def test_a_program_is_pinned_where_it_was_asked_to_be(here: DoorTarget) -> None:
    import os

    cpu = min(os.sched_getaffinity(0))
    done = here.run(("sh", "-c", "taskset -pc $$"), timeout_s=60, cpu=cpu)
    assert done.text.strip().endswith(f": {cpu}")


def test_a_cpu_that_does_not_exist_there_pins_nothing(here: DoorTarget) -> None:
    assert here.run(("echo", "ran"), timeout_s=60, cpu=4000).text == "ran\n"


def test_a_program_that_is_not_there_is_no_failure_of_the_network(here: DoorTarget) -> None:
    with pytest.raises(MeasureFailed, match="the program no-such-program is not in here"):
        here.run(("no-such-program",), timeout_s=60)


def test_a_door_that_does_not_open_is_reported_in_its_own_words() -> None:
    shut = DoorTarget(
        name="pod", kind=TargetKind.POD, commands=HostCommands("kind"),
        door=Door(closed=("sh", "-c", "echo 'Error from server (NotFound)' >&2; exit 1"), open=("sh",)),
    )  # fmt: skip
    with pytest.raises(MeasureFailed) as failed:
        shut.run(("ping",), timeout_s=60)
    assert failed.value.cause == "Error from server (NotFound)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_program_itself(here: DoorTarget, number: signal.Signals) -> None:
    script = f"trap 'echo told; exit 0' {number.name.removeprefix('SIG')}; echo up; while :; do sleep 0.05; done"
    with here.start(("sh", "-c", script)) as running:
        running.wait_for_output("up", timeout_s=60)
        done = running.stop(sig=number, timeout_s=60)
    assert (done.text, done.returncode, done.timed_out) == ("up\ntold\n", 0, False)


def test_a_program_that_a_signal_killed_says_so(here: DoorTarget) -> None:
    with here.start(("sleep", "60")) as running:
        done = running.stop(sig=signal.SIGTERM, timeout_s=60)
    assert done.returncode == -signal.SIGTERM


def stops(beat: Path) -> None:
    """Waits until nobody writes the file any more."""
    deadline = time.monotonic() + 60
    last = None
    while (now := beat.read_text() if beat.exists() else "") != last:
        assert time.monotonic() < deadline, "it still runs"
        last = now
        time.sleep(0.5)


def test_leaving_the_context_ends_the_program_behind_the_door(here: DoorTarget, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    with here.start(("sh", "-c", f"echo up; while :; do date +%N > {beat}; sleep 0.02; done")) as running:
        running.wait_for_output("up", timeout_s=60)
    stops(beat)


def test_a_door_that_is_closed_from_outside_ends_the_program_behind_it(here: DoorTarget, tmp_path: Path) -> None:
    """`kubectl` is killed, its connection is cut: what the other side sees of it is the end of standard input."""
    beat, doorkeeper = tmp_path / "beat", tmp_path / "doorkeeper"
    way = ("sh", "-c", f'cat | ( echo $$ > {doorkeeper}; exec setsid "$@" )', "door")
    cut = replace(here, door=Door(closed=way, open=way))
    script = f"trap '' TERM; echo up; while :; do date +%N > {beat}; sleep 0.02; done"
    with cut.start(("sh", "-c", script)) as running:
        running.wait_for_output("up", timeout_s=60)
        os.killpg(int(doorkeeper.read_text()), signal.SIGKILL)
        stops(beat)


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_every_shell_ends_what_it_watches_with_its_input_and_passes_signals_on(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this host")
    script = "trap 'echo told' INT; trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done"
    _, *words = wrapped(("sh", "-c", script), pid_file=str(tmp_path / "pid"), is_watched=True)
    argv = ((shell, "sh") if shell == "busybox" else (shell,)) + tuple(words)
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as watched:
        try:
            assert watched.stdin is not None
            assert watched.stdout is not None
            assert watched.stdout.readline() == b"up\n"
            watched.stdin.write(b"2\n")
            watched.stdin.flush()
            assert watched.stdout.readline() == b"told\n"
            _, said = watched.communicate(timeout=60)  # closes its input
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(watched.pid, signal.SIGKILL)
    done = Completed(argv=("sh",), returncode=watched.returncode, stdout=b"", stderr=said, duration_s=1.0)
    ended = unwrapped(done, ("sh",), "here")
    assert (ended.returncode, ended.error_text) == (7, "")
    assert not (tmp_path / "pid").exists()


def test_a_deadline_ends_the_program_behind_the_door(here: DoorTarget, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    for deadline_s in (0.5, 5.0, 60.0):
        done = here.run(("sh", "-c", f"while :; do date +%N > {beat}; sleep 0.02; done"), timeout_s=deadline_s)
        assert done.timed_out
        stops(beat)
        if beat.exists():  # on a busy machine it may not have begun by then
            return
    raise AssertionError("it never began")


def test_a_deadline_leaves_no_pid_file_behind(
    here: DoorTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid_file = tmp_path / "pid"
    monkeypatch.setattr("labctl.providers.cilium.targets._pid_file", lambda: str(pid_file))
    assert here.run(("sleep", "60"), timeout_s=0.5).timed_out
    assert not pid_file.exists()


def test_kubectls_own_line_about_the_status_is_not_the_programs() -> None:
    done = Completed(
        argv=("kubectl",), returncode=1, stdout=b"", duration_s=1.0,
        stderr=b"ping: bad\nlabctl-times\n0m0.00s 0m0.00s\n0m0.01s 0m0.02s\ncommand terminated with exit code 1\n",
    )  # fmt: skip
    seen = unwrapped(done, ("ping",), "client")
    assert seen.error_text == "ping: bad\n"
    assert seen.cpu_s == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0m0.00s 0m0.00s\n1m2.50s 0m0.25s\n", 62.75),  # dash
        ("0m0.001s 0m0.002s\n0m0.010s 0m0.020s\n", 0.03),  # bash, busybox
        ("nothing", None),
    ],
)
def test_times_of_every_shell_are_read(text: str, seconds: float | None) -> None:
    assert parse_times(text) == (None if seconds is None else pytest.approx(seconds))


def test_output_can_go_straight_to_a_file(here: DoorTarget, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file, here.start(("echo", "streamed"), output=file.fileno()) as running:
        done = running.wait(timeout_s=60)
    assert (done.text, (tmp_path / "out").read_text()) == ("", "streamed\n")


def test_a_program_that_is_not_in_the_pod_is_missing_and_no_failure_of_the_network() -> None:
    text = b"env: 'sockperf': No such file or directory\nlabctl-times\n0m0.00s 0m0.00s\n0m0.01s 0m0.01s\n"
    done = Completed(argv=("kubectl",), returncode=127, stdout=b"", stderr=text, duration_s=0.1, timed_out=False)
    with pytest.raises(ToolMissing, match="the program sockperf is not in server"):
        unwrapped(done, ("sockperf", "server"), "server")


def test_a_monitor_without_an_endpoint_is_never_started() -> None:
    with pytest.raises(MeasureFailed, match="no endpoint to watch"):
        argv_monitor(())
    assert "--related-to" in argv_monitor((7,))


def test_a_server_program_that_the_image_lacks_is_reported_at_once_and_by_name() -> None:
    """Through real shells: what a pod without sockperf does."""
    lab = example_lab()
    here = Door(closed=(), open=())
    pods = [
        DoorTarget(name=pod.name, kind=TargetKind.POD, door=here, commands=HostCommands("kind")) for pod in lab.pods
    ]
    raw = MemoryRaw()
    spec = CheckSpec(name="latency", kind="latency", parameters=LatencyParameters())
    context = CheckContext(open_lab=ScriptedLab(lab, pods), pair=lab.pairs[0], spec=spec, raw=raw)  # type: ignore[arg-type]
    begun = time.monotonic()
    with pytest.raises(ToolMissing, match="the program no-such-sockperf is not in server"):
        exchange(
            context,
            RawFiles(raw),
            service=ServerCommand(argv=("no-such-sockperf", "server"), ready="ready"),
            client_argv=("true",),
            timeout_s=600,
        )
    assert time.monotonic() - begun < 60


class _Behind(HostCommands):
    """As over ssh: what comes after the host's name goes to a shell there, its words with blanks between them."""

    prefix = ("sh", "-c", 'eval "$*"', "ssh")


@pytest.mark.parametrize(
    "argv",
    [("printf", "%s|", "a b", "$HOME", "it's", "*"), ("sh", "-c", "echo one; echo two | tr t T"), ("printf", "plain")],
)
def test_the_command_of_a_target_behind_ssh_runs_there_as_it_is_written(argv: tuple[str, ...]) -> None:
    there = DoorTarget(
        name="pod", kind=TargetKind.POD, door=Door(closed=("env",), open=("env",)), commands=_Behind("kubeadm")
    )
    ran = subprocess.run(there.command(argv), capture_output=True, text=True, check=True)
    assert ran.stdout == subprocess.run(argv, capture_output=True, text=True, check=True).stdout
