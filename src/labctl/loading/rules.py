"""What a scenario's values mean together: names that must exist, pairs, datapath, checks and what is compared.

Of address ranges and MTU: nothing overlaps, and everything has room. Of Services and their pods: backends that exist,
labels that say them, ports, room. All of it reads the merged tree tolerantly and passes over everything that `shape`
has found wrong already, so that one mistake gives one error and all mistakes show at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network

from labctl.errors import Problem
from labctl.loading.endpoints import (
    OUTSIDE,
    counted_nodes,
    outside_hosts,
    outside_problems,
    pair_problems,
)
from labctl.loading.messages import listed, nearest, problem_at, shown
from labctl.loading.service_rules import service_problems
from labctl.loading.tree import (
    Block,
    KeyPath,
    Listing,
    Place,
    Scalar,
    Tree,
    check_name,
    find,
    items_of,
    place_of,
    text_of,
)
from labctl.model.document import SMALLEST_MTU_BYTE
from labctl.model.fallback import ENDS_SINCE, Condition
from labctl.model.impairment import LEAST_RATE_BIT_PER_S
from labctl.model.interfaces import TUNNEL_OVERHEAD_BYTE
from labctl.model.lab import EXISTING_CLUSTER, NETNS, Encapsulation, Fault, HostRouting, Masquerade
from labctl.model.parameters import PARAMETERS_OF, SHORTEST_PING_INTERVAL_S
from labctl.model.pod_network import NetworkType
from labctl.model.sections import DEFAULT_CILIUM
from labctl.model.versions import Version
from labctl.names import UNDERLAY, is_name
from labctl.planning import resolve
from labctl.values import dataclass

_TUNNELS = (Encapsulation.VXLAN, Encapsulation.GENEVE)

# A fault that nothing in the chosen datapath could show would be silently ignored.
_FAULT_NEEDS = {
    Fault.NO_REDIRECT_PEER: ("hostRouting", (HostRouting.BPF,), "only BPF host routing redirects to the peer"),
    Fault.WRONG_VTEP: ("encapsulation", _TUNNELS, "without a tunnel there is no VTEP"),
    Fault.WRONG_VNI: ("encapsulation", _TUNNELS, "without a tunnel there is no VNI"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEntry:
    """A name that the file gives to something, and where."""

    name: str
    path: KeyPath
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class NameFacts:
    """What could be read of the names, whatever else is wrong. None: the section itself is unreadable."""

    nodes: tuple[NamedEntry, ...] | None
    pods: tuple[NamedEntry, ...] | None
    outside: tuple[NamedEntry, ...] | None
    node_of_pod: Mapping[str, str]


def meaning_problems(tree: Tree, ranks: Mapping[str, int]) -> tuple[Problem, ...]:
    """Every problem between values. `ranks` orders the files from the site's (lowest) to the most specific."""
    facts = facts_of(tree)
    return (
        *_names(facts),
        *_pods(tree, facts),
        *pair_problems(tree, pods=None if facts.pods is None else tuple(pod.name for pod in facts.pods)),
        *outside_problems(tree),
        *address_problems(tree, None if facts.nodes is None else len(facts.nodes), facts.node_of_pod),
        *service_problems(tree),
        *_datapath(tree),
        *_impairments(tree),
        *_checks(tree),
        *_compared(tree, ranks),
    )


def site_problems(tree: Tree) -> tuple[Problem, ...]:
    """Every problem between the values of lab.yaml, laid over the built-in defaults."""
    facts = facts_of(tree)
    return (
        *_names(facts),
        *address_problems(tree, None if facts.nodes is None else len(facts.nodes), {}),
        *_combinations(tree),
        *_checks(tree),
        *_compared(tree, {}),
    )


