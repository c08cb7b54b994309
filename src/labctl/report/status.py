"""What `labctl status` shows: the parts of a lab, and the proof of its mode. Records in, tables out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from labctl.model.lab import Lab
from labctl.model.proof import ModeInForce
from labctl.report.json import mode_record

if TYPE_CHECKING:
    from rich.console import RenderableType

# A lab of 1,000 pods is summarised; the JSON always has all of them.
PODS_SHOWN = 24


def status_record(lab: Lab, mode: ModeInForce | None, *, statement: str) -> dict[str, object]:
    return {
        "apiVersion": "labctl/v1",
        "kind": "Status",
        "lab": lab.name,
        "scenario": lab.scenario,
        "provider": lab.provider,
        "statement": statement,
        "digest": lab.digest,
        "asked": lab.datapath.asked(),
        "nodes": [
            {
                "name": node.name,
                "address": str(node.address.ip),
                "podCIDR": str(node.pod_cidr),
                "router": str(node.router),
            }
            for node in lab.nodes
        ],
        "pods": [
            {
                "name": pod.name,
                "node": pod.node,
                "address": str(pod.address),
                "mac": pod.mac,
                "lxc": pod.lxc,
                "lxcMac": pod.lxc_mac,
                "identity": pod.identity,
                "labels": dict(pod.labels),
            }
            for pod in lab.pods
        ],
        "pairs": [{"client": p.client, "server": p.server, "placement": str(p.placement)} for p in lab.pairs],
        "modeInForce": mode_record(None, mode) if mode is not None else None,
    }


def status_table(lab: Lab, mode: ModeInForce | None, *, statement: str) -> Iterator[RenderableType]:
    """The parts, from the most important down, ready for a rich console."""
    from rich.table import Table

    datapath = lab.datapath
    yield (
        f"lab {lab.name}: scenario {lab.scenario}, provider {lab.provider}. {statement}\n"
        f"asked for: host routing {datapath.host_routing}, encapsulation {datapath.encapsulation}, "
        f"masquerade {datapath.masquerade}"
    )
    if mode is not None:
        yield from mode_table(mode)
    nodes = Table("node", "address", "pod CIDR", "router (cilium_host)", box=None)
    for node in lab.nodes:
        nodes.add_row(node.name, str(node.address.ip), str(node.pod_cidr), str(node.router))
    yield nodes
    pods = Table("pod", "node", "address", "lxc on the node", "identity", box=None)
    for pod in lab.pods[:PODS_SHOWN]:
        pods.add_row(pod.name, pod.node, str(pod.address), pod.lxc, str(pod.identity))
    yield pods
    if len(lab.pods) > PODS_SHOWN:
        yield f"… and {len(lab.pods) - PODS_SHOWN} more pods (--json has all of them)"


def mode_table(mode: ModeInForce) -> Iterator[RenderableType]:
    """The verdict in one sentence, then every witness with the command that shows the same by hand."""
    from rich.table import Table

    found = ", ".join(f"{key} {value}" for key, value in mode.found.items())
    yield f"in force: {found} (proven)" if mode.proven else f"in force: NOT what was asked. {mode.reason}"
    evidence = Table("", "witness", "where", "what it shows", box=None)
    for piece in mode.evidence:
        sign = {True: "for", False: "AGAINST", None: "-"}[piece.supports]
        evidence.add_row(sign, piece.witness, piece.where, piece.finding)
    yield evidence
