"""What a person may change in a running netns lab: links and nodes. `Changing` of the provider seam.

Every act is written down before it begins (`changes`), so that one that is cut off is finished by the next command;
what takes a while (a link that flaps) is also watched by a process of its own, which finishes it at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from labctl.errors import UsageError
from labctl.model.changes import ChangeKind, Changes, Pending, Power
from labctl.model.lab import Lab
from labctl.names import split_namespace
from labctl.providers.netns.changes import acting, read_changes, settle, update_changes
from labctl.system.guard import guarded
from labctl.system.signals import uninterrupted

if TYPE_CHECKING:  # typing only: keeps `labctl list` fast
    from labctl.model.links import LinkState
    from labctl.providers.netns.wires import Wire, Wires


class NetnsChanging:
    """`Changing` of the provider seam. Stateless; each act loads what it needs."""

    def changes(self, lab: Lab) -> Changes:
        return read_changes(lab.name)

    def settle(self, lab: Lab) -> tuple[str, ...]:
        return settle(lab.name, lambda act, changes: self._realise(lab, act, changes))

    def links(self, lab: Lab) -> tuple[LinkState, ...]:
        return _wires(lab).states()

    def set_link(self, lab: Lab, names: Sequence[str], *, is_up: bool) -> str:
        wires = _wires(lab)
        wire = wires.named(*names)
        _require_running(lab, wire)
        with acting(lab.name, _of_link(wire)), uninterrupted():
            command = wires.set(wire, is_up=is_up)
            update_changes(lab.name, lambda changes: changes.with_link(wire.name, is_up=is_up))
        return command

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
        wires = _wires(lab)
        wire = wires.named(*names)
        _require_running(lab, wire)
        with acting(lab.name, _of_link(wire)), guarded(("link", lab.name)):
            update_changes(lab.name, lambda changes: changes.with_link(wire.name, is_up=True))
            return wires.flap(wire, every_s=every_s, for_s=for_s, stopped=stopped, tell=tell)

    def set_node(self, lab: Lab, name: str, power: Power) -> tuple[str, ...]:
        from labctl.providers.netns import power as nodes

        namespaces = nodes.namespaces_of(lab, name)
        act = Pending(kind=ChangeKind.NODE, name=name)
        is_stopped = power is Power.STOP
        if power is Power.START and name not in read_changes(lab.name).nodes_stopped:
            raise UsageError(
                what=f"node {name} of lab {lab.name} is not stopped",
                remedy=f"labctl node {lab.name} {name} reboot",
            )
        with acting(lab.name, act), guarded(("link", lab.name)):
            if power is not Power.START:
                nodes.stop(lab, name)
            update_changes(lab.name, lambda changes: changes.with_node(name, is_stopped=is_stopped))
            if not is_stopped:
                with self._stopped_on_failure(lab, name):
                    nodes.start(lab, name)
                self._again(lab, name)
        return tuple(sorted(split[1] for one in namespaces if (split := split_namespace(one)) and split[1] != name))

    @contextlib.contextmanager
    def _stopped_on_failure(self, lab: Lab, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            stopped = Pending(kind=ChangeKind.NODE, name=name)
            update_changes(lab.name, lambda changes: changes.with_node(name, is_stopped=True).ended(stopped))
            raise

    def _again(self, lab: Lab, name: str) -> None:
        """What was set on the links of a node, which are new."""
        wires, changes = _wires(lab), read_changes(lab.name)
        for wire in wires.all:
            if wire.name in changes.links_down and name in {end.part for end in wire.ends}:
                wires.set(wire, is_up=False)

    def _realise(self, lab: Lab, act: Pending, changes: Changes) -> None:
        """Makes one thing as the record says that it is meant to be."""
        from labctl.providers.netns import power as nodes

        if act.kind is ChangeKind.LINK:
            wires = _wires(lab)
            wires.set(wires.named(act.name), is_up=act.name not in changes.links_down)
        elif act.name in changes.nodes_stopped:
            nodes.stop(lab, act.name)
        else:
            nodes.start(lab, act.name)
            self._again(lab, act.name)


def _wires(lab: Lab) -> Wires:
    from labctl.providers.netns.wires import Wires

    return Wires(lab)


def _of_link(wire: Wire) -> Pending:
    return Pending(kind=ChangeKind.LINK, name=wire.name)


def _require_running(lab: Lab, wire: Wire) -> None:
    for end in wire.ends:
        if end.part in read_changes(lab.name).nodes_stopped:
            raise UsageError(
                what=f"link {wire.name} is gone: node {end.part} is stopped",
                remedy=f"labctl node {lab.name} {end.part} start",
            )
