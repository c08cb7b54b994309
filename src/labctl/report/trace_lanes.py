"""The places of a trace as lanes: client pod, its node, the wire, the server's node, server pod. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.model.lab import Placement
from labctl.model.path import Trace
from labctl.model.signature import Role

_WIRE = frozenset({Role.CLIENT_BRIDGE_PORT, Role.SERVER_BRIDGE_PORT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One place. `title` is its name in the lab, `kind` what it is (`pod`, `node`, `wire`)."""

    title: str
    kind: str


def lanes(trace: Trace) -> tuple[Lane, ...]:
    client, server = Lane(title=trace.client, kind="pod"), Lane(title=trace.server, kind="pod")
    node = Lane(title=trace.client_node, kind="node")
    if trace.placement is Placement.SAME_NODE:
        return client, node, server
    return client, node, Lane(title="wire", kind="wire"), Lane(title=trace.server_node, kind="node"), server


def lane_of(role: Role, placement: Placement) -> int:
    """The index in `lanes` of the place where taps of this role are."""
    if role is Role.CLIENT_ETH0:
        return 0
    if placement is Placement.SAME_NODE:
        return 2 if role is Role.SERVER_ETH0 else 1
    if role is Role.SERVER_ETH0:
        return 4
    if role in _WIRE:
        return 2
    return 3 if role.value.startswith("server") else 1
