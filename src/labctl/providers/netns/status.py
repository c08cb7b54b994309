"""Reads a node for the lines of its status: programs, maps, addresses, netfilter's rules, and what the plan made.

It stands alone because only that command needs it, and the plan with it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from labctl.errors import LabError, MeasureFailed
from labctl.model.evidence import ModeInForce
from labctl.model.lab import Lab
from labctl.model.node_status import NodeStatus, witness_of
from labctl.names import namespace_of
from labctl.networks import network_of
from labctl.networks.base import StatusReading
from labctl.providers.netns.counters import Unread
from labctl.providers.netns.inspect_datapath import NodeLook, look_at
from labctl.providers.netns.observed import watched
from labctl.system import netns, process, rtnetlink
from labctl.system.netlink import Socket

_LISTINGS = (("iptables-legacy-save",), ("iptables-nft-save",), ("nft", "list", "tables"))
"""Netfilter's rules in both of iptables' back ends, and the tables that are neither's."""
_ASK_S = 30.0


def read_status(lab: Lab, nodes: Sequence[str], mode: ModeInForce | None) -> tuple[NodeStatus, ...]:
    """Those nodes, in the words of the lab's pod network. Raises MeasureFailed."""
    network, looks = network_of(lab), {}
    witness = witness_of(mode, "hostRouting", "")
    proven = next((node.name for node in lab.nodes if witness is not None and witness.where.startswith(node.name)), "")
    for node in dict.fromkeys((*nodes, *filter(None, (proven,)))):
        looks[node] = look_at(lab, node)
    return tuple(network.status(lab, _reading(lab, node, looks, proven), mode) for node in nodes)


def _reading(lab: Lab, node: str, looks: Mapping[str, NodeLook], proven: str) -> StatusReading:
    namespace, look = namespace_of(lab.name, node), looks[node]
    return StatusReading(
        node=node,
        namespace=namespace,
        programs=look.state.programs,
        maps=look.maps,
        addresses=_addresses(node, namespace),
        rules={shlex.join(argv): _listed(namespace, argv) for argv in _LISTINGS},
        watched=watched(lab, node),
        elsewhere=looks[proven].state.programs if proven else (),
    )


def _addresses(node: str, namespace: str) -> dict[str, tuple[IPv4Address, ...]]:
    try:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            links = {link.index: link.name for link in map(rtnetlink.parse_link, channel.ask(rtnetlink.all_links()))}
            found: dict[str, tuple[IPv4Address, ...]] = {}
            for one in map(rtnetlink.parse_address, channel.ask(rtnetlink.all_addresses())):
                device = links.get(one.index, "")
                found[device] = (*found.get(device, ()), IPv4Address(one.address))
            return found
    except OSError as failed:
        raise MeasureFailed(
            what=f"node {node} cannot be read", cause=str(failed), remedy=f"ip -n {namespace} address"
        ) from failed


def _listed(namespace: str, argv: tuple[str, ...]) -> str | Unread:
    try:
        done = process.run(argv, timeout_s=_ASK_S, namespace=netns.path_of(namespace))
    except LabError as failed:
        return Unread(why=": ".join(filter(None, (failed.what, failed.cause))))
    if done.returncode or done.timed_out:
        return Unread(why=" ".join(done.error_text.split()) or f"{argv[0]} ended with status {done.returncode}")
    return done.text
