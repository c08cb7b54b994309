"""The steps of a plan that make pods, and the eBPF programs that carry their packets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from labctl.datapath.attachments import Attachment, attachments
from labctl.datapath.contents import map_contents
from labctl.datapath.loader import object_path
from labctl.model import interfaces
from labctl.model.lab import Lab, Node, Pod
from labctl.model.plan import Action, Step
from labctl.names import namespace_of
from labctl.providers.netns.actions import (
    AddressAdd,
    Device,
    LinkUp,
    NamespaceAdd,
    NamespaceDelete,
    RouteAdd,
    Sysctls,
    VethAdd,
)
from labctl.providers.netns.datapath_actions import DatapathLoad, Direction, FilterAttach, HooksAdd, MapsFill, pins
from labctl.providers.netns.mark import mark_of
from labctl.system.rtnetlink import RouteScope

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
