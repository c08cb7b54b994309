"""What vxlan devices know of each other: from traffic, by the plan, or by BGP (EVPN).

Before a place is asked for, the client forgets the server's MAC, asks for it again and sends one ping: a place that is
still unknown then is a value only where the client's own node knows one. Forms: iproute2 6 (`bridge -j fdb`), FRR 8 to
10 (`show bgp l2vpn evpn json`).
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from labctl.checks.addressing_findings import argv_forget_neighbour
from labctl.checks.ping import argv_ping, ping_timeout_s
from labctl.checks.sessions import ARGV, parse_bgp
from labctl.errors import MeasureFailed
from labctl.facts.trace_facts import Unmeasured, owner_of
from labctl.json_text import parse_json
from labctl.model.fabric import Routing
from labctl.model.fact import NONE, FactQuestion, Value
from labctl.model.lab import Lab, Pair
from labctl.model.parameters import PingParameters
from labctl.model.signature import Role
from labctl.model.tools import require_output
from labctl.model.trace import Way
from labctl.providers.base import OpenLab

_DEVICE = "eth0"
_TIMEOUT_S = 20.0
_TELLING_S = 10.0
"""How long BGP may take to tell the other nodes of a MAC that was just seen, on a busy machine too."""
_AGAIN_S = 0.1
_ONCE = PingParameters(count=1, interval_s=0.01)
_TO_ALL = "00:00:00:00:00:00"
_ROUTE = re.compile(r"^\[([23])\]:\[\d+\]:\[\d+\]:\[([0-9a-f:.]+)\]")
"""`[2]:[0]:[48]:[MAC]`, with an address behind it or without, and `[3]:[0]:[32]:[ADDRESS]` (RFC 7432, 7.2 and 7.3)."""
_EVPN = ("vtysh", "-c", "show bgp l2vpn evpn json")

Entry = Mapping[str, Any]
Seen = TypeVar("Seen")


def parse_fdb(text: str) -> tuple[Entry, ...]:
    """`bridge -j fdb show dev DEVICE`, without what has no place. Raises MeasureFailed."""
    try:
        entries = parse_json(text or "[]")
    except ValueError as failed:
        raise MeasureFailed("the output of bridge cannot be read", text.strip()[:200]) from failed
    if not isinstance(entries, list):
        raise MeasureFailed("the output of bridge cannot be read", text.strip()[:200])
    return tuple(entry for entry in entries if isinstance(entry, Mapping) and "dst" in entry)


def parse_evpn(text: str) -> dict[int, tuple[str, ...]]:
    """By the type of route what it is about: MACs of type 2, addresses of type 3. Raises MeasureFailed."""
    try:
        document = parse_json(text or "{}")
    except ValueError as failed:
        raise MeasureFailed("the output of vtysh cannot be read", text.strip()[:200]) from failed
    if not isinstance(document, Mapping):
        raise MeasureFailed("the output of vtysh cannot be read", text.strip()[:200])
    found: dict[int, list[str]] = {}
    for routes in document.values():
        for prefix in routes if isinstance(routes, Mapping) else ():
            if match := _ROUTE.match(str(prefix).lower()):
                found.setdefault(int(match[1]), []).append(match[2])
    return {kind: tuple(dict.fromkeys(said)) for kind, said in found.items()}


def places_of(entries: Iterable[Entry], mac: str) -> tuple[str, ...]:
    """The VTEPs behind which that MAC is."""
    return tuple(dict.fromkeys(str(one["dst"]) for one in entries if str(one.get("mac", "")).lower() == mac.lower()))


def mac_behind(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    lab = open_lab.lab
    ends = {Way.REQUEST: (pair.server, Role.SERVER_ETH0), Way.REPLY: (pair.client, Role.CLIENT_ETH0)}
    pod, role = ends[question.way]
    node = question.node or lab.nodes[0].name
    if lab.endpoint(pod).node == node:
        raise Unmeasured(f"{pod} is on {node} itself")
    device = _tunnel(open_lab, pair)
    macs = {one.role: one.mac for one in open_lab.devices(pair)}
    _send_anew(open_lab, pair)
    known = _until(
        lambda: _fdb(open_lab, str(lab.endpoint(pair.client).node), device),
        lambda entries: bool(places_of(entries, macs[Role.SERVER_ETH0])),
    )
    if not places_of(known, macs[Role.SERVER_ETH0]):
        raise Unmeasured("the client's own node knows no place for the server's MAC after a ping")
    is_told = any("extern_learn" in (entry.get("flags") or ()) for entry in known)
    there = _until(
        lambda: _fdb(open_lab, node, device),
        lambda entries: bool(places_of(entries, macs[role])),
        within_s=_TELLING_S if is_told else 0.0,
    )
    found = places_of(there, macs[role])
    if is_told and not found:
        _require_session(open_lab, node)  # a session that is down tells nobody anything: that is no answer
    return owner_of(lab, found[0]) if found else NONE


def flooded_to(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    lab = open_lab.lab
    node = question.node or lab.nodes[0].name
    entries = _fdb(open_lab, node, _tunnel(open_lab, pair))
    if _speaks_evpn(lab):
        _require_session(open_lab, node)
    return tuple(owner_of(lab, place) for place in places_of(entries, _TO_ALL))


def evpn_type_2(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    part = _speaker(open_lab, question)
    _send_anew(open_lab, pair)
    owners = {_mac(open_lab, pod.name): pod.name for pod in open_lab.lab.pods}

    def ask() -> tuple[str, ...]:
        macs = parse_evpn(_vtysh(open_lab, part, _EVPN)).get(2, ())
        return tuple(owners.get(mac, mac) for mac in macs)

    found = _until(ask, lambda names: {pair.client, pair.server} <= set(names))
    if not {pair.client, pair.server} <= set(found):
        raise Unmeasured(f"{part} has no route to both ends' MACs after a ping between them")
    return found


def evpn_type_3(open_lab: OpenLab, pair: Pair, question: FactQuestion) -> Value:
    part = _speaker(open_lab, question)
    nodes = tuple(owner_of(open_lab.lab, one) for one in parse_evpn(_vtysh(open_lab, part, _EVPN)).get(3, ()))
    if not nodes:
        _require_session(open_lab, part)
    return nodes


def _require_session(open_lab: OpenLab, part: str) -> None:
    """Hold times are 3 s, and on a busy machine a session may be down for a moment. Raises Unmeasured."""
    if not any(one.is_up for one in parse_bgp(_vtysh(open_lab, part, ARGV[Routing.BGP]))):
        raise Unmeasured(f"no BGP session of {part} is up")


def _tunnel(open_lab: OpenLab, pair: Pair) -> str:
    for tap in open_lab.taps(pair):
        if tap.role is Role.CLIENT_TUNNEL:
            return tap.interface
    raise Unmeasured("the packets of this pair go through no vxlan device that keeps an FDB")


def _fdb(open_lab: OpenLab, node: str, device: str) -> tuple[Entry, ...]:
    argv = ("bridge", "-j", "fdb", "show", "dev", device)
    done = open_lab.target(node).run(argv, timeout_s=_TIMEOUT_S)
    return parse_fdb(require_output(done, f"{shlex.join(argv)} failed on {node}"))


def _send_anew(open_lab: OpenLab, pair: Pair) -> None:
    """One ping, for which the client has to ask for the server's MAC."""
    client, server = open_lab.target(pair.client), str(open_lab.lab.server(pair).address)
    client.run(argv_forget_neighbour(server, _DEVICE), timeout_s=_TIMEOUT_S)
    client.run(argv_ping(server, _ONCE), timeout_s=ping_timeout_s(_ONCE))


