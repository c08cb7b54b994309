"""Helm value names of Cilium by version, as one table: how each setting is spelt, and what the wrong names do.

Taken from the charts 1.10.6 to 1.20.0 (`templates/cilium-configmap.yaml`, `templates/validate.yaml`). Pure data with
look-ups; `values.py` uses it to write values, `rendered.py` to explain wrong ones.
"""

from __future__ import annotations

from enum import StrEnum

from labctl.model.versions import Series, Version
from labctl.values import dataclass


class Setting(StrEnum):
    """What labctl sets, independent of the name that a version of the chart has for it."""

    HOST_LEGACY_ROUTING = "host routing"
    KUBE_PROXY_REPLACEMENT = "kube-proxy replacement"
    TUNNEL = "tunnel"
    ROUTING_MODE = "routing mode"
    TUNNEL_PROTOCOL = "tunnel protocol"
    TUNNEL_PORT = "tunnel port"
    NATIVE_CIDR = "native routing range"
    POD_CIDR = "pod range"
    POD_CIDR_LIST = "pod ranges"
    BANDWIDTH_MANAGER = "bandwidth manager"
    ENVOY = "envoy daemon set"
    SOCKET_LB = "socket load balancer"
    MTU = "MTU"


@dataclass(frozen=True, slots=True)
class Spelling:
    """The name of a setting in a range of versions."""

    path: str
    versions: Series


SPELLINGS: dict[Setting, tuple[Spelling, ...]] = {
    # In 1.12 both names work and hostLegacyRouting wins.
    Setting.HOST_LEGACY_ROUTING: (
        Spelling("bpf.hostRouting", Series(before=(1, 12))),
        Spelling("bpf.hostLegacyRouting", Series(since=(1, 12))),
    ),
    Setting.KUBE_PROXY_REPLACEMENT: (Spelling("kubeProxyReplacement", Series()),),
    Setting.TUNNEL: (Spelling("tunnel", Series(before=(1, 14))),),
    Setting.ROUTING_MODE: (Spelling("routingMode", Series(since=(1, 14))),),
    Setting.TUNNEL_PROTOCOL: (Spelling("tunnelProtocol", Series(since=(1, 14))),),
    Setting.TUNNEL_PORT: (Spelling("tunnelPort", Series(since=(1, 11))),),
    Setting.NATIVE_CIDR: (
        Spelling("nativeRoutingCIDR", Series(before=(1, 11))),
        Spelling("ipv4NativeRoutingCIDR", Series(since=(1, 11))),
    ),
    Setting.POD_CIDR: (Spelling("ipam.operator.clusterPoolIPv4PodCIDR", Series(before=(1, 11))),),
    Setting.POD_CIDR_LIST: (Spelling("ipam.operator.clusterPoolIPv4PodCIDRList", Series(since=(1, 11))),),
    Setting.BANDWIDTH_MANAGER: (
        Spelling("bandwidthManager", Series(before=(1, 12))),
        Spelling("bandwidthManager.enabled", Series(since=(1, 12))),
    ),
    Setting.ENVOY: (Spelling("envoy.enabled", Series(since=(1, 14))),),
    Setting.SOCKET_LB: (
        Spelling("hostServices.enabled", Series(before=(1, 12))),
        Spelling("socketLB.enabled", Series(since=(1, 12))),
    ),
    Setting.MTU: (Spelling("MTU", Series(since=(1, 13))),),
}


def spell(setting: Setting, version: Version) -> str | None:
    """The value's dotted path in that version, or None where the chart has no such setting."""
    return next((s.path for s in SPELLINGS[setting] if version in s.versions), None)


def strings_of_kube_proxy_replacement(version: Version) -> tuple[str, str]:
    """What the rendered config says for on and off: `strict`/`disabled` up to 1.13, `true`/`false` later."""
    return ("strict", "disabled") if version.series < (1, 14) else ("true", "false")


class Effect(StrEnum):
    """What a chart does with a name or value that is wrong for its version."""

    IGNORED = "silently ignored"
    REFUSED = "refused by the chart"
    GARBLED = "rendered as garbage"


@dataclass(frozen=True, slots=True, kw_only=True)
class IneffectiveValue:
    """A value that does not do what it says in these versions. `only` restricts it to certain contents:
    `bool`, `mapping`, or the word itself."""

    path: str
    versions: Series
    effect: Effect
    instead: str
    only: tuple[str, ...] = ()


