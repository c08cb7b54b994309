"""Which Cilium runs on which Kubernetes and kernel: what is tested, what is untested, what cannot work.

Sources: Cilium's documentation of each series, its charts' `kubeVersion`, its system requirements, and labctl's own
ground truth (1.13.12 and 1.16.0-rc.0 on Kubernetes 1.20.2, kernel 6.18). Pure.
"""

from __future__ import annotations

from dataclasses import MISSING, fields

from labctl.codec import key_of
from labctl.errors import UsageError
from labctl.model.fabric import ONE_BRIDGE
from labctl.model.fallback import BPF_HOST_ROUTING_KERNEL
from labctl.model.lab import Datapath, HostRouting, KubeProxy, Lab
from labctl.model.pod_network import CILIUM, NetworkType
from labctl.model.versions import Version
from labctl.networks.base import refuse_beyond_pods
from labctl.values import dataclass

OLDEST = (1, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supported:
    """What is known of one series of Cilium. `kubernetes` is the range its own end-to-end tests cover (first and
    last minor of Kubernetes 1.x, None where not known); `suggested` the pairing to try first; `kernel` the least."""

    kubernetes: tuple[int, int] | None
    suggested: str
    kernel: tuple[int, int]


SERIES: dict[tuple[int, int], Supported] = {
    (1, 10): Supported(kubernetes=None, suggested="1.21", kernel=(4, 9)),
    (1, 11): Supported(kubernetes=None, suggested="1.22", kernel=(4, 9)),
    (1, 12): Supported(kubernetes=(16, 24), suggested="1.24", kernel=(4, 9)),
    (1, 13): Supported(kubernetes=None, suggested="1.20", kernel=(4, 19)),
    (1, 14): Supported(kubernetes=(19, 26), suggested="1.26", kernel=(4, 19)),
    (1, 15): Supported(kubernetes=(26, 29), suggested="1.29", kernel=(4, 19)),
    (1, 16): Supported(kubernetes=(27, 30), suggested="1.30", kernel=(5, 4)),
    (1, 17): Supported(kubernetes=None, suggested="1.31", kernel=(5, 4)),
    (1, 18): Supported(kubernetes=(30, 33), suggested="1.33", kernel=(5, 10)),
    (1, 19): Supported(kubernetes=(32, 35), suggested="1.35", kernel=(5, 10)),
    (1, 20): Supported(kubernetes=None, suggested="1.36", kernel=(5, 10)),
}

RUN_HERE = {((1, 13), (1, 20)), ((1, 16), (1, 20))}
"""Series of Cilium and Kubernetes that labctl's ground truth was recorded on, outside upstream's tested range."""

KUBERNETES_OF_CHART = {(1, 10): (1, 16), (1, 16): (1, 21)}
"""From this Cilium series on, the chart's `kubeVersion` asks for at least that Kubernetes."""


def chart_minimum(cilium: Version) -> Version:
    """The Kubernetes version below which the chart refuses to render."""
    least = max(since for since in KUBERNETES_OF_CHART if since <= max(cilium.series, OLDEST))
    return Version(*KUBERNETES_OF_CHART[least])


def kube_version_to_render(cilium: Version, kubernetes: Version) -> Version:
    """The value of `helm template --kube-version`: the cluster's own version, or the chart's minimum where the chart
    asks for more than its agent needs (1.16 to 1.18 run on 1.16 and later)."""
    return max(kubernetes, chart_minimum(cilium))


ACTS = frozenset({"allow_fallback", "kube_proxy", "extra_services"})
"""The fields of `Datapath` beyond the mode that real Cilium, or what labctl installs beside it, follows."""


NFTABLES_SINCE = (1, 29)
"""kube-proxy has its nftables mode behind a feature gate from here on."""
NFTABLES_BY_DEFAULT = (1, 31)
"""From here on the gate is open by default."""
NFTABLES_GATE = "NFTablesProxyMode"


def refuse_proxy_mode(lab: Lab, kubernetes: Version) -> None:
    """Raises UsageError for a mode of kube-proxy that this Kubernetes does not have."""
    if lab.datapath.kube_proxy_replacement or lab.datapath.kube_proxy is not KubeProxy.NFTABLES:
        return
    if kubernetes.series < NFTABLES_SINCE:
        raise UsageError(
            what=f"kube-proxy of Kubernetes {kubernetes} has no nftables mode",
            cause="it came with Kubernetes 1.29",
            remedy="kubeProxy: iptables, or a newer Kubernetes",
            key="datapath.kubeProxy",
        )


def proxy_gates(lab: Lab, kubernetes: Version) -> dict[str, bool]:
    """The feature gates that kube-proxy needs for its mode."""
    needs = lab.datapath.kube_proxy is KubeProxy.NFTABLES and not lab.datapath.kube_proxy_replacement
    return {NFTABLES_GATE: True} if needs and kubernetes.series < NFTABLES_BY_DEFAULT else {}


OTHER_NETWORKS = {
    "kind": (NetworkType.KINDNET, NetworkType.MANIFEST),
    "kubeadm": (NetworkType.MANIFEST,),
}
"""Pod networks beside Cilium that a provider's clusters can have."""


_NOT_HERE = {
    "kubeadm": "kindnet comes with kind's node image; on machines its manifest is one as any other "
    "(podNetwork: {type: manifest, manifest: FILE})",
    "cluster": "the cluster has its network already: whatever it is, it is observed",
}


def has_cilium(lab: Lab) -> bool:
    """Whether labctl installs Cilium in the lab's cluster."""
    return not lab.pod_network.is_of_a_cluster


def refuse_networks(lab: Lab) -> None:
    """Raises UsageError for a pod network and a fabric that are built from namespaces only, and for what no other
    network than Cilium does."""
    others = OTHER_NETWORKS.get(lab.provider, ())
    if lab.pod_network.type in others:
        refuse_beyond_pods(lab)
    for key, chosen, usual in (("podNetwork", lab.pod_network, CILIUM), ("fabric", lab.fabric, ONE_BRIDGE)):
        if chosen != usual and not (key == "podNetwork" and lab.pod_network.type in others):
            because, elsewhere = "other pod networks and fabrics are built from network namespaces only", "netns"
            if key == "podNetwork" and lab.pod_network.is_of_a_cluster:
                because, elsewhere = _NOT_HERE[lab.provider], "kind"
            raise UsageError(
                what=f"{key} has no effect with the provider {lab.provider}",
                cause=because,
                remedy=f"--provider {elsewhere}, or a scenario without {key}:",
                key=key,
            )


def refuse_idle(lab: Lab) -> None:
    """Raises UsageError for what only labctl's own programs and rules do: on real Cilium it would be ignored."""
    refuse_networks(lab)
    for field in fields(lab.datapath):
        if (
            field.name not in ACTS
            and field.default is not MISSING
            and getattr(lab.datapath, field.name) != field.default
        ):
            key = key_of(Datapath, field.name)
            raise UsageError(
                what=f"{key} has no effect with the provider {lab.provider}",
                cause="labctl's own rules and programs implement it, and these nodes run Cilium's",
                remedy=f"--provider netns, or a scenario without {key}:",
                key=f"datapath.{key}",
            )


def refuse_impossible(
    *, cilium: Version, kubernetes: Version, kernel: Version | None, datapath: Datapath, allow_untested: bool
) -> tuple[str, ...]:
    """Raises UsageError for what cannot work, with the nearest that can; gives a warning for each untested pairing.

    `allow_untested` turns the refusals that rest on documentation into warnings; those that the programs
    themselves enforce stay.
    """
    if cilium.series < OLDEST:
        raise UsageError(
            what=f"Cilium {cilium} is older than labctl supports",
            cause="BPF host routing for tunnels came with 1.10",
            remedy="cilium.version: 1.10.6 or later",
            key="cilium.version",
        )
    if cilium.series >= (1, 21) or cilium.series not in SERIES:
        known = Supported(kubernetes=None, suggested="1.36", kernel=(5, 10))
        warnings = [f"Cilium {cilium} is newer than labctl's tables: value names of 1.20 are used and verified"]
    else:
        known, warnings = SERIES[cilium.series], []
    least_agent = Version(1, 21) if cilium.series >= (1, 19) else Version(1, 16)
    if kubernetes < least_agent:
        raise UsageError(
            what=f"Cilium {cilium} does not run on Kubernetes {kubernetes}",
            cause=f"its agent needs Kubernetes {least_agent.major}.{least_agent.minor} or later",
            remedy=_other(known, kubernetes),
            key="cilium.version",
        )
    if kubernetes < chart_minimum(cilium):
        sentence = (
            f"the chart of Cilium {cilium} asks for Kubernetes {chart_minimum(cilium)} or later; it is rendered for "
            f"that version and applied to {kubernetes}"
        )
        if (cilium.series, kubernetes.series) not in RUN_HERE and not allow_untested:
            raise UsageError(
                what=f"the chart of Cilium {cilium} refuses Kubernetes {kubernetes}",
                cause=f"its kubeVersion asks for {chart_minimum(cilium)} or later, and this pair is not known to run",
                remedy=f"{_other(known, kubernetes)}, or cilium.allowUntested: true",
                key="cilium.version",
            )
        warnings.append(sentence)
    elif known.kubernetes and not known.kubernetes[0] <= kubernetes.minor <= known.kubernetes[1]:
        warnings.append(
            f"Cilium {cilium} is tested upstream with Kubernetes 1.{known.kubernetes[0]} to 1.{known.kubernetes[1]}, "
            f"not with {kubernetes}; suggested: {known.suggested}"
        )
    _refuse_kernel(cilium, kernel, known, datapath)
    return tuple(warnings)


def _refuse_kernel(cilium: Version, kernel: Version | None, known: Supported, datapath: Datapath) -> None:
    if kernel is None:
        return
    if kernel.series < known.kernel:
        raise UsageError(
            what=f"Cilium {cilium} does not run on Linux {kernel}",
            cause=f"it needs {known.kernel[0]}.{known.kernel[1]} or later",
            remedy=f"a newer kernel, or cilium.version: {_newest_for_kernel(kernel)}",
        )
    needs_it = datapath.host_routing is HostRouting.BPF and not datapath.allow_fallback
    if needs_it and kernel.series < BPF_HOST_ROUTING_KERNEL:
        raise UsageError(
            what=f"BPF host routing is not available on Linux {kernel}",
            cause="bpf_redirect_peer and bpf_redirect_neigh came with 5.10; Cilium would fall back to Legacy",
            remedy="a kernel of 5.10 or later, --set datapath.hostRouting=legacy, or --set datapath.allowFallback=true",
        )


def _other(known: Supported, kubernetes: Version) -> str:
    return (
        f"Kubernetes {known.suggested} (kindCluster.kubernetes, kubeadm.kubernetes), "
        f"or cilium.version: {_newest_for(kubernetes)}"
    )


def _newest_for(kubernetes: Version) -> str:
    """The newest series whose agent, chart and tests take that Kubernetes; else the oldest known."""
    fitting = [
        series
        for series, known in SERIES.items()
        if known.kubernetes and known.kubernetes[0] <= kubernetes.minor <= known.kubernetes[1]
    ]
    series = max(fitting, default=OLDEST)
    return f"{series[0]}.{series[1]}"


def _newest_for_kernel(kernel: Version) -> str:
    series = max((s for s, known in SERIES.items() if kernel.series >= known.kernel), default=OLDEST)
    return f"{series[0]}.{series[1]}"