def facts_of(tree: Tree) -> NameFacts:
    nodes, pods = find(tree, "nodes"), find(tree, "pods")
    node_of_pod: dict[str, str] = {}
    for _, pod in items_of(pods):
        name, node = text_of(find(pod, "name")), text_of(find(pod, "node"))
        if name and node:
            node_of_pod.setdefault(name, node)
    return NameFacts(
        nodes=_nodes_of(nodes), pods=_named(pods, "pods"), outside=_outside_of(tree), node_of_pod=node_of_pod
    )


def _outside_of(tree: Tree) -> tuple[NamedEntry, ...] | None:
    """The default one stands nowhere in the file: its place is the file's beginning."""
    if find(tree, OUTSIDE) is None:
        return tuple(NamedEntry(name=name, path=(OUTSIDE,), place=tree.place) for name, _ in outside_hosts(tree))
    return _named(find(tree, OUTSIDE), OUTSIDE)


def _nodes_of(tree: Tree | None) -> tuple[NamedEntry, ...] | None:
    if isinstance(tree, Scalar):
        count = tree.value
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 250:
            return None
        return tuple(NamedEntry(name=name, path=("nodes",), place=tree.place) for name in counted_nodes(count))
    return _named(tree, "nodes")


def _named(tree: Tree | None, section: str) -> tuple[NamedEntry, ...] | None:
    if not isinstance(tree, Listing):
        return None
    return tuple(
        NamedEntry(name=name, path=(section, index, "name"), place=place_of(item, ("name",)))
        for index, item in items_of(tree)
        if (name := text_of(find(item, "name"))) is not None and is_name(name)
    )


def _names(facts: NameFacts) -> Iterator[Problem]:
    """Nodes, pods, hosts outside and the underlay become namespaces of one lab, so all of their names differ."""
    taken: dict[str, tuple[str, NamedEntry]] = {}
    for kind, every in (("node", facts.nodes), ("pod", facts.pods), ("host outside", facts.outside)):
        for named in every or ():
            if named.name == UNDERLAY:
                yield problem_at(named.place, named.path, f"the name '{UNDERLAY}' is reserved for the lab's own bridge")
            elif named.name in taken:
                first_kind, first = taken[named.name]
                where = f"the {first_kind} on line {first.place.line}" if first.place.file == named.place.file else ""
                where = where or f"a {first_kind} of {first.place.file}:{first.place.line}"
                yield problem_at(named.place, named.path, f"the name '{named.name}' is taken by {where}")
            else:
                taken[named.name] = kind, named


def _unknown(what: str, name: str, known: Iterable[str]) -> tuple[str, str, str]:
    choices = list(known)
    return f"there is no {what} {shown(name)}", listed(choices), nearest(name, choices)


def _pods(tree: Tree, facts: NameFacts) -> Iterator[Problem]:
    pods = find(tree, "pods")
    if pods is None:
        yield problem_at(tree.place, ("pods",), "there are no pods", "a list such as [{name: client, node: node1}]")
    if facts.nodes is None:
        return
    known = dict.fromkeys(node.name for node in facts.nodes)
    for index, pod in items_of(pods):
        node = text_of(find(pod, "node"))
        if node is not None and is_name(node) and node not in known:
            path = ("pods", index, "node")
            yield problem_at(place_of(tree, path), path, *_unknown("node", node, known))


def _datapath(tree: Tree) -> Iterator[Problem]:
    section = find(tree, "datapath")
    if section is not None and not isinstance(section, Block):
        return
    is_cilium = text_of(find(tree, "podNetwork", "type")) in (None, NetworkType.CILIUM)
    if is_cilium and find(section, "hostRouting") is None:
        # A section that only the site's defaults have has its place there, where the key need not be.
        place = section.place if section is not None and section.place.file == tree.place.file else tree.place
        yield problem_at(place, ("datapath", "hostRouting"), "is missing: say which", listed(HostRouting))
    if is_cilium:
        yield from _combinations(tree)
        if text_of(find(tree, "provider")) == NETNS:
            yield from _of_cilium_alone(tree)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beyond:
    """Something that Cilium has and labctl's own datapath has not, by the Helm values that ask for it."""

    title: str
    paths: tuple[str, ...]
    words: frozenset[str] = frozenset()
    """Of a value that chooses by a word: the words that ask for it. Else `true` does, and a mapping with `enabled`."""


