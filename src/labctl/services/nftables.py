"""kube-proxy's rules in nftables mode, as the text that `nft -f` reads.

One table, `ip kube-proxy`, with the chains, sets, maps, comments and names of kube-proxy from Kubernetes 1.33 on
(pkg/proxy/nftables). A packet's Service is found by one look into a map, however many there are; each Service and each
backend has a chain that the map leads to. A chain's name begins with the first 8 letters of the base32 of a SHA-256 of
the rest of it.

kube-proxy masquerades with `fully-random`, as in iptables mode with --random-fully. Here a packet keeps its port while
it is free, so that it can be followed.

What differs from iptables mode on purpose, as in kube-proxy: a port that a Service does not have is refused, an address
of the Services' range that no Service has gets no answer, and 127.0.0.1 with a node port leads nowhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

from labctl.model.lab import TrafficPolicy
from labctl.services.frontends import Backend, Frontend

TABLE = "kube-proxy"
_HASH_BYTES = 5
"""Five bits a letter: 8 letters."""
_MARK = "0x4000"

_SETS = (
    ("set", "cluster-ips", "ipv4_addr", "Active ClusterIPs"),
    ("set", "nodeport-ips", "ipv4_addr", "IPs that accept NodePort traffic"),
    (
        "map",
        "firewall-ips",
        "ipv4_addr . inet_proto . inet_service : verdict",
        "destinations that are subject to LoadBalancerSourceRanges",
    ),
    (
        "map",
        "no-endpoint-nodeports",
        "inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to service nodeports with no endpoints",
    ),
    (
        "map",
        "no-endpoint-services",
        "ipv4_addr . inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to services with no endpoints",
    ),
    (
        "map",
        "service-ips",
        "ipv4_addr . inet_proto . inet_service : verdict",
        "ClusterIP, ExternalIP and LoadBalancer IP traffic",
    ),
    ("map", "service-nodeports", "inet_proto . inet_service : verdict", "NodePort traffic"),
)
_HOOKED = (
    ("filter-prerouting-pre-dnat", "filter hook prerouting priority -110", ("ct state new jump firewall-check",)),
    ("filter-output-pre-dnat", "filter hook output priority -110", ("ct state new jump firewall-check",)),
    (
        "filter-forward",
        "filter hook forward priority 0",
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    (
        "filter-input",
        "filter hook input priority 0",
        ("ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"),
    ),
    (
        "filter-output",
        "filter hook output priority 0",
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    ("nat-prerouting", "nat hook prerouting priority -100", ("jump services",)),
    ("nat-output", "nat hook output priority -100", ("jump services",)),
    ("nat-postrouting", "nat hook postrouting priority 100", ("jump masquerading",)),
)


def chain_name(prefix: str, name: str) -> str:
    """`service-ULMVA6XW-ns1/svc1/tcp/p80` of ("service-", "ns1/svc1/tcp/p80")."""
    digest = hashlib.sha256(name.encode()).digest()
    return f"{prefix}{base64.b32encode(digest[:_HASH_BYTES]).decode()}-{name}"


def _name(frontend: Frontend) -> str:
    """Namespace, Service, protocol and the port's name, which is empty."""
    return f"{frontend.full_name}/{frontend.protocol}/"


def service_chain(frontend: Frontend) -> str:
    return chain_name("service-", _name(frontend))


def external_chain(frontend: Frontend) -> str:
    """What a node port leads to."""
    return chain_name("external-", _name(frontend))


def backend_chain(frontend: Frontend, backend: Backend) -> str:
    return chain_name("endpoint-", f"{_name(frontend)}__{backend.address}/{backend.port}")


def nftables_rules(
    all_of: Sequence[Frontend],
    *,
    node: str,
    node_address: IPv4Address,
    pod_cidr: IPv4Network,
    service_cidr: IPv4Network,
) -> str:
    """The table of one node. `node_address` takes node ports; `pod_cidr` is the pods' range: what comes from elsewhere
    is masqueraded."""
    lines = (
        f"table ip {TABLE} {{",
        '\tcomment "rules for kube-proxy"',
        *_sets(all_of, node, node_address),
        *_base_chains(service_cidr),
        *(line for frontend in all_of if not frontend.is_filler for line in _chains(frontend, node, pod_cidr)),
        *_filler_chains(tuple(frontend for frontend in all_of if frontend.is_filler), pod_cidr),
        "}",
    )
    return "".join(f"{line}\n" for line in lines)


@lru_cache(maxsize=4)
def _filler_chains(fillers: tuple[Frontend, ...], pod_cidr: IPv4Network) -> tuple[str, ...]:
    """They are the same on every node."""
    return tuple(line for frontend in fillers for line in _chains(frontend, "", pod_cidr))


