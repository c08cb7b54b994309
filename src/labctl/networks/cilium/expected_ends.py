"""What every tap shows where an end of a pair is a node or a host outside: data, with its source. Pure.

`expected` has the same for two pods. Recorded on a real cluster (`RECORDED`) with echo requests: TTLs, addresses, VNIs,
and where nothing is seen. In short:

- What leaves the cluster has the address of the pod's node, whoever masquerades (eBPF at the uplink's egress, iptables
  in POSTROUTING). With vxlan, and always in Legacy, it passes the node's stack first, which takes one more hop.
- The answer comes to the node's address. BPF host routing turns it into the pod's at the uplink and moves it past the
  lxc; Legacy gives it to the stack, which routes it to cilium_host and so through the lxc.
- A node sends to pods with the address of its cilium_host, except natively to another node's pods: with its own. The
  VNI is 6 (remote-node). With vxlan the answer comes in through cilium_net: the one case in which it and cilium_host
  show a packet of a pod.
- Between a node and its own pod the lxc shows both directions in both modes: bpf_redirect_peer works at ingress only.
- With vxlan a pod's packet to another node's address is masqueraded, and not tunnelled. Natively it is neither.

A pair of nodes, or of a node and a host outside, is the kernel's own routing, which was not recorded: no eBPF program
has anything to do there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from labctl.datapath.layout import SecurityIdentity
from labctl.model.interfaces import VXLAN_PORT
from labctl.model.lab import Encapsulation, EndpointKind, HostRouting, Lab, Pair, Placement
from labctl.model.signature import (
    CLIENT,
    CLIENT_NODE,
    CLIENT_ROUTER,
    GATEWAY,
    SERVER,
    SERVER_NODE,
    ExpectedSignature,
    Outer,
    Role,
    Seen,
    Signature,
    TapSight,
)

RECORDED = "recorded on a real cluster: Kubernetes v1.20.2, Cilium v1.16.0-rc.0 (kube-proxy skipped), kernel 6.18"
OF_THE_KERNEL = "not recorded: the kernel's own routing, in which no eBPF program takes part"

_LEGACY, _BPF = HostRouting.LEGACY, HostRouting.BPF
_VXLAN, _NATIVE = Encapsulation.VXLAN, Encapsulation.NATIVE
_POD, _NODE, _OUTSIDE = EndpointKind.POD, EndpointKind.NODE, EndpointKind.OUTSIDE
_SAME, _CROSS, _AWAY = Placement.SAME_NODE, Placement.CROSS_NODE, Placement.OUTSIDE

_Cell = Mapping[Role, tuple[Seen | None, Seen | None]]
"""Request and reply at each tap where something is seen."""


def _at(ttl: int, addresses: tuple[str, str], macs: tuple[str, str], vni: int | None = None) -> Seen:
    """One frame: TTL; source and destination by role; MACs by role, empty where they were not recorded. With `vni`
    it is in an envelope from the client's node (6: the sender is a node), or from the server's."""
    outer = None
    if vni is not None:
        is_request = vni == SecurityIdentity.REMOTE_NODE
        ends = (Role.CLIENT_UPLINK, Role.SERVER_UPLINK) if is_request else (Role.SERVER_UPLINK, Role.CLIENT_UPLINK)
        src = CLIENT_NODE if is_request else SERVER_NODE
        outer = Outer(src=src, dst_port=VXLAN_PORT, ttl=64, vni=vni, src_mac=str(ends[0]), dst_mac=str(ends[1]))
    return Seen(packets=0, ttl=ttl, src=addresses[0], dst=addresses[1], src_mac=macs[0], dst_mac=macs[1], outer=outer)


_UNRECORDED = ("", "")
# MACs on each wire, from sender to receiver.
_OUT_OF_POD = (str(Role.CLIENT_ETH0), str(Role.CLIENT_LXC))
_INTO_POD = _OUT_OF_POD[::-1]
_OUT_OF_SERVER = (str(Role.SERVER_ETH0), str(Role.SERVER_LXC))
_INTO_SERVER = _OUT_OF_SERVER[::-1]
_TO_OUTSIDE = (str(Role.CLIENT_UPLINK), str(Role.SERVER_ETH0))
_BETWEEN_NODES = (str(Role.CLIENT_UPLINK), str(Role.SERVER_UPLINK))
_FROM_OUTSIDE = (str(Role.CLIENT_ETH0), str(Role.SERVER_UPLINK))
# Addresses of a request; those of its reply are the other way round.
_OWN, _MASQUERADED, _BY_ROUTER = (CLIENT, SERVER), (CLIENT_NODE, SERVER), (CLIENT_ROUTER, SERVER)
_PODS_VNI = 0
"""Stands for the identity of the answering pod."""


def _pod_outside(left: int, came: int, *, lxc: bool) -> _Cell:
    """`left`: the TTL that the request leaves the node with; `came`: that of the reply in the pod, which the `lxc`
    shows or not."""
    sent, out = _at(64, _OWN, _OUT_OF_POD), _at(left, _MASQUERADED, _TO_OUTSIDE)
    back, into = _at(64, _MASQUERADED[::-1], _TO_OUTSIDE[::-1]), _at(came, _OWN[::-1], _INTO_POD)
    return {
        Role.CLIENT_ETH0: (sent, into),
        Role.CLIENT_LXC: (sent, into if lxc else None),
        Role.CLIENT_UPLINK: (out, back),
        Role.SERVER_ETH0: (out, back),
    }


def _pod_other_node(left: int, came: int, *, lxc: bool, masqueraded: bool) -> _Cell:
    addresses = _MASQUERADED if masqueraded else _OWN
    sent, out = _at(64, _OWN, _OUT_OF_POD), _at(left, addresses, _BETWEEN_NODES)
    back, into = _at(64, addresses[::-1], _BETWEEN_NODES[::-1]), _at(came, _OWN[::-1], _INTO_POD)
    return {
        Role.CLIENT_ETH0: (sent, into),
        Role.CLIENT_LXC: (sent, into if lxc else None),
        Role.CLIENT_UPLINK: (out, back),
        Role.SERVER_UPLINK: (out, back),
    }


_POD_OWN_NODE: _Cell = {
    Role.CLIENT_ETH0: (_at(64, _OWN, _OUT_OF_POD), _at(63, _OWN[::-1], _INTO_POD)),
    Role.CLIENT_LXC: (_at(64, _OWN, _OUT_OF_POD), _at(63, _OWN[::-1], _INTO_POD)),
}
_NODE_OWN_POD: _Cell = {
    Role.SERVER_LXC: (_at(63, _BY_ROUTER, _INTO_SERVER), _at(64, _BY_ROUTER[::-1], _OUT_OF_SERVER)),
    Role.SERVER_ETH0: (_at(63, _BY_ROUTER, _INTO_SERVER), _at(64, _BY_ROUTER[::-1], _OUT_OF_SERVER)),
}


def _node_remote_pod_vxlan(*, lxc: bool) -> _Cell:
    answer, request = _BY_ROUTER[::-1], _at(64, _BY_ROUTER, _UNRECORDED)
    enveloped = _at(64, _BY_ROUTER, _UNRECORDED, SecurityIdentity.REMOTE_NODE)
    reply, enveloped_reply = _at(64, answer, _OUT_OF_SERVER), _at(64, answer, _OUT_OF_SERVER, _PODS_VNI)
    into, home = _at(63, _BY_ROUTER, _INTO_SERVER), _at(63, answer, _UNRECORDED)
    return {
        Role.CLIENT_CILIUM_HOST: (None, home),
        Role.CLIENT_CILIUM_NET: (None, home),
        Role.CLIENT_CILIUM_VXLAN: (request, reply),
        Role.CLIENT_UPLINK: (enveloped, enveloped_reply),
        Role.SERVER_UPLINK: (enveloped, enveloped_reply),
        Role.SERVER_CILIUM_VXLAN: (request, reply),
        Role.SERVER_LXC: (into if lxc else None, reply),
        Role.SERVER_ETH0: (into, reply),
    }


def _node_remote_pod_native(came: int, left: int, *, lxc: bool) -> _Cell:
    """`came`: the TTL that the request has in the pod; `left`: that the reply leaves the pod's node with."""
    out, back = _at(64, _OWN, _BETWEEN_NODES), _at(left, _OWN[::-1], _BETWEEN_NODES[::-1])
    into, reply = _at(came, _OWN, _INTO_SERVER), _at(64, _OWN[::-1], _OUT_OF_SERVER)
    return {
        Role.CLIENT_UPLINK: (out, back),
        Role.SERVER_UPLINK: (out, back),
        Role.SERVER_LXC: (into if lxc else None, reply),
        Role.SERVER_ETH0: (into, reply),
    }