_BEYOND = (
    _Beyond(
        title="choice of backends by Maglev",
        paths=("loadBalancer.algorithm",),
        words=frozenset({"maglev"}),
    ),
    _Beyond(
        title="DSR, direct server return",
        paths=("loadBalancer.mode",),
        words=frozenset({"dsr", "hybrid", "annotation"}),
    ),
    _Beyond(title="session affinity", paths=("sessionAffinity",)),
    _Beyond(title="IPv6", paths=("ipv6",)),
    _Beyond(
        title="L7, Cilium's proxy",
        paths=("l7Proxy", "envoy", "envoyConfig", "ingressController", "gatewayAPI"),
    ),
    _Beyond(title="L7, Cilium's proxy", paths=("loadBalancer.l7.backend",), words=frozenset({"envoy"})),
    _Beyond(title="Services in XDP", paths=("loadBalancer.acceleration",), words=frozenset({"native", "best-effort"})),
    _Beyond(title="the bandwidth manager", paths=("bandwidthManager",)),
    _Beyond(title="the host firewall", paths=("hostFirewall",)),
    _Beyond(title="the egress gateway", paths=("egressGateway",)),
    _Beyond(title="netkit devices", paths=("bpf.datapathMode",), words=frozenset({"netkit", "netkit-l2"})),
    _Beyond(title="encryption between nodes", paths=("encryption",)),
)
"""Named as Cilium's charts name them, 1.10.6 to 1.20.0."""


def _of_cilium_alone(tree: Tree) -> Iterator[Problem]:
    """Helm values that ask for what a lab without Cilium does not have: what packets do would not be what was asked."""
    for beyond in _BEYOND:
        for name in beyond.paths:
            path: KeyPath = ("cilium", "values", *name.split("."))
            found = find(tree, *path)
            if isinstance(found, Block):
                path, found = (*path, "enabled"), find(found, "enabled")
            if not isinstance(found, Scalar):
                continue
            if str(found.value).lower() in (beyond.words or {"true"}):
                message = f"asks for {beyond.title}, which labctl's own datapath does not have"
                yield problem_at(found.place, path, message, "--provider kind or kubeadm, which run Cilium itself")


def cilium_of(tree: Tree) -> Version:
    """The version of Cilium that a scenario names, whichever its provider; the default where it names none."""
    written = text_of(find(tree, "cilium", "version"))
    try:
        return Version.parse(written or DEFAULT_CILIUM)
    except ValueError:
        return Version.parse(DEFAULT_CILIUM)


_NEEDED = {
    Condition.IPTABLES_MASQUERADE: ("masquerade", "BPF host routing needs masquerade: bpf", str(Masquerade.BPF)),
    Condition.NO_KUBE_PROXY_REPLACEMENT: (
        "kubeProxyReplacement",
        "BPF host routing needs kubeProxyReplacement: true",
        "true",
    ),
}
"""The key of each condition that a scenario can set, what to say of it, and what it should be."""


