"""`labctl status LAB --cilium`: a node as `cilium status --verbose` shows it, line by line, with what shows each line.

To be laid beside what an agent prints: labels, order and columns are Cilium's. Records in, text out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from labctl.codec import plain
from labctl.model.node_status import NodeStatus, Shown, StatusLine
from labctl.report.grid import Column, Grid, command_line

if TYPE_CHECKING:
    from rich.console import RenderableType

_VALUE_AT = 24
"""The column of a value, as in Cilium."""
_LONGEST = 300
"""Characters of a proof; --json has all of it."""
_LABEL_BELOW = 32
"""Columns of a label below a head. Cilium has 36, with which a controller's line does not fit into 80 columns."""
_MARKS = {Shown.PROVEN: "proven", Shown.SAID: "said, not tried", Shown.UNPROVEN: "NOT PROVEN", Shown.ABSENT: ""}
_STYLES = {Shown.PROVEN: "", Shown.SAID: "", Shown.UNPROVEN: "bold yellow", Shown.ABSENT: "dim"}


def cilium_record(statuses: Sequence[NodeStatus]) -> object:
    """A list of `{"node", "says", "lines": [{"label", "value", "depth", "shown", …}], "endpoints", "ranges"}`."""
    return plain(tuple(statuses))


def cilium_view(statuses: Sequence[NodeStatus]) -> Iterator[RenderableType]:
    """Every line of every node, each line with what shows it, then its endpoints."""
    for status in statuses:
        yield ""
        yield _bold(f"{status.node}: {status.says}")
        if status.command:
            yield command_line(status.command, indent=2, style="dim")
        for line in status.lines:
            yield from _line(line)
        yield ""
        yield from _endpoints(status)


def cilium_block(status: NodeStatus, lab: str) -> Iterator[RenderableType]:
    """For plain `status`: one node, its heads alone, without those that have no counterpart."""
    from rich.text import Text

    yield ""
    yield Text(f"as cilium status has it, {status.node}; every line with its proof: labctl status {lab} --cilium")
    for line in status.lines:
        is_head = line.depth == 0 and line.value and line.shown is not Shown.ABSENT
        if is_head or (status.ranges is not None and not status.ranges.agrees and line.label.startswith("Pod range")):
            yield _text(line, indent=2)


def _line(line: StatusLine) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    yield _text(line)
    mark = _MARKS[line.shown]
    if mark and line.because:
        style = "dim" if line.shown is Shown.PROVEN else _STYLES[line.shown]
        yield Padding(Text(f"{mark}: {_shortened(line.because)}", style=style), (0, 0, 0, 4 + 2 * line.depth))


def _shortened(because: str) -> str:
    """Whole words of it."""
    return because if len(because) <= _LONGEST else f"{because[:_LONGEST].rpartition(' ')[0]} …"


def _text(line: StatusLine, *, indent: int = 0) -> RenderableType:
    """A value that is longer than its line goes on below itself."""
    from rich.table import Table
    from rich.text import Text

    before = " " * (indent + 2 * line.depth)
    has_colon = line.depth == 0 or line.label.startswith("- ") or _is_headed(line)
    label = f"{line.label}:" if has_colon else line.label
    width = _VALUE_AT if has_colon else _LABEL_BELOW
    head, style = f"{before}{label:<{width}}", _STYLES[line.shown]
    if not line.value:
        return Text(head.rstrip(), style=style)
    columns = Table.grid()
    columns.add_column(no_wrap=True, width=len(head))
    columns.add_column(overflow="fold")
    columns.add_row(Text(head, style=style), Text(line.value, style=style))
    return columns


def _is_headed(line: StatusLine) -> bool:
    """Below a head, Cilium's tables have no colon: names of controllers and maps, addresses. Details have one."""
    return line.label in _DETAILS


_DETAILS = frozenset(
    {
        "Status", "Socket LB", "Socket LB Tracing", "Socket LB Coverage", "Devices", "Mode", "Backend Selection",
        "Session Affinity", "Graceful Termination", "NAT46/64 Support", "XDP Acceleration", "Services",
        "Pod range asked for", "Pod range asked of kubeadm", "Of it, Kubernetes' for the node",
    }
)  # fmt: skip


def _endpoints(status: NodeStatus) -> Iterator[RenderableType]:
    yield _bold("as cilium endpoint list:")
    columns = [Column(title=title) for title in ("endpoint", "identity", "labels", "IPv4", "name", "status")]
    rows = [
        (
            str(one.number),
            str(one.identity),
            ", ".join(one.labels) or "-",
            str(one.address) if one.address is not None else "-",
            one.name or "-",
            one.state,
        )
        for one in status.endpoints
    ]
    yield Grid(columns, rows)


def _bold(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="bold")
