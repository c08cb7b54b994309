"""Carries out the actions of a netns plan in this process: netlink messages in batches, no fork for each.

How an object is made is its kind's; consecutive ones that can be made together are, and the order of the plan holds.
It stands alone because only building a lab loads it, as in every provider.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import groupby

from labctl.errors import NeedsRoot, UsageError
from labctl.model.lab import Lab
from labctl.model.plan import Action
from labctl.names import split_namespace
from labctl.providers.netns.discover import read_mark
from labctl.providers.netns.kinds import OBJECTS
from labctl.providers.netns.kinds.base import Batch, BuildContext, Object
from labctl.providers.netns.record import claimed
from labctl.system import netns


class NetnsExecutor:
    """`Executor` of the provider seam. Holds descriptors until it is closed; single-threaded."""

    def __init__(self) -> None:
        self._context = BuildContext()

    def close(self) -> None:
        self._context.close()

    def execute(self, actions: Sequence[Action]) -> None:
        """Raises StepFailed with the command that a person would have typed and what the kernel or tool said."""
        for (make, *_), objects in groupby(actions, key=_batch_of):
            make(tuple(objects), self._context)

    def finish(self, lab: Lab) -> None:
        """Nothing is left to do: the plan's last action wrote the record."""


def _batch_of(action: Action) -> Batch:
    if not isinstance(action, Object) or type(action) not in OBJECTS:
        raise TypeError(f"the netns provider has no way to carry out {type(action).__name__}")
    return action.batch()


@contextlib.contextmanager
def executor(lab: Lab) -> Iterator[NetnsExecutor]:
    """The executor for one lab. Raises NeedsRoot, and UsageError when the lab is there already or is
    being built by another labctl (one that builds holds the lab's name as a socket, which ends with it)."""
    if os.geteuid() != 0:
        raise NeedsRoot(
            what="building a lab needs root", cause="only root may make network namespaces and load eBPF programs"
        )
    with claimed(lab.name):
        _refuse_existing(lab)
        with _running() as running:
            yield running


@contextlib.contextmanager
def mending(lab: Lab) -> Iterator[NetnsExecutor]:
    """The executor for changes of a lab that is up. Raises NeedsRoot, and UsageError while another labctl builds or
    changes it."""
    if os.geteuid() != 0:
        raise NeedsRoot(what="changing a lab needs root", cause="only root may change network namespaces")
    with claimed(lab.name), _running() as running:
        yield running


def _running() -> contextlib.closing[NetnsExecutor]:
    netns.prepare_directory()
    return contextlib.closing(NetnsExecutor())


def _refuse_existing(lab: Lab) -> None:
    there = [name for name in netns.names() if (parts := split_namespace(name)) and parts[0] == lab.name]
    if foreign := [name for name in there if read_mark(name) is None]:
        raise UsageError(
            what=f"the name {lab.name} is taken by network namespaces that are not labctl's",
            cause=f"without labctl's mark, and so left alone: {', '.join(foreign)}",
            remedy=f"another name: --name my-lab; or, if it is not needed: ip netns delete {foreign[0]}",
        )
    if there:
        raise UsageError(
            what=f"the lab {lab.name} is there already, complete or in part",
            cause=f"found {there[0]} and {len(there) - 1} more" if len(there) > 1 else f"found {there[0]}",
            remedy=f"labctl down {lab.name}",
        )
