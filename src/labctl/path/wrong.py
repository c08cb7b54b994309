"""The hop where a packet's way goes wrong: where it first departs from the expected one, or where it was lost. Pure.

What is expected comes from the lab's facts (which node a pod is on) and from the recorded signature of its mode.
"""

from __future__ import annotations

from collections.abc import Sequence

from labctl.model.lab import Lab, Pair
from labctl.model.path import PacketPath, TraceTap, Way, Wrong
from labctl.path.difference import Difference, DifferenceKind

_CONSEQUENCES = (DifferenceKind.LOST, DifferenceKind.PACKETS, DifferenceKind.BYPASSED)
"""What says that a packet is missing, or that too many are there, says nothing about where that came from."""


def first_wrong(
    lab: Lab, pair: Pair, taps: Sequence[TraceTap], paths: Sequence[PacketPath], found: Sequence[Difference]
) -> Wrong | None:
    """None when every packet arrived and every tap saw what it should."""
    lost = next((path for path in paths if not path.arrived), None)
    departed = _wrong_node(lab, pair, paths) or _departed(found, lost, taps)
    if lost is None:
        return departed
    missing = Wrong(
        way=lost.way, number=lost.number, tap=lost.lost_tap, role=_role(taps, lost.lost_tap), sentence=lost.lost
    )
    came_by = {hop.tap for hop in lost.hops}
    is_before = departed is not None and (departed.way, departed.tap in came_by) == (lost.way, True)
    if departed is None or (not is_before and _place(departed, taps) > _place(missing, taps)):
        return missing
    return Wrong(
        way=departed.way,
        number=departed.number,
        tap=departed.tap,
        role=departed.role,
        sentence=f"{departed.sentence}; {lost.lost}",
    )


def _departed(found: Sequence[Difference], lost: PacketPath | None, taps: Sequence[TraceTap]) -> Wrong | None:
    for one in found:
        if lost is not None and one.kind in _CONSEQUENCES:
            continue
        return Wrong(way=one.way, number=1, tap=one.tap, role=str(one.role), sentence=one.sentence)
    return None


def _wrong_node(lab: Lab, pair: Pair, paths: Sequence[PacketPath]) -> Wrong | None:
    """An envelope to another node than the one that the receiving pod is on."""
    for path in paths:
        pod = pair.server if path.way is Way.REQUEST else pair.client
        for hop in path.hops:
            if hop.envelope is not None and hop.envelope.dst.owner != lab.pod(pod).node:
                address, owner = hop.envelope.dst.address, hop.envelope.dst.owner or "no node of this lab"
                return Wrong(
                    way=path.way,
                    number=path.number,
                    tap=hop.tap,
                    role=str(hop.role),
                    sentence=f"at {hop.tap} the {path.way} is in an envelope to {address} ({owner}), but {pod} is on "
                    f"{lab.pod(pod).node}: the sending node's tunnel map names a wrong VTEP for it",
                )
    return None


def _place(wrong: Wrong, taps: Sequence[TraceTap]) -> tuple[int, int]:
    """Where on the way: requests before replies, then in the order of the taps."""
    order = [tap.name for tap in (taps if wrong.way is Way.REQUEST else taps[::-1])]
    return (0 if wrong.way is Way.REQUEST else 1, order.index(wrong.tap) if wrong.tap in order else -1)


def _role(taps: Sequence[TraceTap], name: str) -> str:
    return next((str(tap.role) for tap in taps if tap.name == name), "")
