"""What a person reads who mistypes a name, and that labs of different names do not touch each other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

import pytest

from labctl import app
from labctl.errors import HostLacks
from labctl.model.changes import NOTHING
from labctl.model.result import Verdict
from labctl.providers.base import Capabilities, Changing

from .conftest import Bench

REAL_PROVIDER = app.provider
SCENARIOS = "bpf, bpf-native, legacy, legacy-native"


@pytest.fixture(autouse=True)
def only_the_shipped_scenarios(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Names are looked for around the current directory first; without any there, labctl's own checkout has them."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr("labctl.loading.project.Project.names", lambda self: tuple(SCENARIOS.split(", ")))


def test_a_mistyped_command_names_the_one_that_was_meant(bench: Bench) -> None:
    said = bench.run("lits")
    assert (said.code, said.out) == (2, "")
    assert said.err == "error: there is no command 'lits': did you mean 'list'?\n  try: labctl --help\n"


def test_a_command_like_no_other_leads_to_the_help(bench: Bench) -> None:
    said = bench.run("xyzzy")
    assert said.code == 2
    assert said.err.splitlines() == [
        "error: there is no command 'xyzzy'",
        "  why: usage: labctl [OPTIONS] COMMAND [ARGS]...",
        "  try: labctl --help",
    ]


def test_a_missing_argument_shows_how_the_command_is_used(bench: Bench) -> None:
    said = bench.run("up")
    assert said.code == 2
    assert said.err.splitlines() == [
        "error: missing argument 'SCENARIO|LAB'",
        "  why: usage: labctl up [OPTIONS] SCENARIO|LAB",
        "  try: labctl up --help",
    ]


def test_a_mistyped_option_names_the_one_that_was_meant(bench: Bench) -> None:
    said = bench.run("up", "bpf", "--nmae", "x")
    assert said.code == 2
    assert said.err == "error: there is no option '--nmae': did you mean '--name'?\n  try: labctl up --help\n"


def test_a_mistyped_scenario_names_the_one_that_was_meant(bench: Bench) -> None:
    said = bench.run("up", "bfp")
    assert said.code == 2
    assert said.err.splitlines()[0] == "error: there is no scenario 'bfp'"
    assert said.err.splitlines()[-1] == f"  try: did you mean 'bpf'? there are: {SCENARIOS}"


def test_a_mistyped_lab_names_the_one_that_was_meant(bench: Bench) -> None:
    bench.is_up("mine")
    for args in (("status", "mien"), ("down", "mien"), ("exec", "mien", "client", "--", "true")):
        said = bench.run(*args)
        assert said.code == 2
        assert said.err.splitlines() == [
            "error: no lab named 'mien' is up",
            "  why: up are: mine",
            "  try: did you mean 'mine'?",
        ]


def test_a_lab_that_is_not_up_but_has_a_scenario_is_offered_to_be_built(bench: Bench) -> None:
    said = bench.run("status", "bpf")
    assert said.code == 2
    assert said.err.splitlines() == [
        "error: no lab named 'bpf' is up",
        "  why: no lab is up",
        "  try: labctl up bpf",
    ]


def test_a_lab_like_no_other_leads_to_the_list(bench: Bench) -> None:
    bench.is_up("mine")
    assert bench.run("down", "xyzzy").err.splitlines()[-1] == "  try: labctl list"


def test_check_of_what_is_neither_a_lab_nor_a_scenario_names_both_kinds(bench: Bench) -> None:
    bench.is_up("mine")
    said = bench.run("check", "xyzzy")
    assert said.code == 2
    assert said.err.splitlines() == [
        "error: there is neither a lab nor a scenario named 'xyzzy'",
        f"  why: labs: mine; scenarios: {SCENARIOS}",
        "  try: labctl list",
    ]
    assert bench.run("check", "mien").err.splitlines()[-1] == "  try: did you mean 'mine'?"
    assert bench.run("check", "legcay").err.splitlines()[-1] == "  try: did you mean 'legacy'?"


def test_a_mistyped_check_names_the_one_that_was_meant(bench: Bench) -> None:
    bench.is_up("mine")
    said = bench.run("check", "mine", "pingg")
    assert said.code == 2
    what, why, remedy = said.err.splitlines()
    assert what == "error: lab mine has no check named pingg"
    # Its own first, then the kinds that it does not list, which run with their defaults.
    assert why.startswith("  why: it has: ping, latency, iperf, iperf-many, iperf-udp, tcpdump, ")
    assert {"addressing", "netfilter"} <= set(why.split(", "))
    assert remedy == "  try: did you mean 'ping'?"


@pytest.mark.parametrize("args", [("down",), ("down", "mine", "--all")])
def test_down_wants_names_or_all_and_not_both(bench: Bench, args: tuple[str, ...]) -> None:
    bench.is_up("mine")
    said = bench.run(*args)
    assert said.code == 2
    assert said.err.splitlines()[-1] == ("  try: labctl down LAB… or labctl down --all; labctl list shows the names")
    assert [lab.name for lab in bench.provider.running] == ["mine"]


def test_two_labs_of_one_scenario_stand_side_by_side(bench: Bench) -> None:
    bench.is_up("first")
    bench.is_up("second")
    assert [lab["lab"] for lab in bench.run("list", "--json").document["labs"]] == ["first", "second"]
    assert bench.run("down", "first").code == 0
    assert [lab["lab"] for lab in bench.run("list", "--json").document["labs"]] == ["second"]


def test_down_with_one_wrong_name_removes_none(bench: Bench) -> None:
    bench.is_up("first")
    assert bench.run("down", "first", "xyzzy").code == 2
    assert [lab.name for lab in bench.provider.running] == ["first"]


def test_a_lab_that_does_not_go_away_does_not_keep_the_others(bench: Bench) -> None:
    from labctl.errors import StepFailed

    for name in ("first", "second", "third"):
        bench.is_up(name)
    bench.provider.fails["teardown first"] = StepFailed("busy")
    said = bench.run("down", "--all", "--json")
    assert said.code == 4
    assert said.document["removed"] == ["second", "third"]
    assert said.err.endswith("error: busy\n")


def test_the_same_up_again_says_that_there_is_nothing_to_do(bench: Bench) -> None:
    bench.is_up("mine")
    said = bench.run("up", "bpf", "--name", "mine")
    assert said.code == 0
    assert said.out.splitlines() == [
        "lab mine is already up and matches the scenario: nothing to do",
        "try next:",
        "  labctl status mine                                # the mode in force",
        "  labctl exec mine client -- ping -c 3 10.244.1.10  # traffic by hand",
        "  labctl check mine                                 # all checks, judged",
        "  labctl down mine                                  # remove it",
    ]


def test_another_scenario_under_the_same_name_says_what_differs(bench: Bench) -> None:
    bench.is_up("mine")
    said = bench.run("up", "legacy", "--name", "mine")
    assert said.code == 2
    assert "  why: datapath.hostRouting is legacy, was bpf" in said.err.splitlines()


def test_list_without_a_lab_says_how_to_start_one(bench: Bench) -> None:
    assert bench.run("list").out == "no lab is up. Start one: labctl up bpf\n"


def test_list_tells_whole_broken_and_unfinished_labs_apart(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    bench.is_up("whole")
    bench.is_up("broken", is_whole=False, missing=("labctl.broken.node2", "labctl.broken.server"))
    bench.is_up("growing", is_whole=False, lab=None, is_being_built=True)
    lines = bench.run("list").out.splitlines()
    states = {line.split()[0]: line.rstrip().rpartition("  ")[2] for line in lines[1:4]}
    assert lines[0].split("  ")[0] == "lab"
    assert states == {
        "whole": "up",
        "broken": "half there, 2 parts missing",
        "growing": "being built",
    }
    assert lines[4] == "broken is half there, missing: labctl.broken.node2, labctl.broken.server"
    assert "labctl up bpf --name broken" in lines[5]
    assert lines[5].endswith("labctl down broken")


def test_a_lab_whose_engine_does_not_answer_is_unknown_and_nothing_destructive_is_advised(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    silent = HostLacks("docker does not answer", "permission denied: /var/run/docker.sock", "usermod -aG docker me")
    bench.is_up("far", is_whole=False, unasked=silent)
    bench.is_up("near")
    said = bench.run("list")
    assert said.code == 0
    assert "unknown: docker does not answer" in said.out
    assert not {"half there", "missing"} & {word for word in ("half there", "missing") if word in said.out + said.err}
    assert "labctl down" not in said.out + said.err
    assert said.err.splitlines() == [
        "note: docker does not answer",
        "  why: permission denied: /var/run/docker.sock",
        "  try: usermod -aG docker me",
    ]
    far, _ = bench.run("list", "--json").document["labs"]
    assert (far["state"], far["whole"], far["missing"]) == ("unknown: docker does not answer", None, [])
    assert far["notAsked"]["cause"] == "permission denied: /var/run/docker.sock"


@pytest.mark.parametrize("args", [("status", "far"), ("up", "bpf", "--name", "far"), ("down", "far"), ("check", "far")])
def test_what_is_done_with_a_lab_that_cannot_be_asked_for_ends_with_the_true_reason(
    bench: Bench, args: tuple[str, ...]
) -> None:
    bench.is_up("far", is_whole=False, unasked=HostLacks("docker does not answer", "Is the daemon running?"))
    said = bench.run(*args)
    assert said.code == 3
    assert "error: docker does not answer\n  why: Is the daemon running?" in said.err
    assert bench.provider.log == []


def test_a_lab_that_its_record_alone_tells_of_is_said_to_be_so(bench: Bench) -> None:
    bench.is_up("machines", is_by_record=True)
    assert bench.run("list").out.splitlines()[1].endswith("up, by the record")


def test_a_damaged_lab_is_looked_at_all_the_same_and_what_is_missing_is_told(bench: Bench) -> None:
    bench.is_up("hurt", is_whole=False, can_be_opened=True, missing=("node1: device cilium_vxlan",))
    said = bench.run("status", "hurt", "--no-proof")
    assert said.code == 1
    assert "half there, 1 missing:\n  node1: device cilium_vxlan\n" in said.out
    assert said.err == (
        "note: lab hurt is half there: labctl status hurt says what is missing; "
        "to repair it: labctl up bpf --name hurt\n"
    )
    document = bench.run("status", "hurt", "--no-proof", "--json").document
    assert (document["whole"], document["missing"]) == (False, ["node1: device cilium_vxlan"])


def test_a_damaged_lab_whose_provider_can_mend_it_is_not_built_again(bench: Bench) -> None:
    bench.is_up("hurt", is_whole=False, can_be_opened=True, missing=("node1: device cilium_vxlan",))
    unchanged = SimpleNamespace(changes=lambda lab: NOTHING, impairments=lambda lab: {})
    bench.provider.capabilities = Capabilities(changing=cast(Changing, unchanged))
    said = bench.run("status", "hurt", "--no-proof")
    assert said.err.endswith("; to repair it: labctl reset hurt\n")


def test_up_builds_a_damaged_lab_again_and_tells_what_ends_with_it(bench: Bench) -> None:
    bench.is_up("hurt", is_whole=False, can_be_opened=True, missing=("node1: device cilium_vxlan",))
    bench.provider.capabilities = Capabilities(processes=lambda name: ("iperf3 (4711)",))
    said = bench.run("up", "bpf", "--name", "hurt")
    assert said.code == 0
    assert "missing: node1: device cilium_vxlan): removing it, to build it again" in said.err
    assert "kills the processes in it: iperf3 (4711)" in said.err
    assert bench.provider.log[0] == "teardown hurt"


def test_up_of_another_scenario_does_not_remove_a_damaged_lab(bench: Bench) -> None:
    bench.is_up("hurt", is_whole=False, can_be_opened=True, missing=("node1: route default",))
    said = bench.run("up", "legacy", "--name", "hurt")
    assert said.code == 2
    assert "  why: datapath.hostRouting is legacy, was bpf" in said.err.splitlines()
    assert bench.provider.log == []


def test_a_lab_that_is_half_there_is_not_checked(bench: Bench) -> None:
    bench.is_up("broken", is_whole=False, missing=tuple(f"labctl.broken.pod{n}" for n in range(9)))
    said = bench.run("check", "broken")
    assert said.code == 2
    assert said.err.splitlines() == [
        "error: lab broken is only half there",
        "  why: missing: labctl.broken.pod0, labctl.broken.pod1, labctl.broken.pod2 and 6 more",
        "  try: labctl up bpf --name broken  # builds it again; or labctl down broken",
    ]


@pytest.mark.parametrize("args", [("status", "new"), ("up", "bpf", "--name", "new"), ("down", "new")])
def test_a_lab_in_the_making_is_left_to_the_labctl_that_makes_it(bench: Bench, args: tuple[str, ...]) -> None:
    bench.is_up("new", is_whole=False, is_being_built=True)
    said = bench.run(*args)
    assert said.code == 2 if args[0] != "down" else 4
    assert "error: the lab new is being built by another labctl right now" in said.err
    assert bench.provider.log == []


@pytest.mark.parametrize("command", ["up", "plan", "check", "images"])
def test_a_mistyped_provider_is_told_in_its_own_words(
    bench: Bench, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labctl.app.provider", REAL_PROVIDER)
    said = bench.run(command, "bpf", "--provider", "docker")
    assert said.code == 2
    assert said.err == "error: there is no provider named docker\n  try: one of: netns, kind, kubeadm, cluster\n"


def test_set_on_a_lab_that_is_up_is_refused_by_name(bench: Bench) -> None:
    bench.is_up("mine")
    said = bench.run("check", "mine", "--set", "checks.ping.count=3")
    assert said.code == 2
    assert said.err.splitlines() == [
        "error: --set changes a scenario before it is built, and mine is a lab that is up",
        "  try: labctl check mine; or give the scenario: labctl check SCENARIO --set checks.ping.count=3",
    ]


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL])
def test_check_writes_junit_that_is_green_when_the_exit_code_is_0(
    bench: Bench, tmp_path: Path, verdict: Verdict
) -> None:
    bench.is_up("mine")
    bench.verdicts["ping"] = verdict
    file = tmp_path / "checks.xml"
    said = bench.run("check", "mine", "ping", "--junit", str(file))
    suite = ElementTree.parse(file).getroot()[0]
    assert suite.attrib["errors"] == "0"
    assert (said.code == 0) == (suite.attrib["failures"] == "0") == (verdict is Verdict.PASS)


def test_a_report_that_cannot_be_written_is_told_before_anything_runs(bench: Bench, tmp_path: Path) -> None:
    bench.is_up("mine")
    for args in (
        ("check", "mine", "--junit", str(tmp_path / "no" / "x.xml")),
        ("trace", "mine", "client", "server", "--html", str(tmp_path / "no" / "x.html")),
        ("capture", "mine", "-w", str(tmp_path / "no" / "x.pcapng")),
    ):
        said = bench.run(*args)
        assert (said.code, said.out) == (4, "")
        assert said.err.splitlines() == [
            f"error: cannot write {args[-1]}",
            f"  why: {tmp_path / 'no'} is not a directory",
            f"  try: mkdir -p {tmp_path / 'no'}",
        ]
    assert not (tmp_path / "runs").exists()


def test_a_failed_check_is_repeated_at_the_end_of_the_screen(bench: Bench) -> None:
    bench.is_up("mine")
    bench.verdicts["ping"] = Verdict.FAIL
    lines = bench.run("check", "mine").out.splitlines()
    assert lines[-2:] == [
        "fail: ping client → neighbour: scripted to fail",
        "fail: ping client → server: scripted to fail",
    ]
    assert lines[-3].startswith("raw files: ")


def test_a_lab_file_of_any_name_can_be_planned_and_checked_under_a_name(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "My Scenario (2).yaml"
    file.write_text("apiVersion: labctl/v1\nkind: Scenario\nextends: bpf\n")
    assert bench.run("plan", str(file)).code == 2
    assert bench.run("plan", str(file), "--name", "mine", "--json").document["lab"] == "mine"
    bench.is_up("mine")
    assert bench.run("check", str(file), "ping", "--name", "mine").code == 0


def test_a_named_comparison_takes_nothing_else_that_decides_names(bench: Bench) -> None:
    resumed = bench.run("compare", "--resume", "last", "--name", "mine")
    assert (resumed.code, "and no other options" in resumed.err) == (2, True)
    stored = bench.run("compare", "last", "last", "--name", "mine")
    assert (stored.code, "--name has no meaning for stored runs" in stored.err) == (2, True)


def test_a_scenario_that_is_not_up_is_built_checked_and_removed(bench: Bench) -> None:
    from labctl.cli.options import load_lab

    bench.opens(load_lab("bpf", provider=None, name=None, overrides=()))
    said = bench.run("check", "bpf", "ping")
    assert said.code == 0, said.err
    assert bench.provider.log[-1] == "teardown bpf"
    assert bench.provider.things == []


def test_a_check_that_is_interrupted_takes_its_lab_with_it(bench: Bench) -> None:
    from labctl.cli.options import load_lab

    bench.opens(load_lab("bpf", provider=None, name=None, overrides=()))
    bench.provider.fails["finish"] = KeyboardInterrupt()
    assert bench.run("check", "bpf").code == 130
    assert bench.provider.things == []
