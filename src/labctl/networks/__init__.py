"""What connects the pods of a lab, one package each behind `base`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.model.lab import Lab, Pair
    from labctl.model.signature import ExpectedSignature
    from labctl.networks.base import PodNetwork


def expected_of(lab: Lab, pair: Pair, *, packets: int) -> ExpectedSignature | None:
    """What every tap shows of that many echo requests of the pair and of their replies: as the network says, across the
    lab's fabric. None where the network was there before labctl and only what is seen counts."""
    from labctl.fabrics import fabric_of

    if lab.cni:
        return None
    return fabric_of(lab).seen_through(lab, pair, network_of(lab).expected(lab, pair, packets=packets))


def node_devices(lab: Lab) -> Mapping[str, tuple[str, ...]]:
    """The devices of each node that pods' packets may pass, beside its uplink and those of its pods. Nothing of a
    network that was there before labctl."""
    from labctl.model.interfaces import LO, UPLINK

    found: dict[str, tuple[str, ...]] = {node.name: () for node in lab.nodes}
    if lab.cni:
        return found
    network = network_of(lab)
    of_others = {UPLINK, LO, *(pod.lxc for pod in lab.pods)}
    for pair in lab.pairs:
        for places in network.taps(lab, pair):
            for _, part, device in places:
                if part in found and device not in (*of_others, *found[part]):
                    found[part] += (device,)
    most = max(found.values(), key=len)
    if not lab.pod_network.chain:  # plugins make devices with a node's first pod, the other networks on every node
        found = {name: devices or most for name, devices in found.items()}
    # In one order: the taps of a server's node come from the wire to the pod.
    return {name: tuple(sorted(devices, key=[*most, *devices].index)) for name, devices in found.items()}


def network_of(lab: Lab) -> PodNetwork:
    """The pod network that the lab has."""
    from labctl.model.pod_network import Backend, Flooding, NetworkType  # not where only the seam is wanted

    choice = lab.pod_network
    match choice.type:
        case NetworkType.CILIUM:
            from labctl.networks.cilium.network import CiliumNetwork

            return CiliumNetwork()
        case NetworkType.FLANNEL:
            from labctl.networks.flannel import FlannelNetwork

            return FlannelNetwork(choice.backend or Backend.VXLAN)
        case NetworkType.CALICO:
            from labctl.networks.calico import CalicoNetwork

            return CalicoNetwork(choice.backend or Backend.VXLAN)
        case NetworkType.DOCKER:
            from labctl.networks.docker import DockerNetwork

            return DockerNetwork(snat=choice.snat)
        case NetworkType.VXLAN:
            from labctl.networks.vxlan import VxlanNetwork

            return VxlanNetwork(mode=choice.mode or Flooding.P2P, vni=choice.vni, group=choice.group)
        case NetworkType.CNI:
            from labctl.networks.cni import CniNetwork

            return CniNetwork(choice)
        case NetworkType.KINDNET | NetworkType.MANIFEST:
            from labctl.networks.found import FoundNetwork

            return FoundNetwork()
        case NetworkType.MACVLAN | NetworkType.IPVLAN:
            from labctl.networks.shared import SharedNetwork
            from labctl.providers.netns.kinds.link import Sharing

            return SharedNetwork(Sharing(choice.type))
