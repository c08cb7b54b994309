"""What a list of CNI plugins is refused for, each fault at its place, and what of it names code."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import ScenarioInvalid
from labctl.loading import load_scenario

CHECKOUT = Path(__file__).resolve().parents[3]
HEAD = """\
apiVersion: labctl/v1
kind: Scenario
pods: [{name: client, node: node1}, {name: server, node: node2}]
pairs: [{client: client, server: server}]
podNetwork:
  type: cni
"""
GOOD = """\
  conflist:
    cniVersion: 1.0.0
    name: chain
    plugins:
      - type: ptp
        ipam: {type: host-local, subnet: "{{.PodCIDR}}"}
"""


def problems(tmp_path: Path, text: str, *, trust: bool = False) -> list[str]:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    try:
        load_scenario(str(path), start=tmp_path, trust=trust)
    except ScenarioInvalid as refused:
        return [f"{one.line}:{one.column} {one.path}: {one.message}" for one in refused.problems]
    return []


def test_a_list_of_plugins_as_a_node_has_it_is_taken(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD) == []


def test_json_is_taken_as_it_stands_in_a_nodes_file(tmp_path: Path) -> None:
    text = """\
  conflist: {
    "cniVersion": "0.4.0", "name": "x", "disableCheck": true,
    "plugins": [{"type": "macvlan", "master": "{{.Uplink}}", "ipam": {"type": "static"}}]}
"""
    assert problems(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  conflist: |\n    {\"cniVersion\": \n", "7:13 podNetwork.conflist: must be a mapping of keys, not the text"),
        ("  conflist: {\"cniVersion\": 1.0.0, \"name\"\n", "8:1 : is not YAML: a bracket is not closed"),
        ("", "6:3 podNetwork.conflist: is missing: with podNetwork cni it says which plugins attach a pod"),
        (GOOD.replace("1.0.0", "2.0.0"), "8:17 podNetwork.conflist.cniVersion: '2.0.0' is no version of CNI"),
        (GOOD.replace("1.0.0", "0.4"), "8:17 podNetwork.conflist.cniVersion: 0.4 is no version of CNI"),
        (GOOD.replace("    cniVersion: 1.0.0\n", ""), "8:5 podNetwork.conflist.cniVersion: is missing"),
        (GOOD.replace("chain", "../../etc"), "9:11 podNetwork.conflist.name: '../../etc' is not a network's name"),
        (GOOD.replace("type: ptp", "type: ../p"), "11:15 podNetwork.conflist.plugins[0].type: '../p' is not the name"),
        (GOOD.replace("type: ptp", "kind: ptp"), "podNetwork.conflist.plugins[0].type: is missing"),
        (GOOD.replace("type: host-local", "dataDir: /x, type: host-local"), "ipam.dataDir: is labctl's to say"),
        (GOOD.replace("PodCIDR", "PodCDIR"), "12:42 podNetwork.conflist.plugins[0].ipam.subnet: there is no {{.P"),
        (GOOD.replace("ipam", "mtu: 1400 #"), "podNetwork.conflist.plugins[0].ipam: the first plugin has no ipam"),
        (GOOD + "  runtimeConfig: {clinet: {}}\n", "13:19 podNetwork.runtimeConfig.clinet: there is no pod clinet"),
        (GOOD + "  runtimeConfig: {client: {ips: []}}\n", "no plugin of the list says capabilities: {ips: true}"),
        (GOOD + "  pluginDirectory: plugins\n", "13:20 podNetwork.pluginDirectory: is no folder's absolute path"),
        (GOOD + "  vni: 5\n", "podNetwork.vni: podNetwork cni has no vni"),
        (GOOD + "fabric: {type: routed}\n", ""),
        (GOOD.replace("ptp", "macvlan") + "fabric: {type: routed}\n", "11:15 podNetwork.conflist.plugins[0].type: th"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_at_its_place(tmp_path: Path, text: str, said: str) -> None:
    found = problems(tmp_path, text)
    assert any(said in one for one in found) if said else not found, found


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (GOOD.replace("type: ptp", "type: mine"), "podNetwork.conflist.plugins[0].type"),
        (GOOD.replace("host-local", "mine"), "podNetwork.conflist.plugins[0].ipam.type"),
        (GOOD + "  pluginDirectory: /tmp/cni\n", "podNetwork.pluginDirectory"),
        (GOOD.replace("subnet", "resolvConf: /etc/shadow, subnet"), "podNetwork.conflist.plugins[0].ipam.resolvConf"),
        (GOOD + "      - {type: sbr, logFile: /etc/cron.d/x}\n", "podNetwork.conflist.plugins[1].logFile"),
        (GOOD + "      - {type: bandwidth, args: {a: [x; rm -rf /]}}\n", "podNetwork.conflist.plugins[1].args.a[0]"),
    ],
)
def test_what_could_be_another_program_or_a_file_needs_trust(tmp_path: Path, text: str, path: str) -> None:
    assert [one.split()[1].rstrip(":") for one in problems(tmp_path, text)] == [path]
    assert problems(tmp_path, text, trust=True) == []


def test_what_describes_a_network_needs_no_trust(tmp_path: Path) -> None:
    shipped = (CHECKOUT / "scenarios" / "cni-chain.yaml").read_text(encoding="utf-8")
    path = tmp_path / "copy.yaml"
    path.write_text(shipped, encoding="utf-8")
    assert load_scenario(str(path), start=tmp_path).pod_network.chain == ("ptp", "tuning", "portmap", "bandwidth")
