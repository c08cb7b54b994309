"""What of the host a lab needs beside what every lab does, by the names of the provider's probes. Pure.

It stands alone because a host is asked before anything is planned.
"""

from __future__ import annotations

from labctl.model.fabric import FabricType
from labctl.model.lab import Encapsulation, KubeProxy, Lab
from labctl.model.pod_network import PLUGIN_DIRECTORY, Flooding, NetworkType

FRR, PLUGINS = "FRR", "CNI plugins"
VXLAN, GENEVE, MACVLAN, IPVLAN = "vxlan", "geneve", "macvlan", "ipvlan"
MULTICAST, MULTIPATH = "multicast", "multipath routes"
CGROUP2 = "cgroup2"
KUBE_PROXY = {KubeProxy.IPTABLES: "kube-proxy in iptables", KubeProxy.NFTABLES: "kube-proxy in nftables"}

PLUGIN_FOLDER = PLUGIN_DIRECTORY
PLUGIN_PROGRAMS = ("ptp", "bridge", "host-local", "tuning", "portmap", "bandwidth")
PLUGINS_FOR = "labs with podNetwork cni"
"""Where the plugins are looked for, those of the shipped chain and the commonest ones, and which labs have them."""


def needs(lab: Lab) -> tuple[str, ...]:
    network, fabric = lab.pod_network, lab.fabric
    wanted = {
        VXLAN: lab.datapath.encapsulation is Encapsulation.VXLAN,
        GENEVE: lab.datapath.encapsulation is Encapsulation.GENEVE,
        MACVLAN: network.type is NetworkType.MACVLAN,
        IPVLAN: network.type is NetworkType.IPVLAN,
        MULTICAST: network.mode is Flooding.MULTICAST,
        MULTIPATH: fabric.type in (FabricType.CLOS, FabricType.CUSTOM),
        FRR: fabric.learns or network.needs_frr,
        PLUGINS: network.type is NetworkType.CNI and network.plugin_directory is None,
        CGROUP2: bool(lab.services) and lab.datapath.kube_proxy_replacement,
    }
    by_rules = network.type is NetworkType.CILIUM and not lab.datapath.kube_proxy_replacement
    return (
        *(name for name, is_wanted in wanted.items() if is_wanted),
        *((KUBE_PROXY[lab.datapath.kube_proxy],) if by_rules else ()),
    )
