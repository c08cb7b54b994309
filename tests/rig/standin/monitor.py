"""`cilium monitor` of the stand-in: events of labctl's own programs as the lines of Cilium's."""

from __future__ import annotations

import itertools
import json
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from node_datapath import UPLINK, VXLAN, Endpoint

from labctl.datapath.events import Event, EventReader, stop_tracing, trace_pair
from labctl.datapath.layout import PacketVerdict, Program

if TYPE_CHECKING:
    from agent import Agent
    from answers import Say

READY = "Press Ctrl-C to quit\n"
_EVERY = IPv4Address(0)
_ICMP = {0: "EchoReply", 8: "EchoRequest"}
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp", 1: "icmpv4"}
_COMES_IN = {Program.FROM_OVERLAY: ("<- overlay", VXLAN), Program.FROM_NETDEV: ("<- network", UPLINK),
             Program.FROM_HOST: ("<- host", "0")}  # fmt: skip

Told = tuple[str, str, int, int, int, str]
"""Summary, device, the endpoint that speaks, source and destination identity, reason of a drop."""


class Monitor:
    """Traces while somebody listens; each listener gets every event and keeps what it asked for."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._listeners: set[socket.socket] = set()
        self._lock = threading.Lock()

    def serve(self, options: Sequence[str], say: Say, connection: socket.socket) -> None:
        """Prints until the one who asked has gone."""
        config, ring = self._agent.datapath.loaded.maps["config"], self._agent.datapath.loaded.maps["events"]
        is_json = "-j" in options
        wanted = {int(word) for before, word in itertools.pairwise(options) if before == "--related-to"}
        with self._lock:  # one ring, one reader: monitors take turns
            trace_pair(config, _EVERY, _EVERY)
            try:
                with EventReader(ring) as reader:
                    list(reader.read())  # what is older than the question
                    say({"err" if is_json else "out": READY})
                    if is_json:
                        say({"out": READY})
                    while not select.select([connection], [], [], 0)[0]:
                        for event in reader.read(timeout_s=0.2):
                            for told in self._told(event):
                                line = self._line(event, told, wanted, is_json=is_json)
                                if line:
                                    say({"out": line + "\n"})
            finally:
                stop_tracing(config)

    def _told(self, event: Event) -> Iterator[Told]:
        """What Cilium's programs would report of this packet: that it came in, and where it was handed on."""
        by_index = {one.lxc_index: one for one in self._agent.endpoints.values()}
        by_address = {one.address: one for one in self._agent.endpoints.values()}
        here = by_index.get(event.ifindex)
        speaker = here.id if here else 0
        if event.program is Program.TO_OVERLAY:
            yield "-> overlay", VXLAN, 0, 0, 0, ""
            return
        if event.program is Program.TO_NETDEV:
            if not event.encapsulated:
                yield "-> network", UPLINK, 0, 0, 0, ""
            return
        if event.program is Program.TO_HOST:
            return
        if event.program is Program.FROM_CONTAINER and here:
            yield f"<- endpoint {here.id}", "0", speaker, here.identity, 0, ""
        elif event.program in _COMES_IN and not event.encapsulated:
            summary, device = _COMES_IN[event.program]
            yield summary, device, 0, event.identity, 0, ""
        identity = here.identity if here else event.identity
        target = by_address.get(event.destination)
        yield from self._handed_on(event, speaker, identity, target)

    def _handed_on(self, event: Event, speaker: int, identity: int, target: Endpoint | None) -> Iterator[Told]:
        if event.verdict.is_drop:
            yield "drop", "0", speaker, identity, 0, event.verdict.words
            return
        known = self._agent.pods.get(event.destination)
        to = target.identity if target else (known[0] if known else 0)
        match event.verdict:
            case PacketVerdict.TO_STACK:
                yield "-> stack", "0", speaker, identity, to, ""
            case PacketVerdict.TUNNEL:
                yield "-> overlay", VXLAN, speaker, identity, to, ""
            case PacketVerdict.REDIRECT_PEER | PacketVerdict.REDIRECT if target:
                yield f"-> endpoint {target.id}", target.lxc, target.id, identity, to, ""
            case PacketVerdict.REDIRECT_NEIGH | PacketVerdict.REDIRECT:
                yield "-> network", UPLINK, speaker, identity, to, ""

    def _line(self, event: Event, told: Told, wanted: set[int], *, is_json: bool) -> str:
        summary, device, speaker, source, destination, _ = told
        ends = {one.id for one in self._agent.endpoints.values() if one.address in (event.source, event.destination)}
        if wanted and not wanted & (ends | {speaker}):
            return ""
        what = _ICMP.get(event.icmp_type, "") if event.protocol == 1 else _PROTOCOLS.get(event.protocol, "")
        if is_json:
            return json.dumps(_document(event, told, what), separators=(",", ":"))
        ports = ("", "") if event.protocol == 1 else (f":{event.source_port}", f":{event.destination_port}")
        return (
            f"{summary} flow 0x0 , identity {source or 'unknown'}->{destination or 'unknown'} state unknown "
            f"ifindex {device} orig-ip 0.0.0.0: {event.source}{ports[0]} -> {event.destination}{ports[1]} {what}"
        )


def _document(event: Event, told: Told, what: str) -> dict[str, object]:
    summary, device, speaker, source, destination, reason = told
    layers: dict[str, object] = {
        "ipv4": f"IPv4\t{{Version=4 IHL=5 Length={event.length} Id={event.ip_id} TTL={event.ttl_out} "
                f"SrcIP={event.source} DstIP={event.destination} Options=[] Padding=[]}}",
        "l3": {"src": str(event.source), "dst": str(event.destination)},
    }  # fmt: skip
    if event.protocol == 1:
        layers["icmpv4"] = f"ICMPv4\t{{TypeCode={what} Checksum=0 Id={event.source_port} Seq={event.destination_port}}}"
    else:
        layers[what or "other"] = ""
        layers["l4"] = {"src": str(event.source_port), "dst": str(event.destination_port)}
    found: dict[str, object] = {
        "cpu": f"CPU {event.cpu:02d}:", "type": "drop" if reason else "trace", "mark": "0x0", "ifindex": device,
        "state": "unknown", "observationPoint": summary, "traceSummary": summary, "source": speaker,
        "bytes": event.length, "srcLabel": source, "dstLabel": destination, "summary": layers,
    }  # fmt: skip
    if reason:
        found["reason"] = reason
    return found