def _combinations(tree: Tree) -> Iterator[Problem]:
    """Choices of the datapath that exclude each other."""
    section = find(tree, "datapath")
    routing, masquerade = text_of(find(section, "hostRouting")), text_of(find(section, "masquerade"))
    without_replacement = _is(find(section, "kubeProxyReplacement"), False)
    may_fall_back = _is(find(section, "allowFallback"), True)
    needs_bpf = routing == HostRouting.BPF
    if needs_bpf and not may_fall_back:
        holds = {
            Condition.IPTABLES_MASQUERADE: masquerade == Masquerade.IPTABLES,
            Condition.NO_KUBE_PROXY_REPLACEMENT: without_replacement,
        }
        yield from (_fallback(tree, *_NEEDED[condition]) for condition, is_so in holds.items() if is_so)
    elif masquerade == Masquerade.BPF and without_replacement:
        version = cilium_of(tree)
        if not needs_bpf or version.series >= ENDS_SINCE:
            path = ("datapath", "kubeProxyReplacement")
            message = (
                "masquerade: bpf needs kubeProxyReplacement: true; Cilium would fall back to iptables or not start"
            )
            if needs_bpf:
                message = (
                    f"masquerade: bpf needs kubeProxyReplacement: true; the agent of Cilium {version} does not start"
                )
            yield problem_at(place_of(tree, path), path, message, "true, or masquerade: iptables")
    yield from _kept_range(find(section, "ipv4NativeRoutingCIDR"))
    observed = find(section, "observed")
    provider = text_of(find(tree, "provider"))
    if isinstance(observed, Scalar) and observed.value is True and provider != EXISTING_CLUSTER:
        message = f"has no meaning with the provider {provider}: labctl makes that datapath, and makes what is asked"
        yield problem_at(observed.place, ("datapath", "observed"), message, f"provider: {EXISTING_CLUSTER}")
    seen: set[str] = set()
    for index, item in items_of(find(section, "faults")):
        at: KeyPath = ("datapath", "faults", index)
        fault = text_of(item)
        if fault in seen:
            yield problem_at(item.place, at, f"the fault {shown(fault)} is already listed")
        elif fault in _FAULT_NEEDS:
            key, needed, reason = _FAULT_NEEDS[Fault(fault)]
            if text_of(find(section, key)) not in (*needed, None):
                yield problem_at(item.place, at, f"cannot show: {reason}", f"{key}: {needed[0]}, or no such fault")
        seen.add(fault or "")


def _kept_range(found: Tree | None) -> Iterator[Problem]:
    text = text_of(found)
    if found is None or text is None:
        return
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        return  # the shape's
    if str(network) != text:
        path: KeyPath = ("datapath", "ipv4NativeRoutingCIDR")
        message = f"'{text}' has bits set beyond /{network.prefixlen}"
        yield problem_at(found.place, path, message, "the network's address", str(network))


def _fallback(tree: Tree, key: str, message: str, allowed: str) -> Problem:
    path: KeyPath = ("datapath", key)
    text = f"{message}; without it Cilium silently falls back to Legacy"
    return problem_at(place_of(tree, path), path, text, f"{allowed}, hostRouting: legacy, or allowFallback: true")


def _is(tree: Tree | None, value: bool) -> bool:
    return isinstance(tree, Scalar) and tree.value is value


_WITH_LINKS = "netns"
"""The provider whose links are labctl's own."""


def _impairments(tree: Tree) -> Iterator[Problem]:
    """Whose labs can have them, and what of one link excludes each other. Which links there are, the provider says."""
    section, provider = find(tree, "impairments"), text_of(find(tree, "provider"))
    if not isinstance(section, Block) or not section.entries:
        return
    if provider not in (None, _WITH_LINKS):
        message = f"has no meaning with the provider {provider}: the links of its nodes are not labctl's"
        yield problem_at(place_of(tree, ("impairments",)), ("impairments",), message, f"provider: {_WITH_LINKS}")
        return
    for link, entry in section.entries.items():
        delay_s, jitter_s, rate = (_number(find(entry.value, key)) for key in ("delayS", "jitterS", "rateBitPerS"))
        if jitter_s > delay_s:
            path: KeyPath = ("impairments", link, "jitterS")
            message = f"{jitter_s:g} s is more than the delay, which is {delay_s:g} s: it is by how much that varies"
            yield problem_at(place_of(tree, path), path, message, f"at most delayS, which is {delay_s:g}")
        if 0 < rate < LEAST_RATE_BIT_PER_S:
            path = ("impairments", link, "rateBitPerS")
            message = f"{rate:g} bit/s is too slow: a frame of the largest size would take more than 1.5 s"
            yield problem_at(place_of(tree, path), path, message, f"{LEAST_RATE_BIT_PER_S:g} or more, or 0: no limit")


