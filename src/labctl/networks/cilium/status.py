"""A node of labctl's own datapath as `cilium status --verbose` would show it: Cilium's lines, words and order. Pure.

The lines are those that real agents printed (recorded: 1.13.12 and 1.16.0-rc.0; what either of them has is here, in an
order that both keep). Each says what it was read from; one that has no counterpart reads "not on netns".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from labctl.datapath.layout import Config, ConfigFlag, unpack_config, unpack_endpoint, unpack_ipcache
from labctl.model.evidence import AttachedProgram, ModeInForce
from labctl.model.interfaces import CILIUM_HOST, UPLINK
from labctl.model.lab import (
    FIRST_IDENTITY,
    LAST_IDENTITY,
    HostRouting,
    Lab,
    Masquerade,
    Node,
)
from labctl.model.node_status import NodeStatus, PodRanges, Shown, StatusEndpoint, StatusLine, witness_of
from labctl.networks.base import StatusReading, WatchedObjects
from labctl.networks.cilium.contents import map_contents
from labctl.networks.cilium.services import translates_services
from labctl.providers.netns.counters import Unread
from labctl.values import dataclass

NOT_HERE = "not on netns"
SAYS = "labctl's own datapath, not Cilium"

_KUBE_PROXY = ("KUBE-SERVICES", "KUBE-NODEPORTS", "kube-proxy")
"""Chains of kube-proxy's iptables mode, and the table of its nftables mode: they are there or they are not."""

MAPS: Mapping[str, str] = {
    "Auth": "",
    "Non-TCP connection tracking": "ct",
    "TCP connection tracking": "ct",
    "Endpoint policy": "",
    "Events": "events",
    "IP cache": "ipcache",
    "IP masquerading agent": "",
    "IPv4 masquerading agent": "",
    "IPv6 masquerading agent": "",
    "IPv4 fragmentation": "fragments",
    "IPv4 service": "services",
    "IPv6 service": "",
    "IPv4 service backend": "backends",
    "IPv6 service backend": "",
    "IPv4 service reverse NAT": "",
    "IPv6 service reverse NAT": "",
    "Metrics": "metrics",
    "NAT": "snat",
    "Neighbor table": "",
    "Global policy": "",
    "Per endpoint policy": "",
    "Session affinity": "",
    "Signal": "",
    "Sockmap": "",
    "Sock reverse NAT": "reverse_sk",
    "Tunnel": "tunnel",
}
"""Cilium's names of its maps, in its order, and labctl's map of the same use."""


