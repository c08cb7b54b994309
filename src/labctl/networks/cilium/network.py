"""What a Cilium cluster has on its nodes and in its pods, seen from its network. Pure.

Addresses, routes and devices are named and set as on a real node (recorded: Cilium v1.13.12). What differs, and why,
is in docs/adr/0004-netns-topology.md. The programs are labctl's own: `datapath`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Interface, IPv4Network
from typing import TYPE_CHECKING

from labctl.datapath.layout import PacketVerdict, Program
from labctl.datapath.loader import object_path
from labctl.errors import UsageError
from labctl.fabrics import fabric_of
from labctl.fabrics.base import NodeObjects, TapPlace, device_of
from labctl.model import interfaces
from labctl.model.lab import Encapsulation, EndpointKind, Lab, Node, Pair, Pod
from labctl.model.plan import Step
from labctl.model.signature import Role
from labctl.model.ways import ExpectedRoute
from labctl.names import namespace_of
from labctl.networks.base import STATEMENT, PodObjects
from labctl.networks.carried import ends_of, routed_ways
from labctl.networks.cilium import rules
from labctl.networks.cilium.contents import map_contents
from labctl.networks.cilium.kube_proxy import has_kube_proxy, kube_proxy, settings
from labctl.networks.cilium.services import ALIVE, backend_devices, cgroup_for, socket_objects, translates_services
from labctl.providers.netns.kinds.base import Object, step
from labctl.providers.netns.kinds.link import GeneveAdd, LinkUp, VethAdd, VxlanAdd
from labctl.providers.netns.kinds.namespace import Sysctls
from labctl.providers.netns.kinds.netfilter import IptablesRestore
from labctl.providers.netns.kinds.program import DatapathLoad, Direction, FilterAttach, HooksAdd, MapsFill, pins
from labctl.providers.netns.kinds.routing import AddressAdd, RouteAdd, RouteScope
from labctl.services.frontends import frontends
from labctl.values import dataclass

if TYPE_CHECKING:
    from labctl.datapath.bpf import Entry, MapInfo
    from labctl.model.evidence import Evidence, MapTable, ModeInForce, NodeDatapath
    from labctl.model.node_status import NodeStatus
    from labctl.model.result import CheckResult
    from labctl.model.service_lists import NodeServices
    from labctl.model.signature import ExpectedSignature
    from labctl.model.ways import ExpectedTunnel
    from labctl.networks.base import NodeReadings, StatusReading

_ANYWHERE = IPv4Network("0.0.0.0/0")


class CiliumNetwork:
    """`PodNetwork` of the seam. What judges a running lab is loaded when it is asked for."""

    remark = "The datapath is labctl's own: Cilium's hooks and helpers, but not Cilium."
    has_programs = True
    learning_s = 0.0

    def refuse(self, lab: Lab) -> None:
        """A choice that changes nothing."""
        if has_kube_proxy(lab) and not lab.datapath.socket_lb:
            raise UsageError(
                what="socketLB: false has no effect with kubeProxyReplacement: false",
                cause="kube-proxy's rules translate Services in the nodes' netfilter, not eBPF programs at the socket",
                remedy="socketLB: true (the default), or kubeProxyReplacement: true",
                key="datapath.socketLB",
            )

    def statements(self, lab: Lab) -> tuple[str, ...]:
        extra = lab.datapath.extra_iptables_rules
        count = f"{rules.count_of(lab)} iptables rules"
        if extra:
            count = f"{rules.count_of(lab)} iptables rules, {extra} of them extra ones that no packet matches"
        burden = f"Each node carries {count}, and tracks connections; the size of a difference depends on it."
        return STATEMENT, burden

    def node(self, lab: Lab, node: Node) -> NodeObjects:
        namespace = namespace_of(lab.name, node.name)
        device, index = interfaces.CILIUM_HOST, interfaces.CILIUM_HOST_INDEX
        router = IPv4Interface(node.router)
        return NodeObjects(
            says=f"cilium_host {node.router}, routes",
            links=_links(lab, node, namespace),
            up=(LinkUp(namespace=namespace, device=device, index=index),),
            settings=(Sysctls(namespace=namespace, settings=tuple(_own_traffic())),),
            addresses=(AddressAdd(namespace=namespace, device=device, index=index, address=router),),
            routes=self._routes(lab, node, namespace),
        )

    def _routes(self, lab: Lab, node: Node, namespace: str) -> Iterable[RouteAdd]:
        host, uplink = interfaces.CILIUM_HOST, interfaces.UPLINK
        on_host = partial(RouteAdd, namespace=namespace, device=host, index=interfaces.CILIUM_HOST_INDEX)
        by_router = partial(on_host, gateway=node.router, source=node.router)
        by_uplink = partial(RouteAdd, namespace=namespace, device=uplink, index=interfaces.UPLINK_INDEX)
        yield on_host(destination=IPv4Network(node.router), scope=RouteScope.LINK)
        yield by_router(destination=node.pod_cidr)
        for other in lab.nodes:
            if other is node:
                continue
            if lab.datapath.encapsulation.is_tunnel:
                yield by_router(destination=other.pod_cidr, mtu=self.mtu(lab))
            elif (gateway := fabric_of(lab).next_hop(lab, node, other)) is not None:
                yield by_uplink(destination=other.pod_cidr, gateway=gateway)

    def steps(self, lab: Lab) -> Iterator[Step]:
        """The rules of all nodes, then each node's programs and maps, attached to every device that is no pod's."""
        yield step(
            "netfilter",
            f"netfilter: {rules.count_of(lab)} rules on every node, and connection tracking",
            # One step for all nodes: each is a process, and they run at the same time.
            (_restore(lab, node) for node in lab.nodes),
        )
        if has_kube_proxy(lab):
            served = frontends(lab)
            yield step(
                "kube-proxy",
                f"kube-proxy's rules on every node, {lab.datapath.kube_proxy} mode; Services: {len(served)}",
                (
                    *(setting for node in lab.nodes for setting in settings(lab, node)),
                    *(made for node in lab.nodes for made in kube_proxy(lab, node, served)),
                ),
            )
        for node in lab.nodes:
            yield step(
                f"datapath-{node.name}",
                f"node {node.name}: labctl's eBPF programs, {lab.in_force.host_routing} host routing, "
                f"{lab.datapath.encapsulation}",
                _programs(lab, node),
            )

    def pods(self, lab: Lab, node: Node) -> Iterator[PodObjects]:
        """Each with its veth pair and the program on it, its address and its routes."""
        indexes = interfaces.lxc_indexes(lab, node.name)
        attached = {one.device: one for one in attachments(lab, node.name)}
        for pod in lab.pods_on(node.name):
            objects = tuple(self._pod(lab, node, pod, indexes[pod.name], attached[pod.lxc]))
            yield PodObjects(pod=pod, says=f"behind {pod.lxc}", objects=objects)

    def _pod(self, lab: Lab, node: Node, pod: Pod, index: int, attached: Attachment) -> Iterator[Object]:
        namespace, on_node = namespace_of(lab.name, pod.name), namespace_of(lab.name, node.name)
        device, inside = interfaces.POD_DEVICE, interfaces.POD_DEVICE_INDEX
        yield VethAdd(
            namespace=on_node,
            device=device_of(lab, node.name, pod.lxc, index, mac=pod.lxc_mac),
            peer=device_of(lab, pod.name, device, inside, mac=pod.mac),
            peer_namespace=namespace,
        )
        yield from _attach(lab, node, (attached,))
        yield from backend_devices(lab, pod)
        yield LinkUp(namespace=namespace, device=device, index=inside)
        yield AddressAdd(namespace=namespace, device=device, index=inside, address=IPv4Interface(pod.address))
        route = partial(RouteAdd, namespace=namespace, device=device, index=inside)
        yield route(destination=IPv4Network(node.router), scope=RouteScope.LINK)
        yield route(destination=_ANYWHERE, gateway=node.router, mtu=self.mtu(lab))

    def daemons(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def learned(self, lab: Lab) -> Iterator[Object]:
        return iter(())

    def mtu(self, lab: Lab) -> int:
        return lab.network.route_mtu

    def taps(self, lab: Lab, pair: Pair) -> tuple[tuple[TapPlace, ...], tuple[TapPlace, ...]]:
        client, server, backends = lab.client(pair), lab.server(pair), lab.backends(pair)
        at_client: list[TapPlace] = []
        if client.kind is EndpointKind.POD:
            pod = lab.pod(client.name)
            at_client += [(Role.CLIENT_ETH0, pod.name, interfaces.POD_DEVICE), (Role.CLIENT_LXC, pod.node, pod.lxc)]
        elif client.kind is EndpointKind.OUTSIDE:
            at_client.append((Role.CLIENT_ETH0, client.name, interfaces.POD_DEVICE))
        # The node that the client is on; of a host outside the one that is asked at its port.
        first = client.node or (server.node if server.kind is EndpointKind.SERVICE else None)
        if first is not None:
            at_client += _taps_of_node(lab, first, _CLIENT_SIDE)
        at_server: list[TapPlace] = []
        answering = backends or tuple(pod for pod in lab.pods if pod.name == server.name)
        beyond = (server.node,) if server.kind is EndpointKind.NODE else tuple(pod.node for pod in answering)
        for node in dict.fromkeys(beyond):
            if node is not None and node != first:
                at_server += _taps_of_node(lab, node, _SERVER_SIDE)
        for pod in answering:
            if pod.name != client.name:
                at_server.append((Role.SERVER_LXC, pod.node, pod.lxc))
                at_server.append((Role.SERVER_ETH0, pod.name, interfaces.POD_DEVICE))
        if server.kind is EndpointKind.OUTSIDE:
            at_server.append((Role.SERVER_ETH0, server.name, interfaces.POD_DEVICE))
        return tuple(at_client), tuple(at_server)

    def expected(self, lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature:
        if lab.datapath.encapsulation is Encapsulation.GENEVE:
            from labctl.networks.cilium.expected import as_geneve, recorded_twin

            return as_geneve(self.expected(recorded_twin(lab), pair, packets=packets))
        if lab.is_between_pods(pair):
            from labctl.networks.cilium.expected import expected_for

            return expected_for(lab, pair, packets=packets)
        roles = [role for places in self.taps(lab, pair) for role, _, _ in places]
        if lab.server(pair).kind is EndpointKind.SERVICE:
            if has_kube_proxy(lab) and lab.client(pair).kind is not EndpointKind.NODE:
                from labctl.networks.cilium.expected_kube_proxy import expected_by_kube_proxy

                return expected_by_kube_proxy(lab, pair, roles, packets=packets)
            from labctl.networks.cilium.expected_services import expected_of_service

            return expected_of_service(lab, pair, roles, packets=packets)
        from labctl.networks.cilium.expected_ends import expected_between

        return expected_between(lab, pair, roles, packets=packets)

    def cgroup(self, lab: Lab, part: str) -> str | None:
        return cgroup_for(lab, part)

    def testify(self, lab: Lab, pair: Pair, looks: Iterable[NodeReadings]) -> tuple[Evidence, ...]:
        from labctl.networks.cilium.evidence import testify

        return testify(lab, pair, looks)

    def routes(self, lab: Lab, pair: Pair) -> tuple[ExpectedRoute, ...]:
        """With vxlan by cilium_host, whose programs send to the tunnel."""
        if not lab.datapath.encapsulation.is_tunnel:
            return routed_ways(lab, pair)
        return tuple(
            ExpectedRoute(
                part=node.name,
                destination=other.pod_cidr,
                next_hops=frozenset({node.router}),
                device=interfaces.CILIUM_HOST,
            )
            for node, other in ends_of(lab, pair)
        )

    def tunnels(self, lab: Lab, pair: Pair) -> tuple[ExpectedTunnel, ...]:
        """None: the programs choose each packet's tunnel, by the maps that `status --datapath` shows."""
        return ()

    def read_signature(self, lab: Lab, result: CheckResult) -> Evidence:
        from labctl.path.signature import signature_evidence

        return signature_evidence(result, lab.in_force, lab.name)

    def status(self, lab: Lab, reading: StatusReading, mode: ModeInForce | None) -> NodeStatus:
        from labctl.networks.cilium.status import node_status

        return node_status(lab, reading, mode)

    def service_lists(self, lab: Lab, node: str, entries: Mapping[str, Iterable[Entry]], command: str) -> NodeServices:
        from labctl.networks.cilium.service_lists import service_lists

        return service_lists(lab, node, entries, command)

    def masquerade_refusals(self, node: NodeDatapath) -> tuple[str, ...] | None:
        said = [what for program in node.programs for what in program.did]
        refused = (PacketVerdict.NAT_NO_PORT.words, PacketVerdict.NAT_FULL.words)
        return tuple(what for what in said if what.endswith(refused)) if said else None

    def map_tables(
        self, lab: Lab, devices: Mapping[int, str], dumps: Iterable[tuple[MapInfo, tuple[Entry, ...]]]
    ) -> tuple[MapTable, ...]:
        from labctl.networks.cilium.map_tables import map_tables

        return map_tables(lab, devices, dumps)


