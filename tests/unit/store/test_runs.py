"""Runs on disk: written, cut short, resumed, sealed, edited, found.

Of their raw files nothing is overwritten and nothing leaves its directory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from labctl.errors import Interrupted, LabError, MeasureFailed, UsageError
from labctl.model.comparison import Environment
from labctl.store.journal import RunState
from labctl.store.reading import StoredRun, UnreadableRun, find_run, list_runs, open_run
from labctl.store.runs import MemorySinks, RawDirectory, Run, create_run, is_being_written, resume_run, safe_name
from labctl.system.files import open_folder

HERE = Environment(kernel="6.1.0", cpu_model="Test CPU", cpus=2)


def make_run(runs_dir: Path, name: str = "bpf") -> Path:
    """A complete run with one entry, one raw file and a result."""
    with create_run(runs_dir, kind="check", name=name, labs={}, environment=HERE, argv=["labctl", "check"]) as run:
        run.sink("ping").save("stdout.txt", b"64 bytes\n")
        run.record("check", {"verdict": "pass"})
        run.save_result({"kind": "Check"})
    return run.path


def test_a_complete_run_records_the_user_the_command_the_host_and_the_end(tmp_path: Path) -> None:
    with create_run(
        tmp_path / "runs",
        kind="compare",
        name="a-b",
        labs={},
        settings={"rounds": 3},
        environment=HERE,
        argv=["labctl"],
    ) as run:
        assert run.manifest.state is RunState.RUNNING
        run.settle({"seed": 7, "order": "a b b a"})
    document = json.loads((run.path / "run.json").read_text())
    assert (document["apiVersion"], document["kind"], document["runKind"]) == ("labctl/v1", "Run", "compare")
    assert document["state"] == "complete"
    assert document["argv"] == ["labctl"]
    assert document["settings"] == {"rounds": 3, "seed": 7, "order": "a b b a"}
    assert document["environment"]["kernel"] == "6.1.0"
    assert document["startedAt"] <= document["endedAt"]
    assert document["id"] == run.path.name


def test_the_directory_name_sorts_by_time_and_names_kind_and_scenario(tmp_path: Path) -> None:
    path = make_run(tmp_path, name="legacy native/../x")
    time, kind, *rest = path.name.split("-")
    assert len(time) == len("20261122T103220Z")
    assert kind == "check"
    assert "-".join(rest[:-1]) == "legacy-native-..-x"
    assert path.parent == tmp_path


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "Ctrl-C"),
        (Interrupted(what="interrupted by SIGTERM"), "interrupted", "interrupted by SIGTERM"),
        (MeasureFailed(what="no server"), "failed", "no server"),
        (RuntimeError("a defect"), "failed", "RuntimeError: a defect"),
        (KeyError("node1"), "failed", "KeyError: 'node1'"),
        (AssertionError(), "failed", "AssertionError"),
    ],
)
def test_a_run_that_an_error_ends_says_so_and_keeps_what_it_has(
    tmp_path: Path, error: BaseException, state: str, reason: str
) -> None:
    def stopped() -> None:
        with create_run(tmp_path, kind="check", name="x", labs={}, environment=HERE, argv=[]) as run:
            run.record("check", {"n": 1})
            raise error

    with pytest.raises(type(error)):
        stopped()
    (path,) = tmp_path.iterdir()
    stored = open_run(path)
    assert stored.manifest.state == state
    assert stored.manifest.reason == reason
    assert [entry.content for entry in stored.entries("check")] == [{"n": 1}]
    stored.require_intact()


def test_an_error_of_the_command_itself_is_not_mistaken_for_a_disk_error(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError),
        create_run(tmp_path, kind="check", name="x", labs={}, environment=HERE, argv=[]),
    ):
        raise FileNotFoundError("something of the engine's")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from labctl.model.comparison import Environment
    from labctl.store.runs import create_run
    here = Environment(kernel="k", cpu_model="c", cpus=1)
    with create_run(Path(sys.argv[1]), kind="compare", name="x", labs={}, environment=here) as run:
        for number in range(3):
            run.sink("ping").save("out", b"raw")
            run.record("block", {"n": number})
        os.write(run._journal._descriptor, b'{"kind":"block","at":"now","n":3')
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run_that_was_killed(runs_dir: Path) -> Path:
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(runs_dir)], check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    (path,) = runs_dir.iterdir()
    return path


def test_a_run_that_was_killed_is_readable_up_to_its_last_whole_line(tmp_path: Path) -> None:
    stored = open_run(run_that_was_killed(tmp_path))
    assert stored.manifest.state is RunState.INTERRUPTED
    assert "killed" in stored.manifest.reason
    assert [entry.content["n"] for entry in stored.entries("block")] == [0, 1, 2]
    assert stored.seal() is None
    assert stored.result() is None


def test_a_killed_run_is_resumed_without_the_half_line_and_with_fresh_raw_directories(tmp_path: Path) -> None:
    path = run_that_was_killed(tmp_path)
    with resume_run(path) as run:
        assert run.sink("ping").save("out", b"raw") == "raw/0004-ping/out"
        run.record("block", {"n": 3})
    stored = open_run(path)
    assert [entry.kind for entry in stored.entries()] == ["block", "block", "block", "resumed", "block"]
    assert stored.manifest.state is RunState.COMPLETE
    assert stored.manifest.reason == ""
    stored.require_intact()


def test_a_complete_run_is_not_resumed(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    with pytest.raises(UsageError, match="is complete"), resume_run(path):
        pass
    open_run(path).require_intact()


def test_a_run_that_is_being_written_is_refused_to_a_second_writer(tmp_path: Path) -> None:
    with create_run(tmp_path, kind="check", name="x", labs={}, environment=HERE, argv=[]) as run:
        assert is_being_written(run.path)
        assert open_run(run.path).manifest.state is RunState.RUNNING
        with pytest.raises(UsageError, match="is being written by another labctl"), resume_run(run.path):
            pass
    assert not is_being_written(run.path)


def test_runs_that_start_in_the_same_second_never_share_a_directory(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(make_run(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8
    assert len(list_runs(tmp_path)) == 8


def test_a_result_saved_after_the_end_is_under_the_seal(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    run = Run(open_folder(path), open_run(path).manifest)
    run.save_result({"kind": "Check", "late": True})
    stored = open_run(path)
    assert stored.result() == {"kind": "Check", "late": True}
    stored.require_intact()


@pytest.mark.parametrize("victim", ["run.json", "journal.jsonl", "result.json", "raw/0001-ping/stdout.txt"])
def test_every_edited_file_is_found_by_name(tmp_path: Path, victim: str) -> None:
    path = make_run(tmp_path)
    with (path / victim).open("ab") as file:
        file.write(b" ")
    with pytest.raises(LabError, match="was changed after it ended") as raised:
        open_run(path).require_intact()
    assert raised.value.cause == f"edited: {victim}"


def test_lost_and_added_files_are_found(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / "result.json").unlink()
    (path / "raw/0001-ping/other.txt").write_text("new")
    found = open_run(path).seal()
    assert found is not None
    assert (found.edited, found.missing, found.added) == ((), ("result.json",), ("raw/0001-ping/other.txt",))


def test_the_seal_can_be_checked_by_hand(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    checked = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=path, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert len(checked.stdout.splitlines()) == 4


def test_a_damaged_seal_is_an_error_and_not_an_intact_run(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(LabError, match="SHA256SUMS:1: this line is not a checksum"):
        open_run(path).require_intact()


def test_a_run_of_another_version_is_refused_with_the_version_that_reads_it(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    document = json.loads((path / "run.json").read_text()) | {"apiVersion": "labctl/v2", "labctlVersion": "2.0.1"}
    (path / "run.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="not a run that this labctl can read") as raised:
        open_run(path)
    assert raised.value.lines() == (
        f"error: {path} is not a run that this labctl can read",
        "  why: it has apiVersion labctl/v2 and kind Run; this labctl reads labctl/v1 and Run",
        "  try: use the labctl that wrote it (2.0.1)",
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"apiVersion":"labctl/v1","kind":"Run"}'],
    ids=["empty", "cut", "a list", "binary", "keys missing"],
)
def test_a_damaged_manifest_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = make_run(tmp_path)
    (path / "run.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"run\.json is damaged"):
        open_run(path)


def test_an_unknown_state_is_a_clear_error(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    text = (path / "run.json").read_text().replace('"complete"', '"done"')
    (path / "run.json").write_text(text)
    with pytest.raises(UsageError, match="damaged"):
        open_run(path)


def test_listing_goes_by_time_and_names_what_cannot_be_read(tmp_path: Path) -> None:
    good = make_run(tmp_path)
    bad = tmp_path / "20000101T000000Z-check-old-000000"
    bad.mkdir()
    (bad / "run.json").write_text("{")
    (tmp_path / "not-a-run").mkdir()
    first, second = list_runs(tmp_path)
    assert isinstance(first, UnreadableRun)
    assert first.path == bad
    assert isinstance(second, StoredRun)
    assert second.path == good


def test_no_runs_directory_is_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "nothing") == ()


def test_a_run_is_found_by_path_name_beginning_and_last(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    for wanted in (str(path), path.name, path.name[:-2], "last"):
        assert find_run(tmp_path, wanted).path.name == path.name


def test_an_ambiguous_beginning_names_the_candidates(tmp_path: Path) -> None:
    names = sorted(make_run(tmp_path).name for _ in range(2))
    with pytest.raises(UsageError, match="is the beginning of 2 runs") as raised:
        find_run(tmp_path, "2")
    assert raised.value.cause == ", ".join(names)


def test_an_unknown_run_gets_a_suggestion(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    with pytest.raises(UsageError, match="there is no run") as raised:
        find_run(tmp_path, "x" + path.name)
    assert raised.value.cause == f"did you mean {path.name}?"


@pytest.mark.parametrize("wanted", ["", "last", "x"])
def test_nothing_is_found_where_there_are_no_runs(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(UsageError):
        find_run(tmp_path, wanted)


def test_a_raw_file_outside_the_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    stored = open_run(make_run(tmp_path))
    assert stored.raw("raw/0001-ping/stdout.txt") == b"64 bytes\n"
    with pytest.raises(LabError, match="is not inside run"):
        stored.raw("../secret")
    with pytest.raises(LabError, match="cannot be read"):
        stored.raw("raw/none")


def test_a_runs_directory_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(LabError, match="cannot write to") as raised:
        make_run(tmp_path / "runs")
    assert "--runs-dir" in raised.value.remedy


def test_a_full_disk_stops_the_run_with_a_message_and_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the kernel takes a part of a line and refuses the rest."""
    program = """
        import resource, signal, sys
        from pathlib import Path
        from labctl.errors import LabError
        from labctl.model.comparison import Environment
        from labctl.store.runs import create_run
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        here = Environment(kernel="k", cpu_model="c", cpus=1)
        try:
            with create_run(Path(sys.argv[1]), kind="check", name="x", labs={}, environment=here) as run:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
                for number in range(1000):
                    run.record("block", {"n": number, "padding": "x" * 100})
        except LabError as told:
            print(told.what)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, check=True, timeout=120
    )
    assert ended.stdout.startswith(b"cannot write to ")
    (path,) = tmp_path.iterdir()
    stored = open_run(path)
    assert stored.manifest.state is RunState.FAILED
    numbers = [entry.content["n"] for entry in stored.entries("block")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 20


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files and folders were brought to the disk, in that order."""
    found: list[str] = []

    def remember(descriptor: int) -> None:
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", remember)
    monkeypatch.setattr(os, "fdatasync", remember)
    return found