def _number(found: Tree | None) -> float:
    value = found.value if isinstance(found, Scalar) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _checks(tree: Tree) -> Iterator[Problem]:
    taken: dict[str, int] = {}
    for index, check in items_of(find(tree, "checks")):
        name = check_name(check)
        if name is not None and name in taken:
            message = f"a check on line {taken[name]} is called '{name}' too"
            yield problem_at(check.place, ("checks", index), message, "a name: of its own")
        elif name is not None:
            taken[name] = check.place.line
        if text_of(find(check, "check")) == "ping":
            yield from _interval(tree, ("checks", index, "intervalS"))
        if text_of(find(check, "check")) == "iperf" and text_of(find(check, "protocol")) in (None, "tcp"):
            for key in (("rateBitPerS",), ("expect", "maxLoss")):
                if find(check, *key) is not None:
                    path: KeyPath = ("checks", index, *key)
                    message = "has a meaning for UDP only, and this check uses TCP"
                    yield problem_at(place_of(tree, path), path, message, "protocol: udp, or no such key")


def _interval(tree: Tree, path: KeyPath) -> Iterator[Problem]:
    """ping counts whole milliseconds: it would round less to 0, which is another way to ping."""
    found = find(tree, *path)
    value = found.value if isinstance(found, Scalar) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < SHORTEST_PING_INTERVAL_S:
        message = f"{value:g} s is shorter than ping can wait"
        allowed = f"{SHORTEST_PING_INTERVAL_S:g} or more, or 0: each request goes when the reply to the one before came"
        yield problem_at(place_of(tree, path), path, message, allowed)


def _compared(tree: Tree, ranks: Mapping[str, int]) -> Iterator[Problem]:
    """Names under compare.checks must be a check's, or a kind of check (which then runs with its defaults), unless a
    more specific file has replaced the checks they were for."""
    yield from _interval(tree, ("compare", "ping", "intervalS"))
    checks, compared = find(tree, "checks"), find(tree, "compare", "checks")
    if not isinstance(checks, Listing) or not isinstance(compared, Listing):
        return
    known = dict.fromkeys(name for _, check in items_of(checks) if (name := check_name(check)))
    known |= dict.fromkeys(PARAMETERS_OF)
    strict = is_as_specific(compared, checks, ranks)
    seen: set[str] = set()
    for index, item in items_of(compared):
        name = text_of(item)
        path = ("compare", "checks", index)
        if name is None or not is_name(name):
            continue
        if name in seen:
            yield problem_at(item.place, path, f"the check {shown(name)} is already listed")
        elif name not in known and strict:
            yield problem_at(item.place, path, *_unknown("check", name, known))
        seen.add(name)


def is_as_specific(one: Tree, other: Tree, ranks: Mapping[str, int]) -> bool:
    """True when `one` comes from the same file as `other`, or from one that is laid over it."""
    return ranks.get(one.place.file, 0) >= ranks.get(other.place.file, 0)


KEYS = ("underlayCIDR", "podCIDR", "serviceCIDR")

