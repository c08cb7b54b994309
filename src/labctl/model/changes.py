"""What people have changed in a running lab since it was built: links, nodes, faults, impairments. Pure data.

The plan says how the lab was built, this says how it is meant to be now; what else differs is drift. `pending` are the
acts that were begun and not ended: whoever comes next carries them out, in one direction or the other, so that a
command that is killed leaves no half state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from enum import StrEnum
from typing import Annotated

from labctl.codec import OMITTED
from labctl.model.impairment import Impairment
from labctl.values import dataclass


class ChangeKind(StrEnum):
    """What can be changed in a lab that is up."""

    LINK = "link"
    NODE = "node"
    FAULT = "fault"
    IMPAIRMENT = "impairment"


class Power(StrEnum):
    """What can be done to a node."""

    STOP = "stop"
    START = "start"
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An act on one thing of that name, which was begun."""

    kind: ChangeKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A fault that was put in, and where (`node1:eth0`). Hidden ones are not recorded."""

    fault: str
    where: str
    seed: Annotated[int | None, OMITTED] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What was changed on purpose, each by its name, in the order in which it was done."""

    links_down: Annotated[tuple[str, ...], OMITTED] = ()
    nodes_stopped: Annotated[tuple[str, ...], OMITTED] = ()
    faults: Annotated[tuple[Broken, ...], OMITTED] = ()
    impairments: Annotated[Mapping[str, Impairment], OMITTED] = field(default_factory=dict)
    """By the link's name."""
    pending: Annotated[tuple[Pending, ...], OMITTED] = ()

    def with_link(self, name: str, *, is_up: bool) -> Changes:
        return replace(self, links_down=_without(self.links_down, name) + (() if is_up else (name,)))

    def with_node(self, name: str, *, is_stopped: bool) -> Changes:
        return replace(self, nodes_stopped=_without(self.nodes_stopped, name) + ((name,) if is_stopped else ()))

    def with_fault(self, broken: Broken) -> Changes:
        return replace(self, faults=(*self.without_fault(broken.fault).faults, broken))

    def without_fault(self, name: str) -> Changes:
        return replace(self, faults=tuple(one for one in self.faults if one.fault != name))

    def with_impairment(self, link: str, asked: Impairment | None) -> Changes:
        rest = {name: one for name, one in self.impairments.items() if name != link}
        return replace(self, impairments=rest if asked is None else {**rest, link: asked})

    def begun(self, act: Pending) -> Changes:
        return replace(self, pending=(*(one for one in self.pending if one != act), act))

    def ended(self, act: Pending) -> Changes:
        return replace(self, pending=tuple(one for one in self.pending if one != act))

    def without(self, act: Pending) -> Changes:
        """As if that act had not been."""
        match act.kind:
            case ChangeKind.LINK:
                return self.with_link(act.name, is_up=True)
            case ChangeKind.NODE:
                return self.with_node(act.name, is_stopped=False)
            case ChangeKind.FAULT:
                return self.without_fault(act.name)
            case ChangeKind.IMPAIRMENT:
                return self.with_impairment(act.name, None)

    def acts(self) -> tuple[Pending, ...]:
        """What makes them of a lab as it was built, in an order in which none undoes another: what is stopped is
        stopped last."""
        names = (
            (ChangeKind.IMPAIRMENT, tuple(self.impairments)),
            (ChangeKind.FAULT, tuple(one.fault for one in self.faults)),
            (ChangeKind.LINK, self.links_down),
            (ChangeKind.NODE, self.nodes_stopped),
        )
        return tuple(Pending(kind=kind, name=name) for kind, of_kind in names for name in of_kind)

    def sentences(self) -> tuple[str, ...]:
        """What differs from the lab as it was built, each as a phrase."""
        return (
            *(f"link {name} is down" for name in self.links_down),
            *(f"node {name} is stopped" for name in self.nodes_stopped),
            *(f"broken by {one.fault} at {one.where}" for one in self.faults),
            *(
                f"link {name} is not impaired as its scenario says"
                if one.is_nothing
                else f"link {name} is impaired: {one.words()}"
                for name, one in self.impairments.items()
            ),
        )


NOTHING = Changes()


def _without(names: Iterable[str], name: str) -> tuple[str, ...]:
    return tuple(one for one in names if one != name)
