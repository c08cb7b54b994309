"""The seam for pod networks: what connects a lab's pods, where their packets can be seen, what proves it. Pure.

A network says which objects of `providers.netns.kinds` its nodes and pods have, what of a packet must show at each tap
for each placement and direction, and what the nodes' counters mean. Making, capturing and reading are the provider's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Protocol

from labctl.errors import UsageError
from labctl.values import dataclass

if TYPE_CHECKING:  # typing only: keeps planning a lab fast
    from labctl.datapath.bpf import Entry, MapInfo
    from labctl.fabrics.base import NodeObjects, TapPlace
    from labctl.model.evidence import AttachedProgram, Evidence, MapTable, ModeInForce, NodeDatapath
    from labctl.model.lab import Lab, Node, Pair, Pod
    from labctl.model.node_status import NodeStatus
    from labctl.model.plan import Step
    from labctl.model.result import CheckResult
    from labctl.model.service_lists import NodeServices
    from labctl.model.signature import ExpectedSignature
    from labctl.model.ways import ExpectedRoute, ExpectedTunnel
    from labctl.providers.netns.counters import Reading, Unread
    from labctl.providers.netns.kinds.attached import Attached
    from labctl.providers.netns.kinds.base import Object


STATEMENT = "The datapath is labctl's own, not Cilium: eBPF programs with Cilium's hooks and helpers, in namespaces."
"""What a reader of a netns lab must know, where its network does not say otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodObjects:
    """What connects one pod, on its node and inside it. `says` is how, for a person, in the title of the pod's step.
    `together` is made once all pods are there, with that of the others, where it takes processes that can run at the
    same time."""

    pod: Pod
    says: str
    objects: tuple[Object, ...]
    together: tuple[Object, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReadings:
    """One node before and after the traffic of one pair. `pod` is the pair's on it (the client where both are).
    `arrived` is how many IPv4 packets came to that pod's stack meanwhile."""

    before: Reading
    after: Reading
    pod: Pod
    arrived: int | Unread
    attached: tuple[Attached, ...] = ()
    """The lab's pods that plugins attached, with what those answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedObjects:
    """Objects of one kind that a node and its pods should have. `missing` are those that are not there; `unread` says
    why nothing is known of them."""

    name: str
    count: int
    missing: tuple[str, ...] = ()
    unread: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReading:
    """One node as its status is made of it. `maps` are by name, with what is in them now; `rules` is what each command
    that lists netfilter's rules printed, or why it could not; `watched` are the objects of the plan, read back."""

    node: str
    namespace: str
    programs: tuple[AttachedProgram, ...]
    maps: Mapping[str, tuple[MapInfo, tuple[Entry, ...]]]
    addresses: Mapping[str, tuple[IPv4Address, ...]]
    rules: Mapping[str, str | Unread]
    watched: tuple[WatchedObjects, ...]
    elsewhere: tuple[AttachedProgram, ...]

    def command(self, *argv: str) -> str:
        """What a person would type to run argv on the node."""
        return " ".join(("nsenter", f"--net=/run/netns/{self.namespace}", "--", *argv))


class PodNetwork(Protocol):
    """What connects pods."""

    remark: str
    """What a person who builds the lab by hand must know of it."""

    has_programs: bool
    """Whether its nodes run eBPF programs that report packets."""

    learning_s: float
    """How long after a pod's first packet every node knows the way to it; until then packets go to all nodes."""

    def refuse(self, lab: Lab) -> None:
        """Raises UsageError, with the key at fault, for what this network does not have."""
        ...

    def statements(self, lab: Lab) -> tuple[str, ...]:
        """What a reader must know before any figure: first what this network is and is not, then what each node
        carries."""
        ...

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        """Its devices on a node, with their addresses and the routes to every pod."""
        ...

    def steps(self, lab: Lab) -> Iterator[Step]:
        """What it needs on the nodes once those reach each other, before there are pods."""
        ...

    def pods(self, lab: Lab, node: Node) -> Iterator[PodObjects]:
        """What connects each pod of the node."""
        ...

    def daemons(self, lab: Lab) -> Iterator[Object]:
        """The routing daemons that it needs, once everything is wired and addressed."""
        ...

    def learned(self, lab: Lab) -> Iterator[Object]:
        """The wait for what those find out."""
        ...

    def mtu(self, lab: Lab) -> int:
        """How many bytes a packet of a pod may have."""
        ...

    def taps(self, lab: Lab, pair: Pair) -> tuple[tuple[TapPlace, ...], tuple[TapPlace, ...]]:
        """Where the pair's packets can be seen, from client to server: what is on the client's side of the fabric, and
        what is on the server's. Of a same-node pair, the devices of the one node once."""
        ...

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        """What every tap shows of that many echo requests of the pair and of their replies."""
        ...

    def cgroup(self, lab: Lab, part: str) -> str | None:
        """The cgroup that the processes of a node or pod belong into, as a path below the top, or None."""
        ...

    def testify(self, lab: Lab, pair: Pair, looks: Iterable[NodeReadings]) -> tuple[Evidence, ...]:
        """What every witness on every node of the pair says of the mode in force."""
        ...

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        """The routes to each other's pods that the two nodes of the pair must have; none where they are on one wire."""
        ...

    def tunnels(self, lab: Lab, pair: Pair) -> tuple[ExpectedTunnel, ...]:
        """What the vxlan devices of the two nodes must know, once the pair has talked; none without such devices."""
        ...

    def read_signature(self, lab: Lab, result: CheckResult) -> Evidence:
        """What the packets of one tcpdump check of a pair testify of the mode in force."""
        ...

    def status(self, lab: Lab, reading: StatusReading, mode: ModeInForce | None) -> NodeStatus:
        """The node as `cilium status --verbose` would show it; of `mode` the lines that packets show."""
        ...

    def service_lists(self, lab: Lab, node: str, entries: Mapping[str, Iterable[Entry]], command: str) -> NodeServices:
        """What a node translates of Services, from the entries of its maps by name. `command` dumps the first map."""
        ...

    def masquerade_refusals(self, node: NodeDatapath) -> tuple[str, ...] | None:
        """What the node's programs dropped because it could not be masqueraded; None where they do not say."""
        ...

    def map_tables(
        self, lab: Lab, devices: Mapping[int, str], dumps: Iterable[tuple[MapInfo, tuple[Entry, ...]]]
    ) -> tuple[MapTable, ...]:
        """The maps of a node's programs in words; `devices` are the node's, by interface index."""
        ...


def refuse_beyond_pods(lab: Lab) -> None:
    """Raises UsageError, with the key, for Services and for pairs whose ends are not both pods: what those show is
    known of Cilium alone."""
    chosen = lab.pod_network.type
    if lab.services:
        raise UsageError(
            what=f"podNetwork {chosen} has no Services, and scenario {lab.scenario} has {len(lab.services)}",
            cause="their addresses are translated by kube-proxy or Cilium, not by such a pod network, and what taps "
            "should show then is not known to labctl",
            remedy="podNetwork: {type: cilium}, or a scenario without services:",
            key="services",
        )
    for pair in lab.pairs:
        if not lab.is_between_pods(pair):
            raise UsageError(
                what=f"the pair {pair.name} is not between two pods",
                cause=f"what other ends show with podNetwork {chosen} is not known to labctl",
                remedy="two pods; or podNetwork: {type: cilium}",
                key="pairs",
            )
