"""What this host's kernel can do for netns labs: the oldest that can build them, and what it cannot show in a trace.

The first is judged by its number, since an older one fails in many places and never by name. The second is tried, since
distributions carry features back to older numbers.
"""

from __future__ import annotations

import os
import re
import socket
from functools import cache

from labctl.model.trace import Mover, Unshown
from labctl.system import netns, rtnetlink
from labctl.system.netfilter import Nftables, TraceSocket, TraceStep
from labctl.system.netlink import Request, Socket
from labctl.values import dataclass

Version = tuple[int, int]

MINIMUM: Version = (5, 10)
MINIMUM_BECAUSE = "BPF ring buffers came with 5.8, bpf_redirect_peer and bpf_redirect_neigh with 5.10"
"""Tried on 5.4, where no program of labctl's loads, and on 5.10, where every scenario is built and proven."""

CONNECTION_STATE_SINCE: Version = (6, 16)
"""`NFTA_TRACE_CT_STATE`: commit 7e5c6aa67e6f, "add packets conntrack state to debug trace info"."""
TABLE_OWNER_SINCE: Version = (5, 12)
"""`NFT_TABLE_F_OWNER`: commit 6001a930ce03, "introduce table ownership"."""

_LO = 1
_TABLE = "labctl_try"
_PORT = 9
_TRACED = f"""table ip {_TABLE} {{
 chain first {{ type filter hook output priority -500; policy accept; udp dport {_PORT} meta nftrace set 1; }}
 chain last {{ type filter hook output priority 500; policy accept; ct state invalid,new,established accept; }}
}}
"""


def in_words(version: Version) -> str:
    return ".".join(map(str, version))


def parse_release(release: str) -> Version | None:
    """(6, 1) of `6.1.0-50-amd64`; None of what does not begin with two numbers."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else None


def too_old(release: str) -> str:
    """Why no lab can be built on a kernel of that release; empty where one can, or where the number is not known."""
    version = parse_release(release)
    if version is None or version >= MINIMUM:
        return ""
    return f"this kernel is {in_words(version)}; labctl needs {in_words(MINIMUM)} or later ({MINIMUM_BECAUSE})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceAbilities:
    """What nf_tables of this kernel can do for a trace. `tells_connections`: the trace has the state that connection
    tracking gives a packet. `owns_tables`: a table goes with the socket that made it. None: it could not be tried."""

    tells_connections: bool | None
    owns_tables: bool | None

    def unshown(self, release: str) -> tuple[Unshown, ...]:
        """What a trace on this kernel leaves out; what could not be tried is not called missing."""
        if self.tells_connections is not False:
            return ()
        return (Unshown(mover=Mover.CONNTRACK, kernel=release, since=in_words(CONNECTION_STATE_SINCE)),)


@cache
def trace_abilities() -> TraceAbilities:
    """Tried once in a throwaway namespace, by tracing one datagram there. Takes milliseconds. Raises OSError where
    there is no libnftables or no right to make a namespace."""
    with netns.throwaway(), Nftables() as nftables:
        owns = not nftables.run(f"table ip {_TABLE}_owned {{ flags owner; }}")
        if nftables.run(_TRACED):
            return TraceAbilities(tells_connections=None, owns_tables=owns)
        steps = _steps_of_one_datagram()
    return TraceAbilities(tells_connections=tells_connections(steps), owns_tables=owns)


def tells_connections(steps: tuple[TraceStep, ...]) -> bool | None:
    """Whether the trace of one packet, up to its last hook and beyond connection tracking, has that state. None for
    a trace that did not come so far. Pure."""
    last = [step for step in steps if (step.table, step.chain) == (_TABLE, "last")]
    return any(step.ct_state for step in last) if last else None


def release() -> str:
    return os.uname().release


def _steps_of_one_datagram() -> tuple[TraceStep, ...]:
    up: Request = rtnetlink.link_up(_LO)
    with Socket() as channel:
        channel.send([up])
    trace = TraceSocket()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(b"labctl", ("127.0.0.1", _PORT))
        return tuple(trace.read())
    finally:
        trace.close()
