"""Cgroups for the processes of nodes and pods, and the eBPF programs that run on their sockets' system calls.

A cgroup holds what is attached to it and is removed by itself: it is in no namespace. By hand its place is asked of the
host, since cgroup v2 may be mounted beside version 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from labctl.datapath import bpf
from labctl.planning.shell import word
from labctl.providers.netns.kinds.base import BuildContext, Found, Kind, NamespaceReader, Object, ObjectKind, Thing
from labctl.system import cgroups
from labctl.values import dataclass

_TOP = '"$(findmnt --first-only --noheadings --types cgroup2 --output TARGET)"'


def by_hand(cgroup: str) -> str:
    """The directory of a cgroup, as a word of a shell command."""
    return f"{_TOP}/{word(cgroup)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupAdd(Object):
    """A cgroup of a node or of its pods. `namespace` is the node's, with which it is observed."""

    namespace: str
    cgroup: str

    def shell(self) -> str:
        return f"mkdir -p {by_hand(self.cgroup)}"

    def things(self) -> Iterator[Thing]:
        yield Thing(self.namespace, ObjectKind.CGROUP, _cgroup_name(self.cgroup))

    def undo(self) -> tuple[Object, ...]:
        return (CgroupDelete(cgroup=self.cgroup.partition("/")[0]),)

    def make(self, context: BuildContext) -> None:
        cgroups.make(self.cgroup)


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupDelete(Object):
    """Removes a cgroup, and those below it."""

    cgroup: str

    def shell(self) -> str:
        return f"find {by_hand(self.cgroup)} -depth -type d -exec rmdir '{{}}' ';'"

    def make(self, context: BuildContext) -> None:
        cgroups.remove(self.cgroup)


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketAttach(Object):
    """Attaches a program of the node to a cgroup: it runs when a process in there calls what `hook` names."""

    namespace: str
    cgroup: str
    hook: str
    program: str
    pins: Path

    def shell(self) -> str:
        program = word(self.pins / "programs" / self.program)
        return f"bpftool cgroup attach {by_hand(self.cgroup)} {self.hook} pinned {program} multi"

    def things(self) -> Iterator[Thing]:
        name = _program_name(self.program, self.cgroup)
        yield Thing(self.namespace, ObjectKind.CGROUP, name, (_cgroup_name(self.cgroup),))

    def with_tag(self, tag: str) -> Thing:
        """The digest that the program's instructions must have."""
        name = _program_name(self.program, self.cgroup)
        return Thing(self.namespace, ObjectKind.CGROUP, f"{name} tag {tag}", (name,), (), f"{name} tag", tag)

    def make(self, context: BuildContext) -> None:
        """One that is attached already stays; one of the same name that is another goes, once this one is there."""
        program, hook = context.datapaths[self.namespace].programs[self.program], bpf.CgroupHook[self.hook.upper()]
        own = bpf.program_info(program)
        with cgroups.opened(self.cgroup) as descriptor:
            there = bpf.attached_to_cgroup(descriptor, hook)
            if own.id not in there:
                bpf.attach_to_cgroup(descriptor, program, hook)
            for number in there:
                opened = bpf.program_descriptor(number)
                try:
                    if number != own.id and bpf.program_info(opened).name == own.name:
                        bpf.detach_from_cgroup(descriptor, opened, hook)
                finally:
                    bpf.close_all((opened,))


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketDetach(Object):
    """Takes a program, by its id, off a cgroup."""

    cgroup: str
    hook: str
    program: int

    def shell(self) -> str:
        return f"bpftool cgroup detach {by_hand(self.cgroup)} {self.hook} id {self.program}"

    def make(self, context: BuildContext) -> None:
        opened = bpf.program_descriptor(self.program)
        try:
            with cgroups.opened(self.cgroup) as descriptor:
                bpf.detach_from_cgroup(descriptor, opened, bpf.CgroupHook[self.hook.upper()])
        finally:
            bpf.close_all((opened,))


def _cgroup_name(cgroup: str) -> str:
    return f"cgroup {cgroup}"


def _program_name(program: str, cgroup: str) -> str:
    """The kernel knows the first 15 characters of a program's name."""
    return f"program {program[:15]} on cgroup {cgroup}"


def attached(cgroup: str) -> dict[str, tuple[bpf.ProgramInfo, ...]]:
    """The programs of the cgroup itself, by hook. Raises OSError, HostLacks."""
    found: dict[str, tuple[bpf.ProgramInfo, ...]] = {}
    with cgroups.opened(cgroup) as descriptor:
        for hook in bpf.CgroupHook:
            programs = []
            for number in bpf.attached_to_cgroup(descriptor, hook):
                opened = bpf.program_descriptor(number)
                try:
                    programs.append(bpf.program_info(opened))
                finally:
                    bpf.close_all((opened,))
            if programs:
                found[hook.name.lower()] = tuple(programs)
    return found


def _read(look: NamespaceReader) -> Iterator[Found]:
    wanted = (thing.of for thing in look.things if thing.kind is ObjectKind.CGROUP and not thing.value)
    for cgroup in dict.fromkeys(name.rpartition("cgroup ")[2] for name in wanted):
        if cgroups.is_there(cgroup):
            yield Found(_cgroup_name(cgroup))
            for hook, programs in attached(cgroup).items():
                for program in programs:
                    remove = partial(SocketDetach, cgroup=cgroup, hook=hook, program=program.id)
                    name = _program_name(program.name, cgroup)
                    yield Found(name, "", remove)
                    yield Found(f"{name} tag", program.tag)


CGROUPS = Kind(name=ObjectKind.CGROUP, objects=(CgroupAdd, CgroupDelete, SocketAttach, SocketDetach), read=_read)
