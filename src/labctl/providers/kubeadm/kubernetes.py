"""What differs from one Kubernetes version to the next: configuration API, spelling, defaults, skew. Pure.

Source: the kubeadm API's own history (kubernetes#101129, #114540, #125029, #136016) and the version skew policy.

What the kernels of the machines must be able to do for Cilium and the kubelet. Pure data.

Source: Cilium's system requirements (base, tunnel, iptables masquerading), without what only L7 and IPsec need.
"""

from __future__ import annotations

import re
from enum import StrEnum

from labctl.errors import UsageError
from labctl.model.lab import Datapath, Encapsulation, Masquerade
from labctl.model.versions import Version
from labctl.values import dataclass

OLDEST = (1, 20)
_VERSION = re.compile(r"v?(\d+\.\d+(?:\.\d+)?)")


def parse_version(text: str) -> Version:
    """The first version in what a program printed: `Kubernetes v1.31.4`, `1.20.2-00`. Raises ValueError."""
    found = _VERSION.search(text)
    if found is None:
        raise ValueError(f"no version in {text!r}")
    return Version.parse(found[1])


class ConfigApi(StrEnum):
    """The version of kubeadm's configuration API."""

    V1BETA2 = "kubeadm.k8s.io/v1beta2"
    V1BETA3 = "kubeadm.k8s.io/v1beta3"
    V1BETA4 = "kubeadm.k8s.io/v1beta4"


class SkipProxy(StrEnum):
    """How kube-proxy is left out: `--skip-phases` (all versions know it), the list in the file, or the switch."""

    FLAG = "--skip-phases=addon/kube-proxy"
    SKIP_PHASES = "InitConfiguration.skipPhases"
    DISABLED = "ClusterConfiguration.proxy.disabled"


def config_api(version: Version) -> ConfigApi:
    if version.series <= (1, 21):
        return ConfigApi.V1BETA2
    return ConfigApi.V1BETA3 if version.series <= (1, 30) else ConfigApi.V1BETA4


def skip_proxy(version: Version) -> SkipProxy:
    match config_api(version):
        case ConfigApi.V1BETA2:
            return SkipProxy.FLAG
        case ConfigApi.V1BETA3:
            return SkipProxy.SKIP_PHASES
        case ConfigApi.V1BETA4:
            return SkipProxy.DISABLED


def cri_socket(version: Version, path: str) -> str:
    """The socket as this kubeadm wants it: a URL since 1.24, a plain path before."""
    return f"unix://{path}" if version.series >= (1, 24) else path


def default_image_repository(version: Version) -> str:
    """The vendor's registry: k8s.gcr.io was frozen in April 2023 and these releases were the first without it."""
    last_old = {22: 17, 23: 15, 24: 9}
    if version.minor <= 21 or version.patch <= last_old.get(version.minor, -1):
        return "k8s.gcr.io"
    return "registry.k8s.io"


def refuse_unknown(version: Version) -> None:
    """Raises UsageError for a Kubernetes that labctl has no kubeadm configuration for."""
    if version.series < OLDEST:
        raise UsageError(
            what=f"Kubernetes {version} is older than labctl supports",
            cause="labctl writes the configuration of kubeadm 1.20 and later",
            remedy="the nearest supported version: --set kubeadm.kubernetes=1.20.15",
            key="kubeadm.kubernetes",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What one machine has: versions as the programs themselves print them, None where they are not there."""

    host: str
    kubeadm: Version | None
    kubelet: Version | None
    kubectl: Version | None = None


def skew(asked: Version, installed: Installed) -> tuple[str, ...]:
    """What about these versions cannot work, one sentence each; empty when all is well.

    kubeadm builds its own minor version and the one before; the kubelet may be older than the API server by three
    minors (two before 1.28) and never newer.
    """
    problems = []
    if installed.kubeadm is not None:
        behind = installed.kubeadm.minor - asked.minor
        if behind not in (0, 1):
            problems.append(
                f"kubeadm {installed.kubeadm} builds Kubernetes {_line(installed.kubeadm, 0)} and "
                f"{_line(installed.kubeadm, -1)}, not {asked}"
            )
    if installed.kubelet is not None:
        allowed = 3 if asked.series >= (1, 28) else 2
        if installed.kubelet.series > asked.series:
            problems.append(f"kubelet {installed.kubelet} is newer than the API server {asked} would be")
        elif asked.minor - installed.kubelet.minor > allowed:
            problems.append(
                f"kubelet {installed.kubelet} is more than {allowed} minor versions older than the API server {asked}"
            )
    return tuple(problems)


def nearest(asked: Version, installed: Installed) -> Version | None:
    """The version to ask for instead: what the machine's kubeadm builds by itself."""
    return installed.kubeadm if installed.kubeadm is not None and skew(asked, installed) else None


def _line(version: Version, offset: int) -> str:
    return f"{version.major}.{version.minor + offset}"


MODULES = ("overlay", "br_netfilter", "ip_tables", "xt_comment", "xt_mark", "xt_set", "ip_set_hash_ip", "sch_ingress")

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
    `required` Cilium runs: it is reported, and stops nothing."""

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
_TUNNELS = {
    Encapsulation.VXLAN: (KernelOption("CONFIG_VXLAN", "vxlan", "encapsulation: vxlan"),),
    Encapsulation.GENEVE: (KernelOption("CONFIG_GENEVE", "geneve", "encapsulation: geneve"),),
}


def kernel_options(datapath: Datapath) -> tuple[KernelOption, ...]:
    ip_set = _IP_SET if datapath.masquerade is Masquerade.IPTABLES else ()
    return _BASE + ip_set + _TUNNELS.get(datapath.encapsulation, ())


def kernel_modules(datapath: Datapath) -> tuple[str, ...]:
    return MODULES + tuple(option.module for option in _TUNNELS.get(datapath.encapsulation, ()))


def needs_rp_filter_override(cilium: Version) -> bool:
    """Up to 1.13; from 1.14 on the chart's own `sysctlfix` does it."""
    return cilium.series < (1, 14)