def test_raw_files_their_folders_and_the_journal_are_synced_on_request(tmp_path: Path, flushed: list[str]) -> None:
    with create_run(tmp_path, kind="check", name="x", labs={}, environment=HERE, argv=[]) as run:
        sink = run.sink("ping")
        sink.save("a.txt", b"")
        sink.save("b.txt", b"")
        run.sink("ping").save("c.txt", b"")
        flushed.clear()
        run.sync()
        last = ["raw", "journal.jsonl", run.id]
        assert flushed == ["c.txt", "0002-ping", "b.txt", "a.txt", "0001-ping", *last]
        run.sync()
        assert flushed[8:] == last[1:]


def test_a_run_that_ended_is_on_the_disk_with_every_folder_that_names_it(tmp_path: Path, flushed: list[str]) -> None:
    """A power cut after the last word of the command takes none of it."""
    runs_dir = tmp_path / "new" / "runs"
    with create_run(runs_dir, kind="check", name="x", labs={}, environment=HERE, argv=[]) as run:
        run.sink("ping").save("a.txt", b"")
        run.record("run", {})
        run.save_result({})
    named = {path.name for path in (runs_dir.parent, *runs_dir.parent.rglob("*")) if path.name != ".lock"}
    aside = {name.split(".")[1] for name in flushed if name.startswith(".")}
    assert aside == {"run", "result", "SHA256SUMS"}, "written aside, flushed, then renamed"
    assert named - {"run.json", "result.json", "SHA256SUMS"} <= set(flushed)
    assert tmp_path.name in flushed
    assert flushed[-1] == run.id


