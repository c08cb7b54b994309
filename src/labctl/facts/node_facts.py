"""Facts that programs in pods, on nodes and on routers tell: routes and their next hops, links, how long a silent
neighbour is waited for, who answers ARP, and whether a pod reaches a node.

Parsing is pure; the forms are iproute2's and FRR 8 to 10's.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from labctl.checks.addressing_findings import (
    Fate,
    argv_forget_neighbour,
    argv_largest,
    arp_of_pod,
    parse_sized_ping,
)
from labctl.checks.captures import capturing, packets_left_behind, require_trustworthy
from labctl.checks.ping import argv_ping, ping_timeout_s
from labctl.checks.routes import entries_of
from labctl.checks.wire import argv_next_hop, parse_next_hop
from labctl.errors import MeasureFailed
from labctl.fabrics.frr import speaks
from labctl.facts.trace_facts import Unmeasured
from labctl.json_text import parse_json
from labctl.model.fabric import Routing
from labctl.model.fact import NONE, FactQuestion, Value
from labctl.model.lab import EndpointKind, Lab, Pair
from labctl.model.parameters import PingParameters
from labctl.model.signature import Role
from labctl.model.tools import require_output, require_success
from labctl.providers.base import Completed, OpenLab

_DEVICE = "eth0"
_TIMEOUT_S = 20.0
_SMALL_BYTE = 56
_ONCE = PingParameters(count=1, interval_s=0.01)
_SETTLE_S = 0.25
"""How long tcpdump gets to take an answer out of the kernel."""
ARGV_TIMERS = {
    Routing.BGP: ("vtysh", "-c", "show bgp neighbors json"),
    Routing.OSPF: ("vtysh", "-c", "show ip ospf interface json"),
}


def next_hops(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    """Of the most specific route to the server. 0: there is none."""
    part, server = _part(open_lab.lab, pair, question), open_lab.lab.server(pair).address
    argv = ("ip", "-j", "-4", "route", "show", "match", str(server))
    return count_next_hops(_asked(open_lab, part, argv))


def count_next_hops(text: str) -> int:
    """What `ip -j route show match` prints: every route that has the address, of which the longest prefix counts.
    Raises MeasureFailed."""
    entries = entries_of(text, "ip")
    if not entries:
        return 0
    longest = max(entries, key=lambda entry: _prefix(str(entry.get("dst", "default"))))
    return len(longest.get("nexthops") or (longest,))


def _prefix(destination: str) -> int:
    return 0 if destination == "default" else IPv4Network(destination).prefixlen


def links_up(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    """Of the part's links to routers, those whose device is there and has a carrier."""
    lab, part = open_lab.lab, _part(open_lab.lab, pair, question)
    devices = set[str]()
    for link in lab.links:
        here = [end.device for end in link.ends if end.part == part]
        there = [end.part for end in link.ends if end.part != part]
        devices |= set(here) if any(lab.is_router(one) for one in there) else set()
    if not devices:
        raise Unmeasured(f"{part} has no link to a router")
    found = entries_of(_asked(open_lab, part, ("ip", "-j", "link", "show")), "ip")
    return sum("LOWER_UP" in (one.get("flags") or ()) for one in found if one.get("ifname") in devices)


