"""`cilium status --verbose` of real agents: its lines as they are, and what labctl knows of them. Parsing is pure.

An agent's lines are its own account. Those that packets or counters show too (`ModeInForce`) are marked as proven.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from labctl.errors import MeasureFailed
from labctl.json_text import of_known_form, parse_json
from labctl.model.evidence import ModeInForce
from labctl.model.node_status import NodeStatus, PodRanges, Shown, StatusEndpoint, StatusLine, witness_of
from labctl.model.tools import why
from labctl.providers.base import Target
from labctl.providers.cilium.cluster_facts import CiliumEndpoint
from labctl.providers.cilium.status import IN_AGENT

_ASK_S = 60.0
_LINE = re.compile(r"^( *)(.*?)\s*$")
_HEADED = re.compile(r"^([^:]+?):(?:\s+(.*))?$")
_WIDE = re.compile(r"\s{2,}")
_IPAM = re.compile(r"IPv4: (\d+)/(\d+) allocated(?: from ([0-9./]+))?")
_SHOWN_BY = {
    "Host Routing": ("hostRouting",),
    "Routing": ("hostRouting", "encapsulation"),
    "Masquerading": ("masquerade",),
    "KubeProxyReplacement": ("kubeProxyReplacement",),
}
"""The lines that are about the mode, and what of it."""


def argv_verbose() -> tuple[str, ...]:
    return (*IN_AGENT, "status", "--verbose")


def parse_verbose(text: str) -> tuple[StatusLine, ...]:
    """Every line in its order; two blanks of indent make a depth. Raises MeasureFailed when it is no agent's status."""
    lines = []
    for raw in text.splitlines():
        match = _LINE.match(raw.rstrip())
        if match is None or not match[2]:
            continue
        depth = len(match[1]) // 2
        label, value = _split(match[2], depth)
        lines.append(StatusLine(label=label, value=value, depth=depth))
    if not any(line.label == "Cilium" for line in lines):
        raise MeasureFailed(
            what="the agent's status is not that of Cilium",
            cause=f"it says: {text.strip()[:200] or 'nothing'}",
            remedy="kubectl -n kube-system logs ds/cilium -c cilium-agent --tail 20",
        )
    return tuple(lines)


def _split(text: str, depth: int) -> tuple[str, str]:
    """`Label:   value`; below a head also `label   value`, as in a table. What is neither is a label alone."""
    headed = _HEADED.match(text)
    if headed is not None and (depth == 0 or headed[2] is None or _WIDE.search(text) or text.startswith("- ")):
        return headed[1], headed[2] or ""
    label, *rest = _WIDE.split(text, maxsplit=1) if depth else (text,)
    return label, rest[0] if rest else ""


def marked(lines: Sequence[StatusLine], mode: ModeInForce | None, node: str) -> tuple[StatusLine, ...]:
    """The lines with what shows them besides the agent."""
    return tuple(_marked(line, mode, node) if line.depth == 0 else line for line in lines)


def _marked(line: StatusLine, mode: ModeInForce | None, node: str) -> StatusLine:
    pieces = [witness_of(mode, key, node) for key in _SHOWN_BY.get(line.label, ())]
    first = next((piece for piece in pieces if piece is not None), None)
    if first is None or None in pieces:
        return line
    because = f"{first.witness}, {first.where}: {first.finding}"
    if mode is not None and mode.fallback is not None and "hostRouting" in _SHOWN_BY[line.label]:
        because = f"asked {mode.asked.get('hostRouting')}, fell back: {mode.fallback.reason}; {because}"
    return replace(line, shown=Shown.PROVEN, because=because, command=first.command)


def ranges_of(
    lines: Sequence[StatusLine], asked: IPv4Network, kubernetes: IPv4Network | None, used: IPv4Network
) -> PodRanges | None:
    """What the line IPAM counts; None where this agent's has another form."""
    ipam = next((line.value for line in lines if line.label == "IPAM"), "")
    match = _IPAM.search(ipam)
    if match is None:
        return None
    allocated, total = int(match[1]), int(match[2])
    return PodRanges(asked=asked, kubernetes=kubernetes, used=used, allocated=allocated, free=total - allocated)


def with_ranges(lines: Sequence[StatusLine], ranges: PodRanges | None) -> tuple[StatusLine, ...]:
    """The range that was asked for, beside the one that IPAM uses."""
    if ranges is None:
        return tuple(lines)
    agrees = f"{ranges.used} is part of it" if ranges.agrees else f"{ranges.used} is NO part of it"
    told = [StatusLine(label="Pod range asked of kubeadm", value=str(ranges.asked), depth=1, shown=Shown.PROVEN,
                       because=agrees)]  # fmt: skip
    if ranges.kubernetes is not None:
        same = "the one that IPAM uses" if ranges.kubernetes == ranges.used else "IPAM does not use it"
        told.append(
            StatusLine(label="Of it, Kubernetes' for the node", value=str(ranges.kubernetes), depth=1,
                       shown=Shown.PROVEN, because=same)
        )  # fmt: skip
    at = next(index for index, line in enumerate(lines) if line.label == "IPAM") + 1
    return (*lines[:at], *told, *lines[at:])


@of_known_form("kubectl's list of nodes")
def parse_pod_ranges(text: str) -> dict[str, IPv4Network]:
    """The range of each node's pods as Kubernetes set it aside (`spec.podCIDR`), by Kubernetes name."""
    try:
        items = parse_json(text)["items"]
        spoken = {str(item["metadata"]["name"]): (item.get("spec") or {}).get("podCIDR") for item in items}
        return {name: IPv4Network(str(said)) for name, said in spoken.items() if said}
    except (ValueError, KeyError, TypeError) as failed:
        raise MeasureFailed(what="kubectl's list of nodes is not JSON", cause=text.strip()[:200]) from failed


def endpoints_of(
    endpoints: Sequence[CiliumEndpoint], labels: Mapping[str, Mapping[str, str]]
) -> tuple[StatusEndpoint, ...]:
    """`labels` are those of the lab's pods, by `namespace/name`."""
    return tuple(
        StatusEndpoint(
            number=one.id,
            identity=one.identity,
            labels=tuple(f"{key}={value}" for key, value in sorted(labels.get(one.pod, {}).items())),
            address=_address(one.address),
            name=one.pod,
            state=one.state,
        )
        for one in endpoints
    )


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def ask(node: str, agent: Target) -> tuple[StatusLine, ...]:
    """What that agent says now. Raises MeasureFailed."""
    done = agent.run(argv_verbose(), timeout_s=_ASK_S)
    if not done.stdout:
        raise MeasureFailed(
            what=f"the agent on {node} gives no status",
            cause=why(done),
            remedy=shlex.join(agent.command(("cilium", "status", "--verbose"))),
        )
    return parse_verbose(done.text)


def node_status(
    node: str, agent: Target, version: str, mode: ModeInForce | None, endpoints: tuple[StatusEndpoint, ...],
    ranges: tuple[IPv4Network, IPv4Network | None, IPv4Network],
) -> NodeStatus:  # fmt: skip
    """One agent's status. `ranges`: of all pods as asked, of the node by Kubernetes, of the node by IPAM."""
    lines = ask(node, agent)
    found = ranges_of(lines, *ranges)
    return NodeStatus(
        node=node,
        says=f"the agent of Cilium {version}" if version else "Cilium's agent",
        lines=with_ranges(marked(lines, mode, node), found),
        endpoints=endpoints,
        ranges=found,
        command=shlex.join(agent.command(("cilium", "status", "--verbose"))),
    )
