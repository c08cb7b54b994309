"""A node in `cilium status`'s columns: values stand where Cilium has them, and long ones go on below themselves."""

from __future__ import annotations

import io

from rich.console import Console, Group

from labctl.model.node_status import NodeStatus, Shown, StatusLine
from labctl.report.cilium_status import cilium_view


def shown(width: int, *lines: StatusLine) -> list[str]:
    drawn = io.StringIO()
    status = NodeStatus(node="node1", says="a node", command="", lines=lines, endpoints=(), ranges=None)
    Console(file=drawn, width=width).print(Group(*cilium_view([status])))
    return [line.rstrip() for line in drawn.getvalue().splitlines()]


def test_a_long_value_goes_on_below_itself() -> None:
    value = "BPF   [eth0]   10.244.0.0/16 [IPv4: Enabled, IPv6: Disabled]"
    lines = shown(56, StatusLine(label="Masquerading", value=value, shown=Shown.PROVEN, because="the config map"))
    at = lines.index("Masquerading:           BPF   [eth0]   10.244.0.0/16")
    assert lines[at + 1 : at + 3] == [
        "                        [IPv4: Enabled, IPv6: Disabled]",
        "    proven: the config map",
    ]


def test_a_line_without_a_value_ends_with_its_label() -> None:
    assert "Allocated addresses:" in shown(60, StatusLine(label="Allocated addresses", value="", shown=Shown.ABSENT))
