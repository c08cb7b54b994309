"""How a lab's address ranges are divided: pure arithmetic on IPv4 networks, with the capacity of each range.

Each node has one address on the underlay and a /24 of the pods' range, as Kubernetes gives it (podCIDR per node).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

NODE_PREFIX = 24
FIRST_NODE_HOST = 2
ROUTER_HOST = 1
FIRST_POD_HOST = 10
PODS_PER_NODE = 2 ** (32 - NODE_PREFIX) - 1 - FIRST_POD_HOST
SMALLEST_SERVICE_PREFIX = 28
"""A cluster's DNS service has the tenth address of the range by convention: a /28 is the smallest that has one."""
FIRST_SERVICE_HOST = 11
"""The first address is the API server's, the tenth the DNS service's. Kubernetes gives those that were not chosen from
the upper part of the range."""


def service_capacity(service_cidr: IPv4Network) -> int:
    """How many Services of a scenario the range has addresses for."""
    return max(0, service_cidr.num_addresses - FIRST_SERVICE_HOST - 1)


def service_address(service_cidr: IPv4Network, number: int) -> IPv4Address:
    """The cluster address of Service number `number` (from 0)."""
    return service_cidr.network_address + FIRST_SERVICE_HOST + number


def node_capacity(underlay: IPv4Network) -> int:
    """How many nodes the underlay has addresses for: all but the network, the first host and the broadcast."""
    return max(0, underlay.num_addresses - FIRST_NODE_HOST - 1)


def underlay_prefix_for(nodes: int) -> int:
    """The longest prefix whose network has addresses for that many nodes."""
    return 32 - (nodes + FIRST_NODE_HOST).bit_length()


def pod_network_capacity(pod_cidr: IPv4Network) -> int:
    """How many nodes the pods' range has a /24 for."""
    return 2 ** (NODE_PREFIX - pod_cidr.prefixlen) if pod_cidr.prefixlen <= NODE_PREFIX else 0


def pod_prefix_for(nodes: int) -> int:
    """The longest prefix whose network has a /24 for that many nodes."""
    return NODE_PREFIX - (nodes - 1).bit_length()


def node_address(underlay: IPv4Network, index: int) -> IPv4Interface:
    """The underlay address of node number `index` (from 0)."""
    return IPv4Interface((int(underlay.network_address) + FIRST_NODE_HOST + index, underlay.prefixlen))


def pod_network(pod_cidr: IPv4Network, index: int) -> IPv4Network:
    """The pods' range on node number `index` (from 0)."""
    return IPv4Network((int(pod_cidr.network_address) + index * 2 ** (32 - NODE_PREFIX), NODE_PREFIX))


def router_address(pod_network: IPv4Network) -> IPv4Address:
    """The address of `cilium_host`: the gateway of the pods on that node."""
    return pod_network.network_address + ROUTER_HOST


def pod_address(pod_network: IPv4Network, number: int) -> IPv4Address:
    """The address of pod number `number` (from 0) on its node."""
    return pod_network.network_address + FIRST_POD_HOST + number
