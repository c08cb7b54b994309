"""A lab's life on the command line: up, up again, list, status, exec, check, down; and who may not."""

from __future__ import annotations

import shutil
import signal
import subprocess

import pytest
from cli_running import Desk, needs_labs
from cli_running import desk_fixture as desk_fixture

from labctl.providers.netns.record import record_path
from labctl.system import netns

pytestmark = needs_labs

AS_NOBODY = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=+dac_read_search",
             "--ambient-caps=+dac_read_search")  # fmt: skip
"""Another user who may read every file, so that Python starts wherever this checkout is, and who has no other right."""


def test_up_check_and_down_leave_the_host_as_found(desk: Desk) -> None:
    name = desk.prefix
    up = desk.run("up", "bpf", "--name", name)
    assert up.code == 0, up.err
    assert f"  labctl check {name} " in up.out
    check = desk.run("check", name, "--json")
    assert check.code in (0, 4), check.err  # a busy machine may not read its UDP packets in time: error, not fail
    assert check.document["modeInForce"][0]["proven"] is True
    verdicts = {(r["check"], r["placement"]): r["verdict"] for r in check.document["results"]}
    for kind in ("ping", "latency", "iperf", "tcpdump"):
        assert verdicts[kind, "same-node"] == verdicts[kind, "cross-node"] == "pass"
    down = desk.run("down", name)
    assert (down.code, down.out) == (0, "")
    assert desk.labs() == []


def test_up_again_is_a_no_op_and_another_scenario_is_refused(desk: Desk) -> None:
    first = desk.run("up", "bpf", "--name", desk.prefix, "--json").document
    again = desk.run("up", "bpf", "--name", desk.prefix, "--json")
    assert (first["outcome"], again.document["outcome"]) == ("built", "unchanged")
    assert again.err == ""
    changed = desk.run("up", "bpf", "--name", desk.prefix, "--set", "network.mtu=1400")
    assert changed.code == 2
    assert "network.mtu is 1400, was 1500" in changed.err
    assert desk.run("down", desk.prefix).code == 0


def test_two_labs_of_one_scenario_stand_side_by_side(desk: Desk) -> None:
    names = [f"{desk.prefix}-{which}" for which in ("one", "two")]
    for name in names:
        assert desk.run("up", "legacy", "--name", name).code == 0
    listed = [lab["lab"] for lab in desk.run("list", "--json").document["labs"]]
    assert [name for name in listed if name in names] == names
    for name in names:
        pods = {
            pod["name"]: pod["address"] for pod in desk.run("status", name, "--no-proof", "--json").document["pods"]
        }
        assert desk.run("exec", name, "client", "--", "ping", "-c1", "-W2", pods["server"]).code == 0
    assert desk.run("down", names[0]).code == 0
    assert desk.labs() == names[1:]
    assert desk.run("exec", names[1], "client", "--", "true").code == 0
    assert desk.run("down", names[1]).code == 0


def test_exec_hands_on_everything_of_the_command_that_it_runs(desk: Desk) -> None:
    desk.run("up", "bpf", "--name", desk.prefix)

    def inside(*argv: str, stdin: str = "") -> tuple[int, str]:
        ended = desk.run("exec", desk.prefix, "client", "--", *argv, stdin=stdin)
        return ended.code, ended.out

    assert inside("sh", "-c", "exit 7") == (7, "")
    assert inside("cat", stdin="a line\n") == (0, "a line\n")
    assert inside("printf", "%s|", "a b", "--json", "*") == (0, "a b|--json|*|")
    assert inside("sh", "-c", "kill -TERM $$")[0] == -signal.SIGTERM
    code, links = inside("ip", "-o", "link")
    assert (code, "eth0" in links) == (0, True)
    assert desk.run("exec", desk.prefix, "node2", "--", "ip", "link", "show", "cilium_vxlan").code == 0
    mistyped = desk.run("exec", desk.prefix, "clint", "--", "true")
    assert mistyped.code == 2
    assert "client" in mistyped.err
    desk.run("down", desk.prefix)


def test_status_proves_the_mode_and_shows_how_to_see_it(desk: Desk) -> None:
    desk.run("up", "legacy-native", "--name", desk.prefix)
    status = desk.run("status", desk.prefix)
    assert status.code == 0, status.err
    assert "in force:  hostRouting legacy, encapsulation native (proven)" in status.out
    assert "labctl's own, not Cilium" in " ".join(status.out.split())
    record = desk.run("status", desk.prefix, "--json").document
    assert record["modeInForce"]["proven"] is True
    assert all(piece["finding"] for piece in record["modeInForce"]["evidence"])
    desk.run("down", desk.prefix)


def test_down_works_without_a_record(desk: Desk) -> None:
    """After a crash or by somebody's hand: the marks are enough."""
    desk.run("up", "bpf", "--name", desk.prefix)
    shutil.rmtree(record_path(desk.prefix).parent)
    lab = next(lab for lab in desk.run("list", "--json").document["labs"] if lab["lab"] == desk.prefix)
    assert (lab["whole"], lab["scenario"]) == (False, "bpf")
    check = desk.run("check", desk.prefix)
    assert check.code == 2
    assert f"  try: labctl up bpf --name {desk.prefix}  # builds it again" in check.err
    assert desk.run("down", desk.prefix).code == 0
    assert desk.labs() == []


def test_a_namespace_that_is_not_labctls_is_left_alone_and_said_to_be_in_the_way(desk: Desk) -> None:
    taken = f"labctl.{desk.prefix}.node1"
    subprocess.run(["ip", "netns", "add", taken], check=True)
    try:
        said = desk.run("up", "bpf", "--name", desk.prefix)
        assert said.code == 2
        assert f"  why: without labctl's mark, and so left alone: {taken}" in said.err
        assert f"ip netns delete {taken}" in said.err
        assert netns.names().count(taken) == 1
        assert len(desk.labs()) <= 1
    finally:
        subprocess.run(["ip", "netns", "delete", taken], check=True)


def test_without_root_there_is_one_message_with_the_command_to_run(desk: Desk) -> None:
    desk.run("up", "bpf", "--name", desk.prefix)
    for args in (
        ("up", "bpf"),
        ("check", "bpf", "ping"),
        ("compare", "legacy", "bpf"),
        ("list",),
        ("status", desk.prefix),
        ("exec", desk.prefix, "client", "--", "true"),
        ("down", desk.prefix),
    ):
        ended = desk.run(*args, before=AS_NOBODY)
        assert (ended.code, ended.out) == (3, ""), args
        what, why, remedy = ended.err.splitlines()
        assert what.startswith("error: ")
        assert what.endswith(" needs root")
        assert why.startswith("  why: ")
        assert remedy.startswith("  try: sudo /")
        assert remedy.endswith(" ".join(args))
    desk.run("down", desk.prefix)


@pytest.mark.parametrize("args", [("plan", "bpf"), ("validate", "bpf"), ("schema",), ("--help",)], ids=" ".join)
def test_what_builds_nothing_needs_no_root(desk: Desk, args: tuple[str, ...]) -> None:
    ended = desk.run(*args, before=AS_NOBODY)
    assert (ended.code, ended.err) == (0, "")


def test_doctor_finds_that_this_host_can_run_labs(desk: Desk) -> None:
    ended = desk.run("doctor", "--json")
    lacking = [probe for probe in ended.document["probes"] if probe["required"] and not probe["present"]]
    assert (ended.code, lacking, ended.document["ready"]) == (0, [], True)
    assert ended.err == ""
