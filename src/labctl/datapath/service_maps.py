"""The bytes of the maps of Services, and of the connections that were translated; `source/layout.h` has the same.

Pure packing and unpacking, and the one thing that the programs do not do themselves: removing what has expired. An
entry that has expired is none to them, but stays until its place is needed, as in Cilium until the agent collects it.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address

from labctl.datapath import bpf
from labctl.values import dataclass

SERVICE_KEY = struct.Struct("<4s2sHBB2x")
SERVICE_ENTRY = struct.Struct("<IHHI")
BACKEND_KEY = struct.Struct("<I")
BACKEND = struct.Struct("<4s2sBB")
SOCKET_KEY = struct.Struct("<Q4s2s2x")
SOCKET_ENTRY = struct.Struct("<4s2sH")
FLOW_KEY = struct.Struct("<4s4s2s2sB3x")
FLOW_ENTRY = struct.Struct("<Q4s4s2s2sII4x")
DEVICE_INDEX = struct.Struct("<I")

TCP, UDP = 6, 17
PROTOCOLS = {TCP: "tcp", UDP: "udp"}


class ServiceScope(IntEnum):
    """`enum service_scope`: whose list of backends it is, where there are two."""

    EXTERNAL = 0
    INTERNAL = 1


class ServiceFlag(IntFlag):
    """`enum service_flag`."""

    TWO_SCOPES = 1
    NODEPORT = 2


class BackendFlag(IntFlag):
    """`enum backend_flag`."""

    WATCHED = 1


class FlowState(IntFlag):
    """`enum flow_state`."""

    REPLY = 1
    REPLIED = 2
    REQUEST_FIN = 4
    REPLY_FIN = 8
    RESET = 16
    OWN = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSlot:
    """One entry of `services`: slot 0 says how many `backend`s there are, each other one says which backend it is.

    `id` is the Service's number in slot 0. `address` 0.0.0.0 stands for every address of a node.
    """

    address: IPv4Address
    port: int
    protocol: int
    slot: int
    scope: ServiceScope
    backend: int
    count: int
    id: int
    flags: ServiceFlag


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendEntry:
    """One entry of `backends`."""

    id: int
    address: IPv4Address
    port: int
    protocol: int
    flags: BackendFlag


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One entry of `ct`: packets of the first four get the other four. `expires_ns` is CLOCK_MONOTONIC."""

    protocol: int
    source: IPv4Address
    source_port: int
    destination: IPv4Address
    destination_port: int
    new_source: IPv4Address
    new_source_port: int
    new_destination: IPv4Address
    new_destination_port: int
    backend: int
    state: FlowState
    expires_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketEntry:
    """One entry of `reverse_sk`: the socket talks to a backend, and was asked for a Service."""

    cookie: int
    backend: IPv4Address
    backend_port: int
    service: IPv4Address
    service_port: int
    id: int


def pack_port(port: int) -> bytes:
    return port.to_bytes(2, "big")


def unpack_port(data: bytes) -> int:
    return int.from_bytes(data, "big")


def pack_service_key(address: bytes, port: int, protocol: int, slot: int, scope: int) -> bytes:
    """`address` as its four bytes: there may be tens of thousands of them."""
    return SERVICE_KEY.pack(address, pack_port(port), slot, protocol, scope)


def pack_service(*, backend: int = 0, count: int = 0, number: int = 0, flags: int = 0) -> bytes:
    return SERVICE_ENTRY.pack(backend, count, number, flags)


def pack_backend(address: bytes, port: int, protocol: int, flags: int) -> bytes:
    return BACKEND.pack(address, pack_port(port), protocol, flags)


def unpack_service(key: bytes, value: bytes) -> ServiceSlot:
    address, port, slot, protocol, scope = SERVICE_KEY.unpack(key)
    backend, count, number, flags = SERVICE_ENTRY.unpack(value)
    return ServiceSlot(
        address=IPv4Address(address),
        port=unpack_port(port),
        protocol=protocol,
        slot=slot,
        scope=ServiceScope(scope),
        backend=backend,
        count=count,
        id=number,
        flags=ServiceFlag(flags),
    )


def unpack_backend(key: bytes, value: bytes) -> BackendEntry:
    address, port, protocol, flags = BACKEND.unpack(value)
    return BackendEntry(
        id=BACKEND_KEY.unpack(key)[0],
        address=IPv4Address(address),
        port=unpack_port(port),
        protocol=protocol,
        flags=BackendFlag(flags),
    )


def unpack_flow(key: bytes, value: bytes) -> Flow:
    source, destination, source_port, destination_port, protocol = FLOW_KEY.unpack(key)
    expires_ns, new_source, new_destination, new_source_port, new_destination_port, backend, state = FLOW_ENTRY.unpack(
        value
    )
    return Flow(
        protocol=protocol,
        source=IPv4Address(source),
        source_port=unpack_port(source_port),
        destination=IPv4Address(destination),
        destination_port=unpack_port(destination_port),
        new_source=IPv4Address(new_source),
        new_source_port=unpack_port(new_source_port),
        new_destination=IPv4Address(new_destination),
        new_destination_port=unpack_port(new_destination_port),
        backend=backend,
        state=FlowState(state),
        expires_ns=expires_ns,
    )


def unpack_socket(key: bytes, value: bytes) -> SocketEntry:
    cookie, backend, backend_port = SOCKET_KEY.unpack(key)
    service, service_port, number = SOCKET_ENTRY.unpack(value)
    return SocketEntry(
        cookie=cookie,
        backend=IPv4Address(backend),
        backend_port=unpack_port(backend_port),
        service=IPv4Address(service),
        service_port=unpack_port(service_port),
        id=number,
    )


def flows(ct_map: int) -> Iterator[Flow]:
    """Every entry of the map `ct`, those that have expired too."""
    for key, values in bpf.dump(ct_map):
        yield unpack_flow(key, values[0])


def collect_expired(ct_map: int, *, now_ns: int | None = None) -> int:
    """Removes the entries of `ct` that have expired (by CLOCK_MONOTONIC), and says how many there were."""
    now = time.monotonic_ns() if now_ns is None else now_ns
    gone = [key for key, values in bpf.dump(ct_map) if FLOW_ENTRY.unpack(values[0])[0] <= now]
    return sum(bpf.delete(ct_map, key) for key in gone)
