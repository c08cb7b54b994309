"""Hosts with Docker's bridge network, joined by routes that the hosts' owners added by hand. Pure.

Built as Docker builds it, from its documentation and the rules that it writes; not Docker. Docker translates the source
of everything that leaves its bridge. A rule before that keeps pods' addresses towards the other hosts' bridges
(`snat: false`); without it the other side sees the host's address.

It stands alone because every pod network is one module behind `base`.
"""

from __future__ import annotations

from ipaddress import IPv4Interface

from labctl.fabrics.base import NodeObjects
from labctl.model.interfaces import UPLINK
from labctl.model.lab import Lab, Node, Pair, Placement
from labctl.model.signature import ExpectedSignature
from labctl.networks.carried import CarriedNetwork, NodeDevices, routes_by_uplink
from labctl.networks.flannel import ROUTED, bridged
from labctl.networks.netfilter import Rule, Ruleset, forward_rules
from labctl.networks.way import expected_from

SOURCE = "worked out from Docker's documentation, and seen on this kernel with what labctl builds"
BRIDGE = "docker0"


class DockerNetwork(CarriedNetwork):
    """`PodNetwork` of the seam."""

    title = "Docker's"
    remark = "Built as Docker builds its bridge network; not Docker."
    devices = NodeDevices(bridge=BRIDGE)

    def __init__(self, *, snat: bool) -> None:
        self._snat = snat

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        bridge, address = self.bridge(lab, node, IPv4Interface(f"{node.router}/{node.pod_cidr.prefixlen}"))
        return NodeObjects(
            says=f"{BRIDGE} {node.router}, routes to the other hosts' bridges",
            links=(bridge,),
            addresses=(address,),
            routes=routes_by_uplink(lab, node),
        )

    def rules(self, lab: Lab, node: Node) -> Ruleset:
        here, pods = node.pod_cidr, lab.network.pod_cidr

        def rule(chain: str, match: str, target: str, says: str, table: str = "filter") -> Rule:
            return Rule(table=table, chain=chain, match=match, target=target, says=says)

        kept = (
            ()
            if self._snat
            else (rule("POSTROUTING", f"-s {here} -d {pods}", "ACCEPT", "other bridges: keep the address", "nat"),)
        )
        return Ruleset(
            rules=(
                *forward_rules(lab),
                rule("FORWARD", "", "DOCKER-USER", "docker: the owner's own rules come first"),
                rule("FORWARD", f"-o {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED", "ACCEPT", "docker: answers"),
                rule("FORWARD", f"-o {BRIDGE}", "DOCKER", "docker: published ports"),
                rule("FORWARD", f"-i {BRIDGE} ! -o {BRIDGE}", "ACCEPT", "docker: out of the bridge"),
                rule("FORWARD", f"-i {BRIDGE} -o {BRIDGE}", "ACCEPT", "docker: within the bridge"),
                rule("DOCKER-USER", f"-i {UPLINK} -o {BRIDGE}", "ACCEPT", "what other hosts send in by the routes"),
                rule("DOCKER", "", "RETURN", "docker: no published ports"),
                *kept,
                rule("POSTROUTING", f"-s {here} ! -o {BRIDGE}", "MASQUERADE", "docker: masquerade", "nat"),
            ),
            policies=(("filter", "FORWARD", "DROP"),),
        )

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        return expected_from(
            ROUTED if pair.placement is Placement.CROSS_NODE else bridged(self.devices),
            placement=pair.placement,
            encapsulation=lab.datapath.encapsulation,
            packets=packets,
            source=SOURCE,
        )
