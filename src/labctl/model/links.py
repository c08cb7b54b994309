"""A link of a running lab as it is: its two ends, whether packets can pass, what passed. Pure data."""

from __future__ import annotations

from labctl.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEndState:
    """The device at one end. `is_there` is false when it is gone, as with a node that is stopped. Counters are since it
    was made: packets, bytes."""

    part: str
    device: str
    is_there: bool = True
    is_up: bool = False
    has_carrier: bool = False
    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    errors: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        return f"{self.part}:{self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """A link, both ends in the order of the lab's plan. `impairments` says in a few words what is set on it."""

    name: str
    ends: tuple[LinkEndState, ...]
    impairments: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """`up`, `down`, or `gone` where an end is not there."""
        if not all(end.is_there for end in self.ends):
            return "gone"
        return "up" if all(end.is_up and end.has_carrier for end in self.ends) else "down"