def _speaker(open_lab: OpenLab, question: FactQuestion) -> str:
    lab = open_lab.lab
    if not _speaks_evpn(lab):
        raise Unmeasured("nothing there speaks EVPN")
    return question.node or (lab.routers[0].name if lab.routers else lab.nodes[0].name)


def _speaks_evpn(lab: Lab) -> bool:
    return lab.pod_network.needs_frr and lab.pod_network.mode is not None


def _vtysh(open_lab: OpenLab, part: str, argv: Sequence[str]) -> str:
    done = open_lab.target(part).run(tuple(argv), timeout_s=_TIMEOUT_S)
    return require_output(done, f"vtysh failed on {part}")


def _mac(open_lab: OpenLab, pod: str) -> str:
    argv = ("ip", "-j", "link", "show", "dev", _DEVICE)
    done = open_lab.target(pod).run(argv, timeout_s=_TIMEOUT_S)
    links = parse_json(require_output(done, f"{shlex.join(argv)} failed in {pod}"))
    return str(links[0]["address"]).lower()


def _until(ask: Callable[[], Seen], holds: Callable[[Seen], bool], within_s: float = _TELLING_S) -> Seen:
    """What was seen last: what holds, or what there was when the time was over."""
    deadline = time.monotonic() + within_s
    while True:
        seen = ask()
        if holds(seen) or time.monotonic() >= deadline:
            return seen
        time.sleep(_AGAIN_S)
