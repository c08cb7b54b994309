"""`cilium monitor`: what the datapath's programs report of each packet, per hop. Argv, and its lines read. Pure.

It must be filtered inside the agent: over `kubectl exec` it otherwise traces its own output without end. There are two
ways. By endpoint (`--related-to`) only those events pass that name one: enough for a proof of the mode. By addresses,
with `-j`, every event of a pair passes, also those of the devices' own programs, and each has the packet's own
numbers: that is for single packets.

Monitor's lines of one node as movements: which program speaks, at which device, and in which order it did. Pure.

A line names a point, not a program and seldom a device. The program of a pod's device gives the endpoint that it
belongs to, those of other devices have none; a packet is where it was last reported to come in. Monitor never says
which redirect helper a program used, so no movement has it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field, replace

from labctl.errors import MeasureFailed
from labctl.json_text import mapping_of, number_of, object_of
from labctl.model.interfaces import CILIUM_VXLAN
from labctl.model.trace import ForwardingAct, Movement, Mover, PacketKey
from labctl.providers.cilium.status import IN_AGENT
from labctl.values import dataclass

READY = "Press Ctrl-C to quit"

_LINE = re.compile(
    r"^(?P<summary>(?:->|<-) [a-z]+(?: from| port \d+| \d+)?) (?: ?encrypted +)?flow (?P<flow>0x[0-9a-f]+) ?,? ?"
    r"identity (?P<source>[\w:-]+?)->(?P<destination>[\w:-]+)(?: \[ ip-trace-id = \d+ \])? state (?P<state>\S+) "
    r"ifindex (?P<interface>[^:\s]+)(?: orig-ip [^:\s]+)?: "
    r"(?P<from>\S+) -> (?P<to>\S+) (?P<what>.*)$"
)
_POINT = re.compile(r"^(?P<arrow>->|<-) (?P<place>[a-z]+)(?: (?P<endpoint>\d+))?")
_LOST = re.compile(r"^(?:Unknown payload type: \d+, )?CPU \d+: Lost (\d+) events", re.MULTILINE)
_PAIR_SCRIPT = (
    'd=$(mktemp -d) && mkfifo "$d/lines" || exit 1; '
    '(exec <"$d/lines"; rm -r "$d"; exec grep --line-buffered -E "$0") & exec "$@" >"$d/lines"'
)
"""The shell becomes the monitor, so that a signal reaches it; grep ends when it does."""
_ECHOES = ("EchoRequest", "EchoReply")


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorTrace:
    """One trace line. `point` is `to-` or `from-` and where: `to-stack`, `from-overlay`, `to-endpoint`, …; `drop` for
    a packet that was thrown away, with its `reason`.

    `teller` is the endpoint whose program speaks, 0 for that of a device, None in lines without it. `first` and
    `second` are an echo's id and sequence or the ports, `ip_id` the IPv4 identification; 0 where not given.
    """

    point: str
    endpoint: int | None
    source_identity: str
    destination_identity: str
    state: str
    interface: str
    source: str
    destination: str
    what: str
    teller: int | None = None
    first: int = 0
    second: int = 0
    ip_id: int = 0
    reason: str = ""
    raw: str = ""


def argv_monitor(endpoints: Iterable[int]) -> tuple[str, ...]:
    """Every trace event that involves one of these endpoints. Raises MeasureFailed without any: see above."""
    related = [word for endpoint in endpoints for word in ("--related-to", str(endpoint))]
    if not related:
        raise MeasureFailed(
            what="the pod has no endpoint to watch",
            cause="a monitor of every packet would trace its own output without end",
        )
    return (*IN_AGENT, "monitor", "-t", "trace", *related)


def argv_monitor_pair(one: str, other: str) -> tuple[str, ...]:
    """Every trace and drop event of packets between two IPv4 addresses, one JSON object a line."""
    a, b = (address.replace(".", "[.]") for address in (one, other))
    ours = f'"l3":[{{]"src":"({a}","dst":"{b}|{b}","dst":"{a})"'
    wanted = f"{ours}|^{READY}|Lost [0-9]+ events"
    return ("sh", "-c", _PAIR_SCRIPT, wanted, *IN_AGENT, "monitor", "-j", "-t", "trace", "-t", "drop")


def parse_monitor(text: str) -> tuple[MonitorTrace, ...]:
    """The trace lines, plain or JSON, and the drops in JSON, in the order printed; headers, drops in plain text
    and debug lines are left out."""
    found = (_of_json(line) if line.startswith("{") else _of_text(line) for line in map(str.strip, text.splitlines()))
    return tuple(trace for trace in found if trace is not None)


def lost_by_monitor(text: str) -> int:
    """How many events monitor itself reports as lost, of any packets."""
    return sum(int(count) for count in _LOST.findall(text))


def _of_text(line: str) -> MonitorTrace | None:
    match = _LINE.match(line)
    if match is None:
        return None
    point, endpoint = _point(match["summary"])
    (source, source_port), (destination, destination_port) = _split(match["from"]), _split(match["to"])
    return MonitorTrace(
        point=point,
        endpoint=endpoint,
        source_identity=match["source"],
        destination_identity=match["destination"],
        state=match["state"],
        interface=match["interface"],
        source=source,
        destination=destination,
        # Newer versions (1.19) have the protocol's name before an echo's kind, too.
        what=match["what"].strip().removeprefix("icmp "),
        first=source_port,
        second=destination_port,
        raw=line,
    )


def _of_json(line: str) -> MonitorTrace | None:
    event = object_of(line)
    kind, summary = event.get("type"), mapping_of(event.get("summary"))
    l3, l4 = mapping_of(summary.get("l3")), mapping_of(summary.get("l4"))
    if kind not in ("trace", "drop") or not l3.get("src") or not l3.get("dst"):
        return None
    point, endpoint = ("drop", None) if kind == "drop" else _point(str(event.get("traceSummary", "")))
    what = next((name for name in ("tcp", "udp", "sctp", "icmpv4") if name in summary), "")
    first, second = number_of(l4.get("src")), number_of(l4.get("dst"))
    if what == "icmpv4":
        icmp = str(summary["icmpv4"])
        what = _field(icmp, "TypeCode")
        first, second = (int(_field(icmp, name) or 0) if what in _ECHOES else 0 for name in ("Id", "Seq"))
    interface = event.get("ifindex")
    return MonitorTrace(
        point=point,
        endpoint=endpoint,
        source_identity=str(event.get("srcLabel", "")),
        destination_identity=str(event.get("dstLabel", "")),
        state=str(event.get("state", "")),
        interface=interface if isinstance(interface, str) and interface else "0",
        source=str(l3["src"]),
        destination=str(l3["dst"]),
        what=what,
        teller=number_of(event.get("source")),
        first=first,
        second=second,
        ip_id=int(_field(str(summary.get("ipv4", "")), "Id") or 0),
        reason=str(event.get("reason", "")),
        raw=line,
    )


def _point(summary: str) -> tuple[str, int | None]:
    """`-> endpoint 343` as `to-endpoint` and 343; a kind of event that has no arrow in its own words."""
    match = _POINT.match(summary)
    if match is None:
        return summary, None
    direction = "to-" if match["arrow"] == "->" else "from-"
    return direction + match["place"], int(match["endpoint"]) if match["endpoint"] else None


def _field(layer: str, name: str) -> str:
    """A field of a layer as gopacket writes it: `ICMPv4\\t{Contents=[..8..] … TypeCode=EchoRequest … Id=7 Seq=1}`."""
    match = re.search(rf"[ {{]{name}=([^ }}]*)", layer)
    return match[1] if match else ""


def host_routing_of(traces: Iterable[MonitorTrace], source: str, destination: str) -> str | None:
    """What the way from one pod to another shows on the source's node: up the stack is Legacy, straight to the
    network is BPF. With a tunnel both modes print the same, and the answer is None."""
    points = [trace.point for trace in traces if trace.source == source and trace.destination == destination]
    if "to-stack" in points:
        return "legacy"
    if "to-network" in points and "to-overlay" not in points:
        return "bpf"
    return None


def _split(address: str) -> tuple[str, int]:
    """An IPv4 address and its port, 0 without one; anything else as it stands."""
    host, colon, port = address.rpartition(":")
    return (host, int(port)) if colon and host.count(":") == 0 and port.isdigit() else (address, 0)


_HOST = "cilium_host"
_HANDS_ON = {
    "to-stack": ForwardingAct.TO_STACK,
    "to-overlay": ForwardingAct.TO_OVERLAY,
    "to-network": ForwardingAct.TO_NETWORK,
    "to-endpoint": ForwardingAct.TO_ENDPOINT,
    "drop": ForwardingAct.DROP,
}
_ORDER = (
    ("from-endpoint", "from-network"), ("from-overlay",), ("to-stack",), ("from-host", "from-stack"), ("to-overlay",),
    ("to-network",), ("to-endpoint",), ("drop",),
)  # fmt: skip
_RANKS = {point: rank for rank, points in enumerate(_ORDER) for point in points}
"""One packet passes these points of a node in this order, in either direction. Monitor reads one buffer per CPU, so
that the lines of a packet which changed CPU need not come in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """A node's devices as its agent names them: the lxc of each endpoint, the uplink and the tunnel's."""

    lxcs: Mapping[int, str] = field(default_factory=dict)
    uplink: str = ""
    overlay: str = CILIUM_VXLAN