def patience(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    """In seconds; the longest of the part's, of whichever protocol it speaks."""
    lab, part = open_lab.lab, _part(open_lab.lab, pair, question)
    for protocol, argv in ARGV_TIMERS.items():
        if part in speaks(lab, protocol):
            return longest_patience(protocol, _asked(open_lab, part, argv))
    raise Unmeasured(f"{part} speaks neither BGP nor OSPF")


def longest_patience(protocol: Routing, text: str) -> int:
    """BGP's hold time as the two ends agreed on it, OSPF's dead interval; of OSPF the interfaces that have a neighbour.
    Raises MeasureFailed, and Unmeasured where there is no neighbour."""
    try:
        document = parse_json(text)
    except ValueError as failed:
        raise MeasureFailed("the output of vtysh cannot be read", text.strip()[:200]) from failed
    if not isinstance(document, dict):
        raise MeasureFailed("the output of vtysh cannot be read", "it is no object")
    if protocol is Routing.BGP:
        found = [_number(one, "bgpTimerHoldTimeMsecs") // 1000 for one in document.values() if _is_established(one)]
    else:
        devices = document.get("interfaces", document)
        found = [_number(one, "timerDeadSecs") for one in devices.values() if _has_neighbour(one)]
    if not found:
        raise Unmeasured("no neighbour is up")
    return max(found)


def _is_established(said: Any) -> bool:
    return isinstance(said, Mapping) and said.get("bgpState") == "Established"


def _has_neighbour(said: Any) -> bool:
    return isinstance(said, Mapping) and bool(said.get("nbrCount"))


def _number(said: Mapping[str, Any], key: str) -> int:
    value = said.get(key)
    if isinstance(value, int):
        return value
    raise MeasureFailed("the output of vtysh cannot be read", f"there is no {key}")


def reaches_node(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    """A node that is silent counts only while the server answers the same client, and after its MAC was asked for
    again: that of a device which is gone may still be in the client's neighbour table."""
    lab = open_lab.lab
    if lab.server(pair).kind is EndpointKind.SERVICE:
        raise Unmeasured("a Service answers no ping")
    client = open_lab.target(pair.client)
    node = _node(lab, pair, question)
    address = lab.node(node).address.ip

    def fate(destination: IPv4Address) -> Fate:
        done = client.run(argv_largest(str(destination), _SMALL_BYTE), timeout_s=_TIMEOUT_S)
        return parse_sized_ping(done).fate

    found = fate(address)
    if found not in (Fate.ANSWERED, Fate.NO_ROUTE):
        hop = parse_next_hop(_asked(open_lab, pair.client, argv_next_hop(str(address))), str(address))
        client.run(argv_forget_neighbour(hop, _DEVICE), timeout_s=_TIMEOUT_S)
        found = fate(address)
    if found is Fate.ANSWERED:
        return True
    if fate(lab.server(pair).address) is not Fate.ANSWERED:
        raise Unmeasured(f"{pair.destination} does not answer {pair.client} either")
    return False


def arp_seen(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    """The client forgets its next hop's MAC and sends one packet. What a tap saw counts only where the client's own
    device saw the request."""
    taps = open_lab.taps(pair)
    if all(tap.role is not question.role for tap in taps):
        raise Unmeasured(f"there is no {question.role} on the way of this pair")
    lab, client = open_lab.lab, open_lab.target(pair.client)
    server = str(lab.server(pair).address)
    hop = parse_next_hop(_asked(open_lab, pair.client, argv_next_hop(server)), server)
    with capturing(taps, "arp") as live:
        require_success(client.run(argv_forget_neighbour(hop, _DEVICE), timeout_s=_TIMEOUT_S), "ip neigh flush failed")
        client.run(argv_ping(server, _ONCE), timeout_s=ping_timeout_s(_ONCE))
        time.sleep(_SETTLE_S)
        captures = live.stop()
    require_trustworthy(captures)
    if packets_left_behind(captures):
        raise Unmeasured("a capture ended before it had all packets")
    pod = lab.pod(pair.client)
    seen = {(one.role, one.is_reply) for one in arp_of_pod(captures, pod.address, [pod.mac])}
    if (Role.CLIENT_ETH0, False) not in seen:
        raise Unmeasured("the client's own device did not see an ARP request")
    request, reply = ((question.role, is_reply) in seen for is_reply in (False, True))
    return "both" if request and reply else "requests" if request else "replies" if reply else NONE


def _node(lab: Lab, pair: Pair, question: FactQuestion) -> str:
    part = _part(lab, pair, question)
    if lab.is_router(part):
        raise Unmeasured(f"{part} is a router: name a node")
    return part


def _part(lab: Lab, pair: Pair, question: FactQuestion) -> str:
    """The node or router that was asked for; else the client's node."""
    part = question.node or lab.client(pair).node
    if part is None or (not lab.is_router(part) and all(node.name != part for node in lab.nodes)):
        raise Unmeasured(f"{part or pair.client} is no node and no router")
    return part


def _asked(open_lab: OpenLab, part: str, argv: tuple[str, ...]) -> str:
    done: Completed = open_lab.target(part).run(argv, timeout_s=_TIMEOUT_S)
    return require_output(done, f"{shlex.join(argv)} failed on {part}")
