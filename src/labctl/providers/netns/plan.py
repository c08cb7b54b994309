"""From a resolved lab to the plan that builds it out of namespaces. Pure: what is done is decided here, and only here.

The topology is that of a Cilium cluster seen from its network: addresses, routes and devices are named and set as
on a real node (recorded: Cilium v1.13.12). What differs, and why, is in docs/adr/0004-netns-topology.md.

The steps of a plan that make pods, and the eBPF programs that carry their packets. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from labctl.datapath.contents import Attachment, attachments, map_contents
from labctl.datapath.loader import object_path
from labctl.errors import UsageError
from labctl.model import interfaces
from labctl.model.lab import Encapsulation, Fault, Lab, Node, Pod
from labctl.model.plan import Action, Plan, Step
from labctl.names import UNDERLAY, namespace_of
from labctl.planning.shell import remark, word
from labctl.providers.netns import rules
from labctl.providers.netns.actions import (
    AddressAdd,
    BridgeAdd,
    DatapathLoad,
    Device,
    Direction,
    FilterAttach,
    HooksAdd,
    IptablesRestore,
    LinkUp,
    MapsFill,
    NamespaceAdd,
    NamespaceDelete,
    NeighbourAdd,
    RecordDelete,
    RecordWrite,
    RouteAdd,
    Sysctls,
    VethAdd,
    VxlanAdd,
    pins,
)
from labctl.providers.netns.record import as_document, mark_of, part_names, record_path
from labctl.system import netns
from labctl.system.rtnetlink import RouteScope

_FORWARDING = (
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
)
_BRIDGE_ONLY = (("net.bridge.bridge-nf-call-iptables", "0"),)
"""The underlay is a wire. Where br_netfilter is built in, bridged packets would walk through netfilter there too."""


def refuse(lab: Lab) -> None:
    """Raises UsageError when two parts of the lab would be the same namespace, for Services, and for a choice that
    changes nothing."""
    _refuse_same_names(lab)
    _refuse_services(lab)
    _refuse_kube_proxy(lab)


def plan(lab: Lab) -> Plan:
    """Raises UsageError as `refuse` does."""
    refuse(lab)
    return Plan(
        lab=lab.name,
        provider="netns",
        steps=(
            _underlay(lab),
            *(_node(lab, node) for node in lab.nodes),
            _netfilter(lab),
            *datapath_steps(lab),
            *pod_steps(lab),
            _record(lab),
        ),
        preamble=_preamble(lab),
    )


def _refuse_services(lab: Lab) -> None:
    if lab.services:
        raise UsageError(
            what=f"the provider netns has no Services, and scenario {lab.scenario} has {len(lab.services)}",
            cause="labctl's own programs do not translate Service addresses; real Cilium does",
            remedy="--provider kind, or a scenario without services:",
            key="services",
        )


def _refuse_kube_proxy(lab: Lab) -> None:
    if not lab.datapath.kube_proxy_replacement:
        raise UsageError(
            what="kubeProxyReplacement: false does nothing with the provider netns",
            cause="a netns lab has no Services: there is no kube-proxy and nothing to replace it with",
            remedy="true (the default), or --provider kind, which then has a kube-proxy",
            key="datapath.kubeProxyReplacement",
        )


def _refuse_same_names(lab: Lab) -> None:
    twice = [name for name, count in Counter(part_names(lab)).items() if count > 1]
    if twice:
        raise UsageError(
            what=f"the name {twice[0]} is used twice in lab {lab.name}",
            cause=f"with the netns provider every node, every pod and '{UNDERLAY}' is a namespace of its own",
            remedy="rename the node or the pod in the scenario",
            key="pods",
        )


def _underlay(lab: Lab) -> Step:
    namespace = namespace_of(lab.name, UNDERLAY)
    bridge = device_of(lab, UNDERLAY, interfaces.BRIDGE, interfaces.BRIDGE_INDEX)
    return Step(
        id="underlay",
        title="underlay: a bridge in a namespace of its own, the wire between the nodes",
        actions=(
            NamespaceAdd(namespace=namespace, alias=mark_of(lab, "underlay")),
            Sysctls(namespace=namespace, settings=NO_IPV6),
            Sysctls(namespace=namespace, settings=_BRIDGE_ONLY, if_there=True),
            BridgeAdd(namespace=namespace, device=bridge),
        ),
        undo=(NamespaceDelete(namespace=namespace),),
    )


def _node(lab: Lab, node: Node) -> Step:
    namespace = namespace_of(lab.name, node.name)
    return Step(
        id=f"node-{node.name}",
        title=f"node {node.name}: uplink {node.address}, cilium_host {node.router}, routes",
        actions=(
            NamespaceAdd(namespace=namespace, alias=mark_of(lab, "node")),
            Sysctls(namespace=namespace, settings=NO_IPV6 + _FORWARDING),
            *_node_links(lab, node, namespace),
            Sysctls(namespace=namespace, settings=tuple(_own_traffic())),
            AddressAdd(
                namespace=namespace, device=interfaces.UPLINK, index=interfaces.UPLINK_INDEX, address=node.address
            ),
            AddressAdd(
                namespace=namespace,
                device=interfaces.CILIUM_HOST,
                index=interfaces.CILIUM_HOST_INDEX,
                address=IPv4Interface(node.router),
            ),
            *_node_routes(lab, node, namespace),
            *_neighbours(lab, node, namespace),
        ),
        undo=(NamespaceDelete(namespace=namespace),),
    )


def _node_links(lab: Lab, node: Node, namespace: str) -> Iterable[Action]:
    port = interfaces.bridge_port(node.index)
    yield VethAdd(
        namespace=namespace_of(lab.name, UNDERLAY),
        device=device_of(lab, UNDERLAY, port, interfaces.bridge_port_index(node.index)),
        peer=device_of(lab, node.name, interfaces.UPLINK, interfaces.UPLINK_INDEX, mac=node.mac),
        peer_namespace=namespace,
        bridge=(interfaces.BRIDGE, interfaces.BRIDGE_INDEX),
    )
    yield VethAdd(
        namespace=namespace,
        device=device_of(lab, node.name, interfaces.CILIUM_NET, interfaces.CILIUM_NET_INDEX, arp=False),
        peer=device_of(lab, node.name, interfaces.CILIUM_HOST, interfaces.CILIUM_HOST_INDEX, arp=False),
    )
    if lab.datapath.encapsulation is Encapsulation.VXLAN:
        yield VxlanAdd(
            namespace=namespace,
            device=device_of(lab, node.name, interfaces.CILIUM_VXLAN, interfaces.CILIUM_VXLAN_INDEX),
            port=interfaces.VXLAN_PORT,
        )
    yield LinkUp(namespace=namespace, device=interfaces.CILIUM_HOST, index=interfaces.CILIUM_HOST_INDEX)
    yield LinkUp(namespace=namespace, device=interfaces.UPLINK, index=interfaces.UPLINK_INDEX)


def _own_traffic() -> Iterable[tuple[str, str]]:
    """What goes between cilium_host and cilium_net has the node's own address as source."""
    for device in (interfaces.CILIUM_HOST, interfaces.CILIUM_NET):
        yield f"net.ipv4.conf.{device}.accept_local", "1"
        yield f"net.ipv4.conf.{device}.send_redirects", "0"


