"""`hubble observe`: the agent's own account of the flows of one pair. Argv, parsers, and flows as movements. Pure.

Hubble retells what the programs told the agent, so it is a witness of the agent (`Mover.AGENT`) and moves nothing
itself. Its times are those at which the agent read the events, not those of the packets: they order nothing here. Like
monitor it tells the ports of TCP and UDP, and neither id nor sequence number of an echo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from labctl.errors import MeasureFailed
from labctl.json_text import parse_json
from labctl.model.movement import Movement, Mover, PacketKey
from labctl.providers.cilium.json_lines import mapping_of, number_of, object_of

READY = '"flow"'
"""Stands in every line of `-o jsonpb`: the newest earlier flow of the pair shows that hubble is listening."""
ENABLE = "cilium: {values: {hubble: {enabled: true}}}"

_COMPACT = re.compile(
    r"^(?P<time>\w{3} +\d+ [\d:.]+)(?: \[(?P<node>[^\]]*)\])?: "
    r"(?P<left>\S+)(?: \((?P<left_id>[^)]*)\))? (?P<arrow>->|<-|<>) (?P<right>\S+)(?: \((?P<right_id>[^)]*)\))? "
    r"(?P<event>.+?) (?P<verdict>[A-Z]{4,})(?: \((?P<summary>.*)\))?$"
)
_PROTOCOLS = ("TCP", "UDP", "SCTP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One event. `source` and `destination` are addresses, or `namespace/pod` where the text has names. `point` is as
    monitor's (`to-stack`, `from-overlay`), or the event's kind in the text's own words; empty where it is not told."""

    point: str
    verdict: str
    source: str
    destination: str
    protocol: str
    source_port: int = 0
    destination_port: int = 0
    identity: int = 0
    interface: str = ""
    reason: str = ""
    raw: str = ""


def argv_hubble(addresses: Iterable[str], *, output: str = "jsonpb") -> tuple[str, ...]:
    """In the agent's container: every flow from one of these addresses to one of them, from the newest earlier one on.
    `json` is the same as `jsonpb` in new versions, and without its envelope in old ones. Raises MeasureFailed without
    two addresses: everything else on the node would be told."""
    ends = tuple(dict.fromkeys(addresses))
    if len(ends) != 2:
        raise MeasureFailed(
            what="hubble is asked about a pair of pods only",
            cause=f"{len(ends)} addresses are known: {', '.join(ends) or 'none'}",
        )
    # Values of one option are alternatives, and the two options must both hold: these are the pair, either way.
    pair = tuple(word for option in ("--from-ip", "--to-ip") for end in ends for word in (option, end))
    return ("hubble", "observe", "--follow", "--last", "1", *pair, "-o", output)


def enabled_by(config: Mapping[str, str], values: Mapping[str, object]) -> bool | None:
    """What `cilium-config`, else the lab's own Helm values say; None when neither has a word about it."""
    if "enable-hubble" in config:
        return config["enable-hubble"] == "true"
    section = values.get("hubble")
    told = section.get("enabled") if isinstance(section, Mapping) else values.get("hubble.enabled")
    return told if isinstance(told, bool) else None


def trouble_in_status(text: str) -> str:
    """Why an agent's `status -o json` says that hubble cannot be heard there; empty when it runs."""
    try:
        status = parse_json(text)
    except ValueError:
        return "the agent's status is not JSON"
    hubble = status.get("hubble") if isinstance(status, dict) else None
    state = str(hubble.get("state", "")) if isinstance(hubble, dict) else ""
    if state == "Ok":
        return ""
    if state in ("", "Disabled"):
        return f"the agent's status says that it is not enabled; {ENABLE} enables it"
    said = str(hubble.get("msg", "")) if isinstance(hubble, dict) else ""
    return f"the agent's status says: {state}{f', {said}' if said else ''}"


def parse_hubble(text: str) -> tuple[Flow, ...]:
    """The flows in the order printed, from `jsonpb`, from the older bare `json`, or from `compact`. Lines of another
    shape, and flows without addresses, are left out."""
    found = (_flow_of_line(line.strip()) for line in text.splitlines())
    return tuple(flow for flow in found if flow is not None)


