"""What two readings of a node, before and after known traffic, say about the datapath. Pure.

Each witness makes its claims from what was counted; what was asked for is used only to say whether they agree.
What real Cilium shows is recorded: which helper delivers, which netfilter hooks a packet passes, in each mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from labctl.datapath.layout import Program, Verdict
from labctl.datapath.metrics import Metric, difference
from labctl.model.datapath import Encapsulation, HostRouting
from labctl.model.interfaces import CILIUM_VXLAN
from labctl.model.lab import Lab, Pair, Placement
from labctl.model.proof import Evidence
from labctl.providers.netns.readings import Reading
from labctl.system import netns

_DELIVERING = (Program.FROM_CONTAINER, Program.FROM_HOST, Program.FROM_NETDEV, Program.FROM_OVERLAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One node before and after the traffic of one pair. `lxc` is the device of the pair's pod on it (of the
    client where both are)."""

    before: Reading
    after: Reading
    lxc: str

    @property
    def node(self) -> str:
        return self.after.node

    def counted(self) -> tuple[Metric, ...]:
        return difference(self.before.metrics, self.after.metrics)

    def encapsulation(self) -> Encapsulation:
        """What the node has, whatever it should have: a vxlan device with a program on it, or none."""
        has_programs = any(self.after.filters.get(CILIUM_VXLAN, {}).values())
        return Encapsulation.VXLAN if has_programs else Encapsulation.NATIVE

    def command(self, *argv: str) -> str:
        return " ".join(netns.command(self.after.namespace, argv))


def testify(lab: Lab, pair: Pair, looks: Iterable[Look]) -> tuple[Evidence, ...]:
    """Every witness on every node of the pair."""
    asked = lab.datapath.asked()
    return tuple(
        evidence
        for look in looks
        for evidence in (
            _programs(look, asked),
            _helpers(look, pair, asked),
            _lxc_counters(look, asked),
            _netfilter(look, pair, asked),
            _conntrack(look, lab, pair, asked),
            _burden(look),
        )
    )


def agrees(found: Mapping[str, object], asked: Mapping[str, object]) -> bool | None:
    """Whether what was found is what was asked for; None when nothing was found."""
    return all(asked.get(key) == claim for key, claim in found.items()) if found else None


def _programs(look: Look, asked: Mapping[str, object]) -> Evidence:
    """Attachment tells the encapsulation; it does not tell the host routing modes apart, as with Cilium."""
    attached = [
        f"{name} {direction}: {one.name} (id {one.program_id}, tag {one.tag})"
        for name, hooks in look.after.filters.items()
        for direction, each in hooks.items()
        for one in each
    ]
    found = {"encapsulation": str(look.encapsulation())} if attached else {}
    return Evidence(
        witness="programs",
        where=look.node,
        finding=f"{len(attached)} programs are attached: {'; '.join(attached)}"
        if attached
        else "no program is attached",
        supports=agrees(found, asked) if attached else False,
        command=f"tc -n {look.after.namespace} filter show dev {look.lxc} ingress",
        found=found,
    )


def _helpers(look: Look, pair: Pair, asked: Mapping[str, object]) -> Evidence:
    """Which helper moved the packets: the programs count each packet by what they did with it."""
    counted = [metric for metric in look.counted() if metric.verdict is not Verdict.ARP_REPLY]
    delivered = [metric for metric in counted if metric.program in _DELIVERING]

    def packets(verdict: Verdict) -> int:
        return sum(metric.packets for metric in delivered if metric.verdict is verdict)

    by_peer, plainly = packets(Verdict.REDIRECT_PEER), packets(Verdict.REDIRECT)
    found: dict[str, object] = {}
    if by_peer and not plainly:
        found["hostRouting"] = str(HostRouting.BPF)
    elif plainly and not by_peer:
        found["hostRouting"] = str(HostRouting.LEGACY)
    if packets(Verdict.TUNNEL):
        found["encapsulation"] = str(Encapsulation.VXLAN)
    elif delivered and pair.placement is Placement.CROSS_NODE:
        found["encapsulation"] = str(Encapsulation.NATIVE)
    mixed = bool(by_peer and plainly)
    finding = "; ".join(metric.words for metric in _over_devices(counted)) or "the programs counted no packet"
    return Evidence(
        witness="helpers",
        where=look.node,
        finding=finding + (f"; {by_peer} went by bpf_redirect_peer and {plainly} did not" if mixed else ""),
        supports=False if mixed or not counted else agrees(found, asked),
        command=f"bpftool map dump id {look.after.metrics_map}" if look.after.metrics_map is not None else "",
        found=found,
    )


