"""The maps of a node's programs in words: keys and values decoded, addresses and identities named. Pure.

Nothing in here reads what the maps should hold: names come from the lab, entries from the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address

from labctl.datapath.bpf import Entry, MapInfo, MapType
from labctl.datapath.layout import (
    FRAGMENT_KEY,
    NO_ADDRESS,
    PORTS,
    ConfigFlag,
    SecurityIdentity,
    decode_metrics,
    unpack_config,
    unpack_endpoint,
    unpack_ipcache,
    unpack_tunnel_key,
)
from labctl.datapath.masquerading import unpack_masqueraded
from labctl.datapath.service_maps import (
    FLOW_KEY,
    PROTOCOLS,
    BackendFlag,
    FlowState,
    unpack_backend,
    unpack_flow,
    unpack_service,
    unpack_socket,
)
from labctl.model.evidence import MapTable
from labctl.model.lab import Lab
from labctl.values import dataclass

Row = tuple[str, ...]

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}
_DIGITS = re.compile(r"(\d+)", re.ASCII)
_KINDS = {
    MapType.HASH: "hash",
    MapType.ARRAY: "array",
    MapType.PERCPU_HASH: "per-CPU hash",
    MapType.LRU_HASH: "LRU hash",
    MapType.LPM_TRIE: "LPM trie",
    MapType.DEVMAP_HASH: "device hash",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MapNames:
    """The names of addresses, identities and interface indexes, for people."""

    addresses: Mapping[IPv4Address, str]
    identities: Mapping[int, str]
    devices: Mapping[int, str]

    def address(self, address: IPv4Address) -> str:
        name = self.addresses.get(address)
        return f"{address} ({name})" if name else str(address)

    def identity(self, identity: int) -> str:
        name = self.identities.get(identity)
        return f"{identity} ({name})" if name else str(identity)

    def device(self, index: int) -> str:
        return self.devices.get(index, f"interface {index}")


def names_of(lab: Lab, devices: Mapping[int, str]) -> MapNames:
    """The names that the lab gives; `devices` are the node's, by interface index."""
    addresses = {pod.address: pod.name for pod in lab.pods}
    for node in lab.nodes:
        addresses |= {node.address.ip: node.name, node.router: f"cilium_host of {node.name}"}
    identities: dict[int, str] = {int(known): known.name.lower().replace("_", "-") for known in SecurityIdentity}
    for pod in lab.pods:
        labels = ",".join(f"{key}={value}" for key, value in sorted(pod.labels.items()))
        identities[pod.identity] = labels or pod.name
    return MapNames(addresses=addresses, identities=identities, devices=devices)


def map_tables(
    lab: Lab, devices: Mapping[int, str], dumps: Iterable[tuple[MapInfo, tuple[Entry, ...]]]
) -> tuple[MapTable, ...]:
    """Those of the maps that are labctl's, in reading order; `devices` are the node's, by index."""
    names = names_of(lab, devices)
    tables = (map_table(info, entries, names) for info, entries in dumps)
    return tuple(sorted((table for table in tables if table is not None), key=_place))


_ORDER = (
    "config",
    "endpoints",
    "ipcache",
    "tunnel",
    "services",
    "backends",
    "alive",
    "reverse_sk",
    "ct",
    "snat",
    "stack_flows",
    "fragments",
    "metrics",
)


def _place(table: MapTable) -> tuple[int, str]:
    return (_ORDER.index(table.name) if table.name in _ORDER else len(_ORDER), table.name)


def map_table(info: MapInfo, entries: Iterable[Entry], names: MapNames) -> MapTable | None:
    """The map in words, or None for one that holds no entries to list (a ring buffer) or is not labctl's."""
    shape = _SHAPES.get(info.name)
    if shape is None:
        return None
    return MapTable(
        name=info.name,
        meaning=shape.meaning,
        kind=_KINDS.get(MapType(info.type), str(info.type)) if info.type in set(MapType) else str(info.type),
        columns=shape.columns,
        rows=tuple(sorted(shape.rows(entries, names), key=_in_order)),
        command=f"bpftool map dump id {info.id}",
        cilium_command=shape.cilium_command,
        map_id=info.id,
        max_entries=None if info.type == MapType.ARRAY else info.max_entries,
    )


