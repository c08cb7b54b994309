"""The fabric `bridge`: every node is attached to one bridge, the wire between them, in its own namespace. Pure.

A lab with hosts outside has a gateway too: the bridge itself, with the underlay's first address, which is the nodes'
default route and forwards nothing but what goes to a host behind it. A host on the nodes' own network is one more port
of the bridge, as the recorded one was; another one is joined to the gateway.

It stands alone because every fabric is one module behind `base`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labctl.fabrics.base import NodeObjects, OneWire, TapPlace, device_of
from labctl.model import interfaces
from labctl.model.fabric import Router
from labctl.model.flow import client_node_of, server_node_of
from labctl.model.lab import EndpointKind, Fault, Lab, Node, Outside, Pair
from labctl.model.signature import Role
from labctl.names import UNDERLAY, namespace_of
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.link import BridgeAdd, LinkUp, VethAdd
from labctl.providers.netns.kinds.namespace import Sysctls
from labctl.providers.netns.kinds.routing import AddressAdd, NeighbourAdd, RouteAdd, RouteScope

_BRIDGE_ONLY = (("net.bridge.bridge-nf-call-iptables", "0"),)
"""The underlay is a wire. Where br_netfilter is built in, bridged packets would walk through netfilter there too."""
_ANYWHERE = IPv4Network("0.0.0.0/0")
_BRIDGE = (interfaces.BRIDGE, interfaces.BRIDGE_INDEX)


class BridgeFabric(OneWire):
    """`Fabric` of the seam."""

    says = "a bridge in a namespace of its own, the wire between the nodes"

    def underlay(self, lab: Lab) -> Iterable[Object]:
        namespace = namespace_of(lab.name, UNDERLAY)
        yield Sysctls(namespace=namespace, settings=_BRIDGE_ONLY, if_there=True)
        bridge = device_of(lab, UNDERLAY, interfaces.BRIDGE, interfaces.BRIDGE_INDEX)
        yield BridgeAdd(namespace=namespace, device=bridge)
        if lab.outside:
            yield from _gateway(lab, namespace)

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        namespace = namespace_of(lab.name, node.name)
        device, index = interfaces.UPLINK, interfaces.UPLINK_INDEX
        port = interfaces.bridge_port(node.index)
        wire = VethAdd(
            namespace=namespace_of(lab.name, UNDERLAY),
            device=device_of(lab, UNDERLAY, port, interfaces.bridge_port_index(node.index)),
            peer=device_of(lab, node.name, device, index, mac=node.mac),
            peer_namespace=namespace,
            bridge=_BRIDGE,
        )
        return NodeObjects(
            says=f"uplink {node.address}",
            links=(wire,),
            up=(LinkUp(namespace=namespace, device=device, index=index),),
            addresses=(AddressAdd(namespace=namespace, device=device, index=index, address=node.address),),
            routes=_to_world(lab, namespace),
            neighbours=_neighbours(lab, node, namespace),
        )

    def routers(self, lab: Lab) -> Iterator[tuple[Router, Iterable[Object]]]:
        """A route reflector is one more host on the wire, with its last address."""
        for number, router in enumerate(lab.routers):
            yield router, tuple(self._router(lab, router, number))

    def _router(self, lab: Lab, router: Router, number: int) -> Iterator[Object]:
        namespace, port = namespace_of(lab.name, router.name), interfaces.router_port(number)
        device, index = interfaces.UPLINK, interfaces.UPLINK_INDEX
        yield VethAdd(
            namespace=namespace_of(lab.name, UNDERLAY),
            device=device_of(lab, UNDERLAY, port, interfaces.router_port_index(number)),
            peer=device_of(lab, router.name, device, index),
            peer_namespace=namespace,
            bridge=_BRIDGE,
        )
        yield LinkUp(namespace=namespace, device=device, index=index)
        address = IPv4Interface((int(reflector_address(lab)), lab.network.underlay_cidr.prefixlen))
        yield AddressAdd(namespace=namespace, device=device, index=index, address=address)

    def outside(self, lab: Lab, host: Outside) -> Iterable[Object]:
        namespace, underlay = namespace_of(lab.name, host.name), namespace_of(lab.name, UNDERLAY)
        number = lab.outside.index(host)
        device, index, port = interfaces.POD_DEVICE, interfaces.POD_DEVICE_INDEX, interfaces.outside_port(number)
        is_near, gateway = lab.is_near(host), lab.network.gateway
        yield VethAdd(
            namespace=underlay,
            device=device_of(lab, UNDERLAY, port, interfaces.outside_port_index(number)),
            peer=device_of(lab, host.name, device, index, mac=host.mac),
            peer_namespace=namespace,
            bridge=_BRIDGE if is_near else None,
        )
        yield LinkUp(namespace=namespace, device=device, index=index)
        prefix = lab.network.underlay_cidr.prefixlen if is_near else 32
        address = IPv4Interface((int(host.address), prefix))
        yield AddressAdd(namespace=namespace, device=device, index=index, address=address)
        route = partial(RouteAdd, namespace=namespace, device=device, index=index)
        knows = partial(NeighbourAdd, namespace=namespace, device=device, index=index)
        if is_near:
            for node in lab.nodes:
                yield knows(address=node.address.ip, mac=node.mac)
            yield knows(address=gateway, mac=_gateway_mac())
        else:
            at_port = partial(RouteAdd, namespace=underlay, device=port, index=interfaces.outside_port_index(number))
            yield at_port(destination=IPv4Network(host.address), scope=RouteScope.LINK)
            yield route(destination=IPv4Network(gateway), scope=RouteScope.LINK)
            yield knows(address=gateway, mac=interfaces.device_mac(UNDERLAY, port))
        yield route(destination=_ANYWHERE, gateway=gateway)

    def taps(self, lab: Lab, pair: Pair) -> tuple[TapPlace, ...]:
        """The two ends of the underlay that the pair uses: a node's port, or that of a host outside."""
        first, last = _port(lab, pair, pair.client, is_client=True), _port(lab, pair, pair.server, is_client=False)
        if first == last:
            return ()
        return (Role.CLIENT_BRIDGE_PORT, UNDERLAY, first), (Role.SERVER_BRIDGE_PORT, UNDERLAY, last)


