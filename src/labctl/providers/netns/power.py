"""Stops a node or a router of a running lab and starts it again as the plan says.

A stopped node is its namespace, empty: its processes have ended, its devices are gone and with them the programs and
their maps, its rules, its settings; so are its pods'. The namespaces keep their names and their marks, by which the lab
is known and removed. Starting makes each of them again by those actions of the plan that are about it, among them the
far ends of its wires.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from labctl.datapath import bpf
from labctl.datapath.loader import LoadedDatapath
from labctl.errors import StepFailed, UsageError
from labctl.model.lab import Lab
from labctl.names import namespace_of
from labctl.providers.netns.discover import read_mark
from labctl.providers.netns.kinds.base import BuildContext, Object
from labctl.providers.netns.kinds.cgroup import CgroupAdd
from labctl.providers.netns.kinds.daemon import ZEBRA, FrrRemove, FrrStart, NextHopsAwait, addresses_told
from labctl.providers.netns.kinds.link import OnDevice, SharedAdd, VethAdd
from labctl.providers.netns.kinds.namespace import NamespaceAdd
from labctl.providers.netns.kinds.program import DeviceEntry
from labctl.providers.netns.plan import plan
from labctl.providers.netns.watch import running_maps
from labctl.system import cgroups, link_state, netns
from labctl.system.netlink import NetlinkError, Socket

_NAMESPACES = ("namespace", "peer_namespace", "inside", "holder")
"""The fields of objects that name a namespace."""


def namespaces_of(lab: Lab, name: str) -> frozenset[str]:
    """Those that stop with a node or a router of that name: its own and its pods'. Raises UsageError for what is
    neither."""
    nodes, routers = [node.name for node in lab.nodes], [router.name for router in lab.routers]
    if name not in (*nodes, *routers):
        pod = next((pod for pod in lab.pods if pod.name == name), None)
        raise UsageError(
            what=f"{name} is a pod, on node {pod.node}" if pod else f"lab {lab.name} has no node {name}",
            cause=f"nodes and routers are stopped and started: {', '.join((*nodes, *routers))}",
            remedy=f"labctl node {lab.name} {pod.node} stop" if pod else f"labctl status {lab.name}",
        )
    return frozenset(namespace_of(lab.name, part) for part in (name, *(pod.name for pod in lab.pods_on(name))))


def actions_about(actions: Sequence[Object], namespaces: frozenset[str]) -> tuple[Object, ...]:
    """Those that make what is lost with these namespaces: what is in them, and in others what is on the far ends of
    their wires. In the order of the plan. Pure."""
    lost = set(_lost_devices(actions, namespaces))
    return tuple(
        one
        for one in actions
        if not namespaces.isdisjoint(_places(one))
        or (isinstance(one, OnDevice | DeviceEntry) and (one.namespace, one.device) in lost)
    )


def _places(one: Object) -> Iterator[str]:
    return (place for field in _NAMESPACES if isinstance(place := getattr(one, field, None), str))


def _lost_devices(actions: Iterable[Object], namespaces: frozenset[str]) -> Iterator[tuple[str, str]]:
    for one in actions:
        if namespaces.isdisjoint(_places(one)):
            continue
        if isinstance(one, VethAdd):
            yield one.namespace, one.device.name
            yield one.peer_namespace or one.namespace, one.peer.name
        elif isinstance(one, SharedAdd):
            yield one.inside, one.device.name


def stop(lab: Lab, name: str) -> None:
    """Idempotent. Raises StepFailed, UsageError."""
    namespaces = namespaces_of(lab, name)
    actions = actions_about(_actions(lab), namespaces)
    _remove(actions, namespaces)
    context = BuildContext()
    try:
        for one in actions:
            if isinstance(one, NamespaceAdd):
                one.make(context)
    finally:
        context.close()


def start(lab: Lab, name: str) -> None:
    """Makes it again, whatever is left of it. When a step fails it is stopped again. Raises StepFailed, HostLacks,
    UsageError."""
    namespaces = namespaces_of(lab, name)
    every = _actions(lab)
    actions = actions_about(every, namespaces)
    _remove(actions, namespaces)
    running = {one.namespace for one in every if isinstance(one, FrrStart)} - namespaces
    told = addresses_told(actions, {name for name in running if _has_daemons(name)})
    # All next hops are there only where no other link or node is down.
    actions = tuple(one for one in actions if not isinstance(one, NextHopsAwait))
    try:
        with contextlib.ExitStack() as stack:
            context = BuildContext()
            stack.callback(context.close)
            for holder in {one.holder for one in actions if isinstance(one, DeviceEntry)} - namespaces:
                context.datapaths[holder] = _running(stack, holder)
            for (make, *_), objects in groupby((*actions, *told), key=lambda one: one.batch()):
                make(tuple(objects), context)
    except BaseException:
        stop(lab, name)
        raise


def _has_daemons(namespace: str) -> bool:
    """Not of one that is stopped, nor where somebody ended them."""
    key = netns.key_of(namespace)
    return key is not None and any(netns.name_of(pid) == ZEBRA for pid in netns.processes_in([key]))


def _running(stack: contextlib.ExitStack, namespace: str) -> LoadedDatapath:
    """The maps of a node that is up, for entries that it has of this one."""
    maps = stack.enter_context(running_maps(namespace))
    return LoadedDatapath(path=Path(), programs={}, maps={name: _duplicate(found[0]) for name, found in maps.items()})


def _duplicate(descriptor: int) -> int:
    return bpf.map_descriptor(bpf.map_info(descriptor).id)


def _actions(lab: Lab) -> tuple[Object, ...]:
    every = (action for step in plan(lab).steps for action in step.actions)
    return tuple(action for action in every if isinstance(action, Object))


def _remove(actions: Sequence[Object], namespaces: frozenset[str]) -> None:
    """Ends the processes, then drops the namespaces, after the far ends of their wires: the kernel frees a namespace
    some time after the last who looks into it."""
    for namespace in namespaces:
        if netns.is_mounted(namespace) and read_mark(namespace) is None:
            raise StepFailed(
                what=f"{namespace} carries no mark of labctl, and is left alone",
                cause="its loopback device has another alias",
                remedy=f"ip -n {namespace} link show lo",
            )
    keys = [key for key in map(netns.key_of, namespaces) if key is not None]
    if keys:
        netns.end_processes(keys)
    for one in actions:
        if isinstance(one, FrrStart):
            FrrRemove(namespace=one.namespace).make(BuildContext())
        elif isinstance(one, CgroupAdd):
            cgroups.remove(one.cgroup)
    for one in actions:
        if isinstance(one, VethAdd) and one.peer_namespace is not None:
            away = [
                (place, device.index)
                for place, device in ((one.namespace, one.device), (one.peer_namespace, one.peer))
                if place not in namespaces
            ]
            for place, index in away:
                _delete_device(place, index)
    for namespace in namespaces:
        netns.delete(namespace)


def _delete_device(namespace: str, index: int) -> None:
    try:
        with netns.entered(netns.path_of(namespace)), Socket() as channel:
            channel.send([link_state.link_delete(index)])
    except (FileNotFoundError, NetlinkError) as refused:
        if refused.errno not in (errno.ENOENT, errno.ENODEV):  # else the namespace, or the device, is gone
            raise
