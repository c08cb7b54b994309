"""What a look at one Service says: who answered, how evenly, where the address was translated and by what. Pure.

With kube-proxy replaced the socket of a pod or node is translated before a packet exists (seen on Cilium 1.16.0-rc.0
with Kubernetes 1.20.2, in both modes and both encapsulations), and what comes from outside is translated per packet on
the node that is asked; with kube-proxy the node's netfilter does both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from labctl.checks.kube_proxy import Rules
from labctl.checks.outcome import finding, unknown
from labctl.checks.server import Asked
from labctl.model.lab import Endpoint, EndpointKind, Lab, Pair, Service, TrafficPolicy
from labctl.model.result import Finding
from labctl.values import dataclass

SURE_PER_BACKEND = 10
"""Of so many connections per backend, a random choice leaves one out less than once in ten thousand times (of two
backends once in a million)."""
FEWEST_PER_BACKEND = 5
"""The chi-square distribution describes counts that are expected to be no smaller (Cochran 1954)."""
UNLIKELY = 1e-4
"""How seldom an even choice may look so uneven before it is called uneven."""


class Translation(StrEnum):
    """What turns a Service's address into a backend's, for a client of that kind."""

    SOCKET = "socket"
    """An eBPF program at the client's system call."""
    PACKET = "packet"
    """An eBPF program on a device of the node, in each packet."""
    NETFILTER = "netfilter"
    """Rules of kube-proxy."""


def translation_of(lab: Lab, client: Endpoint) -> Translation:
    """As the scenario asks for it."""
    if not lab.in_force.kube_proxy_replacement:
        return Translation.NETFILTER
    if client.kind is EndpointKind.NODE:
        return Translation.SOCKET
    return Translation.SOCKET if client.kind is EndpointKind.POD and lab.datapath.socket_lb else Translation.PACKET


def chosen_from(lab: Lab, service: Service, via: str | None) -> tuple[str, ...]:
    """The backends that may be chosen: with `externalTrafficPolicy: Local` those on the node that is asked."""
    is_local = via is not None and service.external_traffic_policy is TrafficPolicy.LOCAL
    return tuple(name for name in service.backends if not is_local or lab.pod(name).node == via)


