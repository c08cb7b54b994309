"""Who translated a Service's packets, where, and into what: read from what the witnesses saw. Pure.

Three may do it: an eBPF program at the client's socket, before there is a packet; an eBPF program on a device, in the
packet; the node's netfilter. A witness of the first two says what the packet was before; of netfilter it shows in the
addresses of two hops that only its hooks lie between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from labctl.model.lab import Lab, Pair, Service
from labctl.model.trace import ForwardingAct, Hop, Movement, Mover, PacketPath, Translation, Translator, Way
from labctl.path.sighting import Sighting

_AT_SOCKET = ("connect4", "sendmsg4")


def is_at_socket(movement: Movement) -> bool:
    """A program that acted on a system call: it has no device."""
    return movement.mover is Mover.PROGRAM and movement.hook in _AT_SOCKET


def with_sockets(movements: Sequence[Movement], seen: Iterable[Sighting]) -> tuple[Movement, ...]:
    """What happened at the client's socket becomes part of the packet that left next for that backend: a socket's event
    knows neither the client's address nor its port. Those of other connections are left as they are."""
    first: dict[int, Sighting] = {}
    for sighting in sorted(seen, key=lambda one: one.time_ns):
        if sighting.way is Way.REQUEST and sighting.key is not None:
            first.setdefault(sighting.number, sighting)
    result = list(movements)
    for sighting in first.values():
        key = sighting.key
        assert key is not None
        fitting = [
            at
            for at, one in enumerate(result)
            if is_at_socket(one)
            and not one.packet.first
            and (one.packet.protocol, one.packet.dst, one.packet.second) == (key.protocol, key.dst, key.second)
            and one.time_ns is not None
            and one.time_ns <= sighting.time_ns
        ]
        if fitting:
            result[fitting[-1]] = replace(result[fitting[-1]], packet=key)
    return tuple(result)


def kept_inside(
    lab: Lab, pair: Pair, movements: Sequence[Movement], paths: Iterable[PacketPath]
) -> tuple[PacketPath, ...]:
    """The paths, without loss where a program at the client's socket gave it its own address (hairpin): what the client
    then sends stays on its own loopback device, and no tap of the way sees it."""
    client = str(lab.client(pair).address)
    chosen = [one for one in movements if is_at_socket(one) and one.helper != ForwardingAct.DROP]
    own = tuple(one for one in chosen if one.packet.dst == client)
    if not own:
        return tuple(paths)
    reason = f"{own[-1].what} gave the socket {pair.client}'s own address: its packets stay on its loopback device"
    return tuple(
        path
        if path.hops
        else replace(
            path,
            what="what the client sends to itself",
            arrived=True,
            lost="",
            skipped=tuple(replace(one, reason=reason, is_observed=True) for one in path.skipped),
            after=own[-1:],
        )
        for path in paths
    )


def refused_at_socket(movements: Iterable[Movement]) -> Iterator[str]:
    """A sentence for each connection that a program refused before there was a packet."""
    for one in movements:
        if is_at_socket(one) and one.helper == ForwardingAct.DROP:
            yield (
                f"{one.what} on {one.node} refused the connection to {one.before} at the socket, which ends with "
                f"'operation not permitted' (EPERM): {one.reason}"
            )


def translations_of(lab: Lab, pair: Pair, paths: Iterable[PacketPath]) -> tuple[Translation, ...]:
    """Every translation on the way of the pair's first packet of each kind, in its order; none where the server is no
    Service."""
    if not lab.backends(pair) and pair.server not in {service.name for service in lab.services}:
        return ()
    service = lab.service(pair.server)
    found: list[Translation] = []
    for path in paths:
        if path.number == 1:
            found.extend(_on_path(lab, pair, service, path))
    return tuple(found)


def _on_path(lab: Lab, pair: Pair, service: Service, path: PacketPath) -> Iterator[Translation]:
    if path.arrived and not path.hops:
        for one in path.after:
            yield _translation(
                lab, service, path.way, by=Translator.SOCKET, one=one, before=one.before, after=_after(one)
            )
    previous: Hop | None = None
    for hop in path.hops:
        told = [one for one in hop.moved_by if one.mover is Mover.PROGRAM and one.before]
        for one in told:
            yield _translation(
                lab,
                service,
                path.way,
                by=Translator.SOCKET if is_at_socket(one) else Translator.TC,
                one=one,
                before=one.before,
                after=_after(one),
            )
        hooks = [one for one in hop.moved_by if one.mover is Mover.NETFILTER]
        if previous is not None and not told and hooks and (previous.src, previous.dst) != (hop.src, hop.dst):
            yield _translation(
                lab,
                service,
                path.way,
                by=Translator.NETFILTER,
                one=hooks[0],
                before=f"{previous.src} → {previous.dst}",
                after=f"{hop.src} → {hop.dst}",
            )
        previous = hop


def _after(one: Movement) -> str:
    to = f"{one.packet.dst}:{one.packet.second}"
    return to if is_at_socket(one) else f"{one.packet.src}:{one.packet.first} → {to}"


def _translation(
    lab: Lab, service: Service, way: Way, *, by: Translator, one: Movement, before: str, after: str
) -> Translation:
    backends = {str(lab.pod(name).address): name for name in service.backends}
    words = (before if way is Way.REPLY else after).replace(":", " ").split()
    return Translation(
        way=way,
        service=service.name,
        backend=next((backends[word] for word in words if word in backends), ""),
        by=by,
        node=one.node,
        what=one.what if by is not Translator.NETFILTER else "nat",
        device=one.device,
        hook=one.hook,
        before=before,
        after=after,
    )
