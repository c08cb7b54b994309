"""`hubble observe`: the agent's own account of the flows of one pair. Argv, parsers, and flows as movements. Pure.

Hubble repeats what the programs reported to the agent: it is a witness of the agent (`Mover.AGENT`) and moves nothing
itself. Its times are those at which the agent read the events, not those of the packets: they order nothing here. Like
monitor it has the ports of TCP and UDP, but neither id nor sequence number of an echo.

pwru: which functions of the kernel handled a packet of one pair. Conditions, argv, parser. Pure.

pwru sees the whole kernel: on one host that carries all nodes it runs once, and each event is put to its node by its
network namespace. Only functions that show the way are watched (up the stack, redirected, dropped); none of them is on
the wire between two devices of a veth pair. Its JSON has no id and sequence number of an echo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from labctl.errors import MeasureFailed
from labctl.json_text import mapping_of, number_of, object_of, parse_json
from labctl.model.trace import Movement, Mover, PacketKey
from labctl.model.versions import Version
from labctl.values import dataclass

HUBBLE_READY = '"flow"'
"""Stands in every line of `-o jsonpb`: the newest earlier flow of the pair shows that hubble is listening."""
ENABLE = "cilium: {values: {hubble: {enabled: true}}}"

_COMPACT = re.compile(
    r"^(?P<time>\w{3} +\d+ [\d:.]+)(?: \[(?P<node>[^\]]*)\])?: "
    r"(?P<left>\S+)(?: \((?P<left_id>[^)]*)\))? (?P<arrow>->|<-|<>) (?P<right>\S+)(?: \((?P<right_id>[^)]*)\))? "
    r"(?P<event>.+?) (?P<verdict>[A-Z]{4,})(?: \((?P<summary>.*)\))?$"
)
_HUBBLE_PROTOCOLS = ("TCP", "UDP", "SCTP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One event. `source` and `destination` are addresses, or `namespace/pod` where the text has names. `point` is as
    monitor's (`to-stack`, `from-overlay`), or the event's kind in the text's own words; empty where it is not given."""

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
    two addresses: everything else on the node would be reported."""
    ends = tuple(dict.fromkeys(addresses))
    if len(ends) != 2:
        raise MeasureFailed(
            what="hubble needs the two addresses of a pair of pods",
            cause=f"{len(ends)} addresses are known: {', '.join(ends) or 'none'}",
        )
    # Values of one option are alternatives, and the two options must both hold: these are the pair, either way.
    pair = tuple(word for option in ("--from-ip", "--to-ip") for end in ends for word in (option, end))
    return ("hubble", "observe", "--follow", "--last", "1", *pair, "-o", output)


def enabled_by(config: Mapping[str, str], values: Mapping[str, object]) -> bool | None:
    """What `cilium-config`, else the lab's own Helm values say; None when neither mentions it."""
    if "enable-hubble" in config:
        return config["enable-hubble"] == "true"
    section = values.get("hubble")
    told = section.get("enabled") if isinstance(section, Mapping) else values.get("hubble.enabled")
    return told if isinstance(told, bool) else None


def trouble_in_status(text: str) -> str:
    """Why hubble cannot be used there, by an agent's `status -o json`; empty when it runs."""
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
    """The flows as reported on that node. `pods` gives the node and the lxc of each pod by its address, `names` the
    address by `namespace/pod`. Where hubble gives no device (`to-stack`), it is the one at which the packet was last
    reported to come in, else the lxc of its source if that is on this node."""
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
    word = next((name for name in l4 if name in _HUBBLE_PROTOCOLS), "")
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
        protocol=word.lower() if word in _HUBBLE_PROTOCOLS else "icmp" if word.startswith("ICMP") else "",
        source_port=source_port,
        destination_port=destination_port,
        identity=number_of((match[f"{ends[0]}_id"] or "").removeprefix("ID:")),
        raw=line,
    )


