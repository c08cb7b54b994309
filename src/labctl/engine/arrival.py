"""A lab that `up` has brought up: as it really is, and the mode that it proves to be in.

It stands alone because a lab that needs no proof should not wait until the proof's modules are read in.
"""

from __future__ import annotations

from collections.abc import Callable

from labctl.errors import NotInForce
from labctl.model.evidence import ModeInForce, Standing
from labctl.model.lab import Lab
from labctl.providers.base import OpenLab, Provider
from labctl.values import dataclass

Prove = Callable[[OpenLab], ModeInForce]
"""Sends a few packets and hears all witnesses. Raises MeasureFailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """`lab` has the addresses that the pods have got; `mode` is None where nothing was proven."""

    lab: Lab
    mode: ModeInForce | None


def arrived(provider: Provider, lab: Lab, prove: Prove) -> Arrived:
    """Looks at a lab that is up, and has its mode proven where it may be another one than was built. Raises
    MeasureFailed."""
    if not provider.capabilities.is_proven_when_built:
        return Arrived(lab=lab, mode=None)
    with provider.open(lab) as open_lab:
        return Arrived(lab=open_lab.lab, mode=prove(open_lab) if lab.pairs else None)


def refuse_fallback(found: Arrived) -> None:
    """Raises NotInForce when the lab is in another mode than the one asked for, or its mode is not shown. It stays up,
    to be looked at."""
    mode = found.mode
    if mode is None or mode.proven:
        return
    name = found.lab.name
    if mode.standing is Standing.NOT_IN_FORCE:
        what = f"lab {name} is up, and not in the mode that was asked for{mode.otherwise}"
    else:
        what = f"lab {name} is up, and it is not shown whether it is in the mode that was asked for"
    look = f"labctl status {name}"
    remedy = f"{mode.remedy}; " if mode.remedy != look else ""
    raise NotInForce(
        what=what,
        cause=mode.reason,
        remedy=f"{remedy}the lab stays up for inspection ({look}); labctl down {name} removes it",
    )
