"""The agent's own report of its mode: `cilium status -o json` of every version, and why it fell back. Pure.

The JSON path of host routing changed in 1.16.0; the network mode is in the JSON only since then. The log is an
explanation, not a proof: some fallbacks are silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labctl.errors import MeasureFailed
from labctl.json_text import parse_json
from labctl.model.fallback import KNOWN, Condition, fallback_in_log
from labctl.model.lab import Fallback
from labctl.values import dataclass

IN_AGENT = (
    "sh",
    "-c",
    'if command -v cilium-dbg >/dev/null 2>&1; then exec cilium-dbg "$@"; else exec cilium "$@"; fi',
    "cilium",
)
"""Runs Cilium's command-line tool inside an agent container: `cilium-dbg` from 1.15 on, `cilium` before."""


def argv_status() -> tuple[str, ...]:
    return (*IN_AGENT, "status", "-o", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatus:
    """What one agent reports of its mode. Empty strings where this version reports none.

    `host_routing` is `bpf` or `legacy`; `network` is `native` or the tunnel's protocol; `masquerade` is `bpf`,
    `iptables` or `disabled`; `kube_proxy_replacement` is the agent's word in lower case (`strict`, `true`, …).
    """

    version: str
    is_ready: bool
    host_routing: str
    network: str
    masquerade: str
    kube_proxy_replacement: str
    attach_mode: str
    devices: tuple[str, ...]

    @property
    def replaces_kube_proxy(self) -> bool:
        return self.kube_proxy_replacement in ("strict", "true")


def parse_status(text: str) -> AgentStatus:
    """Raises MeasureFailed when the text is not an agent's JSON status."""
    try:
        status = parse_json(text)
    except ValueError as failed:
        raise MeasureFailed(
            what="the agent's status is not JSON",
            cause=f"it says: {text.strip()[:200] or 'nothing'}",
            remedy="kubectl -n kube-system logs ds/cilium -c cilium-agent --tail 20",
        ) from failed
    if not isinstance(status, dict):
        raise MeasureFailed(what="the agent's status is not a JSON object", cause=text.strip()[:200])
    routing = _mapping(status, "routing")
    replacement = _mapping(status, "kube-proxy-replacement")
    cilium = _mapping(status, "cilium")
    words = str(cilium.get("msg", "")).split()
    return AgentStatus(
        version=words[0] if words else "",
        is_ready=cilium.get("state") == "Ok",
        host_routing=str(
            routing.get("intra-host-routing-mode") or _mapping(status, "host-routing").get("mode") or ""
        ).lower(),
        network=_network(routing),
        masquerade=_masquerade(_mapping(status, "masquerading")),
        kube_proxy_replacement=str(replacement.get("mode", "")).lower(),
        attach_mode=str(status.get("attach-mode", "")).lower(),
        devices=tuple(str(name) for name in _list(replacement, "devices")),
    )


def _mapping(status: Mapping[str, object], key: str) -> dict[str, object]:
    value = status.get(key)
    return value if isinstance(value, dict) else {}


def _list(status: Mapping[str, object], key: str) -> list[object]:
    value = status.get(key)
    return value if isinstance(value, list) else []


def _network(routing: Mapping[str, object]) -> str:
    mode = str(routing.get("inter-host-routing-mode", "")).lower()
    return str(routing.get("tunnel-protocol", "tunnel")).lower() if mode == "tunnel" else mode


def _masquerade(masquerading: Mapping[str, object]) -> str:
    if not masquerading:
        return ""
    if not masquerading.get("enabled"):
        return "disabled"
    return str(masquerading.get("mode", "")).lower()


def network_of_config(config: Mapping[str, str]) -> str:
    """The network mode as `cilium-config` has it, for agents whose status lacks it (1.15 and earlier); "" where it is
    not there either."""
    if "routing-mode" in config:
        return config.get("tunnel-protocol", "vxlan") if config["routing-mode"] == "tunnel" else config["routing-mode"]
    tunnel = config.get("tunnel", "")
    return "native" if tunnel == "disabled" else tunnel


def silent_fallback(config: Mapping[str, str], status: AgentStatus) -> Fallback:
    """The likeliest reason when the log does not mention it: some versions log nothing when kube-proxy replacement is
    off or partial, or when masquerading fell back to iptables."""
    if config.get("enable-host-legacy-routing") == "true":
        return Fallback(reason="cilium-config itself asks for Legacy", remedy="--set datapath.hostRouting=bpf")
    if not status.replaces_kube_proxy:
        return Fallback(
            reason=f"kube-proxy replacement is '{status.kube_proxy_replacement or 'off'}', and this version does not "
            "say that BPF host routing needs it",
            remedy="--set datapath.kubeProxyReplacement=true",
        )
    if status.masquerade == "iptables":
        condition = Condition.IPTABLES_MASQUERADE
        return Fallback(reason=condition, remedy=KNOWN[condition].remedy)
    return Fallback(
        reason="the agent does not say why",
        remedy="kubectl -n kube-system logs ds/cilium -c cilium-agent | grep -iE 'host.routing|fall'",
    )


def explain(log: Iterable[str], config: Mapping[str, str], status: AgentStatus) -> Fallback | None:
    """Why this agent is in Legacy although BPF was asked for; None when it is in BPF."""
    if status.host_routing == "bpf":
        return None
    return fallback_in_log(log) or silent_fallback(config, status)
