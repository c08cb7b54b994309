"""A running netns lab for checks to look at: where to run argv, where packets can be seen, what its witnesses show."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from labctl.errors import MeasureFailed, UsageError
from labctl.fabrics import fabric_of
from labctl.model.evidence import DatapathState, Evidence, ModeInForce
from labctl.model.impairment import ImpairedWay
from labctl.model.interfaces import BRIDGE, LO
from labctl.model.lab import Lab, Pair, Pod
from labctl.model.node_status import NodeStatus
from labctl.model.result import Completed
from labctl.model.service_lists import NodeServices
from labctl.model.signature import GATEWAY
from labctl.names import UNDERLAY, namespace_of, split_namespace
from labctl.networks import network_of
from labctl.networks.base import NodeReadings
from labctl.providers.base import ClockOffset, OpenDevice, Running, Tap, Target, TargetKind, Watch
from labctl.providers.netns import counters
from labctl.providers.netns.changes import read_changes
from labctl.providers.netns.discover import read_mark
from labctl.providers.netns.inspect_datapath import read_services, read_state
from labctl.providers.netns.kinds.attached import Attached, as_attached, attached
from labctl.providers.netns.kinds.daemon import vtysh
from labctl.providers.netns.record import parts_of
from labctl.providers.netns.watch import end_abandoned, watching
from labctl.system import cgroups, netns, pids, process, rtnetlink, view
from labctl.system.netlink import Socket
from labctl.system.powers import Powers, limit
from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceTarget:
    """`Target` of the provider seam: a node, a pod, a host outside or the underlay, each a namespace."""

    name: str
    kind: TargetKind
    namespace: str
    cgroup: str | None = None

    def command(self, argv: Sequence[str], *, with_input: bool = False) -> tuple[str, ...]:
        split = split_namespace(self.namespace)
        if self.cgroup is None or split is None:
            return netns.command(self.namespace, self.inside_argv(argv))
        # To enter a cgroup takes a shell's redirection, which does not survive being joined to one line.
        return ("labctl", "exec", split[0], self.name, "--", *argv)

    @property
    def network_namespace(self) -> Path:
        """As `OnThisHost` of the checks asks for it."""
        return netns.path_of(self.namespace)

    def inside_argv(self, argv: Sequence[str]) -> tuple[str, ...]:
        """With the options by which FRR's shell finds this router's daemons, where it is that."""
        if argv and argv[0] == "vtysh" and self.kind in (TargetKind.ROUTER, TargetKind.NODE):
            return vtysh(self.namespace, argv[1:])
        return tuple(argv)

    def run(self, argv: Sequence[str], *, timeout_s: float, cpu: int | None = None, stdin: bytes = b"") -> Completed:
        place = netns.path_of(self.namespace)
        return process.run(
            self.inside_argv(argv),
            timeout_s=timeout_s,
            namespace=place,
            cpu=cpu,
            stdin=stdin,
            powers=self._powers,
            cgroup=self._cgroup,
        )

    def start(
        self, argv: Sequence[str], *, cpu: int | None = None, output: int | None = None
    ) -> AbstractContextManager[Running]:
        place = netns.path_of(self.namespace)
        inside, powers = self.inside_argv(argv), self._powers
        return process.Process(inside, namespace=place, cpu=cpu, output=output, powers=powers, cgroup=self._cgroup)

    def enter(self, *, privileged: bool = False) -> tuple[str, ...]:
        """As `Capabilities.enter` of the seam: what `run` does for a process that it starts, done to this one."""
        try:
            return tuple(self._enter(privileged=privileged))
        except OSError as failed:
            raise MeasureFailed(
                what=f"{self.name} cannot be entered", cause=str(failed), remedy=f"ip -n {self.namespace} link"
            ) from failed

    def _enter(self, *, privileged: bool) -> Iterator[str]:
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        members = self._members()  # opened before a view makes /sys read-only
        netns.enter_for_good(netns.path_of(self.namespace))
        if refused := view.enter_own_if_allowed(None if privileged else self._powers):
            yield f"{self.name} shows the host's /sys, since this host does not allow a separate one: {refused}"
        if privileged:
            _join(members)
            return

        def prepare() -> None:
            _join(members)
            view.guard_proc()

        if refused := pids.become_inner(home, view.mount_own_proc, prepare):
            if not view.is_never_allowed(refused):
                raise refused
            _join(members)
            yield f"{self.name} shows the host's processes, since this host does not allow a separate /proc: {refused}"
        limit(self._powers)

    @property
    def _cgroup(self) -> Path | None:
        return None if self.cgroup is None else cgroups.path_of(self.cgroup)

    def _members(self) -> int | None:
        place = self._cgroup
        return None if place is None else os.open(place / cgroups.MEMBERS, os.O_WRONLY | os.O_CLOEXEC)

    @property
    def _powers(self) -> Powers:
        return Powers.NODE if self.kind in (TargetKind.NODE, TargetKind.UNDERLAY) else Powers.POD


def _join(members: int | None) -> None:
    if members is not None:
        cgroups.join(members)
        os.close(members)


class NetnsOpenLab:
    """`OpenLab` of the provider seam."""

    def __init__(self, lab: Lab) -> None:
        self.lab = as_attached(lab)
        self._targets = {target.name: target for target in _targets(lab)}

    def target(self, name: str) -> NamespaceTarget:
        """The pod or node of that name. Raises UsageError with a suggestion."""
        if name not in self._targets:
            near = difflib.get_close_matches(name, self._targets, n=1)
            raise UsageError(
                what=f"the lab {self.lab.name} has no pod or node named {name}",
                cause=f"it has: {', '.join(self._targets)}",
                remedy=f"did you mean '{near[0]}'?" if near else f"labctl status {self.lab.name}",
            )
        return self._targets[name]

    def targets(self) -> tuple[Target, ...]:
        return tuple(self._targets.values())

    def taps(self, pair: Pair) -> tuple[Tap, ...]:
        """In the order from client to server; of a same-node pair, the devices of the one node once. A router that is
        stopped has no devices, nor have the other ends of its links."""
        at_client, at_server = network_of(self.lab).taps(self.lab, pair)
        gone = self._gone()
        between = [one for one in fabric_of(self.lab).taps(self.lab, pair) if one[1:] not in gone]
        return tuple(
            Tap(name=f"{where}:{interface}", role=role, target=self.target(where), interface=interface)
            for role, where, interface in (*at_client, *between, *at_server)
        )

    def _gone(self) -> frozenset[tuple[str, str]]:
        """Part and device, of every link to a router that is stopped."""
        stopped = {name for name in read_changes(self.lab.name).nodes_stopped if self.lab.is_router(name)}
        links = [link for link in self.lab.links if stopped & {end.part for end in link.ends}]
        return frozenset((end.part, end.device) for link in links for end in link.ends)

    def devices(self, pair: Pair) -> tuple[OpenDevice, ...]:
        """With the MACs that the devices have now, read from the kernel. Raises MeasureFailed."""
        taps = [tap for tap in self.taps(pair) if tap.interface != LO]
        macs = {name: self._macs(name) for name in {tap.target.name for tap in taps}}
        found = [
            OpenDevice(role=str(tap.role), mac=macs[tap.target.name][tap.interface])
            for tap in taps
            if tap.interface in macs[tap.target.name]
        ]
        if self.lab.outside and (mac := self._macs(UNDERLAY).get(BRIDGE)):
            found.append(OpenDevice(role=GATEWAY, mac=mac))
        return tuple(found)

    def clock_offsets(self, nodes: Sequence[str]) -> tuple[ClockOffset, ...]:
        return ()

    def testimony(self, pair: Pair, send: Callable[[], None]) -> tuple[Evidence, ...]:
        """Reads the pair's nodes, sends, reads again. Raises MeasureFailed when a node cannot be read."""
        pods = self._pods_on_the_way(pair)
        nodes = sorted(pods, key=lambda node: self.lab.node(node).index)
        before = {node: (self._read(node), self._arrivals(pods[node])) for node in nodes}
        send()
        on_plugins, looks = self._attached(), []
        for node in nodes:
            was, had = before[node]
            looks.append(
                NodeReadings(
                    before=was,
                    after=self._read(node),
                    pod=pods[node],
                    arrived=counters.grown(had, self._arrivals(pods[node])),
                    attached=on_plugins,
                )
            )
        return network_of(self.lab).testify(self.lab, pair, looks)

    def node_statuses(self, nodes: Sequence[str], mode: ModeInForce | None) -> tuple[NodeStatus, ...]:
        from labctl.providers.netns.status import read_status

        return read_status(self.lab, nodes, mode)

    def _pods_on_the_way(self, pair: Pair) -> dict[str, Pod]:
        """The pair's pod on each node that has one; the client where a node has both."""
        ends = (pair.server, *(pod.name for pod in self.lab.backends(pair)), pair.client)
        return {pod.node: pod for name in ends for pod in self.lab.pods if pod.name == name}

    def services(self) -> tuple[NodeServices, ...]:
        return read_services(self.lab)

    def has_daemon_set(self, name: str) -> bool | None:
        return None

    def impaired_ways(self) -> tuple[ImpairedWay, ...]:
        from labctl.providers.netns.changes import read_changes

        if not (self.lab.impairments or read_changes(self.lab.name).impairments):
            return ()
        from labctl.providers.netns.impairing import impaired_ways
        from labctl.providers.netns.wires import Wires

        return impaired_ways(Wires(self.lab))

    def datapath_state(self) -> DatapathState:
        return read_state(self.lab)

    def watching(self, pair: Pair) -> AbstractContextManager[Watch]:
        return watching(self.lab, pair)

    def _read(self, node: str) -> counters.Reading:
        return counters.read(node, self._targets[node].namespace)

    def _attached(self) -> tuple[Attached, ...]:
        try:
            return attached(self.lab.name, ask=True)
        except OSError as failed:
            raise MeasureFailed(what="what plugins attached cannot be read", cause=str(failed)) from failed

    def _arrivals(self, pod: Pod) -> int | counters.Unread:
        return counters.read_arrivals(self._targets[pod.name].namespace)

    def _macs(self, part: str) -> dict[str, str]:
        namespace = self._targets[part].namespace
        try:
            with netns.entered(netns.path_of(namespace)), Socket() as channel:
                links = map(rtnetlink.parse_link, channel.ask(rtnetlink.all_links()))
                return {link.name: link.mac for link in links}
        except OSError as failed:
            raise MeasureFailed(
                what=f"{part} cannot be read", cause=str(failed), remedy=f"ip -n {namespace} link"
            ) from failed


