"""What `cilium status --verbose` says of a node, line by line, and what shows that it is so. Pure data.

A lab with real Cilium gives its agents' own lines. A lab of labctl's own datapath has the same lines in the same order,
with what stands in their place read from the kernel; what has no counterpart there says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from labctl.codec import NULL, OMITTED, Key
from labctl.model.evidence import Evidence, ModeInForce
from labctl.values import dataclass


class Shown(StrEnum):
    """How sure a line is."""

    PROVEN = "proven"
    """Packets or the kernel's own objects show it."""
    SAID = "said"
    """An agent says it of itself, or a program was made so: nothing was tried."""
    UNPROVEN = "unproven"
    """It was asked for, and nobody looked."""
    ABSENT = "absent"
    """The lab has nothing of the kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusLine:
    """One line. `depth` counts the lines above that it belongs to; `because` is what shows it, `command` shows the same
    by hand."""

    label: str
    value: str = ""
    depth: int = 0
    shown: Shown = Shown.SAID
    because: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEndpoint:
    """One line of `cilium endpoint list`. `number` is the endpoint's id: of labctl's own datapath, the lxc's index."""

    number: Annotated[int, Key("id")]
    identity: int
    labels: tuple[str, ...]
    address: Annotated[IPv4Address | None, NULL]
    name: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRanges:
    """Where a node's pods get their addresses: what was asked for, and what IPAM really uses.

    `asked` is the range of all pods that the scenario, and with it kubeadm, was given, `kubernetes` the part of it that
    Kubernetes set aside for the node (None where there is no Kubernetes), `used` the range of the node's pods.
    `free` counts addresses: of 254 in a /24, those that nobody has.
    """

    asked: IPv4Network
    kubernetes: Annotated[IPv4Network | None, OMITTED] = None
    used: IPv4Network
    allocated: int
    free: int

    @property
    def agrees(self) -> bool:
        """Whether the pods' addresses are in the range that was asked for."""
        return self.used.subnet_of(self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node. `says` is what the lines are of: an agent and its version, or labctl's own datapath."""

    node: str
    says: str
    lines: tuple[StatusLine, ...]
    endpoints: tuple[StatusEndpoint, ...]
    ranges: Annotated[PodRanges | None, OMITTED] = None
    command: str = ""


def witness_of(mode: ModeInForce | None, key: str, node: str) -> Evidence | None:
    """What shows the mode's `key` by packets or counters, of that node where there is such evidence, else of another.
    What an agent says of itself is no witness."""
    pieces = [] if mode is None else [piece for piece in mode.evidence if piece.supports and key in (piece.found or {})]
    telling = [piece for piece in pieces if piece.witness not in ("agent-status", "cilium-config")]
    here = [piece for piece in telling if piece.where == node or piece.where.startswith(f"{node}:")]
    return next(iter(here or telling), None)


def labels_of(lines: Iterable[StatusLine], depth: int = 0) -> tuple[str, ...]:
    """The labels of that depth, in order."""
    return tuple(line.label for line in lines if line.depth == depth)
