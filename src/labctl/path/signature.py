"""The signature of one exchange: per tap, what was seen of the request and of the reply; and the mode that it shows.

Addresses become roles here (`client-lxc` for a MAC, `client-node` for a VTEP), so that signatures of different labs can
be compared. What a signature should have been is `expected`'s; how two differ is `difference`'s.

Which host routing mode it shows is read from it alone, not from what was asked for. Two observations distinguish the
modes, and each is taken for each half of the exchange:

- delivery: a packet that is *transmitted* on the pod's lxc was handed over by `bpf_redirect` (Legacy); one that appears
  in the pod without having been seen on the lxc came through `bpf_redirect_peer` (BPF). Silence counts only where the
  same tap saw the other half, which proves that it can see.
- hops on the sending node, with native routing: two off the TTL mean that the kernel's forwarding took part beside the
  eBPF program (Legacy). One means that it did not (BPF), where the same node is seen to deliver as in BPF; else it may
  be the kernel alone, without any program.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from labctl.model.evidence import Evidence, Silence
from labctl.model.flow import client_node_of, flows_of, server_node_of
from labctl.model.interfaces import GENEVE_PORT
from labctl.model.lab import Datapath, Encapsulation, HostRouting, Lab, Pair, Placement
from labctl.model.result import CheckResult
from labctl.model.signature import (
    BACKEND,
    CLIENT,
    CLIENT_NODE,
    CLIENT_ROUTER,
    SERVER,
    SERVER_NODE,
    SERVER_ROUTER,
    Outer,
    Role,
    Seen,
    Signature,
    TapSight,
)
from labctl.path.sighting import Sighting, Way
from labctl.values import dataclass


def build_signature(
    *,
    taps: Sequence[tuple[str, Role]],
    sightings: Iterable[Sighting],
    mac_roles: Mapping[str, str],
    vtep_roles: Mapping[str, str],
    address_roles: Mapping[str, str] = MappingProxyType({}),
    placement: Placement,
    encapsulation: Encapsulation,
    ping_ttl: int | None = None,
    hindrances: tuple[str, ...] = (),
) -> Signature:
    """The signature over `taps` (name and role, in the order of the way; unseen ones stay in it, as unseen).

    `mac_roles` and `vtep_roles` name MACs and outer addresses; what they do not know keeps its address. Without
    `address_roles` the packets' own addresses are not part of it.
    `packets` counts sightings: a packet that came by twice counts twice. TTL, MACs and envelope are the first one's.
    """
    by_place: dict[tuple[str, Way], list[Sighting]] = defaultdict(list)
    for sighting in sightings:
        by_place[sighting.tap, sighting.way].append(sighting)

    def seen(tap: str, way: Way) -> Seen | None:
        group = by_place.get((tap, way))
        return _seen(group, mac_roles, vtep_roles, address_roles) if group else None

    return Signature(
        placement=str(placement),
        encapsulation=encapsulation,
        taps=tuple(
            TapSight(tap=name, role=role, request=seen(name, Way.REQUEST), reply=seen(name, Way.REPLY))
            for name, role in taps
        ),
        ping_ttl=ping_ttl,
        hindrances=hindrances,
    )


def vtep_roles(lab: Lab, pair: Pair) -> dict[str, str]:
    """The underlay addresses of the pair's nodes, by role. Both ends on one node: it is the client's."""
    client, server = client_node_of(lab, pair), server_node_of(lab, pair)
    return {
        str(lab.node(server).address.ip): SERVER_NODE,
        str(lab.node(client).address.ip): CLIENT_NODE,
    }


def address_roles(lab: Lab, pair: Pair) -> dict[str, str]:
    """Whose each address is that packets of the pair may have; none between two pods, where nothing is rewritten. An
    end's own goes first: a node that is an end is not called the other end's node."""
    if len(flows_of(lab, pair)) == 1 and lab.is_between_pods(pair):
        return {}
    roles: dict[str, str] = {}
    roles.setdefault(str(lab.client(pair).address), CLIENT)
    roles.setdefault(str(lab.server(pair).address), SERVER)
    for pod in lab.backends(pair):
        roles.setdefault(str(pod.address), BACKEND)
    sides = ((client_node_of, CLIENT_NODE, CLIENT_ROUTER), (server_node_of, SERVER_NODE, SERVER_ROUTER))
    for node_of, of_node, of_router in sides:
        if name := node_of(lab, pair):
            node = lab.node(name)
            roles.setdefault(str(node.address.ip), of_node)
            roles.setdefault(str(node.router), of_router)
    return roles


def _seen(
    group: Sequence[Sighting], mac_roles: Mapping[str, str], vteps: Mapping[str, str], addresses: Mapping[str, str]
) -> Seen:
    first = min(group, key=lambda sighting: sighting.time_ns)
    outer = None
    if (envelope := first.envelope) is not None:
        outer = Outer(
            src=vteps.get(envelope.src, envelope.src),
            dst_port=envelope.dst_port,
            ttl=envelope.ttl,
            vni=envelope.vni,
            src_mac=mac_roles.get(envelope.src_mac, envelope.src_mac),
            dst_mac=mac_roles.get(envelope.dst_mac, envelope.dst_mac),
        )
    return Seen(
        packets=len(group),
        ttl=first.ttl,
        src_mac=mac_roles.get(first.src_mac, first.src_mac),
        dst_mac=mac_roles.get(first.dst_mac, first.dst_mac),
        outer=outer,
        src=addresses.get(first.src, first.src) if addresses else "",
        dst=addresses.get(first.dst, first.dst) if addresses else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One observation and the mode that it is evidence for."""

    host_routing: HostRouting
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """The mode that the observations agree on; None when there are none or they contradict each other."""

    host_routing: HostRouting | None
    because: str
    observations: tuple[Observation, ...]


