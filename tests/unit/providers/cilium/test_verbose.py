"""`cilium status --verbose` as real agents printed it: lines kept, those that packets show marked, ranges beside."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

import pytest

from labctl.errors import MeasureFailed
from labctl.model.evidence import Evidence, ModeInForce
from labctl.model.lab import Fallback
from labctl.model.node_status import Shown, StatusLine
from labctl.providers.cilium.verbose import marked, parse_pod_ranges, parse_verbose, ranges_of, with_ranges

from .cilium_recordings import datapath, recorded

OLD, NEW = (parse_verbose(recorded(f"status-verbose-{name}.txt")) for name in ("bpf-vxlan", "v1.16-bpf-vxlan"))
ASKED = IPv4Network("10.244.0.0/16")


def value(lines: tuple[StatusLine, ...], label: str) -> str:
    return next(line.value for line in lines if line.label == label)


def mode(*evidence: Evidence, fallback: Fallback | None = None) -> ModeInForce:
    found = {key: claim for piece in evidence for key, claim in (piece.found or {}).items()}
    return ModeInForce(
        lab="demo", asked=datapath().asked(), found=found, evidence=evidence, proven=True, fallback=fallback
    )


def witness(name: str, **found: object) -> Evidence:
    return Evidence(witness=name, where="node1:lxc1", finding="8 packets", supports=True, found=found)


def test_no_line_is_lost_and_none_is_made() -> None:
    for lines, name in ((OLD, "bpf-vxlan"), (NEW, "v1.16-bpf-vxlan")):
        text = recorded(f"status-verbose-{name}.txt")
        written = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        assert len(lines) == len(written)
        for line, words in zip(lines, written, strict=True):
            assert words.startswith(" ".join(line.label.split()))
            assert " ".join(line.value.split()) in words


def test_heads_and_what_is_below_them_are_told_apart() -> None:
    assert value(OLD, "Host Routing") == "BPF"
    assert value(OLD, "IPAM") == "IPv4: 4/254 allocated from 10.244.0.0/24,"
    assert value(NEW, "Routing") == "Network: Tunnel [vxlan]   Host: BPF"
    assert value(OLD, "Non-TCP connection tracking") == "110861"
    assert value(OLD, "Socket LB Coverage") == "Full"
    assert value(OLD, "- NodePort") == "Enabled (Range: 30000-32767)"
    assert value(OLD, "10.244.0.53 (router)") == ""
    assert [line.depth for line in OLD if line.label in ("BPF Maps", "Devices", "- ClusterIP")] == [1, 1, 0]


@pytest.mark.parametrize("text", ["", "Error: Cannot get status", "KVStore: Ok"])
def test_what_is_no_agents_status_is_an_error(text: str) -> None:
    with pytest.raises(MeasureFailed, match="is not that of Cilium"):
        parse_verbose(text)


def test_a_line_about_the_mode_is_proven_by_packets_and_not_by_the_agents_word() -> None:
    said = marked(OLD, mode(witness("agent-status", hostRouting="bpf")), "node1")
    assert all(line.shown is Shown.SAID for line in said)
    shown = marked(NEW, mode(witness("lxc-counters", hostRouting="bpf")), "node1")
    assert all(line.shown is Shown.SAID for line in shown), "the tunnel is in that line too, and nobody showed it"
    both = mode(witness("lxc-counters", hostRouting="bpf"), witness("signature", encapsulation="vxlan"))
    assert {line.label for line in marked(NEW, both, "node1") if line.shown is Shown.PROVEN} == {"Routing"}
    assert {line.label for line in marked(OLD, both, "node1") if line.shown is Shown.PROVEN} == {"Host Routing"}


def test_a_fallback_stands_beside_the_line() -> None:
    fell = mode(witness("lxc-counters", hostRouting="legacy"), fallback=Fallback(reason="IPsec is on", remedy=""))
    (line,) = [line for line in marked(OLD, fell, "node1") if line.label == "Host Routing"]
    assert line.because.startswith("asked bpf, fell back: IPsec is on; lxc-counters")


@pytest.mark.parametrize(
    ("used", "agrees"),
    [("10.244.0.0/24", "10.244.0.0/24 is part of it"), ("10.0.1.0/24", "10.0.1.0/24 is NO part of it")],
)
def test_the_range_that_kubeadm_was_asked_for_stands_beside_the_one_that_ipam_uses(used: str, agrees: str) -> None:
    ranges = ranges_of(OLD, ASKED, IPv4Network("10.244.1.0/24"), IPv4Network(used))
    assert ranges is not None
    assert (ranges.allocated, ranges.free) == (4, 250)
    lines = with_ranges(OLD, ranges)
    at = [line.label for line in lines].index("IPAM")
    assert (lines[at + 1].label, lines[at + 1].value, lines[at + 1].because) == (
        "Pod range asked of kubeadm", "10.244.0.0/16", agrees,
    )  # fmt: skip
    assert (lines[at + 2].value, lines[at + 2].because) == ("10.244.1.0/24", "IPAM does not use it")
    assert len(lines) == len(OLD) + 2


def test_an_agent_that_counts_otherwise_has_no_ranges() -> None:
    assert ranges_of((StatusLine(label="IPAM", value="disabled"),), ASKED, None, ASKED) is None
    assert with_ranges(OLD, None) == OLD


def test_kubernetes_range_of_each_node_is_read_from_the_nodes() -> None:
    nodes = [{"metadata": {"name": "a"}, "spec": {"podCIDR": "10.244.1.0/24"}}, {"metadata": {"name": "b"}, "spec": {}}]
    assert parse_pod_ranges(json.dumps({"items": nodes})) == {"a": IPv4Network("10.244.1.0/24")}
    with pytest.raises(MeasureFailed, match="list of nodes"):
        parse_pod_ranges("Error from server")