def _node_routes(lab: Lab, node: Node, namespace: str) -> Iterable[RouteAdd]:
    def by_cilium_host(destination: IPv4Network, mtu: int | None = None) -> RouteAdd:
        return RouteAdd(
            namespace=namespace,
            device=interfaces.CILIUM_HOST,
            index=interfaces.CILIUM_HOST_INDEX,
            destination=destination,
            gateway=node.router,
            source=node.router,
            mtu=mtu,
        )

    yield RouteAdd(
        namespace=namespace,
        device=interfaces.CILIUM_HOST,
        index=interfaces.CILIUM_HOST_INDEX,
        destination=IPv4Network(node.router),
        scope=RouteScope.LINK,
    )
    yield by_cilium_host(node.pod_cidr)
    for other in lab.nodes:
        if other is node:
            continue
        if lab.datapath.encapsulation is Encapsulation.VXLAN:
            yield by_cilium_host(other.pod_cidr, lab.network.route_mtu)
        else:
            yield RouteAdd(
                namespace=namespace,
                device=interfaces.UPLINK,
                index=interfaces.UPLINK_INDEX,
                destination=other.pod_cidr,
                gateway=other.address.ip,
            )


def _neighbours(lab: Lab, node: Node, namespace: str) -> Iterable[NeighbourAdd]:
    """Every other node by its MAC; with the fault, by this node's own. A frame to a MAC that nobody has would be
    flooded, and eBPF host routing takes what is flooded; one to the sender itself a bridge gives to nobody."""
    missing = Fault.MISSING_NEIGHBOUR in lab.datapath.faults
    for other in lab.nodes:
        if other is not node:
            yield NeighbourAdd(
                namespace=namespace,
                device=interfaces.UPLINK,
                index=interfaces.UPLINK_INDEX,
                address=other.address.ip,
                mac=node.mac if missing else other.mac,
            )


def _netfilter(lab: Lab) -> Step:
    """One step for all nodes: each is a process, and they run at the same time."""
    return Step(
        id="netfilter",
        title=f"netfilter: {rules.count_of(lab)} rules on every node, and connection tracking",
        actions=tuple(_restore(lab, node) for node in lab.nodes),
    )


def _restore(lab: Lab, node: Node) -> IptablesRestore:
    of_node = rules.rules_of(lab, node)
    return IptablesRestore(
        namespace=namespace_of(lab.name, node.name),
        rules=rules.as_restore(of_node),
        optional=tuple(rule.line() for rule in of_node if rule.needs),
    )


def _record(lab: Lab) -> Step:
    path = record_path(lab.name)
    return Step(
        id="record",
        title="record: the lab's facts, for labctl status",
        actions=(RecordWrite(path=path, document=as_document(lab)),),
        undo=(RecordDelete(path=path),),
    )


