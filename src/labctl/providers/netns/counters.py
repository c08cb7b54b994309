"""Reads what a node shows of its datapath: attached programs, their counters, netfilter's counters, connections.

Only reading: what the figures mean is decided by the pod network. Nothing in here looks at what the scenario asked for.
A witness that cannot be read (a kernel without the feature, a right that is missing) is `Unread`, with the reason; it
is never taken for one that shows nothing, and the others are read all the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
from collections.abc import Callable, Mapping
from typing import TypeVar

from labctl.datapath import bpf
from labctl.datapath.layout import ProgramCounter, read_metrics
from labctl.errors import MeasureFailed
from labctl.providers.netns.kinds.program import Direction, attached_to
from labctl.system import netfilter, netns, process, rtnetlink
from labctl.system.netfilter import Connection
from labctl.system.netlink import Socket
from labctl.system.rtnetlink import Filter, Link
from labctl.values import dataclass

_METRICS = "metrics"
_TIMEOUT_S = 30.0
_POLICY = re.compile(r"^:(\S+) \S+ \[(\d+):\d+\]")

_NAMES = {errno.EOPNOTSUPP: "EOPNOTSUPP", 524: "ENOTSUPP"}
"""What Python calls otherwise (ENOTSUP has the same number), and the kernel's own that errno.h does not have."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A witness that could not be read. `why` is what refused it: the error with its name, or a tool's words."""

    why: str


def unread(failed: OSError, doing: str = "") -> Unread:
    """The error in words and by its name: `bpf(PROG_GET_FD_BY_ID): Operation not permitted (EPERM)`."""
    number = failed.errno or 0
    name = _NAMES.get(number) or errno.errorcode.get(number, str(number))
    said = failed.strerror or os.strerror(number)
    return Unread(why=f"{doing}{': ' if doing else ''}{said} ({name})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Netfilter:
    """A node's netfilter. `forwarded` counts the packets that its FORWARD hook has let through so far (mangle's policy
    counter); None where there is no such chain to count them."""

    forwarded: int | None
    rules: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at one node. `filters` is by device name; `metrics_map` is the id of the map of the counters. `metrics`
    are empty where no attached program has any."""

    node: str
    namespace: str
    links: Mapping[str, Link]
    filters: Mapping[str, Mapping[Direction, tuple[Filter, ...]]]
    metrics: tuple[ProgramCounter, ...] | Unread
    metrics_map: int | None
    netfilter: Netfilter | Unread
    connections: tuple[Connection, ...] | Unread

    def command(self, *argv: str) -> str:
        """What a person would type to run argv on the node."""
        return shlex.join(netns.command(self.namespace, argv))


def read(node: str, namespace: str) -> Reading:
    """Raises MeasureFailed when the node is gone."""
    try:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            links = {link.name: link for link in map(rtnetlink.parse_link, channel.ask(rtnetlink.all_links()))}
            filters = {name: attached_to(channel, link.index) for name, link in links.items()}
            tracked = _or_unread(netfilter.connections, "conntrack")
    except OSError as failed:
        raise MeasureFailed(
            what=f"node {node} cannot be read", cause=str(failed), remedy=f"ip -n {namespace} link"
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


def read_arrivals(namespace: str) -> int | Unread:
    """How many IPv4 packets have come to the stack of a pod so far."""

    def reading() -> int:
        with netns.entered(netns.path_of(namespace)):
            return netfilter.arrivals()

    return _or_unread(reading, "/proc/net/snmp")


def grown(before: int | Unread, after: int | Unread) -> int | Unread:
    """By how much a counter grew between two readings, where both could be made."""
    if isinstance(before, Unread):
        return before
    return after if isinstance(after, Unread) else after - before


def _or_unread(read: Callable[[], T], doing: str) -> T | Unread:
    try:
        return read()
    except OSError as failed:
        return unread(failed, doing)


def _metrics(
    filters: Mapping[str, Mapping[Direction, tuple[Filter, ...]]],
) -> tuple[tuple[ProgramCounter, ...] | Unread, int | None]:
    """The counters of the node's programs, found from any attached program to the map that it uses. All programs
    of a node share one map."""
    refused: Unread | None = None
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
            except FileNotFoundError:
                # It was replaced meanwhile; the node's other programs use the same map.
                continue
            except OSError as failed:
                refused = unread(failed)
    return refused or (), None


def _netfilter(namespace: str) -> Netfilter | Unread:
    argv = ("iptables-save", "-c")
    try:
        done = process.run(argv, timeout_s=_TIMEOUT_S, namespace=netns.path_of(namespace))
    except MeasureFailed as failed:
        return Unread(why=": ".join(filter(None, (failed.what, failed.cause))))
    if done.returncode or done.timed_out:
        said = " ".join(done.error_text.split()) or f"status {done.returncode}"
        return Unread(why=f"iptables-save: {'did not end within 30 s' if done.timed_out else said}")
    return parse_iptables_save(done.text)


def parse_iptables_save(text: str) -> Netfilter:
    """From the output of `iptables-save -c`. The FORWARD chain of the mangle table has no rules and accepts, so
    every forwarded packet is in its policy's counter, whichever rules the filter table has."""
    table = ""
    forwarded: int | None = None
    rules = 0
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif table == "mangle" and (policy := _POLICY.match(line)) and policy[1] == "FORWARD":
            forwarded = int(policy[2])
        elif line.startswith(("[", "-A ")):
            rules += 1
    return Netfilter(forwarded=forwarded, rules=rules)
