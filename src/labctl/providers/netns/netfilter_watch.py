"""Netfilter of one node as a witness of single packets: which hooks they enter and leave, and which rule drops them.

A table of labctl's own, in the lab node's namespace only, marks the pair's packets for nf_tables' trace and stands
first and last in every hook. It has an owner where the kernel knows that (Linux 5.12): the kernel removes it when
the watch ends in any way. Elsewhere the watch removes it, and opening the lab removes what a killed watch left behind.
Between its two chains are all other rules: a packet that comes to the first and not to the last was removed in that
hook. All of it is pure; `watch` carries it out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from labctl.model.flow import Flow
from labctl.model.interfaces import TUNNEL_PORTS
from labctl.model.trace import ForwardingAct, Movement, Mover, PacketKey
from labctl.system.netfilter import StepKind, TraceStep
from labctl.values import dataclass

TABLE = "labctl_trace"
REMOVE = f"delete table ip {TABLE}"
_REPLACE = f"add table ip {TABLE}\n{REMOVE}"
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_MARKING = ("prerouting", "output")
_FIRST, _LAST = -500, 500
_INNER_SRC_BIT = (8 + 8 + 14 + 12) * 8
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}
_UDP = 17
_ECHOES = (0, 8)


def ruleset(flows: Iterable[Flow], *, is_owned: bool = True) -> str:
    """The table, with its maker as the owner, or without one and in place of any that was left behind. Marks what goes
    between the two addresses of each flow, as it is or inside VXLAN (where the addresses have a fixed offset from the
    outer UDP header)."""
    ways = tuple(way for one, other in flows for way in ((one, other), (other, one)))
    lines = [f"table ip {TABLE} {{", " flags owner;"] if is_owned else [_REPLACE, f"table ip {TABLE} {{"]
    ports = ", ".join(map(str, TUNNEL_PORTS))
    for hook in HOOKS:
        lines.append(f" chain {hook}_first {{ type filter hook {hook} priority {_FIRST}; policy accept;")
        if hook in _MARKING:
            for source, destination in ways:
                inner = f"@th,{_INNER_SRC_BIT},32 {int(source):#x} @th,{_INNER_SRC_BIT + 32},32 {int(destination):#x}"
                lines.append(f"  ip saddr {source} ip daddr {destination} meta nftrace set 1;")
                lines.append(f"  udp dport {{ {ports} }} {inner} meta nftrace set 1;")
        lines.append(" }")
        lines.append(f" chain {hook}_last {{ type filter hook {hook} priority {_LAST}; policy accept; }}")
    return "\n".join((*lines, "}", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """One packet's way through one hook."""

    hook: str
    steps: tuple[TraceStep, ...]

    @property
    def has_left(self) -> bool:
        return any(step.table == TABLE and step.chain == f"{self.hook}_last" for step in self.steps)

    @property
    def dropping(self) -> TraceStep | None:
        return next((step for step in self.steps if step.is_drop), None)

    @property
    def ct_state(self) -> str:
        return next((step.ct_state for step in self.steps if step.ct_state), "")

    @property
    def tables(self) -> tuple[str, ...]:
        names = (f"{step.table} {step.chain}" for step in self.steps if step.table != TABLE and step.network_header)
        return tuple(dict.fromkeys(names))


