"""The command line's contract: exit codes, one JSON document on stdout, progress on stderr, no traceback."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from labctl.cli.group import COMMANDS, labctl
from labctl.errors import HostLacks, Interrupted, MeasureFailed, NeedsRoot, NotInForce, StepFailed, UsageError
from labctl.model.result import Verdict
from labctl.providers.base import Probe

from .conftest import Bench

SHOWS_NOTHING = {"exec", "watch"}
"""The one's output is that of the command it runs; the other is a screen, whose data `labctl events --json` has."""

IPERF3 = Probe(
    name="iperf3", present=False, found="not there", needed_for="check iperf", remedy="apt-get install iperf3"
)
CLANG = Probe(
    name="clang",
    present=False,
    found="not there",
    needed_for="rebuilding",
    remedy="apt-get install clang",
    required=False,
)


def command(name: str) -> click.Command:
    found = labctl.get_command(click.Context(labctl), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - SHOWS_NOTHING))
def test_every_command_that_shows_something_takes_json(name: str) -> None:
    asked = command(name)
    for each in asked.commands.values() if isinstance(asked, click.Group) else (asked,):
        if each.hidden:
            continue
        assert "--json" in {option for parameter in each.params for option in parameter.opts}, each.name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_says_what_it_does(bench: Bench, name: str) -> None:
    said = bench.run(name, "--help")
    assert said.code == 0
    assert f"labctl {name} " in said.out.splitlines()[0]
    assert command(name).help
    assert COMMANDS[name][1].endswith(".")


def test_the_help_has_every_command_and_every_exit_code(bench: Bench) -> None:
    said = bench.run("--help")
    assert all(f"  {name} " in said.out for name in COMMANDS)
    codes = re.findall(r"(?<=[ ·] )(\d+)(?= )", " ".join(said.out.partition("Exit codes:")[2].split()))
    assert codes == ["1", "2", "3", "4", "130"]


def test_labctl_alone_shows_the_help_as_a_usage_error(bench: Bench) -> None:
    said = bench.run()
    assert (said.code, said.out) == (2, "")
    assert "Start with: labctl compare legacy bpf" in said.err


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (("list",), "LabList"),
        (("up", "bpf", "--name", "new"), "Up"),
        (("up", "bpf", "--name", "mine"), "Up"),
        (("down", "mine"), "Down"),
        (("down", "--all"), "Down"),
        (("status", "mine"), "Status"),
        (("status", "mine", "--no-proof"), "Status"),
        (("status", "mine", "--datapath"), "Status"),
        (("check", "mine"), "CheckReport"),
        (("check", "mine", "ping"), "CheckReport"),
        (("plan", "bpf"), "Plan"),
        (("validate", "bpf", "legacy"), "Validation"),
        (("doctor",), "Doctor"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_stdout_is_exactly_one_json_document(bench: Bench, args: tuple[str, ...], kind: str) -> None:
    bench.is_up("mine")
    said = bench.run(*args, "--json")
    assert said.code == 0, said.err
    assert said.document["apiVersion"] == "labctl/v1"
    assert said.document["kind"] == kind


def test_the_schema_is_one_json_document_with_and_without_json(bench: Bench) -> None:
    assert bench.run("schema").document == bench.run("schema", "--json").document


def test_progress_goes_to_stderr_and_results_to_stdout(bench: Bench) -> None:
    said = bench.run("up", "bpf", "--name", "new")
    assert "[1/4] underlay" in said.err
    assert "built new in" in said.err
    assert "[1/4]" not in said.out
    assert said.out.startswith("lab new is up: 3 nodes, 3 pods\n")


def test_json_keeps_the_progress_on_stderr(bench: Bench) -> None:
    bench.is_up("mine")
    said = bench.run("check", "mine", "ping", "--json")
    assert "mine: ping client → server" in said.err
    assert "mine: mode in force proven" in said.err


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ({}, 0),
        ({"ping": Verdict.SKIP}, 0),
        ({"ping": Verdict.FAIL}, 1),
        ({"ping": Verdict.ERROR}, 4),
        ({"ping": Verdict.FAIL, "iperf": Verdict.ERROR}, 4),
    ],
    ids=["all pass", "one skipped", "one failed", "one not measured", "one failed and one not measured"],
)
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["text", "json"])
def test_the_exit_code_of_check_is_that_of_its_verdicts(
    bench: Bench, verdicts: dict[str, Verdict], code: int, as_json: tuple[str, ...]
) -> None:
    bench.is_up("mine")
    bench.verdicts.update(verdicts)
    assert bench.run("check", "mine", *as_json).code == code


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (UsageError("no"), 2),
        (HostLacks("no"), 3),
        (NeedsRoot("no"), 3),
        (StepFailed("no"), 4),
        (MeasureFailed("no"), 4),
        (NotInForce("no"), 4),
        (Interrupted("no"), 130),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_stops_a_command_has_its_exit_code_and_no_traceback(
    bench: Bench, stop: BaseException, code: int
) -> None:
    bench.provider.fails["make node1-link"] = stop
    said = bench.run("up", "bpf")
    assert said.code == code
    assert said.out == ""
    assert "Traceback" not in said.err
    assert bench.provider.things == []


