"""What two readings of a node, before and after known traffic, say about the datapath. Pure.

Each witness makes its claims from what was counted; what was asked for is used only to say whether they agree. A claim
needs something that was seen: a packet that a helper moved, that the lxc sent, that came through FORWARD. That nothing
was seen somewhere is a claim only where the same packets are known to have arrived (`NodeReadings.arrived`). What real
Cilium shows is recorded: which helper delivers, which netfilter hooks a packet passes, in each mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from labctl.datapath.layout import PacketVerdict, Program, ProgramCounter, difference
from labctl.model.evidence import UNCLEAR, Evidence, Silence
from labctl.model.interfaces import CILIUM_GENEVE, CILIUM_VXLAN, cilium_tunnel
from labctl.model.lab import Encapsulation, HostRouting, Lab, Pair, Placement
from labctl.networks.base import NodeReadings
from labctl.providers.netns.counters import Unread
from labctl.providers.netns.kinds.program import Direction

_DELIVERING = (Program.FROM_CONTAINER, Program.FROM_HOST, Program.FROM_NETDEV, Program.FROM_OVERLAY)


def testify(lab: Lab, pair: Pair, looks: Iterable[NodeReadings]) -> tuple[Evidence, ...]:
    """Every witness on every node of the pair."""
    asked = lab.in_force.asked()
    return tuple(
        evidence
        for look in looks
        for evidence in (
            _programs(look, asked),
            _helpers(look, pair, asked),
            _lxc_counters(look, asked),
            _netfilter(look, lab, pair, asked),
            _conntrack(look, lab, pair, asked),
            _burden(look),
        )
    )


def _encapsulation(look: NodeReadings) -> Encapsulation | None:
    """What the node has, whatever it should have: a tunnel's device with a program on it, or no such device. A device
    without a program is neither."""
    for encapsulation in (Encapsulation.VXLAN, Encapsulation.GENEVE):
        if any(look.after.filters.get(cilium_tunnel(encapsulation), {}).values()):
            return encapsulation
    return None if {CILIUM_VXLAN, CILIUM_GENEVE} & look.after.links.keys() else Encapsulation.NATIVE


def _counted(look: NodeReadings) -> tuple[ProgramCounter, ...]:
    before, after = look.before.metrics, look.after.metrics
    return () if isinstance(before, Unread) or isinstance(after, Unread) else difference(before, after)


def _has_arrived(look: NodeReadings) -> bool:
    return not isinstance(look.arrived, Unread) and look.arrived > 0


def agrees(found: Mapping[str, object], asked: Mapping[str, object]) -> bool | None:
    """Whether what was found is what was asked for; None when nothing was found."""
    return all(asked.get(key) == claim for key, claim in found.items()) if found else None


def _programs(look: NodeReadings, asked: Mapping[str, object]) -> Evidence:
    """Attachment shows the encapsulation; it is the same in both host routing modes, as with Cilium."""
    attached = [
        f"{name} {direction}: {one.name} (id {one.program_id}, tag {one.tag})"
        for name, hooks in look.after.filters.items()
        for direction, each in hooks.items()
        for one in each
    ]
    encapsulation = _encapsulation(look)
    lacking = _lacking(look) if attached else "no program is attached"
    found = {} if lacking or encapsulation is None else {"encapsulation": str(encapsulation)}
    count = "1 program is attached" if len(attached) == 1 else f"{len(attached)} programs are attached"
    return Evidence(
        witness="programs",
        where=look.after.node,
        finding=lacking or f"{count}: {'; '.join(attached)}",
        supports=agrees(found, asked),
        command=f"tc -n {look.after.namespace} filter show dev {look.pod.lxc} ingress",
        found=found,
        silence=Silence.ABSENT if lacking else None,
    )


def _lacking(look: NodeReadings) -> str:
    """What the pair's packets need on the node and is missing; "" where nothing is."""
    if look.pod.lxc not in look.after.links:
        return f"{look.pod.lxc} is gone"
    if not look.after.filters.get(look.pod.lxc, {}).get(Direction.INGRESS):
        return f"no program is attached to {look.pod.lxc}, so that the datapath does not see what its pod sends"
    if _encapsulation(look) is None:
        there = CILIUM_GENEVE if CILIUM_GENEVE in look.after.links else CILIUM_VXLAN
        return f"no program is attached to {there}, so that the datapath does not see what comes out of it"
    return ""


