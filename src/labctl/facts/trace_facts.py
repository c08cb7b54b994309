"""What a trace says, fact by fact. Pure: a trace in, a value out, or the reason why there is none.

That a tap saw nothing counts only where the client's own eth0 saw the packets in the same trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from labctl.model.fact import NONE, FactQuestion, Value
from labctl.model.lab import Lab
from labctl.model.signature import Role
from labctl.model.trace import (
    Carriage,
    ForwardingAct,
    Hop,
    HopEnvelope,
    KnownAddress,
    LookupTable,
    Mover,
    PacketPath,
    Trace,
    Way,
)

_CLIENTS_OWN = (Role.CLIENT_ETH0, Role.CLIENT_UPLINK)
"""The first tap of a pod's packets, and of a node's."""


class Unmeasured(Exception):
    """Why a trace does not tell the fact."""


def fact_of(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    """Raises Unmeasured."""
    return _READERS[question.fact](trace, lab, question)


def summary(trace: Trace) -> str:
    """What the trace saw as a whole, without what any one tap shows."""
    requests = sum(path.arrived for path in trace.of(Way.REQUEST))
    taps = {hop.tap for path in trace.paths for hop in path.hops}
    return (
        f"{trace.sent} sent, {requests} arrived, {trace.replied} answered; "
        f"{len(taps)} of {len(trace.taps)} taps saw the packets"
    )


def _require_control(trace: Trace) -> None:
    """The packets were sent, and the captures work: the first tap of the client saw a request."""
    if not any(hop.role in _CLIENTS_OWN for path in trace.of(Way.REQUEST) for hop in path.hops):
        raise Unmeasured("the client's own device did not see the packets in this trace")


def _require_tap(trace: Trace, role: Role | None) -> Role:
    if role is None:
        raise Unmeasured("no role was named")
    if all(tap.role is not role for tap in trace.taps):
        raise Unmeasured(f"there is no {role} on the way of this pair")
    return role


def _hops(trace: Trace, question: FactQuestion) -> Iterator[tuple[PacketPath, Hop]]:
    role = _require_tap(trace, question.role)
    for path in trace.of(question.way):
        yield from ((path, hop) for hop in path.hops if hop.role is role)


def _hop(trace: Trace, question: FactQuestion) -> Hop:
    _require_control(trace)
    for _, hop in _hops(trace, question):
        return hop
    raise Unmeasured(f"no {question.way} was seen at {question.role}")


def _envelope(trace: Trace, question: FactQuestion) -> HopEnvelope:
    envelope = _hop(trace, question).envelope
    if envelope is None:
        raise Unmeasured(f"the {question.way} is in no envelope at {question.role}")
    return envelope


def _seen(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    role = _require_tap(trace, question.role)
    _require_control(trace)
    request, reply = (any(hop.role is role for path in trace.of(way) for hop in path.hops) for way in Way)
    return "both" if request and reply else "requests" if request else "replies" if reply else NONE


def _helper(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_control(trace)
    for path, hop in _hops(trace, question):
        acts = [
            act.helper
            for act in hop.moved_by
            if act.mover not in (Mover.NETFILTER, Mover.CONNTRACK)
            and act.helper not in (ForwardingAct.PASS, ForwardingAct.SEEN)
        ]
        if hop.carriage is Carriage.PROGRAM and acts:
            return acts[-1].replace(" ", "-")
        if hop.carriage is Carriage.START:
            raise Unmeasured(f"{question.role} is where the {question.way} begins: nothing moved it there")
        if hop.carriage in (Carriage.UNOBSERVED, Carriage.PROGRAM):
            raise Unmeasured(f"no witness saw what moved the {path.way} to {question.role}")
        return str(hop.carriage)
    return NONE


def _addresses(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    hop = _hop(trace, question)
    outer = () if hop.envelope is None else (hop.envelope.src.address, hop.envelope.dst.address)
    return tuple(dict.fromkeys(owner_of(lab, address) for address in (hop.src, hop.dst, *outer)))


def _vni_of(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    envelope = _envelope(trace, question)
    return envelope.identity_pods if envelope.is_identity else ()


def _mac_role(address: KnownAddress) -> str:
    return address.role or address.owner or address.address


def _arrived(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_control(trace)
    paths = [path for path in trace.of(question.way) if path.is_sent]
    if not paths:
        raise Unmeasured(f"no {question.way} was sent")
    return all(path.arrived for path in paths)


def _lost_at(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_control(trace)
    roles = {tap.name: tap.role for tap in trace.taps}
    lost = [path for path in trace.of(question.way) if path.is_sent and not path.arrived]
    return str(roles[lost[0].lost_tap]) if lost and lost[0].lost_tap in roles else NONE


def _wrong_role(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_control(trace)
    return NONE if trace.wrong is None else trace.wrong.role or NONE


def _wrong_part(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_control(trace)
    if trace.wrong is None:
        return NONE
    parts = {tap.name: tap.part for tap in trace.taps}
    return parts.get(trace.wrong.tap, NONE)


def _hooks(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_control(trace)
    if any(one.mover is Mover.NETFILTER for one in trace.unshown):
        raise Unmeasured("the kernel of the nodes does not report netfilter's hooks")
    paths = trace.of(question.way)
    if question.role is None:
        acts = [act for path in paths for hop in path.hops for act in hop.moved_by]
        acts += [act for path in paths for act in path.after]
    else:
        acts = [act for _, hop in _hops(trace, question) for act in hop.moved_by]
    return tuple(dict.fromkeys(act.what for act in acts if act.mover is Mover.NETFILTER))


def _source_outside(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    for path in trace.of(Way.REQUEST):
        if path.hops and path.arrived:
            return owner_of(lab, path.hops[-1].src)
    raise Unmeasured("no request arrived at the server")


def owner_of(lab: Lab, address: str) -> str:
    """The pod, node, host or Service that has the address; the address itself where none has."""
    owners = {
        **{str(service.address): service.name for service in lab.services},
        **{str(node.router): node.name for node in lab.nodes},
        **{str(host.address): host.name for host in lab.outside},
        **{str(node.address.ip): node.name for node in lab.nodes},
        **{str(pod.address): pod.name for pod in lab.pods},
    }
    return owners.get(address, address)


def _backend(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_service(trace)
    return tuple(dict.fromkeys(one.backend for one in trace.translations if one.backend))


def _translator(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_service(trace)
    return next((str(one.by) for one in trace.translations if one.way is Way.REQUEST), NONE)


def _require_service(trace: Trace) -> None:
    if not trace.translations:
        raise Unmeasured(f"no translation of {trace.server} was seen")


def _looked_up(trace: Trace, question: FactQuestion, table: LookupTable, node: str) -> str:
    for path in trace.of(question.way):
        for hop in path.hops:
            for lookup in hop.lookups:
                if lookup.table is table and node in ("", lookup.node):
                    return lookup.told
    return ""


def _route_protocol(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_control(trace)
    return _looked_up(trace, question, LookupTable.ROUTES, question.node) or NONE


def _fdb_learned(trace: Trace, lab: Lab, question: FactQuestion) -> Value:
    _require_control(trace)
    return _looked_up(trace, question, LookupTable.TUNNEL, "") or NONE


Reader = Callable[[Trace, Lab, FactQuestion], Value]
_READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "seen": _seen,
        "ttl": lambda trace, lab, question: _hop(trace, question).ttl,
        "vni": lambda trace, lab, question: _envelope(trace, question).vni,
        "outer-source": lambda trace, lab, question: _envelope(trace, question).src.address,
        "outer-destination": lambda trace, lab, question: _envelope(trace, question).dst.address,
        "port": lambda trace, lab, question: _envelope(trace, question).dst_port,
        "addresses": _addresses,
        "vni-of": _vni_of,
        "source": lambda trace, lab, question: _hop(trace, question).src,
        "destination": lambda trace, lab, question: _hop(trace, question).dst,
        "source-mac": lambda trace, lab, question: _mac_role(_hop(trace, question).src_mac),
        "destination-mac": lambda trace, lab, question: _mac_role(_hop(trace, question).dst_mac),
        "helper": _helper,
        "arrived": _arrived,
        "lost-at": _lost_at,
        "wrong-role": _wrong_role,
        "wrong-part": _wrong_part,
        "netfilter-hooks": _hooks,
        "source-outside": _source_outside,
        "service.backend": _backend,
        "service.translator": _translator,
        "route-protocol": _route_protocol,
        "fdb-learned": _fdb_learned,
    }
)


def names() -> Sequence[str]:
    """The facts that a trace tells."""
    return tuple(_READERS)
