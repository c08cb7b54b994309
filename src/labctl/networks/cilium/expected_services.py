"""What every tap shows of a connection to a Service, once its backend is known: data, with its source. Pure.

At the socket a Service is translated before there is a packet: from inside the cluster the taps show what they show
between the client and the backend itself, and a pod that reaches itself shows nothing anywhere. Where a pod's packets are
translated (`socketLB: false`) its own eth0 and lxc have the Service's address, and everything beyond is the same.

From outside, at a node's port, recorded on a real cluster (`RECORDED`): the node that was asked translates at its uplink,
past its own stack in both modes, so that the uplink shows each packet in both forms. Another node's backend answers the
node that was asked: with vxlan its cilium_host (VNI 2, world), natively its own address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labctl.datapath.layout import SecurityIdentity
from labctl.model.interfaces import VXLAN_PORT
from labctl.model.lab import Encapsulation, EndpointKind, HostRouting, Lab, Pair, placement_of
from labctl.model.signature import (
    BACKEND,
    CLIENT,
    CLIENT_NODE,
    CLIENT_ROUTER,
    SERVER,
    SERVER_NODE,
    ExpectedSignature,
    Outer,
    Role,
    Seen,
    Signature,
    TapSight,
)
from labctl.networks.cilium.expected import expected_for
from labctl.networks.cilium.expected_ends import RECORDED, behind_gateway, expected_between

_LEGACY, _BPF = HostRouting.LEGACY, HostRouting.BPF
_VXLAN, _NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
_TWICE = 2
"""How often the uplink of the node that was asked shows a packet that goes on to another node."""

_Cell = Mapping[Role, tuple[Seen | None, Seen | None]]

_C_ETH0, _C_UPLINK = str(Role.CLIENT_ETH0), str(Role.CLIENT_UPLINK)
_S_ETH0, _S_LXC, _S_UPLINK = str(Role.SERVER_ETH0), str(Role.SERVER_LXC), str(Role.SERVER_UPLINK)
_FROM_OUTSIDE, _INTO_SERVER = (_C_ETH0, _C_UPLINK), (_S_LXC, _S_ETH0)
_OUT_OF_SERVER, _BETWEEN_NODES = (_S_ETH0, _S_LXC), (_C_UPLINK, _S_UPLINK)
_ASKED, _KEPT = (CLIENT, SERVER), (CLIENT, BACKEND)
_PODS_VNI = 0
"""Stands for the identity of the backend."""


def _at(ttl: int, addresses: tuple[str, str], macs: tuple[str, str], vni: int | None = None, *, times: int = 1) -> Seen:
    outer = None
    if vni is not None:
        is_request = vni == SecurityIdentity.WORLD
        src, ends = (CLIENT_NODE, _BETWEEN_NODES) if is_request else (SERVER_NODE, _BETWEEN_NODES[::-1])
        # The node that was asked is both the server's address and the node on the client's side.
        outer = Outer(src=src, dst_port=VXLAN_PORT, ttl=64, vni=vni, src_mac=ends[0], dst_mac=ends[1])
    return Seen(
        packets=times, ttl=ttl, src=addresses[0], dst=addresses[1], src_mac=macs[0], dst_mac=macs[1], outer=outer
    )


def _local(came: int, *, lxc: bool) -> _Cell:
    """The backend is on the node that was asked, and sees the client. `came`: the TTL that the request has there."""
    sent, back = _at(64, _ASKED, _FROM_OUTSIDE), _at(63, _ASKED[::-1], _FROM_OUTSIDE[::-1])
    into, reply = _at(came, _KEPT, _INTO_SERVER), _at(64, _KEPT[::-1], _OUT_OF_SERVER)
    return {
        Role.CLIENT_ETH0: (sent, back),
        Role.CLIENT_UPLINK: (sent, back),
        Role.SERVER_LXC: (into if lxc else None, reply),
        Role.SERVER_ETH0: (into, reply),
    }


def _remote_vxlan(*, lxc: bool) -> _Cell:
    relayed = (CLIENT_ROUTER, BACKEND)
    sent, back = _at(64, _ASKED, _FROM_OUTSIDE), _at(63, _ASKED[::-1], _FROM_OUTSIDE[::-1])
    # The frame inside is the one that came from the client, with its MACs.
    inner, enveloped = (_at(63, relayed, _FROM_OUTSIDE, vni) for vni in (None, SecurityIdentity.WORLD))
    reply, enveloped_reply = (_at(64, relayed[::-1], _OUT_OF_SERVER, vni) for vni in (None, _PODS_VNI))
    into = _at(62, relayed, _INTO_SERVER)
    return {
        Role.CLIENT_ETH0: (sent, back),
        Role.CLIENT_UPLINK: (replace(sent, packets=_TWICE), replace(enveloped_reply, packets=_TWICE)),
        Role.CLIENT_CILIUM_VXLAN: (inner, reply),
        Role.SERVER_UPLINK: (enveloped, enveloped_reply),
        Role.SERVER_CILIUM_VXLAN: (inner, reply),
        Role.SERVER_LXC: (into if lxc else None, reply),
        Role.SERVER_ETH0: (into, reply),
    }


def _remote_native(came: int, left: int, arrived: int, *, lxc: bool) -> _Cell:
    """`came`: the TTL of the request in the pod; `left`: that of the reply between the nodes; `arrived`: at the client.
    The node that was asked has the address that the client knows."""
    relayed = (SERVER, BACKEND)
    sent, back = _at(64, _ASKED, _FROM_OUTSIDE), _at(arrived, _ASKED[::-1], _FROM_OUTSIDE[::-1])
    out, home = _at(63, relayed, _BETWEEN_NODES), _at(left, relayed[::-1], _BETWEEN_NODES[::-1])
    into, reply = _at(came, relayed, _INTO_SERVER), _at(64, relayed[::-1], _OUT_OF_SERVER)
    return {
        Role.CLIENT_ETH0: (sent, back),
        Role.CLIENT_UPLINK: (replace(sent, packets=_TWICE), replace(home, packets=_TWICE)),
        Role.SERVER_UPLINK: (out, home),
        Role.SERVER_LXC: (into if lxc else None, reply),
        Role.SERVER_ETH0: (into, reply),
    }


# fmt: off
_NODE_PORT: Mapping[tuple[HostRouting, Encapsulation], tuple[_Cell, _Cell]] = {
    # cell                 a backend of the node that was asked,  and one of another node
    (_LEGACY, _VXLAN):     (_local(62, lxc=True),                 _remote_vxlan(lxc=True)),
    (_LEGACY, _NATIVE):    (_local(62, lxc=True),                 _remote_native(61, 62, 61, lxc=True)),
    (_BPF, _VXLAN):        (_local(63, lxc=False),                _remote_vxlan(lxc=False)),
    (_BPF, _NATIVE):       (_local(63, lxc=False),                _remote_native(62, 63, 62, lxc=False)),
}
# fmt: on


def expected_of_service(lab: Lab, pair: Pair, roles: Sequence[Role], *, packets: int) -> ExpectedSignature:
    """The signature of `packets` connections to a Service of which one backend is known: the first that it has here.
    `roles` are those of the pair's taps, in the order of the way. Raises KeyError for a Service without a backend."""
    backends = lab.backends(pair)
    if not backends:
        raise KeyError(pair.server)
    backend, client = backends[0], lab.client(pair)
    if client.name == backend.name:
        return _signature(lab, pair, {}, roles, packets=packets, identity=0, source=RECORDED)
    if client.kind is not EndpointKind.OUTSIDE:
        return _from_inside(lab, pair, roles, packets=packets)
    local, remote = _NODE_PORT[lab.in_force.host_routing, lab.in_force.encapsulation]
    cell = local if backend.node == lab.server(pair).node else remote
    beyond = next(host for host in lab.outside if host.name == pair.client)
    if not lab.is_near(beyond):
        cell, _ = behind_gateway(cell, None, is_client=True)
    return _signature(lab, pair, cell, roles, packets=packets, identity=backend.identity, source=RECORDED)


