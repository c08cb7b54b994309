"""The witnesses of single packets on a netns lab: the eBPF programs' own events, and netfilter's trace.

Every node of the lab is watched, also those that are not the pair's: a packet may come to a wrong one. A node's ring
has one reader at a time, so that two watches of one lab take turns.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from labctl.datapath import bpf
from labctl.datapath.events import Event, EventReader, is_tracing, stop_tracing, trace_pair
from labctl.datapath.layout import NO_ADDRESS, PacketVerdict
from labctl.errors import MeasureFailed
from labctl.model.evidence import Evidence, Silence
from labctl.model.flow import Flow, flows_of
from labctl.model.lab import Lab, Pair
from labctl.model.tools import require_output
from labctl.model.trace import BEFORE_TAPS, ForwardingAct, Movement, Mover, PacketKey, Unshown
from labctl.names import namespace_of
from labctl.networks import network_of
from labctl.providers.netns import kernel, netfilter_watch
from labctl.providers.netns.counters import unread
from labctl.providers.netns.kinds import delay
from labctl.providers.netns.kinds.program import attached_to
from labctl.providers.netns.record import turn, watching_lock
from labctl.system import link_state, locks, netfilter, netns, process, rtnetlink
from labctl.system.netfilter import Nftables, TraceSocket, TraceStep
from labctl.system.netlink import Socket

_NFT_TIMEOUT_S = 5.0
_TURN_TIMEOUT_S = 15.0
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}
_ECHOES = (0, 8)
_ACTS = {
    PacketVerdict.TO_STACK: ForwardingAct.TO_STACK,
    PacketVerdict.REDIRECT: ForwardingAct.REDIRECT,
    PacketVerdict.REDIRECT_PEER: ForwardingAct.REDIRECT_PEER,
    PacketVerdict.REDIRECT_NEIGH: ForwardingAct.REDIRECT_NEIGH,
    PacketVerdict.TUNNEL: ForwardingAct.TUNNEL,
    PacketVerdict.TO_HOST: ForwardingAct.REDIRECT,
    PacketVerdict.PASS: ForwardingAct.PASS,
}


@dataclass(slots=True, kw_only=True)
class _WatchedNode:
    """One node that is being watched."""

    name: str
    namespace: str
    device_names: dict[int, str]
    configs: tuple[int, ...]
    readers: tuple[EventReader, ...]
    trace: TraceSocket | None = None
    events: list[Event] = field(default_factory=list)
    steps: list[TraceStep] = field(default_factory=list)

    def collect(self) -> None:
        for reader in self.readers:
            self.events.extend(reader.read())
        if self.trace is not None:
            self.steps.extend(self.trace.read())


class NetnsWatch:
    """`Watch` of the provider seam."""

    def __init__(
        self, lab: Lab, pair: Pair, nodes: tuple[_WatchedNode, ...], clock_offset_ns: int, gaps: list[str]
    ) -> None:
        self._lab, self._pair, self._nodes = lab, pair, nodes
        self._clock_offset_ns = clock_offset_ns
        self._gaps = gaps

    def movements(self) -> tuple[Movement, ...]:
        found: list[Movement] = []
        for node in self._nodes:
            node.collect()
            found += (
                event_movement(event, node.name, node.device_names, self._clock_offset_ns) for event in node.events
            )
            rules = _rule_texts(node, self._gaps)
            found += netfilter_watch.movements_of(
                node.steps, node=node.name, device_names=node.device_names, rules=rules
            )
        return tuple(found)

    def evidence(self) -> tuple[Evidence, ...]:
        return tuple(_conntrack(node, self._lab, self._pair) for node in self._nodes if self._is_pairs(node))

    def gaps(self) -> tuple[str, ...]:
        lost = (
            f"{n.name}: some steps of netfilter's trace were lost" for n in self._nodes if n.trace and n.trace.has_lost
        )
        return (*self._gaps, *lost)

    def unshown(self) -> tuple[Unshown, ...]:
        traced = any(node.trace is not None for node in self._nodes)
        return kernel.trace_abilities().unshown(kernel.release()) if traced else ()

    def act_before_tap(self, part: str, device: str, packet: PacketKey, frame: bytes) -> Movement | None:
        """Of an XDP program, which is given the frame once more: what it answers is what it does."""
        try:
            with netns.entered(netns.path_of(namespace_of(self._lab.name, part))), Socket() as channel:
                states = map(link_state.parse_state, channel.ask(rtnetlink.all_links()))
                attached = next((state.xdp_id for state in states if state.name == device), 0)
            if not attached or delay.is_own(attached):
                return None
            descriptor = bpf.program_descriptor(attached)
            try:
                name = bpf.program_info(descriptor).name
                answer = bpf.run_program(descriptor, frame).returned
            finally:
                bpf.close_all([descriptor])
        except OSError:
            return None
        return early_movement(answer, packet, part=part, device=device, name=name, number=attached)

    def _is_pairs(self, node: _WatchedNode) -> bool:
        return node.name in self._lab.nodes_of(self._pair)


def event_movement(event: Event, node: str, device_names: dict[int, str], clock_offset_ns: int) -> Movement:
    """A program's event as the path knows it. Pure."""
    is_other_icmp = event.protocol == 1 and event.icmp_type not in _ECHOES
    words = event.verdict.words
    return Movement(
        node=node,
        mover=Mover.PROGRAM,
        what=event.program.function,
        device="" if event.program.is_at_socket else device_names.get(event.ifindex, f"if{event.ifindex}"),
        hook=event.hook,
        helper=ForwardingAct.DROP if event.verdict.is_drop else _ACTS.get(event.verdict, words),
        packet=PacketKey(
            src=str(event.source),
            dst=str(event.destination),
            protocol=_PROTOCOLS.get(event.protocol, str(event.protocol)),
            first=0 if is_other_icmp else event.source_port,
            second=0 if is_other_icmp else event.destination_port,
            ip_id=event.ip_id,
        ),
        time_ns=event.time_ns + clock_offset_ns,
        target=device_names.get(event.target_ifindex, "") if event.target_ifindex else "",
        reason=words.removeprefix("dropped: ") if event.verdict.is_drop else "",
        ttl_in=event.ttl_in,
        ttl_out=event.ttl_out,
        identity=event.identity,
        encapsulated=event.encapsulated,
        raw=words,
        rewrites=(event.source, event.destination) != (event.original_source, event.original_destination),
        before=_before(event),
    )