def test_with_v_an_error_comes_with_its_traceback(bench: Bench) -> None:
    bench.provider.fails["make node1-link"] = StepFailed("no")
    said = bench.run("-v", "up", "bpf")
    assert said.code == 4
    assert "Traceback" in said.err
    assert said.err.endswith("error: no\n")


def test_a_defect_of_labctl_itself_is_no_verdict(bench: Bench) -> None:
    bench.provider.fails["make node1-link"] = ZeroDivisionError("division by zero")
    said = bench.run("up", "bpf")
    assert said.code == 4
    assert said.err.endswith("error: labctl itself failed: ZeroDivisionError: division by zero\n")


def test_a_missing_tool_is_named_with_what_it_is_for_and_what_mends_it(bench: Bench) -> None:
    bench.provider.lacking = (IPERF3, CLANG)
    for args in (("up", "bpf"), ("check", "bpf"), ("compare", "legacy", "bpf")):
        said = bench.run(*args)
        assert said.code == 3
        assert said.err.splitlines() == [
            "error: this host cannot run netns labs: it lacks iperf3",
            "  why: iperf3: not there (needed for check iperf)",
            "  try: apt-get install iperf3",
        ]
    assert bench.provider.log == []


def test_several_remedies_are_several_lines(bench: Bench) -> None:
    bench.provider.lacking = (IPERF3, replace(IPERF3, name="sockperf", remedy="modprobe x\napt-get install sockperf"))
    assert bench.run("up", "bpf").err.splitlines()[-3:] == [
        "  try: apt-get install iperf3",
        "       modprobe x",
        "       apt-get install sockperf",
    ]
    said = bench.run("doctor").out.splitlines()
    assert "  sockperf: modprobe x" in said
    assert said[said.index("  sockperf: modprobe x") + 1] == "            apt-get install sockperf"


@pytest.mark.parametrize("wrapped", [True, False])
def test_too_many_open_files_have_a_remedy_whoever_met_them(bench: Bench, *, wrapped: bool) -> None:
    full: Exception = OSError(errno.EMFILE, "Too many open files", "/proc/self/ns/net")
    if wrapped:
        full, full.__cause__ = StepFailed("cannot open the namespace", "[Errno 24] Too many open files"), full
    bench.provider.fails["make node1-link"] = full
    said = bench.run("up", "bpf")
    assert said.code == 4
    what, why, remedy = said.err.splitlines()[-3:]
    assert what == ("error: cannot open the namespace" if wrapped else "error: labctl cannot open any more files")
    assert re.fullmatch(r"  why: too many files are open: this process may have \d+ \(ulimit -n\)", why)
    assert re.fullmatch(r"  try: (ulimit -n|sudo prlimit --pid \$\$ --nofile=)\s?\d+  # then the same command", remedy)


def test_a_host_with_too_many_open_files_is_told_apart_from_a_process(bench: Bench) -> None:
    bench.provider.fails["make node1-link"] = OSError(errno.ENFILE, "Too many open files in system")
    assert (
        "       sudo sysctl -w fs.file-max=1000000  # then the same command" in bench.run("up", "bpf").err.splitlines()
    )


def test_without_root_the_same_command_with_sudo_is_the_remedy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.provider.lacking = (Probe(name="root", present=False, found="user 1000", needed_for="building labs"),)
    monkeypatch.setattr(sys, "argv", ["labctl", "up", "bpf", "--name", "a b"])
    said = bench.run("up", "bpf")
    launcher = Path(__file__).resolve().parents[3] / "labctl"
    assert said.code == 3
    assert said.err.splitlines() == [
        "error: building netns labs needs root",
        "  why: this is user 1000",
        f"  try: sudo {launcher} up bpf --name 'a b'",
    ]


