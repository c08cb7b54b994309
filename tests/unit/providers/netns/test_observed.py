"""What a plan makes and what is there are the same data; what is gone with something else is not told by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from services.service_labs import lab_with_services

from labctl.loading import load_scenario
from labctl.model.lab import Encapsulation, KubeProxy, Lab
from labctl.model.plan import Action
from labctl.names import namespace_of
from labctl.planning.resolve import resolve
from labctl.providers.netns.kinds import KINDS
from labctl.providers.netns.kinds.base import Found, ObjectKind, Thing
from labctl.providers.netns.kinds.cgroup import SocketDetach
from labctl.providers.netns.kinds.daemon import (
    AddressesTell,
    FrrConfigure,
    FrrRestart,
    ProcessEnd,
    SessionsAwait,
    SessionsClear,
)
from labctl.providers.netns.kinds.impairment import PacketsLeave, QueueRemove, RelayEnd
from labctl.providers.netns.kinds.link import DeviceDelete, DeviceSet, XdpDetach
from labctl.providers.netns.kinds.namespace import NamespaceDrop
from labctl.providers.netns.kinds.program import (
    DatapathReopen,
    EntriesDelete,
    FilterDelete,
    FilterReplace,
    QdiscDelete,
)
from labctl.providers.netns.kinds.routing import (
    AddressDelete,
    BlackholeReplace,
    ConnectedReplace,
    NeighbourDelete,
    NeighbourReplace,
    PolicyRuleDelete,
    ProxyDelete,
    RouteDelete,
    RouteReplace,
    TunnelEntryDelete,
)
from labctl.providers.netns.kinds.ruleset import RulesReplace, TableDelete
from labctl.providers.netns.observed import Observed, missing, wanted
from labctl.providers.netns.plan import plan
from labctl.system.netfilter import parse_entries, parse_rule
from labctl.testing.labs import sample_lab

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "netns"
LAB = sample_lab("seen", encapsulation=Encapsulation.VXLAN)
CHECKOUT = Path(__file__).resolve().parents[4]
NETWORKS = (
    "clos-bgp",
    "cni-chain",
    "triangle",
    "evpn",
    "vxlan-p2p",
    "vxlan-multicast",
    "macvlan",
    "stp-loop",
    "calico-vxlan",
    "docker-snat",
    "flannel-vxlan",
)
LABS = (
    LAB,
    sample_lab("carried", encapsulation=Encapsulation.GENEVE),
    lab_with_services(kube_proxy_replacement=True),
    lab_with_services(kube_proxy=KubeProxy.NFTABLES),
    *(resolve(load_scenario(name, start=CHECKOUT)) for name in NETWORKS),
    resolve(load_scenario("triangle", start=CHECKOUT, overrides=["fabric.routing=static"])),
    resolve(load_scenario("bpf", start=CHECKOUT, overrides=["impairments.node1={loss: 0.1, rateBitPerS: 1000000}"])),
)
THINGS = tuple(wanted(action for step in plan(LAB).steps for action in step.actions))


CLOSELY = {
    ObjectKind.PROCESS, ObjectKind.QDISC, ObjectKind.POLICY_RULE, ObjectKind.ENTRY, ObjectKind.CONFIGURATION,
    ObjectKind.IMPAIRMENT,
}  # fmt: skip
"""What only `labctl diff` looks at."""
NOT_IN_A_NAMESPACE = {ObjectKind.NAMESPACE, ObjectKind.PROCESS, ObjectKind.ENTRY, ObjectKind.CONFIGURATION}
OF_REPAIRS = {
    AddressDelete, AddressesTell, BlackholeReplace, ConnectedReplace, DatapathReopen, DeviceDelete, DeviceSet,
    EntriesDelete,
    FilterDelete, FilterReplace, FrrConfigure, FrrRestart, NamespaceDrop, NeighbourDelete, NeighbourReplace,
    PacketsLeave, PolicyRuleDelete, ProcessEnd, ProxyDelete, QdiscDelete, QueueRemove, RelayEnd,
    RouteDelete, RouteReplace, RulesReplace, SessionsAwait, SessionsClear, SocketDetach, TableDelete,
    TunnelEntryDelete, XdpDetach,
}  # fmt: skip
"""What no plan of a lab has, and the repair of one does."""


def everything(
    *, without: frozenset[str] = frozenset(), unread: frozenset[ObjectKind] = frozenset()
) -> dict[str, Observed]:
    """The lab as it is built, less the things of those names."""
    there: dict[str, dict[str, Found]] = {}
    for thing in THINGS:
        if thing.name not in without:
            there.setdefault(thing.namespace, {})[thing.of] = Found(thing.of, thing.value)
    return {name: Observed(found, unread) for name, found in there.items()}


def told(seen: dict[str, Observed]) -> list[str]:
    return [str(thing) for thing in missing(THINGS, seen)]


def actions_of(*labs: Lab) -> list[Action]:
    return [action for lab in labs for step in plan(lab).steps for action in (*step.actions, *step.undo)]


def test_every_kind_of_thing_is_in_a_plan() -> None:
    assert {thing.kind for thing in wanted(actions_of(*LABS))} == set(ObjectKind) - CLOSELY


def test_every_object_of_a_plan_is_of_one_kind_of_the_list() -> None:
    listed = [made for kind in KINDS for made in kind.objects]
    assert len(set(listed)) == len(listed)
    assert {type(action) for action in actions_of(*LABS)} == set(listed) - OF_REPAIRS


def test_every_kind_but_the_namespace_itself_that_a_plan_makes_things_of_can_be_read() -> None:
    assert {kind.name for kind in KINDS if kind.read} == set(ObjectKind) - NOT_IN_A_NAMESPACE


def test_no_two_things_of_a_namespace_have_the_same_name() -> None:
    keys = [(thing.namespace, thing.name) for thing in THINGS]
    assert len(keys) == len(set(keys))


def test_of_a_lab_as_it_was_built_nothing_is_missing() -> None:
    assert told(everything()) == []


def test_with_a_device_go_its_addresses_routes_and_programs_untold() -> None:
    gone = frozenset(thing.name for thing in THINGS if "cilium_vxlan" in thing.name)
    assert len(gone) > 4
    assert told(everything(without=gone)) == [f"{node.name}: device cilium_vxlan" for node in LAB.nodes]


def test_with_a_device_that_was_taken_down_go_its_routes_untold() -> None:
    device = "device cilium_host up"
    gone = frozenset(thing.name for thing in THINGS if thing.name == device or device in thing.needs)
    assert any(name.startswith("route") for name in gone)
    assert told(everything(without=gone)) == [f"{node.name}: {device}" for node in LAB.nodes]


def test_with_a_pods_namespace_goes_the_device_on_its_node_untold() -> None:
    seen = everything(without=frozenset(t.name for t in THINGS if LAB.pod("server").lxc in t.name))
    del seen[namespace_of(LAB.name, "server")]
    assert told(seen) == [namespace_of(LAB.name, "server")]


@pytest.mark.parametrize("kind", [ObjectKind.RULE, ObjectKind.SYSCTL, ObjectKind.PROGRAM])
def test_what_could_not_be_read_is_not_called_missing(kind: ObjectKind) -> None:
    gone = frozenset(thing.name for thing in THINGS if thing.kind is kind)
    assert told(everything(without=gone))
    assert told(everything(without=gone, unread=frozenset({kind}))) == []


def test_what_is_there_beside_the_plan_is_no_matter() -> None:
    mine = {key: Found(key) for key in ("device mine", "address 192.0.2.1/24 dev eth0")}
    seen = {name: Observed({**found.found, **mine}) for name, found in everything().items()}
    assert told(seen) == []


def test_a_rule_that_stands_twice_in_a_plan_is_missed_when_it_is_there_once() -> None:
    twice = [thing for thing in THINGS if thing.kind is ObjectKind.RULE and thing.name.endswith(", number 2")]
    assert told(everything(without=frozenset({twice[0].name})))[0] == f"node1: {twice[0].name}"


def test_a_thing_is_named_by_its_part_of_the_lab() -> None:
    thing = Thing(namespace_of("mine", "node1"), ObjectKind.ROUTE, "route default via 10.0.0.1 dev eth0")
    assert str(thing) == "node1: route default via 10.0.0.1 dev eth0"


def test_comments_of_nf_tables_are_read_however_they_are_kept() -> None:
    lines = (FIXTURES / "nf-tables-rules.hex").read_text(encoding="ascii").splitlines()
    assert [parse_rule(bytes.fromhex(line)) for line in lines] == [("filter", "by match"), ("own", "by nft"), None]


def test_comments_of_ip_tables_are_read_from_its_entries() -> None:
    blob = bytes.fromhex((FIXTURES / "ip-tables-entries.hex").read_text(encoding="ascii"))
    assert parse_entries(blob) == ("of the old way", "second")


def test_the_chains_of_the_scenarios_own_services_are_told_and_those_of_fillers_are_not_read() -> None:
    lab = lab_with_services(kube_proxy=KubeProxy.NFTABLES, extra_services=5)
    chains = [thing.name for thing in wanted(actions_of(lab)) if thing.kind is ObjectKind.CHAIN]
    assert any("labctl-demo/web/tcp/" in name for name in chains)
    assert "chain services of table kube-proxy" in chains
    assert not any("filler-" in name for name in chains)
    rules = [thing.name for thing in wanted(actions_of(lab_with_services(extra_services=5)))]
    assert any("labctl-demo/web cluster IP" in name for name in rules)
    assert not any("filler-" in name for name in rules)
