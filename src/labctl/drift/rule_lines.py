"""The difference between two listings of `iptables-save`: rules by their comments, policies, and the order. Pure.

Both listings are of one tool, so that a rule that is equal has equal text.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import field
from itertools import zip_longest

from labctl.model.drift import Change
from labctl.values import dataclass

_COMMENT = re.compile(r' -m comment --comment ("(?:[^"\\]|\\.)*"|\S+)')
_COUNTERS = re.compile(r" \[\d+:\d+\]$")


@dataclass(slots=True)
class Chain:
    """A chain of a table: its policy (`-` of one that is not built in), and its rules in their order."""

    policy: str
    rules: list[str] = field(default_factory=list)


Listing = dict[tuple[str, str], Chain]
"""By table and chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDifference:
    """One rule or chain that differs. `commands` are what a person types in the namespace, each an argument list: the
    text of a rule is that of whoever wrote it, and no shell's."""

    change: Change
    name: str
    wanted: str
    found: str
    commands: tuple[tuple[str, ...], ...]


def parse_listing(text: str) -> Listing:
    """What iptables-save printed."""
    found: Listing = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chain, _, policy = line[1:].partition(" ")
            found[table, chain] = Chain(_COUNTERS.sub("", policy))
        elif line.startswith("-A "):
            _, chain, *_ = line.split(" ", 2)
            found.setdefault((table, chain), Chain("-")).rules.append(line)
    return found


def differences(wanted: Listing, found: Listing) -> Iterator[RuleDifference]:
    """Chains first, then the rules of each."""
    for table, chain in dict.fromkeys((*wanted, *found)):
        asked, there = wanted.get((table, chain)), found.get((table, chain))
        if asked is None:
            assert there is not None
            if there.policy == "-":
                yield _whole_chain(Change.EXTRA, table, chain, "-F", "-X")
            asked = Chain("-" if there.policy == "-" else "ACCEPT")
        if there is None:
            if asked.policy == "-":
                yield _whole_chain(Change.MISSING, table, chain, "-N")
            there = Chain("-" if asked.policy == "-" else "ACCEPT")
        if asked.policy != there.policy:
            yield RuleDifference(
                change=Change.CHANGED,
                name=f"policy of chain {chain} of table {table}",
                wanted=asked.policy,
                found=there.policy,
                commands=(_command(table, "-P", chain, asked.policy),),
            )
        yield from _of_chain(table, chain, asked.rules, there.rules)


def _whole_chain(change: Change, table: str, chain: str, *acts: str) -> RuleDifference:
    commands = tuple(_command(table, act, chain) for act in acts)
    return RuleDifference(change=change, name=f"chain {chain} of table {table}", wanted="", found="", commands=commands)


def _of_chain(table: str, chain: str, wanted: list[str], found: list[str]) -> Iterator[RuleDifference]:
    if wanted == found:
        return
    lacking, beside = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
    if not lacking and not beside:
        yield RuleDifference(
            change=Change.CHANGED,
            name=f"order of the rules in chain {chain} of table {table}",
            wanted="as planned",
            found="another",
            commands=(),
        )
        return
    strangers = list(beside.elements())
    for rule in lacking.elements():
        place = wanted.index(rule) + 1
        same = next((one for one in strangers if (said := comment_of(rule)) and comment_of(one) == said), None)
        if same is None and len(found) == len(wanted) and found[place - 1] in strangers:
            same = found[place - 1]  # in its place
        insert = _command(table, "-I", chain, str(place), *_words(rule)[2:])
        if same is None:
            yield RuleDifference(
                change=Change.MISSING, name=_name(table, chain, rule), wanted=rule, found="", commands=(insert,)
            )
            continue
        strangers.remove(same)
        yield RuleDifference(
            change=Change.CHANGED,
            name=_name(table, chain, rule),
            wanted=rule,
            found=same,
            commands=(_delete(table, same), insert),
        )
    for rule in strangers:
        yield RuleDifference(
            change=Change.EXTRA,
            name=_name(table, chain, rule),
            wanted="",
            found=rule,
            commands=(_delete(table, rule),),
        )


def _command(table: str, *words: str) -> tuple[str, ...]:
    return ("iptables", "-t", table, *words)


def _delete(table: str, rule: str) -> tuple[str, ...]:
    return _command(table, "-D", *_words(rule)[1:])


def _words(rule: str) -> list[str]:
    """The words of a rule (`-A CHAIN …`) as iptables-save quotes them: in double quotes, `\\` before quotes of both
    kinds."""
    try:
        return shlex.split(rule.replace("\\'", "'"))
    except ValueError:
        return rule.split(" ")


def _name(table: str, chain: str, rule: str) -> str:
    said = comment_of(rule)
    return f'rule "{said}" in chain {chain} of table {table}' if said else f"rule {rule} of table {table}"


def comment_of(rule: str) -> str:
    """The comment of a rule as iptables-save prints it; empty for one without."""
    match = _COMMENT.search(rule)
    return "" if match is None else _words(match[1])[0]


_NFT_COUNTERS = re.compile(r" counter packets \d+ bytes \d+")


def parse_blocks(text: str) -> dict[str, tuple[str, ...]]:
    """The chains, sets and maps of a table that `nft list table` printed: each head (`chain services`) with its
    lines."""
    found: dict[str, list[str]] = {}
    block = ""
    for line in text.splitlines():
        said = _NFT_COUNTERS.sub(" counter", line.strip())
        if line.startswith("\t") and not line.startswith("\t\t") and said.endswith("{"):
            block = said.removesuffix("{").strip()
            found[block] = []
        elif line == "\t}":
            block = ""
        elif block:
            found[block].append(said)
    return {name: tuple(lines) for name, lines in found.items()}


def first_difference(wanted: Sequence[str], found: Sequence[str]) -> tuple[str, str]:
    """The first lines that are not alike; empty where one has none there."""
    for asked, there in zip_longest(wanted, found, fillvalue=""):
        if asked != there:
            return asked, there
    return "", ""
