"""Taps of the way that a packet was not seen at, each with the observed reason where there is one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.model.movement import Act, Movement, Mover
from labctl.model.path import Carriage, Hop, Skipped, TraceTap, Way
from labctl.path.carried import HANDED, REDIRECTS

_NOT_SO_FAR = "the packet did not come this far"


def skipped_taps(
    taps: Sequence[TraceTap], hops: Sequence[Hop], after: Sequence[Movement], *, way: Way
) -> tuple[Skipped, ...]:
    seen = {hop.tap for hop in hops}
    acts = [act for hop in hops for act in hop.moved_by] + list(after)
    found = []
    for tap in taps:
        if tap.name not in seen:
            reason, is_observed = _reason(tap, taps, hops, acts, way)
            found.append(Skipped(tap=tap.name, role=tap.role, reason=reason, is_observed=is_observed))
    return tuple(found)


def _reason(
    tap: TraceTap, taps: Sequence[TraceTap], hops: Sequence[Hop], acts: Sequence[Movement], way: Way
) -> tuple[str, bool]:
    for act in acts:
        if act.node == tap.node and tap.part_kind == "node" and (seen := _kept_off(act, tap.device)):
            return f"never transmitted on {tap.device}: {seen}", True
    for hop in hops:
        for act in hop.moved_by if hop.carriage is Carriage.PROGRAM and hop.tap != tap.name else ():
            if act.helper == Act.TO_ENDPOINT and (act.node, act.target) == (tap.node, tap.device):
                given = f"{act.what} on {act.device} gave it to this endpoint, and the pod had it next"
                return f"never transmitted on {tap.device}: {given}", True
    if not _is_before_last(tap, taps, hops, way):
        return _NOT_SO_FAR, bool(hops)
    for hop in hops:
        if hop.node == tap.node and hop.carriage in (Carriage.PROGRAM, Carriage.KERNEL):
            return f"not on its way: {_past(hop)}", True
    return "nothing was seen here, and no witness said why", False


def _kept_off(act: Movement, device: str) -> str:
    """How this act kept the packet from being transmitted on the device; empty when it did not."""
    if act.helper == Act.REDIRECT_PEER and act.target == device:
        return f"{act.what} on {act.device} moved it into the pod with bpf_redirect_peer"
    if act.mover is not Mover.PROGRAM or act.device != device or act.hook != "egress":
        return ""
    if act.helper in REDIRECTS:
        return f"{act.what} at its egress sent it to {act.target} with {act.helper}"
    return f"{act.what} dropped it: {act.reason}" if act.helper == Act.DROP else ""


def _past(hop: Hop) -> str:
    """How the packet went past the other devices of its node."""
    for act in reversed(hop.moved_by):
        if act.mover is Mover.PROGRAM and act.helper in REDIRECTS:
            return f"{act.what} on {act.device} sent it to {act.target} with {act.helper}"
        if act.mover is Mover.PROGRAM and act.helper in HANDED:
            return f"{act.what} on {act.device} gave it to {act.target} ({act.helper})"
    came = next((act for act in hop.moved_by if act.mover is Mover.NETFILTER), None)
    return f"the kernel forwarded it from {came.device} to {hop.device}" if came else hop.because


def _is_before_last(tap: TraceTap, taps: Sequence[TraceTap], hops: Sequence[Hop], way: Way) -> bool:
    """Whether the tap's part of the way lies before the last place where the packet was seen."""
    order = [one.name for one in (taps if way is Way.REQUEST else taps[::-1])]
    if not hops:
        return False
    return order.index(tap.name) < max(order.index(hop.tap) for hop in hops)