_XDP_PASS, _XDP_TX, _XDP_REDIRECT = 2, 3, 4
_XDP_WORDS = {0: "XDP_ABORTED", 1: "XDP_DROP", _XDP_TX: "XDP_TX", _XDP_REDIRECT: "XDP_REDIRECT"}


def early_movement(
    answer: int, packet: PacketKey, *, part: str, device: str, name: str, number: int
) -> Movement | None:
    """An XDP program's answer as the path knows it; None where the frame goes on. Pure."""
    if answer == _XDP_PASS:
        return None
    word = _XDP_WORDS.get(answer, f"{answer}, which is no verdict of XDP")
    is_sent = answer in (_XDP_TX, _XDP_REDIRECT)
    return Movement(
        node=part,
        mover=Mover.PROGRAM,
        what=f"the XDP program {name or 'without a name'} (id {number})",
        device=device,
        hook=BEFORE_TAPS,
        helper=ForwardingAct.REDIRECT if is_sent else ForwardingAct.DROP,
        packet=packet,
        target=device if answer == _XDP_TX else "",
        reason=f"given this very frame it answers {word}, before any tap of the device",
        raw=word,
    )


def _before(event: Event) -> str:
    """What a program was given that translated a Service; empty for every other."""
    to = f"{event.original_destination}:{event.original_destination_port}"
    if event.program.is_at_socket:
        return to
    return f"{event.original_source}:{event.original_source_port} → {to}" if event.original_destination_port else ""


