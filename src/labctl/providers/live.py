"""Of the provider seam what is done to a lab that is up: changing it on purpose, and keeping it for after a boot.

Part of `base`, which has the names of this module too: whoever uses the seam imports that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from labctl.values import dataclass

if TYPE_CHECKING:  # typing only: keeps `labctl list` fast
    from labctl.errors import LabError
    from labctl.model.changes import Changes, Power
    from labctl.model.fault import FaultSite, FaultText
    from labctl.model.impairment import Impairment
    from labctl.model.lab import Lab, Pair
    from labctl.model.links import LinkState
    from labctl.model.snapshot import ExtraAddress


class Changing(Protocol):
    """For changing a lab that is up, on purpose. What is changed is recorded, apart from the record of the lab as it
    was built; an act that was cut off is finished by `settle`."""

    def changes(self, lab: Lab) -> Changes: ...

    def settle(self, lab: Lab) -> tuple[str, ...]:
        """Finishes what killed commands had begun, each named. Raises StepFailed."""
        ...

    def restore(self, lab: Lab, changes: Changes) -> tuple[tuple[str, LabError], ...]:
        """Makes those changes, and no others, in a lab that was just built; gives each that could not be made, with
        why. One that is cut off is finished by `settle`."""
        ...

    def links(self, lab: Lab) -> tuple[LinkState, ...]:
        """Every link as it is now. Raises UsageError where the provider has none that labctl can see."""
        ...

    def set_link(self, lab: Lab, names: Sequence[str], *, is_up: bool) -> str:
        """A link by its name, or by its two parts; gives the command by hand. Raises UsageError, StepFailed."""
        ...

    def flap(
        self,
        lab: Lab,
        names: Sequence[str],
        *,
        every_s: float,
        for_s: float,
        stopped: Callable[[], bool],
        tell: Callable[[bool], None],
    ) -> int:
        """Takes a link down and up again, half of `every_s` each; it is up at the end. Gives how often it went down."""
        ...

    def set_node(self, lab: Lab, name: str, power: Power) -> tuple[str, ...]:
        """Stops a node or router, or starts it as planned; gives what went with it. Raises UsageError, StepFailed."""
        ...

    def faults(self, lab: Lab) -> tuple[tuple[FaultText, str], ...]:
        """Every fault, with why the lab cannot have it (empty where it can)."""
        ...

    def break_(self, lab: Lab, name: str, *, seed: int | None, is_hidden: bool) -> tuple[FaultText, FaultSite]:
        """Puts in a fault, where the seed says. Hidden, it is not recorded. Raises UsageError, StepFailed."""
        ...

    def mend(self, lab: Lab, name: str | None) -> tuple[str, ...]:
        """Heals a fault wherever it was put, or any; gives those that were recorded. Raises UsageError, StepFailed."""
        ...

    def impairments(self, lab: Lab) -> Mapping[str, Impairment]:
        """What is set, by the link's name."""
        ...

    def impair(self, lab: Lab, names: Sequence[str], asked: Impairment | None) -> str:
        """Sets it in place of what was set, or removes that; gives the link's name. Raises UsageError, HostLacks."""
        ...

    def impaired(self, lab: Lab, names: Sequence[str], asked: Impairment) -> AbstractContextManager[str]:
        """Set while the context lasts; afterwards as it was before. Raises as `impair`."""
        ...

    def differing(self, lab: Lab, pair: Pair, parts: Sequence[str]) -> tuple[str, ...]:
        """What of those parts is not as planned, as far as it can lose packets of the pair; each as a phrase."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of a lab for after a boot. `lab` is None where it cannot be read: `problem` says why.
    `is_of_this_boot`: the host was not started again since."""

    name: str
    lab: Lab | None
    changes: Changes
    is_of_this_boot: bool
    problem: str = ""


class Keeping(Protocol):
    """For labs that a boot takes from this host: what is kept of them elsewhere, from which they come back."""

    def keep(self, lab: Lab, changes: Changes) -> None:
        """Keeps it as it is now; what is changed in it later follows by itself. Raises StepFailed."""
        ...

    def kept(self, name: str | None = None) -> tuple[Kept, ...]:
        """By name, whether they are up or not; with `name` only that one."""
        ...

    def forget(self, name: str) -> None:
        """Idempotent."""
        ...

    def extra_addresses(self, lab: Lab) -> tuple[ExtraAddress, ...]:
        """Those that its devices have and its plan has not. Raises UsageError, NeedsRoot."""
        ...

    def add_addresses(self, lab: Lab, addresses: Sequence[ExtraAddress]) -> tuple[tuple[str, LabError], ...]:
        """Gives those to devices of a lab that is up; gives each that could not be, with why."""
        ...
