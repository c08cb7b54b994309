"""Rule sets of netfilter. Each is a process (iptables-restore), and those of several nodes run at the same time."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from labctl.errors import StepFailed
from labctl.model.result import Completed
from labctl.planning.shell import fed, quoted
from labctl.providers.netns.kinds.base import (
    Batch,
    BuildContext,
    Found,
    Kind,
    NamespaceReader,
    Object,
    ObjectKind,
    Thing,
)
from labctl.system import netns
from labctl.values import dataclass

_TIMEOUT_S = 120.0
"""For the rules of 20,000 Services on a busy machine."""
_LONGEST_CAUSE = 2000
_RULE = re.compile(r'^-[AI] .* --comment "([^"]*)"')
_TABLE = re.compile(r"^\*(\w+)")
_CHAIN = re.compile(r"^\tchain (\S+) \{", re.MULTILINE)
_log = logging.getLogger(__name__)
_Rules = TypeVar("_Rules", "IptablesRestore", "NftRestore")


@dataclass(frozen=True, slots=True, kw_only=True)
class IptablesRestore(Object):
    """A node's netfilter rules, as the text that iptables-restore reads.

    `optional` are lines of it that a kernel may lack the match for; they are left out where it does. With `keeps`, what
    is there stays. Rules with `unread` in their comment are so many that they are not read back one by one.
    """

    namespace: str
    rules: str
    optional: tuple[str, ...] = ()
    keeps: bool = False
    unread: str = ""

    def argv(self) -> tuple[str, ...]:
        return ("iptables-restore", "--noflush") if self.keeps else ("iptables-restore",)

    def without_optional(self) -> str:
        return "".join(f"{line}\n" for line in self.rules.splitlines() if line not in self.optional)

    def shell(self) -> str:
        return fed(quoted(netns.command(self.namespace, self.argv())), self.rules, end="RULES")

    def batch(self) -> Batch:
        return (_restore, self.keeps)

    def things(self) -> Iterator[Thing]:
        for name in _numbered(_commented(self)):
            yield Thing(self.namespace, ObjectKind.RULE, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class NftRestore(Object):
    """A table of a node, as the text that `nft -f` reads. It is read back by its chains, but for those whose names have
    `unread` in them."""

    namespace: str
    table: str
    rules: str
    unread: str = ""

    def argv(self) -> tuple[str, ...]:
        return ("nft", "-f", "-")

    def shell(self) -> str:
        return fed(quoted(netns.command(self.namespace, self.argv())), self.rules, end="RULES")

    def batch(self) -> Batch:
        return (_load,)

    def things(self) -> Iterator[Thing]:
        for chain in _CHAIN.findall(self.rules):
            if not self.unread or self.unread not in chain:
                yield Thing(self.namespace, ObjectKind.CHAIN, _chain_name(self.table, chain))


def _load(actions: Sequence[NftRestore], context: BuildContext) -> None:
    for action, done in _run_all(actions, lambda action: action.rules):
        if done.returncode:
            raise _refused(action, done)


def _restore(actions: Sequence[IptablesRestore], context: BuildContext) -> None:
    """All at once; then, for a kernel without one of the optional matches, once more without those."""
    refused = [pair for pair in _run_all(actions, lambda action: action.rules) if pair[1].returncode]
    retried = _run_all([action for action, _ in refused if action.optional], IptablesRestore.without_optional)
    for action, done in retried:
        if not done.returncode:
            left_out = "; ".join(action.optional)
            _log.warning("%s", f"{action.namespace}: left out, since this kernel lacks the match: {left_out}")
    failed = [pair for pair in retried if pair[1].returncode] + [pair for pair in refused if not pair[0].optional]
    for action, done in failed:
        raise _refused(action, done)
    for action in actions:
        if not action.keeps:
            _forget_connections(action.namespace)


def _forget_connections(namespace: str) -> None:
    """Rules that translate are asked for the first packet of a connection: one that was known before they were changed
    would go on as before. A ping whose identifier is used again (its process's number) belongs to such a one."""
    from labctl.system import netfilter  # not where a lab is only planned

    with contextlib.suppress(OSError), netns.entered(netns.path_of(namespace)):
        netfilter.forget_connections()


def _refused(action: IptablesRestore | NftRestore, done: Completed) -> StepFailed:
    return StepFailed(
        what=f"{action.argv()[0]} failed in {action.namespace}",
        cause=done.error_text.strip()[:_LONGEST_CAUSE]
        or (f"did not end within {_TIMEOUT_S:g} s" if done.timed_out else f"it ended with status {done.returncode}"),
        remedy=f"{action.shell().splitlines()[0]}  # the rules: labctl plan SCENARIO --shell",
    )


def _run_all(actions: Sequence[_Rules], text: Callable[[_Rules], str]) -> list[tuple[_Rules, Completed]]:
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
        return [(action, process.wait(timeout_s=_TIMEOUT_S)) for action, process in running]


def _commented(action: IptablesRestore) -> Iterator[tuple[str, str]]:
    """(table, comment) of each rule that every kernel takes and that is read back."""
    table = ""
    for line in action.without_optional().splitlines():
        if action.unread and action.unread in line:
            continue
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


def _rules(look: NamespaceReader) -> Iterator[Found]:
    from labctl.system.netfilter import rule_comments  # likewise

    return map(Found, _numbered(rule_comments()))


def _chain_name(table: str, chain: str) -> str:
    return f"chain {chain} of table {table}"


def _chains(look: NamespaceReader) -> Iterator[Found]:
    from labctl.system.netfilter import chains  # likewise

    return (Found(_chain_name(table, chain)) for table, chain in chains())


RULES = Kind(name=ObjectKind.RULE, objects=(IptablesRestore,), read=_rules)
CHAINS = Kind(name=ObjectKind.CHAIN, objects=(NftRestore,), read=_chains)
