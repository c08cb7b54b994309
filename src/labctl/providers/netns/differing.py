"""What of some parts of a running lab is not as its plan has it, as far as it can lose packets or send them astray.

For `labctl trace`, which names it where a packet is lost: the differences of `labctl diff`, of the parts on the way
alone. The lab as it would be without the faults of its scenario is what is held against: a fault has to be found by
looking. It stands alone because a trace needs it only at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from labctl.drift.compare import compare
from labctl.model.drift import Change, Difference
from labctl.model.lab import Lab
from labctl.names import namespace_of
from labctl.providers.netns.kinds.base import ObjectKind
from labctl.providers.netns.kinds.plugin import PluginsAdd
from labctl.providers.netns.reading import read, wanted

_TOLD_ELSEWHERE = frozenset({ObjectKind.RULE, ObjectKind.CHAIN, ObjectKind.PROCESS, ObjectKind.IMPAIRMENT})
"""The trace names the rule that drops, and says what is impaired."""


def differing(lab: Lab, parts: Sequence[str]) -> tuple[str, ...]:
    """Each difference as a sentence (`node1: sysctl net.ipv4.ip_forward is 0, not 1`), in the order of the parts. What
    cannot be read is left out."""
    asked = wanted(replace(lab, datapath=replace(lab.datapath, faults=())))
    # Of what plugins made besides, the plan says nothing.
    has_plugins = any(isinstance(action, PluginsAdd) for action in asked.actions)
    places = dict.fromkeys(namespace_of(lab.name, part) for part in parts)
    found = [one.difference for one in compare(asked, read(asked, places), places) if not one.is_explained]
    told = [
        one for one in found if one.kind not in _TOLD_ELSEWHERE and not (has_plugins and one.change is Change.EXTRA)
    ]
    order = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    return tuple(dict.fromkeys(map(Difference.words, sorted(told, key=lambda one: order.get(one.part, len(order))))))