def node_status(lab: Lab, reading: StatusReading, mode: ModeInForce | None) -> NodeStatus:
    """Every line of the node, its endpoints, and its part of the pods' addresses."""
    look = _Look(lab=lab, node=lab.node(reading.node), reading=reading, mode=mode, config=_config(reading))
    return NodeStatus(
        node=reading.node,
        says=SAYS,
        lines=tuple(line for make in _LINES for line in make(look)),
        endpoints=tuple(_endpoints(look)),
        ranges=_ranges(look),
        command=f"labctl status {lab.name} --datapath",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    lab: Lab
    node: Node
    reading: StatusReading
    mode: ModeInForce | None
    config: Config | None

    def sync_problem(self) -> Iterator[tuple[str, str]]:
        """The maps that are filled when the lab is built, and how they differ from what they were filled with."""
        for name, wanted in map_contents(self.lab, self.node.name).items():
            if name == "config":
                continue  # `labctl trace` changes it while it watches
            found = {key: values[0] for key, values in self.entries(name)}
            meant = dict(wanted)
            lost = sum(key not in found for key in meant)
            other = sum(key in found and found[key] != value for key, value in meant.items())
            more = sum(key not in meant for key in found)
            parts = ((lost, "missing"), (other, "changed"), (more, "too many"))
            yield name, ", ".join(f"{count} {word}" for count, word in parts if count)

    def entries(self, name: str) -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
        return self.reading.maps[name][1] if name in self.reading.maps else ()

    def dump(self, name: str) -> str:
        return f"bpftool map dump id {self.reading.maps[name][0].id}" if name in self.reading.maps else ""


def _config(reading: StatusReading) -> Config | None:
    entries = reading.maps["config"][1] if "config" in reading.maps else ()
    return unpack_config(entries[0][1][0]) if entries else None


_Lines = Callable[[_Look], Iterator[StatusLine]]


def _absent(label: str, depth: int = 0) -> _Lines:
    def lines(look: _Look) -> Iterator[StatusLine]:
        yield StatusLine(label=label, value=NOT_HERE, depth=depth, shown=Shown.ABSENT)

    return lines


def _as(label: str, make: Callable[[_Look], StatusLine]) -> _Lines:
    def lines(look: _Look) -> Iterator[StatusLine]:
        line = make(look)
        yield StatusLine(
            label=label, value=line.value, depth=line.depth, shown=line.shown, because=line.because,
            command=line.command,
        )  # fmt: skip

    return lines


def _proven(value: str, because: str, command: str = "", depth: int = 0) -> StatusLine:
    return StatusLine(label="", value=value, depth=depth, shown=Shown.PROVEN, because=because, command=command)


def _unproven(value: str, because: str, depth: int = 0) -> StatusLine:
    return StatusLine(label="", value=value, depth=depth, shown=Shown.UNPROVEN, because=because)


def _rules(look: _Look) -> tuple[dict[str, list[str]], list[str]]:
    """Which of kube-proxy's chains and tables each list of netfilter has, and the lists that could be read."""
    found: dict[str, list[str]] = {}
    read = []
    for listing, text in look.reading.rules.items():
        if isinstance(text, Unread):
            continue
        read.append(listing)
        if names := [name for name in _KUBE_PROXY if name in text]:
            found[listing] = names
    return found, read


def _replacement(look: _Look) -> StatusLine:
    found, read = _rules(look)
    command = look.reading.command("iptables-save", "-t", "nat")
    if not read:
        why = "; ".join(text.why for text in look.reading.rules.values() if isinstance(text, Unread))
        asked = look.lab.datapath.kube_proxy_replacement
        return _unproven(str(asked), f"asked for; netfilter's rules could not be read: {why}")
    if found:
        names = "; ".join(f"{listing}: {', '.join(names)}" for listing, names in found.items())
        return _proven("False", f"kube-proxy's rules are on the node: {names}", command)
    devices = f"[{UPLINK}   {look.node.address.ip} (Direct Routing)]"
    because = f"no chain or table of kube-proxy in {', '.join(read)}"
    if translates_services(look.lab):
        sockets = _sockets(look)
        because += f"; {len(sockets)} programs on the sockets of the node's and its pods' processes"
    return _proven(f"True   {devices}", because, command)


def _sockets(look: _Look) -> tuple[str, ...]:
    return tuple(f"{one.name} on {one.device}" for one in look.reading.programs if one.attach == "cgroup")


def _ipam(look: _Look) -> StatusLine:
    ranges = _ranges(look)
    return _proven(
        f"IPv4: {ranges.allocated}/{ranges.allocated + ranges.free} allocated from {ranges.used}, ",
        "the addresses in the endpoints map, and that of cilium_host",
        look.dump("endpoints"),
    )


def _ranges(look: _Look) -> PodRanges:
    taken = len(look.entries("endpoints")) + len(_own(look))
    used = look.node.pod_cidr
    return PodRanges(
        asked=look.lab.network.pod_cidr, used=used, allocated=taken, free=max(0, used.num_addresses - 2 - taken)
    )


def _own(look: _Look) -> tuple[IPv4Address, ...]:
    """The node's own addresses of its pods' range."""
    return tuple(each for each in look.reading.addresses.get(CILIUM_HOST, ()) if each in look.node.pod_cidr)


def _pod_range(look: _Look) -> Iterator[StatusLine]:
    ranges = _ranges(look)
    yield StatusLine(
        label="Pod range asked for",
        value=str(ranges.asked),
        depth=1,
        shown=Shown.PROVEN,
        because=f"{ranges.used} is part of it" if ranges.agrees else f"{ranges.used} is NO part of it",
    )


def _allocated(look: _Look) -> Iterator[StatusLine]:
    yield StatusLine(label="Allocated addresses", shown=Shown.PROVEN, because="as above")
    names = {pod.address: pod.name for pod in look.lab.pods}
    every = {IPv4Address(key): names.get(IPv4Address(key), "?") for key, _ in look.entries("endpoints")}
    every |= dict.fromkeys(_own(look), "router")
    for address in sorted(every):
        yield StatusLine(label=f"{address} ({every[address]})", depth=1, shown=Shown.PROVEN)


def _host_routing(look: _Look) -> StatusLine:
    claim = None if look.mode is None else look.mode.found.get("hostRouting")
    piece = witness_of(look.mode, "hostRouting", look.node.name)
    words = {HostRouting.BPF: "BPF", HostRouting.LEGACY: "Legacy"}
    if look.mode is None or piece is None or claim not in tuple(HostRouting):
        asked = look.lab.in_force.host_routing
        why = "asked for; no packets were sent to see it" if look.mode is None else "asked for; no witness shows it"
        return _unproven(words[asked], why)
    value = words[HostRouting(str(claim))]
    because = f"{piece.witness}: {piece.finding}"
    if look.mode.fallback is not None:
        because = f"asked {look.mode.asked.get('hostRouting')}, fell back: {look.mode.fallback.reason}; {because}"
    if piece.where != look.node.name and not piece.where.startswith(f"{look.node.name}:"):
        here, there = _loaded(look.reading.programs), _loaded(look.reading.elsewhere)
        if not here or here != there:
            return _unproven(value, f"{piece.where} has it; this node's programs are others")
        because = f"the same programs (by their tags) as where it was seen: {piece.where}, {because}"
    return _proven(value, because, piece.command)


def _loaded(programs: Sequence[AttachedProgram]) -> frozenset[tuple[str, str]]:
    """The node's own programs, as the tag of their instructions knows them."""
    return frozenset((one.name, one.tag) for one in programs if one.device in (UPLINK, CILIUM_HOST))


def _routing(look: _Look) -> StatusLine:
    host = _host_routing(look)
    piece = witness_of(look.mode, "encapsulation", look.node.name)
    mode = look.lab.datapath.encapsulation
    network = f"Tunnel [{mode}]" if mode.is_tunnel else "Native"
    value = f"Network: {network}   Host: {host.value}"
    if piece is None or host.shown is not Shown.PROVEN:
        return _unproven(value, host.because)
    return _proven(value, f"network: {piece.witness}, {piece.where}; host: as above", piece.command)


def _attach_mode(look: _Look) -> StatusLine:
    kinds = sorted({one.attach for one in look.reading.programs if one.attach != "cgroup"})
    if kinds != ["tc clsact"]:
        return _unproven("Legacy TC", "no program is attached" if not kinds else ", ".join(kinds))
    count = sum(one.attach == "tc clsact" for one in look.reading.programs)
    return _proven("Legacy TC", f"{count} tc filters, no tcx link", look.reading.command("bpftool", "net", "show"))


def _masquerading(look: _Look) -> StatusLine:
    protocols = "[IPv4: Enabled, IPv6: Disabled]"
    rules = [
        line.strip()
        for text in look.reading.rules.values()
        if not isinstance(text, Unread)
        for line in text.splitlines()
        if "CILIUM_POST_nat" in line and "MASQUERADE" in line
    ]
    if look.config is not None and ConfigFlag.MASQUERADE in look.config.flags:
        excluded = _excluded(look.config)
        at = next((one for one in look.reading.programs if one.device == UPLINK and one.hook == "egress"), None)
        if at is None:
            return _unproven("BPF", f"the config map says so, and no program is on the egress of {UPLINK}")
        return _proven(
            f"BPF   [{UPLINK}]   {excluded} {protocols}",
            f"the node's config map; {at.name} on the egress of {UPLINK}",
            look.dump("config"),
        )
    if rules:
        return _proven(f"IPTables {protocols}", rules[-1], look.reading.command("iptables-save", "-t", "nat"))
    if look.lab.in_force.masquerade is Masquerade.IPTABLES and not any(
        not isinstance(text, Unread) for text in look.reading.rules.values()
    ):
        return _unproven(f"IPTables {protocols}", "asked for; netfilter's rules could not be read")
    return _proven("Disabled", "neither the config map nor a netfilter rule masquerades", look.dump("config"))


def _excluded(config: Config) -> IPv4Network:
    """What is reached with the pods' own addresses."""
    return config.pod_cidr


def _clock(look: _Look) -> StatusLine:
    return StatusLine(label="", value="ktime", because="the programs' source: bpf_ktime_get_ns")


def _controllers(look: _Look) -> Iterator[StatusLine]:
    """What labctl reads back of the node in place of an agent's loops: objects by kind, and the contents of maps."""
    watched = [*look.reading.watched, *_synced(look)]
    healthy = sum(not one.missing and not one.unread for one in watched)
    yield StatusLine(
        label="Controller Status",
        value=f"{healthy}/{len(watched)} healthy",
        shown=Shown.PROVEN,
        because="what labctl watches: each object of the lab's plan read back, and the maps' entries, just now",
        command=f"labctl list; labctl status {look.lab.name} --datapath",
    )
    yield StatusLine(label="Name", value=_row("Last success", "Last error", "Count", "Message"), depth=1)
    for one in watched:
        error = one.unread or ", ".join(one.missing)
        row = _row("never", "now", str(one.count), error) if error else _row("now", "never", str(one.count), "no error")
        yield StatusLine(label=one.name, value=row, depth=1, shown=Shown.PROVEN)


def _row(success: str, error: str, count: str, message: str) -> str:
    return f"{success:<12}   {error:<10}   {count:<5}   {message}"


def _synced(look: _Look) -> Iterator[WatchedObjects]:
    for name, problem in look.sync_problem():
        count = len(look.entries(name))
        yield WatchedObjects(name=f"map-sync-{name}", count=count, missing=(problem,) if problem else ())


def _identities(look: _Look) -> StatusLine:
    known = sorted({unpack_ipcache(values[0])[0] for _, values in look.entries("ipcache")})
    pods = [identity for identity in known if identity >= FIRST_IDENTITY]
    beyond = [identity for identity in pods if identity > LAST_IDENTITY]
    value = f"min {FIRST_IDENTITY}, max {LAST_IDENTITY}"
    if beyond or not pods:
        return _unproven(value, f"the ipcache has {', '.join(map(str, beyond)) or 'no identity of a pod'}")
    return _proven(value, f"the ipcache has {len(pods)} of them, {pods[0]} to {pods[-1]}", look.dump("ipcache"))


def _details(look: _Look) -> Iterator[StatusLine]:
    status = _replacement(look)
    is_on = status.value.startswith("True")
    sockets = _sockets(look)
    of_pods = any("/pods" in one or one.endswith("pods") for one in sockets)
    enabled, coverage = ("Enabled" if sockets else "Disabled"), ("Full" if of_pods else "Hostns-only")
    has_node_port = look.config is not None and ConfigFlag.NODEPORT in look.config.flags
    why = f"{len(sockets)} programs are attached to the cgroups of the node and its pods"
    none = "the lab has no Services, so none is attached" if not look.lab.services else "none is attached"
    yield StatusLine(label="KubeProxyReplacement Details", shown=status.shown, because="as above")
    yield StatusLine(
        label="Status", value="True" if is_on else "False", depth=1, shown=status.shown, because="as above"
    )
    yield StatusLine(label="Socket LB", value=enabled, depth=1, shown=Shown.PROVEN, because=why if sockets else none)
    yield from _absent("Socket LB Tracing", 1)(look)
    yield StatusLine(
        label="Socket LB Coverage",
        value=coverage if sockets else NOT_HERE,
        depth=1,
        shown=Shown.PROVEN if sockets else Shown.ABSENT,
        because="; ".join(sockets[:1]) if sockets else none,
    )
    yield StatusLine(
        label="Devices", value=f"{UPLINK}   {look.node.address.ip} (Direct Routing)" if is_on else "", depth=1,
        shown=status.shown, because="as above",
    )  # fmt: skip
    yield StatusLine(label="Mode", value="SNAT", depth=1, because="the programs' source: there is no DSR")
    yield StatusLine(label="Backend Selection", value="Random", depth=1, because="the programs' source; check: service")
    for label in ("Session Affinity", "Graceful Termination", "NAT46/64 Support", "XDP Acceleration"):
        yield from _absent(label, 1)(look)
    yield StatusLine(label="Services", depth=1, shown=status.shown)
    serves = is_on and bool(look.entries("services"))
    entries = f"{len(look.entries('services'))} entries in the services map" if look.lab.services else none
    yield StatusLine(
        label="- ClusterIP", value="Enabled" if serves else "Disabled", depth=1, shown=Shown.PROVEN,
        because=entries, command=look.dump("services"),
    )  # fmt: skip
    yield StatusLine(
        label="- NodePort", value="Enabled (Range: 30000-32767)" if serves and has_node_port else "Disabled", depth=1,
        shown=Shown.PROVEN, because="the node's config map", command=look.dump("config"),
    )  # fmt: skip
    for label in ("- LoadBalancer", "- externalIPs", "- HostPort"):
        yield from _absent(label, 1)(look)


def _map_sizes(look: _Look) -> Iterator[StatusLine]:
    yield StatusLine(
        label="BPF Maps",
        value="dynamic sizing: off",
        shown=Shown.PROVEN,
        because="the sizes stand in the objects; those below are what the kernel has",
    )
    yield StatusLine(label="Name", value="Size", depth=1)
    for label, name in MAPS.items():
        info = look.reading.maps[name][0] if name in look.reading.maps else None
        if info is None:
            yield from _absent(label, 1)(look)
            continue
        yield StatusLine(
            label=label,
            value=str(info.max_entries),
            depth=1,
            shown=Shown.PROVEN,
            because=f"labctl's map {name}",
            command=f"bpftool map show id {info.id}",
        )


def _endpoints(look: _Look) -> Iterator[StatusEndpoint]:
    pods = {pod.address: pod for pod in look.lab.pods}
    attached = {one.device for one in look.reading.programs}
    for key, values in sorted(look.entries("endpoints")):
        entry, address = unpack_endpoint(values[0]), IPv4Address(key)
        pod = pods.get(address)
        yield StatusEndpoint(
            number=entry.ifindex,
            identity=entry.identity,
            labels=tuple(f"{key}={value}" for key, value in sorted(pod.labels.items())) if pod else (),
            address=address,
            name=pod.name if pod else "?",
            state="ready" if pod is not None and pod.lxc in attached else "not-ready",
        )


_LINES: tuple[_Lines, ...] = (
    _absent("KVStore"),
    _absent("Kubernetes"),
    _absent("Kubernetes APIs"),
    _as("KubeProxyReplacement", _replacement),
    _absent("Host firewall"),
    _absent("SRv6"),
    _absent("CNI Chaining"),
    _absent("CNI Config file"),
    _absent("Cilium"),
    _absent("NodeMonitor"),
    _absent("Cilium health daemon"),
    _as("IPAM", _ipam),
    _pod_range,
    _allocated,
    _absent("IPv4 BIG TCP"),
    _absent("IPv6 BIG TCP"),
    _absent("BandwidthManager"),
    _as("Host Routing", _host_routing),
    _as("Routing", _routing),
    _as("Attach Mode", _attach_mode),
    _as("Device Mode", lambda look: StatusLine(label="", value="veth", because="every lxc is an end of a veth pair")),
    _as("Masquerading", _masquerading),
    _as("Clock Source for BPF", _clock),
    _controllers,
    _absent("Proxy Status"),
    _as("Global Identity Range", _identities),
    _absent("Hubble"),
    _details,
    _map_sizes,
    _absent("Encryption"),
    _absent("Cluster health"),
    _absent("Modules Health"),
)