@dataclass(frozen=True, slots=True, kw_only=True)
class _TracePoint:
    what: str
    device: str
    hook: str


def movements_of(node: str, traces: Iterable[MonitorTrace], devices: Devices) -> tuple[Movement, ...]:
    """The lines as movements, those of one packet in the order of their points. Two lines of one program about one
    packet, that it came in and what became of it, are one movement. What a line does not say stays empty."""
    packets: dict[PacketKey, list[MonitorTrace]] = defaultdict(list)
    for trace in traces:
        packets[_key(trace)].append(trace)
    found: list[Movement] = []
    for key, lines in packets.items():
        # Only where each line is of one passage: without its own numbers, one key stands for many packets.
        ordered = sorted(lines, key=_rank) if _is_told_apart(key) else lines
        here: _TracePoint | None = None
        points = {trace.point for trace in lines}
        for trace in ordered:
            movement, here = _movement(node, trace, key, devices, here)
            movement = replace(movement, encapsulated=_is_in_envelope(trace.point, points))
            before = found[-1] if trace is not ordered[0] else None
            if before is not None and before.helper == ForwardingAct.SEEN and _place(before) == _place(movement):
                found[-1] = replace(movement, raw=f"{before.raw}\n{movement.raw}")
            else:
                found.append(movement)
    return tuple(found)


