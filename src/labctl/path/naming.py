"""Names for the addresses that a packet carries: whose MAC, which node's VTEP, whose identity a VNI is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from labctl.model.lab import Lab, Pair
from labctl.model.path import HopEnvelope, Named, TraceTap
from labctl.path.sighting import Envelope
from labctl.path.signature import vtep_roles


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What is known by address. `identities` holds pods' names and labels by security identity."""

    macs: Mapping[str, Named]
    vteps: Mapping[str, Named]
    identities: Mapping[int, tuple[tuple[str, ...], tuple[str, ...]]]
    identity_of: Mapping[str, int]

    def mac(self, address: str) -> Named:
        return self.macs.get(address, Named(address=address))

    def envelope(self, seen: Envelope, inner_src: str) -> HopEnvelope:
        pods, labels = self.identities.get(seen.vni, ((), ()))
        return HopEnvelope(
            src=self.vteps.get(seen.src, Named(address=seen.src)),
            dst=self.vteps.get(seen.dst, Named(address=seen.dst)),
            src_mac=self.mac(seen.src_mac),
            dst_mac=self.mac(seen.dst_mac),
            src_port=seen.src_port,
            dst_port=seen.dst_port,
            ttl=seen.ttl,
            vni=seen.vni,
            identity_pods=pods,
            identity_labels=labels,
            is_senders=self.identity_of.get(inner_src) == seen.vni,
        )


def names_of(lab: Lab, pair: Pair, taps: Sequence[TraceTap], devices: Iterable[tuple[str, str]]) -> Names:
    """From the lab's facts and from `devices`: (role, MAC) as they are on the running lab, which go first."""
    by_role = {str(tap.role): tap.name for tap in taps}
    macs: dict[str, Named] = {}

    def know(mac: str, role: str, owner: str) -> None:
        if mac:
            macs.setdefault(mac.lower(), Named(address=mac.lower(), role=role, owner=owner))

    for role, mac in devices:
        know(mac, role, by_role.get(role, ""))
    for pod in lab.pods:
        know(pod.mac, "", f"{pod.name}:eth0")
        know(pod.lxc_mac, "", f"{pod.node}:{pod.lxc}")
    for node in lab.nodes:
        know(node.mac, "", f"{node.name}'s uplink")
    roles = vtep_roles(lab, pair)
    addresses = {node.name: str(node.address.ip) for node in lab.nodes}
    identities: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for pod in lab.pods:
        pods, _ = identities.get(pod.identity, ((), ()))
        labels = tuple(f"{key}={value}" for key, value in sorted(pod.labels.items()))
        identities[pod.identity] = ((*pods, pod.name), labels)
    return Names(
        macs=macs,
        vteps={ip: Named(address=ip, role=roles.get(ip, ""), owner=name) for name, ip in addresses.items()},
        identities=identities,
        identity_of={str(pod.address): pod.identity for pod in lab.pods},
    )
