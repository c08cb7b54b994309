"""Facts: the closed registry of what labctl can read from a live lab, each with its type and the command that shows it.

Pure data. How one is read is `facts/readings.py`'s. A fact has a value or is unmeasured, with the reason; that nothing
was seen is a value (`none`) only where the same observation shows that packets were sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated

from labctl.codec import NULL, OMITTED
from labctl.model.fallback import Condition
from labctl.model.lab import Encapsulation, HostRouting, Masquerade
from labctl.model.signature import Role
from labctl.model.trace import Carriage, ForwardingAct, ProbeProtocol, Translator, Way
from labctl.values import dataclass

Value = str | int | bool | tuple[str, ...]
NONE = "none"
"""The value of a fact that is nothing: what was looked for was not there, though the packets were."""


class FactType(StrEnum):
    """What kind of value a fact has."""

    KEYWORD = "keyword"
    """One of a closed set."""
    NUMBER = "number"
    BOOLEAN = "boolean"
    NAME = "name"
    """Of a pod, a node, or another part of the lab."""
    ADDRESS = "address"
    """An IPv4 address or range."""
    NAMES = "names"
    """Several of them, in no order."""


class FactSource(StrEnum):
    """What the fact is read by."""

    TRACE = "trace"
    PROOF = "proof"
    LAB = "lab"
    TOOL = "tool"
    """A program in a pod or on a node, as the checks run it."""


class Parameter(StrEnum):
    """What can be said of where to look, beside the two ends."""

    ROLE = "role"
    WAY = "way"
    NODE = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactKind:
    """One fact of the registry. `takes` are the parameters that it has beside the client and the server; `choices` are
    the values of a keyword; `command` shows it by hand, with `{lab}`, `{client}`, `{server}` and `{node}` filled in;
    `where` says in which part of its output."""

    name: str
    type: FactType
    source: FactSource
    what: str
    command: str
    where: str = ""
    unit: str = ""
    takes: frozenset[Parameter] = frozenset()
    choices: tuple[str, ...] = ()

    @property
    def needs_role(self) -> bool:
        """Without a role it has no meaning; the hooks of netfilter are those of the whole way then."""
        return Parameter.ROLE in self.takes and self.type is not FactType.NAMES


_TRACE = "labctl trace {lab} {client} {server}"
_STATUS = "labctl status {lab}"
_AT = frozenset({Parameter.ROLE})
_AT_WAY = frozenset({Parameter.ROLE, Parameter.WAY})
_WAY = frozenset({Parameter.WAY})
_NODE = frozenset({Parameter.NODE})
_ROLES = tuple(map(str, Role))


def _traced(
    name: str, kind: FactType, what: str, where: str, takes: frozenset[Parameter] = _AT_WAY, *,
    choices: tuple[str, ...] = (), unit: str = "", command: str = _TRACE,
) -> FactKind:  # fmt: skip
    return FactKind(
        name=name, type=kind, source=FactSource.TRACE, what=what, command=command, where=where, takes=takes,
        choices=choices, unit=unit,
    )  # fmt: skip


def _mode(name: str, what: str, choices: tuple[str, ...] = (), kind: FactType = FactType.KEYWORD) -> FactKind:
    return FactKind(
        name=f"mode.{name}",
        type=kind,
        source=FactSource.PROOF,
        what=what,
        command=_STATUS,
        where="the lines of the mode in force, and their evidence",
        choices=choices,
    )


def slug(condition: Condition) -> str:
    """A condition as a keyword: `iptables-masquerade`."""
    return condition.name.lower().replace("_", "-")


HELPERS = (
    *(str(one).replace(" ", "-") for one in ForwardingAct if one not in (ForwardingAct.PASS, ForwardingAct.SEEN)),
    *(str(one) for one in Carriage if one not in (Carriage.START, Carriage.PROGRAM, Carriage.UNOBSERVED)),
    NONE,
)
_KINDS = (
    _traced(
        "seen", FactType.KEYWORD, "Which packets a tap saw: requests, replies, both, or none.",
        "the rows of that tap, in the request's half and in the reply's", _AT,
        choices=("requests", "replies", "both", NONE),
    ),
    _traced("ttl", FactType.NUMBER, "The TTL of the packet at a tap, of the inner one where it is in an envelope.",
            "the row of that tap"),
    _traced("vni", FactType.NUMBER, "The VNI of the envelope at a tap.", "the row of that tap"),
    _traced("outer-source", FactType.ADDRESS, "The envelope's source address.", "the row of that tap"),
    _traced("outer-destination", FactType.ADDRESS, "The envelope's destination address.", "the row of that tap"),
    _traced("port", FactType.NUMBER, "The envelope's UDP destination port.", "the row of that tap"),
    _traced("source", FactType.ADDRESS, "The source address of the packet, of the inner one in an envelope.",
            "the row of that tap"),
    _traced("destination", FactType.ADDRESS, "The destination address of the packet, of the inner one in an envelope.",
            "the row of that tap"),
    _traced("source-mac", FactType.NAME, "Whose MAC address the frame comes from, by the role of its owner.",
            "the row of that tap"),
    _traced("destination-mac", FactType.NAME, "Whose MAC address the frame goes to, by the role of its owner.",
            "the row of that tap"),
    _traced("addresses", FactType.NAMES, "Whose addresses are in the packet at a tap, the envelope's among them.",
            "the row of that tap: the packet's addresses stand in the rows before it, the envelope's in its own"),
    _traced("vni-of", FactType.NAMES, "The pods whose security identity is the VNI of the envelope at a tap.",
            "the VNI in the row of that tap; whose identity it is: labctl status LAB"),
    _traced(
        "helper", FactType.KEYWORD, "What moved the packet to a tap: a helper of an eBPF program, or the kernel.",
        "what stands between the row before and the row of that tap", choices=HELPERS,
    ),
    _traced("arrived", FactType.BOOLEAN, "Whether every packet of that way arrived.", "the last line of that half",
            _WAY),
    _traced("lost-at", FactType.KEYWORD, "The role of the tap that saw a lost packet last.", "the line about the loss",
            _WAY, choices=(*_ROLES, NONE)),
    _traced("wrong-role", FactType.KEYWORD, "The role of the first tap where the way departs from the expected one.",
            "the line of the first wrong turn", frozenset(), choices=(*_ROLES, NONE)),
    _traced("wrong-part", FactType.NAME, "The pod, node or router on which that tap is.",
            "the line of the first wrong turn", frozenset()),
    _traced("netfilter-hooks", FactType.NAMES, "The netfilter hooks that the packet goes through on its way.",
            "the hooks named between the rows"),
    _traced("source-outside", FactType.NAME, "Whose address the server sees as the client's.",
            "the source address in the last row of the request", frozenset()),
    _traced("service.backend", FactType.NAMES, "The pods that answered for a Service.", "the translations",
            frozenset()),
    _traced("service.translator", FactType.KEYWORD, "What put a backend in place of a Service's address.",
            "the translations", frozenset(), choices=(*map(str, Translator), NONE)),
    _traced("route-protocol", FactType.KEYWORD, "Who set the route by which the packet left a node.",
            "the route named before the row of the uplink", frozenset({Parameter.NODE, Parameter.WAY}),
            choices=("boot", "static", "kernel", "bgp", "ospf", NONE)),
    _traced("fdb-learned", FactType.KEYWORD, "How the tunnel of the sender's node knows where the other pod is.",
            "the FDB's entry named before the row of the uplink", _WAY, choices=("learned", "set", "bgp", NONE)),
    _mode("hostRouting", "What moves packets through the nodes: the kernel's stack or eBPF redirects.",
          tuple(map(str, HostRouting))),
    _mode("encapsulation", "How packets cross from node to node.", tuple(map(str, Encapsulation))),
    _mode("masquerade", "What rewrites source addresses.", tuple(map(str, Masquerade))),
    _mode("kubeProxyReplacement", "Whether eBPF serves Services.", kind=FactType.BOOLEAN),
    _mode("fallback", "What stands in the way of the host routing that was asked for.",
          (*map(slug, Condition), NONE)),
    _mode("logged", "Whether Cilium's agent says in its log that it fell back.", kind=FactType.BOOLEAN),
    _mode("proven", "Whether the mode that was asked for is proven to be in force.", kind=FactType.BOOLEAN),
    FactKind(
        name="pod-prefix", type=FactType.ADDRESS, source=FactSource.LAB, takes=_NODE, command="labctl status {lab}",
        what="The range that a node's pods have their addresses from.", where="the line of the node",
    ),
    FactKind(
        name="can-decide", type=FactType.BOOLEAN, source=FactSource.LAB,
        what="Whether a comparison with as many blocks as the scenario has (compare.rounds) can find any difference.",
        command="labctl compare {scenario} {scenario} --rounds {rounds}",
        where="the note before the labs are built; Ctrl-C ends it",
    ),
    FactKind(
        name="gateway-mac", type=FactType.NAME, source=FactSource.TOOL,
        what="Whose MAC address the client sends its frames to, by the role of its owner.",
        command="labctl exec {lab} {client} -- ip neigh",
        where="the MAC of the gateway; its owner: labctl exec LAB NODE -- ip link",
    ),
    FactKind(
        name="largest-ping", type=FactType.NUMBER, source=FactSource.TOOL, unit="byte",
        what="The largest payload of a ping that gets through without fragments.",
        command="labctl exec {lab} {client} -- ping -c 1 -W 1 -M do -s SIZE {address}",
        where="the largest SIZE that is answered",
    ),
    FactKind(
        name="next-hops", type=FactType.NUMBER, source=FactSource.TOOL, unit="count", takes=_NODE,
        what="Over how many next hops a node or router sends to the server.",
        command="labctl exec {lab} {node} -- ip route show match {address}",
        where="the next hops of the longest prefix",
    ),
    FactKind(
        name="links-up", type=FactType.NUMBER, source=FactSource.TOOL, unit="count", takes=_NODE,
        what="How many links of a node or router to routers are up.",
        command="labctl link {lab}", where="the lines with its name",
    ),
    FactKind(
        name="patience", type=FactType.NUMBER, source=FactSource.TOOL, unit="s", takes=_NODE,
        what="After how many seconds of silence a node or router gives a routing neighbour up.",
        command="labctl exec {lab} {node} -- vtysh -c 'show {timers}'",
        where="the hold time (BGP), or the dead interval (OSPF)",
    ),
    FactKind(
        name="reaches-node", type=FactType.BOOLEAN, source=FactSource.TOOL, takes=_NODE,
        what="Whether a node answers the client's ping.",
        command="labctl exec {lab} {client} -- ping -c 1 -W 1 {node_address}", where="the line of the answer",
    ),
    FactKind(
        name="ping-answer", type=FactType.KEYWORD, source=FactSource.TOOL,
        what="What the client's ping gets: a reply, an error of the network, or silence.",
        command="labctl exec {lab} {client} -- ping -c 1 -W 1 {address}", where="the lines before the statistics",
        choices=("reply", "error", "silence"),
    ),
    FactKind(
        name="arp-seen", type=FactType.KEYWORD, source=FactSource.TOOL, takes=_AT,
        what="Which ARP messages of the client a tap saw: requests, replies, both, or none.",
        command="labctl check {lab} addressing", where="the finding arp-where",
        choices=("requests", "replies", "both", NONE),
    ),
    FactKind(
        name="service.rules", type=FactType.NAMES, source=FactSource.TOOL,
        what="Which lists of the client's node's netfilter name the Service, while it answers.",
        command="labctl check {lab} service",
        where="the finding netfilter; by hand on the node: iptables-legacy-save, iptables-nft-save, nft list ruleset",
    ),
    FactKind(
        name="mac-behind", type=FactType.NAME, source=FactSource.TOOL, takes=_NODE | _WAY,
        what="Behind which node a node's vxlan device knows the MAC that a packet of that way is for.",
        command="labctl exec {lab} {node} -- bridge fdb show",
        where="the line with that pod's MAC and dst; none: what is for it goes to all",
    ),
    FactKind(
        name="flooded-to", type=FactType.NAMES, source=FactSource.TOOL, takes=_NODE,
        what="Where a node's vxlan device sends what it knows no place for: nodes, or a group's address.",
        command="labctl exec {lab} {node} -- bridge fdb show", where="the lines of the MAC 00:00:00:00:00:00",
    ),
    FactKind(
        name="evpn-type-2", type=FactType.NAMES, source=FactSource.TOOL, takes=_NODE,
        what="The pods whose MAC a router or node has by EVPN.",
        command="labctl exec {lab} {node} -- vtysh -c 'show bgp l2vpn evpn'", where="the lines that begin with [2]",
    ),
    FactKind(
        name="evpn-type-3", type=FactType.NAMES, source=FactSource.TOOL, takes=_NODE,
        what="The nodes that want by EVPN what is for all.",
        command="labctl exec {lab} {node} -- vtysh -c 'show bgp l2vpn evpn'", where="the lines that begin with [3]",
    ),
    FactKind(
        name="sessions-up", type=FactType.NUMBER, source=FactSource.TOOL, unit="count", takes=_NODE,
        what="How many routing sessions are up, of a node or router, or of all.",
        command="labctl check {lab} {sessions}", where="the finding of each node and router",
    ),
)  # fmt: skip
FACTS: Mapping[str, FactKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Every fact, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactQuestion:
    """Which fact is asked for, and where: the two ends, and the parameters that this fact takes. `node` is a part's
    name."""

    fact: str
    client: str
    server: str
    role: Annotated[Role | None, OMITTED] = None
    way: Annotated[Way, OMITTED] = Way.REQUEST
    node: Annotated[str, OMITTED] = ""
    protocol: Annotated[ProbeProtocol | None, OMITTED] = None

    @property
    def kind(self) -> FactKind:
        return FACTS[self.fact]

    def words(self) -> str:
        """The name with where it was read, as tables have it: `ttl(server-eth0, reply)`."""
        takes = self.kind.takes
        said = [
            *([str(self.role)] if self.role is not None and Parameter.ROLE in takes else []),
            *([str(self.way)] if Parameter.WAY in takes else []),
            *([self.node] if self.node and Parameter.NODE in takes else []),
        ]
        return f"{self.fact}({', '.join(said)})" if said else self.fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read of one fact: a value, or None with the reason why it is `unmeasured`. `saw` says in a sentence what
    the observation as a whole was, and does not say the value."""

    question: FactQuestion
    value: Value | None
    unmeasured: Annotated[str, NULL] = ""
    saw: Annotated[str, NULL] = ""
    command: str = ""

    @property
    def is_measured(self) -> bool:
        return self.value is not None


def value_words(value: Value) -> str:
    """As people write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value) or NONE
    return str(value)
