"""When Cilium runs Legacy although BPF host routing was asked for: the conditions, by version, as data. Pure.

The one table of labctl: scenarios are refused by it, `netns` labs that allow a fallback are built by it, and the log
lines of real agents are explained by it. Sources: recorded on 1.13.12 and 1.16.0-rc.0 (kind, Kubernetes 1.20.2); for
the other series Cilium's own source (`daemon/cmd/kube_proxy_replacement.go` up to 1.18, `pkg/kpr/initializer/` from
1.19 on) and its pull requests 29778 (no more falling back to iptables), 44041 (a line again when kube-proxy stays).

Only what a scenario's `datapath` says can be foreseen; an old kernel, IPsec or a device without a MAC address show on
a real cluster alone, in its agents' status and log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

from labctl.model.lab import Datapath, Fallback, HostRouting, Masquerade
from labctl.model.versions import Series, Version
from labctl.values import dataclass


class Condition(StrEnum):
    """What stands in the way of BPF host routing."""

    NO_KUBE_PROXY_REPLACEMENT = "kube-proxy replacement is off"
    PARTIAL_KUBE_PROXY_REPLACEMENT = "kube-proxy replacement is not fully on"
    IPTABLES_MASQUERADE = "masquerading is done by iptables"
    NO_BPF_MASQUERADE = "masquerading by eBPF could not start"
    IPSEC = "IPsec is on"
    ENDPOINT_ROUTES = "endpoint routes are on"
    NO_MAC = "a device has no MAC address"
    WIREGUARD = "WireGuard is on"
    OLD_KERNEL = "the kernel lacks bpf_redirect_peer or bpf_redirect_neigh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """How a condition is recognised in an agent's log, of whichever version, and what mends it."""

    pattern: re.Pattern[str]
    remedy: str