_UNUSABLE = {
    IPv4Network("0.0.0.0/8"): "this network (RFC 1122)",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local addresses",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}


def address_problems(tree: Tree, nodes: int | None, node_of_pod: Mapping[str, str]) -> Iterator[Problem]:
    """`nodes` is how many there are, where known; `node_of_pod` gives the node of each pod that could be read."""
    ranges: dict[str, tuple[IPv4Network, Place]] = {}
    for key in KEYS:
        found = find(tree, "network", key)
        text = text_of(found)
        if found is None or text is None:
            continue
        try:
            ranges[key] = IPv4Network(text), found.place
        except ValueError:
            yield from _host_bits(key, text, found.place)
    yield from _unusable(ranges)
    yield from _overlaps(ranges)
    yield from _too_small(ranges, nodes)
    yield from _crowded(tree, node_of_pod)
    yield from _mtu(tree)


def _address_problem(place: Place, key: str, message: str, allowed: str = "", suggestion: str = "") -> Problem:
    return problem_at(place, ("network", key), message, allowed, suggestion)


def _host_bits(key: str, text: str, place: Place) -> Iterator[Problem]:
    """Only for what is a network but for its host bits: everything else is the structure's."""
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        return
    yield _address_problem(
        place, key, f"'{text}' has bits set beyond /{network.prefixlen}", "the network's address", str(network)
    )


def _unusable(ranges: Mapping[str, tuple[IPv4Network, Place]]) -> Iterator[Problem]:
    for key, (network, place) in ranges.items():
        for unusable, use in _UNUSABLE.items():
            if network.overlaps(unusable):
                yield _address_problem(
                    place, key, f"{network} contains addresses of {unusable}: {use}", "unicast addresses"
                )
                break


def _overlaps(ranges: Mapping[str, tuple[IPv4Network, Place]]) -> Iterator[Problem]:
    """Each overlap is reported once, at the range that comes later in `KEYS`."""
    keys = list(ranges)
    for number, key in enumerate(keys):
        network, place = ranges[key]
        for other in keys[:number]:
            if network.overlaps(ranges[other][0]):
                yield _address_problem(
                    place, key, f"{network} overlaps {other} {ranges[other][0]}", "ranges that do not overlap"
                )


def _too_small(ranges: Mapping[str, tuple[IPv4Network, Place]], nodes: int | None) -> Iterator[Problem]:
    if "serviceCIDR" in ranges:
        network, place = ranges["serviceCIDR"]
        if network.prefixlen > resolve.SMALLEST_SERVICE_PREFIX:
            allowed = f"/{resolve.SMALLEST_SERVICE_PREFIX} or larger"
            yield _address_problem(place, "serviceCIDR", f"{network} is too small for Services", allowed)
    if nodes is None:
        return
    for key, capacity, prefix, need in (
        ("underlayCIDR", resolve.node_capacity, resolve.underlay_prefix_for, "an address"),
        ("podCIDR", resolve.pod_network_capacity, resolve.pod_prefix_for, f"a /{resolve.NODE_PREFIX}"),
    ):
        if key in ranges:
            network, place = ranges[key]
            if capacity(network) < nodes:
                message = f"{network} is too small: {nodes} nodes need {need} each, it has room for {capacity(network)}"
                yield _address_problem(place, key, message, f"/{prefix(nodes)} or larger")


def _crowded(tree: Tree, node_of_pod: Mapping[str, str]) -> Iterator[Problem]:
    for node, count in Counter(node_of_pod.values()).items():
        if count > resolve.PODS_PER_NODE:
            places = [pod.place for _, pod in items_of(find(tree, "pods")) if text_of(find(pod, "node")) == node]
            place = places[resolve.PODS_PER_NODE]
            message = f"{count} pods are on {node}, whose /{resolve.NODE_PREFIX} has addresses for fewer"
            yield Problem(
                file=place.file,
                line=place.line,
                column=place.column,
                path="pods",
                message=message,
                allowed=f"at most {resolve.PODS_PER_NODE} pods on a node",
            )


def _mtu(tree: Tree) -> Iterator[Problem]:
    """Every IPv4 host must take 576 bytes (RFC 791), so pods must be able to send as much."""
    mtu = find(tree, "network", "mtu")
    least = SMALLEST_MTU_BYTE + TUNNEL_OVERHEAD_BYTE
    if (
        isinstance(mtu, Scalar)
        and isinstance(mtu.value, int)
        and SMALLEST_MTU_BYTE <= mtu.value < least
        and (tunnel := text_of(find(tree, "datapath", "encapsulation"))) in _TUNNELS
    ):
        message = (
            f"{tunnel} takes {TUNNEL_OVERHEAD_BYTE} bytes of {mtu.value}, which leaves pods fewer than "
            f"{SMALLEST_MTU_BYTE}"
        )
        yield _address_problem(mtu.place, "mtu", message, f"{least} or more with {tunnel}")