def _plain(first: Role, last: Role, macs: tuple[str, str]) -> _Cell:
    """One wire, between two ends that the kernel alone serves."""
    both = (_at(64, _OWN, macs), _at(64, _OWN[::-1], macs[::-1]))
    return {first: both, last: both}


_OUTSIDE_NODE = _plain(Role.CLIENT_ETH0, Role.SERVER_UPLINK, _FROM_OUTSIDE)
_NODE_OUTSIDE = _plain(Role.CLIENT_UPLINK, Role.SERVER_ETH0, _TO_OUTSIDE)
_NODE_NODE = _plain(Role.CLIENT_UPLINK, Role.SERVER_UPLINK, _BETWEEN_NODES)
_OUTSIDE_POD: _Cell = {Role.CLIENT_ETH0: (_at(64, _OWN, (str(Role.CLIENT_ETH0), GATEWAY)), None)}
"""The host has no route to pods but its default one, to the gateway, which has none either."""

_Table = Mapping[tuple[HostRouting, Encapsulation], tuple[_Cell, int | None]]
"""By cell: the taps, and the TTL that ping prints (None: nothing comes back)."""


def _everywhere(cell: _Cell, ping_ttl: int | None) -> _Table:
    return {(mode, how): (cell, ping_ttl) for mode in HostRouting for how in Encapsulation}


