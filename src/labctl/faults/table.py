"""The table of faults: for a reader each one's text, for a lab the places where it can be put. Pure.

A fault that would show nothing in a lab (a firewall rule where eBPF redirects skip the firewall) has no place there and
says why. Between which pods it is put is the seed's to choose, among the pairs whose pods are on different nodes.
docs/faults.md is made from this table (`document`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random

from labctl.errors import UsageError
from labctl.faults import places
from labctl.faults.places import Across, Unfit
from labctl.model.fault import FaultAct, FaultSite, FaultText
from labctl.model.lab import Lab
from labctl.values import dataclass

_MOST_SITES = 200
_TRACE = "labctl trace LAB CLIENT SERVER"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultEntry:
    """One fault: its text, and what puts it between two pods of a lab. `place` raises Unfit."""

    text: FaultText
    place: Callable[[Lab, Across], FaultSite]

    @property
    def name(self) -> str:
        return self.text.name

    def unfit(self, lab: Lab) -> str:
        """Why it cannot be shown in this lab; empty where it can."""
        try:
            self.sites(lab)
        except Unfit as why:
            return str(why)
        return ""

    def sites(self, lab: Lab) -> tuple[FaultSite, ...]:
        """Every place of it, one for each pair across nodes, the lab's own pairs first. Raises Unfit."""
        pairs = tuple(across(lab))
        if not pairs:
            raise Unfit("no two pods of the lab are on different nodes")
        return tuple(self.place(lab, pair) for pair in pairs)

    def site(self, lab: Lab, seed: int | None) -> FaultSite:
        """The place that the seed chooses; without one the first. Raises Unfit."""
        sites = self.sites(lab)
        return sites[0] if seed is None else Random(seed).choice(sites)  # nosec B311  # no secret


def across(lab: Lab) -> Iterator[Across]:
    """Pods of different nodes: the lab's own pairs, then one pair for every two nodes."""
    pods = {pod.name: pod for pod in lab.pods}
    asked = [(pair.client, pair.server) for pair in lab.pairs if {pair.client, pair.server} <= set(pods)]
    first = {pod.node: pod.name for pod in reversed(lab.pods)}
    between = [(one, other) for one in first.values() for other in first.values()]
    for client, server in list(dict.fromkeys((*asked, *between)))[:_MOST_SITES]:
        if pods[client].node != pods[server].node:
            yield Across(
                client=pods[client],
                server=pods[server],
                here=lab.node(pods[client].node),
                there=lab.node(pods[server].node),
            )


def _entry(
    name: str, place: Callable[[Lab, Across], FaultSite], *, what: str, seen: str, repair: str, named: str,
    finds: str = _TRACE,
) -> FaultEntry:  # fmt: skip
    return FaultEntry(
        text=FaultText(name=name, what=what, seen=seen, finds=finds, named=named, repair=repair), place=place
    )


