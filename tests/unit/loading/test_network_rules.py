"""What `podNetwork:` and `fabric:` refuse, each at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import ScenarioInvalid
from labctl.loading import load_scenario

HEAD = """\
apiVersion: labctl/v1
kind: Scenario
pods: [{name: client, node: node1}, {name: server, node: node2}]
pairs: [{client: client, server: server}]
"""


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "wrong.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(ScenarioInvalid) as refused:
        load_scenario(str(path), start=tmp_path)
    return [f"{one.line}:{one.column} {one.path}: {one.message}" for one in refused.value.problems]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("podNetwork: {type: docker, backend: vxlan}\n", "5:37 podNetwork.backend: podNetwork docker has no backend"),
        (
            "podNetwork: {type: flannel, backend: bgp}\n",
            "5:38 podNetwork.backend: flannel does not have the backend bgp",
        ),
        ("podNetwork: {type: vxlan, group: 239.1.1.1}\n", "5:34 podNetwork.group: a group is for mode: multicast"),
        (
            "podNetwork: {type: vxlan, mode: multicast, group: 10.0.0.1}\n",
            "5:51 podNetwork.group: 10.0.0.1 is no multicast address",
        ),
        (
            "podNetwork: {type: calico}\ndatapath: {hostRouting: bpf}\n",
            "6:25 datapath.hostRouting: hostRouting is Cilium's, and podNetwork is calico",
        ),
        (
            "podNetwork: {type: docker}\nfabric: {type: clos}\n",
            "6:9 fabric.routing: a Clos fabric needs a protocol: several paths are used together, and one may end",
        ),
        (
            "podNetwork: {type: docker}\nfabric: {type: bridge, spines: 2}\n",
            "6:32 fabric.spines: a fabric of type bridge has no spines",
        ),
        (
            "fabric: {type: clos, routing: bgp}\npodNetwork: {type: macvlan}\n",
            (
                "6:20 podNetwork.type: that needs the nodes on one wire (its pods are on the nodes' wire), "
                "and the fabric is clos"
            ),
        ),
    ],
)
def test_what_a_network_does_not_have_is_refused_where_it_stands(tmp_path: Path, text: str, said: str) -> None:
    assert problems(tmp_path, text) == [said]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("podNetwork: {type: weave}\n", "podNetwork.type"),
        ("podNetwork: {type: vxlan, vni: 16777216}\n", "podNetwork.vni"),
        ("podNetwork: {type: vxlan, vni: 0}\n", "podNetwork.vni"),
        ("fabric: {type: torus}\npodNetwork: {type: docker}\n", "fabric.type"),
        ("fabric: {type: clos, spines: 0, routing: bgp}\npodNetwork: {type: docker}\n", "fabric.spines"),
        ("fabric: {type: switched, switches: 2}\npodNetwork: {type: docker}\n", "fabric.switches"),
    ],
)
def test_what_is_out_of_bounds_is_refused_at_its_key(tmp_path: Path, text: str, path: str) -> None:
    assert [one.split(" ", 1)[1].partition(":")[0] for one in problems(tmp_path, text)] == [path]
