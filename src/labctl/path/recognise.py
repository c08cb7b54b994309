"""Says which host routing mode an observed signature shows. Looks at nothing else: not at what was asked for.

Two observations tell the modes apart, and each is taken for each half of the exchange:

- delivery: a packet that is *transmitted* on the pod's lxc was handed over by `bpf_redirect` (Legacy); one that appears
  in the pod without having been seen on the lxc came through `bpf_redirect_peer` (BPF). Silence counts only where the
  same tap saw the other half, which proves that it can see.
- hops on the sending node, with native routing: two off the TTL mean that the kernel's forwarding took part beside the
  eBPF program (Legacy), one means that it did not (BPF).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from labctl.model.datapath import Datapath, Encapsulation, HostRouting
from labctl.model.proof import Evidence
from labctl.model.result import CheckResult
from labctl.model.signature import Role, Seen, Signature
from labctl.path.sighting import Way


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One observation and the mode that it speaks for."""

    host_routing: HostRouting
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """The mode that the observations agree on; None when there are none or they contradict each other."""

    host_routing: HostRouting | None
    because: str
    observations: tuple[Observation, ...]


def recognise(signature: Signature) -> Recognised:
    """The host routing mode that was at work when this signature was taken."""
    observations = tuple(_observations(signature))
    modes = {observation.host_routing for observation in observations}
    if not modes:
        return Recognised(
            host_routing=None,
            because="no packet was seen to reach a pod, so nothing tells the modes apart",
            observations=(),
        )
    if len(modes) > 1:
        each = "; ".join(f"{observation.because} ({observation.host_routing})" for observation in observations)
        return Recognised(
            host_routing=None, because=f"the observations contradict each other: {each}", observations=observations
        )
    return Recognised(
        host_routing=modes.pop(),
        because="; ".join(observation.because for observation in observations),
        observations=observations,
    )


def recognise_encapsulation(signature: Signature) -> Encapsulation | None:
    """How the packets crossed from node to node, by the uplinks; None when none was seen there."""
    sights = {sight.role: sight for sight in signature.taps}
    on_wire = [
        seen
        for role in (Role.CLIENT_UPLINK, Role.SERVER_UPLINK)
        if role in sights
        for seen in (sights[role].request, sights[role].reply)
        if seen is not None
    ]
    kinds = {Encapsulation.VXLAN if seen.outer is not None else Encapsulation.NATIVE for seen in on_wire}
    return kinds.pop() if len(kinds) == 1 else None


def signature_evidence(result: CheckResult, datapath: Datapath, lab: str) -> Evidence:
    """What the packets of one tcpdump check of a lab testify. What was asked for is read only to say whether that
    supports it.

    One observation of the other mode is enough to contradict, even if another one speaks for the mode asked for.
    """
    where = f"{result.client} → {result.server} ({result.placement})"
    signature = result.signature
    if signature is None:
        return Evidence(
            witness="signature", where=where, finding=f"no signature could be taken: {result.reason}", supports=None
        )
    recognised, encapsulation = recognise(signature), recognise_encapsulation(signature)
    found: dict[str, object] = {}
    claims: list[bool] = [seen.host_routing is datapath.host_routing for seen in recognised.observations]
    if recognised.host_routing is not None:
        found["hostRouting"] = str(recognised.host_routing)
    finding = recognised.because
    if encapsulation is not None:
        found["encapsulation"] = str(encapsulation)
        claims.append(encapsulation is datapath.encapsulation)
        finding += f"; between the nodes the packets were {_ON_WIRE[encapsulation]}"
    node, _, lxc = next((s.tap for s in signature.taps if s.role is Role.SERVER_LXC), "").rpartition(":")
    return Evidence(
        witness="signature",
        where=where,
        finding=finding,
        supports=all(claims) if claims else None,
        command=f"labctl exec {lab} {node} -- tcpdump -nei {lxc} icmp" if node else "",
        found=found,
    )


_ON_WIRE = {Encapsulation.VXLAN: "inside VXLAN", Encapsulation.NATIVE: "as the pods sent them"}


def _observations(signature: Signature) -> Iterator[Observation]:
    requests = {sight.role: sight.request for sight in signature.taps}
    replies = {sight.role: sight.reply for sight in signature.taps}
    lxc, eth0 = (Role.SERVER_LXC, Role.CLIENT_LXC), (Role.SERVER_ETH0, Role.CLIENT_ETH0)
    if lxc[0] in requests and requests.get(eth0[0]) is not None:
        yield from _delivery("server", Way.REQUEST, requests[lxc[0]], replies[lxc[0]])
    if lxc[1] in replies and replies.get(eth0[1]) is not None:
        yield from _delivery("client", Way.REPLY, replies[lxc[1]], requests[lxc[1]])
    yield from _hops("client", Way.REQUEST, requests.get(Role.CLIENT_ETH0), requests.get(Role.CLIENT_UPLINK))
    yield from _hops("server", Way.REPLY, replies.get(Role.SERVER_ETH0), replies.get(Role.SERVER_UPLINK))


def _delivery(pod: str, way: Way, on_lxc: Seen | None, other_half: Seen | None) -> Iterator[Observation]:
    if on_lxc is not None:
        yield Observation(
            host_routing=HostRouting.LEGACY,
            because=f"the {pod}'s lxc transmitted the {way}, as bpf_redirect does",
        )
    elif other_half is not None:
        yield Observation(
            host_routing=HostRouting.BPF,
            because=f"the {way} appeared in the {pod} pod and never on its lxc, as with bpf_redirect_peer",
        )


def _hops(pod: str, way: Way, sent: Seen | None, on_wire: Seen | None) -> Iterator[Observation]:
    if sent is None or on_wire is None or on_wire.outer is not None:
        return
    hops = sent.ttl - on_wire.ttl
    if hops == 2:
        yield Observation(
            host_routing=HostRouting.LEGACY,
            because=f"the {way} lost 2 hops on the {pod}'s node: the kernel's forwarding took part",
        )
    elif hops == 1:
        yield Observation(
            host_routing=HostRouting.BPF,
            because=f"the {way} lost 1 hop on the {pod}'s node: the kernel's forwarding was not asked",
        )
