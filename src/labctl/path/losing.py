"""Where a packet went missing, in a sentence: who dropped it, or who saw it last and how it was addressed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.model.movement import Act, Movement, Mover
from labctl.model.path import Direction, Hop, Named, Way
from labctl.path.carried import told


def lost_sentence(hops: Sequence[Hop], after: Sequence[Movement], *, way: Way, source: str) -> str:
    """For a packet that did not reach its pod. `source` is the tap in the pod that should have sent it."""
    if not hops:
        return f"the {way} was never seen, not even at {source}: the pod did not send it"
    last = hops[-1]
    for act in after:
        if act.helper == Act.DROP and act.mover is Mover.PROGRAM:
            return f"the {way} was dropped on {act.node} by {act.what} at {act.device} {act.hook}: {act.reason}"
        if act.helper == Act.DROP:
            return f"the {way} was dropped on {act.node} by netfilter in {act.what}: {act.reason}"
        if act.helper == Act.NOT_LEFT:
            taken = f"the {way} was taken by netfilter on {act.node} in {act.what}"
            return f"{taken}: it entered the hook and did not leave it"
    sentence = f"the {way} was last seen {_doing(last)} {last.tap}"
    sentence += f", addressed to MAC {last.dst_mac.address} ({_whose(last.dst_mac)})"
    if last.envelope is not None:
        wrapped = last.envelope
        sentence = (
            f"the {way} was last seen {_doing(last)} {last.tap} in an envelope to {wrapped.dst.address} "
            f"({wrapped.dst.owner or 'no node of this lab'}), MAC {wrapped.dst_mac.address} ({_whose(wrapped.dst_mac)})"
        )
    said = told(after)
    return f"{sentence}; then {said}, and no tap saw it again" if said else f"{sentence}; no tap saw it after that"


def _doing(hop: Hop) -> str:
    return {Direction.IN: "coming in by", Direction.OUT: "leaving by", None: "at"}[hop.direction]


def _whose(mac: Named) -> str:
    return f"{mac.owner}'s" if mac.owner and "'s " not in mac.owner else mac.owner or "nobody's in this lab"
