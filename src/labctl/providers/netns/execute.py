"""Carries out the actions of a netns plan in this process: netlink messages in batches, no fork for each.

Consecutive messages for one namespace go out together; anything else first sends what is waiting, so that the order
of the plan holds. Only iptables-restore is a process, and those of several nodes run at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from labctl.datapath import bpf, loader
from labctl.errors import NeedsRoot, StepFailed, UsageError
from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.model.result import Completed
from labctl.names import split_namespace
from labctl.providers.netns.actions import (
    DatapathLoad,
    FilterAttach,
    IptablesRestore,
    MapsFill,
    NamespaceAdd,
    NamespaceDelete,
    NetlinkAction,
    RecordDelete,
    RecordWrite,
    Sysctls,
)
from labctl.providers.netns.discover import read_mark
from labctl.providers.netns.record import claimed
from labctl.system import files, netlink, netns, rtnetlink
from labctl.system.process import Process

_LO_INDEX = 1
_OPEN_AT_ONCE = 64
_IPTABLES_TIMEOUT_S = 30.0
_log = logging.getLogger(__name__)


class _Namespaces:
    """Open namespaces of the lab: a descriptor and a netlink socket each, the most recently used ones."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[int, netlink.Socket]] = OrderedDict()

    def keep(self, name: str, descriptor: int, channel: netlink.Socket) -> None:
        self._open[name] = (descriptor, channel)
        if len(self._open) > _OPEN_AT_ONCE:
            self._close(next(iter(self._open)))

    def descriptor(self, name: str) -> int:
        return self._get(name)[0]

    def channel(self, name: str) -> netlink.Socket:
        return self._get(name)[1]

    def forget(self, name: str) -> None:
        if name in self._open:
            self._close(name)

    def close(self) -> None:
        for name in tuple(self._open):
            self._close(name)

    def _get(self, name: str) -> tuple[int, netlink.Socket]:
        if name not in self._open:
            descriptor = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
            with netns.entered(descriptor):
                self.keep(name, descriptor, netlink.Socket())
        self._open.move_to_end(name)
        return self._open[name]

    def _close(self, name: str) -> None:
        descriptor, channel = self._open.pop(name)
        channel.close()
        os.close(descriptor)


class NetnsExecutor:
    """`Executor` of the provider seam. Holds descriptors until it is closed; single-threaded."""

    def __init__(self) -> None:
        self._namespaces = _Namespaces()
        self._datapaths: dict[str, loader.LoadedDatapath] = {}
        self._made: set[str] = set()

    def close(self) -> None:
        self._namespaces.close()
        while self._datapaths:
            self._datapaths.popitem()[1].close()

    def execute(self, actions: Sequence[Action]) -> None:
        """Raises StepFailed with the command that a person would have typed and what the kernel or tool said."""
        waiting: list[Action] = []
        kind: tuple[object, ...] | None = None
        for action in actions:
            this = _batch_of(action)
            if this != kind:
                self._carry_out(waiting)
                waiting, kind = [], this
            waiting.append(action)
        self._carry_out(waiting)

    def finish(self, lab: Lab) -> None:
        """Nothing is left to do: the plan's last action wrote the record."""

    def _carry_out(self, batch: Sequence[Action]) -> None:
        if not batch:
            return
        first = batch[0]
        if isinstance(first, NetlinkAction | FilterAttach):
            self._send(first.namespace, batch)
        elif isinstance(first, IptablesRestore):
            _restore([action for action in batch if isinstance(action, IptablesRestore)])
        else:
            for action in batch:
                with _as_step_failed(action):
                    self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case NamespaceAdd():
                self._add(action)
            case NamespaceDelete():
                self._delete(action.namespace)
            case Sysctls():
                with netns.entered(self._namespaces.descriptor(action.namespace)):
                    _write_sysctls(action)
            case DatapathLoad():
                self._datapaths[action.namespace] = loader.load_object(action.object)
            case MapsFill():
                bpf.update(self._datapaths[action.namespace].maps[action.map], action.entries)
            case RecordWrite():
                with files.open_private(action.path.parent) as folder:
                    folder.write(action.path.name, action.document.encode() + b"\n")
            case RecordDelete():
                files.remove_tree(action.path.parent)
            case _:
                raise TypeError(f"the netns provider has no way to carry out {type(action).__name__}")

    def _add(self, action: NamespaceAdd) -> None:
        channel: list[netlink.Socket] = []

        def mark() -> None:
            channel.append(netlink.Socket())
            channel[0].send([rtnetlink.link_mark(_LO_INDEX, alias=action.alias)])

        try:
            descriptor = netns.create(action.namespace, mark)
        except BaseException:
            for opened in channel:
                opened.close()
            raise
        self._made.add(action.namespace)
        self._namespaces.keep(action.namespace, descriptor, channel[0])

    def _delete(self, namespace: str) -> None:
        """Only what this executor made: undoing a step that failed because its name was taken must not
        take away what had the name."""
        self._namespaces.forget(namespace)
        if namespace in self._made:
            self._made.discard(namespace)
            netns.delete(namespace)

    def _send(self, namespace: str, batch: Sequence[Action]) -> None:
        with _as_step_failed(batch[0]):
            channel = self._namespaces.channel(namespace)
            requests = [self._request(action) for action in batch]
        try:
            channel.send(requests)
        except netlink.NetlinkError as refused:
            raise _failed(batch[refused.index], refused) from refused

    def _request(self, action: Action) -> netlink.Request:
        if isinstance(action, FilterAttach):
            return action.request_with(lambda namespace, program: self._datapaths[namespace].programs[program])
        if isinstance(action, NetlinkAction):
            return action.request(self._namespaces.descriptor)
        raise TypeError(f"{type(action).__name__} is not a netlink message")


