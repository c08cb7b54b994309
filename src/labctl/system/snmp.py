"""How many packets have come to the IP stack of a network namespace, whichever way they were brought there.

It is the positive side of "nothing was seen on the way": bpf_redirect_peer leaves no trace on a pod's lxc, but what it
delivers is counted here, as is what the lxc delivers; ARP is not. Every kernel counts it for each namespace
(ipInReceives of RFC 1213).
"""

from __future__ import annotations

import errno
from pathlib import Path

ARGV = ("cat", "/proc/net/snmp")


def arrivals() -> int:
    """Of the namespace that the calling thread is in, so far. Raises OSError."""
    return parse_arrivals(Path("/proc/thread-self/net/snmp").read_text(encoding="ascii"))


def parse_arrivals(text: str) -> int:
    """InReceives of IPv4 from /proc/net/snmp: a line of names, then a line of numbers. Raises OSError (ENODATA) where
    it is not in the text."""
    lines = [line.split() for line in text.splitlines() if line.startswith("Ip:")]
    counters = dict(zip(*lines, strict=False)) if len(lines) == 2 else {}
    if not counters.get("InReceives", "").isdigit():
        raise OSError(errno.ENODATA, "it has no Ip InReceives")
    return int(counters["InReceives"])
