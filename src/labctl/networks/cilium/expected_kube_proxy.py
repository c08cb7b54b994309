"""What every tap shows of a connection to a Service that kube-proxy's rules translate: data, with its source. Pure.

The packet goes to the stack of the node that it comes to first, which translates it, and comes out of cilium_host or of
the uplink with the backend's address; the answer takes the same way back. So each way has two hops more on that node
than between the pods themselves: the program that hands it to the stack, and the stack. A pod keeps its address. What
comes to a node's port is masqueraded: with the address of cilium_host, natively to another node's backend with the
node's own; with `externalTrafficPolicy: Local` it keeps its address.

Not recorded: it follows from kube-proxy's rules and from Legacy's way, and is what `labctl trace` shows on these labs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labctl.datapath.layout import SecurityIdentity
from labctl.model.interfaces import VXLAN_PORT
from labctl.model.lab import EndpointKind, Lab, Pair, TrafficPolicy
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
from labctl.networks.cilium.expected_ends import behind_gateway

SOURCE = "not recorded: it follows from kube-proxy's rules, and from the way that Legacy takes between pods"
_ASKED, _KEPT, _BY_ROUTER, _BY_NODE = (CLIENT, SERVER), (CLIENT, BACKEND), (CLIENT_ROUTER, BACKEND), (SERVER, BACKEND)
_TWICE = 2
"""How often the uplink of the node that was asked shows a packet that goes on to another node."""
_CLIENTS_VNI, _BACKENDS_VNI = -1, -2
"""Stand for the identities of the client and of the backend."""

_Cell = Mapping[Role, tuple[Seen | None, Seen | None]]


def _at(ttl: int, addresses: tuple[str, str], vni: int | None = None) -> Seen:
    """MACs are those of the way between pods, which other tables have."""
    outer = None
    if vni is not None:
        is_answer = vni == _BACKENDS_VNI
        ends = (Role.SERVER_UPLINK, Role.CLIENT_UPLINK) if is_answer else (Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
        src = SERVER_NODE if is_answer else CLIENT_NODE
        outer = Outer(src=src, dst_port=VXLAN_PORT, ttl=64, vni=vni, src_mac=str(ends[0]), dst_mac=str(ends[1]))
    return Seen(packets=1, ttl=ttl, src=addresses[0], dst=addresses[1], src_mac="", dst_mac="", outer=outer)


def _ends(back: int, came: int, addresses: tuple[str, str], asked: tuple[Role, ...]) -> dict[Role, tuple[Seen, Seen]]:
    """At the client's taps in `asked`, where the answer has the TTL `back`, and at the backend's, where the request has
    `came` and these addresses."""
    at_client = (_at(64, _ASKED), _at(back, _ASKED[::-1]))
    at_backend = (_at(came, addresses), _at(64, addresses[::-1]))
    return {**dict.fromkeys(asked, at_client), Role.SERVER_LXC: at_backend, Role.SERVER_ETH0: at_backend}


_POD, _WORLD = (Role.CLIENT_ETH0, Role.CLIENT_LXC), (Role.CLIENT_ETH0, Role.CLIENT_UPLINK)
_POD_HERE: _Cell = _ends(61, 61, _KEPT, _POD)
_POD_VXLAN: _Cell = {
    **_ends(62, 61, _KEPT, _POD),
    Role.CLIENT_CILIUM_VXLAN: (_at(62, _KEPT), _at(64, _KEPT[::-1])),
    Role.CLIENT_UPLINK: (_at(62, _KEPT, _CLIENTS_VNI), _at(64, _KEPT[::-1], _BACKENDS_VNI)),
    Role.SERVER_UPLINK: (_at(62, _KEPT, _CLIENTS_VNI), _at(64, _KEPT[::-1], _BACKENDS_VNI)),
    Role.SERVER_CILIUM_VXLAN: (_at(62, _KEPT), _at(64, _KEPT[::-1])),
}
_POD_NATIVE: _Cell = {
    **_ends(60, 60, _KEPT, _POD),
    Role.CLIENT_UPLINK: (_at(62, _KEPT), _at(62, _KEPT[::-1])),
    Role.SERVER_UPLINK: (_at(62, _KEPT), _at(62, _KEPT[::-1])),
}
_PORT_HERE: _Cell = _ends(62, 62, _BY_ROUTER, _WORLD)
_PORT_LOCAL: _Cell = _ends(62, 62, _KEPT, _WORLD)
# The uplink of the node that was asked shows each packet in both forms: the first one counts.
_PORT_VXLAN: _Cell = {
    **_ends(62, 62, _BY_ROUTER, _WORLD),
    Role.CLIENT_UPLINK: (
        replace(_at(64, _ASKED), packets=_TWICE),
        replace(_at(64, _BY_ROUTER[::-1], _BACKENDS_VNI), packets=_TWICE),
    ),
    Role.CLIENT_CILIUM_VXLAN: (_at(63, _BY_ROUTER), _at(64, _BY_ROUTER[::-1])),
    # The answer is to cilium_host's own address.
    Role.CLIENT_CILIUM_NET: (None, _at(63, _BY_ROUTER[::-1])),
    Role.CLIENT_CILIUM_HOST: (None, _at(63, _BY_ROUTER[::-1])),
    Role.SERVER_UPLINK: (
        _at(63, _BY_ROUTER, SecurityIdentity.REMOTE_NODE),
        _at(64, _BY_ROUTER[::-1], _BACKENDS_VNI),
    ),
    Role.SERVER_CILIUM_VXLAN: (_at(63, _BY_ROUTER), _at(64, _BY_ROUTER[::-1])),
}
_PORT_NATIVE: _Cell = {
    **_ends(61, 61, _BY_NODE, _WORLD),
    Role.CLIENT_UPLINK: (
        replace(_at(64, _ASKED), packets=_TWICE),
        replace(_at(62, _BY_NODE[::-1]), packets=_TWICE),
    ),
    Role.SERVER_UPLINK: (_at(63, _BY_NODE), _at(62, _BY_NODE[::-1])),
}


def expected_by_kube_proxy(lab: Lab, pair: Pair, roles: Sequence[Role], *, packets: int) -> ExpectedSignature:
    """The signature of `packets` connections to a Service of which one backend is known: the first that it has here.
    `roles` are those of the pair's taps. Raises KeyError for what has no table: a Service without a backend, a pod that
    is given itself, and a pod that asks a node's port."""
    backends, client = lab.backends(pair), lab.client(pair)
    if not backends or backends[0].name == client.name:
        raise KeyError(pair.server)
    backend, is_vxlan = backends[0], lab.in_force.encapsulation.is_tunnel
    if client.kind is EndpointKind.POD:
        if pair.via is not None:
            raise KeyError(pair.via)
        cell = _POD_HERE if backend.node == client.node else _POD_VXLAN if is_vxlan else _POD_NATIVE
        identity = lab.pod(pair.client).identity
    else:
        cell, identity = _of_port(lab, pair, is_here=backend.node == lab.server(pair).node, is_vxlan=is_vxlan), 0
    named = {_CLIENTS_VNI: identity, _BACKENDS_VNI: backend.identity}

    def fill(seen: Seen | None) -> Seen | None:
        if seen is None:
            return None
        outer = None if seen.outer is None else replace(seen.outer, vni=named.get(seen.outer.vni, seen.outer.vni))
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
        source=SOURCE,
    )


def _of_port(lab: Lab, pair: Pair, *, is_here: bool, is_vxlan: bool) -> _Cell:
    """From outside, at a node's port; `is_here`: the backend is on that node."""
    if lab.service(pair.server).external_traffic_policy is TrafficPolicy.LOCAL:
        cell = _PORT_LOCAL
    elif is_here:
        cell = _PORT_HERE
    else:
        cell = _PORT_VXLAN if is_vxlan else _PORT_NATIVE
    beyond = next(host for host in lab.outside if host.name == pair.client)
    if not lab.is_near(beyond):
        cell, _ = behind_gateway(cell, None, is_client=True)
    return cell
