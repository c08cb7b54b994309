"""Datagrams that reached a pod and that its program did not read in time, as the pod's own kernel counts them.

On a busy machine a receiver is kept waiting, its socket's buffer fills up, and the kernel throws away what the network
delivered. A program that counts sequence numbers calls that loss. This module tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from labctl.checks.raw import RawFiles
from labctl.errors import MeasureFailed
from labctl.providers.base import Target

_TIMEOUT_S = 10.0


@dataclass(slots=True, kw_only=True)
class Unread:
    """`datagrams` is known when the run is over, and stays None where the counter cannot be read."""

    datagrams: int | None = None


def argv_udp_counters() -> tuple[str, ...]:
    return ("cat", "/proc/net/snmp")


def parse_udp_counters(text: str) -> int:
    """`RcvbufErrors` of the two lines `Udp:`, names and numbers (Linux, net/ipv4/proc.c). Raises MeasureFailed."""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("Udp:")]
    try:
        names, numbers = lines
        return int(dict(zip(names, numbers, strict=True))["RcvbufErrors"])
    except (ValueError, KeyError):
        raise MeasureFailed("/proc/net/snmp cannot be read", "it has no Udp RcvbufErrors") from None


@contextmanager
def counting_unread(target: Target, raw: RawFiles) -> Iterator[Unread]:
    """Counts in the target what is thrown away unread within it."""
    unread = Unread()
    before = _counter(target, raw, "unread-before")
    yield unread
    after = _counter(target, raw, "unread-after")
    if before is not None and after is not None:
        unread.datagrams = after - before


def _counter(target: Target, raw: RawFiles, name: str) -> int | None:
    """None where it cannot be read: the check then judges by what its program counted, as it would without."""
    try:
        completed = target.run(argv_udp_counters(), timeout_s=_TIMEOUT_S)
        raw.save_completed(name, completed)
        return parse_udp_counters(completed.text)
    except MeasureFailed:
        return None