def sources_at(lab: Lab, pair: Pair, client: Endpoint, service: Service, backend: str) -> frozenset[str]:
    """The addresses that the backend may see the client under.

    A node that is asked from outside passes on with an address of its own, so that the reply comes back through it;
    not to a backend of its own with kube-proxy replaced, and never with `externalTrafficPolicy: Local`.
    """
    if client.kind is EndpointKind.POD:
        return frozenset((str(client.address),))
    if client.kind is EndpointKind.NODE:
        node = lab.node(client.name)
        return frozenset((str(node.address.ip), str(node.router)))
    if pair.via is None:
        return frozenset((str(client.address),))
    asked = lab.node(pair.via)
    is_here = lab.pod(backend).node == pair.via
    keeps = service.external_traffic_policy is TrafficPolicy.LOCAL or (is_here and lab.in_force.kube_proxy_replacement)
    return frozenset((str(client.address),) if keeps else (str(asked.address.ip), str(asked.router)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How the connections ended in the client's words. `refused` were answered by a pod on which nothing listens."""

    made: int
    refused: int
    others: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One real exchange: what the client's socket says of its peer, and whom the backend `server` saw."""

    peer: str
    seen_from: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLook:
    """Everything that was seen of one Service. `arrivals` counts the connections that came to each backend, by the
    address that they came from; `itself` is the client where it is a backend too, whose own connections no capture
    shows. `sources` are the addresses that a backend may see. `transfer` is None where none was tried."""

    service: Service
    client: Endpoint
    asked: Asked
    translation: Translation
    chosen: tuple[str, ...]
    attempts: Attempts
    to_service_on_wire: int
    arrivals: Mapping[str, Mapping[str, int]]
    sources: Mapping[str, frozenset[str]]
    rules: Rules
    transfer: Transfer | None
    capture_command: Sequence[str] = ()
    rules_command: Sequence[str] = ()

    @property
    def itself(self) -> str:
        return self.client.name if self.client.name in self.chosen else ""

    @property
    def at_backends(self) -> dict[str, int]:
        return {name: sum(counts.values()) for name, counts in self.arrivals.items()}

    @property
    def place(self) -> str:
        return f"{self.asked.address}:{self.asked.port}"

    def name(self, what: str) -> str:
        return f"{self.service.name}: {what}"


def judge_service(look: ServiceLook) -> tuple[Finding, ...]:
    """Every finding of one Service, named `SERVICE: what`."""
    if not look.chosen:
        return (_refused_at_once(look), *_translated(look), _netfilter(look))
    return (
        _answered(look),
        *_translated(look),
        *_backends(look),
        *_source(look),
        _netfilter(look),
        *_transfer(look),
    )


def _ended(look: ServiceLook) -> str:
    ends = [(look.attempts.refused, "Connection refused"), *((n, words) for words, n in look.attempts.others.items())]
    return ", ".join(f"{count} × {words}" for count, words in ends if count)


def _refused_at_once(look: ServiceLook) -> Finding:
    """Nobody may answer: what the client is told then depends on who translates."""
    tried = look.attempts
    if look.translation is Translation.SOCKET:
        holds = tried.others.get("Operation not permitted", 0) == tried.made
        lesson = "no backend: connect() fails with EPERM before a packet exists"
    elif look.translation is Translation.NETFILTER and not look.service.backends:
        holds = tried.refused == tried.made
        lesson = "no backend: kube-proxy's rule rejects the packet, and the client reads 'connection refused'"
    else:
        holds = not sum(look.at_backends.values())
        lesson = "no backend where it was asked: the packet is dropped or refused, and comes to no pod"
    return finding(
        look.name("no backend"),
        holds=holds,
        sentence=f"{tried.made} connections to {look.place} ended: {_ended(look)}",
        lesson=lesson,
    )


def _answered(look: ServiceLook) -> Finding:
    tried = look.attempts
    others = ", ".join(f"{count} × {words}" for words, count in tried.others.items())
    sentence = f"{tried.refused} of {tried.made} connections to {look.place} were answered by a pod"
    return finding(
        look.name("answered"),
        holds=tried.refused == tried.made,
        sentence=sentence + (f"; the others: {others}" if others else ""),
        lesson="nothing listens on the pods' port, so a pod's own 'connection refused' is the answer; 'operation not "
        "permitted' would mean that the Service has no endpoints: the socket is refused before a packet exists",
    )


def _translated(look: ServiceLook) -> Iterator[Finding]:
    on_wire, leaves = look.to_service_on_wire, f"left {look.client.name}'s eth0"
    where = f"{on_wire} packets to {look.place} {leaves}"
    if look.translation is Translation.SOCKET:
        yield finding(
            look.name("translated in the socket"),
            holds=on_wire == 0,
            sentence=where,
            lesson="an eBPF program at connect() puts the backend's address into the socket, so the Service's address "
            "is never on the wire",
            command=look.capture_command,
        )
    elif look.client.kind is EndpointKind.NODE:
        yield finding(
            look.name("translated before it leaves"),
            holds=on_wire == 0,
            sentence=where,
            lesson="the node's own packets pass the chain OUTPUT of its netfilter, which rewrites them before a device",
            command=look.capture_command,
        )
    elif look.chosen:
        yield finding(
            look.name("translated on the node"),
            holds=on_wire > 0,
            sentence=where,
            lesson="without kube-proxy replacement the pod sends to the Service's address, and the node's netfilter "
            "rewrites it"
            if look.translation is Translation.NETFILTER
            else "an eBPF program on the node rewrites the address in each packet",
            command=look.capture_command,
        )


def _backends(look: ServiceLook) -> Iterator[Finding]:
    counts = look.at_backends
    seen, made = sum(counts.values()), look.attempts.made
    shares = ", ".join(f"{name} {count}" for name, count in counts.items())
    if look.itself:
        shares += f", {look.itself} itself the other {max(0, made - seen)} (they stay on its loopback device)"
    yield finding(
        look.name("backends"),
        holds=seen == made or bool(look.itself and seen <= made),
        sentence=f"of {made} connections arrived: {shares}",
        lesson="each connection is balanced on its own; a random choice makes the shares differ from time to time",
    )
    if len(look.chosen) > 1 and made >= SURE_PER_BACKEND * len(look.chosen):
        left_out = [name for name in look.chosen if name != look.itself and not counts.get(name)]
        yield finding(
            look.name("every backend"),
            holds=not left_out,
            sentence=f"{', '.join(left_out)} got no connection" if left_out else "each backend got connections",
            lesson="a backend that never answers is not ready, or not among the Service's endpoints",
        )
    if len(look.chosen) > 1 and made >= FEWEST_PER_BACKEND * len(look.chosen):
        yield _spread(look, [made - seen if name == look.itself else counts.get(name, 0) for name in look.chosen])


def _spread(look: ServiceLook, counts: Sequence[int]) -> Finding:
    statistic, p_value = evenness(counts)
    degrees = len(counts) - 1
    freedom = "1 degree of freedom" if degrees == 1 else f"{degrees} degrees of freedom"
    return finding(
        look.name("spread"),
        holds=p_value >= UNLIKELY,
        sentence=f"{' : '.join(map(str, counts))}: χ² = {statistic:.2f} with {freedom}, p = {p_value:.2g}",
        lesson=f"an even random choice gives so uneven a split with that probability; below {UNLIKELY:g} it is uneven",
    )


def evenness(counts: Sequence[int]) -> tuple[float, float]:
    """Pearson's statistic of counts against equal shares, and how often an even choice gives one as large."""
    expected = sum(counts) / len(counts)
    if not expected:
        return 0.0, 1.0
    statistic = sum((count - expected) ** 2 / expected for count in counts)
    return statistic, chi_square_tail(statistic, len(counts) - 1)


def chi_square_tail(statistic: float, degrees: int) -> float:
    """The probability that a chi-square variable of so many degrees of freedom (1 and more) is as large or larger: the
    closed form of the incomplete gamma function at whole and half numbers (Abramowitz and Stegun 26.4.4, 26.4.5)."""
    half = statistic / 2
    if degrees % 2 == 0:
        term = total = math.exp(-half)
        for number in range(1, degrees // 2):
            term *= half / number
            total += term
        return min(1.0, total)
    total = math.erfc(math.sqrt(half))
    term = math.exp(-half) * math.sqrt(half) / math.gamma(1.5)
    for number in range((degrees - 1) // 2):
        total += term
        term *= half / (number + 1.5)
    return min(1.0, total)


def _source(look: ServiceLook) -> Iterator[Finding]:
    """Whom the backends saw, where that is not the client itself as a matter of course."""
    if look.client.kind is EndpointKind.POD:
        return
    wrong = {name: sorted(set(seen) - look.sources[name]) for name, seen in look.arrivals.items()}
    shown = "; ".join(f"{name} saw {', '.join(sorted(seen))}" for name, seen in look.arrivals.items() if seen)
    yield finding(
        look.name("source"),
        holds=not any(wrong.values()),
        sentence=shown or "no backend saw a packet",
        lesson="a node sends with an address of its own"
        if look.client.kind is EndpointKind.NODE
        else "the node that is asked puts an address of its own in place of the client's, so that the reply comes back "
        "through it; the client's own address stays with externalTrafficPolicy: Local, and with kube-proxy replaced "
        "where the backend is on that node",
        command=look.capture_command,
    )


def _netfilter(look: ServiceLook) -> Finding:
    name, lesson = look.name("netfilter"), "with kube-proxy replaced no netfilter rule has the Service"
    if look.rules.failed and not look.rules.lines:
        # A list that cannot be read is not a list without the address.
        return unknown(
            name, sentence=f"the node's rules could not be listed: {'; '.join(look.rules.failed)}", lesson=lesson,
            command=look.rules_command,
        )  # fmt: skip
    if not look.rules.listed_by:
        return unknown(
            name, sentence="the node has no program that lists netfilter's rules", lesson=lesson,
            command=look.rules_command,
        )  # fmt: skip
    listed = " and ".join(look.rules.listed_by)
    is_replaced = look.translation is not Translation.NETFILTER
    return finding(
        name,
        holds=(not look.rules.lines) is is_replaced,
        sentence=f"{len(look.rules.lines)} lines of {listed} name the Service: {look.rules.shown}"
        if look.rules.lines
        else f"no line of {listed} names the Service by its address, node port, name or chains",
        lesson=lesson if is_replaced else "kube-proxy's rules for the Service are in the node's netfilter",
        command=look.rules_command,
    )


def _transfer(look: ServiceLook) -> Iterator[Finding]:
    if look.transfer is None:
        return
    yield finding(
        look.name("peer's name"),
        holds=look.transfer.peer == str(look.asked.address),
        sentence=f"the client's socket reports its peer as {look.transfer.peer}",
        lesson="another eBPF program answers getpeername(): the client does not see the translation"
        if look.translation is Translation.SOCKET
        else "the client's socket does not show the translation, which happens on the node",
    )
    yield finding(
        look.name("client's address"),
        holds=look.transfer.seen_from in look.sources[look.transfer.server],
        sentence=f"the backend saw the connection come from {look.transfer.seen_from}",
        lesson="inside the cluster the client's own address arrives; nothing masquerades"
        if look.client.kind is EndpointKind.POD
        else "who passes the connection on decides whose address the backend sees",
    )
