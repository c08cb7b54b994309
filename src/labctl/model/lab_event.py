"""What happened in a running lab, and how its parts are now, for who watches it. Pure data."""

from __future__ import annotations

from enum import StrEnum

from labctl.model.links import LinkState
from labctl.values import dataclass


class EventKind(StrEnum):
    """What happens in a lab. `lost`: the kernel had more to tell than was read in time."""

    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    NEIGHBOUR = "neighbour"
    PROGRAM = "program"
    QUEUE = "queue"
    PART = "part"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabEvent:
    """One thing that the kernel told of. `at_ns` is this host's clock; `what` is a phrase (`device eth0 is down`)."""

    at_ns: int
    part: str
    kind: EventKind
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNode:
    """A node or router as it is: how many pods it has, of how many devices how many are up, and what its devices
    received, sent and dropped since they were made."""

    name: str
    is_there: bool
    pods: int
    devices: int
    devices_up: int
    rx_packets: int
    tx_packets: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """The nodes and routers, and every link."""

    nodes: tuple[LiveNode, ...]
    links: tuple[LinkState, ...]
