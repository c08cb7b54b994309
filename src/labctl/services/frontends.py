"""What a lab's nodes have to translate: the scenario's Services, and those that only fill the tables.

eBPF maps, kube-proxy's rules and the objects of a Kubernetes cluster are all made from this one list, so that a
comparison between them compares the same Services.

A filler (`datapath.extraServices`) is a ClusterIP Service that no client uses. Its one backend is an address of RFC
2544's range for benchmarks, which no packet of a lab goes to.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import count

from labctl.model.lab import Lab, Service, ServiceProtocol, TrafficPolicy
from labctl.planning.resolve import service_address
from labctl.values import dataclass

FILLER = "filler-"
FILLER_PORT = 80
FILLER_TARGET_PORT = 8080
_FIRST_FILLER_BACKEND = IPv4Address("198.19.0.0")
"""Half of 198.18.0.0/15: 65,536 addresses. The extra iptables rules have the other half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One place that answers. `node` is the pod's, and empty for a filler's backend, which is nowhere."""

    address: IPv4Address
    port: int
    node: str = ""

    @property
    def name(self) -> str:
        """As kube-proxy writes it: `10.244.0.10:5205`."""
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontend:
    """One Service with its backends' addresses. `namespace` is the Kubernetes namespace that its names are made with;
    `node_port` is None but for NodePort. Without backends, connections to it are refused."""

    namespace: str
    name: str
    address: IPv4Address
    port: int
    protocol: ServiceProtocol
    backends: tuple[Backend, ...]
    node_port: int | None = None
    policy: TrafficPolicy = TrafficPolicy.CLUSTER

    @property
    def full_name(self) -> str:
        """As kube-proxy's comments have it, of a port without a name: `labctl-demo/web`."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_filler(self) -> bool:
        is_nowhere = bool(self.backends) and not any(backend.node for backend in self.backends)
        return self.name.startswith(FILLER) and is_nowhere

    def local_backends(self, node: str) -> tuple[Backend, ...]:
        """Those on that node: all that `externalTrafficPolicy: Local` gives to what comes from outside."""
        return tuple(backend for backend in self.backends if backend.node == node)


def kubernetes_namespace(lab: str) -> str:
    """The Kubernetes namespace of a lab's pods and Services, which the names of kube-proxy's chains are made with."""
    return f"labctl-{lab}"


def frontends(lab: Lab) -> tuple[Frontend, ...]:
    """The scenario's Services in its order, then the fillers."""
    pods = {pod.name: pod for pod in lab.pods}
    own = (
        _frontend(
            lab,
            service,
            tuple(
                Backend(address=pods[name].address, port=service.target_port, node=pods[name].node)
                for name in service.backends
            ),
        )
        for service in lab.services
    )
    return (*own, *fillers(lab))


def fillers(lab: Lab) -> Iterator[Frontend]:
    """As many as `datapath.extraServices` asks for, with the first addresses that the scenario's Services leave."""
    namespace, taken = kubernetes_namespace(lab.name), {service.address for service in lab.services}
    addresses = (service_address(lab.network.service_cidr, number) for number in count())
    free = (address for address in addresses if address not in taken)
    for number, address in zip(range(lab.datapath.extra_services), free, strict=False):
        yield Frontend(
            namespace=namespace,
            name=f"{FILLER}{number + 1:05d}",
            address=address,
            port=FILLER_PORT,
            protocol=ServiceProtocol.TCP,
            backends=(Backend(address=_FIRST_FILLER_BACKEND + number, port=FILLER_TARGET_PORT),),
        )


def _frontend(lab: Lab, service: Service, backends: tuple[Backend, ...]) -> Frontend:
    return Frontend(
        namespace=kubernetes_namespace(lab.name),
        name=service.name,
        address=service.address,
        port=service.port,
        protocol=service.protocol,
        backends=backends,
        node_port=service.node_port,
        policy=service.external_traffic_policy,
    )
