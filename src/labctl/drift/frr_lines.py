"""The difference between what a routing daemon was told and what it says that it goes by. Pure.

A daemon prints its configuration in its own order and with statements of its own; what is compared are statements, each
with those that it stands in (`router bgp 65000 / address-family ipv4 unicast / network 10.0.0.0/24`).

It stands alone because it knows the words of one program, FRR.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SEPARATOR = " / "
_OWN = ("frr version", "frr defaults", "hostname ", "log ", "service ", "no ipv6 forwarding", "no ip forwarding",
        "ip forwarding", "ipv6 forwarding", "Building configuration", "Current configuration", "password ",
        "enable password", "domainname", "username ")  # fmt: skip
"""Statements that FRR prints of itself, or that say nothing of routing."""
_NUMBER = re.compile(r"^((?:no )?ip prefix-list \S+ )seq \d+ ")
"""FRR numbers the entries of a list that were given without one."""
_ENDS = ("exit", "end", "!")


def statements(text: str) -> list[str]:
    """Each statement behind those that it stands in, in order."""
    found: list[str] = []
    within: list[tuple[int, str]] = []
    for line in text.splitlines():
        said = _NUMBER.sub(r"\1", line.strip())
        if not said or said.startswith("!") or said.startswith(_OWN) or said.startswith(_ENDS):
            continue
        indent = len(line) - len(line.lstrip())
        while within and within[-1][0] >= indent:
            within.pop()
        found.append(_SEPARATOR.join((*(outer for _, outer in within), said)))
        within.append((indent, said))
    return found


def configuration_differences(wanted: str, found: str) -> tuple[list[str], list[str]]:
    """Statements that are missing, and those beside. A wanted `no …` is missing where its opposite is said: what is
    the default is not printed."""
    asked, there = statements(wanted), statements(found)
    has = set(there)
    lacking = [one for one in asked if one not in has and not (_is_negative(one) and _opposite(one) not in has)]
    known = set(asked)
    return lacking, [one for one in there if one not in known and not _is_asked_otherwise(one, known)]


def _is_negative(statement: str) -> bool:
    return statement.rpartition(_SEPARATOR)[2].startswith("no ")


def _opposite(statement: str) -> str:
    outer, separator, said = statement.rpartition(_SEPARATOR)
    return outer + separator + (said.removeprefix("no ") if said.startswith("no ") else f"no {said}")


def _is_asked_otherwise(statement: str, known: set[str]) -> bool:
    """A statement whose opposite is wanted is named as missing already."""
    return _opposite(statement) in known


def commands(lacking: list[str], beside: list[str]) -> Iterator[tuple[str, ...]]:
    """What is typed in configuration mode, each with the statements that lead to it: first what goes, then what
    comes."""
    for statement in beside:
        *outer, said = statement.split(_SEPARATOR)
        if not any(statement.startswith(other + _SEPARATOR) for other in beside):
            yield (*outer, said.removeprefix("no ") if said.startswith("no ") else f"no {said}")
    for statement in lacking:
        yield tuple(statement.split(_SEPARATOR))
