"""Rule sets of netfilter. Each is a process (iptables-restore), and those of several nodes run at the same time."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from labctl.errors import StepFailed
from labctl.model.result import Completed
from labctl.planning.shell import fed, quoted
from labctl.providers.netns.kinds.base import Batch, BuildContext, Kind, NamespaceReader, Object, ObjectKind, Thing
from labctl.system import netns

_IPTABLES_TIMEOUT_S = 30.0
_RULE = re.compile(r'^-A .* --comment "([^"]*)"')
_TABLE = re.compile(r"^\*(\w+)")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IptablesRestore(Object):
    """A node's netfilter rules, as the text that iptables-restore reads.

    `optional` are lines of it that a kernel may lack the match for; they are left out where it does.
    """

    namespace: str
    rules: str
    optional: tuple[str, ...] = ()

    def argv(self) -> tuple[str, ...]:
        return ("iptables-restore",)

    def without_optional(self) -> str:
        return "".join(f"{line}\n" for line in self.rules.splitlines() if line not in self.optional)

    def shell(self) -> str:
        return fed(quoted(netns.command(self.namespace, self.argv())), self.rules, end="RULES")

    def batch(self) -> Batch:
        return (_restore,)

    def things(self) -> Iterator[Thing]:
        for name in _numbered(_commented(self)):
            yield Thing(self.namespace, ObjectKind.RULE, name)


def _restore(actions: Sequence[IptablesRestore], context: BuildContext) -> None:
    """All at once; then, for a kernel without one of the optional matches, once more without those."""
    refused = [pair for pair in _run_restores(actions, lambda action: action.rules) if pair[1].returncode]
    retried = _run_restores([action for action, _ in refused if action.optional], IptablesRestore.without_optional)
    for action, done in retried:
        if not done.returncode:
            left_out = "; ".join(action.optional)
            _log.warning("%s", f"{action.namespace}: left out, since this kernel lacks the match: {left_out}")
    failed = [pair for pair in retried if pair[1].returncode] + [pair for pair in refused if not pair[0].optional]
    for action, done in failed:
        raise StepFailed(
            what=f"iptables-restore failed in {action.namespace}",
            cause=done.error_text.strip()
            or ("did not end within 30 s" if done.timed_out else f"it ended with status {done.returncode}"),
            remedy=f"{action.shell().splitlines()[0]}  # the rules: labctl plan SCENARIO --shell",
        )


def _run_restores(
    actions: Sequence[IptablesRestore], text: Callable[[IptablesRestore], str]
) -> list[tuple[IptablesRestore, Completed]]:
    from labctl.system.process import Process  # not where a lab is only planned

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


def _commented(action: IptablesRestore) -> Iterator[tuple[str, str]]:
    """(table, comment) of each rule that every kernel takes."""
    table = ""
    for line in action.without_optional().splitlines():
        if head := _TABLE.match(line):
            table = head[1]
        elif rule := _RULE.match(line):
            yield table, rule[1]


def _numbered(rules: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A name for each rule; those that have a comment in common are counted."""
    seen: Counter[tuple[str, str]] = Counter()
    for rule in rules:
        seen[rule] += 1
        table, comment = rule
        if seen[rule] > 1:
            yield f'rule "{comment}" of table {table}, number {seen[rule]}'
        else:
            yield f'rule "{comment}" of table {table}'


def _rules(look: NamespaceReader) -> Iterator[str]:
    from labctl.system.netfilter import rule_comments  # likewise

    return _numbered(rule_comments())


RULES = Kind(name=ObjectKind.RULE, objects=(IptablesRestore,), read=_rules)
