"""Echoes between pods of the recorded clusters: what every tap saw (as recorded, in `networks.cilium.expected`), and
what monitor told of the same packets, joined as `labctl trace` joins them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from labctl.model.lab import POD_PLACEMENTS, Encapsulation, HostRouting, Lab, Pair, Placement
from labctl.model.signature import Role, Seen
from labctl.model.trace import Movement, PacketKey, PacketPath, TapDirection, TraceTap, Way
from labctl.networks.cilium.expected import expected_for
from labctl.path.assemble import PathEnd, join, names_of, numbered
from labctl.path.sighting import Envelope, Sighting
from labctl.providers.cilium.monitor import Devices, movements_of, parse_monitor
from labctl.testing.labs import RECORDED, example_devices, example_lab

from .cilium_recordings import recorded

CELLS = tuple((mode, how, where) for mode in HostRouting for how in RECORDED for where in POD_PLACEMENTS)
IDENTIFIER = 4711
IP_IDS = {Way.REQUEST: 0x5100, Way.REPLY: 0x9200}
"""As in `fixtures/cilium/encoded`: the echo's number is added."""
_NODES = {"lab-worker": "node1", "lab-worker2": "node2"}
_ONWARD = (Role.CLIENT_ETH0, Role.CLIENT_CILIUM_VXLAN, Role.CLIENT_UPLINK, Role.SERVER_LXC)
"""Taps at which a request goes out of the device; at the others it comes in, and a reply the other way round."""


def recording_of(mode: HostRouting, how: Encapsulation) -> str:
    """The recordings are of three combinations: with vxlan, monitor printed the same lines in both modes."""
    return f"{HostRouting.BPF if how is Encapsulation.VXLAN else mode}-{how}"