def _port(lab: Lab, pair: Pair, name: str, *, is_client: bool) -> str:
    end = lab.client(pair) if is_client else lab.server(pair)
    if end.kind is EndpointKind.OUTSIDE:
        return interfaces.outside_port([host.name for host in lab.outside].index(name))
    node = client_node_of(lab, pair) if is_client else server_node_of(lab, pair)
    return interfaces.bridge_port(lab.node(node).index)


def _gateway(lab: Lab, namespace: str) -> Iterator[Object]:
    """Forwarding where there is something to forward to; otherwise what comes here ends here without a word, as on the
    way into the wide world."""
    forwards = any(not lab.is_near(host) for host in lab.outside)
    yield Sysctls(namespace=namespace, settings=(("net.ipv4.ip_forward", "1" if forwards else "0"),))
    device, index = _BRIDGE
    address = IPv4Interface((int(lab.network.gateway), lab.network.underlay_cidr.prefixlen))
    yield AddressAdd(namespace=namespace, device=device, index=index, address=address)
    yield from _known(namespace, device, index, ((node.address.ip, node.mac) for node in lab.nodes))


def reflector_address(lab: Lab) -> IPv4Address:
    """The last address of the underlay that a host can have."""
    return lab.network.underlay_cidr.broadcast_address - 1


def _gateway_mac() -> str:
    return interfaces.device_mac(UNDERLAY, interfaces.BRIDGE)


def _to_world(lab: Lab, namespace: str) -> Iterator[RouteAdd]:
    if lab.outside:
        yield RouteAdd(
            namespace=namespace,
            device=interfaces.UPLINK,
            index=interfaces.UPLINK_INDEX,
            destination=_ANYWHERE,
            gateway=lab.network.gateway,
        )


def _known(namespace: str, device: str, index: int, macs: Iterable[tuple[IPv4Address, str]]) -> Iterator[NeighbourAdd]:
    for address, mac in macs:
        yield NeighbourAdd(namespace=namespace, device=device, index=index, address=address, mac=mac)


def _neighbours(lab: Lab, node: Node, namespace: str) -> Iterable[NeighbourAdd]:
    """Every other node by its MAC; with the fault, by this node's own. A frame to an unknown MAC would be flooded,
    and eBPF host routing accepts what is flooded; a frame to the sender's own MAC is forwarded to no port."""
    missing = Fault.MISSING_NEIGHBOUR in lab.datapath.faults
    macs = [(other.address.ip, node.mac if missing else other.mac) for other in lab.nodes if other is not node]
    if lab.outside:
        macs.append((lab.network.gateway, _gateway_mac()))
        macs += [(host.address, host.mac) for host in lab.outside if lab.is_near(host)]
    return _known(namespace, interfaces.UPLINK, interfaces.UPLINK_INDEX, macs)