def _over_devices(counted: Iterable[Metric]) -> tuple[Metric, ...]:
    """One counter for each program and verdict, whichever devices it ran on."""
    sums: dict[tuple[Program, Verdict], Metric] = {}
    for metric in counted:
        so_far = sums.get((metric.program, metric.verdict))
        if so_far is not None:
            packets, size = metric.packets + so_far.packets, metric.bytes + so_far.bytes
            metric = replace(metric, packets=packets, bytes=size)
        sums[metric.program, metric.verdict] = metric
    return tuple(sums.values())


def _lxc_counters(look: Look, asked: Mapping[str, object]) -> Evidence:
    """Legacy sends to the pod out of its lxc; bpf_redirect_peer goes past it, so the lxc never sends."""
    before, after = look.before.links.get(look.lxc), look.after.links.get(look.lxc)
    command = f"ip -n {look.after.namespace} -s link show {look.lxc}"
    if before is None or after is None:
        return Evidence(
            witness="lxc-counters", where=look.node, finding=f"{look.lxc} is gone", supports=False, command=command
        )
    answered = sum(
        metric.packets
        for metric in look.counted()
        if metric.verdict is Verdict.ARP_REPLY and metric.ifindex == after.index
    )
    from_pod = after.rx_packets - before.rx_packets
    to_pod = after.tx_packets - before.tx_packets - answered
    found: dict[str, object] = {}
    if from_pod > answered:
        found["hostRouting"] = str(HostRouting.LEGACY if to_pod > 0 else HostRouting.BPF)
    return Evidence(
        witness="lxc-counters",
        where=look.node,
        finding=f"{look.lxc} took {from_pod} packets from its pod and sent it {to_pod} (ARP answers not counted)",
        supports=agrees(found, asked),
        command=command,
        found=found,
    )


def _netfilter(look: Look, pair: Pair, asked: Mapping[str, object]) -> Evidence:
    """Only Legacy with native routing, between nodes, takes packets through the FORWARD hook."""
    forwarded = look.after.netfilter.forwarded - look.before.netfilter.forwarded
    tells = pair.placement is Placement.CROSS_NODE and look.encapsulation() is Encapsulation.NATIVE
    found: dict[str, object] = (
        {"hostRouting": str(HostRouting.LEGACY if forwarded else HostRouting.BPF)} if tells else {}
    )
    finding = f"the FORWARD hook passed {forwarded} packets"
    if not tells:
        finding += ", as in both modes here" if not forwarded else ", and in neither mode it should have passed any"
    return Evidence(
        witness="netfilter",
        where=look.node,
        finding=finding,
        supports=agrees(found, asked) if tells else (False if forwarded else None),
        command=look.command("iptables", "-t", "mangle", "-nvxL", "FORWARD"),
        found=found,
    )


def _conntrack(look: Look, lab: Lab, pair: Pair, asked: Mapping[str, object]) -> Evidence:
    """A packet that the stack forwards leaves an entry with the pods' addresses; one that eBPF forwards does not."""
    addresses = {lab.pod(pair.client).address, lab.pod(pair.server).address}
    entries = [entry for entry in look.after.connections if {entry.source, entry.destination} == addresses]
    tells = pair.placement is Placement.CROSS_NODE and look.encapsulation() is Encapsulation.NATIVE
    found: dict[str, object] = {"hostRouting": str(HostRouting.LEGACY if entries else HostRouting.BPF)} if tells else {}
    count = len(entries) or "no"
    return Evidence(
        witness="conntrack",
        where=look.node,
        finding=f"conntrack has {count} {'entry' if len(entries) == 1 else 'entries'} of the pair",
        supports=agrees(found, asked) if tells else (False if entries else None),
        command=look.command("conntrack", "-L", "-s", str(lab.pod(pair.client).address)),
        found=found,
    )


def _burden(look: Look) -> Evidence:
    """Not about the mode: how much netfilter there is to go round, since the size of the effect depends on it."""
    return Evidence(
        witness="netfilter-rules",
        where=look.node,
        finding=f"{look.after.netfilter.rules} iptables rules are installed, and connections are tracked",
        supports=None,
        command=look.command("iptables-save", "-c"),
    )