def _split(end: str) -> tuple[str, int]:
    host, _, port = end.rpartition(":")
    return (host, int(port)) if host and port.isdigit() else (end, 0)


PROGRAM = "pwru"
PWRU_READY = "istening for events"
"""In its log when the probes are attached; the first letter's case is not to be relied on."""
FUNCTIONS = ("ip_rcv", "ip_forward", "ip_local_deliver", "skb_do_redirect", "kfree_skb_reason", "sk_skb_reason_drop")
MOST_EVENTS = 20_000
"""pwru ends by itself after so many: a pair that keeps sending must not fill the memory."""
OLDEST = Version(1, 0, 6)
"""The first with `--output-json`."""
OLDEST_KERNEL = Version(5, 3)
KERNEL_SCRIPT = """echo "boot=$(cat /proc/sys/kernel/random/boot_id)"
echo "release=$(uname -r)"
[ -r /sys/kernel/btf/vmlinux ] && echo btf=yes
[ -e /sys/bus/event_source/devices/kprobe/type ] && echo kprobes=yes
for d in /sys/kernel/tracing /sys/kernel/debug/tracing; do [ -r $d/available_filter_functions ] && echo tracing=$d; done
echo "version=$(pwru --version 2>&1 | head -n 1)"
"""
PLACE_SCRIPT = """echo "boot=$(cat /proc/sys/kernel/random/boot_id)"
echo "netns=$(readlink /proc/self/ns/net)"
for d in /sys/class/net/*; do [ -e $d/ifindex ] && echo "link=$(cat $d/ifindex) ${d##*/}"; done; true
"""

_VERSION = re.compile(r"\bv?\d+\.\d+\.\d+\S*")
_NETNS = re.compile(r"^netns=net:\[(\d+)\]$", re.MULTILINE)
_BOOT = re.compile(r"^boot=(\S+)$", re.MULTILINE)
_LINK = re.compile(r"^link=(\d+) (\S+)$", re.MULTILINE)
_CONSUMED = "SKB_CONSUMED"
"""The reason with which every capture frees its copy (Linux 6.11 and later): not a drop, and at every tap."""
_WITHOUT_REASON = "sk_skb_reason_drop"
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What `KERNEL_SCRIPT` found where pwru would run. `version` is pwru's, None when it does not report one."""

    boot: str
    release: str
    has_btf: bool
    has_kprobes: bool
    has_tracing: bool
    version: Version | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNamespace:
    """A network namespace of the lab: its node or pod, and its devices by their index. `boot` identifies the kernel:
    containers of one host share it."""

    name: str
    boot: str
    netns: int
    links: Mapping[int, str]


def parse_kernel(text: str) -> Kernel:
    told = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    found = _VERSION.search(told.get("version", ""))
    return Kernel(
        boot=told.get("boot", ""),
        release=told.get("release", ""),
        has_btf="btf" in told,
        has_kprobes="kprobes" in told,
        has_tracing="tracing" in told,
        version=Version.parse(found[0]) if found else None,
    )


def parse_place(name: str, text: str) -> LabNamespace:
    """From `PLACE_SCRIPT`. Raises MeasureFailed when it lacks the namespace or the kernel."""
    netns, boot = _NETNS.search(text), _BOOT.search(text)
    if netns is None or boot is None:
        raise MeasureFailed(what=f"cannot read the network namespace and the kernel of {name}")
    links = {int(index): device for index, device in _LINK.findall(text)}
    return LabNamespace(name=name, boot=boot[1], netns=int(netns[1]), links=links)