def recognise(signature: Signature) -> Recognised:
    """The host routing mode that was at work when this signature was taken."""
    observations = tuple(_observations(signature))
    if _is_within_node(signature):
        return Recognised(
            host_routing=None,
            because="between a node and its own pod both modes show the same",
            observations=(),
        )
    modes = {observation.host_routing for observation in observations}
    if not modes:
        return Recognised(
            host_routing=None,
            because="no packet was seen to reach a pod, so the modes cannot be distinguished",
            observations=(),
        )
    if len(modes) > 1:
        each = "; ".join(f"{observation.because} ({observation.host_routing})" for observation in observations)
        return Recognised(
            host_routing=None, because=f"the observations contradict each other: {each}", observations=observations
        )
    return Recognised(
        host_routing=modes.pop(),
        because="; ".join(observation.because for observation in observations),
        observations=observations,
    )


def recognise_encapsulation(signature: Signature) -> Encapsulation | None:
    """How the packets crossed from node to node, by the uplinks; None when none was seen there."""
    sights = {sight.role: sight for sight in signature.taps}
    if Role.CLIENT_LXC not in sights or Role.SERVER_LXC not in sights:
        return None  # what goes to a node or to the outside is not tunnelled in every mode
    on_wire = [
        seen
        for role in (Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
        if role in sights
        for seen in (sights[role].request, sights[role].reply)
        if seen is not None
    ]
    kinds = {_encapsulation_of(seen) for seen in on_wire}
    return kinds.pop() if len(kinds) == 1 else None


def _encapsulation_of(seen: Seen) -> Encapsulation:
    if seen.outer is None:
        return Encapsulation.NATIVE
    return Encapsulation.GENEVE if seen.outer.dst_port == GENEVE_PORT else Encapsulation.VXLAN


def signature_evidence(result: CheckResult, datapath: Datapath, lab: str) -> Evidence:
    """What the packets of one tcpdump check of a lab testify. What was asked for is read only to say whether that
    supports it.

    One observation of the other mode is enough to contradict, even if another one is evidence for the mode asked for.
    Where the packets did not come through, the finding says where they were last seen.
    """
    where = f"{result.client} → {result.server} ({result.placement})"
    signature = result.signature
    if signature is None:
        return Evidence(
            witness="signature",
            where=where,
            finding=f"no signature could be taken: {result.reason}",
            supports=None,
            silence=Silence.UNREAD,
        )
    recognised, encapsulation = recognise(signature), recognise_encapsulation(signature)
    found: dict[str, object] = {}
    claims: list[bool] = [seen.host_routing is datapath.host_routing for seen in recognised.observations]
    if recognised.host_routing is not None:
        found["hostRouting"] = str(recognised.host_routing)
    finding = recognised.because
    if encapsulation is not None:
        found["encapsulation"] = str(encapsulation)
        claims.append(encapsulation is datapath.encapsulation)
        finding += f"; between the nodes the packets were {_ON_WIRE[encapsulation]}"
    missing = lost_on_the_way(signature)
    if missing:
        finding = missing if all(claims) else f"{finding}; {missing}"
    node, _, lxc = next((s.tap for s in signature.taps if s.role is Role.SERVER_LXC), "").rpartition(":")
    return Evidence(
        witness="signature",
        where=where,
        finding=finding,
        supports=all(claims) if claims else None,
        command=f"labctl exec {lab} {node} -- tcpdump -nei {lxc} icmp" if node else "",
        found=found,
        silence=Silence.LOST if missing else None,
    )


def lost_on_the_way(signature: Signature) -> str:
    """Where the request, or else the reply, was last seen when none came to its pod; "" when both came, or when the
    pods' own ends were not watched."""
    if not {Role.CLIENT_ETH0, Role.SERVER_ETH0} <= {sight.role for sight in signature.taps}:
        return ""
    for way, end in ((Way.REQUEST, Role.SERVER_ETH0), (Way.REPLY, Role.CLIENT_ETH0)):
        taps = signature.taps if way is Way.REQUEST else signature.taps[::-1]
        seen = [sight for sight in taps if (sight.request if way is Way.REQUEST else sight.reply) is not None]
        if any(sight.role is end for sight in seen):
            continue
        if seen:
            lost = f"the {way} was last seen at {seen[-1].tap} and did not come to {taps[-1].tap}"
        else:
            lost = f"the {way} was not seen, not even at {taps[0].tap}"
        return "; ".join((lost, *signature.hindrances))
    return ""


_ON_WIRE = {
    Encapsulation.VXLAN: "inside VXLAN",
    Encapsulation.GENEVE: "inside Geneve",
    Encapsulation.NATIVE: "as the pods sent them",
}


def _is_within_node(signature: Signature) -> bool:
    """Between a node and its own pod the stack sends through the lxc in every mode."""
    ends = {Role.CLIENT_ETH0, Role.SERVER_ETH0} & {sight.role for sight in signature.taps}
    return signature.placement == Placement.SAME_NODE and len(ends) == 1


def _observations(signature: Signature) -> Iterator[Observation]:
    requests = {sight.role: sight.request for sight in signature.taps}
    replies = {sight.role: sight.reply for sight in signature.taps}
    if _is_within_node(signature):
        return
    lxc, eth0 = (Role.SERVER_LXC, Role.CLIENT_LXC), (Role.SERVER_ETH0, Role.CLIENT_ETH0)
    to_server = to_client = None
    if lxc[0] in requests and requests.get(eth0[0]) is not None:
        to_server = _delivery("server", Way.REQUEST, requests[lxc[0]], replies[lxc[0]])
    if lxc[1] in replies and replies.get(eth0[1]) is not None:
        to_client = _delivery("client", Way.REPLY, replies[lxc[1]], requests[lxc[1]])
    from_client = from_server = None
    if {Role.CLIENT_LXC, Role.SERVER_LXC} <= requests.keys() or signature.encapsulation is Encapsulation.NATIVE:
        # With vxlan, what goes to a node or to the outside passes the stack in both modes.
        if lxc[1] in requests:
            from_client = _hops(
                "client", Way.REQUEST, requests.get(eth0[1]), requests.get(Role.CLIENT_UPLINK), to_client
            )
        if lxc[0] in replies:
            from_server = _hops("server", Way.REPLY, replies.get(eth0[0]), replies.get(Role.SERVER_UPLINK), to_server)
    yield from filter(None, (to_server, to_client, from_client, from_server))


def _delivery(pod: str, way: Way, on_lxc: Seen | None, other_half: Seen | None) -> Observation | None:
    if on_lxc is not None:
        return Observation(
            host_routing=HostRouting.LEGACY,
            because=f"the {pod}'s lxc transmitted the {way}, as bpf_redirect does",
        )
    if other_half is not None:
        return Observation(
            host_routing=HostRouting.BPF,
            because=f"the {way} appeared in the {pod} pod and never on its lxc, as with bpf_redirect_peer",
        )
    return None


def _hops(
    pod: str, way: Way, sent: Seen | None, on_wire: Seen | None, delivered: Observation | None
) -> Observation | None:
    """`delivered` is how the same node brought the other half to its pod."""
    if sent is None or on_wire is None or on_wire.outer is not None:
        return None
    hops = sent.ttl - on_wire.ttl
    if hops == 2:
        return Observation(
            host_routing=HostRouting.LEGACY,
            because=f"the {way} lost 2 hops on the {pod}'s node: the kernel's forwarding took part",
        )
    if hops == 1 and delivered is not None and delivered.host_routing is HostRouting.BPF:
        return Observation(
            host_routing=HostRouting.BPF,
            because=f"the {way} lost 1 hop on the {pod}'s node: the kernel's forwarding was not involved",
        )
    return None
