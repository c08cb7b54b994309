"""What pod networks have in common in which the kernel itself carries every packet: no program, nothing of labctl's.

Pods hang on their nodes by a veth pair; what of the node's devices, routes and tunnels they go by is each network's
own module. What proves such a network in force are the devices that carried known packets, the entries that say
where to, and that every tap shows what it should. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Interface, IPv4Network
from typing import TYPE_CHECKING

from labctl.errors import UsageError
from labctl.fabrics import fabric_of
from labctl.fabrics.base import NodeObjects, TapPlace, device_of
from labctl.model import interfaces
from labctl.model.evidence import Evidence, Silence
from labctl.model.lab import Fault, Lab, Node, Pair, Placement, Pod
from labctl.model.plan import Step
from labctl.model.service_lists import NodeServices
from labctl.model.signature import Role
from labctl.model.ways import ExpectedRoute, ExpectedTunnel, Told
from labctl.names import namespace_of
from labctl.networks.base import NodeReadings, PodObjects, refuse_beyond_pods
from labctl.networks.netfilter import Ruleset, forward_rules
from labctl.providers.netns.counters import Unread
from labctl.providers.netns.kinds.base import Object, step
from labctl.providers.netns.kinds.link import BridgeAdd, Device, LinkUp, VethAdd
from labctl.providers.netns.kinds.netfilter import IptablesRestore
from labctl.providers.netns.kinds.routing import AddressAdd, RouteAdd
from labctl.values import dataclass

if TYPE_CHECKING:
    from labctl.datapath.bpf import Entry, MapInfo
    from labctl.model.evidence import MapTable, ModeInForce, NodeDatapath
    from labctl.model.node_status import NodeStatus
    from labctl.model.result import CheckResult
    from labctl.model.signature import ExpectedSignature
    from labctl.networks.base import StatusReading

ANYWHERE = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDevices:
    """The devices of a node that pods' packets go by: names, empty where a network has none."""

    bridge: str = ""
    tunnel: str = ""


