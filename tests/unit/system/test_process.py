from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from labctl.errors import MeasureFailed
from labctl.system import process
from labctl.system.process import Process


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second when it ends between opening and reading
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while is_there(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def test_output_exit_code_and_input_come_through() -> None:
    done = process.run(("sh", "-c", "cat; echo oops >&2; exit 3"), timeout_s=60, stdin=b"hello\n")
    assert (done.returncode, done.stdout, done.stderr, done.timed_out) == (3, b"hello\n", b"oops\n", False)


def test_output_larger_than_any_pipe_does_not_block() -> None:
    done = process.run(("head", "-c", "3000000", "/dev/zero"), timeout_s=60)
    assert done.returncode == 0
    assert len(done.stdout) == 3_000_000


def test_the_locale_is_c_whatever_the_user_has(monkeypatch: pytest.MonkeyPatch) -> None:
    done = process.run(("sh", "-c", "echo $LC_ALL"), timeout_s=60)
    assert done.text == "C\n"


def test_a_deadline_kills_the_whole_group_and_is_said() -> None:
    begun = time.monotonic()
    with Process(("sh", "-c", "sleep 300 & echo $!; wait")) as running:
        running.wait_for_output("\n", timeout_s=60)
        done = running.wait(timeout_s=0.2)
    assert time.monotonic() - begun < 120
    assert done.timed_out
    assert done.returncode == -signal.SIGKILL
    wait_until_gone(int(done.text))


def test_leaving_the_context_kills_the_whole_group() -> None:
    with Process(("sh", "-c", "sleep 60 & echo $!; wait")) as running:
        running.wait_for_output("\n", timeout_s=60)
        pid = running.pid
        assert running.is_alive()
    wait_until_gone(pid)
    wait_until_gone(int(running.wait(timeout_s=60).text))


def test_stop_sends_the_signal_and_gives_what_was_printed() -> None:
    with Process(("sh", "-c", "trap 'echo bye; exit 7' INT; echo ready; while :; do sleep 0.01; done")) as running:
        running.wait_for_output("ready", timeout_s=60)
        done = running.stop(sig=signal.SIGINT)
    assert (done.returncode, done.text) == (7, "ready\nbye\n")


def test_own_cpu_time_is_counted_and_not_the_waiting() -> None:
    busy = process.run((sys.executable, "-c", "sum(range(3_000_000))"), timeout_s=120)
    idle = process.run(("sleep", "0.5"), timeout_s=60)
    assert busy.cpu_s is not None
    assert idle.cpu_s is not None
    assert busy.cpu_s > 0.02
    assert idle.cpu_s < 0.5


def test_a_process_runs_on_the_cpu_that_is_asked_for() -> None:
    cpu = max(os.sched_getaffinity(0))
    done = process.run(("sh", "-c", "grep Cpus_allowed_list /proc/self/status"), timeout_s=60, cpu=cpu)
    assert done.text.split() == ["Cpus_allowed_list:", str(cpu)]
    elsewhere = process.run(("sh", "-c", "grep Cpus_allowed_list /proc/self/status"), timeout_s=60)
    assert (
        elsewhere.text
        == subprocess.run(
            ["grep", "Cpus_allowed_list", "/proc/self/status"], capture_output=True, text=True, check=True
        ).stdout
    )


def test_a_program_that_is_not_there_says_so() -> None:
    with pytest.raises(MeasureFailed, match="the program no-such-program is not on this host"):
        process.run(("no-such-program",), timeout_s=1)


def test_waiting_for_output_that_never_comes_says_what_was_seen() -> None:
    with Process(("sh", "-c", "echo something else; sleep 60")) as running:
        running.wait_for_output("something else", timeout_s=60)
        with pytest.raises(MeasureFailed) as failed:
            running.wait_for_output("listening", timeout_s=0.3)
    assert failed.value.what == "sh did not print 'listening' within 0.3 s"
    assert failed.value.cause == "it printed: something else"


def test_waiting_for_output_of_a_process_that_ended_does_not_wait_on() -> None:
    begun = time.monotonic()
    with Process(("false",)) as running, pytest.raises(MeasureFailed, match="false ended before"):
        running.wait_for_output("listening", timeout_s=120)
    assert time.monotonic() - begun < 60


def test_a_process_outlives_the_thread_that_started_it() -> None:
    started: list[Process] = []
    thread = threading.Thread(target=lambda: started.append(Process(("sleep", "60"))))
    thread.start()
    thread.join()
    with started[0] as running:
        time.sleep(0.1)
        assert running.is_alive()


def test_children_do_not_survive_a_killed_labctl() -> None:
    script = (
        "import time; from labctl.system.process import Process\n"
        "p = Process(('sleep', '60')); print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as labctl:
        assert labctl.stdout is not None
        pid = int(labctl.stdout.readline())
        deadline = time.monotonic() + 60
        while b"setpriv" in Path(f"/proc/{pid}/cmdline").read_bytes() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_there(pid)
        labctl.kill()
    wait_until_gone(pid)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'setpriv: unrecognized option: pdeathsig' >&2; exit 1", "unrecognized option: pdeathsig"),
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "exit code -9"),
    ],
)
def test_a_setpriv_that_cannot_do_it_is_not_blamed_on_the_program_and_bounds_none(
    tmp_path: Path, script: str, words: str
) -> None:
    """As busybox's, which stands first on PATH."""
    (tmp_path / "setpriv").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "setpriv").chmod(0o755)
    code = (
        "from pathlib import Path\n"
        "from labctl.errors import MeasureFailed\n"
        "from labctl.system import process\n"
        "from labctl.system.powers import Powers\n"
        "print(process.run(('echo', 'well'), timeout_s=60).text)\n"
        "try: process.run(('true',), timeout_s=60, powers=Powers.POD, namespace=Path('/proc/self/ns/net'))\n"
        "except MeasureFailed as failed: print(failed.what, failed.cause)\n"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    argv = (sys.executable, "-c", code)
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.startswith("well\n")
    assert "setpriv, which limits a program's privileges, cannot do so" in ended.stdout
    assert words in ended.stdout


def test_a_word_that_no_program_can_be_given_is_an_error() -> None:
    with pytest.raises(MeasureFailed, match="could not start echo"):
        process.run(("echo", "a\0b"), timeout_s=60)


FLOODS = {
    "standard output": ("yes",),
    "standard error": ("sh", "-c", "yes >&2"),
    "a line without an end": ("cat", "/dev/zero"),
    "one that does not mind that it cannot write": ("sh", "-c", "while :; do printf %1000000s x; done 2>/dev/null"),
    "a child that stays": ("sh", "-c", "yes & wait"),
    "a stream that it opens by name": ("sh", "-c", "exec yes > /dev/stderr"),
}


@pytest.mark.parametrize("argv", FLOODS.values(), ids=FLOODS)
def test_what_prints_without_an_end_is_ended_and_is_an_error(
    argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MOST_OUTPUT_BYTE", 2 << 20)
    monkeypatch.setattr(process, "_MOST_LOG_BYTE", 4 << 20)
    begun = time.monotonic()
    with Process(argv) as running, pytest.raises(MeasureFailed, match=rf"{argv[0]} printed more than [24] MiB"):
        running.wait(timeout_s=60)
    assert time.monotonic() - begun < 60
    with pytest.raises(MeasureFailed, match="printed more than"):
        running.wait(timeout_s=1)
    with pytest.raises(MeasureFailed, match="printed more than"):
        running.stop()


def test_waiting_for_words_ends_with_what_prints_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MOST_OUTPUT_BYTE", 2 << 20)
    with Process(("yes",)) as running, pytest.raises(MeasureFailed, match="yes printed more than 2 MiB"):
        running.wait_for_output("ready", timeout_s=60)


def test_it_cannot_print_more_without_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MOST_OUTPUT_BYTE", 2 << 20)
    with Process(("yes",)) as running:
        deadline = time.monotonic() + 60
        while running.is_alive():
            assert time.monotonic() < deadline, "it still prints"
            time.sleep(0.01)


def test_what_is_just_not_too_much_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MOST_OUTPUT_BYTE", 1 << 20)
    argv = ("sh", "-c", f"head -c {(1 << 20) - 1} /dev/zero; printf %s err >&2")
    done = process.run(argv, timeout_s=120)
    assert (done.returncode, len(done.stdout), done.stderr) == (0, (1 << 20) - 1, b"err")


def test_a_program_that_opens_its_stream_by_name_is_read() -> None:
    """sockperf opens /dev/stderr for its log, and so truncates it."""
    done = process.run(("sh", "-c", "echo log > /dev/stderr; echo more >> /dev/stdout"), timeout_s=60)
    assert (done.stdout, done.stderr) == (b"more\n", b"log\n")


def test_memory_stays_bounded_with_what_prints_without_an_end() -> None:
    code = (
        "from labctl.errors import MeasureFailed\n"
        "from labctl.system import process\n"
        "for argv in (('yes',), ('cat', '/dev/zero')):\n"
        "    try: process.run(argv, timeout_s=60).text\n"
        "    except MeasureFailed as failed: print(failed)\n"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.count("printed more than 32 MiB") == 2
    assert int(done.stdout.split()[-2]) < 100_000  # kB


def test_a_program_gets_the_directory_and_the_environment_that_are_asked_for(tmp_path: Path) -> None:
    argv = ("sh", "-c", 'pwd; printf "%s %s" "$LABCTL_TEST" "$LC_ALL"')
    done = process.run(argv, timeout_s=120, directory=tmp_path, environment={"LABCTL_TEST": "there"})
    assert done.text.split() == [str(tmp_path), "there", "C"]
    here = process.run(argv, timeout_s=120)
    assert here.text.split()[0] == str(Path.cwd())
    assert "there" not in here.text
