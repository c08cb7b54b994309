"""The way of a packet, hop by hop, as it was seen: what `labctl trace` finds and every view of it reads.

Everything in here is an observation, or a name for something observed. Where nothing was observed, that is what stands
here: `Carriage.UNOBSERVED` is never filled in from what a mode should have done.

What moved a packet between two taps is an act of an eBPF program, or of the kernel with its netfilter. A provider's
witness makes these (program events of the netns datapath, Cilium's monitor, netfilter's trace); the path joins them
with the sightings of the same packet. Nothing in here is derived from what was asked for.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, NamedTuple

from labctl.codec import NULL, OMITTED, Key
from labctl.model.evidence import Evidence
from labctl.model.lab import Fallback, Placement
from labctl.model.signature import Role, Signature
from labctl.values import dataclass


class ProbeProtocol(StrEnum):
    """What a marked packet is: an ICMP echo, a TCP connection attempt, or a UDP datagram."""

    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"


class Way(StrEnum):
    """Which half of an exchange a packet belongs to."""

    REQUEST = "request"
    REPLY = "reply"


class TapDirection(StrEnum):
    """How a packet met the tap's device, from the device's own side (as `tcpdump -Q` has it)."""

    IN = "in"
    OUT = "out"


class Carriage(StrEnum):
    """What kind of thing brought a packet from one tap to the next."""

    START = "start"
    """The first sighting of this packet: its sender."""
    WIRE = "wire"
    """The two ends of one veth pair or link: sent at one, received at the other."""
    BRIDGE = "bridge"
    """Received at one port of the underlay, sent at another."""
    PROGRAM = "program"
    """An eBPF program, which said so."""
    TUNNEL = "tunnel"
    """The kernel's vxlan device: the packet has got its envelope, or lost it."""
    KERNEL = "kernel"
    """The kernel's own forwarding or delivery: netfilter's hooks saw the packet pass."""
    UNOBSERVED = "unobserved"
    """No witness saw what moved it."""


