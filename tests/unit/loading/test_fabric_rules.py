"""What a fabric of one's own is refused for, each at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import ScenarioInvalid
from labctl.loading import load_scenario

HEAD = """\
apiVersion: labctl/v1
kind: Scenario
nodes: 2
pods: [{name: client, node: node1}, {name: server, node: node2}]
pairs: [{client: client, server: server}]
podNetwork: {type: docker}
fabric:
  type: custom
"""


def problems(tmp_path: Path, fabric: str) -> list[str]:
    path = tmp_path / "wrong.yaml"
    path.write_text(HEAD + "".join(f"  {line}\n" for line in fabric.splitlines()), encoding="utf-8")
    with pytest.raises(ScenarioInvalid) as refused:
        load_scenario(str(path), start=tmp_path)
    return [f"{one.line} {one.path}: {one.message}" for one in refused.value.problems]


TWO = "routers: [{name: r1}, {name: r2}]\nlinks:\n"
ENDS = "- endpoints: [r1, node1]\n- endpoints: [r2, node2]\n"
BY_R3 = "links:\n- endpoints: [r1, r3]\n- endpoints: [r3, r2]\n" + ENDS
REFLECTS = "asn: 65000, routeReflector: true"
WHOLE = "- endpoints: [r1, r2]\n- endpoints: [r1, node1]\n- endpoints: [r2, node2]\n"


@pytest.mark.parametrize(
    ("fabric", "said"),
    [
        (
            "routers: [{name: r1}]",
            "8 fabric.links: a fabric of type custom has a list of links",
        ),
        (
            TWO + WHOLE + "- endpoints: [r2, r9]\n",
            "14 fabric.links[3].endpoints[1]: there is no router or node 'r9'",
        ),
        (
            TWO + WHOLE + "- endpoints: [r2, client]\n",
            (
                "14 fabric.links[3].endpoints[1]: 'client' is a pod: pods hang on their nodes, "
                "links join routers and nodes"
            ),
        ),
        (
            TWO + WHOLE + "- endpoints: [r2, r1]\n",
            "14 fabric.links[3]: r2 and r1 are joined already, by the link on line 11",
        ),
        (TWO + WHOLE + "- endpoints: [r2, r2]\n", "14 fabric.links[3]: both ends are 'r2': a link joins two parts"),
        (
            TWO + WHOLE + "- endpoints: [node1, node2]\n",
            "14 fabric.links[3]: node1 and node2 are both nodes: a link joins two routers, or a router and a node",
        ),
        (
            TWO + WHOLE + "- endpoints: [r2, node1]\n",
            "14 fabric.links[3].endpoints[1]: node1 has a link already, by the link on line 12: a node has one uplink",
        ),
        (
            TWO + "- endpoints: ['r1:eth1', r2]\n- endpoints: ['r1:eth1', node1]\n- endpoints: [r2, node2]\n",
            "12 fabric.links[1].endpoints[0]: r1 has a device 'eth1' already, by the link on line 11",
        ),
        (
            TWO + "- endpoints: ['r1:to-node1', r2]\n- endpoints: [r1, node1]\n- endpoints: [r2, node2]\n",
            "12 fabric.links[1].endpoints[0]: r1 has a device 'to-node1' already, by the link on line 11",
        ),
        (
            TWO + "- endpoints: ['r1:lo', r2]\n- endpoints: [r1, node1]\n- endpoints: [r2, node2]\n",
            "11 fabric.links[0].endpoints[0]: lo is the loopback device of every router",
        ),
        (
            TWO + "- endpoints: [r1, r2]\n- endpoints: [r1, 'node1:eth7']\n- endpoints: [r2, node2]\n",
            "12 fabric.links[1].endpoints[1]: node1's uplink is eth0, not 'eth7'",
        ),
        (
            TWO + "- endpoints: [r1, r2]\n- endpoints: [r1, node1]\n",
            "11 fabric.links: no link leads to node2: it hangs in the air",
        ),
        (
            "routers: [{name: r1}, {name: r2}, {name: r3}]\nlinks:\n" + WHOLE,
            "9 fabric.routers[2]: no link leads to r3: it hangs in the air",
        ),
        (
            TWO + "- endpoints: [r1, node1]\n- endpoints: [r2, node2]\n",
            "11 fabric.links: no way leads from node2 (on r2) to node1 (on r1)",
        ),
        (
            "routers: [{name: r1}, {name: r1}]\nlinks:\n" + WHOLE,
            "9 fabric.routers[1].name: the name 'r1' is taken by the router on line 9",
        ),
        (
            "routers: [{name: client}, {name: r2}]\nlinks:\n" + WHOLE,
            "9 fabric.routers[0].name: the name 'client' is taken by a pod",
        ),
        (
            "routers: [{name: r1, routerID: 10.255.0.7}, {name: r2, routerID: 10.255.0.7}]\nlinks:\n" + WHOLE,
            "9 fabric.routers[1].routerID: 10.255.0.7 is the router id of r1 too: each router has one of its own",
        ),
        (
            "routers: [{name: r1, routerID: 10.244.0.7}, {name: r2}]\nlinks:\n" + WHOLE,
            "9 fabric.routers[0].routerID: 10.244.0.7 is in the range of the pods, 10.244.0.0/16",
        ),
        (
            "routers: [{name: r1, asn: 65000}, {name: r2}]\nlinks:\n" + WHOLE,
            "9 fabric.routers[0].asn: asn is BGP's",
        ),
        (
            "routing: bgp\nrouters: [{name: r1, asn: 65502}, {name: r2}]\nlinks:\n" + WHOLE,
            "10 fabric.routers[0].asn: AS 65502 is that of node2",
        ),
        (
            "routing: bgp\n" + TWO + "- {endpoints: [r1, r2], cost: 5}\n" + ENDS,
            "12 fabric.links[0].cost: BGP counts systems, not costs",
        ),
        (
            "routing: ospf\ntimers: {holdS: 9}\n" + TWO + WHOLE,
            "10 fabric.timers.holdS: holdS is bgp's, and routing is ospf",
        ),
        (
            "timers: {holdS: 9}\n" + TWO + WHOLE,
            "9 fabric.timers: nothing has timers without a protocol",
        ),
        (
            "routing: bgp\ntimers: {keepaliveS: 9}\n" + TWO + WHOLE,
            "10 fabric.timers.keepaliveS: a neighbour that speaks every 9 s is given up after 3 s of silence",
        ),
        (
            "routing: bgp\nrouters: [{name: r1, asn: 65000}, {name: r2, asn: 65000}, {name: r3}]\n" + BY_R3,
            (
                "10 fabric.routers[1].asn: r2 and r1 have the same AS 65000, and no way between them stays within it: "
                "BGP drops what names its own system, so node2 would not reach node1"
            ),
        ),
        (
            "routers: [{name: r1}, {name: r2}, {name: r3}]\n" + BY_R3 + "- {endpoints: [r1, r2], cost: 2}\n",
            (
                "11 fabric.links: between node2 and node1 are equal ways of 2, 3 routers: the TTL of a packet would "
                "depend on its flow"
            ),
        ),
        (
            f"routing: bgp\nrouters: [{{name: r1, {REFLECTS}}}, {{name: r2, {REFLECTS}}}]\nlinks:\n{WHOLE}",
            (
                "12 fabric.links[0]: r1 and r2 are route reflectors of one system (AS 65000): "
                "what each reflects to the other leads back to itself"
            ),
        ),
        (TWO + "- endpoints: [r1, 'r2:']\n", "11 fabric.links[0].endpoints[1]: 'r2:' is not an end of a link"),
        (TWO + "- endpoints: [r1]\n", "11 fabric.links[0].endpoints: has 1 items"),
    ],
)  # fmt: skip
def test_a_fabric_of_ones_own_is_refused_at_its_place(tmp_path: Path, fabric: str, said: str) -> None:
    assert said in problems(tmp_path, fabric)


def test_a_fabric_that_lacks_nothing_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "right.yaml"
    path.write_text(HEAD + "".join(f"  {line}\n" for line in (TWO + WHOLE).splitlines()), encoding="utf-8")
    scenario = load_scenario(str(path), start=tmp_path)
    assert [router.name for router in scenario.fabric.routers] == ["r1", "r2"]
    assert scenario.fabric.links[1].endpoints == ("r1", "node1")
