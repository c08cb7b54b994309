"""From any scenario to any other by the least change: the lab is then as if the other one had been built, and back.

Compared are what labctl's own `diff` reads and, without its code, what the field's tools show (`by_tools`). The
examples are the same in every run; `make test-thorough` has many more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import by_tools
import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from hypothesis import strategies as st

from labctl.engine.apply import apply
from labctl.engine.events import Event
from labctl.errors import UsageError
from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.planning.resolve import resolve
from labctl.providers.netns.kinds.daemon import PROGRAMS
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.record import record_path

PROVIDER = NetnsProvider()
IS_THOROUGH = os.environ.get("LABCTL_THOROUGH") == "1"
EXAMPLES = int(os.environ.get("LABCTL_APPLY_EXAMPLES", "60")) if IS_THOROUGH else 3
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
]
live = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
Content = Mapping[str, Any]

_NAMES = tuple(f"p{number}" for number in range(6))
_CILIUM: dict[str, st.SearchStrategy[Any]] = {
    "hostRouting": st.sampled_from(("bpf", "legacy")),
    "encapsulation": st.sampled_from(("vxlan", "native")),
    "masquerade": st.sampled_from(("bpf", "iptables")),
    "kubeProxyReplacement": st.sampled_from((True, True, False)),
    "kubeProxy": st.sampled_from(("iptables", "nftables")),
    "socketLB": st.booleans(),
    "extraIptablesRules": st.sampled_from((0, 0, 7)),
    "extraServices": st.sampled_from((0, 0, 3)),
    "faults": st.sampled_from(([], [], [], ["missing-neighbour"], ["netfilter-drop"])),
}
_QUICK = (
    {"type": "flannel", "backend": "vxlan"},
    {"type": "flannel", "backend": "host-gw"},
    {"type": "calico", "backend": "vxlan"},
    {"type": "docker"},
    {"type": "docker", "snat": True},
    {"type": "vxlan", "mode": "p2p", "vni": 5},
    {"type": "vxlan", "mode": "p2p", "vni": 9},
    {"type": "vxlan", "mode": "multicast"},
    {"type": "macvlan"},
)
_WITH_FRR = ({"type": "calico", "backend": "bgp"}, {"type": "vxlan", "mode": "evpn"})
_FABRICS = ({"type": "bridge"}, {"type": "bridge"}, {"type": "routed"}, {"type": "switched"})
_FABRICS_WITH_FRR = (
    {"type": "clos", "routing": "bgp"},
    {"type": "clos", "routing": "ospf"},
    {"type": "routed", "routing": "ospf"},
)
_SECTIONS = (
    ("nodes", "pods", "pairs"),
    ("network",),
    ("fabric",),
    ("outside",),
    ("datapath", "podNetwork"),
    ("services",),
)


@st.composite
def scenarios(draw: st.DrawFn, *, with_frr: bool) -> dict[str, Any]:
    """What a scenario's file says. Pods keep their names from one scenario to the next."""
    nodes = draw(st.integers(1, 4))
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=2, max_size=5, unique=True))
    pods = [{"name": name, "node": f"node{draw(st.integers(1, nodes))}"} for name in names]
    content: dict[str, Any] = {
        "apiVersion": "labctl/v1",
        "kind": "Scenario",
        "nodes": nodes,
        "pods": pods,
        "pairs": [{"client": names[0], "server": names[1]}],
        "network": {"mtu": draw(st.sampled_from((1500, 1500, 1400, 9000)))},
        "fabric": draw(st.sampled_from(_FABRICS + (_FABRICS_WITH_FRR if with_frr else ()))),
        "checks": [{"check": "ping"}],
        "compare": {"checks": ["ping"]},
    }
    if draw(st.integers(0, 3)) == 0:
        content["outside"] = [{"name": "world"}]
    if draw(st.booleans()):
        content["datapath"] = draw(_datapaths())
        content |= draw(_services(tuple(names)))
    else:
        content["podNetwork"] = draw(st.sampled_from(_QUICK + (_WITH_FRR if with_frr else ())))
    return content