class CarriedNetwork:
    """`PodNetwork` of the seam, but for what each network says of itself: `devices`, `node`, `rules`, `expected`."""

    title = ""
    """What it is called in the titles of steps."""
    remark = ""
    devices = NodeDevices()
    has_programs = False
    learning_s = 0.0
    faults: frozenset[Fault] = frozenset({Fault.MISSING_NEIGHBOUR, Fault.NETFILTER_DROP})

    def refuse(self, lab: Lab) -> None:
        """Raises UsageError, with the key at fault, for what such a network does not have."""
        refuse_beyond_pods(lab)
        for fault in lab.datapath.faults:
            if fault not in self.faults:
                raise UsageError(
                    what=f"the fault {fault} cannot be had with podNetwork {lab.pod_network.type}",
                    cause="it is one of labctl's eBPF programs, and this network has none",
                    remedy=f"one of: {', '.join(sorted(self.faults))}",
                    key="datapath.faults",
                )

    def statements(self, lab: Lab) -> tuple[str, ...]:
        return (self.remark, f"Each node carries {self.rules(lab, lab.nodes[0]).count} iptables rules.")

    def rules(self, lab: Lab, node: Node) -> Ruleset:
        """The node's netfilter rules, those asked for besides (`extraIptablesRules`, faults) first."""
        return Ruleset(rules=forward_rules(lab))

    def steps(self, lab: Lab) -> Iterator[Step]:
        """The rules of all nodes."""
        count = self.rules(lab, lab.nodes[0]).count
        yield step(
            "netfilter",
            f"netfilter: {count} rules on every node",
            # One step for all nodes: each is a process, and they run at the same time.
            (
                IptablesRestore(namespace=namespace_of(lab.name, node.name), rules=self.rules(lab, node).as_restore())
                for node in lab.nodes
            ),
        )

    def pods(self, lab: Lab, node: Node) -> Iterator[PodObjects]:
        indexes = interfaces.lxc_indexes(lab, node.name)
        for pod in lab.pods_on(node.name):
            objects = tuple(self.pod(lab, node, pod, indexes[pod.name]))
            yield PodObjects(pod=pod, says=f"behind {pod.lxc}", objects=objects)

    def pod(self, lab: Lab, node: Node, pod: Pod, index: int) -> Iterator[Object]:
        """A veth pair whose end on the node is a port of the bridge, the address in the node's range, and the default
        route by the bridge."""
        bridge = (self.devices.bridge, interfaces.POD_BRIDGE_INDEX) if self.devices.bridge else None
        yield from self.veth(lab, node, pod, index, bridge=bridge)
        yield from self.addressed(lab, pod, IPv4Interface(f"{pod.address}/{node.pod_cidr.prefixlen}"))
        yield self._on_eth0(lab, pod)(destination=ANYWHERE, gateway=node.router)

    def veth(
        self, lab: Lab, node: Node, pod: Pod, index: int, *, bridge: tuple[str, int] | None = None
    ) -> Iterator[Object]:
        """The pair, its end in the pod up as well."""
        namespace, on_node = namespace_of(lab.name, pod.name), namespace_of(lab.name, node.name)
        device, inside = interfaces.POD_DEVICE, interfaces.POD_DEVICE_INDEX
        yield VethAdd(
            namespace=on_node,
            device=self.device(lab, node.name, pod.lxc, index, mac=pod.lxc_mac),
            peer=self.device(lab, pod.name, device, inside, mac=pod.mac),
            peer_namespace=namespace,
            bridge=bridge,
        )
        yield LinkUp(namespace=namespace, device=device, index=inside)

    def addressed(self, lab: Lab, pod: Pod, address: IPv4Interface) -> Iterator[Object]:
        namespace = namespace_of(lab.name, pod.name)
        device, index = interfaces.POD_DEVICE, interfaces.POD_DEVICE_INDEX
        yield AddressAdd(namespace=namespace, device=device, index=index, address=address)

    def _on_eth0(self, lab: Lab, pod: Pod) -> partial[RouteAdd]:
        namespace = namespace_of(lab.name, pod.name)
        device, index = interfaces.POD_DEVICE, interfaces.POD_DEVICE_INDEX
        return partial(RouteAdd, namespace=namespace, device=device, index=index)

    def device(self, lab: Lab, part: str, name: str, index: int, *, mac: str = "") -> Device:
        """A device on the pods' side, with their MTU."""
        return replace(device_of(lab, part, name, index, mac=mac), mtu=self.mtu(lab))

    def bridge(self, lab: Lab, node: Node, address: IPv4Interface) -> tuple[BridgeAdd, AddressAdd]:
        """The bridge that the node's pods are ports of, and its address."""
        namespace, name, index = namespace_of(lab.name, node.name), self.devices.bridge, interfaces.POD_BRIDGE_INDEX
        return (
            BridgeAdd(namespace=namespace, device=self.device(lab, node.name, name, index)),
            AddressAdd(namespace=namespace, device=name, index=index, address=address),
        )

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        raise NotImplementedError

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        raise NotImplementedError

    def daemons(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def learned(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def mtu(self, lab: Lab) -> int:
        return lab.network.route_mtu

    def taps(self, lab: Lab, pair: Pair) -> tuple[tuple[TapPlace, ...], tuple[TapPlace, ...]]:
        client, server = lab.pod(pair.client), lab.pod(pair.server)
        of_client = self._node_taps(client.node, (Role.CLIENT_BRIDGE, Role.CLIENT_TUNNEL, Role.CLIENT_UPLINK))
        of_server = self._node_taps(server.node, (Role.SERVER_BRIDGE, Role.SERVER_TUNNEL, Role.SERVER_UPLINK))
        ends: tuple[TapPlace, ...] = (
            *self._veth_tap(Role.SERVER_VETH, server),
            (Role.SERVER_ETH0, server.name, interfaces.POD_DEVICE),
        )
        clients: tuple[TapPlace, ...] = (
            (Role.CLIENT_ETH0, client.name, interfaces.POD_DEVICE),
            *self._veth_tap(Role.CLIENT_VETH, client),
            *of_client,
            (Role.CLIENT_LO, client.node, interfaces.LO),
        )
        if pair.placement is Placement.SAME_NODE:
            return clients, ends
        return clients, ((Role.SERVER_LO, server.node, interfaces.LO), *reversed(of_server), *ends)

    def _node_taps(self, node: str, roles: tuple[Role, Role, Role]) -> tuple[TapPlace, ...]:
        """From the pods outwards: the bridge, the tunnel, the uplink, those that there are."""
        devices = (self.devices.bridge, self.devices.tunnel, interfaces.UPLINK)
        return tuple((role, node, device) for role, device in zip(roles, devices, strict=True) if device)

    def _veth_tap(self, role: Role, pod: Pod) -> tuple[TapPlace, ...]:
        return () if pod.lxc == interfaces.UPLINK else ((role, pod.node, pod.lxc),)

    def testify(self, lab: Lab, pair: Pair, looks: Iterable[NodeReadings]) -> tuple[Evidence, ...]:
        """The devices that carried the packets, and how much netfilter there is, on each node of the pair."""
        return tuple(evidence for look in looks for evidence in (self._carriers(lab, pair, look), rules_evidence(look)))

    def _carriers(self, lab: Lab, pair: Pair, look: NodeReadings) -> Evidence:
        """Between nodes: whether as many packets went by the tunnel as came to the pod, or by the uplink alone. On one
        node: that the pod's own device brought them."""
        asked = lab.asked()
        tunnel, crosses = self.devices.tunnel, pair.placement is Placement.CROSS_NODE
        device = tunnel if tunnel and crosses else interfaces.UPLINK if crosses else look.pod.lxc
        command = f"ip -n {look.after.namespace} -s link show {device}"
        before, after = look.before.links.get(device), look.after.links.get(device)
        if before is None or after is None:
            return _testimony(look, f"{device} is gone", command, silence=Silence.ABSENT)
        if isinstance(look.arrived, Unread):
            why = f"the count of the pod's packets could not be read: {look.arrived.why}"
            return _testimony(look, why, command, silence=Silence.UNREAD)
        sent, received = after.tx_packets - before.tx_packets, after.rx_packets - before.rx_packets
        finding = f"{device} sent {sent} packets and received {received}; {look.arrived} IP packets came to the pod"
        if look.arrived and min(sent, received) >= look.arrived:
            return _testimony(look, finding, command, found=asked, supports=True)
        if look.arrived and device == tunnel and not sent and not received:
            other = {"podNetwork": str(lab.pod_network.type), "backend": "none: packets crossed without the tunnel"}
            return _testimony(look, finding, command, found=other, supports=False)
        return _testimony(look, finding, command)

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        """By the other node, or by whom the fabric says."""
        return routed_ways(lab, pair)

    def tunnels(self, lab: Lab, pair: Pair) -> tuple[ExpectedTunnel, ...]:
        """Entries of the forwarding database that whoever built it set."""
        return tunnelled_ways(lab, pair, self.devices.tunnel, Told.SET) if self.devices.tunnel else ()

    def read_signature(self, lab: Lab, result: CheckResult) -> Evidence:
        """Every tap as expected is evidence for the network; one that shows otherwise is evidence against it, unless
        the packets were lost: then they show nothing."""
        from labctl.path.difference import first_difference  # not where a lab is only planned
        from labctl.path.signature import lost_on_the_way

        where = f"{result.client} → {result.server} ({result.placement})"
        signature = result.signature
        if signature is None:
            finding, silence = f"no signature could be taken: {result.reason}", Silence.UNREAD
            return Evidence(witness="signature", where=where, finding=finding, supports=None, silence=silence)
        pair = next(one for one in lab.pairs if (one.client, one.server) == (result.client, result.server))
        sent = next((sight.request for sight in signature.taps if sight.request is not None), None)
        alone = self.expected(lab, pair, packets=0 if sent is None else sent.packets)
        expected = fabric_of(lab).seen_through(lab, pair, alone)
        missing, otherwise = lost_on_the_way(signature), first_difference(expected, signature)
        return Evidence(
            witness="signature",
            where=where,
            finding=missing
            or (otherwise.sentence if otherwise else f"every tap shows what it should: {expected.source}"),
            supports=None if missing else otherwise is None,
            command=f"labctl trace {lab.name} {result.client} {result.server}",
            found=lab.asked() if not missing and otherwise is None else {},
            silence=Silence.LOST if missing else None,
        )

    def cgroup(self, lab: Lab, part: str) -> str | None:
        return None

    def status(self, lab: Lab, reading: StatusReading, mode: ModeInForce | None) -> NodeStatus:
        """Cilium's own words are about Cilium alone. Raises UsageError."""
        raise UsageError(
            what=f"lab {lab.name} has no Cilium status to show",
            cause=f"its pod network is {lab.pod_network.type}",
            remedy=f"labctl status {lab.name}",
        )

    def service_lists(self, lab: Lab, node: str, entries: Mapping[str, Iterable[Entry]], command: str) -> NodeServices:
        return NodeServices(node=node, by=f"nothing: podNetwork {lab.pod_network.type}", frontends=(), entries=())

    def masquerade_refusals(self, node: NodeDatapath) -> tuple[str, ...] | None:
        return None

    def map_tables(
        self, lab: Lab, devices: Mapping[int, str], dumps: Iterable[tuple[MapInfo, tuple[Entry, ...]]]
    ) -> tuple[MapTable, ...]:
        return ()


def ends_of(lab: Lab, pair: Pair) -> tuple[tuple[Node, Node], ...]:
    """The two nodes of a pair of pods, seen from either; nothing where it is one node, or where an end is no pod."""
    if not lab.is_between_pods(pair):
        return ()
    client, server = (lab.node(lab.pod(name).node) for name in (pair.client, pair.server))
    return () if client == server else ((client, server), (server, client))


def routed_ways(lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
    fabric = fabric_of(lab)
    return tuple(
        ExpectedRoute(
            part=node.name,
            destination=other.pod_cidr,
            next_hops=frozenset({fabric.next_hop(lab, node, other) or fabric.gateway(lab, node)}),
            device=interfaces.UPLINK,
        )
        for node, other in ends_of(lab, pair)
    )


def routes_by_uplink(lab: Lab, node: Node) -> tuple[RouteAdd, ...]:
    """The node's routes to the other nodes' pods, where the fabric does not make them itself."""
    fabric = fabric_of(lab)
    return tuple(
        RouteAdd(
            namespace=namespace_of(lab.name, node.name),
            device=interfaces.UPLINK,
            index=interfaces.UPLINK_INDEX,
            destination=other.pod_cidr,
            gateway=gateway,
        )
        for other in lab.nodes
        if other is not node and (gateway := fabric.next_hop(lab, node, other)) is not None
    )


def tunnelled_ways(lab: Lab, pair: Pair, device: str, told: Told) -> tuple[ExpectedTunnel, ...]:
    return tuple(
        ExpectedTunnel(part=node.name, device=device, node=other.address.ip, told=told)
        for node, other in ends_of(lab, pair)
    )


def _testimony(
    look: NodeReadings,
    finding: str,
    command: str,
    *,
    found: Mapping[str, object] | None = None,
    supports: bool | None = None,
    silence: Silence | None = None,
) -> Evidence:
    return Evidence(
        witness="device-counters",
        where=look.after.node,
        finding=finding,
        supports=supports,
        command=command,
        found=found or {},
        silence=silence,
    )


def rules_evidence(look: NodeReadings) -> Evidence:
    """Not about the mode: how much netfilter every forwarded packet walks past."""
    netfilter, command = look.after.netfilter, look.after.command("iptables-save", "-c")
    if isinstance(netfilter, Unread):
        finding, silence = f"the iptables rules could not be read: {netfilter.why}", Silence.UNREAD
    else:
        finding, silence = f"{netfilter.rules} iptables rules are installed", None
    return Evidence(
        witness="netfilter-rules",
        where=look.after.node,
        finding=finding,
        supports=None,
        command=command,
        silence=silence,
    )
