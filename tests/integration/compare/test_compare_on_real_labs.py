"""Comparisons on real labs: killed and gone on with, re-read from raw files, reported in every form."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_page import ReportPage, raw_files

from labctl import units
from labctl.checks.iperf import measured_iperf
from labctl.checks.latency import measured_sockperf
from labctl.checks.load import FILE, PLACES_FILE, load_values
from labctl.checks.outcome import Measured, load_completed
from labctl.checks.ping import measured_ping
from labctl.checks.server import Exchange
from labctl.compare.statistics import CONFIDENCE, centre, log_ratios, paired_estimate, relative
from labctl.engine.comparison.stored import StoredComparison, read_comparison, stored_labs
from labctl.load.places import parts_of, read_places_file
from labctl.load.slices import read_slices_file
from labctl.model.comparison import RunRecord
from labctl.model.parameters import CheckParameters, IperfParameters, LatencyParameters, LoadParameters, PingParameters
from labctl.store.journal import RunState, read_journal
from labctl.store.reading import StoredRun, open_run

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="building namespaces needs root"),
    pytest.mark.skipif(
        not all(shutil.which(tool) for tool in ("ping", "iperf3", "sockperf", "tcpdump")),
        reason="needs ping, iperf3, sockperf and tcpdump: labctl doctor",
    ),
]

SCENARIO = """apiVersion: labctl/v1
kind: Scenario
nodes: 2
pods:
  - {{ name: client, node: node1 }}
  - {{ name: server, node: node2 }}
pairs:
  - {{ client: client, server: server }}
datapath:
  hostRouting: {mode}
  encapsulation: native
"""
DEADLINE_S = 120


def labctl(*args: str, cwd: Path, code: int = 0) -> str:
    """Standard output of a command that ends with that code."""
    ended = subprocess.run(
        [sys.executable, "-m", "labctl", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture
def scenarios(tmp_path: Path, host_as_found: str) -> tuple[str, str]:
    """Two scenario files whose names begin with this test's own prefix, which the names of their labs then do too."""
    for mode in ("legacy", "bpf"):
        (tmp_path / f"{host_as_found}-{mode}.yaml").write_text(SCENARIO.format(mode=mode))
    return f"{host_as_found}-legacy.yaml", f"{host_as_found}-bpf.yaml"


def only_run(directory: Path) -> Path:
    (path,) = (each.parent for each in (directory / "runs").glob("*/run.json"))
    return path


def stored(directory: Path) -> StoredComparison:
    return read_comparison(open_run(only_run(directory)))


def whole_blocks(directory: Path) -> int:
    return sum(
        entry.kind == "noise" for path in (directory / "runs").glob("*/journal.jsonl") for entry in read_journal(path)
    )