@contextlib.contextmanager
def watching(lab: Lab, pair: Pair) -> Iterator[NetnsWatch]:
    """Raises MeasureFailed when a node or its programs cannot be reached."""
    flows = flows_of(lab, pair)
    # What is rewritten has other addresses on the way: then every packet is reported, and the pair's are picked out.
    one, other = flows[0] if len(flows) == 1 else (NO_ADDRESS, NO_ADDRESS)
    gaps: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_my_turn(lab))
        names = (*(node.name for node in lab.nodes), *(router.name for router in lab.routers))
        nodes = tuple(_open(stack, lab, name, gaps) for name in names)
        # First the programs: they are still tracing wherever a killed watch leaves a table behind.
        for node in nodes:
            for reader in node.readers:
                list(reader.read())  # what an earlier watch left behind
            for descriptor in node.configs:
                stack.callback(_stop, descriptor)
                try:
                    trace_pair(descriptor, one, other)
                except OSError as failed:
                    gaps.append(f"{node.name}: the programs could not be made to report packets: {unread(failed).why}")
        _trace_netfilter(stack, nodes, flows, gaps)
        yield NetnsWatch(lab, pair, nodes, _clock_offset_ns(), gaps)


def end_abandoned(lab: Lab) -> None:
    """Ends what a killed watch left on in the nodes: their programs would go on reporting packets, which makes them
    slower; and where tables have no owner, netfilter would go on marking packets. Raises OSError."""
    with turn(lab.name, timeout_s=0) as is_mine:
        if not is_mine:
            return  # another process is watching
        for node in lab.nodes:
            namespace = namespace_of(lab.name, node.name)
            with node_maps(namespace, "config") as configs:
                left_on = [config for config in configs if is_tracing(config)]
                if left_on:
                    _remove_table(namespace)
                for config in left_on:
                    stop_tracing(config)


def _remove_table(namespace: str) -> None:
    """Where tables have owners, or where the killed watch had not made it yet, there is none, which is fine."""
    with contextlib.suppress(OSError), netns.entered(netns.path_of(namespace)), Nftables() as nftables:
        nftables.run(netfilter_watch.REMOVE)


@contextlib.contextmanager
def _my_turn(lab: Lab) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            is_mine = stack.enter_context(turn(lab.name, timeout_s=_TURN_TIMEOUT_S))
        except OSError as failed:
            raise MeasureFailed(what=f"lab {lab.name} cannot be watched", cause=str(failed)) from failed
        if not is_mine:
            raise MeasureFailed(
                what=f"lab {lab.name} is being traced by another process",
                cause=f"waited {_TURN_TIMEOUT_S:g} s for it to end",
                remedy=f"fuser -v {locks.directory() / watching_lock(lab.name)}  # the process that holds it",
            )
        yield


@contextlib.contextmanager
def node_maps(namespace: str, name: str) -> Iterator[tuple[int, ...]]:
    """Open descriptors of the maps of that name that the programs attached in a node use. Raises OSError."""
    with running_maps(namespace) as maps:
        yield maps.get(name, ())


@contextlib.contextmanager
def running_maps(namespace: str) -> Iterator[dict[str, tuple[int, ...]]]:
    """Open descriptors, by name, of every map that the programs attached in a node use. Raises OSError."""
    with contextlib.ExitStack() as stack:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            links = [rtnetlink.parse_link(answer).index for answer in channel.ask(rtnetlink.all_links())]
            programs = {program for index in links for program in _programs(channel, index)}
        yield _maps(stack, programs)