BEFORE_TAPS = "XDP"
"""The hook of a program that stands before any tap of its device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAddress:
    """An address (a MAC, an IPv4 address, a VNI as text) and whose it is.

    `role` is the role of the device or node on the pair's way (`client-lxc`, `server-node`), `owner` its name in this
    lab (`node1:lxc3f…`, `node2`); both are empty when no device of the lab has the address.
    """

    address: str
    role: Annotated[str, NULL] = ""
    owner: Annotated[str, NULL] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HopEnvelope:
    """The VXLAN envelope as it stood on the wire. `src` and `dst` are VTEPs, owned by nodes.

    `identity_pods` are the pods whose security identity the VNI is, `identity_labels` their labels (`app=web`); both
    are empty when no pod of the lab has that identity. `is_senders` says whether it is the inner sender's own. In a
    network whose VNI is no identity `is_identity` is false, and the others mean nothing.
    """

    src: KnownAddress
    dst: KnownAddress
    src_mac: KnownAddress
    dst_mac: KnownAddress
    src_port: int
    dst_port: int
    ttl: int
    vni: int
    identity_pods: tuple[str, ...] = ()
    identity_labels: tuple[str, ...] = ()
    is_senders: bool = True
    is_identity: Annotated[bool, OMITTED] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTap:
    """A place that was watched. `part` is what has the device (a pod, a node, the underlay), `node` the node that it
    is on or is (empty for the underlay)."""

    name: Annotated[str, Key("tap")]
    role: Role
    part: str
    part_kind: str
    node: Annotated[str, NULL]
    device: str


class LookupTable(StrEnum):
    """Where the kernel looks up what to do with a packet: routes, the FDB of a vxlan device, that of a bridge."""

    ROUTES = "routes"
    TUNNEL = "tunnel-fdb"
    BRIDGE = "bridge-fdb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """The entry by which a node sent a packet on, as it was right after. `entry` is a destination or a MAC, `to` the
    gateway or VTEP (empty: the device itself), `told` who put it there: `boot`, `bgp`, `ospf`, `learned`, `set`, …;
    `words` says all of it."""

    node: str
    table: LookupTable
    entry: str
    to: Annotated[str, NULL]
    device: str
    told: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One sighting of one packet. TTL, addresses and MACs are the inner frame's when it was in an envelope.

    `moved_by` is what acted on the packet after the previous hop and before this one, in order of time; `carriage` and
    `because` say in a word and in a sentence what brought it here, `lookups` by which entries. `since_previous_ns` is
    None for the first hop.
    """

    tap: str
    role: Role
    node: Annotated[str, NULL]
    device: str
    direction: TapDirection | None
    time_ns: int
    since_previous_ns: int | None
    src: str
    dst: str
    src_mac: KnownAddress
    dst_mac: KnownAddress
    ttl: int
    envelope: Annotated[HopEnvelope | None, Key("outer")] = None
    carriage: Carriage = Carriage.UNOBSERVED
    because: str = ""
    moved_by: tuple[Movement, ...] = ()
    lookups: Annotated[tuple[Lookup, ...], OMITTED] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A tap of the way that this packet was not seen at, and why. `is_observed` says that a witness saw the reason;
    else the reason only says that nothing was seen."""

    tap: str
    role: Role
    reason: str
    is_observed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketPath:
    """One packet on its way: one half of an exchange.

    `what` describes it (`ICMP echo request`, `TCP RST, ACK`). `after` is what acted on the packet after its last
    sighting. `lost` says in a sentence where it went missing, and is empty when it arrived; `lost_tap` is the tap of
    its last sighting then, empty when it was never seen.
    """

    way: Way
    number: int
    what: str
    arrived: bool = True
    lost: Annotated[str, NULL] = ""
    lost_tap: Annotated[str, NULL] = ""
    hops: tuple[Hop, ...]
    skipped: tuple[Skipped, ...]
    after: tuple[Movement, ...] = ()

    @property
    def is_sent(self) -> bool:
        """False for a packet that no tap saw: it did not leave its pod, so that it cannot have been lost either."""
        return bool(self.hops)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongTurn:
    """The hop where the way departs from the expected one, or where the packet went missing: the first on the way.

    `tap` is empty where the lab has no such tap. `sentence` says what is wrong there and what that teaches.
    """

    way: Way
    number: int
    tap: Annotated[str, NULL]
    role: Annotated[str, NULL]
    sentence: str


class Translator(StrEnum):
    """Who put a backend in place of a Service: a program at the client's socket, one on a device, or netfilter."""

    SOCKET = "socket"
    TC = "tc"
    NETFILTER = "netfilter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """One translation of a Service on the way: `what` on `device` at `hook` of `node` made `after` of `before`, which
    are `source:port → destination:port`, at a socket the destination alone, and without ports for netfilter. `backend`
    is the pod, empty where neither has its address."""

    way: Way
    service: str
    backend: Annotated[str, NULL]
    by: Translator
    node: str
    what: str
    device: Annotated[str, NULL]
    hook: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything that one `labctl trace` found.

    `paths` are in the order of packet number, request before reply. `host_routing` is the mode that the sightings
    show, empty when they do not tell, and `recognised` why. `differences` are all departures from the expected
    signature in words, in the order of the way; `expected_source` says where that is known from. `sent` and `replied`
    count packets. `evidence` is what witnesses testify of the pair (conntrack entries, netfilter rules that dropped).
    `unshown` is what the nodes' kernel cannot report of any packet.
    """

    lab: str
    scenario: str
    provider: str
    statement: str
    client: str
    server: str
    client_address: str
    server_address: str
    client_node: str
    server_node: str
    placement: Placement
    asked: dict[str, object]
    protocol: ProbeProtocol
    command: str = ""
    started_ns: int = 0
    duration_s: float = 0.0
    sent: int
    replied: int
    wrong: WrongTurn | None = None
    host_routing: Annotated[str, NULL]
    recognised: str
    differences: tuple[str, ...] = ()
    expected_source: str
    taps: tuple[TraceTap, ...]
    paths: tuple[PacketPath, ...]
    signature: Signature
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
    unshown: tuple[Unshown, ...] = ()
    fallback: Annotated[Fallback | None, OMITTED] = None
    translations: Annotated[tuple[Translation, ...], OMITTED] = ()

    @property
    def is_well(self) -> bool:
        """Every packet arrived, every reply came back, and every tap saw what the mode should show."""
        return self.wrong is None

    def of(self, way: Way) -> tuple[PacketPath, ...]:
        return tuple(path for path in self.paths if path.way is way)


