"""kube-proxy's rules in iptables mode, as the text that iptables-restore reads with --noflush.

The chains, rules, comments and names are those of kube-proxy from Kubernetes 1.26 on (pkg/proxy/iptables); before
1.24 what is KUBE-EXT-… here was KUBE-XLB-…. A chain's name has the first 16 letters of the base32 of a SHA-256 of the
Service's name and protocol, and for a backend its address: the same here as on a cluster.

    nat     PREROUTING, OUTPUT → KUBE-SERVICES → KUBE-SVC-… → KUBE-SEP-…: DNAT
                                └ KUBE-NODEPORTS → KUBE-EXT-… → KUBE-SVC-…, or with policy Local KUBE-SVL-…
            POSTROUTING → KUBE-POSTROUTING: MASQUERADE of what KUBE-MARK-MASQ has marked
    filter  a Service without backends is refused in KUBE-SERVICES, its node port in KUBE-EXTERNAL-SERVICES

KUBE-POSTROUTING is not here: a node has it from its kubelet (`networks/cilium/rules.py`).

A new connection walks past the rules of KUBE-SERVICES until one has its address. kube-proxy writes them in no order;
here the scenario's own Services stand in the middle of the fillers, where a Service is on average.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Network

from labctl.model.lab import TrafficPolicy
from labctl.services.frontends import Backend, Frontend

_HASH_BYTES = 10
"""Five bits a letter: 16 letters."""
_SERVICES_A_TABLE = 250
"""iptables-restore (nf_tables, 1.8.9) keeps the chains that a transaction names in a sorted list, and walks through it
from its beginning for each rule: 10,000 Services in one transaction took 10 s of CPU. Each transaction in turn makes
the kernel look at every rule that its hooks lead to. So the Services' chains come in many, which no hook leads to yet,
and what leads to them in one, by name, last first: that ends each walk at once. Together 2.6 s of CPU."""
MARK = "0x4000"
"""The bit of a packet's mark that asks for masquerading."""