_CLIENT_SIDE = (
    (Role.CLIENT_CILIUM_HOST, interfaces.CILIUM_HOST),
    (Role.CLIENT_CILIUM_NET, interfaces.CILIUM_NET),
    (Role.CLIENT_CILIUM_VXLAN, interfaces.CILIUM_VXLAN),
    (Role.CLIENT_CILIUM_GENEVE, interfaces.CILIUM_GENEVE),
    (Role.CLIENT_UPLINK, interfaces.UPLINK),
    (Role.CLIENT_LO, interfaces.LO),
)
_SERVER_SIDE = (
    (Role.SERVER_LO, interfaces.LO),
    (Role.SERVER_UPLINK, interfaces.UPLINK),
    (Role.SERVER_CILIUM_VXLAN, interfaces.CILIUM_VXLAN),
    (Role.SERVER_CILIUM_GENEVE, interfaces.CILIUM_GENEVE),
    (Role.SERVER_CILIUM_NET, interfaces.CILIUM_NET),
    (Role.SERVER_CILIUM_HOST, interfaces.CILIUM_HOST),
)


def _taps_of_node(lab: Lab, node: str, side: Sequence[tuple[Role, str]]) -> Iterator[TapPlace]:
    """What a node has whichever pods are on it, in the order of the way."""
    mode = lab.datapath.encapsulation
    not_there = {interfaces.CILIUM_VXLAN, interfaces.CILIUM_GENEVE}
    if mode.is_tunnel:
        not_there.remove(interfaces.cilium_tunnel(mode))
    for role, device in side:
        if device not in not_there:
            yield role, node, device


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One tc filter: direct-action, protocol all, priority 1, handle 1, on the clsact qdisc of the device.

    `hook` is `ingress` or `egress`; `program` is the function in the object; `filter_name` is what
    `tc filter show` prints, as Cilium names it: program, dash, device.
    """

    device: str
    ifindex: int
    hook: str
    program: str

    @property
    def filter_name(self) -> str:
        return f"{self.program}-{self.device}"


def attachments(lab: Lab, node: str) -> tuple[Attachment, ...]:
    """Every filter of that node, node devices first, then the lxc of each pod in the lab's order.

    Legacy and BPF host routing have the same list, as in Cilium: attachment does not show the mode.
    """
    fixed = [
        (interfaces.CILIUM_NET, interfaces.CILIUM_NET_INDEX, Program.TO_HOST),
        (interfaces.CILIUM_HOST, interfaces.CILIUM_HOST_INDEX, Program.TO_HOST),
        (interfaces.CILIUM_HOST, interfaces.CILIUM_HOST_INDEX, Program.FROM_HOST),
        (interfaces.UPLINK, interfaces.UPLINK_INDEX, Program.FROM_NETDEV),
        (interfaces.UPLINK, interfaces.UPLINK_INDEX, Program.TO_NETDEV),
    ]
    if lab.datapath.encapsulation.is_tunnel:
        tunnel = interfaces.cilium_tunnel(lab.datapath.encapsulation)
        fixed += [
            (tunnel, interfaces.CILIUM_TUNNEL_INDEX, Program.FROM_OVERLAY),
            (tunnel, interfaces.CILIUM_TUNNEL_INDEX, Program.TO_OVERLAY),
        ]
    indexes = interfaces.lxc_indexes(lab, node)
    pods = [(pod.lxc, indexes[pod.name], Program.FROM_CONTAINER) for pod in lab.pods_on(node)]
    return tuple(
        Attachment(device=device, ifindex=ifindex, hook=program.hook, program=program.function)
        for device, ifindex, program in (*fixed, *pods)
    )


def _links(lab: Lab, node: Node, namespace: str) -> Iterable[Object]:
    yield VethAdd(
        namespace=namespace,
        device=device_of(lab, node.name, interfaces.CILIUM_NET, interfaces.CILIUM_NET_INDEX, arp=False),
        peer=device_of(lab, node.name, interfaces.CILIUM_HOST, interfaces.CILIUM_HOST_INDEX, arp=False),
    )
    mode = lab.datapath.encapsulation
    if mode.is_tunnel:
        add = GeneveAdd if mode is Encapsulation.GENEVE else VxlanAdd
        yield add(
            namespace=namespace,
            device=device_of(lab, node.name, interfaces.cilium_tunnel(mode), interfaces.CILIUM_TUNNEL_INDEX),
            port=interfaces.cilium_tunnel_port(mode),
        )


def _own_traffic() -> Iterable[tuple[str, str]]:
    """What goes between cilium_host and cilium_net has the node's own address as source."""
    for device in (interfaces.CILIUM_HOST, interfaces.CILIUM_NET):
        yield f"net.ipv4.conf.{device}.accept_local", "1"
        yield f"net.ipv4.conf.{device}.send_redirects", "0"