def _helpers(look: NodeReadings, pair: Pair, asked: Mapping[str, object]) -> Evidence:
    """Which helper moved the packets: the programs count each packet by what they did with it."""
    command = f"bpftool map dump id {look.after.metrics_map}" if look.after.metrics_map is not None else ""
    for metrics in (look.before.metrics, look.after.metrics):
        if isinstance(metrics, Unread):
            return _unread("helpers", look, "the programs' counters", metrics, command)
    counted = [metric for metric in _counted(look) if metric.verdict is not PacketVerdict.ARP_REPLY]
    delivered = [metric for metric in counted if metric.program in _DELIVERING]

    def packets(*verdicts: PacketVerdict, by: tuple[Program, ...] = _DELIVERING) -> int:
        return sum(metric.packets for metric in delivered if metric.verdict in verdicts and metric.program in by)

    by_peer, plainly = packets(PacketVerdict.REDIRECT_PEER), packets(PacketVerdict.REDIRECT)
    found: dict[str, object] = {}
    if by_peer and not plainly:
        found["hostRouting"] = str(HostRouting.BPF)
    elif plainly and not by_peer:
        found["hostRouting"] = str(HostRouting.LEGACY)
    bare = packets(PacketVerdict.REDIRECT_PEER, PacketVerdict.REDIRECT, by=(Program.FROM_NETDEV,))
    bare += packets(PacketVerdict.REDIRECT_NEIGH, by=(Program.FROM_CONTAINER,))
    if packets(PacketVerdict.TUNNEL):
        is_geneve = CILIUM_GENEVE in look.after.links
        found["encapsulation"] = str(Encapsulation.GENEVE if is_geneve else Encapsulation.VXLAN)
    elif bare and pair.placement is Placement.CROSS_NODE:
        found["encapsulation"] = str(Encapsulation.NATIVE)
    mixed = bool(by_peer and plainly)
    if mixed:
        found["hostRouting"] = UNCLEAR
    findings = [metric.words for metric in _over_devices(counted)] or ["the programs counted no packet"]
    if mixed:
        findings.append(f"{by_peer} went by bpf_redirect_peer and {plainly} did not")
    return Evidence(
        witness="helpers",
        where=look.after.node,
        finding="; ".join(findings),
        supports=agrees(found, asked),
        command=command,
        found=found,
    )


def _unread(witness: str, look: NodeReadings, what: str, unread: Unread, command: str) -> Evidence:
    return Evidence(
        witness=witness,
        where=look.after.node,
        finding=f"{what} could not be read: {unread.why}",
        supports=None,
        command=command,
        silence=Silence.UNREAD,
    )


def _over_devices(counted: Iterable[ProgramCounter]) -> tuple[ProgramCounter, ...]:
    """One counter for each program and verdict, whichever devices it ran on."""
    sums: dict[tuple[Program, PacketVerdict], ProgramCounter] = {}
    for metric in counted:
        so_far = sums.get((metric.program, metric.verdict))
        if so_far is not None:
            packets, size = metric.packets + so_far.packets, metric.bytes + so_far.bytes
            metric = replace(metric, packets=packets, bytes=size)
        sums[metric.program, metric.verdict] = metric
    return tuple(sums.values())


def _lxc_counters(look: NodeReadings, asked: Mapping[str, object]) -> Evidence:
    """Legacy sends to the pod out of its lxc; bpf_redirect_peer goes past it, so the lxc never sends. Which of the two
    it was shows in the packets that came to the pod: as many as the lxc sent, or more than twice that (the kernel's
    own ARP requests are among those of the lxc)."""
    before, after = look.before.links.get(look.pod.lxc), look.after.links.get(look.pod.lxc)
    command = f"ip -n {look.after.namespace} -s link show {look.pod.lxc}"
    if before is None or after is None or before.index != after.index:
        finding = f"{look.pod.lxc} is gone" if after is None else f"{look.pod.lxc} was recreated meanwhile"
        return Evidence(
            witness="lxc-counters",
            where=look.after.node,
            finding=finding,
            supports=None,
            command=command,
            silence=Silence.ABSENT if after is None else None,
        )
    if isinstance(look.arrived, Unread):
        return _unread("lxc-counters", look, "the count of the pod's packets", look.arrived, command)
    answered = sum(
        metric.packets
        for metric in _counted(look)
        if metric.verdict is PacketVerdict.ARP_REPLY and metric.ifindex == after.index
    )
    from_pod = after.rx_packets - before.rx_packets
    to_pod = after.tx_packets - before.tx_packets - answered
    found: dict[str, object] = {}
    if look.arrived > 1 and to_pod >= look.arrived:
        found["hostRouting"] = str(HostRouting.LEGACY)
    elif look.arrived > 2 * to_pod:
        found["hostRouting"] = str(HostRouting.BPF)
    return Evidence(
        witness="lxc-counters",
        where=look.after.node,
        finding=f"{look.pod.lxc} took {from_pod} packets from its pod and sent it {to_pod} (ARP answers not counted); "
        f"{look.arrived} IP packets came to the pod",
        supports=agrees(found, asked),
        command=command,
        found=found,
    )


