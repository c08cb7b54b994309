"""Turns the sightings of one exchange into its signature: per tap, what was seen of the request and of the reply.

Addresses become roles here (`client-lxc` for a MAC, `client-node` for a VTEP), so that signatures of different labs can
be compared. What a signature should have been is `expected`'s; how two differ is `difference`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from labctl.model.datapath import Encapsulation
from labctl.model.lab import Lab, Pair, Placement
from labctl.model.signature import Outer, Role, Seen, Signature, TapSight
from labctl.path.sighting import Sighting, Way

CLIENT_NODE = "client-node"
SERVER_NODE = "server-node"


def build_signature(
    *,
    taps: Sequence[tuple[str, Role]],
    sightings: Iterable[Sighting],
    mac_roles: Mapping[str, str],
    vtep_roles: Mapping[str, str],
    placement: Placement,
    encapsulation: Encapsulation,
    ping_ttl: int | None = None,
    hindrances: tuple[str, ...] = (),
) -> Signature:
    """The signature over `taps` (name and role, in the order of the way; unseen ones stay in it, as unseen).

    `mac_roles` and `vtep_roles` name MACs and outer addresses; what they do not know keeps its address.
    `packets` counts sightings: a packet that came by twice counts twice. TTL, MACs and envelope are the first one's.
    """
    by_place: dict[tuple[str, Way], list[Sighting]] = defaultdict(list)
    for sighting in sightings:
        by_place[sighting.tap, sighting.way].append(sighting)

    def seen(tap: str, way: Way) -> Seen | None:
        group = by_place.get((tap, way))
        return _seen(group, mac_roles, vtep_roles) if group else None

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
    """The underlay addresses of the pair's nodes, by role. Both pods on one node: it is the client's."""
    return {
        str(lab.node(lab.pod(pair.server).node).address.ip): SERVER_NODE,
        str(lab.node(lab.pod(pair.client).node).address.ip): CLIENT_NODE,
    }


def _seen(group: Sequence[Sighting], mac_roles: Mapping[str, str], vteps: Mapping[str, str]) -> Seen:
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
    )