def _preamble(lab: Lab) -> str:
    place = word(pins(lab.name))
    first = word(netns.path_of(namespace_of(lab.name, UNDERLAY)))
    said = word(f"the lab {lab.name} is there already; remove it with: labctl down {lab.name}")
    return f"""\
# The datapath is labctl's own: Cilium's hooks and helpers, but not Cilium.
{remark(f"Everything is made inside the lab's own namespaces; to take it all away: labctl down {lab.name}")}
if [ -e {first} ]; then
    printf '%s\\n' {said} >&2
    exit 1
fi

# bpftool and tc hand programs to each other by names in a bpffs. It is needed only while the lab is built:
# what is attached stays.
mkdir -p {place}
mount -t bpf bpf {place}
trap {word(f"umount {place}; rmdir {place}")} EXIT
"""


NO_IPV6 = (("net.ipv6.conf.all.disable_ipv6", "1"),)
"""Neither router solicitations nor multicast reports of IPv6 stand in captures; the labs are IPv4. `all` is also the
setting of devices that are made later."""
_ANYWHERE = IPv4Network("0.0.0.0/0")


def device_of(lab: Lab, part: str, name: str, index: int, *, mac: str = "", arp: bool = True) -> Device:
    """A device of a part of the lab; its MAC follows from both names unless it is given."""
    return Device(name=name, index=index, mac=mac or interfaces.device_mac(part, name), mtu=lab.network.mtu, arp=arp)


def datapath_steps(lab: Lab) -> Iterator[Step]:
    """Per node: its programs and maps, attached to every device that is not a pod's."""
    for node in lab.nodes:
        of_pods = {pod.lxc for pod in lab.pods_on(node.name)}
        yield _datapath(lab, node, [one for one in attachments(lab, node.name) if one.device not in of_pods])


def pod_steps(lab: Lab) -> Iterator[Step]:
    """Per pod, node by node: its namespace, its veth pair and the programs on it, its routes."""
    for node in lab.nodes:
        indexes = interfaces.lxc_indexes(lab, node.name)
        by_device: dict[str, list[Attachment]] = {}
        for attachment in attachments(lab, node.name):
            by_device.setdefault(attachment.device, []).append(attachment)
        for pod in lab.pods_on(node.name):
            yield _pod(lab, node, pod, indexes[pod.name], by_device.get(pod.lxc, ()))


def _datapath(lab: Lab, node: Node, attached: Sequence[Attachment]) -> Step:
    namespace = namespace_of(lab.name, node.name)
    place = pins(lab.name) / node.name
    mode = lab.datapath
    return Step(
        id=f"datapath-{node.name}",
        title=f"node {node.name}: labctl's eBPF programs, {mode.host_routing} host routing, {mode.encapsulation}",
        actions=(
            DatapathLoad(
                namespace=namespace,
                host_routing=mode.host_routing,
                encapsulation=mode.encapsulation,
                object=object_path(mode.host_routing, mode.encapsulation),
                pins=place,
            ),
            *(
                MapsFill(namespace=namespace, map=name, entries=entries, pins=place)
                for name, entries in map_contents(lab, node.name).items()
                if entries
            ),
            *_attach(lab, namespace, place, attached),
        ),
    )


def _attach(lab: Lab, namespace: str, place: Path, attached: Sequence[Attachment]) -> Iterable[Action]:
    """Every device's hooks once, then each of its programs."""
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


def _pod(lab: Lab, node: Node, pod: Pod, index: int, attached: Sequence[Attachment]) -> Step:
    namespace = namespace_of(lab.name, pod.name)
    on_node = namespace_of(lab.name, node.name)
    device, inside = interfaces.POD_DEVICE, interfaces.POD_DEVICE_INDEX
    return Step(
        id=f"pod-{pod.name}",
        title=f"pod {pod.name} on {pod.node}: {pod.address} behind {pod.lxc}",
        actions=(
            NamespaceAdd(namespace=namespace, alias=mark_of(lab, "pod")),
            Sysctls(namespace=namespace, settings=NO_IPV6),
            VethAdd(
                namespace=on_node,
                device=device_of(lab, node.name, pod.lxc, index, mac=pod.lxc_mac),
                peer=device_of(lab, pod.name, device, inside, mac=pod.mac),
                peer_namespace=namespace,
            ),
            *_attach(lab, on_node, pins(lab.name) / node.name, attached),
            LinkUp(namespace=namespace, device=device, index=inside),
            AddressAdd(namespace=namespace, device=device, index=inside, address=IPv4Interface(pod.address)),
            RouteAdd(
                namespace=namespace,
                device=device,
                index=inside,
                destination=IPv4Network(node.router),
                scope=RouteScope.LINK,
            ),
            RouteAdd(
                namespace=namespace,
                device=device,
                index=inside,
                destination=_ANYWHERE,
                gateway=node.router,
                mtu=lab.network.route_mtu,
            ),
        ),
        undo=(NamespaceDelete(namespace=namespace),),
    )
