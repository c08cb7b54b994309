"""Reads what a node shows of its datapath: attached programs, their counters, netfilter's counters, connections.

Only reading: what the figures mean is `evidence`'s. Nothing in here looks at what the scenario asked for.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from labctl.datapath import bpf
from labctl.datapath.metrics import Metric, read_metrics
from labctl.errors import MeasureFailed
from labctl.providers.netns.datapath_actions import Direction
from labctl.system import conntrack, netns, process, rtnetlink
from labctl.system.conntrack import Connection
from labctl.system.netlink import NetlinkError, Socket
from labctl.system.rtnetlink import Filter, Link

_METRICS = "metrics"
_TIMEOUT_S = 30.0
_POLICY = re.compile(r"^:(\S+) \S+ \[(\d+):\d+\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Netfilter:
    """A node's netfilter. `forwarded` counts the packets that its FORWARD hook has let through so far."""

    forwarded: int
    rules: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at one node. `filters` is by device name; `metrics_map` is the id of the map of the counters."""

    node: str
    namespace: str
    links: Mapping[str, Link]
    filters: Mapping[str, Mapping[Direction, tuple[Filter, ...]]]
    metrics: tuple[Metric, ...]
    metrics_map: int | None
    netfilter: Netfilter
    connections: tuple[Connection, ...]


def read(node: str, namespace: str) -> Reading:
    """Raises MeasureFailed when the node is gone or netfilter cannot be read."""
    try:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            links = {link.name: link for link in map(rtnetlink.parse_link, channel.ask(rtnetlink.all_links()))}
            filters = {name: _filters(channel, link.index) for name, link in links.items()}
            tracked = conntrack.connections()
    except OSError as failed:
        raise MeasureFailed(
            what=f"node {node} cannot be looked at", cause=str(failed), remedy=f"ip -n {namespace} link"
        ) from failed
    metrics, metrics_map = _metrics(filters)
    return Reading(
        node=node,
        namespace=namespace,
        links=links,
        filters=filters,
        metrics=metrics,
        metrics_map=metrics_map,
        netfilter=_netfilter(namespace),
        connections=tracked,
    )


def _filters(channel: Socket, index: int) -> Mapping[Direction, tuple[Filter, ...]]:
    found: dict[Direction, tuple[Filter, ...]] = {}
    for direction in Direction:
        # A device without a clsact qdisc has no such hooks: the kernel refuses, which means none.
        with contextlib.suppress(NetlinkError):
            answers = map(rtnetlink.parse_filter, channel.ask(rtnetlink.filters_of(index, direction.hook)))
            found[direction] = tuple(answer for answer in answers if answer is not None)
    return found


def _metrics(
    filters: Mapping[str, Mapping[Direction, tuple[Filter, ...]]],
) -> tuple[tuple[Metric, ...], int | None]:
    """The counters of the node's programs, found from any attached program to the map that it uses. All programs
    of a node share one map."""
    programs = {one.program_id for hooks in filters.values() for each in hooks.values() for one in each}
    for program_id in sorted(programs):
        with contextlib.ExitStack() as opened:
            try:
                descriptor = bpf.program_descriptor(program_id)
                opened.callback(bpf.close_all, [descriptor])
                maps = bpf.maps_of_program(descriptor)
                opened.callback(bpf.close_all, list(maps.values()))
                if _METRICS in maps:
                    return read_metrics(maps[_METRICS]), bpf.map_info(maps[_METRICS]).id
            except OSError:
                # It was replaced meanwhile; another one of the node tells the same.
                continue
    return (), None


def _netfilter(namespace: str) -> Netfilter:
    argv = ("iptables-save", "-c")
    done = process.run(argv, timeout_s=_TIMEOUT_S, namespace=netns.path_of(namespace))
    if done.returncode:
        raise MeasureFailed(
            what=f"the netfilter counters of {namespace} cannot be read",
            cause=done.error_text.strip(),
            remedy=" ".join(netns.command(namespace, argv)),
        )
    return parse_iptables_save(done.text)


def parse_iptables_save(text: str) -> Netfilter:
    """From the output of `iptables-save -c`. The FORWARD chain of the mangle table has no rules and accepts, so
    every forwarded packet is in its policy's counter, whichever rules the filter table has."""
    table = ""
    forwarded = 0
    rules = 0
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif table == "mangle" and (policy := _POLICY.match(line)) and policy[1] == "FORWARD":
            forwarded = int(policy[2])
        elif line.startswith(("[", "-A ")):
            rules += 1
    return Netfilter(forwarded=forwarded, rules=rules)
