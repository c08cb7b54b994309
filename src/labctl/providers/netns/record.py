"""The facts of a lab as a file, from which the same Lab value can be read again.

The file is for `labctl status` and for an `up` that has nothing to do. Nothing depends on it for removing a lab.

Which namespaces a lab is made of: the underlay, the nodes, the pods, the hosts outside. Pure.

The mark of a namespace: the text on its loopback device by which labctl knows its own. Pure.

It starts with `names.MARK` and goes on with facts as JSON, so that a lab can be listed when nothing but its
namespaces is left. An interface alias holds 255 bytes; the facts are cut to fit.

The locks of a lab: one for the labctl that builds it, one for the labctl that watches it. Both end with their process,
so that nothing stays behind.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from labctl.codec import plain, typed
from labctl.errors import UsageError
from labctl.json_text import parse_json
from labctl.model.lab import Lab
from labctl.names import MARK, UNDERLAY, is_name, namespace_of
from labctl.planning.record import lab_of, lab_to_json
from labctl.system import locks, netns
from labctl.values import dataclass

_BEFORE = 1
"""The version that labctl 0.1 wrote in place of `apiVersion`, with the lab's fields under `lab`."""


def record_path(lab: str) -> Path:
    """Raises ValueError for what is not a lab's name: the folder of the record is removed with the lab."""
    if not is_name(lab):
        raise ValueError(f"{lab[:60]!r} is not a valid lab name")
    return netns.RUN_DIRECTORY / "labs" / lab / "lab.json"


def as_document(lab: Lab) -> str:
    """The lab as JSON on one line."""
    return json.dumps(lab_to_json(lab), ensure_ascii=True)


def parse_document(text: str) -> Lab | None:
    """The lab that `as_document` was given; None when the file is from another version or is not whole."""
    try:
        document = parse_json(text)
        if not isinstance(document, dict):
            return None
        if "version" not in document:
            return lab_of(document)
        return typed(Lab, document.get("lab"), where="the record") if document["version"] == _BEFORE else None
    except (ValueError, RecursionError, UsageError):
        return None


def is_document(text: str) -> bool:
    """Whether it is a whole record, of whatever version."""
    try:
        document = parse_json(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and bool({"version", "apiVersion"} & set(document))


def parts_of(lab: Lab) -> tuple[str, ...]:
    """The namespaces that a whole lab has."""
    return tuple(namespace_of(lab.name, part) for part in part_names(lab))


def part_names(lab: Lab) -> tuple[str, ...]:
    return (
        UNDERLAY,
        *(router.name for router in lab.routers),
        *(node.name for node in lab.nodes),
        *(pod.name for pod in lab.pods),
        *(host.name for host in lab.outside),
    )


_ALIAS_BYTES = 255
_DIGEST_DIGITS = 16
_SCENARIO_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceMark:
    """What the mark of a namespace says. `digest` is the beginning of the lab's digest."""

    scenario: str = ""
    digest: str = ""
    kind: str = ""


def mark_of(lab: Lab, kind: str) -> str:
    """The alias for a part (`node`, `pod`, `router`, `outside`, `underlay`) of the lab."""
    mark = NamespaceMark(scenario=lab.scenario[:_SCENARIO_CHARACTERS], digest=lab.digest[:_DIGEST_DIGITS], kind=kind)
    text = f"{MARK} {json.dumps(plain(mark), separators=(',', ':'))}"
    return text if len(text.encode()) <= _ALIAS_BYTES else MARK


def parse_mark(alias: str) -> NamespaceMark | None:
    """What the alias says; None when it is not labctl's. A bare mark is a mark, without facts."""
    mark, _, facts = alias.partition(" ")
    if mark != MARK:
        return None
    try:
        return typed(NamespaceMark, parse_json(facts), where="the mark")
    except (ValueError, UsageError):
        return NamespaceMark()


_CLAIM_S = 0.2
"""`is_claimed` itself holds the lock for a moment."""


@contextlib.contextmanager
def claimed(lab: str) -> Iterator[None]:
    """Holds the name while the lab is being built. Raises UsageError while another labctl has it."""
    with locks.held(_building(lab), timeout_s=_CLAIM_S) as is_mine:
        if not is_mine:
            raise UsageError(
                what=f"the lab {lab} is being built by another labctl right now",
                remedy="wait for it, or choose another name: labctl up … --name OTHER",
            )
        yield


def is_claimed(lab: str) -> bool:
    """True while a labctl that is alive builds the lab of that name."""
    return locks.is_held(_building(lab))


@contextlib.contextmanager
def turn(lab: str, *, timeout_s: float) -> Iterator[bool]:
    """Whether the lock for watching the lab was free within that time; it is held as long as the context. Raises
    OSError when the lab is gone."""
    netns.path_of(namespace_of(lab, UNDERLAY)).stat()
    with locks.held(watching_lock(lab), timeout_s=timeout_s) as is_mine:
        yield is_mine


def watching_lock(lab: str) -> str:
    """The name of the lock of `turn`."""
    return f"watch-{lab}"


CLAIM = "build-"
"""How the name of the lock begins that a lab which is being built has."""


def _building(lab: str) -> str:
    return f"{CLAIM}{lab}"