FAULTS: tuple[FaultEntry, ...] = (
    _entry(
        "missing-neighbour",
        places.missing_neighbour,
        what="the client's node has its own MAC for the server's node in its neighbour table",
        seen="no ping between the two nodes is answered; frames leave the uplink and come back to nobody",
        named="neighbour",
        repair="the entry with the other node's MAC: ip neigh replace ADDRESS lladdr MAC dev eth0 nud permanent",
    ),
    _entry(
        "wrong-route",
        places.wrong_route,
        what="the route to the server's pods has a next hop that is the wrong one",
        seen="packets take a detour, or go round between two routers until their TTL ends",
        named="route",
        repair="the route by the right next hop: ip route replace PREFIX via NEXT-HOP",
    ),
    _entry(
        "missing-route",
        places.missing_route,
        what="the server's node has no route to the client's pods",
        seen="requests arrive and are answered, and no answer leaves the server's node",
        named="is missing",
        repair="the route by the client's node: ip route replace PREFIX via NEXT-HOP dev eth0",
    ),
    _entry(
        "missing-fdb-entry",
        places.missing_fdb,
        what="the vxlan device of the client's node does not know behind which VTEP the server's node is",
        seen="the frame enters the vxlan device and no envelope leaves the uplink",
        named="tunnel of",
        repair="the entry of the FDB: bridge fdb append MAC dev DEVICE dst VTEP",
    ),
    _entry(
        "small-mtu",
        places.small_mtu,
        what="the uplink of the client's node has an MTU that is 50 bytes too small",
        seen="small pings pass; the largest one that should pass does not, and TCP stalls or is slow",
        finds="labctl check LAB mtu; " + _TRACE,
        named="mtu",
        repair="the MTU of the others: ip link set dev eth0 mtu BYTES",
    ),
    _entry(
        "strict-rp-filter",
        places.strict_rp_filter,
        what="the reverse path filter of the client's node is strict",
        seen="what a pod sends is dropped by the node: the route back to it is not by the device that it came in by",
        named="rp_filter",
        repair="sysctl -w net.ipv4.conf.all.rp_filter=0",
    ),
    _entry(
        "ip-forward-off",
        places.ip_forward_off,
        what="a node, or the router of the client's node, forwards no IPv4 packets",
        seen="packets arrive there and nothing leaves; its own addresses still answer",
        named="ip_forward",
        repair="sysctl -w net.ipv4.ip_forward=1",
    ),
    _entry(
        "wrong-proxy-arp",
        places.wrong_proxy_arp,
        what="the node does not answer ARP for the pods' gateway, which no device has (Calico)",
        seen="the client asks for its gateway's MAC and gets no answer",
        finds=_TRACE + "; labctl check LAB arp",
        named="proxy_arp",
        repair="sysctl -w net.ipv4.conf.DEVICE.proxy_arp=1 for the pod's device on the node",
    ),
    _entry(
        "duplicate-address",
        places.duplicate_address,
        what="the client's node has the server's address too, on its loopback device",
        seen="the ping is answered, by the wrong one: nothing arrives at the server",
        named="address",
        repair="ip address del ADDRESS/32 dev lo",
    ),
    _entry(
        "xdp-drop",
        places.xdp_drop,
        what="an XDP program on the uplink of the server's node drops every packet",
        seen="frames leave for the node and no tap of it shows them: XDP comes before tcpdump",
        named="XDP program",
        repair="ip link set dev eth0 xdpgeneric off",
    ),
    _entry(
        "netfilter-drop",
        places.netfilter_drop,
        what="a rule of the client's node drops packets between pods, and says nothing",
        seen="the client waits: no answer and no error",
        named="was dropped on",
        repair="iptables -D FORWARD of that rule",
    ),
    _entry(
        "netfilter-reject",
        places.netfilter_reject,
        what="a rule of the client's node refuses packets between pods, and says so to the sender",
        seen="the client gets an ICMP error at once, Destination Port Unreachable",
        named="REJECT",
        repair="iptables -D FORWARD of that rule",
    ),
    _entry(
        "wrong-native-cidr",
        places.wrong_native_cidr,
        what="what the client's node takes for the pods' own network is too small, so that it masquerades between pods",
        seen="the server sees the node's address in place of the client's",
        named="native routing CIDR",
        repair="ipv4NativeRoutingCIDR as the other nodes have it",
    ),
    _entry(
        "no-redirect-peer",
        places.no_redirect_peer,
        what="the programs of the server's node deliver with bpf_redirect in place of bpf_redirect_peer",
        seen="pings are answered; the server's lxc shows requests, which it does not with BPF host routing",
        named="bpf_redirect_peer",
        repair="the programs' configuration as the plan has it",
    ),
    _entry(
        "wrong-vtep",
        places.wrong_vtep,
        what="the client's node has the address of another node as tunnel endpoint of the server",
        seen="envelopes go to a node that the server is not on",
        named="VTEP",
        repair="the entries of the maps ipcache and tunnel as the plan has them",
    ),
    _entry(
        "wrong-vni",
        places.wrong_vni,
        what="the client's node puts a VNI on its envelopes that is not the sender's identity",
        seen="pings are answered; a policy by identity would fail",
        named="identity",
        repair="the programs' configuration as the plan has it",
    ),
    _entry(
        "withdrawn-prefix",
        places.withdrawn_prefix,
        what="who announces the server's pods by BGP does so no more",
        seen="the other routers forget the route; the session stays up",
        finds="labctl check LAB routes; " + _TRACE,
        named="is missing",
        repair="network PREFIX in the daemon's address family",
    ),
    _entry(
        "ospf-area-mismatch",
        places.ospf_area,
        what="one end of an OSPF link is in another area than the other end",
        seen="no neighbour on that link, and no route by it",
        finds="labctl check LAB ospf; labctl check LAB routes",
        named="ospf",
        repair="network PREFIX area 0 on both ends",
    ),
    _entry(
        "ospf-timer-mismatch",
        places.ospf_timers,
        what="one end of an OSPF link says hello in another interval than the other end",
        seen="no neighbour on that link after the dead interval, and no route by it",
        finds="labctl check LAB ospf; labctl check LAB routes",
        named="ospf",
        repair="ip ospf hello-interval and dead-interval the same on both ends",
    ),
)
BY_NAME = {entry.name: entry for entry in FAULTS}
ANY = "any"
"""In place of a fault's name: the seed chooses one of those that the lab can have."""


