"""How packets between pods are carried: the choices a scenario makes, as closed sets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HostRouting(StrEnum):
    """Who moves a packet through the node: the kernel's stack (legacy) or eBPF redirects (bpf)."""

    LEGACY = "legacy"
    BPF = "bpf"


class Encapsulation(StrEnum):
    """How a packet crosses from node to node."""

    VXLAN = "vxlan"
    NATIVE = "native"


class Masquerade(StrEnum):
    """Who rewrites the source address of what leaves the cluster."""

    IPTABLES = "iptables"
    BPF = "bpf"


class Fault(StrEnum):
    """A defect put into the lab on purpose, for lessons and for labctl's own tests.

    Nothing that proves or judges a lab may read this: a fault has to be found by looking.
    """

    NO_REDIRECT_PEER = "no-redirect-peer"
    WRONG_VTEP = "wrong-vtep"
    WRONG_VNI = "wrong-vni"
    MISSING_NEIGHBOUR = "missing-neighbour"
    NETFILTER_DROP = "netfilter-drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Datapath:
    """The datapath that a scenario asks for.

    `extra_iptables_rules` is a count of rules per node beyond those that a Cilium node carries; no packet
    matches them, but every packet that crosses the host's netfilter walks past them.
    `extra_delay_ns` is a busy-wait per packet in the eBPF programs, the known slowdown that the
    comparison is tested with.
    """

    host_routing: HostRouting
    encapsulation: Encapsulation
    masquerade: Masquerade
    kube_proxy_replacement: bool
    extra_iptables_rules: int = 0
    extra_delay_ns: int = 0
    faults: tuple[Fault, ...] = ()

    def asked(self) -> dict[str, object]:
        """The mode as the scenario's own words, for reports (`modeInForce[].asked`)."""
        return {
            "hostRouting": str(self.host_routing),
            "encapsulation": str(self.encapsulation),
            "masquerade": str(self.masquerade),
            "kubeProxyReplacement": self.kube_proxy_replacement,
        }
