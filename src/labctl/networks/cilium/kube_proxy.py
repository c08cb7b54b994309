"""kube-proxy on the nodes of a lab that does not replace it: the rules that kube-proxy would have written. Pure.

It stands alone because `networks/cilium/network.py` has what every lab has. There is no kube-proxy process: the rules
are put there when the lab is built, once. What translates is the nodes' netfilter alone, for pods too. On a real
cluster with `kubeProxyReplacement: false`, Cilium's tc programs still translate the ClusterIPs of pods, and
kube-proxy's rules are for the nodes' own connections and for node ports.
"""

from __future__ import annotations

from collections.abc import Iterator

from labctl.model.lab import KubeProxy, Lab, Node
from labctl.names import namespace_of
from labctl.providers.netns.kinds.base import Object
from labctl.providers.netns.kinds.namespace import Sysctls
from labctl.providers.netns.kinds.netfilter import IptablesRestore, NftRestore
from labctl.services import nftables
from labctl.services.frontends import FILLER, Frontend
from labctl.services.iptables import iptables_rules

_LOCALHOST_TO_PODS = (("net.ipv4.conf.all.route_localnet", "1"),)
"""With it 127.0.0.1 and a node port lead to a pod. kube-proxy sets it in iptables mode alone."""
_OF_FILLERS = f"/{FILLER}"


def has_kube_proxy(lab: Lab) -> bool:
    """Whether the nodes' netfilter translates Services."""
    return not lab.in_force.kube_proxy_replacement


def kube_proxy(lab: Lab, node: Node, served: tuple[Frontend, ...]) -> Iterator[Object]:
    """What kube-proxy makes on a node, in the scenario's mode."""
    namespace = namespace_of(lab.name, node.name)
    if lab.datapath.kube_proxy is KubeProxy.NFTABLES:
        yield NftRestore(
            namespace=namespace,
            table=nftables.TABLE,
            rules=nftables.nftables_rules(
                served,
                node=node.name,
                node_address=node.address.ip,
                pod_cidr=lab.network.pod_cidr,
                service_cidr=lab.network.service_cidr,
            ),
            unread=_OF_FILLERS,
        )
        return
    yield IptablesRestore(
        namespace=namespace,
        rules=iptables_rules(served, node=node.name, pod_cidr=lab.network.pod_cidr),
        keeps=True,
        unread=_OF_FILLERS,
    )


def settings(lab: Lab, node: Node) -> Iterator[Object]:
    """The node's settings that kube-proxy changes."""
    if lab.datapath.kube_proxy is KubeProxy.IPTABLES:
        yield Sysctls(namespace=namespace_of(lab.name, node.name), settings=_LOCALHOST_TO_PODS)
