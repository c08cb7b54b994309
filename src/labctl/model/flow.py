"""Under which addresses the packets of a pair can be seen: as they are sent, and as they are rewritten on the way.

A pod that is masqueraded has its node's address. A node sends to pods with its own address or with its router's, as
its routes say. A Service's address becomes a backend's; what comes to a node's port from outside may get an address of
that node as source too. Which of them does show is what a capture says: a filter must let all of them through. Pure.
It stands alone because checks, traces and providers read it, and none of them may import the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from labctl.model.lab import Endpoint, EndpointKind, Lab, Pair

Flow = tuple[IPv4Address, IPv4Address]
"""Source and destination of a request; a reply has them the other way round."""


def flows_of(lab: Lab, pair: Pair) -> tuple[Flow, ...]:
    """Every one that a request of the pair may have, the one that the client uses first."""
    client, server = lab.client(pair), lab.server(pair)
    backends = [pod.address for pod in lab.backends(pair)]
    if lab.is_between_pods(pair) and lab.pod_network.translates:
        return tuple((source, server.address) for source in _sources(lab, client))
    # Between pods nothing is rewritten, unless the range that keeps pods' addresses was chosen otherwise.
    if lab.is_between_pods(pair) and lab.datapath.ipv4_native_routing_cidr is None:
        return ((client.address, server.address),)
    found = [(source, to) for source in _sources(lab, client) for to in (server.address, *backends)]
    found += [(source, to) for source in _relayed(lab, client, server) for to in backends]
    return tuple(dict.fromkeys(flow for flow in found if flow[0] != flow[1]))


def seen_flows(lab: Lab, pair: Pair) -> tuple[Flow, ...]:
    """`flows_of`, and those of packets between pods that are rewritten though nobody asked for it: what a trace has to
    see of a lab in which something is wrong."""
    flows = flows_of(lab, pair)
    if not lab.is_between_pods(pair):
        return flows
    return tuple(dict.fromkeys((*flows, *((source, flows[0][1]) for source in _sources(lab, lab.client(pair))))))


def _sources(lab: Lab, client: Endpoint) -> Iterator[IPv4Address]:
    """The addresses that the client's packets may have, its own first."""
    yield client.address
    if client.node is None:
        return
    node = lab.node(client.node)
    yield node.address.ip
    if client.kind is EndpointKind.NODE:
        yield node.router


def _relayed(lab: Lab, client: Endpoint, server: Endpoint) -> Iterator[IPv4Address]:
    """The addresses that a node which is asked at its port from outside gives to what it passes on."""
    if client.node is None and server.node is not None and server.kind is EndpointKind.SERVICE:
        node = lab.node(server.node)
        yield from (node.address.ip, node.router)


def client_node_of(lab: Lab, pair: Pair) -> str:
    """The node on the client's side of the way: the client's own, of a host outside the first one that its packets
    come to. "" where no node is on the way."""
    nodes = lab.nodes_of(pair)
    return nodes[0] if nodes else ""


def server_node_of(lab: Lab, pair: Pair) -> str:
    """The node on the server's side: the one that the server is on, or the first backend; of a host outside the last
    one that packets to it leave."""
    nodes = lab.nodes_of(pair)
    return nodes[-1] if nodes else ""
