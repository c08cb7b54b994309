"""What `labctl status` shows: the parts of a lab, and the proof of its mode. Records in, tables out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from labctl.model.lab import Lab
from labctl.model.proof import Evidence, ModeInForce, Standing
from labctl.report.grid import Column, Grid
from labctl.report.json import mode_record
from labctl.report.pasteable import command_line
from labctl.report.terminal import telling

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

# A lab of 1,000 pods is summarised; the JSON always has all of them.
PODS_SHOWN = 24
MISSING_SHOWN = 24
# Details of a finding longer than this are left to --json.
LONGEST_DETAIL = 200


def status_record(
    lab: Lab, mode: ModeInForce | None, *, statement: str, missing: Sequence[str] = ()
) -> dict[str, object]:
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
        "whole": not missing,
        "missing": list(missing),
        "modeInForce": mode_record(None, mode) if mode is not None else None,
    }


def status_table(
    lab: Lab, mode: ModeInForce | None, *, statement: str, missing: Sequence[str] = ()
) -> Iterator[RenderableType]:
    """What was asked, what is in force and what is missing, the parts, then the evidence, ready for a rich console."""
    from rich.text import Text

    yield Text(f"lab {lab.name}: scenario {lab.scenario}, provider {lab.provider}")
    yield Text(statement, style="dim")
    yield Text(f"asked for: {_claims(lab.datapath.asked())}")
    if mode is not None:
        yield in_force(mode)
    if missing:
        yield Text(f"half there, {len(missing)} missing:", style="bold red")
        yield from (Text(f"  {thing}") for thing in missing[:MISSING_SHOWN])
        if len(missing) > MISSING_SHOWN:
            yield Text(f"  … and {len(missing) - MISSING_SHOWN} more (--json has all of them)")
    yield Text("")
    nodes = [(node.name, str(node.address.ip), str(node.pod_cidr), str(node.router)) for node in lab.nodes]
    yield Grid(_titled("node", "address", "pod CIDR", "router (cilium_host)"), nodes)
    yield Text("")
    pods = [(pod.name, pod.node, str(pod.address), pod.lxc, str(pod.identity)) for pod in lab.pods[:PODS_SHOWN]]
    yield Grid(_titled("pod", "node", "address", "lxc on the node", "identity"), pods)
    if len(lab.pods) > PODS_SHOWN:
        yield Text(f"… and {len(lab.pods) - PODS_SHOWN} more pods (--json has all of them)")
    if mode is not None:
        yield from evidence_view(mode)


def _titled(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title=title) for title in titles)


def in_force(mode: ModeInForce) -> Text:
    """The verdict about the mode in one sentence."""
    from rich.text import Text

    if mode.proven:
        return Text(f"in force:  {_claims(_in_order(mode))} (proven)")
    found = _claims(_in_order(mode))
    if mode.standing is Standing.NOT_SHOWN:
        so_far = f" (what was seen: {found})" if found else ""
        return Text(f"in force:  not shown. {mode.reason}{so_far}", style="bold yellow")
    return Text(f"in force:  {found or 'unknown'}: NOT what was asked. {mode.reason}", style="bold red")


def evidence_view(mode: ModeInForce) -> Iterator[RenderableType]:
    """All that contradicts, what could not be shown and why, and one finding for each supporting witness, each with the
    command that shows the same by hand. `--json` has every piece of evidence."""
    from rich.padding import Padding
    from rich.text import Text

    pieces = telling(mode)
    yield Text("")
    yield Text(f"evidence, the most telling of {len(mode.evidence)} findings; $ shows the same by hand:")
    for piece in pieces:
        sign, style = _SIGNS[piece.supports]
        finding = f"{sign}: {piece.witness}, {piece.where}: {_as_shown(piece)}"
        yield Padding(Text(finding, style=style), (0, 0, 0, 2))
        if piece.command:
            yield command_line(piece.command, indent=6)


_SIGNS: Mapping[bool | None, tuple[str, str]] = {
    True: ("for", ""),
    False: ("AGAINST", "bold red"),
    None: ("not shown", "bold yellow"),
}


def _as_shown(piece: Evidence) -> str:
    return piece.finding if piece.supports is None else shortened(piece.finding)


def shortened(finding: str) -> str:
    """A finding for a screen: what comes before its list of details."""
    head, colon, rest = finding.partition(": ")
    return head if colon and len(rest) > LONGEST_DETAIL else finding


def _in_order(mode: ModeInForce) -> dict[str, object]:
    """What was found, in the order in which it was asked."""
    known = {key: mode.found[key] for key in mode.asked if key in mode.found}
    return {**known, **{key: claim for key, claim in mode.found.items() if key not in known}}


def _claims(claims: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_word(claim)}" for key, claim in claims.items())


def _word(claim: object) -> str:
    """As the scenario writes it."""
    return str(claim).lower() if isinstance(claim, bool) else str(claim)