def test_doctor_shows_what_is_missing_last_with_what_mends_it(bench: Bench) -> None:
    bench.provider.lacking = (
        IPERF3,
        CLANG,
        Probe(name="veth", present=True, found="tried, works", needed_for="building labs"),
    )
    said = bench.run("doctor")
    assert said.code == 3
    assert said.out.splitlines()[-4:] == [
        "Missing, and how to fix it:",
        "  iperf3: apt-get install iperf3",
        "Labs work without these:",
        "  clang: apt-get install clang",
    ]
    assert bench.run("doctor", "--json").document["ready"] is False


def test_doctor_is_content_with_a_host_that_lacks_only_what_is_optional(bench: Bench) -> None:
    bench.provider.lacking = (CLANG,)
    said = bench.run("doctor")
    assert said.code == 0
    assert said.out.endswith("this host can run netns labs\n")


@pytest.mark.parametrize(
    "args",
    [
        ("plan", "bpf"), ("plan", "bpf", "--json"), ("plan", "bpf", "--shell"), ("schema",), ("validate", "bpf"),
        ("--help",), ("validate", "--help"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_reader_who_goes_away_is_no_error(args: tuple[str, ...]) -> None:
    """`labctl plan bpf | true`: the pipe is closed before anything is written."""
    with subprocess.Popen(
        [sys.executable, "-m", "labctl", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
        assert (process.wait(timeout=120), error) == (0, b"")


def test_a_reader_who_goes_away_does_not_turn_a_bad_verdict_into_a_good_one(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("apiVersion: labctl/v1\nkind: Scenario\npodz: []\n")
    with subprocess.Popen(
        [sys.executable, "-m", "labctl", "validate", "--json", str(broken)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=120) == 2


@pytest.mark.parametrize(
    ("args", "code"), [(("validate", "nothing"), 2), (("plan", "nothing"), 2), (("--help",), 0)], ids=str
)
def test_a_reader_of_errors_who_goes_away_changes_no_exit_code(args: tuple[str, ...], code: int) -> None:
    """`labctl validate FILE 2>&1 | true`."""
    with subprocess.Popen(
        [sys.executable, "-m", "labctl", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=120) == code


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(closed: str) -> None:
    """As under cron and daemons. `validate` tells with its exit code too."""
    for scenario, code in (("bpf", 0), ("nothing", 2)):
        command = f'"$0" -m labctl validate {scenario} {closed}'
        assert subprocess.run(["sh", "-c", command, sys.executable], timeout=120).returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("plan", "bpf"), ("schema",), ("validate", "bpf"), ("runs",)], ids=" ".join)
def test_a_full_disk_behind_stdout_is_told_without_a_traceback(args: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "labctl", *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert ended.returncode == 4
    assert ended.stderr.splitlines()[:2] == ["error: cannot write to stdout", "  why: No space left on device"]
    assert "Traceback" not in ended.stderr


def test_ctrl_c_while_modules_are_read_in_is_no_traceback(tmp_path: Path) -> None:
    """A module that interrupts its own import stands for the person who is that quick."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    ended = subprocess.run(
        [sys.executable, "-m", "labctl", "list"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_help_imports_neither_yaml_nor_pydantic_nor_rich() -> None:
    """What makes `labctl --help` quick; bench/startup.py has the time."""
    program = (
        "import json, sys\nfrom labctl.cli.group import run\nrun(['--help'])\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert not {"yaml", "pydantic", "rich"} & set(json.loads(ended.stderr.splitlines()[-1]))


def test_listing_labs_loads_no_provider_that_can_have_none(tmp_path: Path) -> None:
    """What makes `labctl list` quick; bench/startup.py has the time."""
    program = (
        "import json, sys\nfrom labctl.cli.group import run\nrun(['list', '--json'])\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path), "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    loaded = json.loads(ended.stderr.splitlines()[-1])
    assert not {"yaml", "pydantic", "rich", "fabric", "ansible_runner"} & set(loaded)
    assert "labctl.providers.kind.provider" not in loaded
    assert "labctl.providers.kubeadm.provider" not in loaded


def test_doctor_tells_of_each_scenario_whether_it_can_run_here(bench: Bench) -> None:
    told = {one["name"]: one for one in bench.run("doctor", "--json").document["scenarios"]}
    assert told["bpf"]["ready"]
    assert "scenarios can run here:" in bench.run("doctor").out
    bench.provider.lacking = (IPERF3,)
    told = {one["name"]: one for one in bench.run("doctor", "--json").document["scenarios"]}
    assert told["bpf"] == {
        "name": "bpf",
        "ready": False,
        "missing": ["iperf3"],
        "remedies": ["apt-get install iperf3"],
        "refused": None,
    }