_FILTER_CHAINS = ("KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES")
_NAT_CHAINS = ("KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-SERVICES")
_NEW = "-m conntrack --ctstate NEW "
_FILTER_JUMPS = (
    # Each is put before the last, and before Cilium's: the first line here is the last one in its chain. On a real node
    # Cilium's come first, since Cilium starts later, and it refuses pods itself what has no backends.
    ("INPUT", _NEW, "kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
    ("INPUT", "", "kubernetes health check service ports", "KUBE-NODEPORTS"),
    ("INPUT", _NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("FORWARD", _NEW, "kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
    ("FORWARD", _NEW, "kubernetes service portals", "KUBE-SERVICES"),
    ("FORWARD", _NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("OUTPUT", _NEW, "kubernetes service portals", "KUBE-SERVICES"),
    ("OUTPUT", _NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
)
_LAST = (
    '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this '
    'chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS'
)
_NAT_JUMPS = (
    ("PREROUTING", "", "kubernetes service portals", "KUBE-SERVICES"),
    ("OUTPUT", "", "kubernetes service portals", "KUBE-SERVICES"),
)


def chain_name(prefix: str, *parts: str) -> str:
    """`KUBE-SVC-NPX46M4PTMTKRN6Y` of ("KUBE-SVC-", "default/kubernetes:https", "tcp")."""
    digest = hashlib.sha256("".join(parts).encode()).digest()
    return prefix + base64.b32encode(digest[:_HASH_BYTES]).decode()


def service_chain(frontend: Frontend) -> str:
    return chain_name("KUBE-SVC-", frontend.full_name, frontend.protocol)


def backend_chain(frontend: Frontend, backend: Backend) -> str:
    return chain_name("KUBE-SEP-", frontend.full_name, frontend.protocol, backend.name)


def external_chain(frontend: Frontend) -> str:
    """What a node port leads to."""
    return chain_name("KUBE-EXT-", frontend.full_name, frontend.protocol)


def local_chain(frontend: Frontend) -> str:
    """The choice among the node's own backends."""
    return chain_name("KUBE-SVL-", frontend.full_name, frontend.protocol)


def iptables_rules(all_of: Sequence[Frontend], *, node: str, pod_cidr: IPv4Network) -> str:
    """The rules of one node. `pod_cidr` is the pods' range: what comes from elsewhere is masqueraded."""
    own = tuple(frontend for frontend in all_of if not frontend.is_filler)
    filler_tables, before, after = _of_fillers(tuple(frontend for frontend in all_of if frontend.is_filler), pod_cidr)
    leading = (
        *before,
        *(rule for frontend in own if frontend.backends for rule in _leading(frontend)),
        *after,
        _LAST,
        *_jumps(_NAT_JUMPS),
    )
    return "".join(
        (
            _table("filter", _FILTER_CHAINS, _filter(own, node)),
            _table("nat", _NAT_CHAINS, (f"-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}",)),
            *filler_tables,
            *_nat_tables(own, node, pod_cidr),
            _table("nat", (), leading),
        )
    )


@lru_cache(maxsize=4)
def _of_fillers(
    fillers: tuple[Frontend, ...], pod_cidr: IPv4Network
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Their chains, and the two halves of what leads to them: the same on every node."""
    by_name = sorted(fillers, key=service_chain, reverse=True)
    half = len(fillers) // 2
    first, second = (
        tuple(rule for frontend in part for rule in _leading(frontend)) for part in (by_name[:half], by_name[half:])
    )
    return tuple(_nat_tables(fillers, "", pod_cidr)), first, second


def _nat_tables(served: Sequence[Frontend], node: str, pod_cidr: IPv4Network) -> Iterator[str]:
    """The chains of the Services that have backends."""
    with_backends = [frontend for frontend in served if frontend.backends]
    for start in range(0, len(with_backends), _SERVICES_A_TABLE):
        part = with_backends[start : start + _SERVICES_A_TABLE]
        chains = (chain for frontend in part for chain in _chains(frontend, node))
        yield _table("nat", chains, (rule for frontend in part for rule in _nat(frontend, node, pod_cidr)))


def _table(name: str, chains: Iterable[str], rules: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in (f"*{name}", *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT"))


def _jumps(jumps: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    for chain, match, says, target in jumps:
        yield f'-I {chain} {match}-m comment --comment "{says}" -j {target}'


def _filter(served: Iterable[Frontend], node: str) -> Iterator[str]:
    yield from _jumps(_FILTER_JUMPS)
    # After Cilium's: it drops what it calls invalid, such as a pod's second packet to another node, whose answer to the
    # first one came through the tunnel, past this node's netfilter.
    yield '-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD'
    yield "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    yield f'-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark {MARK}/{MARK} -j ACCEPT'
    yield (
        '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" '
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )
    for frontend in served:
        refused = "REJECT --reject-with icmp-port-unreachable"
        if not frontend.backends:
            says = f"{frontend.full_name} has no endpoints"
            match = f"{_to_address(frontend)} {_says(says)} {_to_port(frontend.port, frontend)}"
            yield f"-A KUBE-SERVICES {match} -j {refused}"
            if frontend.node_port is not None:
                yield _refused_at_node(frontend, frontend.node_port, says, refused)
        elif frontend.node_port is not None and not _answering(frontend, node):
            says = f"{frontend.full_name} has no local endpoints"
            yield _refused_at_node(frontend, frontend.node_port, says, "DROP")


def _refused_at_node(frontend: Frontend, port: int, says: str, target: str) -> str:
    return (
        f"-A KUBE-EXTERNAL-SERVICES -p {frontend.protocol} {_says(says)} -m addrtype --dst-type LOCAL "
        f"{_to_port(port, frontend)} -j {target}"
    )


def _answering(frontend: Frontend, node: str) -> tuple[Backend, ...]:
    """The backends that the node gives to what comes from outside."""
    return frontend.local_backends(node) if frontend.policy is TrafficPolicy.LOCAL else frontend.backends


def _chains(frontend: Frontend, node: str) -> Iterator[str]:
    yield service_chain(frontend)
    if frontend.node_port is not None:
        yield external_chain(frontend)
        if frontend.policy is TrafficPolicy.LOCAL and frontend.local_backends(node):
            yield local_chain(frontend)
    for backend in frontend.backends:
        yield backend_chain(frontend, backend)


def _leading(frontend: Frontend) -> Iterator[str]:
    """What leads to a Service that has backends."""
    yield f"-A KUBE-SERVICES {_to_service(frontend)} -j {service_chain(frontend)}"
    if (port := frontend.node_port) is not None:
        to = f"{_says(frontend.full_name)} {_to_port(port, frontend)}"
        yield f"-A KUBE-NODEPORTS -p {frontend.protocol} {to} -j {external_chain(frontend)}"


def _to_service(frontend: Frontend) -> str:
    says = _says(f"{frontend.full_name} cluster IP")
    return f"{_to_address(frontend)} {says} {_to_port(frontend.port, frontend)}"


def _nat(frontend: Frontend, node: str, pod_cidr: IPv4Network) -> Iterator[str]:
    """The rules in the chains of a Service that has backends, in the order in which kube-proxy writes them."""
    chain = service_chain(frontend)
    if frontend.node_port is not None:
        yield from _external(frontend, node, pod_cidr)
    yield f"-A {chain} ! -s {pod_cidr} {_to_service(frontend)} -j KUBE-MARK-MASQ"
    yield from _choice(frontend, chain, frontend.backends)
    for backend in frontend.backends:
        own, name = backend_chain(frontend, backend), _says(frontend.full_name)
        yield f"-A {own} -s {backend.address}/32 {name} -j KUBE-MARK-MASQ"
        protocol = frontend.protocol
        yield f"-A {own} -p {protocol} {name} -m {protocol} -j DNAT --to-destination {backend.name}"


def _external(frontend: Frontend, node: str, pod_cidr: IPv4Network) -> Iterator[str]:
    chain, inside = external_chain(frontend), service_chain(frontend)
    to = f"{frontend.full_name} external destinations"
    if frontend.policy is TrafficPolicy.CLUSTER:
        yield f"-A {chain} {_says(f'masquerade traffic for {to}')} -j KUBE-MARK-MASQ"
        yield f"-A {chain} -j {inside}"
        return
    own, of_node = local_chain(frontend), "-m addrtype --src-type LOCAL"
    yield f"-A {chain} -s {pod_cidr} {_says(f'pod traffic for {to}')} -j {inside}"
    yield f"-A {chain} {_says(f'masquerade LOCAL traffic for {to}')} {of_node} -j KUBE-MARK-MASQ"
    yield f"-A {chain} {_says(f'route LOCAL traffic for {to}')} {of_node} -j {inside}"
    if frontend.local_backends(node):
        yield f"-A {chain} -j {own}"
        yield from _choice(frontend, own, frontend.local_backends(node))


def _choice(frontend: Frontend, chain: str, backends: tuple[Backend, ...]) -> Iterator[str]:
    """Each backend with the same probability: one in n, then one in n - 1 of the rest, …; the last takes the rest."""
    for number, backend in enumerate(backends):
        left = len(backends) - number
        chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
        says = _says(f"{frontend.full_name} -> {backend.name}")
        yield f"-A {chain} {says}{chance} -j {backend_chain(frontend, backend)}"


def _to_address(frontend: Frontend) -> str:
    return f"-d {frontend.address}/32 -p {frontend.protocol}"


def _to_port(port: int, frontend: Frontend) -> str:
    return f"-m {frontend.protocol} --dport {port}"


def _says(comment: str) -> str:
    return f'-m comment --comment "{comment}"'
