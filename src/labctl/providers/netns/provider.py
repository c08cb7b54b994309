"""The netns provider as a whole: nodes and pods are namespaces of this host, the datapath is labctl's own.

Each act loads its own half when it is asked for: `labctl list` neither plans nor opens a lab.

Removes a lab by its mark: its processes, its namespaces, its record, in that order, and nothing else.

Devices are never removed one by one: each end of every link is in one of the lab's namespaces, and dropping those costs
a small part of the time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from labctl.errors import NeedsRoot, StepFailed
from labctl.model.lab import Lab
from labctl.model.plan import Plan
from labctl.names import UNDERLAY, cgroup_of, is_name, namespace_of
from labctl.networks.base import STATEMENT
from labctl.providers.base import (
    Capabilities,
    Compared,
    EventSource,
    Evidenced,
    Executor,
    OpenLab,
    Probe,
    RunningLab,
)
from labctl.providers.netns.changing import NetnsChanging
from labctl.providers.netns.discover import Remains, remains
from labctl.providers.netns.kept import NetnsKeeping, follow_record
from labctl.providers.netns.record import as_document, is_claimed, parse_document, record_path
from labctl.system import cgroups, files, netns

if TYPE_CHECKING:  # typing only: keeps `labctl list` fast
    from labctl.drift.wanted import Wanted

_TARGET = "becoming.json"
"""Beside the record of a lab, as long as it is being changed to another scenario: that one's."""


class NetnsProvider:
    """`Provider` of the provider seam. Remembers what the plan of the lab that was compared last makes."""

    name = "netns"
    statement = STATEMENT
    is_quick = True

    def __init__(self) -> None:
        self._wanted: tuple[Lab, Wanted] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            runs_tools_here=True,
            enter=_enter,
            argv_inside=_argv_inside,
            processes=processes,
            support=self,
            changing=NetnsChanging(),
            keeping=NetnsKeeping(),
            needs=_needs,
            drifting=self,
            events=_events,
            tidy=_tidy,
        )

    def has_left(self, name: str) -> bool:
        """What there is of a netns lab is found: it keeps no logs of builds."""
        return False

    @contextlib.contextmanager
    def evidenced(self, name: str, running: RunningLab | None) -> Iterator[Evidenced]:
        from labctl.providers.netns.support import exhibits

        yield Evidenced(exhibits=tuple(exhibits(name, processes)))

    def statements(self, lab: Lab) -> tuple[str, ...]:
        from labctl.networks import network_of

        return network_of(lab).statements(lab)

    def probes(self) -> Iterator[Probe]:
        from labctl.providers.netns.network_probes import network_probes
        from labctl.providers.netns.probes import probes

        yield from probes()
        yield from network_probes()

    def refuse(self, lab: Lab) -> None:
        from labctl.providers.netns.plan import refuse

        refuse(lab)

    def plan(self, lab: Lab) -> Plan:
        from labctl.providers.netns.plan import plan

        return plan(lab)

    def executor(self, lab: Lab) -> AbstractContextManager[Executor]:
        from labctl.providers.netns.execute import executor

        return executor(lab)

    def compared(self, lab: Lab, *, parts: Collection[str] = (), scenario: str = "") -> Compared:
        from labctl.providers.netns.reading import compared

        return compared(lab, parts, scenario, self._planned)

    def _planned(self, lab: Lab) -> Wanted:
        """A command that mends compares again and again: the plan of a lab is made once."""
        from labctl.providers.netns.reading import wanted

        if self._wanted is None or self._wanted[0] is not lab:
            self._wanted = lab, wanted(lab)
        return self._wanted[1]

    def recorded(self, name: str) -> Lab | None:
        if not is_name(name) or is_claimed(name) or not netns.is_mounted(namespace_of(name, UNDERLAY)):
            return None
        return _read_lab(name, record_path(name).name)

    def begin_change(self, after: Lab) -> None:
        with files.open_private(record_path(after.name).parent) as folder:
            folder.write(_TARGET, as_document(after).encode() + b"\n")

    def end_change(self, lab: Lab) -> None:
        with contextlib.suppress(FileNotFoundError), files.open_private(record_path(lab.name).parent) as folder:
            folder.remove(_TARGET)
        follow_record(lab)

    def cut_off(self, name: str) -> Lab | None:
        return None if is_claimed(name) else _read_lab(name, _TARGET)

    def forget_changes(self, lab: Lab, parts: Collection[str] = ()) -> None:
        from labctl.model.changes import NOTHING
        from labctl.providers.netns.changes import update_changes

        if parts:
            from labctl.providers.netns.changing import NetnsChanging

            NetnsChanging().forget(lab, frozenset(parts))
            return
        update_changes(lab.name, lambda changes: NOTHING)

    def mending(self, lab: Lab) -> AbstractContextManager[Executor]:
        from labctl.providers.netns.execute import mending

        return mending(lab)

    def discover(self, name: str | None = None) -> tuple[RunningLab, ...]:
        from labctl.providers.netns.discover import discover

        return discover(name)

    def teardown(self, name: str) -> None:
        teardown(name)

    def open(self, lab: Lab) -> AbstractContextManager[OpenLab]:
        from labctl.providers.netns.open import open_lab

        return open_lab(lab)


