"""What brought a packet from one tap to the next, in a word and a sentence, from what was observed between them.

Nothing here knows which mode a lab should be in. Where no witness spoke, the answer is that nobody did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labctl.model.movement import Act, Movement, Mover
from labctl.model.path import Carriage, Direction
from labctl.model.signature import Role
from labctl.path.sighting import Sighting

REDIRECTS = (Act.REDIRECT, Act.REDIRECT_PEER, Act.REDIRECT_NEIGH, Act.TUNNEL)
HANDED = (Act.TO_ENDPOINT, Act.TO_NETWORK, Act.TO_OVERLAY)
"""A program gave the packet to a device, and the witness does not tell how."""
_MOVES_NOTHING = (Act.PASS, Act.SEEN)
_UPLINKS = (Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
_PORTS = (Role.CLIENT_BRIDGE_PORT, Role.SERVER_BRIDGE_PORT)
_VETH_PAIRS = frozenset(
    frozenset(pair)
    for pair in (
        (Role.CLIENT_ETH0, Role.CLIENT_LXC),
        (Role.SERVER_ETH0, Role.SERVER_LXC),
        (Role.CLIENT_CILIUM_HOST, Role.CLIENT_CILIUM_NET),
        (Role.SERVER_CILIUM_HOST, Role.SERVER_CILIUM_NET),
        (Role.CLIENT_UPLINK, Role.CLIENT_BRIDGE_PORT),
        (Role.SERVER_UPLINK, Role.SERVER_BRIDGE_PORT),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    carriage: Carriage
    because: str


def carried(
    previous: Sighting | None,
    movements: Sequence[Movement],
    here: Sighting,
    device: str,
    *,
    nodes: frozenset[str] = frozenset(),
) -> Carried:
    """How the packet came to `here` (on `device`) from `previous`, with what acted on it in between. `nodes` are the
    pair's: what acted elsewhere is told with its node."""
    if previous is None:
        said = told(movements, nodes=nodes)
        return Carried(carriage=Carriage.START, because=f"sent by the pod{f'; {said}' if said else ''}")
    if not movements and (link := _link(previous, here)) is not None:
        return link
    # That a device's own program saw it leave is what the tap there shows too.
    told_here = [m for m in movements if not (m.helper == Act.SEEN and m.hook == "egress" and m.device == device)]
    said = told(told_here, nodes=nodes)
    if (previous.envelope is None) != (here.envelope is None):
        act = "put it into its envelope" if here.envelope is not None else "took it out of its envelope"
        return Carried(carriage=Carriage.TUNNEL, because=f"the kernel's vxlan device {act}")
    last = next((m for m in reversed(movements) if m.mover is Mover.PROGRAM and m.helper not in _MOVES_NOTHING), None)
    if last is not None and last.helper in (*REDIRECTS, *HANDED) and _fits(last, here, device):
        return Carried(carriage=Carriage.PROGRAM, because=said)
    if any(m.mover is Mover.NETFILTER for m in movements):
        return Carried(carriage=Carriage.KERNEL, because=said)
    nobody = "what moved it from there was not observed" if said else "no witness saw what moved it here"
    if last is not None and last.helper == Act.TO_STACK:
        nobody = "what the stack did with it was not observed"
    return Carried(carriage=Carriage.UNOBSERVED, because=f"{said}; {nobody}" if said else nobody)


def told(movements: Iterable[Movement], *, nodes: frozenset[str] = frozenset()) -> str:
    """What acted on a packet as one sentence without its full stop; programs that only let it pass are left out. With
    `nodes`, what acted on another node is told with its node."""
    parts: list[str] = []
    hooks: list[Movement] = []
    at = ""
    for movement in (*movements, None):
        is_hook = movement is not None and movement.mover in (Mover.NETFILTER, Mover.CONNTRACK)
        if hooks and not (is_hook and movement is not None and movement.node == hooks[0].node):
            at, where = _where(hooks[0], at, nodes)
            parts.append(where + _hooks(hooks))
            hooks = []
        if movement is not None and is_hook:
            hooks.append(movement)
        elif movement is not None and movement.helper != Act.PASS:
            at, where = _where(movement, at, nodes)
            parts.append(where + _act(movement))
    return "; ".join(parts)