def fitting(lab: Lab, table: Sequence[FaultEntry] = FAULTS) -> tuple[FaultEntry, ...]:
    return tuple(entry for entry in table if not entry.unfit(lab))


def chosen(lab: Lab, name: str, seed: int | None, table: Sequence[FaultEntry] = FAULTS) -> FaultEntry:
    """The fault of that name, or with `any` the one that the seed chooses. Raises UsageError with what there is."""
    there = fitting(lab, table)
    if name == ANY and there:
        return Random(seed or 0).choice(there)  # nosec B311  # no secret
    by_name = {entry.name: entry for entry in table}
    if name not in by_name:
        import difflib

        near = difflib.get_close_matches(name, by_name, n=1)
        raise UsageError(
            what=f"there is no fault {name}",
            cause=f"lab {lab.name} can have: {', '.join(entry.name for entry in there) or 'none'}",
            remedy=f"did you mean '{near[0]}'?" if near else f"labctl break {lab.name}",
        )
    entry = by_name[name]
    if why := entry.unfit(lab):
        raise UsageError(
            what=f"the fault {name} would show nothing in lab {lab.name}",
            cause=why,
            remedy=f"labctl break {lab.name}  # lists those that it can have",
        )
    return entry


def repairs(lab: Lab, names: Iterable[str] = (), table: Sequence[FaultEntry] = FAULTS) -> tuple[FaultAct, ...]:
    """What heals these faults, or all that the lab can have, wherever they were put. Each act once, in order."""
    wanted = tuple(names)
    entries = [entry for entry in table if entry.name in wanted] if wanted else fitting(lab, table)
    sites = (site for entry in entries if not entry.unfit(lab) for site in entry.sites(lab))
    return tuple(dict.fromkeys(act for site in sites for act in site.mends))


def document(table: Sequence[FaultEntry] = FAULTS) -> str:
    """docs/faults.md's table."""
    lines = ["| fault | what it is | what one sees | found by | repair |", "|---|---|---|---|---|"]
    for entry in table:
        text = entry.text
        finds = ", ".join(f"`{one.strip()}`" for one in text.finds.split(";"))
        lines.append(f"| `{text.name}` | {text.what} | {text.seen} | {finds} | {text.repair} |")
    return "\n".join(lines) + "\n"