# fmt: off
_TABLES: Mapping[tuple[EndpointKind, EndpointKind, Placement], tuple[_Table, str]] = {
    (_POD, _OUTSIDE, _AWAY): ({
        # cell                 request leaves with, reply arrives with                          ping
        (_LEGACY, _VXLAN):     (_pod_outside(62, 62, lxc=True),                                 62),
        (_LEGACY, _NATIVE):    (_pod_outside(62, 62, lxc=True),                                 62),
        (_BPF, _VXLAN):        (_pod_outside(62, 63, lxc=False),                                63),
        (_BPF, _NATIVE):       (_pod_outside(63, 63, lxc=False),                                63),
    }, RECORDED),
    (_POD, _NODE, _CROSS): ({
        (_LEGACY, _VXLAN):     (_pod_other_node(62, 62, lxc=True, masqueraded=True),            62),
        (_LEGACY, _NATIVE):    (_pod_other_node(62, 62, lxc=True, masqueraded=False),           62),
        (_BPF, _VXLAN):        (_pod_other_node(62, 63, lxc=False, masqueraded=True),           63),
        (_BPF, _NATIVE):       (_pod_other_node(63, 63, lxc=False, masqueraded=False),          63),
    }, RECORDED),
    (_NODE, _POD, _CROSS): ({
        (_LEGACY, _VXLAN):     (_node_remote_pod_vxlan(lxc=True),                               63),
        (_LEGACY, _NATIVE):    (_node_remote_pod_native(62, 62, lxc=True),                      62),
        (_BPF, _VXLAN):        (_node_remote_pod_vxlan(lxc=False),                              63),
        (_BPF, _NATIVE):       (_node_remote_pod_native(63, 63, lxc=False),                     63),
    }, RECORDED),
    (_POD, _NODE, _SAME):      (_everywhere(_POD_OWN_NODE, 63), RECORDED),
    (_NODE, _POD, _SAME):      (_everywhere(_NODE_OWN_POD, 63), RECORDED),
    (_OUTSIDE, _POD, _AWAY):   (_everywhere(_OUTSIDE_POD, None), RECORDED),
    (_OUTSIDE, _NODE, _AWAY):  (_everywhere(_OUTSIDE_NODE, 64), OF_THE_KERNEL),
    (_NODE, _OUTSIDE, _AWAY):  (_everywhere(_NODE_OUTSIDE, 64), OF_THE_KERNEL),
    (_NODE, _NODE, _CROSS):    (_everywhere(_NODE_NODE, 64), OF_THE_KERNEL),
}
# fmt: on


