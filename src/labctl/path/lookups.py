"""Where the kernel looked up the next step of a packet: the route that it was forwarded by, with whoever told it, and
the entry of a forwarding database by which a vxlan device or a bridge sent it on. Pure: which questions a way raises,
what `ip` and `bridge` answer, and the way with the answers.

They are read right after the packets, on the nodes that moved them. What cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from labctl.json_text import parse_json
from labctl.model.signature import Role
from labctl.model.trace import Carriage, ForwardingAct, Hop, Lookup, LookupTable, PacketPath, TapDirection
from labctl.values import dataclass

_TUNNELS = (Role.CLIENT_TUNNEL, Role.SERVER_TUNNEL)
_ORIGINS = {
    "boot": "static",
    "static": "static",
    "kernel": "the kernel's own, for an address of the device",
    "bgp": "learned from BGP",
    "ospf": "learned from OSPF",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to run on that node (or router), in which the answer is looked for: `key` is an address or a MAC, `device`
    where the packet went."""

    node: str
    table: LookupTable
    key: str
    device: str

    @property
    def argv(self) -> tuple[str, ...]:
        if self.table is LookupTable.ROUTES:
            return ("ip", "-j", "-4", "route", "get", "fibmatch", self.key)
        return ("bridge", "-j", "fdb", "show", "dev", self.device)


def questions_of(path: PacketPath) -> tuple[tuple[int, Question], ...]:
    """Each with the number of the hop (from 0) that it is about."""
    found: list[tuple[int, Question]] = []
    for number, hop in enumerate(path.hops):
        before = path.hops[number - 1] if number else None
        found += [(number, question) for question in _of_hop(before, hop)]
    return tuple(found)


def _of_hop(before: Hop | None, hop: Hop) -> Iterator[Question]:
    node = hop.node or hop.tap.rpartition(":")[0]
    if before is None or hop.direction is not TapDirection.OUT:
        return
    if hop.carriage is Carriage.TUNNEL and hop.envelope is not None:
        mac = before.dst_mac.address
        device = before.device if before.role in _TUNNELS else ""
        if device:
            yield Question(node=node, table=LookupTable.TUNNEL, key=mac, device=device)
        yield Question(node=node, table=LookupTable.ROUTES, key=hop.envelope.dst.address, device=hop.device)
    elif hop.carriage is Carriage.KERNEL:
        inside = hop.envelope.dst.address if hop.envelope is not None else hop.dst
        yield Question(node=node, table=LookupTable.ROUTES, key=inside, device=hop.device)
    elif hop.carriage is Carriage.BRIDGE:
        frame = hop.dst_mac if hop.envelope is None else hop.envelope.dst_mac
        yield Question(node=node, table=LookupTable.BRIDGE, key=frame.address, device=hop.device)
    elif hop.carriage is Carriage.PROGRAM and any(act.helper == ForwardingAct.REDIRECT_NEIGH for act in hop.moved_by):
        yield Question(node=node, table=LookupTable.ROUTES, key=hop.dst, device=hop.device)


def answer_of(question: Question, text: str) -> Lookup | None:
    """What the output says; None where it says nothing of it."""
    try:
        entries = parse_json(text or "[]")
    except ValueError:
        return None
    if not isinstance(entries, list):
        return None
    there = [entry for entry in entries if isinstance(entry, dict)]
    if question.table is LookupTable.ROUTES:
        return _route(question, there)
    return _tunnel(question, there) if question.table is LookupTable.TUNNEL else _port(question, there)


def _route(question: Question, entries: Sequence[Mapping[str, Any]]) -> Lookup | None:
    if not entries:
        return None
    entry = entries[0]
    hops = [hop for hop in entry.get("nexthops") or (entry,) if isinstance(hop, dict)]
    chosen = next((hop for hop in hops if hop.get("dev") == question.device), None)
    if chosen is None:
        return None
    protocol, destination = str(entry.get("protocol", "boot")), str(entry.get("dst", "default"))
    gateway = str(chosen.get("gateway", ""))
    origin = _ORIGINS.get(protocol, protocol)
    by = f" via {gateway}" if gateway else ""
    several = f", one of {len(hops)} next hops" if len(hops) > 1 else ""
    return Lookup(
        node=question.node,
        table=question.table,
        entry=destination,
        to=gateway,
        device=question.device,
        told=protocol,
        words=f"by the route {destination}{by} dev {question.device}: {origin}{several}",
    )


def _tunnel(question: Question, entries: Sequence[Mapping[str, Any]]) -> Lookup | None:
    to = [entry for entry in entries if str(entry.get("mac", "")).lower() == question.key.lower()]
    vtep = next((str(entry["dst"]) for entry in to if "dst" in entry), "")
    if not vtep:
        return None
    if any("extern_learn" in (entry.get("flags") or ()) for entry in to):
        told, origin = "bgp", "learned from BGP (EVPN)"
    elif any(entry.get("state") == "permanent" and "dst" in entry for entry in to):
        told, origin = "set", "set when the network was built"
    else:
        told, origin = "learned", "learned from what came from there"
    return Lookup(
        node=question.node,
        table=question.table,
        entry=question.key,
        to=vtep,
        device=question.device,
        told=told,
        words=f"{question.device}'s FDB has VTEP {vtep} for MAC {question.key}: {origin}",
    )


def _port(question: Question, entries: Sequence[Mapping[str, Any]]) -> Lookup | None:
    to = [entry for entry in entries if str(entry.get("mac", "")).lower() == question.key.lower() and "master" in entry]
    if not to:
        return None
    told = "permanent" if to[0].get("state") == "permanent" else "learned"
    origin = "the device's own" if told == "permanent" else "learned from what came from there"
    return Lookup(
        node=question.node,
        table=question.table,
        entry=question.key,
        to="",
        device=question.device,
        told=told,
        words=f"{to[0]['master']}'s FDB has MAC {question.key} behind {question.device}: {origin}",
    )


def with_lookups(path: PacketPath, answers: Mapping[Question, Lookup]) -> PacketPath:
    found: dict[int, list[Lookup]] = {}
    for number, question in questions_of(path):
        if (answer := answers.get(question)) is not None:
            found.setdefault(number, []).append(answer)
    if not found:
        return path
    hops = tuple(replace(hop, lookups=tuple(found.get(number, ()))) for number, hop in enumerate(path.hops))
    return replace(path, hops=hops)
