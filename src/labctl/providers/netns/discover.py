"""Finds labs by their marks: what is in /run/netns decides, whatever state files say. Whether a lab is whole is
decided by `observed`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from labctl.errors import NeedsRoot, UsageError
from labctl.model.interfaces import LO_INDEX
from labctl.names import is_name, split_namespace
from labctl.providers.base import RunningLab
from labctl.providers.netns.record import NamespaceMark, is_claimed, parse_document, parse_mark, parts_of, record_path
from labctl.system import netns, rtnetlink
from labctl.system.files import read_own
from labctl.system.netlink import Socket

RECORD = "its record"


@dataclass(slots=True, kw_only=True)
class Remains:
    """What is left of one lab, or all of it: marked namespaces, and files on which no namespace was mounted yet.

    `strangers` have a name like a part of the lab and no mark: they are not labctl's.
    """

    namespaces: dict[str, NamespaceMark] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    has_record: bool = False

    @property
    def is_ours(self) -> bool:
        return bool(self.namespaces or self.leftovers or self.has_record)


def remains(only: str | None = None) -> Mapping[str, Remains]:
    """By lab name, everything on this host that is a lab's or is named like one; of the lab `only`, where given."""
    found: dict[str, Remains] = {}
    for name in netns.names():
        split = split_namespace(name)
        if split is not None and only in (None, split[0]):
            _sort(found.setdefault(split[0], Remains()), name)
    for lab in _recorded():
        if only in (None, lab):
            found.setdefault(lab, Remains()).has_record = True
    return found


def _sort(into: Remains, name: str) -> None:
    if not netns.is_mounted(name):
        (into.leftovers if netns.is_our_leftover(name) else into.strangers).append(name)
        return
    mark = read_mark(name)
    if mark is None:
        into.strangers.append(name)
    else:
        into.namespaces[name] = mark


def read_mark(name: str) -> NamespaceMark | None:
    """The mark of a namespace, or None: it is gone, or not labctl's."""
    try:
        with netns.entered(netns.path_of(name)), Socket() as channel:
            answers = [rtnetlink.parse_link(body) for body in channel.ask(rtnetlink.one_link(LO_INDEX))]
    except OSError:
        return None
    return parse_mark(answers[0].alias) if answers else None


def _recorded() -> Iterable[str]:
    directory = record_path("x").parent.parent
    try:
        return sorted(path.name for path in directory.iterdir() if is_name(path.name))
    except OSError:
        return ()


def discover(only: str | None = None) -> tuple[RunningLab, ...]:
    """Every lab of this provider, whole or in pieces, by name; or the lab `only`. Raises NeedsRoot when there are some
    and this user may not look inside: their marks are in the namespaces."""
    if os.geteuid() != 0 and any(map(split_namespace, netns.names())):
        raise NeedsRoot(
            what="finding labs needs root",
            cause="there are namespaces that look like labctl's; only root can read their marks",
        )
    return tuple(_running(name, of_lab) for name, of_lab in sorted(remains(only).items()) if of_lab.is_ours)


def _running(name: str, of_lab: Remains) -> RunningLab:
    try:
        lab = parse_document(read_own(record_path(name)).decode())
    except (OSError, ValueError):
        lab = None
    if lab is None:
        facts = max(of_lab.namespaces.values(), key=lambda mark: len(mark.digest), default=None)
        return RunningLab(
            name=name,
            provider="netns",
            scenario=facts.scenario if facts else "",
            digest=facts.digest if facts else "",
            is_whole=False,
            lab=None,
            missing=(RECORD,),
            is_being_built=is_claimed(name),
        )
    from labctl.providers.netns.observed import lacking  # loads the plan: not where no lab is up

    unknown: UsageError | None = None
    try:
        missing = lacking(lab, of_lab.namespaces)
    except UsageError as refused:  # another version of labctl built it, with what this one does not have
        missing, unknown = (), refused
    return RunningLab(
        name=name,
        provider="netns",
        scenario=lab.scenario,
        digest=lab.digest,
        is_whole=not missing and unknown is None,
        lab=lab,
        missing=missing,
        unasked=unknown,
        is_being_built=bool(missing) and is_claimed(name),
        can_be_opened=all(part in of_lab.namespaces for part in parts_of(lab)),
    )
