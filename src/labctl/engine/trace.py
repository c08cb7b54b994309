"""One `labctl trace`: marked packets go from one pod to another while every tap and every witness watches.

It is a run on disk: the captures as they came, what was found in them, and the way back from there. Where the nodes of
the two pods have clocks of their own, the open lab is asked how far apart they are.
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from labctl.checks.base import RawSink
from labctl.checks.captures import (
    TapCapture,
    capturing,
    hindrances_of,
    packets_left_behind,
    require_trustworthy,
    why_unsent,
)
from labctl.checks.outcome import RawFiles
from labctl.codec import plain, typed
from labctl.engine.check_run import Journal
from labctl.errors import LabError, MeasureFailed, UsageError
from labctl.model.evidence import Evidence
from labctl.model.flow import client_node_of, seen_flows, server_node_of
from labctl.model.lab import Endpoint, EndpointKind, Lab, Pair, Placement, Pod, TrafficPolicy, placement_of
from labctl.model.signature import Role
from labctl.model.tools import said
from labctl.model.trace import (
    Lookup,
    Movement,
    PacketPath,
    ProbeProtocol,
    TapDirection,
    Trace,
    TraceTap,
    Unshown,
    Way,
    WrongTurn,
)
from labctl.names import UNDERLAY
from labctl.networks import expected_of
from labctl.path.assemble import Clocks, PathEnd, join, names_of, numbered
from labctl.path.difference import Difference, differences
from labctl.path.explain import departure, first_wrong, next_tap, taken_early
from labctl.path.lookups import Question, answer_of, questions_of, with_lookups
from labctl.path.observed import recognised_in
from labctl.path.probe_packets import FIRST_PORT, LAST_PORT, MOST_DATAGRAMS, MOST_PACKETS, ProbePackets
from labctl.path.sent import clock_step
from labctl.path.sighting import Sighting, sightings
from labctl.path.signature import address_roles, build_signature, vtep_roles
from labctl.path.translation import kept_inside, refused_at_socket, translations_of, with_sockets
from labctl.providers.base import Completed, OpenLab, Tap, TargetKind, Watch
from labctl.store.reading import StoredRun
from labctl.store.runs import MemorySink
from labctl.units import NANO
from labctl.values import dataclass

_SETTLE_S = (0.03, 0.25, 1.0)
"""How long tcpdump gets to take the last packets out of the kernel, by attempt; its own counts say whether it did."""
_LOOPBACKS = (Role.CLIENT_LO, Role.SERVER_LO)
_TOKEN_BYTE = 16
_LOOK_S = 5.0


def pair_between(lab: Lab, client: str, server: str) -> Pair:
    """The two ends as a pair, whether the scenario has it or not: pods, nodes, hosts outside; a Service as server, with
    `@NODE` at its port of that node. Raises UsageError with a suggestion."""
    pair = Pair.between(client, server, Placement.SAME_NODE)
    try:
        if (one := lab.endpoint(client)).kind is EndpointKind.SERVICE:
            raise KeyError(client)
    except KeyError:
        raise unknown_end(lab, client) from None
    try:
        other = lab.server(pair)
    except KeyError:
        raise unknown_end(lab, server) from None
    if client == pair.server:
        raise UsageError(
            what=f"{client} cannot be traced to itself: its packets would not leave {_SENDERS[one.kind]}",
            remedy=f"labctl trace {lab.name} {client} OTHER  # pods: {', '.join(pod.name for pod in lab.pods)}",
        )
    if other.kind is EndpointKind.SERVICE and one.node is None and pair.via is None:
        pair, other = replace(pair, via=lab.nodes[0].name), lab.endpoint(pair.server, lab.nodes[0].name)
    backends = [pod.node for pod in lab.backends(pair)] if other.kind is EndpointKind.SERVICE else [other.node]
    return replace(pair, placement=placement_of(one.node, backends))


def unknown_end(lab: Lab, name: str) -> UsageError:
    import difflib

    ends = [*(pod.name for pod in lab.pods), *(node.name for node in lab.nodes), *(host.name for host in lab.outside)]
    near = difflib.get_close_matches(name, ends, n=1)
    is_service = name in {service.name for service in lab.services}
    return UsageError(
        what=f"{name} is a Service of lab {lab.name}, which only answers"
        if is_service
        else f"lab {lab.name} has no pod, node or host outside named {name}",
        cause=f"it has: {', '.join(ends)}",
        remedy=f"did you mean {near[0]}?" if near else f"labctl status {lab.name}",
    )


def marked_packets(lab: Lab, pair: Pair, protocol: ProbeProtocol, count: int) -> ProbePackets:
    """The packets to send. Raises UsageError for a count that cannot be carried out."""
    most = MOST_DATAGRAMS if protocol is ProbeProtocol.UDP else MOST_PACKETS
    if not 1 <= count <= most:
        why = "a closed port answers only a few datagrams at once (the kernel's icmp_ratelimit)"
        raise UsageError(
            what=f"--count {count}: from 1 to {most} packets can be traced with {protocol}",
            cause=why if protocol is ProbeProtocol.UDP else "",
        )
    probe = ProbePackets(
        protocol=protocol,
        flows=seen_flows(lab, pair),
        count=count,
        token=secrets.token_bytes(_TOKEN_BYTE),
        port=FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT - count),
    )
    if lab.server(pair).kind is not EndpointKind.SERVICE or protocol is ProbeProtocol.ICMP:
        return probe
    service = lab.service(pair.server)
    asked = service.port if pair.via is None else service.node_port
    ports = (asked or 0, service.target_port)
    return replace(probe, port=ports[0], seen_ports=tuple(dict.fromkeys(ports)))


def protocol_for(lab: Lab, pair: Pair) -> ProbeProtocol:
    """What to send where nothing else was asked for: an echo, to a Service what it takes."""
    if lab.server(pair).kind is not EndpointKind.SERVICE:
        return ProbeProtocol.ICMP
    return ProbeProtocol(str(lab.service(pair.server).protocol))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """The lab and the pair as they are once it is known which backend answers, and the taps on that way. With
    `is_one` false several did, or none of several: what each tap should show is then not one thing."""

    lab: Lab
    pair: Pair
    taps: tuple[Tap, ...]
    is_one: bool = True


def _answered(lab: Lab, pair: Pair, taps: tuple[Tap, ...], seen: Sequence[Sighting]) -> _Answered:
    """Of a Service the one backend that the packets came to, as if it had no other."""
    if lab.server(pair).kind is not EndpointKind.SERVICE:
        return _Answered(lab=lab, pair=pair, taps=taps)
    came_to = {one.tap.rpartition(":")[0] for one in seen if one.role is Role.SERVER_ETH0 and one.way is Way.REQUEST}
    backends = lab.service(pair.server).backends
    chosen = [name for name in backends if name in came_to]
    if not chosen and len(backends) == 1 and not _has_none_here(lab, pair):
        chosen = list(backends)
    if len(chosen) != 1:
        return _Answered(lab=lab, pair=pair, taps=taps, is_one=False)
    backend = lab.pod(chosen[0])
    services = tuple(replace(one, backends=(backend.name,)) if one.name == pair.server else one for one in lab.services)
    one = replace(lab, services=services)
    placed = replace(pair, placement=placement_of(lab.client(pair).node, (backend.node,)))
    parts = {pair.client, client_node_of(one, placed), backend.name, backend.node, UNDERLAY}
    kept = tuple(tap for tap in taps if tap.name.rpartition(":")[0] in parts and _is_on_way(tap, backend))
    return _Answered(lab=one, pair=placed, taps=kept)


def _has_none_here(lab: Lab, pair: Pair) -> bool:
    """The node that is asked from outside gives its own backends alone, and has none."""
    if lab.client(pair).node is not None or pair.via is None:
        return False
    is_local = lab.service(pair.server).external_traffic_policy is TrafficPolicy.LOCAL
    return is_local and all(pod.node != pair.via for pod in lab.backends(pair))


def _is_on_way(tap: Tap, backend: Pod) -> bool:
    """Not the lxc of another backend of the same node."""
    return tap.role is not Role.SERVER_LXC or tap.interface == backend.lxc


Differing = Callable[[Sequence[str]], tuple[str, ...]]
"""What of these parts of the lab is not as its plan has it, each as a phrase."""
_MOST_DIFFERENCES = 4


def _nothing_differs(parts: Sequence[str]) -> tuple[str, ...]:
    """Of a lab whose parts cannot be held against a plan."""
    del parts
    return ()


def _with_cause(wrong: WrongTurn | None, where: Sequence[TraceTap], differs: Sequence[str]) -> WrongTurn | None:
    """What goes wrong with what is not as planned: that of the part where it does and of those after it, else any."""
    if wrong is None or not differs:
        return wrong
    parts = list(dict.fromkeys(tap.part for tap in (where if wrong.way is Way.REQUEST else where[::-1])))
    here = next((tap.part for tap in where if tap.name == wrong.tap), "")
    onwards = parts[parts.index(here) :] if here in parts else parts
    near = [what for what in differs if what.partition(":")[0] in onwards] or list(differs)
    return replace(wrong, sentence=f"{wrong.sentence}; not as planned: {'; '.join(near[:_MOST_DIFFERENCES])}")


def trace(
    open_lab: OpenLab,
    pair: Pair,
    *,
    protocol: ProbeProtocol = ProbeProtocol.ICMP,
    count: int = 1,
    statement: str = "",
    sink: RawSink | None = None,
    sleep: Callable[[float], None] = time.sleep,
    differing: Differing = _nothing_differs,
) -> Trace:
    """Raises MeasureFailed when the captures or the sender cannot be trusted; what the network does is no error.

    The output of ping and tcpdump goes to `sink` before anything reads it.
    """
    raw = RawFiles(sink or MemorySink())
    begun_s, started_ns = time.monotonic(), time.time_ns()
    lab = open_lab.lab
    taps = tuple(tap for tap in open_lab.taps(pair) if tap.role not in _LOOPBACKS)
    where = trace_taps(lab, pair, taps)
    is_service = lab.server(pair).kind is EndpointKind.SERVICE
    warm_up = protocol if is_service else ProbeProtocol.ICMP
    # A Service may refuse at the socket, and a pod may reach itself: that nothing is seen then is a finding.
    can_talk = _warm_up(open_lab, marked_packets(lab, pair, warm_up, 1), pair) and not is_service
    for settle_s in _SETTLE_S:
        marked = marked_packets(lab, pair, protocol, count)
        watched = _watch(open_lab, pair, taps, marked, raw, settle_s, sleep)
        seen = tuple(_sightings(watched.captures, marked))
        left = packets_left_behind(watched.captures)
        # Where no echo comes back either, the network is why the pod sends nothing: that is a finding.
        first = next((tap.role for tap in where if tap.role is Role.CLIENT_ETH0), None)
        unseen = can_talk and not any(first in (None, sighting.role) for sighting in seen)
        if not left and not unseen:
            break
    else:
        _refuse(watched, unseen)
    movements, told = watched.movements, hindrances_of(watched.captures)
    if (clocks := clocks_between(open_lab, pair)) is not None:
        node_of = {tap.name: tap.node for tap in where}
        clocks = clocks.narrowed(seen, node_of)
        seen, movements, told = clocks.sightings(seen, node_of), clocks.movements(movements), (*told, clocks.in_words())
    movements, uneven = numbered(movements, seen)
    movements = with_sockets(movements, seen)
    answered = _answered(lab, pair, taps, seen)
    lab, pair, taps = answered.lab, answered.pair, answered.taps
    where = trace_taps(lab, pair, taps)
    here = {tap.name for tap in taps}
    seen = tuple(one for one in seen if one.tap in here)
    devices = tuple(open_lab.devices(pair))
    names = names_of(lab, pair, where, [(str(device.role), device.mac) for device in devices])
    paths = join(where, seen, movements, names, sent=count, ends=ends_of(lab, pair, where))
    paths = kept_inside(lab, pair, movements, paths)
    paths = tuple(_taken_early(path, where, ends_of(lab, pair, where), watched, marked) for path in paths)
    answers = _looked_up(open_lab, paths, raw)
    paths = tuple(with_lookups(path, answers) for path in paths)
    mac_roles: dict[str, str] = {}
    for device in devices:
        mac_roles.setdefault(device.mac.lower(), str(device.role))
    signature = build_signature(
        taps=[(tap.name, tap.role) for tap in taps],
        sightings=seen,
        mac_roles=mac_roles,
        vtep_roles=vtep_roles(lab, pair),
        address_roles=address_roles(lab, pair),
        placement=pair.placement,
        encapsulation=lab.datapath.encapsulation,
    )
    recognised = recognised_in(lab, signature)
    found: tuple[Difference, ...] = ()
    source = ""
    is_judged = answered.is_one and (not is_service or protocol is protocol_for(lab, pair))
    if is_judged and (expected := expected_of(lab, pair, packets=count)) is not None:
        # A captured signature has no TTL that ping printed; here every TTL is the tap's own.
        expected = replace(expected, signature=replace(expected.signature, ping_ttl=None))
        found, source = tuple(differences(expected, signature)), expected.source
    differs = differing(tuple(dict.fromkeys(tap.part for tap in where)))
    wrong = _with_cause(first_wrong(lab, pair, where, paths, found), where, differs)
    return Trace(
        lab=lab.name,
        scenario=lab.scenario,
        provider=lab.provider,
        statement=statement,
        client=pair.client,
        server=pair.destination,
        client_address=str(lab.client(pair).address),
        server_address=str(lab.server(pair).address),
        client_node=client_node_of(lab, pair),
        server_node=server_node_of(lab, pair),
        placement=pair.placement,
        asked=lab.asked(),
        fallback=lab.fallback,
        protocol=protocol,
        sent=count,
        replied=sum(path.arrived for path in paths if path.way is Way.REPLY),
        taps=where,
        paths=paths,
        signature=signature,
        host_routing="" if recognised.host_routing is None else str(recognised.host_routing),
        recognised=recognised.because,
        expected_source=source,
        differences=tuple(difference.sentence for difference in found),
        wrong=wrong,
        evidence=watched.evidence,
        notes=(
            *watched.gaps,
            *uneven,
            *told,
            *watched.notes,
            *refused_at_socket(movements),
            *(f"not as planned: {what}" for what in differs if wrong is None),
            *_of_service(lab, pair, protocol, is_one=answered.is_one),
            *(() if seen else why_unsent(open_lab.target(pair.client), watched.sent)),
        ),
        unshown=watched.unshown,
        translations=translations_of(lab, pair, paths),
        command=shlex.join(open_lab.target(pair.client).command(marked.argv())),
        started_ns=started_ns,
        duration_s=time.monotonic() - begun_s,
    )


def _taken_early(
    path: PacketPath,
    taps: Sequence[TraceTap],
    ends: tuple[PathEnd, PathEnd],
    watched: _WatchedProbe,
    marked: ProbePackets,
) -> PacketPath:
    """Where a frame left for a device and its tap did not see it, the provider is asked for what stands before that
    tap, and is given the frame as it was captured last."""
    tap, last = next_tap(path, taps), departure(path)
    if tap is None or last is None or watched.watch is None:
        return path
    for capture in watched.captures:
        if (capture.tap.name, capture.direction) != (last.tap, last.direction):
            continue
        for record in capture.records():
            for one in sightings([record], marked.matcher(), tap=last.tap, role=last.role):
                if (one.way, one.number) == (path.way, path.number) and one.key is not None:
                    act = watched.watch.act_before_tap(tap.part, tap.device, one.key, record[1])
                    source = ends[0] if path.way is Way.REQUEST else ends[1]
                    if act is not None:
                        return taken_early(path, act, taps, source=source.name, sender=source.sender)
    return path


def _looked_up(open_lab: OpenLab, paths: Sequence[PacketPath], raw: RawFiles) -> dict[Question, Lookup]:
    """The entries by which nodes and routers sent these packets on. What cannot be read is left out."""
    asked = dict.fromkeys(question for path in paths for _, question in questions_of(path))
    outputs: dict[tuple[str, tuple[str, ...]], str] = {}
    answers: dict[Question, Lookup] = {}
    for question in asked:
        key = (question.node, question.argv)
        if key not in outputs:
            try:
                done = open_lab.target(question.node).run(question.argv, timeout_s=_LOOK_S)
            except (KeyError, LabError):
                outputs[key] = ""
                continue
            raw.save_completed(f"lookup-{len(outputs)}", done)
            outputs[key] = done.text if done.returncode == 0 else ""
        if (answer := answer_of(question, outputs[key])) is not None:
            answers[question] = answer
    return answers


def _of_service(lab: Lab, pair: Pair, protocol: ProbeProtocol, *, is_one: bool) -> Iterator[str]:
    """What a reader must know of a trace to a Service."""
    if lab.server(pair).kind is not EndpointKind.SERVICE:
        return
    service = lab.service(pair.server)
    if protocol is not protocol_for(lab, pair):
        yield (
            f"nothing translates {protocol} to {service.name}, which takes {service.protocol} at port {service.port}: "
            "its address is then like any other outside, and the packet leaves the cluster by the default route"
        )
    elif _has_none_here(lab, pair):
        yield (
            f"{pair.via} has no backend of {service.name}, and with externalTrafficPolicy Local it gives no other "
            "node's to what comes from outside"
        )
    elif not is_one and service.backends:
        yield (
            f"the backends of {service.name} are {', '.join(service.backends)}: several answered or none did, so the "
            "packets are not held against one expected way"
        )


def ends_of(lab: Lab, pair: Pair, taps: Sequence[TraceTap]) -> tuple[PathEnd, PathEnd]:
    """The client's and the server's end of the way."""

    def end(of: Endpoint, role: Role) -> PathEnd:
        at = tuple(tap.name for tap in taps if tap.role is role)
        return PathEnd(name=at[0] if at else of.name, sender=_SENDERS[of.kind], taps=at, node=of.node or "")

    return end(lab.client(pair), Role.CLIENT_ETH0), end(lab.server(pair), Role.SERVER_ETH0)


_SENDERS = {
    EndpointKind.POD: "the pod",
    EndpointKind.SERVICE: "the pod",
    EndpointKind.NODE: "the node",
    EndpointKind.OUTSIDE: "the host outside",
}


def trace_taps(lab: Lab, pair: Pair, taps: Sequence[Tap]) -> tuple[TraceTap, ...]:
    node_of = {pod.name: pod.node for pod in lab.pods} | {node.name: node.name for node in lab.nodes}
    return tuple(
        TraceTap(
            name=tap.name,
            role=tap.role,
            part=tap.name.rpartition(":")[0],
            part_kind=_kind(tap, {pod.name for pod in lab.pods}),
            node=node_of.get(tap.name.rpartition(":")[0], ""),
            device=tap.interface,
        )
        for tap in taps
    )


def _kind(tap: Tap, pods: set[str]) -> str:
    part = tap.name.rpartition(":")[0]
    return str(TargetKind.POD) if part in pods else str(tap.target.kind)


class _WatchedProbe:
    """What one sending of the marked packets gave."""

    def __init__(self, sent: Completed) -> None:
        self.sent = sent
        self.captures: tuple[TapCapture, ...] = ()
        self.movements: tuple[Movement, ...] = ()
        self.evidence: tuple[Evidence, ...] = ()
        self.gaps: tuple[str, ...] = ()
        self.unshown: tuple[Unshown, ...] = ()
        self.watch: Watch | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        step = clock_step(self.sent) if self.sent.argv[:1] == ("ping",) else ""
        return (f"the clock was set meanwhile, so times and order may be wrong: {step}",) if step else ()


def _watch(
    open_lab: OpenLab,
    pair: Pair,
    taps: Sequence[Tap],
    marked: ProbePackets,
    raw: RawFiles,
    settle_s: float,
    sleep: Callable[[float], None],
) -> _WatchedProbe:
    directions = (TapDirection.IN, TapDirection.OUT)
    with (
        open_lab.watching(pair) as watch,
        capturing(taps, marked.expression(), directions=directions, nanoseconds=True) as live,
    ):
        watched = _WatchedProbe(open_lab.target(pair.client).run(marked.argv(), timeout_s=marked.timeout_s))
        sleep(settle_s + marked.late_s(watched.sent))
        watched.captures = live.stop()
        watched.movements = watch.movements()
        watched.evidence = watch.evidence()
        watched.gaps = watch.gaps()
        watched.unshown = watch.unshown()
        watched.watch = watch
    sent = raw.save_completed("sender", watched.sent)
    for capture in watched.captures:
        raw.save_completed(f"{capture.tap.role}-{capture.direction}", capture.completed, output="pcap")
    require_trustworthy(watched.captures)
    marked.require_sent(sent)
    return watched


def _warm_up(open_lab: OpenLab, marked: ProbePackets, pair: Pair) -> bool:
    """One echo before the watching, so that no packet waits for ARP while it is watched. Whether it was answered.
    Raises MeasureFailed when ping could not send."""
    sent = open_lab.target(pair.client).run(marked.argv(), timeout_s=marked.timeout_s)
    marked.require_sent(sent)
    return sent.returncode == 0


def _sightings(captures: Sequence[TapCapture], marked: ProbePackets) -> tuple[Sighting, ...]:
    matcher = marked.matcher()
    if marked.seen_ports:  # a capture of answers may come before that of the requests which number them
        for capture in captures:
            for _ in sightings(capture.records(), matcher, tap=capture.tap.name, role=capture.tap.role):
                pass
    return tuple(
        sighting
        for capture in captures
        for sighting in sightings(
            capture.records(), matcher, tap=capture.tap.name, role=capture.tap.role, direction=capture.direction
        )
    )


def _refuse(watched: _WatchedProbe, unseen: bool) -> None:
    if unseen:
        raise MeasureFailed(
            "the capture sees nothing",
            "the marked packet was not even seen at the client's own eth0, although an echo is answered; "
            f"{watched.sent.argv[0]}: {said(watched.sent)}",
        )
    raise MeasureFailed(
        "the capture is not complete",
        f"in {len(_SETTLE_S)} attempts tcpdump left packets behind in the kernel's buffer: the host is overloaded",
    )


TRACE = "trace"
"""The kind of run, and of the one entry in its journal."""


def trace_into(
    run: Journal,
    open_lab: OpenLab,
    pair: Pair,
    *,
    protocol: ProbeProtocol,
    count: int,
    statement: str,
    differing: Differing = _nothing_differs,
) -> Trace:
    """Raises MeasureFailed, with everything that was captured up to then in the run."""
    sink = run.sink(f"{pair.client}-{pair.destination}")
    traced = trace(open_lab, pair, protocol=protocol, count=count, statement=statement, sink=sink, differing=differing)
    run.record(TRACE, {"trace": plain(traced)})
    return traced


def read_trace(run: StoredRun) -> Trace:
    """What a run of `labctl trace` found. Raises LabError when it was changed or damaged, UsageError when it was cut
    short before there was anything."""
    run.require_intact()
    for entry in run.entries(TRACE):
        return typed(Trace, entry.content.get("trace"), where=str(run.path / "journal.jsonl"))
    manifest = run.manifest
    raise UsageError(
        what=f"run {manifest.id} has nothing to report",
        cause=f"it ended before the packet's path was known: {manifest.reason or manifest.state}",
        remedy=f"ls {run.path / 'raw'}  # what was captured up to then",
    )


def clocks_between(open_lab: OpenLab, pair: Pair) -> Clocks | None:
    """The server's node against the client's; None where they share a clock. Raises MeasureFailed or StepFailed."""
    lab: Lab = open_lab.lab
    client, server = client_node_of(lab, pair), server_node_of(lab, pair)
    is_one = client == server or not client or not server
    offsets = {} if is_one else {offset.node: offset for offset in open_lab.clock_offsets((client, server))}
    if not offsets:
        return None
    return Clocks(
        reference=client,
        node=server,
        offset_ns=round((offsets[server].offset_s - offsets[client].offset_s) / NANO),
        error_ns=round((offsets[server].error_s + offsets[client].error_s) / NANO),
    )