def _targets(lab: Lab) -> Iterable[NamespaceTarget]:
    parts = (
        *((node.name, TargetKind.NODE) for node in lab.nodes),
        *((pod.name, TargetKind.POD) for pod in lab.pods),
        *((router.name, TargetKind.ROUTER) for router in lab.routers),
        *((host.name, TargetKind.OUTSIDE) for host in lab.outside),
        (UNDERLAY, TargetKind.UNDERLAY),
    )
    network = network_of(lab)
    return (
        NamespaceTarget(name=name, kind=kind, namespace=namespace_of(lab.name, name), cgroup=network.cgroup(lab, name))
        for name, kind in parts
    )


@contextmanager
def open_lab(lab: Lab) -> Iterator[NetnsOpenLab]:
    """The lab, after switching off what a killed `labctl trace` left on: programs that still report packets would slow
    down what is measured. Raises UsageError when the lab is not up or a part of it is missing."""
    missing = [part for part in parts_of(lab) if read_mark(part) is None]
    if missing:
        raise UsageError(
            what=f"the lab {lab.name} is not up"
            if len(missing) == len(parts_of(lab))
            else f"the lab {lab.name} is incomplete",
            cause=f"missing: {', '.join(missing)}",
            remedy=f"labctl up {lab.scenario}",
        )
    with suppress(OSError):  # what cannot be read is reported where it is read
        end_abandoned(lab)
    yield NetnsOpenLab(lab)
