"""Expected signatures of networks that carry a request and its reply alike: from one half, the other half. Pure.

A network writes down what each tap shows of the request on its way from client to server. The reply shows the same
with the ends exchanged. What a network does otherwise on the way back, it writes down itself (`cilium.expected`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labctl.model.interfaces import VXLAN_PORT
from labctl.model.lab import Encapsulation, Placement
from labctl.model.signature import CLIENT_NODE, ExpectedSignature, Outer, Role, Seen, Signature, TapSight

Row = tuple[Role, Seen | None]
"""A tap, and what it shows of the request; None where it shows nothing."""

_ENDS = {"client": "server", "server": "client"}
_OF_PODS = frozenset(
    {
        Role.CLIENT_ETH0,
        Role.CLIENT_VETH,
        Role.SERVER_ETH0,
        Role.SERVER_VETH,
    }
)


def frame(ttl: int, src_mac: Role, dst_mac: Role) -> Seen:
    """One request from the device of the one role to that of the other."""
    return Seen(packets=0, ttl=ttl, src_mac=str(src_mac), dst_mac=str(dst_mac))


def in_envelope(inner: Seen, *, vni: int, port: int = VXLAN_PORT) -> Seen:
    """The frame inside VXLAN, between the uplinks of both nodes. The kernel gives envelopes a TTL of 64."""
    outer = Outer(
        src=CLIENT_NODE,
        dst_port=port,
        ttl=64,
        vni=vni,
        src_mac=str(Role.CLIENT_UPLINK),
        dst_mac=str(Role.SERVER_UPLINK),
    )
    return replace(inner, outer=outer)


def expected_from(
    rows: Sequence[Row],
    *,
    placement: Placement,
    encapsulation: Encapsulation,
    packets: int,
    source: str,
    equal_macs: Mapping[Role, Role] | None = None,
) -> ExpectedSignature:
    """The signature of `packets` echo requests and their replies. `equal_macs` names, for a device that has the same
    MAC as one that comes earlier on the way, the earlier one: MACs go by the first owner's role."""
    requests = dict(rows)
    taps = []
    for role, request in rows:
        reply = requests[_across(role, placement)]
        taps.append(
            TapSight(
                tap=str(role),
                role=role,
                request=_as_shown(request, packets, equal_macs or {}),
                reply=_as_shown(None if reply is None else _mirrored(reply, placement), packets, equal_macs or {}),
            )
        )
    first = taps[0].reply
    return ExpectedSignature(
        host_routing=None,
        signature=Signature(
            placement=str(placement),
            encapsulation=encapsulation,
            taps=tuple(taps),
            ping_ttl=None if first is None else first.ttl,
        ),
        source=source,
    )


def _as_shown(seen: Seen | None, packets: int, equal_macs: Mapping[Role, Role]) -> Seen | None:
    if seen is None:
        return None
    known = {str(one): str(other) for one, other in equal_macs.items()}
    src_mac, dst_mac = (known.get(mac, mac) for mac in (seen.src_mac, seen.dst_mac))
    return replace(seen, packets=packets, src_mac=src_mac, dst_mac=dst_mac)


def _across(role: Role, placement: Placement) -> Role:
    """The same place as seen from the other end. Of one node, only the pods' own devices have two ends."""
    if placement is Placement.SAME_NODE and role not in _OF_PODS:
        return role
    return Role(_exchanged(str(role)))


def _mirrored(seen: Seen, placement: Placement) -> Seen:
    src_mac, dst_mac = (str(_across(Role(mac), placement)) for mac in (seen.src_mac, seen.dst_mac))
    outer = seen.outer
    if outer is not None:
        outer = replace(
            outer, src=_exchanged(outer.src), src_mac=_exchanged(outer.src_mac), dst_mac=_exchanged(outer.dst_mac)
        )
    return replace(seen, src_mac=src_mac, dst_mac=dst_mac, outer=outer)


def _exchanged(name: str) -> str:
    end, dash, rest = name.partition("-")
    return f"{_ENDS[end]}{dash}{rest}"