def _read_lab(name: str, file: str) -> Lab | None:
    """The lab that this file beside its record says; None where there is none, or none of this version."""
    try:
        return parse_document(files.read_own(record_path(name).with_name(file)).decode())
    except (OSError, ValueError):
        return None


def _tidy() -> None:
    from labctl.providers.netns.tidy import tidy

    tidy()


def _events(lab: Lab) -> AbstractContextManager[EventSource]:
    from labctl.providers.netns.events import watching_events

    return watching_events(lab)


def _argv_inside(lab: Lab, target: str, argv: Sequence[str]) -> tuple[str, ...]:
    from labctl.providers.netns.open import NetnsOpenLab

    return NetnsOpenLab(lab).target(target).inside_argv(argv)


def _needs(lab: Lab) -> tuple[str, ...]:
    from labctl.networks.needs import needs

    return needs(lab)


def _enter(lab: Lab, target: str, privileged: bool) -> tuple[str, ...]:
    from labctl.providers.netns.open import NetnsOpenLab

    return NetnsOpenLab(lab).target(target).enter(privileged=privileged)


_log = logging.getLogger(__name__)


def teardown(name: str) -> None:
    """Idempotent. Raises StepFailed when something cannot be removed, NeedsRoot."""
    if os.geteuid() != 0:
        raise NeedsRoot(what="removing a lab needs root", cause="only root may remove network namespaces")
    of_lab = remains(name).get(name, Remains())
    for stranger in of_lab.strangers:
        _log.warning("%s", f"{stranger} has no mark of labctl on its loopback device: it is left alone")
    _end_processes(of_lab)
    _take_off(name)
    _remove_cgroups(name)
    _remove_pins(name)
    _remove_path_spaces(name)
    # Last: by them the lab is found again when this is cut off.
    for namespace in (*of_lab.leftovers, *of_lab.namespaces):
        try:
            netns.delete(namespace)
        except OSError as refused:
            raise StepFailed(
                what=f"cannot remove the namespace {namespace}",
                cause=os.strerror(refused.errno or 0),
                remedy=f"ip netns delete {namespace}",
            ) from refused
    files.remove_tree(record_path(name).parent)
    netns.tidy_directory()


def _take_off(name: str) -> None:
    """Has the plugins that attached the lab's pods take them off, while both namespaces are there."""
    from labctl.providers.netns.kinds.plugin import remove_all, state_folder

    if state_folder(name).is_dir():
        for refused in remove_all(name):
            _log.warning("%s", refused)


def _remove_path_spaces(name: str) -> None:
    """What the routing daemons of a lab kept in files."""
    from labctl.providers.netns.kinds.daemon import FOLDER, path_space

    own = path_space(namespace_of(name, ""))
    with contextlib.suppress(FileNotFoundError), files.open_folder(FOLDER) as folder:
        for found in folder.names():
            if found.startswith(own):
                folder.remove_tree(found)


def processes(name: str) -> tuple[str, ...]:
    """What runs inside the lab and would end with it: `iperf3 (4711)`."""
    return tuple(
        f"{netns.name_of(pid)} ({pid})" for pid in netns.processes_in(_keys(remains(name).get(name, Remains())))
    )


def _keys(of_lab: Remains) -> list[tuple[int, int]]:
    return [key for key in map(netns.key_of, of_lab.namespaces) if key is not None]


def _end_processes(of_lab: Remains) -> None:
    """Those inside the marked namespaces only: a process elsewhere with the lab's name in its arguments is not."""
    if keys := _keys(of_lab):
        netns.end_processes(keys)


def _remove_cgroups(name: str) -> None:
    """With them go the programs on them. What a person put into one goes on outside."""
    cgroup = cgroup_of(name)
    try:
        cgroups.remove(cgroup)
    except OSError as refused:
        raise StepFailed(
            what=f"cannot remove the cgroup {cgroup}",
            cause=os.strerror(refused.errno or 0),
            remedy=f"find {cgroups.path_of(cgroup)} -depth -type d -exec rmdir '{{}}' ';'",
        ) from refused


def _remove_pins(name: str) -> None:
    """What a script of `plan --shell` leaves when it is killed: its bpffs, whose place only that script uses."""
    from labctl.providers.netns.kinds.program import pins

    place = pins(name)
    if place.is_mount():
        netns.unmount(place)
    with contextlib.suppress(OSError):
        place.rmdir()