def _netfilter(look: NodeReadings, lab: Lab, pair: Pair, asked: Mapping[str, object]) -> Evidence:
    """Only Legacy with native routing, between nodes, takes packets through the FORWARD hook."""
    command = look.after.command("iptables", "-t", "mangle", "-nvxL", "FORWARD")
    forwarded = _grown_forwarding(look)
    if isinstance(forwarded, Unread):
        return _unread("netfilter", look, "the FORWARD hook's counter", forwarded, command)
    tells = pair.placement is Placement.CROSS_NODE and _encapsulation(look) is Encapsulation.NATIVE
    found: dict[str, object] = {}
    finding = f"the FORWARD hook passed {forwarded} packets"
    if not lab.is_between_pods(pair):  # what goes to nodes and to the outside passes it in more than one mode
        return Evidence(
            witness="netfilter", where=look.after.node, finding=finding, supports=None, command=command, found=found
        )
    if forwarded:
        found["hostRouting"] = str(HostRouting.LEGACY)
        if not tells:
            finding = f"the FORWARD hook passed {forwarded} packets, though it should pass none here in either mode"
    elif tells and _has_arrived(look):
        found["hostRouting"] = str(HostRouting.BPF)
        finding = f"the FORWARD hook passed {forwarded} packets, and {look.arrived} came to the pod"
    elif not tells:
        finding = f"the FORWARD hook passed {forwarded} packets, as in both modes here"
    return Evidence(
        witness="netfilter",
        where=look.after.node,
        finding=finding,
        supports=agrees(found, asked),
        command=command,
        found=found,
    )


def _grown_forwarding(look: NodeReadings) -> int | Unread:
    counts = []
    for one in (look.before.netfilter, look.after.netfilter):
        if isinstance(one, Unread):
            return one
        if one.forwarded is None:
            return Unread(why="iptables-save shows no FORWARD chain in the table mangle")
        counts.append(one.forwarded)
    before, after = counts
    return after - before if after >= before else Unread(why="the counter was reset meanwhile")


def _conntrack(look: NodeReadings, lab: Lab, pair: Pair, asked: Mapping[str, object]) -> Evidence:
    """A packet that the stack forwards makes an entry with the pods' addresses. That there is none does not prove that
    eBPF forwarded it: rules may keep packets from being tracked, entries end, and some were there before."""
    command = look.after.command("conntrack", "-L", "-s", str(lab.client(pair).address))
    addresses = {lab.client(pair).address, lab.server(pair).address}
    counts = []
    for connections in (look.before.connections, look.after.connections):
        if isinstance(connections, Unread):
            return _unread("conntrack", look, "the connections", connections, command)
        counts.append(sum({entry.source, entry.destination} == addresses for entry in connections))
    before, after = counts
    is_telling = after > before and lab.is_between_pods(pair)
    found: dict[str, object] = {"hostRouting": str(HostRouting.LEGACY)} if is_telling else {}
    entries = "1 entry" if after == 1 else f"{after} entries" if after else "no entries"
    if before and after >= before:
        finding = f"conntrack has {entries} of the pair, {before} of them from before"
    else:
        finding = f"conntrack has {entries} of the pair"
    return Evidence(
        witness="conntrack",
        where=look.after.node,
        finding=finding,
        supports=agrees(found, asked),
        command=command,
        found=found,
    )


def _burden(look: NodeReadings) -> Evidence:
    """Not about the mode: how much netfilter BPF host routing bypasses, since the size of the effect depends on it."""
    netfilter, command = look.after.netfilter, look.after.command("iptables-save", "-c")
    if isinstance(netfilter, Unread):
        return _unread("netfilter-rules", look, "the iptables rules", netfilter, command)
    return Evidence(
        witness="netfilter-rules",
        where=look.after.node,
        finding=f"{netfilter.rules} iptables rules are installed, and connections are tracked",
        supports=None,
        command=command,
    )
