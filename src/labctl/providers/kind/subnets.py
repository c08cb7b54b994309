"""Address ranges that no other kind lab on this host has: found by arithmetic, moved only where they overlap. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Network

import yaml

from labctl.errors import UsageError
from labctl.model.lab import Lab

Ranges = tuple[IPv4Network, ...]

_PODS_FROM = IPv4Network("10.0.0.0/8")
_SERVICES_FROM = IPv4Network("10.96.0.0/12")


def ranges_of(kind_config: str) -> Ranges:
    """The pods' and the Services' range out of a kind configuration; nothing where it has none."""
    networking = (yaml.safe_load(kind_config) or {}).get("networking") or {}
    return tuple(IPv4Network(networking[key]) for key in ("podSubnet", "serviceSubnet") if networking.get(key))


def overlapping(wanted: Iterable[IPv4Network], others: Iterable[tuple[str, Ranges]]) -> tuple[str, ...]:
    """Names of the labs whose pods or Services share an address with one of these ranges."""
    ranges = tuple(wanted)
    return tuple(name for name, theirs in others if any(mine.overlaps(other) for mine in ranges for other in theirs))


def settle(lab: Lab, others: Iterable[tuple[str, Ranges]]) -> Lab:
    """The lab with ranges that no other lab has. What does not overlap stays as it is, so the first lab always keeps
    the scenario's own ranges. Raises UsageError when there is no room left."""
    taken = [network for _, ranges in others for network in ranges]
    network = lab.network
    pods, services = network.pod_cidr, network.service_cidr
    if _is_taken(services, taken):
        services = _first_free(services, _SERVICES_FROM, [*taken, pods, network.underlay_cidr])
    if _is_taken(pods, taken):
        pods = _first_free(pods, _PODS_FROM, [*taken, services, network.underlay_cidr, _SERVICES_FROM])
    return moved(lab, pods, services)


def moved(lab: Lab, pods: IPv4Network, services: IPv4Network) -> Lab:
    """The lab with these ranges, and every address in them moved along."""
    network = lab.network
    if (pods, services) == (network.pod_cidr, network.service_cidr):
        return lab
    shift = int(pods.network_address) - int(network.pod_cidr.network_address)
    service_shift = int(services.network_address) - int(network.service_cidr.network_address)
    return replace(
        lab,
        network=replace(network, pod_cidr=pods, service_cidr=services),
        nodes=tuple(
            replace(
                node,
                pod_cidr=IPv4Network((int(node.pod_cidr.network_address) + shift, node.pod_cidr.prefixlen)),
                router=node.router + shift,
            )
            for node in lab.nodes
        ),
        pods=tuple(replace(pod, address=pod.address + shift) for pod in lab.pods),
        services=tuple(replace(service, address=service.address + service_shift) for service in lab.services),
    )


def _is_taken(network: IPv4Network, taken: Iterable[IPv4Network]) -> bool:
    return any(network.overlaps(other) for other in taken)


def _first_free(wanted: IPv4Network, pool: IPv4Network, taken: list[IPv4Network]) -> IPv4Network:
    """The next range of that size after the wanted one, then from the pool's beginning."""
    for candidate in _candidates(wanted, pool):
        if not _is_taken(candidate, taken):
            return candidate
    raise UsageError(
        what=f"no range of the size of {wanted} is left in {pool}",
        cause="other labs have them all",
        remedy="labctl list, then labctl down those that are not needed",
    )


def _candidates(wanted: IPv4Network, pool: IPv4Network) -> Iterator[IPv4Network]:
    if wanted.prefixlen < pool.prefixlen:
        return
    size = wanted.num_addresses
    first, count = int(pool.network_address), pool.num_addresses // size
    begin = (int(wanted.network_address) - first) // size + 1 if wanted.subnet_of(pool) else 0
    for number in range(count):
        yield IPv4Network((first + (begin + number) % count * size, wanted.prefixlen))
