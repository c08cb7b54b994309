"""The expected signatures against what a real cluster showed, tap by tap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labctl.codec import typed, viewed
from labctl.errors import UsageError
from labctl.model.lab import Encapsulation, HostRouting, Placement
from labctl.model.signature import Signature
from labctl.networks.cilium.expected import expected_signature
from labctl.path.difference import differences
from labctl.path.signature import recognise, recognise_encapsulation
from labctl.report.json import VIEWS

CELLS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[3] / "fixtures" / "checks" / "cells.json").read_text()
)["cells"]
# The security identities that the two pods had when the cells were recorded.
CLIENT_IDENTITY, SERVER_IDENTITY = 16843, 23579


def signature_from_record(record: dict[str, Any]) -> Signature:
    """A tap without a `role` is named by its role, as in recordings of real clusters."""
    taps = [{"role": tap["tap"], **tap} if isinstance(tap, dict) else tap for tap in record.get("taps", ())]
    return typed(Signature, {**record, "taps": taps} if "taps" in record else record, where="the recording")


def cell_name(cell: dict[str, Any]) -> str:
    return f"{cell['hostRouting']}-{cell['encapsulation']}-{cell['placement']}"


def expected(cell: dict[str, Any], host_routing: str | None = None, packets: int = 3) -> Any:
    return expected_signature(
        HostRouting(host_routing or cell["hostRouting"]),
        Encapsulation(cell["encapsulation"]),
        Placement(cell["placement"]),
        packets=packets,
        client_identity=CLIENT_IDENTITY,
        server_identity=SERVER_IDENTITY,
    )


def test_all_eight_cells_were_recorded() -> None:
    assert len({cell_name(cell) for cell in CELLS}) == len(CELLS) == 8


@pytest.mark.parametrize("cell", CELLS, ids=cell_name)
def test_the_expected_signature_is_the_recorded_one(cell: dict[str, Any]) -> None:
    recorded = signature_from_record(cell)
    signature: Signature = expected(cell).signature
    for ours, theirs in zip(signature.taps, recorded.taps, strict=True):
        assert ours == theirs
    assert signature == recorded


@pytest.mark.parametrize("cell", CELLS, ids=cell_name)
def test_the_recorded_signature_has_no_difference_to_the_expected_one(cell: dict[str, Any]) -> None:
    assert list(differences(expected(cell), signature_from_record(cell))) == []


@pytest.mark.parametrize("cell", CELLS, ids=cell_name)
def test_the_mode_is_recognised_from_the_recorded_packets_alone(cell: dict[str, Any]) -> None:
    recorded = signature_from_record(cell)
    assert recognise(recorded).host_routing == cell["hostRouting"]
    crossed = cell["encapsulation"] if cell["placement"] == "cross-node" else None
    assert recognise_encapsulation(recorded) == crossed


@pytest.mark.parametrize("cell", CELLS, ids=cell_name)
def test_the_record_of_a_signature_is_the_recorded_json(cell: dict[str, Any]) -> None:
    record = viewed(signature_from_record(cell), VIEWS)
    theirs = {key: cell[key] for key in ("placement", "encapsulation", "pingTtl")}
    theirs["taps"] = [{**tap, "role": tap["tap"]} for tap in cell["taps"]]
    assert record == theirs
    assert signature_from_record(record) == signature_from_record(cell)


def test_the_number_of_packets_and_the_identities_are_filled_in() -> None:
    cell = next(cell for cell in CELLS if cell_name(cell) == "bpf-vxlan-cross-node")
    uplink = expected(cell, packets=7).signature.taps[5]
    assert (uplink.request.packets, uplink.request.outer.vni) == (7, CLIENT_IDENTITY)
    assert (uplink.reply.packets, uplink.reply.outer.vni) == (7, SERVER_IDENTITY)


@pytest.mark.parametrize("host_routing", HostRouting)
@pytest.mark.parametrize("placement", [Placement.SAME_NODE, Placement.CROSS_NODE])
def test_geneve_shows_what_vxlan_does_at_its_own_device_and_port(
    host_routing: HostRouting, placement: Placement
) -> None:
    vxlan, geneve = (
        expected_signature(host_routing, how, placement, packets=3, client_identity=300, server_identity=400)
        for how in (Encapsulation.VXLAN, Encapsulation.GENEVE)
    )
    assert recognise(geneve.signature).host_routing is host_routing
    seen = [one for tap in geneve.signature.taps for one in (tap.request, tap.reply) if one is not None]
    carried = {one.outer.dst_port for one in seen if one.outer is not None}
    assert carried == ({6081} if placement is Placement.CROSS_NODE else set())
    if placement is Placement.CROSS_NODE:
        assert recognise_encapsulation(geneve.signature) is Encapsulation.GENEVE
        assert [one.kind for one in differences(vxlan, geneve.signature)], "one is not taken for the other"
    roles = [str(tap.role) for tap in geneve.signature.taps]
    assert roles == [str(tap.role).replace("cilium_vxlan", "cilium_geneve") for tap in vxlan.signature.taps]
    assert "read for Geneve" in geneve.source


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"placement": "x", "encapsulation": "vxlan"}, "taps: it is missing"),
        ({"taps": [], "placement": 3}, "placement: text"),
        ({"taps": [3], "placement": "same-node", "encapsulation": "vxlan"}, "taps.0: an object"),
        ({"taps": [{"tap": "nowhere"}], "placement": "same-node", "encapsulation": "vxlan"}, "nowhere"),
        ({"taps": [], "placement": "same-node", "encapsulation": "gre"}, "gre"),
        (
            {"taps": [{"tap": "client-lxc", "request": {"packets": True}}], "placement": "x", "encapsulation": "vxlan"},
            "packets: a whole number",
        ),
    ],
)
def test_an_invalid_record_is_refused(record: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError) as refused:
        signature_from_record(record)
    assert complaint in refused.value.cause