def test_a_matrix_that_was_killed_goes_on_by_the_same_command(tmp_path: Path, scenarios: tuple[str, str]) -> None:
    (tmp_path / "two.yaml").write_text(
        f"apiVersion: labctl/v1\nkind: Matrix\nscenarios: [{', '.join(scenarios)}]\nchecks: [ping]\nrounds: 8\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "labctl", "matrix", "two.yaml"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + DEADLINE_S
    while whole_blocks(tmp_path) < 2:
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no two blocks were measured"
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()

    before = stored(tmp_path)
    assert before.run.manifest.state is RunState.INTERRUPTED
    assert "killed" in before.run.manifest.reason
    assert len(before.comparisons()) == 1
    whole = before.measured.whole_blocks()
    kept = [record for record in before.measured.records if record.block in whole]

    labctl("matrix", "two.yaml", "--json", cwd=tmp_path)
    after = stored(tmp_path)
    assert after.run.manifest.state is RunState.COMPLETE
    times = Counter((r.block, r.side, r.check, r.client, r.server) for r in after.measured.records)
    assert set(times.values()) == {1}
    assert {block for block, *_ in times} == set(range(1, 9))
    assert [record for record in after.measured.records if record.block in whole] == kept
    journalled = Counter(
        entry.content["reading"]["block"]  # type: ignore[index]
        for entry in read_journal(only_run(tmp_path) / "journal.jsonl")
        if entry.kind == "noise"
    )
    assert set(journalled.values()) == {1}, "a whole block was measured twice"


def test_ctrl_c_removes_the_labs_reports_what_there_is_and_can_be_gone_on_with(
    tmp_path: Path, scenarios: tuple[str, str]
) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "labctl", "compare", *scenarios, "--checks", "ping", "--rounds", "9", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE_S
    while whole_blocks(tmp_path) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, error = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 130, error
    document = json.loads(out)
    assert "cut-short" in [warning["kind"] for warning in document["warnings"]]
    assert "labctl compare --resume" in error
    finished = json.loads(labctl("compare", "--resume", "last", "--json", cwd=tmp_path))
    assert "cut-short" not in [warning["kind"] for warning in finished["warnings"]]
    assert labctl("compare", "--resume", "last", cwd=tmp_path, code=2) == ""


def parsed(run: StoredRun, directory: str, parameters: CheckParameters) -> Measured:
    """The values of a check run, parsed again from what the tools had printed into that directory."""

    def load(name: str) -> bytes:
        return run.raw(f"{directory}/{name}")

    if isinstance(parameters, PingParameters):
        slices = [path.name.removesuffix(".json") for path in (run.path / directory).glob("ping*.json")]
        slices.sort(key=lambda name: int(name.partition("-")[2] or 1))
        return measured_ping([load_completed(name, load) for name in slices], parameters)
    client, server = load_completed("client", load), load_completed("server", load)
    if isinstance(parameters, IperfParameters):
        return measured_iperf(client, parameters)
    assert isinstance(parameters, LatencyParameters)
    return measured_sockperf(Exchange(client=client, servers=(server,)), parameters)


def parameters_of(run: StoredRun, side: str, check: str) -> CheckParameters:
    return next(spec.parameters for spec in stored_labs(run)[side].checks if spec.name == check)


def reparsed(record: RunRecord, read: StoredComparison) -> Measured:
    directory = str(Path(record.raw[0]).parent)
    return parsed(read.run, directory, parameters_of(read.run, record.side, record.check))


def require_loads_again(records: Sequence[RunRecord], read: StoredComparison) -> None:
    """The slices of both sides give every sample again, and the rounds that taps took down every part of the way."""
    pairs = {(record.client, record.server) for record in records}
    assert len(pairs) == 2, "the pods, and the nodes as their limit"
    for pair in pairs:
        found = {record.side: record for record in records if (record.client, record.server) == pair}
        files = {side: {Path(path).name: read.run.raw(path) for path in one.raw} for side, one in found.items()}
        slices = {side: read_slices_file(one[FILE])[1] for side, one in files.items()}
        session = {side: found[0].session for side, found in slices.items()}
        values = load_values({session[side]: found for side, found in slices.items()}, LoadParameters())
        for side, record in found.items():
            assert {sample.metric: sample.value for sample in record.samples} == values[session[side]]
            rounds, has_netfilter = read_places_file(files[side][PLACES_FILE])
            parts = parts_of(rounds, has_netfilter=has_netfilter)
            assert {part.metric: part.value for part in record.parts} == parts


def require_explained(explanations: Sequence[Mapping[str, Any]]) -> None:
    (found,) = explanations
    assert (found["metric"], found["placement"], found["reason"]) == ("latency_p50", "cross-node", None)
    parts = {part["part"]: part for part in found["parts"]}
    # Packets of the BPF side pass no hook of netfilter; both sides have everything else, and neither has a tunnel.
    assert parts["netfilter"]["a"] > 0
    assert parts["netfilter"]["b"] == 0
    assert all(parts[name][side] > 0 for name in ("stack", "devices", "wire", "ends") for side in ("a", "b"))
    assert (parts["tunnel"]["a"], parts["tunnel"]["b"]) == (0, 0)
    together = sum(part["difference"]["estimate"] for part in parts.values())
    assert found["explained"]["estimate"] == pytest.approx(together)
    assert found["difference"]["estimate"] == pytest.approx(together + found["rest"]["estimate"])


@pytest.mark.thorough
def test_every_figure_of_the_page_is_computed_again_from_the_raw_files_that_it_names(
    tmp_path: Path, scenarios: tuple[str, str]
) -> None:
    """From the page alone: result → blocks → check run → raw files, which are parsed and computed anew."""
    labctl(
        "compare", *scenarios, "--checks", "ping,iperf", "--rounds", "6", "--duration", "0.2",
        "--html", "page.html", cwd=tmp_path,
    )  # fmt: skip
    page = ReportPage((tmp_path / "page.html").read_text().replace("\u00a0", " "))
    (directory,) = page.run_directories()
    run = open_run(tmp_path / "runs" / directory)
    assert run.seal() is not None
    results = page.results()
    metrics = {line.cells[0].link.rpartition("-")[2] for line in results}
    assert {"rtt_p50", "loss", "throughput", "cpu_per_byte"} <= metrics
    used: set[str] = set()
    for result in results:
        metric = result.cells[0].link.rpartition("-")[2]
        samples: tuple[list[float], list[float]] = ([], [])
        blocks = page.blocks(result.cells[0].link)
        assert [line.texts[0] for line in blocks] == ["1", "2", "3", "4", "5", "6"]
        for block in blocks:
            for side, cell in enumerate(block.cells[1:3]):
                line = page.run(cell.link)
                assert line.texts[0].startswith(f"{block.texts[0]}.")
                assert line.texts[1] == "AB"[side]
                where, files = raw_files(line)
                there_are = sorted(path.name for path in (run.path / where).iterdir())
                assert files == len(there_are) if isinstance(files, int) else sorted(files) == there_are
                values = parsed(run, where, parameters_of(run, "ab"[side], line.texts[2])).values
                assert cell.values == [values[metric]]
                assert values[metric] in line.cells[5].values
                samples[side].append(values[metric])
                used.add(where)
        a, b = samples
        unit = next(m.unit for c in read_comparison(run).asked.checks for m in c.metrics if m.name == metric)
        medians = [value for value in map(centre, samples) if value is not None]
        scale = units.scale_for(unit, medians)
        shown = result.texts
        assert shown[1:3] == [units.readable(value, unit, scale) for value in medians]
        if min(*a, *b) <= 0:
            assert shown[3] == shown[4] == "–"
            continue
        # A bound that ends in 5 is rounded to another figure when it is computed in another way.
        differences = log_ratios(a, b)
        estimate = paired_estimate(differences, CONFIDENCE)
        low, high = (units.percent_number(relative(end), signed=True) for end in (estimate.low, estimate.high))
        assert shown[4] == f"[{low}, {high}] %"
        if not shown[3].startswith("~"):
            change = units.percent(relative(estimate.estimate), signed=True)
            assert shown[3].startswith(change)
        for block, difference in zip(blocks, differences, strict=True):
            assert block.texts[3] == units.percent(relative(difference), signed=True)
    assert len(used) == 6 * 2 * 2, "blocks × sides × checks"


def test_raw_files_journal_result_and_every_report_say_the_same(tmp_path: Path, scenarios: tuple[str, str]) -> None:
    printed = labctl(
        "compare", *scenarios, "--checks", "ping,latency,iperf,load", "--rounds", "1", "--duration", "0.3",
        "--reference", "--json", "--html", "r.html", "--markdown", "r.md", "--csv", "r.csv", "--junit", "r.xml",
        cwd=tmp_path,
    )  # fmt: skip
    document = json.loads(printed)
    assert document.pop("left") == [], "of this moment: a stored run does not know what is up later"
    read = stored(tmp_path)
    assert document == json.loads((only_run(tmp_path) / "result.json").read_text())
    assert document == json.loads(labctl("report", "last", "--json", cwd=tmp_path))

    kinds: set[str] = set()
    by_tools = [record for record in read.measured.records if record.kind != "load"]
    for record in by_tools:
        values = reparsed(record, read).values
        assert {sample.metric: sample.value for sample in record.samples} == {
            sample.metric: values[sample.metric] for sample in record.samples
        }
        assert record.samples
        kinds.add(record.kind)
    assert kinds == {"ping", "latency", "iperf"}
    require_loads_again([record for record in read.measured.records if record.kind == "load"], read)
    require_explained(document["explanations"])

    rows: list[dict[str, Any]] = document["metrics"]
    assert {row["placement"] for row in rows} == {"cross-node"}
    assert all(row["limit"]["client"] == "node1" for row in rows)
    with (tmp_path / "r.csv").open(newline="") as file:
        samples = [float(line["value"]) for line in csv.DictReader(file) if line["metric"] == "rtt_p50"]
    assert len(samples) == 4, "two sides, each between the pods and between the nodes"
    assert set(rows[0]["a"]["samples"] + rows[0]["b"]["samples"]) < set(samples)
    cases = ElementTree.parse(tmp_path / "r.xml").getroot().findall("testsuite/testcase")
    rows_in_junit = [case for case in cases if not case.attrib["classname"].startswith("runs.")]
    assert len(rows_in_junit) == len(rows)
    for name in ("r.html", "r.md"):
        assert scenarios[0].removesuffix(".yaml") in (tmp_path / name).read_text()
    for form in ("r.html", "r.md", "r.csv", "r.xml"):
        flag = {"r.html": "--html", "r.md": "--markdown", "r.csv": "--csv", "r.xml": "--junit"}[form]
        labctl("report", "last", flag, f"again-{form}", cwd=tmp_path)
        assert (tmp_path / f"again-{form}").read_text() == (tmp_path / form).read_text()


def test_a_threshold_that_cannot_be_judged_ends_with_4_and_one_that_names_nothing_builds_nothing(
    tmp_path: Path, scenarios: tuple[str, str]
) -> None:
    labctl("compare", *scenarios, "--fail-if", "rtt_p51 > +5%", cwd=tmp_path, code=2)
    assert not (tmp_path / "runs").exists()
    ping = ("--checks", "ping", "--rounds", "1")
    labctl("compare", *scenarios, *ping, "--fail-if", "cross-node rtt_p50 > +5%", cwd=tmp_path, code=4)
    labctl("report", "last", cwd=tmp_path, code=4)
    runs = json.loads(labctl("runs", "--json", cwd=tmp_path))["runs"]
    assert [(run["state"], run["blocks"], run["rounds"]) for run in runs] == [("complete", 1, 1)]


def test_a_check_run_is_reported_again_as_it_was(tmp_path: Path, scenarios: tuple[str, str]) -> None:
    printed = labctl("check", scenarios[1], "ping", "tcpdump", "--json", cwd=tmp_path)
    assert json.loads(labctl("report", "last", "--json", cwd=tmp_path)) == json.loads(printed)
