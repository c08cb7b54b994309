"""What every tap shows on real Cilium, for each host routing mode, encapsulation and placement: data, with its source.

Recorded with three ICMP echo requests on a real cluster (`SOURCE`). The tables below are read from client to server;
`None` stands for: nothing is seen there. Three things are worth knowing before reading them:

- `bpf_redirect_peer` puts a packet into the pod without transmitting it on the pod's lxc: the lxc is silent that way.
- over vxlan both modes send alike; natively Legacy loses two hops per node (the eBPF program and the kernel's
  forwarding both count one), BPF loses one.
- the VNI is the security identity of the inner packet's sender, so request and reply carry different ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from labctl.model.interfaces import GENEVE_PORT, VXLAN_PORT
from labctl.model.lab import Encapsulation, HostRouting, Lab, Pair, Placement
from labctl.model.signature import (
    CLIENT_NODE,
    SERVER_NODE,
    ExpectedSignature,
    Outer,
    Role,
    Seen,
    Signature,
    TapSight,
)

SOURCE = "recorded on a real cluster: Kubernetes v1.20.2, Cilium v1.13.12 (veth, kube-proxy skipped), kernel 6.18"

_Row = tuple[Role, Seen | None, Seen | None]


def expected_signature(
    host_routing: HostRouting,
    encapsulation: Encapsulation,
    placement: Placement,
    *,
    packets: int,
    client_identity: int,
    server_identity: int,
) -> ExpectedSignature:
    """The signature of `packets` echo requests between pods with these security identities."""
    if encapsulation is Encapsulation.GENEVE:
        recorded = expected_signature(
            host_routing,
            Encapsulation.VXLAN,
            placement,
            packets=packets,
            client_identity=client_identity,
            server_identity=server_identity,
        )
        return as_geneve(recorded)

    def fill(seen: Seen | None, identity: int) -> Seen | None:
        if seen is None:
            return None
        outer = None if seen.outer is None else replace(seen.outer, vni=identity)
        return replace(seen, packets=packets, outer=outer)

    rows, ping_ttl = _CELLS[host_routing, encapsulation, placement]
    return ExpectedSignature(
        host_routing=host_routing,
        signature=Signature(
            placement=str(placement),
            encapsulation=encapsulation,
            taps=tuple(
                TapSight(
                    tap=str(role),
                    role=role,
                    request=fill(request, client_identity),
                    reply=fill(reply, server_identity),
                )
                for role, request, reply in rows
            ),
            ping_ttl=ping_ttl,
        ),
        source=SOURCE,
    )


_GENEVE_ROLES = {
    Role.CLIENT_CILIUM_VXLAN: Role.CLIENT_CILIUM_GENEVE,
    Role.SERVER_CILIUM_VXLAN: Role.SERVER_CILIUM_GENEVE,
}
_FROM_VXLAN = "with VXLAN, and read for Geneve, which has another header, port and device, and the same programs"


def recorded_twin(lab: Lab) -> Lab:
    """The lab with VXLAN, with which tunnels were recorded."""
    return replace(lab, datapath=replace(lab.datapath, encapsulation=Encapsulation.VXLAN))


def as_geneve(expected: ExpectedSignature) -> ExpectedSignature:
    """What was recorded with VXLAN as it shows with Geneve."""

    def inside(seen: Seen | None) -> Seen | None:
        if seen is None or seen.outer is None:
            return seen
        return replace(seen, outer=replace(seen.outer, dst_port=GENEVE_PORT))

    taps = tuple(
        TapSight(
            tap=str(role) if sight.tap == sight.role else sight.tap,
            role=role,
            request=inside(sight.request),
            reply=inside(sight.reply),
        )
        for sight in expected.signature.taps
        for role in (_GENEVE_ROLES.get(sight.role, sight.role),)
    )
    return replace(
        expected,
        signature=replace(expected.signature, encapsulation=Encapsulation.GENEVE, taps=taps),
        source=f"{expected.source}, {_FROM_VXLAN}",
    )


def expected_for(lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
    """What real Cilium shows for this pair in the mode that the lab asks for."""
    return expected_signature(
        lab.in_force.host_routing,
        lab.datapath.encapsulation,
        pair.placement,
        packets=packets,
        client_identity=lab.pod(pair.client).identity,
        server_identity=lab.pod(pair.server).identity,
    )


def _seen(ttl: int, src_mac: Role, dst_mac: Role, outer: Outer | None = None) -> Seen:
    return Seen(packets=0, ttl=ttl, src_mac=str(src_mac), dst_mac=str(dst_mac), outer=outer)


def _outer(src: str, src_mac: Role, dst_mac: Role) -> Outer:
    return Outer(src=src, dst_port=VXLAN_PORT, ttl=64, vni=0, src_mac=str(src_mac), dst_mac=str(dst_mac))


# What a frame looks like at each stage. FROM: as the pod sent it. TO: as it is handed to the pod.
_FROM_CLIENT = _seen(64, Role.CLIENT_ETH0, Role.CLIENT_LXC)
_FROM_SERVER = _seen(64, Role.SERVER_ETH0, Role.SERVER_LXC)
_TO_CLIENT_60, _TO_CLIENT_62, _TO_CLIENT_63 = (_seen(ttl, Role.CLIENT_LXC, Role.CLIENT_ETH0) for ttl in (60, 62, 63))
_TO_SERVER_60, _TO_SERVER_62, _TO_SERVER_63 = (_seen(ttl, Role.SERVER_LXC, Role.SERVER_ETH0) for ttl in (60, 62, 63))
_WIRE_REQUEST_62, _WIRE_REQUEST_63 = (_seen(ttl, Role.CLIENT_UPLINK, Role.SERVER_UPLINK) for ttl in (62, 63))
_WIRE_REPLY_62, _WIRE_REPLY_63 = (_seen(ttl, Role.SERVER_UPLINK, Role.CLIENT_UPLINK) for ttl in (62, 63))
_VXLAN_REQUEST = replace(_FROM_CLIENT, outer=_outer(CLIENT_NODE, Role.CLIENT_UPLINK, Role.SERVER_UPLINK))
_VXLAN_REPLY = replace(_FROM_SERVER, outer=_outer(SERVER_NODE, Role.SERVER_UPLINK, Role.CLIENT_UPLINK))

# fmt: off
_LEGACY_VXLAN_SAME: tuple[_Row, ...] = (
    # tap                       request           reply
    (Role.CLIENT_ETH0,          _FROM_CLIENT,     _TO_CLIENT_63),
    (Role.CLIENT_LXC,           _FROM_CLIENT,     _TO_CLIENT_63),
    (Role.CLIENT_CILIUM_HOST,   None,             None),
    (Role.CLIENT_CILIUM_NET,    None,             None),
    (Role.CLIENT_CILIUM_VXLAN,  None,             None),
    (Role.CLIENT_UPLINK,        None,             None),
    (Role.CLIENT_LO,            None,             None),
    (Role.SERVER_LXC,           _TO_SERVER_63,    _FROM_SERVER),
    (Role.SERVER_ETH0,          _TO_SERVER_63,    _FROM_SERVER),
)
_BPF_VXLAN_SAME: tuple[_Row, ...] = (
    (Role.CLIENT_ETH0,          _FROM_CLIENT,     _TO_CLIENT_63),
    (Role.CLIENT_LXC,           _FROM_CLIENT,     None),
    (Role.CLIENT_CILIUM_HOST,   None,             None),
    (Role.CLIENT_CILIUM_NET,    None,             None),
    (Role.CLIENT_CILIUM_VXLAN,  None,             None),
    (Role.CLIENT_UPLINK,        None,             None),
    (Role.CLIENT_LO,            None,             None),
    (Role.SERVER_LXC,           None,             _FROM_SERVER),
    (Role.SERVER_ETH0,          _TO_SERVER_63,    _FROM_SERVER),
)
_LEGACY_VXLAN_CROSS: tuple[_Row, ...] = (
    (Role.CLIENT_ETH0,          _FROM_CLIENT,     _TO_CLIENT_63),
    (Role.CLIENT_LXC,           _FROM_CLIENT,     _TO_CLIENT_63),
    (Role.CLIENT_CILIUM_HOST,   None,             None),
    (Role.CLIENT_CILIUM_NET,    None,             None),
    (Role.CLIENT_CILIUM_VXLAN,  _FROM_CLIENT,     _FROM_SERVER),
    (Role.CLIENT_UPLINK,        _VXLAN_REQUEST,   _VXLAN_REPLY),
    (Role.CLIENT_LO,            None,             None),
    (Role.SERVER_LO,            None,             None),
    (Role.SERVER_UPLINK,        _VXLAN_REQUEST,   _VXLAN_REPLY),
    (Role.SERVER_CILIUM_VXLAN,  _FROM_CLIENT,     _FROM_SERVER),
    (Role.SERVER_CILIUM_NET,    None,             None),
    (Role.SERVER_CILIUM_HOST,   None,             None),
    (Role.SERVER_LXC,           _TO_SERVER_63,    _FROM_SERVER),
    (Role.SERVER_ETH0,          _TO_SERVER_63,    _FROM_SERVER),
)
_BPF_VXLAN_CROSS: tuple[_Row, ...] = (
    (Role.CLIENT_ETH0,          _FROM_CLIENT,     _TO_CLIENT_63),
    (Role.CLIENT_LXC,           _FROM_CLIENT,     None),
    (Role.CLIENT_CILIUM_HOST,   None,             None),
    (Role.CLIENT_CILIUM_NET,    None,             None),
    (Role.CLIENT_CILIUM_VXLAN,  _FROM_CLIENT,     _FROM_SERVER),
    (Role.CLIENT_UPLINK,        _VXLAN_REQUEST,   _VXLAN_REPLY),
    (Role.CLIENT_LO,            None,             None),
    (Role.SERVER_LO,            None,             None),
    (Role.SERVER_UPLINK,        _VXLAN_REQUEST,   _VXLAN_REPLY),
    (Role.SERVER_CILIUM_VXLAN,  _FROM_CLIENT,     _FROM_SERVER),
    (Role.SERVER_CILIUM_NET,    None,             None),
    (Role.SERVER_CILIUM_HOST,   None,             None),
    (Role.SERVER_LXC,           None,             _FROM_SERVER),
    (Role.SERVER_ETH0,          _TO_SERVER_63,    _FROM_SERVER),
)
_LEGACY_NATIVE_SAME: tuple[_Row, ...] = (
    (Role.CLIENT_ETH0,          _FROM_CLIENT,     _TO_CLIENT_63),
    (Role.CLIENT_LXC,           _FROM_CLIENT,     _TO_CLIENT_63),
    (Role.CLIENT_CILIUM_HOST,   None,             None),
    (Role.CLIENT_CILIUM_NET,    None,             None),
    (Role.CLIENT_UPLINK,        None,             None),
    (Role.CLIENT_LO,            None,             None),
    (Role.SERVER_LXC,           _TO_SERVER_63,    _FROM_SERVER),
    (Role.SERVER_ETH0,          _TO_SERVER_63,    _FROM_SERVER),
)
_BPF_NATIVE_SAME: tuple[_Row, ...] = (
    (Role.CLIENT_ETH0,          _FROM_CLIENT,     _TO_CLIENT_63),
    (Role.CLIENT_LXC,           _FROM_CLIENT,     None),
    (Role.CLIENT_CILIUM_HOST,   None,             None),
    (Role.CLIENT_CILIUM_NET,    None,             None),
    (Role.CLIENT_UPLINK,        None,             None),
    (Role.CLIENT_LO,            None,             None),
    (Role.SERVER_LXC,           None,             _FROM_SERVER),
    (Role.SERVER_ETH0,          _TO_SERVER_63,    _FROM_SERVER),
)
_LEGACY_NATIVE_CROSS: tuple[_Row, ...] = (
    (Role.CLIENT_ETH0,          _FROM_CLIENT,     _TO_CLIENT_60),
    (Role.CLIENT_LXC,           _FROM_CLIENT,     _TO_CLIENT_60),
    (Role.CLIENT_CILIUM_HOST,   None,             None),
    (Role.CLIENT_CILIUM_NET,    None,             None),
    (Role.CLIENT_UPLINK,        _WIRE_REQUEST_62, _WIRE_REPLY_62),
    (Role.CLIENT_LO,            None,             None),
    (Role.SERVER_LO,            None,             None),
    (Role.SERVER_UPLINK,        _WIRE_REQUEST_62, _WIRE_REPLY_62),
    (Role.SERVER_CILIUM_NET,    None,             None),
    (Role.SERVER_CILIUM_HOST,   None,             None),
    (Role.SERVER_LXC,           _TO_SERVER_60,    _FROM_SERVER),
    (Role.SERVER_ETH0,          _TO_SERVER_60,    _FROM_SERVER),
)
_BPF_NATIVE_CROSS: tuple[_Row, ...] = (
    (Role.CLIENT_ETH0,          _FROM_CLIENT,     _TO_CLIENT_62),
    (Role.CLIENT_LXC,           _FROM_CLIENT,     None),
    (Role.CLIENT_CILIUM_HOST,   None,             None),
    (Role.CLIENT_CILIUM_NET,    None,             None),
    (Role.CLIENT_UPLINK,        _WIRE_REQUEST_63, _WIRE_REPLY_63),
    (Role.CLIENT_LO,            None,             None),
    (Role.SERVER_LO,            None,             None),
    (Role.SERVER_UPLINK,        _WIRE_REQUEST_63, _WIRE_REPLY_63),
    (Role.SERVER_CILIUM_NET,    None,             None),
    (Role.SERVER_CILIUM_HOST,   None,             None),
    (Role.SERVER_LXC,           None,             _FROM_SERVER),
    (Role.SERVER_ETH0,          _TO_SERVER_62,    _FROM_SERVER),
)

_CELLS: Mapping[tuple[HostRouting, Encapsulation, Placement], tuple[tuple[_Row, ...], int]] = {
    # cell                                                                taps                  TTL that ping prints
    (HostRouting.LEGACY, Encapsulation.VXLAN, Placement.SAME_NODE):       (_LEGACY_VXLAN_SAME,   63),
    (HostRouting.LEGACY, Encapsulation.VXLAN, Placement.CROSS_NODE):      (_LEGACY_VXLAN_CROSS,  63),
    (HostRouting.BPF, Encapsulation.VXLAN, Placement.SAME_NODE):          (_BPF_VXLAN_SAME,      63),
    (HostRouting.BPF, Encapsulation.VXLAN, Placement.CROSS_NODE):         (_BPF_VXLAN_CROSS,     63),
    (HostRouting.LEGACY, Encapsulation.NATIVE, Placement.SAME_NODE):      (_LEGACY_NATIVE_SAME,  63),
    (HostRouting.LEGACY, Encapsulation.NATIVE, Placement.CROSS_NODE):     (_LEGACY_NATIVE_CROSS, 60),
    (HostRouting.BPF, Encapsulation.NATIVE, Placement.SAME_NODE):         (_BPF_NATIVE_SAME,     63),
    (HostRouting.BPF, Encapsulation.NATIVE, Placement.CROSS_NODE):        (_BPF_NATIVE_CROSS,    62),
}
# fmt: on
