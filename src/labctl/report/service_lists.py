"""The Services of a lab's nodes, as tables and as JSON: `labctl services LAB`. Records in, tables out.

Two lists as Cilium has them, one below the other, with the command that shows each by hand. What every node has alike is
shown once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from labctl.codec import plain
from labctl.model.service_lists import NodeServices, ServiceFrontend
from labctl.report.grid import Column, Grid, command_line

if TYPE_CHECKING:
    from rich.console import RenderableType

ROWS_SHOWN = 60
"""Of each list on the terminal; the JSON has all."""


def services_record(lab: str, nodes: Sequence[NodeServices]) -> dict[str, object]:
    """`{"lab", "nodes": [{"node", "by", "frontends": […], "entries": […]}]}`."""
    return {"lab": lab, "nodes": [plain(node) for node in nodes]}


def services_tables(nodes: Sequence[NodeServices]) -> Iterator[RenderableType]:
    for names, node in _alike(nodes):
        yield ""
        yield _bold(f"{', '.join(names)}: {node.by}")
        if not node.frontends and not node.entries:
            continue
        yield _command(node.service_command, "cilium service list")
        columns = [Column(title=title) for title in ("ID", "frontend", "protocol", "type", "Service", "backends")]
        yield Grid(columns, [_row(frontend) for frontend in node.frontends[:ROWS_SHOWN]])
        yield from _rest(len(node.frontends))
        yield ""
        yield _command(node.entries_command, "cilium bpf lb list")
        shown = [(entry.service, entry.backend) for entry in node.entries[:ROWS_SHOWN]]
        yield Grid([Column(title="Service address"), Column(title="backend address (ID) (slot)")], shown)
        yield from _rest(len(node.entries))


def _alike(nodes: Sequence[NodeServices]) -> Iterator[tuple[tuple[str, ...], NodeServices]]:
    """Nodes whose lists are the same, together; the commands are those of the first."""
    groups: list[tuple[list[str], NodeServices]] = []
    for node in nodes:
        for names, first in groups:
            named = replace(
                node,
                node=first.node,
                service_command=first.service_command,
                entries_command=first.entries_command,
            )
            if named == first:
                names.append(node.node)
                break
        else:
            groups.append(([node.node], node))
    return ((tuple(names), first) for names, first in groups)


def _row(frontend: ServiceFrontend) -> tuple[str, ...]:
    backends = "\n".join(
        f"{one.number} => {one.address} ({'active' if one.active else 'gone'}){f' {one.pod}' if one.pod else ''}"
        for one in frontend.backends
    )
    scope = f" ({frontend.scope})" if frontend.scope else ""
    kind = f"{frontend.type}{scope}"
    return (str(frontend.id), frontend.frontend, frontend.protocol, kind, frontend.service or "-", backends or "none")


def _rest(count: int) -> Iterator[str]:
    if count > ROWS_SHOWN:
        yield f"  … and {count - ROWS_SHOWN} more entries (--json has all of them)"


def _bold(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="bold")


def _command(text: str, cilium: str) -> RenderableType:
    return command_line(f"{text}      in Cilium: {cilium}" if text else cilium, indent=2, style="dim")
