"""What `up` has to show for itself: the lab as it really is, and the mode that it proves to be in.

Where labctl makes the datapath itself a built lab is the planned one, and `check`, `status` and `compare` prove it.
Where others were asked for it (real Cilium), they may have fallen back without a word: that is looked at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labctl.checks.base import Check
from labctl.engine.events import Observer
from labctl.engine.inspect import Sinks
from labctl.engine.prove import differing, prove
from labctl.errors import NotInForce
from labctl.model.lab import Lab
from labctl.model.proof import ModeInForce, Standing
from labctl.providers.base import ProvenWhenBuilt, Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A lab that is up. `lab` has the addresses that the pods have got; `mode` is None where nothing was proven."""

    lab: Lab
    mode: ModeInForce | None


def arrived(provider: Provider, lab: Lab, checks: Mapping[str, Check], sinks: Sinks, observer: Observer) -> Arrived:
    """Looks at a lab that is up. Sends a few packets where the mode has to be proven. Raises MeasureFailed."""
    if not (isinstance(provider, ProvenWhenBuilt) and provider.is_proven_when_built):
        return Arrived(lab=lab, mode=None)
    with provider.open(lab) as open_lab:
        mode = prove(checks, open_lab, sinks, observer).mode if lab.pairs else None
        return Arrived(lab=open_lab.lab, mode=mode)


def refuse_fallback(found: Arrived) -> None:
    """Raises NotInForce when the lab is in another mode than the one asked for, or its mode is not shown. It stays up,
    to be looked at."""
    mode = found.mode
    if mode is None or mode.proven:
        return
    name = found.lab.name
    if mode.standing is Standing.NOT_IN_FORCE:
        what = f"lab {name} is up, and not in the mode that was asked for{differing(mode)}"
    else:
        what = f"lab {name} is up, and it is not shown whether it is in the mode that was asked for"
    look = f"labctl status {name}"
    remedy = f"{mode.remedy}; " if mode.remedy != look else ""
    raise NotInForce(
        what=what,
        cause=mode.reason,
        remedy=f"{remedy}the lab stays up to be looked at ({look}); labctl down {name} takes it away",
    )