class Mover(StrEnum):
    """Who acted on the packet."""

    PROGRAM = "program"
    NETFILTER = "netfilter"
    CONNTRACK = "conntrack"
    AGENT = "agent"


class ForwardingAct(StrEnum):
    """The acts that `Movement.helper` names; a witness may have others, in its own words."""

    REDIRECT = "bpf_redirect"
    REDIRECT_PEER = "bpf_redirect_peer"
    REDIRECT_NEIGH = "bpf_redirect_neigh"
    TUNNEL = "tunnel redirect"
    TO_STACK = "to-stack"
    TO_ENDPOINT = "to-endpoint"
    """Given to a pod's device. Like the next two a witness's report that does not name the redirect."""
    TO_NETWORK = "to-network"
    TO_OVERLAY = "to-overlay"
    SEEN = "seen"
    """The program had the packet before it; what it did with it is in another movement, or in none."""
    PASS = "pass"  # nosec B105  # a verdict
    DROP = "drop"
    ACCEPT = "accept"
    NOT_LEFT = "not left"
    """A netfilter hook that the packet entered and did not leave, with no word about why."""


class PacketKey(NamedTuple):
    """Which packet it was, by its own content: enough to find it again at any tap. A tuple, since every packet of a
    capture is given one.

    `first` and `second` are the ICMP echo's id and sequence, or the source and destination port; 0 for other ICMP.
    `ip_id` is the IPv4 identification, 0 where the witness does not report it.
    """

    src: str
    dst: str
    protocol: str
    first: int
    second: int
    ip_id: int = 0

    def is_of(self, other: PacketKey) -> bool:
        """Whether both keys are of one packet: identifications count where both are known."""
        return self[:-1] == other[:-1] and (not self.ip_id or not other.ip_id or self.ip_id == other.ip_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One act on one packet. `time_ns` is wall-clock time in ns since the epoch, None where the witness has no clock.

    `what` is the name of what acted (`cil_from_container`, `FORWARD`), `device` and `hook` where it did
    (`lxc948fe603f61d`, `ingress`). `helper` is the act (see `ForwardingAct`), `target`
    the device that it was sent to, `reason` why it was dropped. For netfilter `device` is the device that the packet
    came in by (empty for the node's own) and `target` the one that it leaves by. TTLs are 0 where unknown.
    `encapsulated`: it acted on the packet in its envelope. `rewrites`: it put another address into it; `packet` is then
    as it left. `before`, where a Service was translated: the packet as it came (`10.244.0.10:4711 → 10.96.0.11:80`), at
    a socket what it asked for. `raw` is what the witness itself said or passed.
    """

    node: str
    mover: Mover
    what: str
    device: Annotated[str, NULL]
    hook: str
    helper: str
    target: Annotated[str, NULL] = ""
    reason: Annotated[str, NULL] = ""
    time_ns: int | None = None
    ttl_in: Annotated[int, NULL] = 0
    ttl_out: Annotated[int, NULL] = 0
    identity: Annotated[int, NULL] = 0
    encapsulated: bool = False
    raw: Annotated[str, NULL] = ""
    packet: PacketKey
    rewrites: Annotated[bool, OMITTED] = False
    before: Annotated[str, OMITTED] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unshown:
    """A kind of act that the witnesses on the nodes' kernel cannot report, whether the packet meets it or not: that no
    such act stands on the way says nothing. `kernel` is the release, `since` the first version of Linux that can."""

    mover: Mover
    kernel: str
    since: str
