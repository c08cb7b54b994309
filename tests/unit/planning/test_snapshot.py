"""Snapshots are read as they were written, and nothing is read that labctl would not have written."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.model.changes import NOTHING, Broken, ChangeKind, Changes, Pending
from labctl.model.drift import Change, Difference
from labctl.model.impairment import Impairment, LinkDirection
from labctl.model.snapshot import ExtraAddress, Snapshot
from labctl.planning.record import digest_of
from labctl.planning.snapshot import apart, parse_snapshot, snapshot_document
from labctl.testing.labs import example_lab

LAB = replace(example_lab(), digest=digest_of(example_lab()))
CHANGES = Changes(
    links_down=("node1",),
    faults=(Broken(fault="wrong-vtep", where="node1: tunnel", seed=7),),
    impairments={"client": Impairment(loss=0.01, direction=LinkDirection.TO)},
)
DIFFERENCE = Difference(change=Change.EXTRA, part="client", kind="address", name="address 10.9.9.9 dev eth0")
SNAPSHOT = Snapshot(
    saved_at="2026-11-30T08:30:00.000Z",
    versions={"labctl": "0.3.0", "kernel": "6.18.0"},
    scenario="apiVersion: labctl/v1\n",
    lab=LAB,
    changes=CHANGES,
    addresses=(ExtraAddress(part="client", device="eth0", address=IPv4Interface("10.9.9.9/24")),),
    differences=(DIFFERENCE,),
    plan={"apiVersion": "labctl/v1", "kind": "Plan", "lab": LAB.name, "steps": []},
)
DOCUMENT = snapshot_document(SNAPSHOT)

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
impairments = st.builds(
    Impairment,
    loss=st.floats(0, 1),
    delay_s=st.floats(0, 60),
    rate_bit_per_s=st.floats(0, 1e12),
    direction=st.sampled_from(LinkDirection),
    seed=st.integers(0, 2**63 - 1),
)
changes = st.builds(
    Changes,
    links_down=st.lists(names, max_size=3).map(tuple),
    nodes_stopped=st.lists(names, max_size=3).map(tuple),
    faults=st.lists(st.builds(Broken, fault=names, where=st.text(), seed=st.none() | st.integers(0)), max_size=3).map(
        tuple
    ),
    impairments=st.dictionaries(names, impairments, max_size=3),
)
differences = st.builds(
    Difference, change=st.sampled_from(Change), part=names, kind=st.text(), name=st.text(), found=st.text()
)
snapshots = st.builds(
    Snapshot,
    saved_at=st.text(),
    versions=st.dictionaries(st.text(), st.text(), max_size=3),
    scenario=st.text(),
    lab=st.just(LAB),
    changes=changes,
    addresses=st.lists(
        st.builds(
            ExtraAddress,
            part=names,
            device=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,14}", fullmatch=True),
            address=st.ip_addresses(v=4).map(IPv4Interface),
        ),
        max_size=3,
    ).map(tuple),
    differences=st.none() | st.lists(differences, max_size=3).map(tuple),
    plan=st.dictionaries(st.text(), st.integers(), max_size=3),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(snapshots)
def test_what_is_written_is_read_back(snapshot: Snapshot) -> None:
    assert parse_snapshot(snapshot_document(snapshot)) == snapshot


def test_what_was_begun_and_not_ended_is_not_saved() -> None:
    pending = replace(CHANGES, pending=(Pending(kind=ChangeKind.LINK, name="node1"),))
    assert parse_snapshot(snapshot_document(replace(SNAPSHOT, changes=pending))).changes == CHANGES


def test_one_that_is_cut_off_anywhere_is_refused() -> None:
    whole = DOCUMENT.rstrip(b"\n")
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="not whole, or no snapshot at all"):
            parse_snapshot(whole[:end])
    assert parse_snapshot(whole) == SNAPSHOT


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_and_none_of_them_quoted(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it is (not whole, or no snapshot at all|no document of labctl)"):
        parse_snapshot(data)


@given(json_values)
def test_any_json_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^it is (not whole, or no snapshot at all|no document of labctl)"):
        parse_snapshot(json.dumps(value).encode())


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += places(inner, (*path, key))
    return found


PLACES = [path for path in places(json.loads(DOCUMENT)) if path[0] not in ("plan", "scenario", "versions", "savedAt")]


@given(st.sampled_from(PLACES), json_values)
def test_whatever_stands_at_any_place_is_taken_or_refused_and_nothing_else(
    path: tuple[str | int, ...], value: object
) -> None:
    """No other error, so no traceback; and what is taken is what would have been written."""
    document = json.loads(DOCUMENT)
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    try:
        taken = parse_snapshot(json.dumps(document).encode())
    except ValueError:
        return
    assert parse_snapshot(snapshot_document(taken)) == taken


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"apiVersion": "labctl/v9"}, "it is of labctl/v9, written by labctl 0.3.0; this labctl reads labctl/v1"),
        ({"kind": "Lab"}, "it is a Lab of labctl/v1, not a Snapshot"),
        ({"apiVersion": "v1", "kind": "Pod"}, "it is no document of labctl: it has no apiVersion and kind"),
        ({"more": 1}, "it has unknown keys: more"),
        ({"plan": None}, "plan: an object was expected, not None"),
        ({"changes": {"linksDown": "node1"}}, "changes.linksDown: a list was expected, not 'node1'"),
        ({"changes": {"impairments": {"client": {"loss": 2}}}}, "changes.impairments.client.loss"),
        ({"changes": {"pending": [{"kind": "link", "name": "node1"}]}}, "changes.pending: a snapshot has none"),
        ({"addresses": [{"part": "../../etc", "device": "eth0", "address": "10.0.0.1/8"}]}, "addresses.0.part"),
        ({"addresses": [{"part": "client", "device": "-x", "address": "10.0.0.1/8"}]}, "addresses.0.device"),
        ({"addresses": [{"part": "client", "device": "eth0", "address": "x"}]}, "addresses.0.address"),
        ({"lab": {**json.loads(DOCUMENT)["lab"], "name": "../../etc"}}, "lab: name"),
        ({"lab": {**json.loads(DOCUMENT)["lab"], "digest": "0" * 64}}, "lab: its digest does not fit its content"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_said(change: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the text is held below
        parse_snapshot(json.dumps(json.loads(DOCUMENT) | change).encode())
    assert why in str(refused.value)


def test_a_key_that_is_missing_is_named() -> None:
    for key in json.loads(DOCUMENT):
        document = json.loads(DOCUMENT)
        del document[key]
        with pytest.raises(ValueError, match=f"{key}|no document of labctl"):
            parse_snapshot(json.dumps(document).encode())


def test_two_labs_differ_by_what_one_has_and_the_other_has_not() -> None:
    namespace = replace(DIFFERENCE, name="namespace", found="labctl.one.node9", kind="namespace")
    mirrored = replace(namespace, found="labctl.two.node9")
    process = replace(DIFFERENCE, kind="process", name="process sleep (17)")
    other_number = replace(process, name="process sleep (4711)", command="kill 4711")
    assert apart("one", [namespace, process], "two", [mirrored, other_number]).is_nothing
    found = apart("one", [DIFFERENCE, DIFFERENCE], "two", [DIFFERENCE, namespace])
    assert (found.only_here, found.only_there) == ((DIFFERENCE,), (namespace,))
    assert apart("one", [], "two", []).is_nothing


def test_a_lab_that_is_not_compared_has_no_differences_and_no_changes() -> None:
    bare = replace(SNAPSHOT, differences=None, changes=NOTHING, addresses=())
    assert parse_snapshot(snapshot_document(bare)) == bare
