"""What a pod's addresses, its ARP, the TTLs, the envelope and the MTU should be, and what they teach. Judges, pure.

What they judge is read here too: how a pod's own network is set up, as iproute2 shows it, and the largest packet that
leaves it (argv and parsers), and the ARP of one pod in captures: the address asked for, the answers, and where
both were seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from labctl.checks.captures import TapCapture
from labctl.checks.outcome import finding, unknown
from labctl.errors import MeasureFailed
from labctl.json_text import parse_json
from labctl.model.interfaces import GENEVE_PORT, TUNNEL_OVERHEAD_BYTE, VXLAN_PORT, cilium_tunnel_port
from labctl.model.lab import Encapsulation, Lab, Pair, Placement
from labctl.model.result import Finding
from labctl.model.signature import ExpectedSignature, Role
from labctl.model.tools import why
from labctl.path.frame import Arp, decode, ip_text, mac_text
from labctl.path.sent import has_no_way, read_ping
from labctl.path.sighting import Sighting, Way
from labctl.providers.base import Completed
from labctl.values import dataclass

ICMP_OVER_IPV4_BYTE = 28
"""The IPv4 header and the ICMP header: what a ping's payload is smaller than the packet."""
_EMSGSIZE = re.compile(r"message too (?:long|large)(?:, mtu ?= ?(?P<mtu>\d+))?", re.IGNORECASE)
"""What the C library calls EMSGSIZE (glibc: long, musl: large). iputils 20221126 has it from the socket's error queue,
with the MTU (`local error: message too long, mtu=1450`), 20240905 from the call (`sendmsg: Message too long`)."""
_TOO_BIG = re.compile(r"frag(?:mentation)? needed[^(]*\(mtu ?= ?(?P<mtu>\d+)\)", re.IGNORECASE)
_WARNING = re.compile(r"^warning:", re.IGNORECASE)
_OWN_NAME = re.compile(r"^\S*ping: ")
"""With its path or without, by version."""


class Fate(StrEnum):
    """What became of an echo request with DF set (no fragmentation)."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """By the sender's own kernel, before anything was sent (EMSGSIZE)."""
    TOO_BIG = "too big"
    """For a router on the way, which reported it (ICMP type 3, code 4)."""
    NO_ROUTE = "no route"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedPing:
    """`mtu` in bytes as the refusal named it, None when it was not named; `words` are ping's about it, or empty."""

    fate: Fate
    mtu: int | None = None
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceAddress:
    """One IPv4 address of a device."""

    address: str
    prefix_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRoute:
    """Where a pod sends everything. `mtu` is the route's own in bytes, None where it is the device's; `is_on_link` says
    that another route declares the gateway to be reached on that device itself."""

    gateway: str
    device: str
    mtu: int | None
    is_on_link: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDevice:
    """The pod's device. `mtu` in bytes."""

    mtu: int
    addresses: tuple[InterfaceAddress, ...]


def argv_addresses(device: str) -> tuple[str, ...]:
    return ("ip", "-j", "-4", "address", "show", "dev", device)


def argv_routes() -> tuple[str, ...]:
    return ("ip", "-j", "-4", "route", "show")


def argv_neighbours(device: str) -> tuple[str, ...]:
    return ("ip", "-j", "-4", "neighbour", "show", "dev", device)


def argv_forget_neighbour(address: str, device: str) -> tuple[str, ...]:
    """Makes the pod ask again."""
    return ("ip", "neighbour", "flush", "to", address, "dev", device)


def argv_largest(destination: str, payload_byte: int) -> tuple[str, ...]:
    """One echo request of that payload with DF set (no fragmentation)."""
    return ("ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", str(payload_byte), destination)


