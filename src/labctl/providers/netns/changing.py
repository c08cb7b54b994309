"""What a person may change in a running netns lab: links, nodes, faults, impairments. `Changing` of the provider seam.

Every act is written down before it begins (`changes`), so that one that is cut off is finished by the next command;
what takes a while (a link that flaps) is also watched by a process of its own, which finishes it at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from labctl.errors import LabError, UsageError
from labctl.model.changes import Broken, ChangeKind, Changes, Pending, Power
from labctl.model.lab import Lab, Pair
from labctl.names import split_namespace
from labctl.providers.netns.changes import acting, read_changes, restore, settle, update_changes
from labctl.system.signals import uninterrupted

if TYPE_CHECKING:  # typing only: keeps `labctl list` fast
    from labctl.model.fault import FaultSite, FaultText
    from labctl.model.impairment import Impairment
    from labctl.model.links import LinkState
    from labctl.providers.netns.plan_wires import Wire
    from labctl.providers.netns.wires import Wires


class NetnsChanging:
    """`Changing` of the provider seam. Stateless; each act loads what it needs."""

    def changes(self, lab: Lab) -> Changes:
        return read_changes(lab.name)

    def settle(self, lab: Lab) -> tuple[str, ...]:
        return settle(lab.name, lambda act, changes: self._realise(lab, act, changes))

    def restore(self, lab: Lab, changes: Changes) -> tuple[tuple[str, LabError], ...]:
        return restore(lab.name, changes, lambda act, changes: self._realise(lab, act, changes))

    def links(self, lab: Lab) -> tuple[LinkState, ...]:
        from labctl.providers.netns import impairing

        wires = _wires(lab)
        if not (asked := impairing.in_force(wires)):
            return wires.states()
        by_name = {wire.name: wire for wire in wires.all}
        return tuple(
            replace(state, impairments=impairing.words(by_name[state.name], asked[state.name]))
            if state.name in asked
            else state
            for state in wires.states()
        )

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
        with acting(lab.name, _of_link(wire)), _guarded(lab):
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
        with acting(lab.name, act), _guarded(lab):
            if power is not Power.START:
                nodes.stop(lab, name)
            update_changes(lab.name, lambda changes: changes.with_node(name, is_stopped=is_stopped))
            if not is_stopped:
                with self._stopped_on_failure(lab, name):
                    nodes.start(lab, name)
                self._again(lab, name)
        return tuple(sorted(split[1] for one in namespaces if (split := split_namespace(one)) and split[1] != name))

    def faults(self, lab: Lab) -> tuple[tuple[FaultText, str], ...]:
        from labctl.faults.table import FAULTS

        return tuple((entry.text, entry.unfit(lab)) for entry in FAULTS)

    def break_(self, lab: Lab, name: str, *, seed: int | None, is_hidden: bool) -> tuple[FaultText, FaultSite]:
        from labctl.faults.table import chosen
        from labctl.providers.netns.breaking import carry_out, mended_on_failure

        entry = chosen(lab, name, seed)
        site = entry.site(lab, seed)
        act = Pending(kind=ChangeKind.FAULT, name=entry.name)
        with contextlib.ExitStack() as stack:
            if not is_hidden:
                stack.enter_context(acting(lab.name, act))
                broken = Broken(fault=entry.name, where=site.where, seed=seed)
                update_changes(lab.name, lambda changes: changes.with_fault(broken))
            stack.enter_context(uninterrupted())
            try:
                with mended_on_failure(lab, site.mends):
                    carry_out(lab, site.breaks)
            except BaseException:
                update_changes(lab.name, lambda changes: changes.without_fault(entry.name).ended(act))
                raise
        return entry.text, site

    def mend(self, lab: Lab, name: str | None) -> tuple[str, ...]:
        from labctl.faults.table import BY_NAME, chosen, repairs
        from labctl.providers.netns.breaking import carry_out

        recorded = tuple(one.fault for one in read_changes(lab.name).faults)
        if name is not None and name not in BY_NAME:
            chosen(lab, name, None)  # says what there is
        carry_out(lab, repairs(lab, () if name is None else (name,)))
        for one in recorded if name is None else (name,):
            update_changes(lab.name, lambda changes, one=one: changes.without_fault(one))  # type: ignore[misc]
        return tuple(one for one in recorded if name in (None, one))

    def impairments(self, lab: Lab) -> Mapping[str, Impairment]:
        from labctl.providers.netns import impairing

        if not (lab.impairments or read_changes(lab.name).impairments):
            return {}
        return impairing.in_force(_wires(lab))

    def impair(self, lab: Lab, names: Sequence[str], asked: Impairment | None) -> str:
        wires = _wires(lab)
        wire = wires.named(*names)
        _require_running(lab, wire)
        with acting(lab.name, _of_impairment(wire)), uninterrupted():
            self._set_impairment(wires, wire, asked)
        return wire.name

    @contextlib.contextmanager
    def impaired(self, lab: Lab, names: Sequence[str], asked: Impairment) -> Iterator[str]:
        from labctl.providers.netns import impairing

        wires = _wires(lab)
        wire = wires.named(*names)
        _require_running(lab, wire)
        before = impairing.in_force(wires).get(wire.name)
        with acting(lab.name, _of_impairment(wire)), _guarded(lab):
            try:
                impairing.impair(wires, wire, asked)
                yield wire.name
            finally:
                with uninterrupted():
                    self._set_impairment(wires, wire, before)

    def _set_impairment(self, wires: Wires, wire: Wire, asked: Impairment | None) -> None:
        """Recorded once it is set, where it is not as the scenario says: what fails leaves what the scenario says, in
        the lab and in the record."""
        from labctl.model.impairment import Impairment
        from labctl.providers.netns import impairing

        lab, nothing = wires.lab, Impairment()
        wanted, as_built = asked or nothing, wires.declared.get(wire.name, nothing)
        update_changes(lab.name, lambda changes: changes.with_impairment(wire.name, None))
        try:
            impairing.impair(wires, wire, wanted)
        except BaseException:
            with contextlib.suppress(LabError):
                impairing.impair(wires, wire, as_built)
            update_changes(lab.name, lambda changes: changes.ended(_of_impairment(wire)))
            raise
        if wanted != as_built:
            update_changes(lab.name, lambda changes: changes.with_impairment(wire.name, wanted))

    def differing(self, lab: Lab, pair: Pair, parts: Sequence[str]) -> tuple[str, ...]:
        from labctl.providers.netns.differing import differing

        del pair  # whatever can lose packets of a part can lose those of the pair
        return differing(lab, parts)

    def forget(self, lab: Lab, parts: AbstractSet[str]) -> None:
        """After these parts were mended: what was changed of them is no more. An impairment is its link's, and goes at
        both ends; a link that is down at an end that was not mended is down."""
        changes = read_changes(lab.name)
        if not (changes.impairments or changes.links_down or changes.nodes_stopped or changes.faults):
            return
        wires = _wires(lab)
        by_name = {wire.name: wire for wire in wires.all}
        for name in changes.impairments:
            if parts & {end.part for end in by_name[name].ends}:
                self._set_impairment(wires, by_name[name], wires.declared.get(name))
        up = [name for name in changes.links_down if by_name[name].down.part in parts]
        broken = [one.fault for one in changes.faults if one.where.partition(":")[0] in parts]

        def less(record: Changes) -> Changes:
            for name in up:
                record = record.with_link(name, is_up=True)
            for name in parts:
                record = record.with_node(name, is_stopped=False)
            for name in broken:
                record = record.without_fault(name)
            return record

        update_changes(lab.name, less)

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
        from labctl.providers.netns import impairing

        wires, changes = _wires(lab), read_changes(lab.name)
        asked = impairing.in_force(wires)
        for wire in wires.all:
            if name not in {end.part for end in wire.ends}:
                continue
            if wire.name in changes.impairments or wire.name in asked:
                self._set_impairment(wires, wire, asked.get(wire.name))
            if wire.name in changes.links_down:
                wires.set(wire, is_up=False)

    def _realise(self, lab: Lab, act: Pending, changes: Changes) -> None:
        """Makes one thing as the record says that it is meant to be."""
        from labctl.providers.netns import impairing
        from labctl.providers.netns import power as nodes

        if act.kind is ChangeKind.LINK:
            wires = _wires(lab)
            wires.set(wires.named(act.name), is_up=act.name not in changes.links_down)
        elif act.kind is ChangeKind.IMPAIRMENT:
            wires = _wires(lab)
            wire = wires.named(act.name)
            self._set_impairment(wires, wire, impairing.in_force(wires).get(wire.name))
        elif act.kind is ChangeKind.FAULT:
            self._realise_fault(lab, act.name, changes)
        elif act.name in changes.nodes_stopped:
            nodes.stop(lab, act.name)
        else:
            nodes.start(lab, act.name)
            self._again(lab, act.name)

    def _realise_fault(self, lab: Lab, name: str, changes: Changes) -> None:
        """Put in whole, if it was to be put in."""
        from labctl.faults.table import ANY, BY_NAME, chosen, repairs
        from labctl.providers.netns.breaking import carry_out

        if name == ANY or name not in BY_NAME:
            raise UsageError(what=f"there is no fault {name}", remedy=f"labctl break {lab.name}")
        chosen(lab, name, None)
        broken = next((one for one in changes.faults if one.fault == name), None)
        carry_out(lab, repairs(lab, (name,)))
        if broken is not None:
            carry_out(lab, BY_NAME[name].site(lab, broken.seed).breaks)


def _guarded(lab: Lab) -> AbstractContextManager[None]:
    """A process stands by that finishes the act at once if this one is killed."""
    from labctl.system.guard import guarded  # starts processes: not where changes are only read

    return guarded(("link", lab.name))


def _wires(lab: Lab) -> Wires:
    from labctl.providers.netns.wires import Wires

    return Wires(lab)


def _of_link(wire: Wire) -> Pending:
    return Pending(kind=ChangeKind.LINK, name=wire.name)


def _of_impairment(wire: Wire) -> Pending:
    return Pending(kind=ChangeKind.IMPAIRMENT, name=wire.name)


def _require_running(lab: Lab, wire: Wire) -> None:
    for end in wire.ends:
        if end.part in read_changes(lab.name).nodes_stopped:
            raise UsageError(
                what=f"link {wire.name} is gone: node {end.part} is stopped",
                remedy=f"labctl node {lab.name} {end.part} start",
            )