def _in_order(row: Row) -> tuple[tuple[int | str, ...], ...]:
    """Numbers by their value: 10.244.0.9 before 10.244.0.10. Digits and other text alternate, so that both compare."""
    return tuple(tuple(int(part) if part.isdigit() else part for part in _DIGITS.split(cell)) for cell in row)


def _config(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for _, (value, *_rest) in entries:
        config = unpack_config(value)
        flags = ", ".join(flag.name.lower() for flag in ConfigFlag if flag in config.flags and flag.name)
        yield "node", names.address(config.node_address)
        yield "router", names.address(config.router_address)
        yield "pod CIDR", str(config.pod_cidr)
        yield "uplink", names.device(config.uplink_ifindex)
        yield "flags", flags or "none"
        yield "extra delay", f"{config.extra_delay_ns} ns"
        if config.trace_source != NO_ADDRESS:
            traced = f"{names.address(config.trace_source)} ↔ {names.address(config.trace_destination)}"
            yield "traced pair", traced


def _endpoints(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        found = unpack_endpoint(value)
        yield (
            names.address(IPv4Address(key)),
            names.device(found.ifindex),
            found.mac,
            found.lxc_mac,
            names.identity(found.identity),
        )


def _ipcache(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        identity, tunnel_endpoint = unpack_ipcache(value)
        through = "" if tunnel_endpoint == NO_ADDRESS else names.address(tunnel_endpoint)
        yield names.address(IPv4Address(key)), names.identity(identity), through


def _tunnel(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        yield str(unpack_tunnel_key(key)), names.address(IPv4Address(value))


def _snat(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        found = unpack_masqueraded(key, value)
        rewritten = f"{names.address(found.address)}:{found.port}"
        yield (
            _PROTOCOLS.get(found.protocol, str(found.protocol)),
            "in" if found.is_back else "out",
            f"{names.address(found.source)}:{found.source_port}",
            f"{names.address(found.destination)}:{found.destination_port}",
            f"destination → {rewritten}" if found.is_back else f"source → {rewritten}",
        )


def _services(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        slot = unpack_service(key, value)
        yield (
            PROTOCOLS.get(slot.protocol, str(slot.protocol)),
            f"{names.address(slot.address)}:{slot.port}",
            slot.scope.name.lower(),
            str(slot.slot),
            f"backend {slot.backend}" if slot.slot else f"ID {slot.id}, {slot.count} backends",
        )


def _backends(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        found = unpack_backend(key, value)
        protocol = PROTOCOLS.get(found.protocol, str(found.protocol))
        watched = "yes" if BackendFlag.WATCHED in found.flags else ""
        yield str(found.id), protocol, f"{names.address(found.address)}:{found.port}", watched


def _alive(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        yield names.address(IPv4Address(key)), str(int.from_bytes(value[:4], "little"))


def _sockets(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        found = unpack_socket(key, value)
        yield (
            str(found.cookie),
            f"{names.address(found.backend)}:{found.backend_port}",
            f"{names.address(found.service)}:{found.service_port}",
            str(found.id),
        )


def _flows(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        flow = unpack_flow(key, value)
        states = ", ".join(
            state.name.lower().replace("_", " ") for state in FlowState if state in flow.state and state.name
        )
        yield (
            PROTOCOLS.get(flow.protocol, str(flow.protocol)),
            f"{names.address(flow.source)}:{flow.source_port}",
            f"{names.address(flow.destination)}:{flow.destination_port}",
            f"{names.address(flow.new_source)}:{flow.new_source_port}",
            f"{names.address(flow.new_destination)}:{flow.new_destination_port}",
            states or "request",
        )


def _stack_flows(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, _ in entries:
        source, destination, source_port, destination_port, protocol = FLOW_KEY.unpack(key)
        yield (
            PROTOCOLS.get(protocol, str(protocol)),
            f"{names.address(IPv4Address(source))}:{_port(source_port)}",
            f"{names.address(IPv4Address(destination))}:{_port(destination_port)}",
        )


def _fragments(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for key, (value, *_) in entries:
        source, destination, number, protocol = FRAGMENT_KEY.unpack(key)
        source_port, destination_port = PORTS.unpack(value)
        yield (
            _PROTOCOLS.get(protocol, str(protocol)),
            names.address(IPv4Address(source)),
            names.address(IPv4Address(destination)),
            str(_port(number)),
            f"{_port(source_port)} → {_port(destination_port)}",
        )


def _metrics(entries: Iterable[Entry], names: MapNames) -> Iterable[Row]:
    for metric in decode_metrics(entries):
        yield (
            names.device(metric.ifindex),
            metric.program.function,
            metric.verdict.words,
            str(metric.packets),
            str(metric.bytes),
        )


def _port(data: bytes) -> int:
    return int.from_bytes(data, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    meaning: str
    columns: Row
    rows: Callable[[Iterable[Entry], MapNames], Iterable[Row]]
    cilium_command: str = ""


_SHAPES = {
    "config": _Shape(
        meaning="what this node's programs know about their node", columns=("setting", "value"), rows=_config
    ),
    "endpoints": _Shape(
        meaning="the pods of this node: where a packet for them is delivered, and with which MACs",
        columns=("pod", "lxc", "eth0 MAC", "lxc MAC", "identity"),
        rows=_endpoints,
        cilium_command="cilium bpf endpoint list",
    ),
    "ipcache": _Shape(
        meaning="the identity of each address, and its tunnel endpoint; an address that is not listed is the world",
        columns=("address", "identity", "tunnel endpoint"),
        rows=_ipcache,
        cilium_command="cilium bpf ipcache list; cilium identity list",
    ),
    "tunnel": _Shape(
        meaning="which node has which pod range: used when the ipcache does not have the address",
        columns=("pod CIDR", "tunnel endpoint"),
        rows=_tunnel,
        cilium_command="cilium bpf tunnel list",
    ),
    "services": _Shape(
        meaning="Services: slot 0 says how many backends one has, the others which",
        columns=("protocol", "Service", "scope", "slot", "entry"),
        rows=_services,
        cilium_command="cilium service list; cilium bpf lb list",
    ),
    "backends": _Shape(
        meaning="the backends by their numbers; one that is watched is chosen only while the map alive has its address",
        columns=("number", "protocol", "backend", "watched"),
        rows=_backends,
        cilium_command="cilium bpf lb list --backends",
    ),
    "alive": _Shape(
        meaning="backends whose lxc is there, on whichever node: the kernel removes an entry with its device",
        columns=("backend", "lxc's index on its node"),
        rows=_alive,
    ),
    "reverse_sk": _Shape(
        meaning="sockets that talk to a backend in place of a Service",
        columns=("socket cookie", "backend", "Service", "ID"),
        rows=_sockets,
        cilium_command="cilium bpf lb list --revnat",
    ),
    "ct": _Shape(
        meaning="connections that were translated in packets: what the packets of each direction get",
        columns=("protocol", "from", "to", "new from", "new to", "state"),
        rows=_flows,
        cilium_command="cilium bpf ct list global; cilium bpf nat list",
    ),
    "snat": _Shape(
        meaning="what was masqueraded: which flow got which address and port",
        columns=("protocol", "way", "from", "to", "rewritten"),
        rows=_snat,
        cilium_command="cilium bpf nat list",
    ),
    "stack_flows": _Shape(
        meaning="connections that the node's netfilter translated: their answers go to the stack, too",
        columns=("protocol", "client", "backend"),
        rows=_stack_flows,
    ),
    "fragments": _Shape(
        meaning="first fragments seen: the ports that their later fragments lack",
        columns=("protocol", "from", "to", "IP id", "ports"),
        rows=_fragments,
        cilium_command="cilium bpf frag list",
    ),
    "metrics": _Shape(
        meaning="what each program did with packets, counted by itself",
        columns=("device", "program", "what it did", "packets", "bytes"),
        rows=_metrics,
        cilium_command="cilium bpf metrics list",
    ),
}