def parse_device(text: str) -> PodDevice:
    """Raises MeasureFailed when it is not what `ip -j address` prints."""
    entries = [entry for entry in _entries(text, "ip address") if "addr_info" in entry]
    if len(entries) != 1:
        raise MeasureFailed("the pod's device cannot be read", f"ip address named {len(entries)} devices, not one")
    try:
        return PodDevice(
            mtu=int(entries[0].get("mtu", 0)),
            addresses=tuple(
                InterfaceAddress(address=str(one["local"]), prefix_length=int(one["prefixlen"]))
                for one in entries[0]["addr_info"]
                if one.get("family", "inet") == "inet" and one.get("scope", "global") == "global"
            ),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as failed:
        raise MeasureFailed("the pod's device cannot be read", f"{type(failed).__name__}: {failed}") from failed


def parse_default_route(text: str) -> DefaultRoute | None:
    """The default route, or None when the pod has none. Raises MeasureFailed for other output."""
    routes = _entries(text, "ip route")
    default = next((route for route in routes if route.get("dst") == "default"), None)
    if default is None or "gateway" not in default:
        return None
    gateway, device = str(default["gateway"]), str(default.get("dev", ""))
    metrics: Sequence[Mapping[str, Any]] = default.get("metrics", ())
    return DefaultRoute(
        gateway=gateway,
        device=device,
        mtu=next((int(metric["mtu"]) for metric in metrics if "mtu" in metric), None),
        is_on_link=any(
            str(route.get("dst")) in (gateway, f"{gateway}/32")
            and route.get("scope") == "link"
            and route.get("dev") == device
            for route in routes
        ),
    )


def parse_neighbour(text: str, address: str) -> str | None:
    """The MAC address that is known for `address`, or None. Raises MeasureFailed for other output."""
    for entry in _entries(text, "ip neighbour"):
        if entry.get("dst") == address and "lladdr" in entry:
            return str(entry["lladdr"]).lower()
    return None


def parse_sized_ping(completed: Completed) -> SizedPing:
    """What became of the one request of `argv_largest`.

    The refusal is known by the C library's name of the errno, which all versions of ping print, each with words of its
    own around it. Raises MeasureFailed with ping's words when ping failed or says what is not known here: that is no
    verdict on the network.
    """
    if words := has_no_way(completed):
        return SizedPing(fate=Fate.NO_ROUTE, words=words)
    report = read_ping(completed)
    if report.received:
        return SizedPing(fate=Fate.ANSWERED)
    told = [_OWN_NAME.sub("", line) for line in (*report.troubles, *report.warnings)]
    for pattern, fate in ((_EMSGSIZE, Fate.REFUSED), (_TOO_BIG, Fate.TOO_BIG)):
        for line in told:
            if (found := pattern.search(line)) is not None:
                return SizedPing(fate=fate, mtu=None if found["mtu"] is None else int(found["mtu"]), words=line)
    if any(not _WARNING.match(_OWN_NAME.sub("", line)) for line in report.warnings):
        raise MeasureFailed(f"ping ended with status {completed.returncode}", why(completed))
    return SizedPing(fate=Fate.UNANSWERED, words=told[0] if report.troubles else "")


def _entries(text: str, program: str) -> list[dict[str, Any]]:
    try:
        entries = parse_json(text or "[]")
    except ValueError as failed:
        raise MeasureFailed(f"the output of {program} cannot be read", text.strip()[:200]) from failed
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MeasureFailed(f"the output of {program} cannot be read", "it is no list of objects")
    return [entry for entry in entries if entry]


_REQUEST, _REPLY = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ArpSight:
    """One ARP message at one tap: `is_reply`, what it asks for or answers (`subject`), and the MAC that it names
    (of an answer: whose the address is said to be)."""

    role: Role
    is_reply: bool
    subject: str
    mac: str


def arp_of_pod(captures: Iterable[TapCapture], address: IPv4Address, macs: Iterable[str]) -> Iterator[ArpSight]:
    """What the pod asked, and what it was answered, at every tap. `macs` are the pod's own: others may ask for it."""
    packed = address.packed
    own = {mac.lower() for mac in macs}
    for capture in captures:
        for record in capture.records():
            frame = decode(record.frame)
            arp = frame.network if frame is not None else None
            if not isinstance(arp, Arp):
                continue
            if arp.operation == _REQUEST and arp.sender_ip == packed and mac_text(arp.sender_mac) in own:
                subject, is_reply = arp.target_ip, False
            elif arp.operation == _REPLY and arp.target_ip == packed:
                subject, is_reply = arp.sender_ip, True
            else:
                continue
            yield ArpSight(
                role=capture.tap.role, is_reply=is_reply, subject=ip_text(subject), mac=mac_text(arp.sender_mac)
            )


_SEES_ARP = frozenset((Role.CLIENT_ETH0, Role.CLIENT_LXC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A sighting in its envelope, with the length of both frames in bytes."""

    sighting: Sighting
    outer_byte: int
    inner_byte: int


def judge_address(lab: Lab, pair: Pair, device: PodDevice, command: Sequence[str]) -> Finding:
    pod = lab.pod(pair.client)
    has = ", ".join(f"{one.address}/{one.prefix_length}" for one in device.addresses) or "no address"
    return finding(
        "pod-mask",
        holds=[(one.address, one.prefix_length) for one in device.addresses] == [(str(pod.address), 32)],
        sentence=f"{pod.name}'s eth0 has {has}",
        lesson="With /32 a pod has no neighbours: even a pod of the same node is reached through the gateway, "
        "so every packet passes the eBPF program on the lxc.",
        command=command,
    )


def judge_gateway(lab: Lab, pair: Pair, route: DefaultRoute | None, command: Sequence[str]) -> Finding:
    router = lab.node(lab.pod(pair.client).node).router
    if route is None:
        sentence = "the pod has no default route"
    else:
        link = "on the link" if route.is_on_link else "NOT declared to be on the link"
        sentence = f"the default route goes to {route.gateway} ({link}); the node's router (cilium_host) is {router}"
    return finding(
        "gateway",
        holds=route is not None and route.gateway == str(router) and route.is_on_link,
        sentence=sentence,
        lesson="The gateway is cilium_host's address. It lies outside the pod's /32, so a route of scope link has to "
        "say that it is on eth0.",
        command=command,
    )


def judge_gateway_mac(lab: Lab, pair: Pair, gateway: str, mac: str | None, command: Sequence[str]) -> Finding:
    pod = lab.pod(pair.client)
    is_lxc = mac is not None and mac == pod.lxc_mac.lower()
    if mac is None:
        sentence = f"the pod's neighbour table has no MAC for the gateway {gateway}"
    else:
        whose = f"that is {pod.lxc}'s" if is_lxc else f"NOT {pod.lxc}'s, which is {pod.lxc_mac}"
        sentence = f"the gateway {gateway} has {mac} in the pod's neighbour table: {whose}"
    return finding(
        "gateway-mac",
        holds=is_lxc,
        sentence=sentence,
        lesson="Frames are addressed to the node's end of the pod's own veth pair, although the address that was asked "
        "for is cilium_host's.",
        command=command,
    )


def judge_arp(
    lab: Lab, pair: Pair, seen: Sequence[ArpSight], gateway: str, command: Sequence[str]
) -> Iterator[Finding]:
    """The question, the answer, and where they were seen."""
    pod = lab.pod(pair.client)
    asked = sorted({one.subject for one in seen if not one.is_reply})
    yield finding(
        "arp-question",
        holds=asked == [gateway],
        sentence=f"after its neighbour entry was flushed, the pod asked for {', '.join(asked) or 'nothing'}",
        lesson="A pod asks for its gateway and never for another pod: one neighbour entry serves all destinations.",
        command=command,
    )
    answers = sorted({(one.subject, one.mac) for one in seen if one.is_reply})
    said = ", ".join(f"{subject} is at {mac}" for subject, mac in answers) or "no answer"
    yield finding(
        "arp-answer",
        holds=answers == [(gateway, pod.lxc_mac.lower())],
        sentence=f"{said} ({pod.lxc} has {pod.lxc_mac.lower()})",
        lesson="It is the lxc that answers, with its own MAC; the request does not reach cilium_host.",
        command=command,
    )
    places = {is_reply: sorted({one.role for one in seen if one.is_reply is is_reply}) for is_reply in (False, True)}
    yield finding(
        "arp-where",
        holds=all(set(roles) == _SEES_ARP for roles in places.values()),
        sentence=f"the request was seen at {_listed(places[False])}, the answer at {_listed(places[True])}",
        lesson="ARP of a pod ends at its own lxc: no other pod, no other device of the node and no wire sees it.",
        command=command,
    )


def judge_ttl(pair: Pair, seen: Sequence[Sighting], expected: ExpectedSignature, command: Sequence[str]) -> Finding:
    """How much was taken from the request's TTL on its way, against what real Cilium takes."""
    ttls = {one.role: one.ttl for one in reversed(seen) if one.way is Way.REQUEST}
    should = {tap.role: tap.request.ttl for tap in expected.signature.taps if tap.request is not None}
    left, arrived = ttls.get(Role.CLIENT_ETH0), ttls.get(Role.SERVER_ETH0)
    lesson = (
        "Every eBPF program that delivers or forwards takes one from the TTL, and so does the kernel where it "
        "forwards; encapsulation takes none."
    )
    if left is None or arrived is None:
        where = "left the client" if left is None else "reached the server"
        return finding("ttl", holds=False, sentence=f"no request was seen that {where}", lesson=lesson, command=command)
    wanted = should[Role.CLIENT_ETH0] - should[Role.SERVER_ETH0]
    return finding(
        "ttl",
        holds=left - arrived == wanted,
        sentence=f"the request left {pair.client} with TTL {left} and reached {pair.server} with {arrived}: "
        f"{left - arrived} less (expected: {wanted})",
        lesson=lesson,
        command=command,
    )


def judge_envelope(
    lab: Lab,
    pair: Pair,
    seen: Sequence[Wrapped],
    plain: Sequence[Sighting],
    mac_roles: Mapping[str, str],
    command: Sequence[str],
) -> Iterator[Finding]:
    """What stood on the wire between the nodes: with a tunnel the envelope, part by part; with native routing none."""
    if pair.placement is not Placement.CROSS_NODE:
        return
    if lab.datapath.encapsulation is Encapsulation.NATIVE:
        yield finding(
            "no-envelope",
            holds=not seen and bool(plain),
            sentence=f"{len(plain)} packets with the pods' own addresses left the uplinks, {len(seen)} in an envelope",
            lesson="With native routing the underlay sees the pods' addresses and needs routes to them.",
            command=command,
        )
        return
    requests = [one for one in seen if one.sighting.way is Way.REQUEST and one.sighting.role is Role.CLIENT_UPLINK]
    if not requests:
        yield finding(
            "vtep",
            holds=False,
            sentence="no request in an envelope was seen at the client's uplink",
            lesson="With a tunnel, what goes to another node goes inside UDP between the nodes' own addresses.",
            command=command,
        )
        return
    yield from _envelope(lab, pair, requests, mac_roles, command)
    yield _source_ports(seen, command)


def _envelope(
    lab: Lab, pair: Pair, requests: Sequence[Wrapped], mac_roles: Mapping[str, str], command: Sequence[str]
) -> Iterator[Finding]:
    client, server = lab.pod(pair.client), lab.pod(pair.server)
    vteps = (str(lab.node(client.node).address.ip), str(lab.node(server.node).address.ip))
    first = requests[0]
    envelope = first.sighting.envelope
    if envelope is None:
        raise ValueError("a request in an envelope has one")
    yield finding(
        "vtep",
        holds=(envelope.src, envelope.dst) == vteps,
        sentence=f"the envelope goes {envelope.src} → {envelope.dst}; {client.node} is {vteps[0]}, "
        f"{server.node} is {vteps[1]}",
        lesson="The tunnel's ends (VTEPs) are the nodes' own addresses: the underlay does not see pod addresses.",
        command=command,
    )
    macs = tuple(mac_roles.get(mac, mac) for mac in (envelope.src_mac, envelope.dst_mac))
    yield finding(
        "outer-macs",
        holds=macs == (str(Role.CLIENT_UPLINK), str(Role.SERVER_UPLINK)),
        sentence=f"the envelope's frame goes {macs[0]} → {macs[1]}",
        lesson="The kernel found the outer MAC by ARP on the underlay, as for any packet between the nodes.",
        command=command,
    )
    is_geneve = lab.datapath.encapsulation is Encapsulation.GENEVE
    yield finding(
        "geneve-port" if is_geneve else "vxlan-port",
        holds=envelope.dst_port == cilium_tunnel_port(lab.datapath.encapsulation),
        sentence=f"the envelope is UDP to port {envelope.dst_port}",
        lesson=f"{GENEVE_PORT} is the registered port for Geneve. A firewall between nodes has to let it through."
        if is_geneve
        else f"{VXLAN_PORT} is Linux's own port for VXLAN and Cilium's; the registered one is 4789. A firewall "
        "between nodes has to let it through.",
        command=command,
    )
    yield finding(
        "vni",
        holds=envelope.vni == client.identity,
        sentence=f"the VNI is {envelope.vni}; the identity of {client.name} is {client.identity}",
        lesson="Cilium does not number networks with the VNI: it carries the sender's security identity, so that the "
        "other node knows the sender's identity.",
        command=command,
    )
    overhead = first.outer_byte - first.inner_byte
    yield finding(
        "overhead",
        holds=overhead == TUNNEL_OVERHEAD_BYTE,
        sentence=f"a frame of {first.inner_byte} bytes is {first.outer_byte} bytes long in its envelope: "
        f"{overhead} more",
        lesson=f"20 (IPv4) + 8 (UDP) + 8 ({'Geneve' if is_geneve else 'VXLAN'}) + 14 (inner Ethernet): this is why "
        "pods may send 50 bytes less.",
        command=command,
    )


def _source_ports(seen: Sequence[Wrapped], command: Sequence[str]) -> Finding:
    ports: dict[Way, set[int]] = {}
    for one in seen:
        sender = Role.CLIENT_UPLINK if one.sighting.way is Way.REQUEST else Role.SERVER_UPLINK
        if one.sighting.role is sender and one.sighting.envelope is not None:
            ports.setdefault(one.sighting.way, set()).add(one.sighting.envelope.src_port)
    listed = "; ".join(f"{way}: {', '.join(map(str, sorted(found)))}" for way, found in sorted(ports.items()))
    count = sum(1 for one in seen if one.sighting.role in (Role.CLIENT_UPLINK, Role.SERVER_UPLINK))
    return finding(
        "source-port",
        holds=all(len(found) == 1 for found in ports.values()),
        sentence=f"UDP source port in {count} sightings at the uplinks: {listed}",
        lesson="The source port is a hash of the inner flow: one flow keeps its port and so its order, several flows "
        "spread over the underlay's paths and the receiver's queues.",
        command=command,
    )


def judge_mtu(
    lab: Lab, mtu_byte: int, largest: Completed, next_byte: Completed, commands: tuple[Sequence[str], Sequence[str]]
) -> Iterator[Finding]:
    """The largest ping that may not be fragmented, and what one byte more gets."""
    payload = mtu_byte - ICMP_OVER_IPV4_BYTE
    less = "50 bytes less than the device's, for the envelope" if mtu_byte < lab.network.mtu else "the device's own"

    def passes(sent: SizedPing) -> tuple[bool, str]:
        is_answered = sent.fate is Fate.ANSWERED
        return is_answered and mtu_byte == lab.network.route_mtu, (
            f"{payload} bytes of payload {'pass' if is_answered else 'do NOT pass'} unfragmented{_in_words(sent)}: "
            f"the route's MTU is {mtu_byte}; expected is {lab.network.route_mtu}"
        )

    def is_refused(sent: SizedPing) -> tuple[bool, str]:
        holds = sent.fate is Fate.REFUSED and sent.mtu in (None, mtu_byte)
        return holds, f"{payload + 1} bytes get: {_ANSWERS[sent.fate]}{_in_words(sent)}"

    lesson = f"{payload} + 8 (ICMP) + 20 (IPv4) = {mtu_byte}, {less}."
    yield _of_ping("largest-ping", largest, passes, lesson, commands[0])
    lesson = "The pod's own kernel refuses, before anything is sent: the limit is in the pod's route."
    yield _of_ping("next-byte", next_byte, is_refused, lesson, commands[1])


_ANSWERS = {
    Fate.ANSWERED: "an answer",
    Fate.REFUSED: "a refusal by the pod's own kernel",
    Fate.TOO_BIG: "a refusal by a router on the way",
    Fate.NO_ROUTE: "no route",
    Fate.UNANSWERED: "neither an answer nor an error",
}


def _in_words(sent: SizedPing) -> str:
    return f" ({sent.words})" if sent.words else ""


def _of_ping(
    name: str, completed: Completed, judge: Callable[[SizedPing], tuple[bool, str]], lesson: str, command: Sequence[str]
) -> Finding:
    """What `judge` makes of it; unknown when ping failed, or said what is not known here."""
    try:
        holds, sentence = judge(parse_sized_ping(completed))
    except MeasureFailed as failed:
        return unknown(name, sentence=f"{failed.what}: {failed.cause}", lesson=lesson, command=command)
    return finding(name, holds=holds, sentence=sentence, lesson=lesson, command=command)


def _listed(roles: Sequence[Role]) -> str:
    return ", ".join(roles) or "no tap"