WRONG: tuple[IneffectiveValue, ...] = (
    IneffectiveValue(
        path="bpf.hostLegacyRouting",
        versions=Series(before=(1, 12)),
        effect=Effect.IGNORED,
        instead="bpf.hostRouting (there, true means Legacy)",
    ),
    IneffectiveValue(
        path="bpf.hostRouting",
        versions=Series(since=(1, 13)),
        effect=Effect.IGNORED,
        instead="bpf.hostLegacyRouting",
    ),
    IneffectiveValue(
        path="routingMode",
        versions=Series(before=(1, 14)),
        effect=Effect.IGNORED,
        instead="tunnel: vxlan | geneve | disabled",
    ),
    IneffectiveValue(
        path="tunnelProtocol",
        versions=Series(before=(1, 14)),
        effect=Effect.IGNORED,
        instead="tunnel: vxlan | geneve | disabled",
    ),
    IneffectiveValue(
        path="tunnel",
        versions=Series(since=(1, 15)),
        effect=Effect.REFUSED,
        instead="routingMode: tunnel | native, with tunnelProtocol: vxlan | geneve",
    ),
    IneffectiveValue(
        path="tunnelPort", versions=Series(before=(1, 11)), effect=Effect.IGNORED, instead="nothing: 1.10 has none"
    ),
    IneffectiveValue(
        path="nativeRoutingCIDR",
        versions=Series(since=(1, 12)),
        effect=Effect.IGNORED,
        instead="ipv4NativeRoutingCIDR",
    ),
    IneffectiveValue(
        path="ipv4NativeRoutingCIDR",
        versions=Series(before=(1, 11)),
        effect=Effect.IGNORED,
        instead="nativeRoutingCIDR",
    ),
    IneffectiveValue(
        path="ipam.operator.clusterPoolIPv4PodCIDR",
        versions=Series(since=(1, 14), before=(1, 19)),
        effect=Effect.REFUSED,
        instead="ipam.operator.clusterPoolIPv4PodCIDRList (a list)",
    ),
    IneffectiveValue(
        path="ipam.operator.clusterPoolIPv4PodCIDR",
        versions=Series(since=(1, 19)),
        effect=Effect.IGNORED,
        instead="ipam.operator.clusterPoolIPv4PodCIDRList (a list); as it stands pods get 10.0.0.0/8",
    ),
    IneffectiveValue(
        path="ipam.operator.clusterPoolIPv4PodCIDRList",
        versions=Series(before=(1, 11)),
        effect=Effect.IGNORED,
        instead="ipam.operator.clusterPoolIPv4PodCIDR (a string); as it stands pods get 10.0.0.0/8",
    ),
    IneffectiveValue(
        path="kubeProxyReplacement",
        versions=Series(since=(1, 16)),
        effect=Effect.REFUSED,
        instead="true or false",
        only=("strict", "partial", "probe", "disabled"),
    ),
    IneffectiveValue(
        path="kubeProxyReplacement",
        versions=Series(since=(1, 13), before=(1, 16)),
        effect=Effect.REFUSED,
        instead="strict or disabled in 1.13, true or false later",
        only=("probe",),
    ),
    IneffectiveValue(
        path="kubeProxyReplacement",
        versions=Series(before=(1, 14)),
        effect=Effect.REFUSED,
        instead="strict or disabled",
        only=("bool",),
    ),
    IneffectiveValue(
        path="bandwidthManager",
        versions=Series(since=(1, 13)),
        effect=Effect.REFUSED,
        instead="bandwidthManager.enabled",
        only=("bool",),
    ),
    IneffectiveValue(
        path="bandwidthManager.enabled",
        versions=Series(before=(1, 12)),
        effect=Effect.GARBLED,
        instead="bandwidthManager: true | false",
    ),
    IneffectiveValue(
        path="bpf.datapathMode",
        versions=Series(before=(1, 16)),
        effect=Effect.IGNORED,
        instead="nothing: netkit came with 1.16",
    ),
    IneffectiveValue(
        path="bpf.enableTCX",
        versions=Series(before=(1, 16)),
        effect=Effect.IGNORED,
        instead="nothing: tcx came with 1.16",
    ),
    IneffectiveValue(
        path="datapathMode",
        versions=Series(since=(1, 13)),
        effect=Effect.IGNORED,
        instead="bpf.datapathMode in 1.16 and later",
    ),
    IneffectiveValue(path="MTU", versions=Series(before=(1, 13)), effect=Effect.IGNORED, instead="extraConfig.mtu"),
    IneffectiveValue(
        path="hostServices.enabled",
        versions=Series(since=(1, 12)),
        effect=Effect.IGNORED,
        instead="socketLB.enabled",
    ),
    IneffectiveValue(
        path="socketLB.enabled",
        versions=Series(before=(1, 12)),
        effect=Effect.IGNORED,
        instead="hostServices.enabled",
    ),
    IneffectiveValue(
        path="installIptablesRules", versions=Series(since=(1, 13)), effect=Effect.IGNORED, instead="extraConfig"
    ),
    IneffectiveValue(
        path="nodePort.enabled",
        versions=Series(since=(1, 19)),
        effect=Effect.IGNORED,
        instead="kubeProxyReplacement: true",
    ),
)


def wrong_here(path: str, value: object, version: Version) -> IneffectiveValue | None:
    """The table's entry that this value meets in that version, if any."""
    for wrong in WRONG:
        if wrong.path == path and version in wrong.versions and (not wrong.only or _kind(value) in wrong.only):
            return wrong
    return None


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return str(value)