def sections(text: str) -> dict[str, str]:
    """What monitor printed first on each node."""
    found: dict[str, str] = {}
    for part in text.split("##### ")[1:]:
        title, _, lines = part.partition("\n")
        found.setdefault(_NODES[title.split()[0]], lines)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    lab: Lab
    told: dict[str, str]
    echoes: int

    @property
    def pair(self) -> Pair:
        return self.lab.pairs[0]

    @property
    def taps(self) -> tuple[TraceTap, ...]:
        return tuple(self._tap(row.role) for row in self._expected())

    def _expected(self) -> Iterable[TraceRow]:
        signature = expected_for(self.lab, self.pair, packets=self.echoes).signature
        rows = (TraceRow(role=one.role, request=one.request, reply=one.reply) for one in signature.taps)
        return [row for row in rows if row.role not in (Role.CLIENT_LO, Role.SERVER_LO)]

    def _tap(self, role: Role) -> TraceTap:
        pod = self.lab.pod(self.pair.client if role.startswith("client") else self.pair.server)
        device = role.rpartition("-")[2]
        device = {"lxc": pod.lxc, "uplink": "eth0"}.get(device, device)
        part, kind = (pod.name, "pod") if role in (Role.CLIENT_ETH0, Role.SERVER_ETH0) else (pod.node, "node")
        return TraceTap(name=f"{part}:{device}", role=role, part=part, part_kind=kind, node=pod.node, device=device)

    def sightings(self) -> tuple[Sighting, ...]:
        rows = list(self._expected())
        found: list[Sighting] = []
        for number in range(1, self.echoes + 1):
            for way in Way:
                seen = [(row.role, row.request if way is Way.REQUEST else row.reply) for row in rows]
                order = seen if way is Way.REQUEST else seen[::-1]
                at_ns = 1_000_000 * number + (500_000 if way is Way.REPLY else 0)
                for place, (role, sight) in enumerate(order):
                    if sight is not None:
                        found.append(self._sighting(role, sight, way, number, at_ns + 10_000 * place))
        return tuple(found)

    def _sighting(self, role: Role, sight: Seen, way: Way, number: int, time_ns: int) -> Sighting:
        client, server = (self.lab.pod(name) for name in (self.pair.client, self.pair.server))
        sender, receiver = (client, server) if way is Way.REQUEST else (server, client)
        goes_out = (role in _ONWARD) is (way is Way.REQUEST)
        nodes = [self.lab.node(pod.node) for pod in (sender, receiver)]
        envelope = None if sight.outer is None else Envelope(
            src=str(nodes[0].address.ip), dst=str(nodes[1].address.ip), src_port=43593, dst_port=8472, ttl=64,
            vni=sender.identity, src_mac=nodes[0].mac, dst_mac=nodes[1].mac, ip_id=0,
        )  # fmt: skip
        key = PacketKey(
            src=str(sender.address), dst=str(receiver.address), protocol="icmp", first=IDENTIFIER, second=number,
            ip_id=IP_IDS[way] + number,
        )  # fmt: skip
        return Sighting(
            tap=self._tap(role).name, role=role, time_ns=time_ns, way=way, number=number, src=key.src, dst=key.dst,
            direction=TapDirection.OUT if goes_out else TapDirection.IN, ttl=sight.ttl, src_mac=sender.mac,
            dst_mac=sender.lxc_mac, envelope=envelope, key=key, what=f"ICMP echo {way}",
        )  # fmt: skip

    def devices(self) -> dict[str, Devices]:
        """As each node's agent lists its endpoints: the ids and names stand in what monitor printed."""
        found: dict[str, Devices] = {}
        for node, text in self.told.items():
            plain = [(int(ep), lxc) for ep, lxc in re.findall(r"-> endpoint (\d+) .* ifindex (lxc\w+)", text)]
            encoded = re.findall(r'"ifindex":"(lxc\w+)".*endpoint (\d+)"', text)
            found[node] = Devices(lxcs=dict(plain) | {int(ep): lxc for lxc, ep in encoded}, uplink="eth0")
        return found

    def movements(self) -> tuple[Movement, ...]:
        devices = self.devices()
        ends = {str(self.lab.pod(name).address) for name in (self.pair.client, self.pair.server)}
        return tuple(
            movement
            for node, text in self.told.items()
            for movement in movements_of(
                node, [one for one in parse_monitor(text) if {one.source, one.destination} == ends], devices[node]
            )
        )

    def paths(self, movements: Sequence[Movement] | None = None) -> tuple[PacketPath, ...]:
        seen = self.sightings()
        numbers, _ = numbered(self.movements() if movements is None else movements, seen)
        names = names_of(self.lab, self.pair, self.taps, [(one.role, one.mac) for one in example_devices(self.lab)])
        client, server = (
            PathEnd(name=tap, taps=(tap,)) for tap in (f"{self.pair.client}:eth0", f"{self.pair.server}:eth0")
        )
        return join(self.taps, seen, numbers, names, sent=self.echoes, ends=(client, server))


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    role: Role
    request: Seen | None
    reply: Seen | None


def exchange(
    mode: HostRouting, how: Encapsulation, where: Placement, *, fixture: str = "{cell}.monitor-none.extract.txt",
    echoes: int = 1,
) -> Exchange:  # fmt: skip
    """The exchange of a cell, between the pods of the recording that stood so."""
    told = sections(recorded(fixture.format(cell=recording_of(mode, how))))
    net = "10.244.0." if where is Placement.SAME_NODE else "10.244.1."
    lines = [
        one for one in parse_monitor(told["node1"]) if one.destination.startswith(net) and one.point == "from-endpoint"
    ]
    request = next(one for one in lines if one.what == "EchoRequest")
    lab = example_lab(
        host_routing=mode, encapsulation=how, placement=where,
        client_address=request.source, server_address=request.destination,
    )  # fmt: skip
    lxcs: dict[str, tuple[str, int]] = {}
    for one in (one for text in told.values() for one in parse_monitor(text)):
        if one.point == "to-endpoint":
            lxcs[one.destination] = (one.interface, int(one.destination_identity))
    pods = tuple(
        replace(
            pod, lxc=lxcs[str(pod.address)][0], identity=lxcs[str(pod.address)][1], address=IPv4Address(pod.address)
        )
        for pod in lab.pods
    )
    used = {lab.pod(name).node for name in (lab.pairs[0].client, lab.pairs[0].server)}
    return Exchange(
        lab=replace(lab, pods=pods), told={node: text for node, text in told.items() if node in used}, echoes=echoes
    )