def _from_inside(lab: Lab, pair: Pair, roles: Sequence[Role], *, packets: int) -> ExpectedSignature:
    """Translated at the socket, or where the pod's packets enter the node: the way is that to the backend."""
    backend, client = lab.backends(pair)[0], lab.client(pair)
    direct = Pair(client=client.name, server=backend.name, placement=placement_of(client.node, (backend.node,)))
    if lab.is_between_pods(direct):
        found = expected_for(lab, direct, packets=packets)
    else:
        found = expected_between(lab, direct, roles, packets=packets)
    seen = {sight.role: (_of_backend(sight.request), _of_backend(sight.reply)) for sight in found.signature.taps}
    taps = tuple(
        TapSight(tap=str(role), role=role, request=request, reply=reply)
        for role in roles
        for request, reply in (seen.get(role, (None, None)),)
    )
    return replace(found, signature=replace(found.signature, placement=str(pair.placement), taps=taps, ping_ttl=None))


def _of_backend(seen: Seen | None) -> Seen | None:
    """To the Service's pair the pod that answers is the backend, not the server."""
    if seen is None:
        return None
    named = {SERVER: BACKEND}
    return replace(seen, src=named.get(seen.src, seen.src), dst=named.get(seen.dst, seen.dst))


def _signature(
    lab: Lab, pair: Pair, cell: _Cell, roles: Sequence[Role], *, packets: int, identity: int, source: str
) -> ExpectedSignature:
    def fill(seen: Seen | None) -> Seen | None:
        if seen is None:
            return None
        is_pods = seen.outer is not None and seen.outer.vni == _PODS_VNI
        outer = replace(seen.outer, vni=identity) if seen.outer is not None and is_pods else seen.outer
        return replace(seen, packets=seen.packets * packets, outer=outer)

    sights = [(role, *cell.get(role, (None, None))) for role in roles]
    return ExpectedSignature(
        host_routing=lab.in_force.host_routing,
        signature=Signature(
            placement=str(pair.placement),
            encapsulation=lab.datapath.encapsulation,
            taps=tuple(
                TapSight(tap=str(role), role=role, request=fill(request), reply=fill(reply))
                for role, request, reply in sights
            ),
        ),
        source=source,
    )