def _stop(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the programs may be gone with the lab
        stop_tracing(descriptor)


def _open(stack: contextlib.ExitStack, lab: Lab, name: str, gaps: list[str]) -> _WatchedNode:
    """The node; without its programs' events where they cannot be read, and `gaps` gets the reason."""
    namespace = namespace_of(lab.name, name)
    try:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            links = {link.index: link.name for link in map(rtnetlink.parse_link, channel.ask(rtnetlink.all_links()))}
            programs = {program for index in links for program in _programs(channel, index)}
    except OSError as failed:
        raise MeasureFailed(
            what=f"node {name} cannot be watched",
            cause=str(failed),
            remedy=f"tc -n {namespace} filter show dev eth0 ingress",
        ) from failed
    maps: dict[str, tuple[int, ...]] = {}
    readers: tuple[EventReader, ...] = ()
    try:
        maps = _maps(stack, programs)
        readers = tuple(stack.enter_context(EventReader(ring)) for ring in maps.get("events", ()))
        if not readers and network_of(lab).has_programs and not lab.is_router(name):
            gaps.append(f"{name}: none of labctl's programs is attached, so that no packet is reported")
    except OSError as failed:
        gaps.append(f"{name}: what the programs did could not be read: {unread(failed).why}")
    return _WatchedNode(
        name=name, namespace=namespace, device_names=links, configs=maps.get("config", ()), readers=readers
    )


def _programs(channel: Socket, index: int) -> Iterator[int]:
    return (one.program_id for filters in attached_to(channel, index).values() for one in filters)


def _maps(stack: contextlib.ExitStack, programs: set[int]) -> dict[str, tuple[int, ...]]:
    """Open descriptors, by name, of every map that the programs use: usually one of each name."""
    ids: set[int] = set()
    for program in programs:
        descriptor = bpf.program_descriptor(program)
        try:
            ids.update(bpf.program_info(descriptor).map_ids)
        finally:
            bpf.close_all([descriptor])
    found: dict[str, tuple[int, ...]] = {}
    for map_id in sorted(ids):
        descriptor = bpf.map_descriptor(map_id)
        stack.callback(bpf.close_all, [descriptor])
        name = bpf.map_info(descriptor).name
        found[name] = (*found.get(name, ()), descriptor)
    return found


def _trace_netfilter(
    stack: contextlib.ExitStack, nodes: tuple[_WatchedNode, ...], flows: tuple[Flow, ...], gaps: list[str]
) -> None:
    """Traces every node's netfilter until the stack is left; where that fails, `gaps` gets the reason."""
    try:
        is_owned = kernel.trace_abilities().owns_tables is not False
    except OSError as failed:
        gaps.append(f"netfilter was not watched: {failed}")
        return
    rules = netfilter_watch.ruleset(flows, is_owned=is_owned)
    for node in nodes:
        try:
            with netns.entered(netns.path_of(node.namespace)):
                nftables = stack.enter_context(Nftables())
                if not is_owned:
                    stack.callback(nftables.run, netfilter_watch.REMOVE)
                refused = nftables.run(rules)
                node.trace = None if refused else TraceSocket()
        except OSError as failed:
            refused = str(failed)
        if refused:
            gaps.append(f"{node.name}: netfilter was not watched: {refused}")
        elif node.trace is not None:
            stack.callback(node.trace.close)


def _rule_texts(node: _WatchedNode, gaps: list[str]) -> dict[tuple[str, str, int], str]:
    """The texts of the rules that dropped something. Without them a drop is still reported, with the rule's number."""
    texts: dict[tuple[str, str, int], str] = {}
    for table, chain in sorted(netfilter_watch.dropped_in(node.steps)):
        argv = netfilter_watch.argv_chain(table, chain)
        try:
            done = process.run(argv, timeout_s=_NFT_TIMEOUT_S, namespace=netns.path_of(node.namespace))
            text = require_output(done, f"nft could not list {table} {chain}")
        except MeasureFailed as failed:
            gaps.append(f"{node.name}: the rule that dropped a packet cannot be shown: {failed.what}; {failed.cause}")
            continue
        texts |= netfilter_watch.parse_chain(text, table, chain)
    return texts


def _conntrack(node: _WatchedNode, lab: Lab, pair: Pair) -> Evidence:
    flows = flows_of(lab, pair)
    argv = ("conntrack", "-L", "-s", str(flows[0][0]))
    command = shlex.join(netns.command(node.namespace, argv))
    try:
        with netns.entered(netns.path_of(node.namespace)):
            entries = [
                found
                for found in netfilter.connections()
                if (found.source, found.destination) in flows or (found.destination, found.source) in flows
            ]
    except OSError as failed:
        return Evidence(
            witness="conntrack",
            where=node.name,
            finding=f"the connections could not be read: {unread(failed).why}",
            supports=None,
            command=command,
            silence=Silence.UNREAD,
        )
    answered = sum(entry.is_answered for entry in entries)
    finding = (
        f"conntrack knows {len(entries)} connection{'s' if len(entries) != 1 else ''} of the pair, {answered} answered"
        if entries
        else "conntrack knows no connection of the pair"
    )
    return Evidence(witness="conntrack", where=node.name, finding=finding, supports=None, command=command)


def _clock_offset_ns() -> int:
    """Wall clock less CLOCK_MONOTONIC, from the reading of both that took least time."""
    readings = []
    for _ in range(5):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, wall - (before + after) // 2))
    return min(readings)[1]