@st.composite
def _datapaths(draw: st.DrawFn) -> dict[str, Any]:
    """Cilium's: of the choices that exclude each other the one that has to give way does."""
    chosen = {key: draw(values) for key, values in _CILIUM.items()}
    if chosen["hostRouting"] == "bpf":
        chosen |= {"masquerade": "bpf", "kubeProxyReplacement": True}
    if not chosen["kubeProxyReplacement"]:
        chosen |= {"masquerade": "iptables"}
        del chosen["socketLB"]
    else:
        del chosen["kubeProxy"]
    return chosen


@st.composite
def _services(draw: st.DrawFn, names: tuple[str, ...]) -> dict[str, Any]:
    services: list[dict[str, Any]] = []
    for name in draw(st.lists(st.sampled_from(("web", "api", "dns")), max_size=2, unique=True)):
        one: dict[str, Any] = {"name": name, "port": 80, "targetPort": 5205, "backends": [draw(st.sampled_from(names))]}
        if draw(st.booleans()):
            one["protocol"] = "udp"
        if draw(st.integers(0, 2)) == 0:
            one |= {"type": "NodePort", "nodePort": 30000 + draw(st.integers(1, 3)) * 100 + len(services)}
        services.append(one)
    return {"services": services} if services else {}


@st.composite
def changes(draw: st.DrawFn, *, with_frr: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two scenarios: as often as not the second is the first with a few sections of another one."""
    first, second = draw(scenarios(with_frr=with_frr)), draw(scenarios(with_frr=with_frr))
    if draw(st.booleans()):
        for group in draw(st.lists(st.sampled_from(_SECTIONS), min_size=3, max_size=5, unique=True)):
            for key in group:
                second.pop(key, None)
                if key in first:
                    second[key] = first[key]
    return first, second


def lab_of(content: Content, place: Path, name: str) -> Lab:
    place.write_text(json.dumps(content), encoding="utf-8")
    lab = resolve(load_scenario(str(place), start=place.parent), name=name)
    PROVIDER.plan(lab)
    return lab


def quietly(event: Event) -> None:
    del event


def build(lab: Lab) -> None:
    with PROVIDER.executor(lab) as executor:
        for step in PROVIDER.plan(lab).steps:
            executor.execute(step.actions)
        executor.finish(lab)


def seen(lab: Lab) -> dict[str, frozenset[str]]:
    """As the tools show it, with its record; that nothing differs by `diff` is asserted."""
    drift = PROVIDER.compared(lab).drift
    assert drift.is_as_wanted, [*drift.differences[:3], *drift.unread]
    return {**by_tools.shown(lab.name), "record": frozenset({record_path(lab.name).read_text(encoding="utf-8")})}


def becomes(first: Content, second: Content, folder: Path, name: str) -> None:
    try:
        one, other = lab_of(first, folder / "one.yaml", name), lab_of(second, folder / "other.yaml", name)
    except UsageError:
        assume(False)
        raise
    note(f"from {json.dumps(first)}\nto {json.dumps(second)}")
    try:
        build(other)
        as_built = seen(other)
        PROVIDER.teardown(name)
        build(one)
        before = seen(one)
        apply(PROVIDER, one, other, quietly)
        assert not (lines := by_tools.differences(as_built, seen(other))), lines
        assert apply(PROVIDER, other, other, quietly) == 0
        apply(PROVIDER, other, one, quietly)
        assert not (lines := by_tools.differences(before, seen(one))), lines
    finally:
        PROVIDER.teardown(name)


def test_any_lab_becomes_any_other_and_back_as_if_it_had_been_built(host_as_found: str, tmp_path: Path) -> None:
    check = partial(becomes, folder=tmp_path, name=f"{host_as_found}-any")
    live(given(changes(with_frr=False).map(tuple))(lambda pair: check(*pair)))()


@pytest.mark.thorough
@pytest.mark.skipif(not (PROGRAMS / "zebra").exists(), reason="needs FRR: make setup-networks")
def test_any_lab_with_routing_daemons_becomes_any_other_and_back(host_as_found: str, tmp_path: Path) -> None:
    check = partial(becomes, folder=tmp_path, name=f"{host_as_found}-frr")
    live(given(changes(with_frr=True).map(tuple))(lambda pair: check(*pair)))()
