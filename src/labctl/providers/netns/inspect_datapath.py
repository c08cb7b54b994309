"""Reads what is attached in a lab's nodes and what its maps hold, from the kernel's own objects.

Programs are found where they are attached (tc filters), maps through the programs that use them. What the entries of a
map mean is decided by the pod network.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from labctl.datapath import bpf, masquerading, service_maps
from labctl.datapath.bpf import Entry
from labctl.datapath.layout import ProgramCounter, decode_metrics
from labctl.errors import MeasureFailed
from labctl.model.evidence import AttachedProgram, DatapathState, NodeDatapath
from labctl.model.lab import Lab
from labctl.model.service_lists import NodeServices
from labctl.names import namespace_of
from labctl.networks import network_of
from labctl.providers.netns.kinds.cgroup import attached
from labctl.providers.netns.kinds.program import Direction, attached_to
from labctl.providers.netns.watch import node_maps
from labctl.system import cgroups, netns, rtnetlink
from labctl.system.netlink import Socket
from labctl.values import dataclass

_COUNTS_RUNS = Path("/proc/sys/kernel/bpf_stats_enabled")
_METRICS = "metrics"
_COLLECTED = {"snat": masquerading.collect_expired, "ct": service_maps.collect_expired}
"""What is no entry to the programs any more is none to a person."""
_WITHOUT_KEYS = (bpf.MapType.RINGBUF, bpf.MapType.QUEUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hung:
    """One filter as the kernel lists it, on its device."""

    device: str
    index: int
    direction: Direction
    filter: rtnetlink.Filter


def read_state(lab: Lab) -> DatapathState:
    """Every node of the lab. Raises MeasureFailed when a node is gone or its programs cannot be read."""
    return DatapathState(nodes=tuple(look_at(lab, node.name).state for node in lab.nodes), counts_runs=_counts_runs())


def read_services(lab: Lab) -> tuple[NodeServices, ...]:
    """What every node translates of Services. Raises MeasureFailed."""
    return tuple(_services(lab, node.name) for node in lab.nodes)


def _services(lab: Lab, node: str) -> NodeServices:
    namespace = namespace_of(lab.name, node)
    entries: dict[str, tuple[Entry, ...]] = {}
    command = ""
    for name in ("services", "backends", "alive"):
        try:
            with node_maps(namespace, name) as descriptors:
                if descriptors:
                    entries[name] = tuple(bpf.dump(descriptors[0]))
                    command = command or f"bpftool map dump id {bpf.map_info(descriptors[0]).id}"
        except OSError as failed:
            raise MeasureFailed(
                what=f"the Services of node {node} cannot be read",
                cause=str(failed),
                remedy=shlex.join(netns.command(namespace, ("bpftool", "net", "show"))),
            ) from failed
    return network_of(lab).service_lists(lab, node, entries, command)


def _counts_runs() -> bool:
    try:
        return _COUNTS_RUNS.read_text(encoding="ascii").strip() != "0"
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLook:
    """One node: what is attached and listed, and the maps' bytes by name."""

    state: NodeDatapath
    maps: Mapping[str, tuple[bpf.MapInfo, tuple[Entry, ...]]]


def look_at(lab: Lab, node: str) -> NodeLook:
    """Raises MeasureFailed when the node is gone or its programs cannot be read."""
    namespace = namespace_of(lab.name, node)
    try:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            links = [rtnetlink.parse_link(answer) for answer in channel.ask(rtnetlink.all_links())]
            hung = [
                _Hung(device=link.name, index=link.index, direction=direction, filter=one)
                for link in links
                for direction, filters in attached_to(channel, link.index).items()
                for one in filters
            ]
        information = {one.filter.program_id: _program(one.filter.program_id) for one in hung}
        sockets = _at_sockets(lab, node)
        every = (*information.values(), *(info for _, info in sockets))
        map_ids = sorted({map_id for info in every for map_id in info.map_ids})
        dumps = {info: entries for map_id in map_ids for info, entries in (_map(map_id),)}
    except OSError as failed:
        raise MeasureFailed(
            what=f"the datapath of node {node} cannot be read",
            cause=str(failed),
            remedy=shlex.join(netns.command(namespace, ("bpftool", "net", "show"))),
        ) from failed
    counted = [m for info, entries in dumps.items() if info.name == _METRICS for m in decode_metrics(entries)]
    of_devices = (_attached(one, information[one.filter.program_id], counted, namespace) for one in hung)
    state = NodeDatapath(
        node=node,
        programs=(*of_devices, *(program for program, _ in sockets)),
        maps=network_of(lab).map_tables(lab, {link.index: link.name for link in links}, dumps.items()),
        commands=(
            shlex.join(netns.command(namespace, ("bpftool", "net", "show"))),
            f"tc -n {namespace} filter show dev {hung[0].device} {hung[0].direction}" if hung else "",
        ),
    )
    return NodeLook(state=state, maps={info.name: (info, entries) for info, entries in dumps.items()})


def _at_sockets(lab: Lab, node: str) -> tuple[tuple[AttachedProgram, bpf.ProgramInfo], ...]:
    """The programs that run on the system calls of the node's processes, and of its pods'."""
    network = network_of(lab)
    parts = (node, *(pod.name for pod in lab.pods_on(node)))
    groups = dict.fromkeys(filter(None, (network.cgroup(lab, part) for part in parts)))
    found = []
    for cgroup in groups:
        for hook, programs in attached(cgroup).items() if cgroups.is_there(cgroup) else ():
            for info in programs:
                program = AttachedProgram(
                    device=cgroup,
                    hook=hook,
                    attach="cgroup",
                    name=info.name,
                    program_id=info.id,
                    tag=info.tag,
                    command=f"bpftool cgroup show {cgroups.path_of(cgroup)}",
                )
                found.append((program, info))
    return tuple(found)


def _program(program_id: int) -> bpf.ProgramInfo:
    descriptor = bpf.program_descriptor(program_id)
    try:
        return bpf.program_info(descriptor)
    finally:
        bpf.close_all([descriptor])


def _map(map_id: int) -> tuple[bpf.MapInfo, tuple[Entry, ...]]:
    descriptor = bpf.map_descriptor(map_id)
    try:
        info = bpf.map_info(descriptor)
        if (collect := _COLLECTED.get(info.name)) is not None:
            collect(descriptor)
        return info, () if info.type in _WITHOUT_KEYS else tuple(bpf.dump(descriptor))
    finally:
        bpf.close_all([descriptor])


def _attached(one: _Hung, info: bpf.ProgramInfo, counted: list[ProgramCounter], namespace: str) -> AttachedProgram:
    function = one.filter.name.removesuffix(f"-{one.device}")
    # The kernel counts runs while statistics are enabled; a program that never ran meanwhile has none.
    has_runs = info.run_count > 0 or _counts_runs()
    return AttachedProgram(
        device=one.device,
        hook=str(one.direction),
        attach="tc clsact",
        name=function,
        program_id=one.filter.program_id,
        tag=one.filter.tag,
        did=tuple(
            f"{metric.packets} × {metric.verdict.words}"
            for metric in counted
            if metric.ifindex == one.index and metric.program.function == function
        ),
        run_count=info.run_count if has_runs else None,
        run_time_ns=info.run_time_ns if has_runs else None,
        command=f"tc -n {namespace} filter show dev {one.device} {one.direction}",
    )
