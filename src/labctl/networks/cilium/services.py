"""Services in eBPF: what the maps of a node hold for them, and which programs run on whose sockets. Pure.

As in Cilium with `socketLB.hostNamespaceOnly`, `socketLB: false` leaves pods' sockets alone: their packets are
translated where they enter the node. The node's own processes are always served at the socket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address

from labctl.datapath.layout import ConfigFlag, Program
from labctl.datapath.service_maps import (
    BACKEND_KEY,
    TCP,
    UDP,
    BackendFlag,
    ServiceFlag,
    ServiceScope,
    pack_backend,
    pack_service,
    pack_service_key,
)
from labctl.model import interfaces
from labctl.model.lab import Lab, Node, Pod, ServiceProtocol, TrafficPolicy
from labctl.names import cgroup_of, namespace_of
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.cgroup import CgroupAdd, SocketAttach
from labctl.providers.netns.kinds.program import DeviceEntry, pins
from labctl.services.frontends import Backend, Frontend, frontends

Entries = tuple[tuple[bytes, bytes], ...]

ANY_NODE = IPv4Address(0)
NUMBERS = {ServiceProtocol.TCP: TCP, ServiceProtocol.UDP: UDP}
ALIVE = "alive"

_AT_SOCKET = (
    Program.SOCKET_CONNECT,
    Program.SOCKET_SENDMSG,
    Program.SOCKET_RECVMSG,
    Program.SOCKET_GETPEERNAME,
    Program.SOCKET_RELEASE,
)
_KNOWS_LOOPBACK = (Program.SOCKET_CONNECT, Program.SOCKET_SENDMSG)


def translates_services(lab: Lab) -> bool:
    """The lab has Services, and eBPF translates them."""
    return lab.in_force.kube_proxy_replacement and bool(lab.services or lab.datapath.extra_services)


def service_flags(lab: Lab) -> ConfigFlag:
    flags = ConfigFlag(0)
    if not lab.datapath.socket_lb:
        flags |= ConfigFlag.PACKET_LB
    if any(service.node_port is not None for service in lab.services):
        flags |= ConfigFlag.NODEPORT
    return flags


def service_contents(lab: Lab, node: str) -> Mapping[str, Entries]:
    """The entries of `services` and `backends` of a node."""
    here = lab.node(node)
    numbers: dict[tuple[Backend, ServiceProtocol], int] = {}
    services: list[tuple[bytes, bytes]] = []
    count = 0
    for frontend in frontends(lab):
        places = [(frontend.address, frontend.port, frontend.backends, frontend.backends)]
        if frontend.node_port is not None:
            external = frontend.local_backends(node) if frontend.policy is TrafficPolicy.LOCAL else frontend.backends
            for address in (here.address.ip, ANY_NODE):
                places.append((address, frontend.node_port, external, frontend.backends))
        for address, port, external, internal in places:
            count += 1
            of_place = _entries(frontend, address, port, external, internal, numbers, count)
            services.extend(of_place)
    backends = tuple(
        (
            BACKEND_KEY.pack(number),
            pack_backend(
                backend.address.packed,
                backend.port,
                NUMBERS[protocol],
                BackendFlag.WATCHED if backend.node else 0,
            ),
        )
        for (backend, protocol), number in numbers.items()
    )
    return {"services": tuple(services), "backends": backends}


def _entries(
    frontend: Frontend,
    address: IPv4Address,
    port: int,
    external: tuple[Backend, ...],
    internal: tuple[Backend, ...],
    numbers: dict[tuple[Backend, ServiceProtocol], int],
    count: int,
) -> Iterator[tuple[bytes, bytes]]:
    packed, protocol = address.packed, NUMBERS[frontend.protocol]
    is_node_port, is_split = port != frontend.port or address != frontend.address, external != internal
    flags = (ServiceFlag.NODEPORT if is_node_port else 0) | (ServiceFlag.TWO_SCOPES if is_split else 0)
    scopes = ((ServiceScope.EXTERNAL, external), (ServiceScope.INTERNAL, internal))
    for scope, backends in scopes if is_split else scopes[:1]:
        yield (
            pack_service_key(packed, port, protocol, 0, scope),
            pack_service(count=len(backends), number=count & 0xFFFF, flags=flags),
        )
        for slot, backend in enumerate(backends, start=1):
            number = numbers.setdefault((backend, frontend.protocol), len(numbers) + 1)
            yield pack_service_key(packed, port, protocol, slot, scope), pack_service(backend=number)


def cgroup_of_nodes(lab: Lab, node: str) -> str:
    """Where the node's own processes are."""
    return cgroup_of(lab.name, node, "node")


def cgroup_of_pods(lab: Lab, node: str) -> str:
    """Where the processes of the node's pods are."""
    return cgroup_of(lab.name, node, "pods")


def cgroup_for(lab: Lab, part: str) -> str | None:
    """The cgroup that processes of a node or pod belong into, or None where their sockets are not looked at."""
    if not translates_services(lab):
        return None
    if part in {node.name for node in lab.nodes}:
        return cgroup_of_nodes(lab, part)
    pod = next((pod for pod in lab.pods if pod.name == part), None)
    return cgroup_of_pods(lab, pod.node) if pod is not None and lab.datapath.socket_lb else None


def socket_objects(lab: Lab, node: Node) -> Iterator[Object]:
    """The cgroups of a node and of its pods, with the programs on each."""
    namespace, place = namespace_of(lab.name, node.name), pins(lab.name) / node.name
    groups = [(cgroup_of_nodes(lab, node.name), True)]
    if lab.datapath.socket_lb:
        groups.append((cgroup_of_pods(lab, node.name), False))
    for cgroup, is_node in groups:
        yield CgroupAdd(namespace=namespace, cgroup=cgroup)
        for program in _AT_SOCKET:
            function = f"{program.function}_node" if is_node and program in _KNOWS_LOOPBACK else program.function
            yield SocketAttach(namespace=namespace, cgroup=cgroup, hook=program.hook, program=function, pins=place)


def backend_devices(lab: Lab, pod: Pod) -> Iterator[Object]:
    """Makes a pod that is a backend known to every node as one that is there: as long as its lxc is."""
    if not translates_services(lab) or not any(pod.name in service.backends for service in lab.services):
        return
    for node in lab.nodes:
        yield DeviceEntry(
            namespace=namespace_of(lab.name, pod.node),
            device=pod.lxc,
            index=interfaces.lxc_indexes(lab, pod.node)[pod.name],
            holder=namespace_of(lab.name, node.name),
            map=ALIVE,
            key=pod.address.packed,
            pins=pins(lab.name) / node.name,
        )
