"""What a real cluster's agents and bpftool listed, read into the same shape as labctl's own datapath."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import MeasureFailed
from labctl.providers.base import TargetKind
from labctl.providers.cilium.inspect_datapath import parse_list, parse_net_show, read_state
from labctl.providers.cilium.status import IN_AGENT
from labctl.testing.scripted import Answer, ScriptedTarget

LISTS = Path(__file__).parents[3] / "fixtures" / "cilium" / "lists"


def recorded(name: str) -> str:
    return (LISTS / f"{name}.txt").read_text(encoding="utf-8")


def test_tc_filters_are_read_with_device_hook_program_and_id() -> None:
    found = parse_net_show(recorded("legacy-vxlan.bpftool-net-show"), "bpftool net show")
    assert len(found) == 10
    first = found[0]
    assert (first.device, first.hook, first.attach, first.name, first.program_id) == (
        "cilium_net", "ingress", "tc clsact", "cil_to_host", 48656
    )  # fmt: skip
    assert {one.name for one in found if one.device.startswith("lxc")} == {"cil_from_container"}
    assert all(one.run_count is None for one in found)


def test_tcx_links_are_read_too() -> None:
    found = parse_net_show(recorded("v1.16-bpf-vxlan.bpftool-net-show"), "bpftool net show")
    assert len(found) == 10
    assert {one.attach for one in found} == {"tcx"}
    assert (found[0].device, found[0].hook, found[0].name, found[0].program_id) == (
        "eth0", "ingress", "cil_from_netdev", 121032
    )  # fmt: skip


def test_the_ipcache_becomes_columns() -> None:
    text = recorded("legacy-vxlan.cilium-bpf-ipcache-list")
    table = parse_list(text, name="ipcache", meaning="", kind="", command="")
    assert table.columns == ("ip prefix/address", "identity", "encryptkey", "tunnelendpoint")
    assert ("10.244.2.141/32", "23579", "0", "172.30.0.4") in table.rows
    assert len(table.rows) == 13


def test_the_endpoints_keep_the_local_host_as_a_word() -> None:
    text = recorded("legacy-vxlan.cilium-bpf-endpoint-list")
    table = parse_list(text, name="endpoint", meaning="", kind="", command="")
    assert table.columns[1:] == ("id", "flags", "ifindex", "mac", "nodemac")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["10.244.0.103:0"] == ("659", "0x0000", "24", "C2:C1:1A:3A:E9:A0", "D6:45:27:4C:AA:C0")
    assert rows["172.30.0.3:0"] == ("(localhost)", "", "", "", "")


def test_the_tunnel_list_has_two_plain_columns() -> None:
    text = recorded("legacy-vxlan.cilium-bpf-tunnel-list")
    table = parse_list(text, name="tunnel", meaning="", kind="", command="kubectl …")
    assert table.columns == ("tunnel", "value")
    assert table.rows == (("10.244.1.0", "172.30.0.2:0"), ("10.244.2.0", "172.30.0.4:0"))
    assert table.cilium_command == "cilium bpf tunnel list"


def agent(*, tunnel: Answer | None = None) -> ScriptedTarget:
    answers = [Answer(argv=("bpftool",), stdout=recorded("legacy-vxlan.bpftool-net-show").encode())]
    for name in ("endpoint", "ipcache"):
        listed = recorded(f"legacy-vxlan.cilium-bpf-{name}-list").encode()
        answers.append(Answer(argv=(*IN_AGENT, "bpf", name), stdout=listed))
    default = Answer(argv=(*IN_AGENT, "bpf", "tunnel"), stdout=recorded("legacy-vxlan.cilium-bpf-tunnel-list").encode())
    return ScriptedTarget("agent", [*answers, tunnel or default], kind=TargetKind.NODE)


def test_every_node_is_asked_and_every_list_has_its_command() -> None:
    state = read_state({"node1": agent(), "node2": agent()})
    assert [node.node for node in state.nodes] == ["node1", "node2"]
    for node in state.nodes:
        assert [table.name for table in node.maps] == ["endpoint", "ipcache", "tunnel"]
        assert all(table.command.startswith("in agent cilium bpf") for table in node.maps)
        assert node.commands == ("in agent bpftool net show",)


def test_an_agent_that_fails_is_an_error_with_its_words() -> None:
    broken = Answer(argv=(*IN_AGENT, "bpf", "tunnel"), stderr=b"Unable to open /sys/fs/bpf/tc/globals", returncode=1)
    with pytest.raises(MeasureFailed) as caught:
        read_state({"node1": agent(tunnel=broken)})
    assert caught.value.what == "the datapath of node node1 cannot be read"
    assert "Unable to open" in caught.value.cause


def test_an_empty_list_is_not_taken_for_no_entries() -> None:
    with pytest.raises(MeasureFailed, match="the agent's list tunnel cannot be read"):
        parse_list("\n", name="tunnel", meaning="", kind="", command="")