def _is_in_envelope(point: str, points: Collection[str]) -> bool:
    """Newer monitors (1.18) tell the uplink's programs of the packet inside the envelope. `points` are all of one
    packet on one node: what goes through the tunnel passes the uplink in its envelope."""
    return (point == "to-network" and "to-overlay" in points) or (point == "from-network" and "from-overlay" in points)


def _movement(
    node: str, trace: MonitorTrace, key: PacketKey, devices: Devices, here: _TracePoint | None
) -> tuple[Movement, _TracePoint | None]:
    at = _comes_in(trace, devices)
    own = at or _own_of_device(trace, devices)
    target = "" if at or trace.interface == "0" else trace.interface
    if own is None and here is None and trace.teller in devices.lxcs and trace.point != "to-endpoint":
        here = _TracePoint(what="cil_from_container", device=devices.lxcs[trace.teller or 0], hook="ingress")
    place = own or here or _TracePoint(what="cilium", device="", hook="egress" if target else "")
    if own is not None:
        target = ""
    elif trace.point == "to-endpoint" and not target:
        target = devices.lxcs.get(trace.endpoint or 0, "")
    movement = Movement(
        node=node,
        mover=Mover.PROGRAM,
        what=place.what,
        device=place.device,
        hook=place.hook,
        helper=str(ForwardingAct.SEEN if own is not None else _HANDS_ON.get(trace.point, trace.point)),
        packet=key,
        target=target,
        reason=trace.reason,
        identity=int(trace.source_identity) if trace.source_identity.isdigit() else 0,
        raw=trace.raw,
    )
    return movement, at or here


def _place(movement: Movement) -> _TracePoint:
    return _TracePoint(what=movement.what, device=movement.device, hook=movement.hook)


def _comes_in(trace: MonitorTrace, devices: Devices) -> _TracePoint | None:
    """The program and the device at which the line says that the packet came in; None for other lines."""
    told = "" if trace.interface == "0" else trace.interface
    match trace.point:
        case "from-endpoint":
            return _TracePoint(
                what="cil_from_container", device=devices.lxcs.get(trace.endpoint or 0, told), hook="ingress"
            )
        case "from-overlay":
            return _TracePoint(what="cil_from_overlay", device=told or devices.overlay, hook="ingress")
        case "from-network":
            return _TracePoint(what="cil_from_netdev", device=told or devices.uplink, hook="ingress")
        case "from-host":
            # The device in the line is the one that the packet came to the node by, before the kernel forwarded it.
            return _TracePoint(what="cil_from_host", device=_HOST, hook="egress")
        case _:
            return None


def _own_of_device(trace: MonitorTrace, devices: Devices) -> _TracePoint | None:
    """The program of the device that the packet leaves by, where the line is from that one. It knows no identity."""
    is_of_pod = trace.source_identity not in ("unknown", "0") if trace.teller is None else trace.teller in devices.lxcs
    if is_of_pod:
        return None
    if trace.point == "to-overlay":
        return _TracePoint(what="cil_to_overlay", device=_or(trace.interface, devices.overlay), hook="egress")
    if trace.point == "to-network":
        return _TracePoint(what="cil_to_netdev", device=_or(trace.interface, devices.uplink), hook="egress")
    return None


def _or(interface: str, otherwise: str) -> str:
    return otherwise if interface == "0" else interface


def _key(trace: MonitorTrace) -> PacketKey:
    word = trace.what.split(" ", 1)[0].lower()
    return PacketKey(
        src=trace.source,
        dst=trace.destination,
        protocol=word if word in ("tcp", "udp", "sctp") else "icmp",
        first=trace.first,
        second=trace.second,
        ip_id=trace.ip_id,
    )


def _is_told_apart(key: PacketKey) -> bool:
    return bool(key.first or key.second or key.ip_id)


def _rank(trace: MonitorTrace) -> int:
    return _RANKS.get(trace.point, _RANKS["to-overlay"])