def _restore(lab: Lab, node: Node) -> IptablesRestore:
    of_node = rules.rules_of(lab, node)
    return IptablesRestore(
        namespace=namespace_of(lab.name, node.name),
        rules=rules.as_restore(of_node),
        optional=tuple(rule.line() for rule in of_node if rule.needs),
    )


def _variant(lab: Lab) -> str:
    """Which of the objects of its mode the lab's nodes have."""
    if has_kube_proxy(lab):
        return "kube-proxy"
    return "lb" if translates_services(lab) else ""


def _programs(lab: Lab, node: Node) -> Iterable[Object]:
    namespace, place, mode = namespace_of(lab.name, node.name), pins(lab.name) / node.name, lab.in_force
    contents = map_contents(lab, node.name)
    yield DatapathLoad(
        namespace=namespace,
        host_routing=mode.host_routing,
        encapsulation=mode.encapsulation,
        object=object_path(mode.host_routing, mode.encapsulation, _variant(lab)),
        pins=place,
        fixed=(*contents, *((ALIVE,) if translates_services(lab) else ())),
    )
    for name, entries in contents.items():
        if entries:
            yield MapsFill(namespace=namespace, map=name, entries=entries, pins=place)
    if translates_services(lab):
        yield from socket_objects(lab, node)
    of_pods = {pod.lxc for pod in lab.pods_on(node.name)}
    yield from _attach(lab, node, [one for one in attachments(lab, node.name) if one.device not in of_pods])


def _attach(lab: Lab, node: Node, attached: Sequence[Attachment]) -> Iterable[Object]:
    """Every device's hooks once, then each of its programs."""
    namespace, place = namespace_of(lab.name, node.name), pins(lab.name) / node.name
    for device, index in dict.fromkeys((attachment.device, attachment.ifindex) for attachment in attached):
        yield HooksAdd(namespace=namespace, device=device, index=index)
    for attachment in attached:
        yield FilterAttach(
            namespace=namespace,
            device=attachment.device,
            index=attachment.ifindex,
            direction=Direction(attachment.hook),
            program=attachment.program,
            name=attachment.filter_name,
            pins=place,
        )
