"""The seam for fabrics: what joins the nodes of a lab, as objects of `providers.netns.kinds`. Pure.

Making and removing those is the provider's, and so are the namespaces that they are in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import Protocol

from labctl.errors import UsageError
from labctl.model import interfaces
from labctl.model.fabric import Router
from labctl.model.lab import Lab, Node, Outside, Pair
from labctl.model.signature import ExpectedSignature, Role
from labctl.model.ways import ExpectedRoute
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.link import Device
from labctl.values import dataclass

TapPlace = tuple[Role, str, str]
"""Where packets can be seen: a role, the part of the lab that has the device, and the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeObjects:
    """What a fabric or a pod network puts into one node, in the order in which a node is put together. `says` names it
    for a person, in the title of the node's step."""

    says: str
    links: Iterable[Object] = ()
    up: Iterable[Object] = ()
    settings: Iterable[Object] = ()
    addresses: Iterable[Object] = ()
    routes: Iterable[Object] = ()
    neighbours: Iterable[Object] = ()


class Fabric(Protocol):
    """How nodes reach each other."""

    says: str
    """What it is, in the title of the underlay's step."""

    def underlay(self, lab: Lab) -> Iterable[Object]:
        """What is in the underlay's own namespace before any node is there."""
        ...

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        """The node's uplink, and how it reaches the other nodes."""
        ...

    def routers(self, lab: Lab) -> Iterator[tuple[Router, Iterable[Object]]]:
        """What is in each router or switch, in the order in which they are made."""
        ...

    def next_hop(self, lab: Lab, node: Node, other: Node) -> IPv4Address | None:
        """By whom the node sends to another node's pods; None where a routing daemon says so."""
        ...

    def gateway(self, lab: Lab, node: Node) -> IPv4Address:
        """The router that the node is attached to. Raises KeyError where there is none."""
        ...

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        """What the routers that the pair's nodes are attached to must have."""
        ...

    def told(self, lab: Lab) -> Iterator[Object]:
        """The routes that routers are told, once all of them are there; none where a protocol finds them."""
        ...

    def daemons(self, lab: Lab) -> Iterator[Object]:
        """The routing daemons, once everything is wired and addressed."""
        ...

    def learned(self, lab: Lab) -> Iterator[Object]:
        """The wait for what daemons and bridges find out."""
        ...

    def seen_through(self, lab: Lab, pair: Pair, expected: ExpectedSignature) -> ExpectedSignature:
        """What a network says that two nodes on one wire see, as it is seen across this fabric."""
        ...

    def outside(self, lab: Lab, host: Outside) -> Iterable[Object]:
        """The wire of a host outside, and how it reaches the nodes."""
        ...

    def taps(self, lab: Lab, pair: Pair) -> tuple[TapPlace, ...]:
        """Where packets of a pair can be seen outside of nodes and hosts, from the client's side to the server's; none
        where they stay on one node."""
        ...


class OneWire:
    """What fabrics have in common in which all nodes are on one wire, and reach each other without a router."""

    def next_hop(self, lab: Lab, node: Node, other: Node) -> IPv4Address | None:
        return other.address.ip

    def gateway(self, lab: Lab, node: Node) -> IPv4Address:
        raise KeyError(node.name)

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        return ()

    def told(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def daemons(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def learned(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def seen_through(self, lab: Lab, pair: Pair, expected: ExpectedSignature) -> ExpectedSignature:
        return expected


def device_of(lab: Lab, part: str, name: str, index: int, *, mac: str = "", arp: bool = True) -> Device:
    """A device of a part of the lab; its MAC follows from both names unless it is given."""
    return Device(name=name, index=index, mac=mac or interfaces.device_mac(part, name), mtu=lab.network.mtu, arp=arp)


def no_outside(lab: Lab) -> UsageError:
    """Of a fabric that no host outside can be attached to."""
    return UsageError(
        what=f"a fabric of type {lab.fabric.type} has no place for hosts outside",
        cause="they are on the nodes' own wire, or behind its gateway",
        remedy="fabric: {type: bridge}, or a scenario without outside:, NodePort and masquerade checks",
        key="fabric.type",
    )