def test_a_name_used_twice_gets_a_number_and_nothing_is_overwritten(tmp_path: Path) -> None:
    written: list[str] = []
    sink = RawDirectory(open_folder(tmp_path), "0001-ping", written.append)
    names = [sink.save("out.tar.gz", data) for data in (b"1", b"2", b"3")]
    assert names == [f"raw/0001-ping/out{number}.tar.gz" for number in ("", "-2", "-3")]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"1", b"2", b"3"]
    assert written == names


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "lxc3f → x", "x" * 300])
def test_a_hostile_name_stays_inside_the_directory(tmp_path: Path, name: str) -> None:
    stored = RawDirectory(open_folder(tmp_path), "0001-ping", lambda _: None).save(name, b"data")
    path = (tmp_path / stored).resolve()
    assert path.parent == tmp_path / "raw/0001-ping"
    assert path.read_bytes() == b"data"


def test_a_sink_that_saved_nothing_leaves_no_directory(tmp_path: Path) -> None:
    RawDirectory(open_folder(tmp_path), "0001-ping", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("in the way")
    with pytest.raises(LabError, match="cannot write to"):
        RawDirectory(open_folder(tmp_path), "0001-ping", lambda _: None).save("out", b"")


def test_safe_names_keep_what_is_harmless() -> None:
    assert safe_name("iperf_udp-client-server.json") == "iperf_udp-client-server.json"


def test_memory_sinks_keep_files_by_name() -> None:
    sinks = MemorySinks()
    assert [sinks("ping").save("out.txt", data) for data in (b"1", b"2")] == ["out.txt", "out-2.txt"]
    assert sinks("ping").files == {"out.txt": b"1", "out-2.txt": b"2"}
    assert sinks("iperf").files == {}