KNOWN: Mapping[Condition, Known] = MappingProxyType(
    {
        Condition.IPSEC: Known(
            pattern=re.compile(r"BPF host routing is incompatible with enable-ipsec"),
            remedy="cilium.values: {encryption: {enabled: false}}",
        ),
        Condition.IPTABLES_MASQUERADE: Known(
            pattern=re.compile(r"BPF host routing requires enable-bpf-masquerade"),
            remedy="--set datapath.masquerade=bpf",
        ),
        Condition.NO_BPF_MASQUERADE: Known(
            pattern=re.compile(r"BPF masquerade could not be enabled"),
            remedy="kubectl -n kube-system logs ds/cilium -c cilium-agent | grep -i masq",
        ),
        Condition.PARTIAL_KUBE_PROXY_REPLACEMENT: Known(
            pattern=re.compile(r"BPF host routing requires kube-proxy-replacement"),
            remedy="--set datapath.kubeProxyReplacement=true",
        ),
        Condition.NO_KUBE_PROXY_REPLACEMENT: Known(
            pattern=re.compile(r"Auto-disabling .*falling back to .{0,2}enable-host-legacy-routing"),
            remedy="--set datapath.kubeProxyReplacement=true",
        ),
        Condition.ENDPOINT_ROUTES: Known(
            pattern=re.compile(r"BPF host routing is currently not supported with enable-endpoint-routes"),
            remedy="cilium.values: {endpointRoutes: {enabled: false}}",
        ),
        Condition.NO_MAC: Known(
            pattern=re.compile(r"BPF host routing is currently not supported with devices without L2 addr"),
            remedy="cilium.values: {devices: eth0}",
        ),
        Condition.WIREGUARD: Known(
            pattern=re.compile(r"BPF host routing is currently not compatible with Wireguard"),
            remedy="cilium.values: {encryption: {enabled: false}}",
        ),
        Condition.OLD_KERNEL: Known(
            pattern=re.compile(r"BPF host routing requires kernel 5\.10"),
            remedy="a kernel of 5.10 or later",
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """In these versions that condition makes Legacy, and the agent logs that line; an empty one: it logs nothing."""

    condition: Condition
    versions: Series
    line: str = ""


def _falls_back(why: str) -> str:
    return f"{why} Falling back to legacy host routing (enable-host-legacy-routing=true)."


def _auto_disabling(socket_lb: str) -> str:
    features = ", ".join(
        f'"{each}"' for each in ("enable-node-port", "enable-external-ips", socket_lb, "enable-host-port")
    )
    return f'Auto-disabling {features} features and falling back to "enable-host-legacy-routing"'


_TO_1_11, _TO_1_13, _TO_1_15 = Series(before=(1, 12)), Series(before=(1, 14)), Series(before=(1, 16))

ROWS: tuple[Row, ...] = (
    Row(
        condition=Condition.NO_KUBE_PROXY_REPLACEMENT,
        versions=_TO_1_11,
        line=_auto_disabling("enable-host-reachable-services"),
    ),
    Row(
        condition=Condition.NO_KUBE_PROXY_REPLACEMENT,
        versions=Series(since=(1, 12), before=(1, 14)),
        line=_auto_disabling("bpf-lb-sock"),
    ),
    Row(condition=Condition.NO_KUBE_PROXY_REPLACEMENT, versions=Series(since=(1, 14), before=(1, 20))),
    Row(
        condition=Condition.IPSEC,
        versions=Series(before=(1, 20)),
        line=_falls_back("BPF host routing is incompatible with enable-ipsec."),
    ),
    Row(
        condition=Condition.IPTABLES_MASQUERADE,
        versions=Series(),
        line=_falls_back("BPF host routing requires enable-bpf-masquerade."),
    ),
    Row(
        condition=Condition.NO_KUBE_PROXY_REPLACEMENT,
        versions=Series(since=(1, 20)),
        line=_falls_back("BPF host routing requires kube-proxy-replacement."),
    ),
    Row(
        condition=Condition.PARTIAL_KUBE_PROXY_REPLACEMENT,
        versions=Series(since=(1, 12), before=(1, 14)),
        line=_falls_back("BPF host routing requires kube-proxy-replacement=strict."),
    ),
    Row(
        condition=Condition.PARTIAL_KUBE_PROXY_REPLACEMENT,
        versions=Series(since=(1, 14), before=(1, 16)),
        line=_falls_back("BPF host routing requires kube-proxy-replacement=true."),
    ),
    Row(
        condition=Condition.PARTIAL_KUBE_PROXY_REPLACEMENT,
        versions=Series(since=(1, 16), before=(1, 20)),
        line=_falls_back("BPF host routing requires kube-proxy-replacement."),
    ),
    Row(
        condition=Condition.NO_BPF_MASQUERADE,
        versions=_TO_1_15,
        line="BPF masquerade could not be enabled. "
        'Falling back to legacy host routing (--enable-host-legacy-routing="true").',
    ),
    Row(
        condition=Condition.ENDPOINT_ROUTES,
        versions=_TO_1_13,
        line=_falls_back("BPF host routing is currently not supported with enable-endpoint-routes."),
    ),
    Row(
        condition=Condition.NO_MAC,
        versions=_TO_1_13,
        line=_falls_back("BPF host routing is currently not supported with devices without L2 addr."),
    ),
    Row(
        condition=Condition.WIREGUARD,
        versions=_TO_1_13,
        line=_falls_back("BPF host routing is currently not compatible with Wireguard (--enable-wireguard)."),
    ),
    Row(
        condition=Condition.OLD_KERNEL,
        versions=_TO_1_15,
        line=_falls_back("BPF host routing requires kernel 5.10 or newer."),
    ),
)
"""In the order in which the agent asks: the first that holds is the one that it logs."""

BPF_HOST_ROUTING_KERNEL = (5, 10)
"""`bpf_redirect_peer` and `bpf_redirect_neigh` came with it."""

ENDS_SINCE = (1, 16)
ENDS_LINE = 'unable to initialize BPF masquerade support: BPF masquerade requires NodePort (--enable-node-port="true")'
"""What an agent says as it ends, since that series, when it is to masquerade by eBPF without replacing kube-proxy.
Older ones masquerade by iptables then. Recorded on 1.16.0-rc.0; whether a late 1.15 does so too is not known."""


def conditions_of(datapath: Datapath) -> tuple[Condition, ...]:
    """What in this datapath stands in the way of BPF host routing, whether it asks for that or not."""
    found = []
    if not datapath.kube_proxy_replacement:
        found.append(Condition.NO_KUBE_PROXY_REPLACEMENT)
    if datapath.masquerade is Masquerade.IPTABLES:
        found.append(Condition.IPTABLES_MASQUERADE)
    return tuple(found)


def fallback_of(datapath: Datapath, version: Version) -> Fallback | None:
    """What an agent of that version makes of it; None where BPF host routing can be had, or was not asked for."""
    found = conditions_of(datapath) if datapath.host_routing is HostRouting.BPF else ()
    row = next((row for row in ROWS if row.condition in found and version in row.versions), None)
    if row is None:
        return None
    keeps = datapath.kube_proxy_replacement
    return Fallback(
        reason=row.condition,
        remedy="; ".join(KNOWN[condition].remedy for condition in found),
        line=row.line,
        version=str(version),
        masquerade=datapath.masquerade if keeps else Masquerade.IPTABLES,
    )


def ends(datapath: Datapath, version: Version) -> bool:
    """Whether an agent of that version ends with `ENDS_LINE` in place of falling back."""
    needs = datapath.masquerade is Masquerade.BPF and not datapath.kube_proxy_replacement
    return needs and version.series >= ENDS_SINCE


_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')


def fallback_in_log(lines: Iterable[str]) -> Fallback | None:
    """The first line of an agent's log that explains a fallback to Legacy, or None."""
    for line in lines:
        match = _MESSAGE.search(line)
        message = match.group(1).replace('\\"', '"') if match else line.strip()
        for condition, known in KNOWN.items():
            if known.pattern.search(message):
                return Fallback(reason=condition, remedy=known.remedy, line=message)
    return None
