"""The map `snat`: the connections that a node's programs masquerade, two entries each; `source/snat.h` makes them.

An entry whose time is up is none to the programs, and its port is free. They remove it when the port is needed, or when
new connections bring it to the front of the queue; on a quiet node it stays until `collect_expired`. Times are those of
CLOCK_MONOTONIC. It stands alone because packing the maps of a lab that is built does not need it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address

from labctl.datapath import bpf
from labctl.datapath.layout import SNAT_ENTRY, SNAT_KEY
from labctl.datapath.service_maps import FlowState
from labctl.values import dataclass

FIRST_PORT, LAST_PORT = 32_768, 65_535
"""The ports and ICMP ids that masqueraded packets have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masqueraded:
    """One entry: a packet from `source` to `destination` gets `address` and `port` as its source, or (`is_back`) as its
    destination. Of ICMP echoes the ports are the id, and 0."""

    protocol: int
    source: IPv4Address
    source_port: int
    destination: IPv4Address
    destination_port: int
    is_back: bool
    address: IPv4Address
    port: int
    state: FlowState
    created_ns: int
    expires_ns: int


def unpack_masqueraded(key: bytes, value: bytes) -> Masqueraded:
    source, destination, source_port, destination_port, protocol, direction = SNAT_KEY.unpack(key)
    created_ns, expires_ns, address, port, state = SNAT_ENTRY.unpack(value)
    return Masqueraded(
        protocol=protocol,
        source=IPv4Address(source),
        source_port=int.from_bytes(source_port, "big"),
        destination=IPv4Address(destination),
        destination_port=int.from_bytes(destination_port, "big"),
        is_back=bool(direction),
        address=IPv4Address(address),
        port=int.from_bytes(port, "big"),
        state=FlowState(state),
        created_ns=created_ns,
        expires_ns=expires_ns,
    )


def masqueraded(snat_map: int) -> Iterator[Masqueraded]:
    """Every entry, those whose time is up too. Raises OSError."""
    for key, values in bpf.dump(snat_map):
        yield unpack_masqueraded(key, values[0])


def collect_expired(snat_map: int, *, now_ns: int | None = None) -> int:
    """Removes the entries whose time is up, and says how many there were. Raises OSError."""
    now = time.monotonic_ns() if now_ns is None else now_ns
    gone = [key for key, values in bpf.dump(snat_map) if SNAT_ENTRY.unpack(values[0])[1] <= now]
    return sum(bpf.delete(snat_map, key) for key in gone)
