"""pwru: which functions of the kernel had a packet of one pair in their hands. Conditions, argv, parser. Pure.

pwru sees the whole kernel: on one host that carries all nodes it runs once, and each event is put to its node by its
network namespace. Only functions are watched that tell the way (up the stack, redirected, dropped); none of them is on
the wire between two devices of a veth pair. Its JSON has no id and sequence number of an echo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from labctl.errors import MeasureFailed
from labctl.model.movement import Movement, Mover, PacketKey
from labctl.providers.cilium.json_lines import number_of, object_of
from labctl.providers.cilium.versions import Version

PROGRAM = "pwru"
READY = "istening for events"
"""In its log when the probes are attached; the first letter's case is not to be relied on."""
FUNCTIONS = ("ip_rcv", "ip_forward", "ip_local_deliver", "skb_do_redirect", "kfree_skb_reason", "sk_skb_reason_drop")
MOST_EVENTS = 20_000
"""pwru ends by itself after so many: a pair that talks without end must not fill the memory."""
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
"""The reason with which every capture lets go of its copy (Linux 6.11 and later): no drop, and at every tap."""
_UNTOLD = "sk_skb_reason_drop"
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What `KERNEL_SCRIPT` found where pwru would run. `version` is pwru's, None when it does not tell."""

    boot: str
    release: str
    has_btf: bool
    has_kprobes: bool
    has_tracing: bool
    version: Version | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A network namespace of the lab: whose it is (a node or a pod), and its devices by their index. `boot` tells
    kernels apart: containers of one host share it."""

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


def parse_place(name: str, text: str) -> Place:
    """From `PLACE_SCRIPT`. Raises MeasureFailed when the namespace or the kernel is not told."""
    netns, boot = _NETNS.search(text), _BOOT.search(text)
    if netns is None or boot is None:
        raise MeasureFailed(what=f"{name} does not tell which network namespace and kernel it has")
    links = {int(index): device for index, device in _LINK.findall(text)}
    return Place(name=name, boot=boot[1], netns=int(netns[1]), links=links)


def why_not(kernel: Kernel) -> str:
    """Why pwru cannot tell anything there, every reason; empty when it can."""
    reasons = []
    if kernel.version is None:
        reasons.append("it does not tell its version")
    elif kernel.version < Version(1, 0):
        reasons.append(
            f"it is {kernel.version}: up to 0.0.9 it filters by --filter-src-ip and its like, which 1.0.0 gave up for "
            f"pcap expressions, and it has no JSON; take {OLDEST} or later"
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
        raise MeasureFailed(what="pwru is asked about a pair of pods only", cause=f"{len(ends)} addresses are known")
    return (
        PROGRAM, "--output-json", "--output-tuple", "--output-meta", "--timestamp", "current",
        "--filter-func", f"^({'|'.join(FUNCTIONS)})$", "--output-limit-lines", str(MOST_EVENTS),
        *(() if netns is None else ("--filter-netns", f"inode:{netns}")),
        f"host {ends[0]} and host {ends[1]}",
    )  # fmt: skip


def parse_pwru(text: str, places: Iterable[Place], *, clock_ns: int | None = None) -> tuple[Movement, ...]:
    """The events in the lab's namespaces as movements, in the order printed; header, log and other namespaces are left
    out. `clock_ns` is wall-clock minus monotonic time of that kernel; without it the movements have no time."""
    by_netns = {place.netns: place for place in places}
    found = (_movement(line.strip(), by_netns, clock_ns) for line in text.splitlines())
    return tuple(movement for movement in found if movement is not None)


def _movement(line: str, places: Mapping[int, Place], clock_ns: int | None) -> Movement | None:
    if not line.startswith("{"):
        return None
    event = object_of(line)
    place, packet = places.get(number_of(event.get("netns"))), event.get("tuple")
    function, time = str(event.get("func", "")), event.get("time")
    # Before 1.0.9 it gives this function's reason to no one: a drop cannot be told from a capture's copy let go.
    if place is None or not isinstance(packet, dict) or _CONSUMED in function or function == _UNTOLD:
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


def _device(iface: str, place: Place) -> str:
    """`eth0:9`: the index counts, since long names are cut on the left (`~c3a6f7d4e8c73:12`)."""
    name, _, index = iface.rpartition(":")
    return place.links.get(int(index), name) if index.isdigit() else iface