def _batch_of(action: Action) -> tuple[object, ...]:
    """Actions that are carried out together have this in common."""
    match action:
        case NetlinkAction() | FilterAttach():
            return ("netlink", action.namespace)
        case IptablesRestore():
            return ("iptables",)
        case _:
            return ("one by one",)


def _write_sysctls(action: Sysctls) -> None:
    for key, value in action.settings:
        path = Path("/proc/sys", *key.split("."))
        try:
            path.write_text(value)
        except FileNotFoundError:
            if not action.if_there:
                raise


def _restore(actions: Sequence[IptablesRestore]) -> None:
    """All at once; then, for a kernel without one of the optional matches, once more without those."""
    refused = [pair for pair in _run_restores(actions, lambda action: action.rules) if pair[1].returncode]
    retried = _run_restores([action for action, _ in refused if action.optional], IptablesRestore.without_optional)
    for action, done in retried:
        if not done.returncode:
            _log.warning("%s: this kernel does not take, and so it is left out: %s", action.namespace, action.optional)
    failed = [pair for pair in retried if pair[1].returncode] + [pair for pair in refused if not pair[0].optional]
    for action, done in failed:
        raise StepFailed(
            what=f"iptables-restore failed in {action.namespace}",
            cause=done.error_text.strip() or ("no end within 30 s" if done.timed_out else f"exit {done.returncode}"),
            remedy=f"{action.shell().splitlines()[0]}  # the rules: labctl plan SCENARIO --shell",
        )


def _run_restores(
    actions: Sequence[IptablesRestore], text: Callable[[IptablesRestore], str]
) -> list[tuple[IptablesRestore, Completed]]:
    with contextlib.ExitStack() as stack:
        running = [
            (
                action,
                stack.enter_context(
                    Process(action.argv(), namespace=netns.path_of(action.namespace), stdin=text(action).encode())
                ),
            )
            for action in actions
        ]
        return [(action, process.wait(timeout_s=_IPTABLES_TIMEOUT_S)) for action, process in running]


@contextlib.contextmanager
def _as_step_failed(action: Action) -> Iterator[None]:
    try:
        yield
    except OSError as failed:
        raise _failed(action, failed) from failed


def _failed(action: Action, failed: OSError) -> StepFailed:
    words = os.strerror(failed.errno) if failed.errno else str(failed)
    said = getattr(failed, "explanation", "") or (str(failed.filename) if failed.filename else "")
    return StepFailed(
        what=f"the kernel refused: {action.shell().splitlines()[0]}",
        cause=f"{words}: {said}" if said else words,
        remedy=action.shell(),
    )


@contextlib.contextmanager
def executor(lab: Lab) -> Iterator[NetnsExecutor]:
    """The executor for one lab. Raises NeedsRoot, and UsageError when the lab is there already or is
    being built by another labctl (one that builds holds the lab's name as a socket, which ends with it)."""
    if os.geteuid() != 0:
        raise NeedsRoot(what="building a lab needs root", cause="network namespaces and eBPF programs are root's")
    with claimed(lab.name):
        _refuse_existing(lab)
        netns.prepare_directory()
        running = NetnsExecutor()
        try:
            yield running
        finally:
            running.close()


def _refuse_existing(lab: Lab) -> None:
    there = [name for name in netns.names() if (parts := split_namespace(name)) and parts[0] == lab.name]
    if foreign := [name for name in there if read_mark(name) is None]:
        raise UsageError(
            what=f"the name {lab.name} is taken by network namespaces that are not labctl's",
            cause=f"without labctl's mark, and so left alone: {', '.join(foreign)}",
            remedy=f"another name: --name my-lab; or, when nobody needs it: ip netns delete {foreign[0]}",
        )
    if there:
        raise UsageError(
            what=f"the lab {lab.name} is there already, whole or in pieces",
            cause=f"found {there[0]}" + (f" and {len(there) - 1} more" if len(there) > 1 else ""),
            remedy=f"labctl down {lab.name}",
        )
