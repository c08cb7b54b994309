"""What the kernels of the machines must be able to do for Cilium and the kubelet. Pure data.

Source: Cilium's system requirements (base, tunnel, iptables masquerading), without what only L7 and IPsec need.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.model.datapath import Datapath, Encapsulation, Masquerade
from labctl.providers.cilium.versions import Version

MODULES = ("overlay", "br_netfilter", "ip_tables", "xt_comment", "xt_mark", "xt_set", "ip_set_hash_ip", "sch_ingress")
VXLAN_MODULE = "vxlan"

SYSCTLS: dict[str, str] = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "fs.inotify.max_user_instances": "512",
    "fs.inotify.max_user_watches": "524288",
}

RP_FILTER = "net.ipv4.conf.lxc*.rp_filter = 0\nnet.ipv4.conf.all.rp_filter = 0\n"
"""systemd 245 and later turn rp_filter on for every new device, which breaks Cilium up to 1.13 (cilium#10645)."""


@dataclass(frozen=True, slots=True)
class KernelOption:
    """An option that must be `y` or `m`, and the module that it is in the second case. Without one that is not
    `required` Cilium runs: it is told, and stops nothing."""

    name: str
    module: str
    needed_for: str
    required: bool = True

    @property
    def line(self) -> str:
        """As `playbooks/files/kernel-check.sh` reads it."""
        return f"{self.name}:{self.module}:{self.needed_for}:{'must' if self.required else 'may'}"


_BASE = (
    KernelOption("CONFIG_BPF", "", "eBPF"),
    KernelOption("CONFIG_BPF_SYSCALL", "", "eBPF"),
    KernelOption("CONFIG_BPF_JIT", "", "eBPF at full speed", required=False),
    KernelOption("CONFIG_CGROUP_BPF", "", "services without kube-proxy"),
    KernelOption("CONFIG_NET_CLS_BPF", "cls_bpf", "Cilium's programs on devices"),
    KernelOption("CONFIG_NET_CLS_ACT", "", "Cilium's programs on devices"),
    KernelOption("CONFIG_NET_SCH_INGRESS", "sch_ingress", "Cilium's programs on devices"),
    KernelOption("CONFIG_CRYPTO_SHA1", "sha1_generic", "loading programs by tc", required=False),
    KernelOption("CONFIG_CRYPTO_USER_API_HASH", "algif_hash", "loading programs by tc", required=False),
    KernelOption("CONFIG_PERF_EVENTS", "", "cilium monitor"),
    KernelOption("CONFIG_FIB_RULES", "", "routing"),
    KernelOption("CONFIG_NETFILTER_XT_MATCH_COMMENT", "xt_comment", "the kubelet's and Cilium's rules"),
    KernelOption("CONFIG_NETFILTER_XT_MARK", "xt_mark", "the kubelet's and Cilium's rules"),
    KernelOption("CONFIG_VETH", "veth", "pods"),
    KernelOption("CONFIG_OVERLAY_FS", "overlay", "containers"),
)
_IP_SET = (
    KernelOption("CONFIG_NETFILTER_XT_SET", "xt_set", "masquerade: iptables"),
    KernelOption("CONFIG_IP_SET", "ip_set", "masquerade: iptables"),
    KernelOption("CONFIG_IP_SET_HASH_IP", "ip_set_hash_ip", "masquerade: iptables"),
)
_VXLAN = (KernelOption("CONFIG_VXLAN", "vxlan", "encapsulation: vxlan"),)


def kernel_options(datapath: Datapath) -> tuple[KernelOption, ...]:
    ip_set = _IP_SET if datapath.masquerade is Masquerade.IPTABLES else ()
    return _BASE + ip_set + (_VXLAN if datapath.encapsulation is Encapsulation.VXLAN else ())


def kernel_modules(datapath: Datapath) -> tuple[str, ...]:
    return MODULES + ((VXLAN_MODULE,) if datapath.encapsulation is Encapsulation.VXLAN else ())


def needs_rp_filter_override(cilium: Version) -> bool:
    """Up to 1.13; from 1.14 on the chart's own `sysctlfix` does it."""
    return cilium.series < (1, 14)