def lost_events(text: str) -> int:
    """How many events hubble itself says that it lost."""
    lost = 0
    for line in text.splitlines():
        told = object_of(line.strip()).get("lost_events")
        if isinstance(told, dict):
            lost += number_of(told.get("num_events_lost"))
    return lost


def movements_of(
    node: str, flows: Iterable[Flow], pods: Mapping[str, tuple[str, str]], names: Mapping[str, str]
) -> tuple[Movement, ...]:
    """The flows as they were told on that node. `pods` gives the node and the lxc of each pod by its address, `names`
    the address by `namespace/pod`. Where hubble tells no device (`to-stack`), it is the one at which the packet was
    told to come in before, else the lxc of its source if that is on this node."""
    found: list[Movement] = []
    came_in: dict[PacketKey, str] = {}
    for flow in flows:
        source, destination = names.get(flow.source, flow.source), names.get(flow.destination, flow.destination)
        packet = PacketKey(
            src=source, dst=destination, protocol=flow.protocol, first=flow.source_port, second=flow.destination_port
        )
        goes_out = flow.point.startswith("to-") and bool(flow.interface)
        device = flow.interface if goes_out or flow.point.startswith("from-") else ""
        if not device:
            home, lxc = pods.get(source, ("", ""))
            at_source = lxc if home == node else ""
            device = at_source if flow.point == "from-endpoint" else came_in.get(packet, at_source)
        if flow.point.startswith("from-"):
            came_in[packet] = device
        verdict = flow.verdict.lower() + (f" ({flow.reason})" if flow.reason else "")
        found.append(
            Movement(
                node=node,
                mover=Mover.AGENT,
                what="hubble",
                device=device,
                hook="egress" if goes_out else "ingress",
                helper=f"{flow.point} {verdict}".strip(),
                packet=packet,
                identity=flow.identity,
                raw=flow.raw,
            )
        )
    return tuple(found)


def _flow_of_line(line: str) -> Flow | None:
    if line.startswith("{"):
        told = object_of(line)
        return _flow_of_json(mapping_of(told.get("flow")) or told, line)
    return _flow_of_text(line)


def _flow_of_json(flow: dict[str, object], raw: str) -> Flow | None:
    ip, source = mapping_of(flow.get("IP")), mapping_of(flow.get("source"))
    if not ip.get("source") or not ip.get("destination"):
        return None
    l4 = mapping_of(flow.get("l4"))
    word = next((name for name in l4 if name in _PROTOCOLS), "")
    ports = mapping_of(l4.get(word))
    point = str(flow.get("trace_observation_point", "")).lower().replace("_", "-")
    return Flow(
        point="" if point == "unknown-point" else point,
        verdict=str(flow.get("verdict", "")),
        source=str(ip["source"]),
        destination=str(ip["destination"]),
        protocol=word.lower() or ("icmp" if any(name.startswith("ICMP") for name in l4) else ""),
        source_port=number_of(ports.get("source_port")),
        destination_port=number_of(ports.get("destination_port")),
        identity=number_of(source.get("identity")),
        interface=str(mapping_of(flow.get("interface")).get("name", "")),
        reason=str(flow.get("drop_reason_desc", "")),
        raw=raw,
    )


def _flow_of_text(line: str) -> Flow | None:
    match = _COMPACT.match(line)
    if match is None:
        return None
    # The client stands on the left in both directions.
    ends = ("right", "left") if match["arrow"] == "<-" else ("left", "right")
    (source, source_port), (destination, destination_port) = (_split(match[end]) for end in ends)
    summary = match["summary"] or ""
    word = summary.split(" ", 1)[0].upper()
    return Flow(
        point=match["event"],
        verdict=match["verdict"],
        source=source,
        destination=destination,
        protocol=word.lower() if word in _PROTOCOLS else "icmp" if word.startswith("ICMP") else "",
        source_port=source_port,
        destination_port=destination_port,
        identity=number_of((match[f"{ends[0]}_id"] or "").removeprefix("ID:")),
        raw=line,
    )


def _split(end: str) -> tuple[str, int]:
    host, _, port = end.rpartition(":")
    return (host, int(port)) if host and port.isdigit() else (end, 0)