def expected_between(lab: Lab, pair: Pair, roles: Sequence[Role], *, packets: int) -> ExpectedSignature:
    """The signature of `packets` echo requests of a pair of which not both ends are pods. `roles` are those of the
    pair's taps, in the order of the way. Raises KeyError for a Service."""
    client, server = lab.client(pair), lab.server(pair)
    table, source = _TABLES[client.kind, server.kind, pair.placement]
    cell, ping_ttl = table[lab.in_force.host_routing, lab.in_force.encapsulation]
    beyond = next((host for host in lab.outside if host.name in (pair.client, pair.server)), None)
    if beyond is not None and not lab.is_near(beyond):
        cell, ping_ttl = behind_gateway(cell, ping_ttl, is_client=beyond.name == pair.client)
    identity = next((pod.identity for pod in lab.pods if pod.name == pair.server), 0)

    def fill(seen: Seen | None) -> Seen | None:
        if seen is None:
            return None
        is_pods = seen.outer is not None and seen.outer.vni == _PODS_VNI
        outer = replace(seen.outer, vni=identity) if seen.outer is not None and is_pods else seen.outer
        return replace(seen, packets=packets, outer=outer)

    sights = [(role, *cell.get(role, (None, None))) for role in roles]
    return ExpectedSignature(
        host_routing=lab.in_force.host_routing,
        signature=Signature(
            placement=str(pair.placement),
            encapsulation=lab.datapath.encapsulation,
            ping_ttl=ping_ttl,
            taps=tuple(
                TapSight(tap=str(role), role=role, request=fill(request), reply=fill(reply))
                for role, request, reply in sights
            ),
        ),
        source=source,
    )


def behind_gateway(cell: _Cell, ping_ttl: int | None, *, is_client: bool) -> tuple[_Cell, int | None]:
    """The same with one more hop between the host outside and everything else: the gateway takes one from the TTL, and
    the frames on either side of it are to it and from it."""
    host = Role.CLIENT_ETH0 if is_client else Role.SERVER_ETH0
    uplink = Role.SERVER_UPLINK if is_client else Role.CLIENT_UPLINK
    port = str(Role.CLIENT_BRIDGE_PORT if is_client else Role.SERVER_BRIDGE_PORT)

    def changed(change: Callable[[Seen], Seen], seen: Seen | None) -> Seen | None:
        return None if seen is None else change(seen)

    def hop(seen: Seen) -> Seen:
        return replace(seen, ttl=seen.ttl - 1)

    def met_by(name: str) -> Callable[[Seen], Seen]:
        """The other end of the wire that is not the host's."""

        def change(seen: Seen) -> Seen:
            if seen.dst_mac == str(host):
                return replace(seen, src_mac=name)
            return replace(seen, dst_mac=name)

        return change

    def at_uplink(seen: Seen) -> Seen:
        return replace(seen, src_mac=GATEWAY) if seen.src_mac == str(host) else replace(seen, dst_mac=GATEWAY)

    found: dict[Role, tuple[Seen | None, Seen | None]] = {}
    for role, (request, reply) in cell.items():
        to_host, from_host = (reply, request) if is_client else (request, reply)
        if role is host:
            to_host, from_host = changed(met_by(port), changed(hop, to_host)), changed(met_by(port), from_host)
        elif role is uplink:
            to_host, from_host = changed(at_uplink, to_host), changed(at_uplink, changed(hop, from_host))
        else:
            from_host = changed(hop, from_host)
        found[role] = (from_host, to_host) if is_client else (to_host, from_host)
    return found, None if ping_ttl is None else ping_ttl - 1
