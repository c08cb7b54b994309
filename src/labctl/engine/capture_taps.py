"""Which taps a `labctl capture` means: by name, pod, node, device or role; without any, those of the lab's pairs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from labctl.errors import UsageError
from labctl.model.lab import Lab, Pair, Placement
from labctl.providers.base import OpenLab, Tap


def chosen_taps(open_lab: OpenLab, names: Sequence[str]) -> tuple[Tap, ...]:
    """Raises UsageError with a suggestion for a name that is no tap of the lab."""
    known = known_taps(open_lab)
    if not names:
        of_pairs = {tap.name for pair in open_lab.lab.pairs for tap in open_lab.taps(pair)}
        return tuple(tap for tap in known if tap.name in of_pairs) or known
    chosen: dict[str, Tap] = {}
    for name in names:
        found = [tap for tap in known if name in _names(tap)]
        if not found:
            raise _unknown(open_lab.lab, name, known)
        chosen.update((tap.name, tap) for tap in found)
    return tuple(chosen.values())


def known_taps(open_lab: OpenLab) -> tuple[Tap, ...]:
    """Every tap on the way of any two pods, once. The lab's own pairs go first and give the roles."""
    taps: dict[str, Tap] = {}
    for pair in (*open_lab.lab.pairs, *_all_pods(open_lab.lab)):
        for tap in open_lab.taps(pair):
            taps.setdefault(tap.name, tap)
    return tuple(taps.values())


def _all_pods(lab: Lab) -> tuple[Pair, ...]:
    """Pairs such that every pod is in one."""
    if len(lab.pods) < 2:
        return ()
    first = lab.pods[0]
    return tuple(
        Pair(
            client=first.name,
            server=pod.name,
            placement=Placement.SAME_NODE if pod.node == first.node else Placement.CROSS_NODE,
        )
        for pod in lab.pods[1:]
    )


def _names(tap: Tap) -> tuple[str, ...]:
    """What a tap may be called: `node1:eth0`, its part `node1`, its device `cilium_vxlan`, its role."""
    part, _, device = tap.name.rpartition(":")
    return tap.name, part, device, str(tap.role)


def _unknown(lab: Lab, name: str, known: Sequence[Tap]) -> UsageError:
    words = list(dict.fromkeys(word for tap in known for word in _names(tap)))
    near = difflib.get_close_matches(name, words, n=1)
    return UsageError(
        what=f"lab {lab.name} has no tap named {name}",
        cause=f"its taps are: {', '.join(tap.name for tap in known)}",
        remedy=f"did you mean {near[0]}?" if near else f"labctl capture {lab.name} --list",
    )