def movements_of(
    steps: Iterable[TraceStep], *, node: str, device_names: Mapping[int, str], rules: Mapping[tuple[str, str, int], str]
) -> Iterator[Movement]:
    """One movement per hook and packet, in the order of the trace; with the hook in which connection tracking first
    has a state for the packet comes one of conntrack. `rules` are texts of rules by table, chain and handle."""
    tracked: set[int] = set()
    for passed in _passes(steps):
        first = passed.steps[0]
        key, ttl, is_envelope = _key(first)
        if key is None:
            continue
        dropping = passed.dropping
        act = ForwardingAct.DROP if dropping else ForwardingAct.ACCEPT if passed.has_left else ForwardingAct.NOT_LEFT
        movement = Movement(
            node=node,
            mover=Mover.NETFILTER,
            what=passed.hook.upper(),
            device=device_names.get(first.iif, ""),
            hook=passed.hook,
            helper=act,
            packet=key,
            target=device_names.get(next((step.oif for step in passed.steps if step.oif), 0), ""),
            reason=_reason(dropping, rules) if dropping else "",
            ttl_in=ttl,
            ttl_out=ttl,
            encapsulated=is_envelope,
            raw=", ".join(passed.tables),
        )
        yield movement
        if passed.hook in _MARKING:
            tracked.discard(first.packet)
        if passed.ct_state and first.packet not in tracked:
            tracked.add(first.packet)
            yield replace(movement, mover=Mover.CONNTRACK, what="conntrack", helper=passed.ct_state, reason="", raw="")


def dropped_in(steps: Iterable[TraceStep]) -> frozenset[tuple[str, str]]:
    """(table, chain) of every rule that dropped something: their texts are needed."""
    return frozenset((s.table, s.chain) for s in steps if s.is_drop and s.kind == StepKind.RULE)


def argv_chain(table: str, chain: str) -> tuple[str, ...]:
    return ("nft", "-a", "list", "chain", "ip", table, chain)


_COUNTER = re.compile(r"\bcounter packets \d+ bytes \d+\b")
"""Found by its whole form: nft 1.1.7 prints a rule's comment before it, and a comment may say anything."""


def parse_chain(text: str, table: str, chain: str) -> dict[tuple[str, str, int], str]:
    """The rules of `nft -a list chain` by handle, without counters."""
    found = {}
    for line in text.splitlines():
        rule, mark, handle = line.strip().rpartition(" # handle ")
        if mark and handle.isdigit() and not rule.startswith(("chain ", "table ")):
            found[table, chain, int(handle)] = " ".join(_COUNTER.sub("", rule).split())
    return found


def _reason(step: TraceStep, rules: Mapping[tuple[str, str, int], str]) -> str:
    if step.kind == StepKind.POLICY:
        return f"the policy of {step.table} {step.chain}"
    text = rules.get((step.table, step.chain, step.handle), "")
    if text:
        return f"the rule in {step.table} {step.chain}: {text}"
    return f"the rule in {step.table} {step.chain} with handle {step.handle}"


def _passes(steps: Iterable[TraceStep]) -> Iterator[_Pass]:
    """Cuts the trace at labctl's own first chains. Packets are traced one after the other within a hook."""
    current: dict[int, tuple[str, list[TraceStep]]] = {}
    order: list[tuple[str, list[TraceStep]]] = []
    for step in steps:
        hook, _, place = step.chain.rpartition("_")
        if step.table == TABLE and place == "first" and step.network_header:
            current[step.packet] = (hook, [])
            order.append(current[step.packet])
        if step.packet in current:
            current[step.packet][1].append(step)
    for hook, own in order:
        yield _Pass(hook=hook, steps=tuple(own))


def _key(step: TraceStep) -> tuple[PacketKey | None, int, bool]:
    """The packet of a step with headers, its TTL, and whether it is an envelope."""
    header, transport = step.network_header, step.transport_header
    if len(header) < 20:
        return None, 0, False
    protocol = header[9]
    first, second = struct.unpack_from("!HH", transport) if len(transport) >= 4 else (0, 0)
    if protocol == 1:
        is_echo = len(transport) >= 8 and transport[0] in _ECHOES
        first, second = struct.unpack_from("!HH", transport, 4) if is_echo else (0, 0)
    key = PacketKey(
        src=str(IPv4Address(header[12:16])),
        dst=str(IPv4Address(header[16:20])),
        protocol=_PROTOCOLS.get(protocol, str(protocol)),
        first=first,
        second=second,
        ip_id=int.from_bytes(header[4:6], "big"),
    )
    return key, header[8], protocol == _UDP and second in TUNNEL_PORTS
