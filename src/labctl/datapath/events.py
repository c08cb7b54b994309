"""What the programs report about single packets of a traced pair: switching it on, reading the ring, decoding.

Tracing costs the programs one branch while it is off.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address
from types import TracebackType
from typing import Any

from labctl.datapath import bpf
from labctl.datapath.layout import (
    CONFIG,
    CONFIG_KEY,
    EVENT,
    NO_ADDRESS,
    Config,
    ConfigFlag,
    PacketVerdict,
    Program,
    pack_config,
    unpack_config,
)
from labctl.datapath.loader import LIBBPF
from labctl.units import MILLI
from labctl.values import dataclass

ICMP = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One packet in one program.

    `time_ns` is CLOCK_MONOTONIC, the same clock on every node of one host. `source` and `destination` are the packet's
    as it left the program, the `original_` ones as it came (they differ where it was masqueraded, or a Service was
    translated; the ports as it came are 0 but for the latter). `ttl_in` and `ttl_out` likewise. For an ICMP echo,
    `source_port` is its id and `destination_port` its sequence number.
    `encapsulated`: seen inside its vxlan envelope on the uplink. `identity` is the sender's (the VNI), 0 if unknown.
    A program at a socket has no device and no source: `original_destination` is the Service, `destination` the backend.
    `target_ifindex` is where a redirect goes to, 0 otherwise. `length` is the IPv4 packet's, in bytes.
    """

    time_ns: int
    cpu: int
    program: Program
    ifindex: int
    verdict: PacketVerdict
    target_ifindex: int
    source: IPv4Address
    destination: IPv4Address
    original_source: IPv4Address
    original_destination: IPv4Address
    protocol: int
    ip_id: int
    source_port: int
    destination_port: int
    icmp_type: int
    ttl_in: int
    ttl_out: int
    length: int
    identity: int
    encapsulated: bool
    original_source_port: int = 0
    original_destination_port: int = 0

    @property
    def hook(self) -> str:
        return self.program.hook


def decode_event(data: bytes) -> Event:
    """One record of the ring. Raises struct.error or ValueError for bytes that no program of labctl wrote."""
    (
        time_ns,
        ifindex,
        target_ifindex,
        source,
        destination,
        original_source,
        original_destination,
        length,
        identity,
        ip_id,
        source_port,
        destination_port,
        program,
        verdict,
        protocol,
        ttl_in,
        ttl_out,
        icmp_type,
        encapsulated,
        cpu,
        original_source_port,
        original_destination_port,
    ) = EVENT.unpack(data[: EVENT.size])
    return Event(
        time_ns=time_ns,
        cpu=cpu,
        program=Program(program),
        ifindex=ifindex,
        verdict=PacketVerdict(verdict),
        target_ifindex=target_ifindex,
        source=IPv4Address(source),
        destination=IPv4Address(destination),
        original_source=IPv4Address(original_source),
        original_destination=IPv4Address(original_destination),
        protocol=protocol,
        ip_id=int.from_bytes(ip_id, "big"),
        source_port=int.from_bytes(source_port, "big"),
        destination_port=int.from_bytes(destination_port, "big"),
        icmp_type=icmp_type,
        ttl_in=ttl_in,
        ttl_out=ttl_out,
        length=length,
        identity=identity,
        encapsulated=bool(encapsulated),
        original_source_port=int.from_bytes(original_source_port, "big"),
        original_destination_port=int.from_bytes(original_destination_port, "big"),
    )


def trace_pair(config_map: int, source: IPv4Address, destination: IPv4Address) -> None:
    """Switches tracing on for packets between the two addresses, in both directions.

    With one of them 0.0.0.0 every packet of the other is reported; with both, every packet.
    """
    _reconfigure(config_map, flag=True, source=source, destination=destination)


def stop_tracing(config_map: int) -> None:
    _reconfigure(config_map, flag=False, source=NO_ADDRESS, destination=NO_ADDRESS)


def is_tracing(config_map: int) -> bool:
    return ConfigFlag.TRACE in _config(config_map).flags


def _reconfigure(config_map: int, *, flag: bool, source: IPv4Address, destination: IPv4Address) -> None:
    config = _config(config_map)
    changed = dataclasses.replace(
        config,
        flags=config.flags | ConfigFlag.TRACE if flag else config.flags & ~ConfigFlag.TRACE,
        trace_source=source,
        trace_destination=destination,
    )
    bpf.update(config_map, [(CONFIG_KEY, pack_config(changed))])


def _config(config_map: int) -> Config:
    data = bpf.lookup(config_map, CONFIG_KEY, CONFIG.size)
    if data is None:
        raise ValueError("the map has no entry 0: it is not a config map")
    return unpack_config(data)


class EventReader:
    """Reads one node's ring. It also gives the events from before it was opened, as far as the ring holds them."""

    def __init__(self, events_map: int) -> None:
        self._library = _libbpf()
        self._pending: list[bytes] = []
        self._callback = _SAMPLE(self._sample)
        self._ring = self._library.ring_buffer__new(events_map, self._callback, None, None)
        if not self._ring:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot read the ring buffer of events: {os.strerror(error)}")

    def _sample(self, _context: int | None, data: int, size: int) -> int:
        self._pending.append(ctypes.string_at(data, size))
        return 0

    def read(self, *, timeout_s: float = 0.0) -> Iterator[Event]:
        """What is in the ring; when it is empty, what comes within `timeout_s` seconds."""
        self._library.ring_buffer__poll(self._ring, int(timeout_s / MILLI))
        pending, self._pending = self._pending, []
        for data in pending:
            yield decode_event(data)

    def close(self) -> None:
        if self._ring:
            self._library.ring_buffer__free(self._ring)
            self._ring = None

    def __enter__(self) -> EventReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@cache
def _libbpf() -> Any:
    library = ctypes.CDLL(LIBBPF, use_errno=True)
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for function, result, arguments in (
        ("ring_buffer__new", pointer, (number, _SAMPLE, pointer, pointer)),
        ("ring_buffer__poll", number, (pointer, number)),
        ("ring_buffer__free", None, (pointer,)),
    ):
        bound = getattr(library, function)
        bound.restype = result
        bound.argtypes = arguments
    return library