def _where(movement: Movement, at: str, nodes: frozenset[str]) -> tuple[str, str]:
    """The node that is spoken of from here on, and the words for a change to another one."""
    if not nodes or movement.node == at or (not at and movement.node in nodes):
        return at, ""
    return movement.node, f"on {movement.node}, "


def _act(movement: Movement) -> str:
    who = f"{movement.what} on {movement.device} {movement.hook}" if movement.device else movement.what
    target = movement.target or "another device"
    match movement.helper:
        case Act.REDIRECT_PEER:
            return f"{who} moved it through {target} into the pod with bpf_redirect_peer"
        case Act.REDIRECT:
            return f"{who} sent it to {target} with bpf_redirect"
        case Act.REDIRECT_NEIGH:
            return f"{who} sent it to {target} with bpf_redirect_neigh"
        case Act.TUNNEL:
            return f"{who} sent it to {target} with bpf_redirect, tunnel key set (VNI {movement.identity})"
        case Act.TO_STACK:
            return f"{who} left it to the kernel's stack"
        case Act.DROP:
            return f"{who} dropped it: {movement.reason}"
        case Act.SEEN:
            return f"{who} saw it {'leave' if movement.hook == 'egress' else 'come in'}"
        case Act.TO_OVERLAY:
            return f"{who} gave it to {target} for the tunnel, as identity {movement.identity}"
        case Act.TO_ENDPOINT | Act.TO_NETWORK:
            return f"{who} gave it to {target} ({movement.helper}; with which redirect is not told)"
        case _:
            return f"{who}: {movement.helper}"


def _hooks(movements: Sequence[Movement]) -> str:
    seen = [m for m in movements if m.mover is Mover.NETFILTER]
    states = list(dict.fromkeys(m.helper for m in movements if m.mover is Mover.CONNTRACK))
    names = [m.what for m in seen]
    ended = next((m for m in seen if m.helper in (Act.DROP, Act.NOT_LEFT)), None)
    subject = "its envelope" if all(m.encapsulated for m in movements) else "it"
    tracked = f" (conntrack: {', '.join(states)})" if states else ""
    if ended is not None and ended.helper == Act.DROP:
        return f"netfilter in {', '.join(names)}{tracked} dropped {subject} by {ended.reason}"
    if ended is not None:
        return f"netfilter took {subject} in {', '.join(names)}{tracked} and did not give it back"
    if "FORWARD" in names:
        ttls = [m.ttl_in for m in seen if m.ttl_in]
        hop = f", TTL {ttls[0]} → {ttls[-1]}" if ttls and ttls[0] != ttls[-1] else ""
        return f"the kernel forwarded {subject}: {', '.join(names)}{tracked}{hop}"
    return f"the kernel passed {subject} through {', '.join(names)}{tracked}" if names else f"conntrack: {states[0]}"


def _link(previous: Sighting, here: Sighting) -> Carried | None:
    """The wire between two taps: sent at one, received at the other, and nobody acted in between."""
    roles = frozenset((previous.role, here.role))
    crossed = previous.direction is Direction.OUT and here.direction is Direction.IN
    if crossed and roles in _VETH_PAIRS:
        return Carried(carriage=Carriage.WIRE, because=f"over the veth pair from {previous.tap}")
    if crossed and roles <= frozenset(_UPLINKS + _PORTS) and len(roles) == 2:
        return Carried(carriage=Carriage.WIRE, because=f"over the underlay from {previous.tap}")
    if previous.role in _PORTS and here.role in _PORTS and here.direction is Direction.OUT:
        return Carried(carriage=Carriage.BRIDGE, because="the underlay's bridge passed it on by its destination MAC")
    return None


def _fits(movement: Movement, here: Sighting, device: str) -> bool:
    """Whether the redirect leads to this sighting: out of its target, or into the pod behind it."""
    if not movement.target:
        return True
    into_pod = here.role in (Role.CLIENT_ETH0, Role.SERVER_ETH0) and here.direction is not Direction.OUT
    if movement.helper == Act.REDIRECT_PEER:
        return into_pod
    return movement.target == device or (movement.helper == Act.TO_ENDPOINT and into_pod)
