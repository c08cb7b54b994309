"""What a look at one Service says: pure judging of who answered, where the address was translated, and by what.

With kube-proxy replaced the client's own socket is translated before a packet exists (seen on Cilium 1.16.0-rc.0 with
Kubernetes 1.20.2, in both modes and both encapsulations); with kube-proxy the node's netfilter does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from labctl.checks.outcome import finding, unknown
from labctl.model.result import Finding
from labctl.model.service import Service

SURE_PER_BACKEND = 10
"""Of so many connections per backend, a random choice leaves one out less than once in ten thousand times (of two
backends once in a million)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How the connections ended in the client's words. `refused` were answered by a pod on which nothing listens."""

    made: int
    refused: int
    others: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the client's node has in netfilter: the commands that listed it, the lines with the Service's address, and
    the commands that are there and failed, each with its words."""

    listed_by: tuple[str, ...]
    lines: tuple[str, ...]
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One real exchange: what the client's socket says of its peer, and whom the backend saw."""

    peer: str
    seen_from: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLook:
    """Everything that was seen of one Service. `at_backends` counts the connections that arrived at each; `itself` is
    the client where it is a backend too, whose own connections no capture shows. `transfer` is None where the Service
    has several backends."""

    service: Service
    client: str
    client_address: str
    itself: str
    attempts: Attempts
    to_service_on_wire: int
    at_backends: Mapping[str, int]
    rules: Rules
    transfer: Transfer | None
    capture_command: Sequence[str] = ()
    rules_command: Sequence[str] = ()


def judge_service(look: ServiceLook, *, replaces_kube_proxy: bool) -> tuple[Finding, ...]:
    """Every finding of one Service, named `SERVICE: what`."""
    return (
        *_answered(look),
        _translated(look, replaces_kube_proxy),
        *_backends(look),
        _netfilter(look, replaces_kube_proxy),
        *_transfer(look, replaces_kube_proxy),
    )


def _name(look: ServiceLook, what: str) -> str:
    return f"{look.service.name}: {what}"


def _place(look: ServiceLook) -> str:
    return f"{look.service.address}:{look.service.port}"


def _answered(look: ServiceLook) -> Iterator[Finding]:
    tried = look.attempts
    others = ", ".join(f"{count} × {words}" for words, count in tried.others.items())
    sentence = f"{tried.refused} of {tried.made} connections to {_place(look)} were answered by a pod"
    yield finding(
        _name(look, "answered"),
        holds=tried.refused == tried.made,
        sentence=sentence + (f"; the others: {others}" if others else ""),
        lesson="nothing listens on the pods' port, so a pod's own 'connection refused' is the answer; 'operation not "
        "permitted' would mean that the Service has no endpoints: the socket is refused before a packet exists",
    )


def _translated(look: ServiceLook, replaces_kube_proxy: bool) -> Finding:
    on_wire = look.to_service_on_wire
    where = f"{on_wire} packets to {_place(look)} left {look.client}'s eth0"
    if replaces_kube_proxy:
        return finding(
            _name(look, "translated in the socket"),
            holds=on_wire == 0,
            sentence=where,
            lesson="an eBPF program at connect() puts the backend's address into the socket, so the Service's address "
            "is never on the wire",
            command=look.capture_command,
        )
    return finding(
        _name(look, "translated on the node"),
        holds=on_wire > 0,
        sentence=where,
        lesson="without kube-proxy replacement the pod sends to the Service's address, and the node's netfilter "
        "rewrites it",
        command=look.capture_command,
    )


def _backends(look: ServiceLook) -> Iterator[Finding]:
    counts = dict(look.at_backends)
    seen, made = sum(counts.values()), look.attempts.made
    shares = ", ".join(f"{name} {count}" for name, count in counts.items())
    if look.itself:
        shares += f", {look.itself} itself the other {max(0, made - seen)} (they stay on its loopback device)"
    yield finding(
        _name(look, "backends"),
        holds=seen == made or bool(look.itself and seen <= made),
        sentence=f"of {made} connections arrived: {shares}",
        lesson="each connection is balanced by itself; a random choice makes the shares differ from time to time",
    )
    if len(look.service.backends) > 1 and made >= SURE_PER_BACKEND * len(look.service.backends):
        left_out = [name for name, count in counts.items() if count == 0]
        yield finding(
            _name(look, "every backend"),
            holds=not left_out,
            sentence=f"{', '.join(left_out)} got no connection" if left_out else "each backend got connections",
            lesson="a backend that never answers is not ready, or not among the Service's endpoints",
        )


def _netfilter(look: ServiceLook, replaces_kube_proxy: bool) -> Finding:
    name, lesson = _name(look, "netfilter"), "with kube-proxy replaced no iptables rule knows the Service's address"
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
    return finding(
        name,
        holds=(not look.rules.lines) is replaces_kube_proxy,
        sentence=f"{len(look.rules.lines)} lines of {listed} mention {look.service.address}",
        lesson=lesson if replaces_kube_proxy else "kube-proxy's rules of the Service stand in the node's netfilter",
        command=look.rules_command,
    )


def _transfer(look: ServiceLook, replaces_kube_proxy: bool) -> Iterator[Finding]:
    if look.transfer is None:
        return
    yield finding(
        _name(look, "peer's name"),
        holds=look.transfer.peer == str(look.service.address),
        sentence=f"the client's socket says that its peer is {look.transfer.peer}",
        lesson="another eBPF program answers getpeername(): the client never learns of the translation"
        if replaces_kube_proxy
        else "the client's socket was never told of the translation, which happens on the node",
    )
    yield finding(
        _name(look, "client's address"),
        holds=look.transfer.seen_from == look.client_address,
        sentence=f"the backend saw the connection come from {look.transfer.seen_from}",
        lesson="inside the cluster the client's own address arrives; nothing masquerades",
    )