def _sets(served: Sequence[Frontend], node: str, node_address: IPv4Address) -> Iterator[str]:
    elements: dict[str, list[str]] = {name: [] for _, name, _, _ in _SETS}
    elements["nodeport-ips"].append(str(node_address))
    for frontend in served:
        elements["cluster-ips"].append(str(frontend.address))
        to, says = _key(frontend), f'comment "{frontend.full_name}"'
        if frontend.backends:
            elements["service-ips"].append(f"{to} : goto {service_chain(frontend)}")
        else:
            elements["no-endpoint-services"].append(f"{to} {says} : goto reject-chain")
        if frontend.node_port is None:
            continue
        port = f"{frontend.protocol} . {frontend.node_port}"
        if frontend.backends:
            elements["service-nodeports"].append(f"{port} : goto {external_chain(frontend)}")
        if not frontend.backends:
            elements["no-endpoint-nodeports"].append(f"{port} {says} : goto reject-chain")
        elif frontend.policy is TrafficPolicy.LOCAL and not frontend.local_backends(node):
            elements["no-endpoint-nodeports"].append(f"{port} {says} : drop")
    for kind, name, types, says in _SETS:
        yield f"\t{kind} {name} {{"
        yield f"\t\ttype {types}"
        yield f'\t\tcomment "{says}"'
        if elements[name]:
            yield f"\t\telements = {{ {', '.join(elements[name])} }}"
        yield "\t}"


def _key(frontend: Frontend) -> str:
    return f"{frontend.address} . {frontend.protocol} . {frontend.port}"


def _chain(name: str, *lines: str) -> Iterator[str]:
    yield f"\tchain {name} {{"
    for line in lines:
        yield f"\t\t{line}"
    yield "\t}"


def _base_chains(service_cidr: IPv4Network) -> Iterator[str]:
    yield from _chain("reject-chain", 'comment "helper for @no-endpoint-services / @no-endpoint-nodeports"', "reject")
    yield from _chain("mark-for-masquerade", f"meta mark set meta mark or {_MARK}")
    yield from _chain(
        "masquerading",
        f"meta mark and {_MARK} == 0 return",
        f"meta mark set meta mark xor {_MARK}",
        "masquerade",
    )
    yield from _chain("firewall-check", "ip daddr . meta l4proto . th dport vmap @firewall-ips")
    yield from _chain("service-endpoints-check", "ip daddr . meta l4proto . th dport vmap @no-endpoint-services")
    yield from _chain(
        "nodeport-endpoints-check", "ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"
    )
    yield from _chain(
        "cluster-ips-check",
        'ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"',
        f'ip daddr {{ {service_cidr} }} drop comment "Drop traffic to unallocated ClusterIPs"',
    )
    yield from _chain(
        "services",
        "ip daddr . meta l4proto . th dport vmap @service-ips",
        "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
    )
    for name, hook, rules in _HOOKED:
        yield from _chain(name, f"type {hook}; policy accept;", *rules)


def _chains(frontend: Frontend, node: str, pod_cidr: IPv4Network) -> Iterator[str]:
    """Those of a Service that has backends, what is jumped to first."""
    if not frontend.backends:
        return
    for backend in frontend.backends:
        yield from _chain(
            backend_chain(frontend, backend),
            f"ip saddr {backend.address} jump mark-for-masquerade",
            f"meta l4proto {frontend.protocol} dnat to {backend.name}",
        )
    inside = service_chain(frontend)
    yield from _chain(
        inside,
        f"ip daddr {frontend.address} ip saddr != {pod_cidr} jump mark-for-masquerade",
        _choice(frontend, frontend.backends),
    )
    if frontend.node_port is None:
        return
    outside = external_chain(frontend)
    if frontend.policy is TrafficPolicy.CLUSTER:
        yield from _chain(outside, "jump mark-for-masquerade", f"goto {inside}")
        return
    own = frontend.local_backends(node)
    local = chain_name("local-", _name(frontend))
    if own:
        yield from _chain(local, _choice(frontend, own))
    yield from _chain(
        outside,
        f'ip saddr {pod_cidr} goto {inside} comment "short-circuit pod traffic"',
        'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"',
        f'fib saddr type local goto {inside} comment "short-circuit local traffic"',
        *((f"goto {local}",) if own else ()),
    )


def _choice(frontend: Frontend, backends: tuple[Backend, ...]) -> str:
    """One of them, each as often as the others. Of one backend kube-proxy makes a map too, with one entry. Here it is
    not: the kernel looks for a map's number among all that there are, which took 20 s for 10,000 Services."""
    if len(backends) == 1:
        return f"goto {backend_chain(frontend, backends[0])}"
    goto = (f"{number} : goto {backend_chain(frontend, backend)}" for number, backend in enumerate(backends))
    return f"numgen random mod {len(backends)} vmap {{ {', '.join(goto)} }}"
