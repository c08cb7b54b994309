"""`cilium monitor`: what the datapath's programs say of each packet, per hop. Argv, and its lines read. Pure.

It must be filtered inside the agent: over `kubectl exec` it otherwise traces its own output without end. Two ways are
here. By endpoint (`--related-to`) only those events pass that name one: enough for a proof of the mode. By addresses,
with `-j`, every event of a pair passes, also those of the devices' own programs, and each tells the packet's own
numbers: that is for single packets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from labctl.errors import MeasureFailed
from labctl.providers.cilium.json_lines import mapping_of, number_of, object_of
from labctl.providers.cilium.status import IN_AGENT

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
class Trace:
    """One trace line. `point` is `to-` or `from-` and where: `to-stack`, `from-overlay`, `to-endpoint`, …; `drop` for
    a packet that was thrown away, with its `reason`.

    `teller` is the endpoint whose program speaks, 0 for that of a device, None in lines that do not say it. `first`
    and `second` are an echo's id and sequence or the ports, `ip_id` the IPv4 identification; 0 where not told.
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


def parse_monitor(text: str) -> tuple[Trace, ...]:
    """The trace lines, plain or JSON, and the drops told as JSON, in the order printed; headers, drops in plain text
    and debug lines are left out."""
    found = (_of_json(line) if line.startswith("{") else _of_text(line) for line in map(str.strip, text.splitlines()))
    return tuple(trace for trace in found if trace is not None)


def lost_by_monitor(text: str) -> int:
    """How many events monitor itself says that it lost, of whatever packets."""
    return sum(int(count) for count in _LOST.findall(text))


def _of_text(line: str) -> Trace | None:
    match = _LINE.match(line)
    if match is None:
        return None
    point, endpoint = _point(match["summary"])
    (source, source_port), (destination, destination_port) = _split(match["from"]), _split(match["to"])
    return Trace(
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


def _of_json(line: str) -> Trace | None:
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
    return Trace(
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


def host_routing_of(traces: Iterable[Trace], source: str, destination: str) -> str | None:
    """What the way from one pod to another tells, seen on the source's node: up the stack is Legacy, straight to the
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