def why_not(kernel: Kernel) -> str:
    """Every reason why pwru cannot be used there; empty when it can."""
    reasons = []
    if kernel.version is None:
        reasons.append("it does not report its version")
    elif kernel.version < Version(1, 0):
        reasons.append(
            f"it is {kernel.version}: 0.0.9 and earlier filter with --filter-src-ip, which 1.0.0 replaced by pcap "
            f"expressions, and have no JSON output; use {OLDEST} or later"
        )
    elif kernel.version < OLDEST:
        reasons.append(f"it is {kernel.version}, and --output-json came with {OLDEST}")
    try:
        if Version.parse(kernel.release) < OLDEST_KERNEL:
            reasons.append(f"the kernel is {kernel.release}, and it needs 5.3 or later")
    except ValueError:
        reasons.append("the kernel's release cannot be read")
    if not kernel.has_btf:
        reasons.append("the kernel has no BTF (/sys/kernel/btf/vmlinux; CONFIG_DEBUG_INFO_BTF)")
    if not kernel.has_kprobes:
        reasons.append("the kernel has no kprobes (CONFIG_KPROBES, CONFIG_KPROBE_EVENTS)")
    if not kernel.has_tracing:
        reasons.append("available_filter_functions cannot be read (mount -t debugfs none /sys/kernel/debug)")
    return "; ".join(reasons)


def argv_pwru(addresses: Iterable[str], *, netns: int | None = None) -> tuple[str, ...]:
    """pwru 1.0.6 or later: the packets between two addresses, as JSON, with the kernel's monotonic time. `netns` limits
    it to one network namespace. Raises MeasureFailed without two addresses."""
    ends = tuple(dict.fromkeys(addresses))
    if len(ends) != 2:
        raise MeasureFailed(
            what="pwru needs the two addresses of a pair of pods", cause=f"{len(ends)} addresses are known"
        )
    return (
        PROGRAM, "--output-json", "--output-tuple", "--output-meta", "--timestamp", "current",
        "--filter-func", f"^({'|'.join(FUNCTIONS)})$", "--output-limit-lines", str(MOST_EVENTS),
        *(() if netns is None else ("--filter-netns", f"inode:{netns}")),
        f"host {ends[0]} and host {ends[1]}",
    )  # fmt: skip


def parse_pwru(text: str, places: Iterable[LabNamespace], *, clock_ns: int | None = None) -> tuple[Movement, ...]:
    """The events in the lab's namespaces as movements, in the order printed; header, log and other namespaces are left
    out. `clock_ns` is wall-clock minus monotonic time of that kernel; without it the movements have no time."""
    by_netns = {place.netns: place for place in places}
    found = (_movement(line.strip(), by_netns, clock_ns) for line in text.splitlines())
    return tuple(movement for movement in found if movement is not None)


def _movement(line: str, places: Mapping[int, LabNamespace], clock_ns: int | None) -> Movement | None:
    if not line.startswith("{"):
        return None
    event = object_of(line)
    place, packet = places.get(number_of(event.get("netns"))), event.get("tuple")
    function, time = str(event.get("func", "")), event.get("time")
    # Before 1.0.9 it does not print this function's reason: a drop looks like a capture's copy being freed.
    if place is None or not isinstance(packet, dict) or _CONSUMED in function or function == _WITHOUT_REASON:
        return None
    return Movement(
        node=place.name,
        mover=Mover.AGENT,
        what=PROGRAM,
        device=_device(str(event.get("iface", "")), place),
        hook="kernel",
        helper=function,
        packet=PacketKey(
            src=str(packet.get("saddr", "")),
            dst=str(packet.get("daddr", "")),
            protocol=_PROTOCOLS.get(number_of(packet.get("proto")), ""),
            first=number_of(packet.get("sport")),
            second=number_of(packet.get("dport")),
        ),
        time_ns=time + clock_ns if isinstance(time, int) and clock_ns is not None else None,
        raw=line,
    )


def _device(iface: str, place: LabNamespace) -> str:
    """`eth0:9`: the index counts, since long names are cut on the left (`~c3a6f7d4e8c73:12`)."""
    name, _, index = iface.rpartition(":")
    return place.links.get(int(index), name) if index.isdigit() else iface
