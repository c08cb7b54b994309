"""Which netfilter hooks and which conntrack entries each mode should show, and what they teach. Judges, pure.

What should be seen is what was measured with eBPF datapaths of both kinds and recorded on real Cilium: only Legacy with
native routing takes pods' packets through the nodes' netfilter; with vxlan it sees the envelope.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from labctl.checks.findings import finding
from labctl.checks.hooks import HOOKS, Connection, Counts, Layer, Way
from labctl.model.datapath import Datapath, Encapsulation, HostRouting
from labctl.model.lab import Placement
from labctl.model.result import Finding

_PLURAL = {Way.REQUEST: "requests", Way.REPLY: "replies"}
_FORWARDED = ("PREROUTING", "FORWARD", "POSTROUTING")
_SENT = ("OUTPUT", "POSTROUTING")
_RECEIVED = ("PREROUTING", "INPUT")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLook:
    """What one node showed. `is_client` and `is_server`: whose node it is. `pair` and `envelopes` are the conntrack
    entries that came while the packets went through; the commands show counters and entries by hand."""

    node: str
    is_client: bool
    is_server: bool
    counts: Counts
    pair: tuple[Connection, ...]
    envelopes: tuple[Connection, ...]
    counters_command: Sequence[str] = ()
    pair_command: Sequence[str] = ()
    envelopes_command: Sequence[str] = ()


def expected_hooks(datapath: Datapath, placement: Placement, look: NodeLook, layer: Layer, way: Way) -> tuple[str, ...]:
    """The hooks that every packet of that kind should pass on that node."""
    if placement is Placement.SAME_NODE:
        return ()
    is_native = datapath.encapsulation is Encapsulation.NATIVE
    if layer is Layer.INNER:
        return _FORWARDED if is_native and datapath.host_routing is HostRouting.LEGACY else ()
    if is_native:
        return ()
    sends = look.is_client if way is Way.REQUEST else look.is_server
    return _SENT if sends else _RECEIVED


def judge_node(
    datapath: Datapath, placement: Placement, look: NodeLook, packets: Mapping[Way, int]
) -> Iterator[Finding]:
    """The hooks that the pods' packets passed, those that the envelopes passed, and conntrack's entries."""
    yield _hooks(datapath, placement, look, packets, Layer.INNER)
    if datapath.encapsulation is Encapsulation.VXLAN and placement is Placement.CROSS_NODE:
        yield _hooks(datapath, placement, look, packets, Layer.OUTER)
    yield _pair_entry(datapath, placement, look)
    if datapath.encapsulation is Encapsulation.VXLAN and placement is Placement.CROSS_NODE:
        yield _envelope_entries(look)


def _hooks(
    datapath: Datapath, placement: Placement, look: NodeLook, packets: Mapping[Way, int], layer: Layer
) -> Finding:
    holds, parts = True, []
    for way in Way:
        counts = look.counts.get((layer, way), {})
        should = expected_hooks(datapath, placement, look, layer, way)
        holds &= all(counts.get(hook, 0) == (packets[way] if hook in should else 0) for hook in HOOKS)
        passed = ", ".join(f"{hook} {counts[hook]}" for hook in HOOKS if counts.get(hook)) or "no hook"
        wanted = f"{packets[way]} at {', '.join(should)}" if should else "none"
        parts.append(f"{packets[way]} {_PLURAL[way]} passed {passed} (expected {wanted})")
    what = "the pods' packets" if layer is Layer.INNER else "the envelopes"
    return finding(
        f"hooks-{layer}-{look.node}",
        holds=holds,
        sentence=f"{look.node}, {what}: {'; '.join(parts)}",
        lesson=_hooks_lesson(datapath, placement, layer),
        command=look.counters_command,
    )


def _hooks_lesson(datapath: Datapath, placement: Placement, layer: Layer) -> str:
    if layer is Layer.OUTER:
        return (
            "The envelope is an ordinary UDP packet of the node: OUTPUT where it is sent, INPUT where it is received, "
            "never FORWARD."
        )
    if placement is Placement.SAME_NODE:
        return (
            "Between two pods of one node the eBPF program redirects from lxc to lxc or pod: netfilter sees nothing, "
            "in both modes."
        )
    if datapath.encapsulation is Encapsulation.VXLAN:
        return "The pods' packets go into their envelope before the node's netfilter could see them, in both modes."
    if datapath.host_routing is HostRouting.LEGACY:
        return (
            "Legacy hands the packet to the node's stack, which forwards it: every iptables rule on the way costs "
            "every packet of every pod."
        )
    return "BPF host routing sends the packet on from the eBPF program: the node's netfilter is gone round."


def _pair_entry(datapath: Datapath, placement: Placement, look: NodeLook) -> Finding:
    is_expected = (
        datapath.host_routing is HostRouting.LEGACY
        and datapath.encapsulation is Encapsulation.NATIVE
        and placement is Placement.CROSS_NODE
    )
    return finding(
        f"conntrack-pair-{look.node}",
        holds=bool(look.pair) is is_expected,
        sentence=f"{look.node}: {_listed(look.pair)} of the pods came into conntrack "
        f"(expected {'one' if is_expected else 'none'})",
        lesson="What the stack forwards, conntrack tracks: the table can fill up, and NAT is possible."
        if is_expected
        else "What eBPF forwards leaves no trace in the kernel's conntrack; Cilium keeps a table of its own.",
        command=look.pair_command,
    )


def _envelope_entries(look: NodeLook) -> Finding:
    unreplied = [entry for entry in look.envelopes if not entry.is_replied]
    return finding(
        f"conntrack-envelopes-{look.node}",
        holds=len(look.envelopes) >= 2 and len(unreplied) == len(look.envelopes),
        sentence=f"{look.node}: conntrack has {_listed(look.envelopes)} of the envelopes",
        lesson="Both ways go TO the VXLAN port, from a hashed one: a reply's envelope is no answer to the request's. "
        "So there is an entry each way, and neither ever sees an answer.",
        command=look.envelopes_command,
    )


def _listed(entries: Iterable[Connection]) -> str:
    words = [entry.words for entry in entries]
    noun = "entry" if len(words) == 1 else "entries"
    return f"{len(words)} {noun} ({'; '.join(words[:4])})" if words else "no entry"
