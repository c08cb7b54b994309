"""What differs is named, and mended, thing by thing: on plans of every network and fabric, without any lab."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path, PurePath

import pytest

from labctl.drift.compare import compare, drift_of
from labctl.drift.observed import FoundMap, FoundProcess, FoundRules, ObservedLab
from labctl.drift.repairs import repairs
from labctl.drift.wanted import Wanted, objects_of, wanted_of
from labctl.loading import load_scenario
from labctl.model.drift import Change
from labctl.names import namespace_of
from labctl.planning.resolve import resolve
from labctl.providers.netns.kinds.base import Found, ObjectKind
from labctl.providers.netns.kinds.daemon import (
    AddressesTell,
    FrrConfigure,
    FrrRestart,
    NextHopsAwait,
    ProcessEnd,
    SessionsAwait,
    SessionsClear,
)
from labctl.providers.netns.kinds.link import DeviceDelete, DeviceSet, VethAdd
from labctl.providers.netns.kinds.program import DatapathReopen, EntriesDelete, FilterReplace, MapsFill
from labctl.providers.netns.kinds.routing import AddressDelete, RouteAdd, RouteReplace
from labctl.providers.netns.plan import plan

CHECKOUT = Path(__file__).resolve().parents[3]
SCENARIOS = (
    "bpf",
    "legacy-native",
    "services",
    "flannel-vxlan",
    "calico-bgp",
    "evpn",
    "clos-ospf",
    "stp-loop",
    "nodeport",
)


class AnyTags(dict[str, str]):
    """A tag for each program, whatever it is called."""

    def __missing__(self, name: str) -> str:
        return f"tag of {name}"


def wanted(name: str) -> Wanted:
    actions = [action for step in plan(resolve(load_scenario(name, start=CHECKOUT))).steps for action in step.actions]
    tags: dict[PurePath, AnyTags] = {path: AnyTags() for path in objects_of(actions)}
    return wanted_of(resolve(load_scenario(name, start=CHECKOUT)), actions, tags)


def as_built(asked: Wanted) -> ObservedLab:
    """A lab that has everything that is wanted, and nothing else."""
    return ObservedLab(
        places={
            name: {key: Found(key, one.thing.value) for key, one in things.items()}
            for name, things in asked.things.items()
        },
        entries={
            name: {
                each: FoundMap(id=7, entries={key: one.value for key, one in entries.items()})
                for each, entries in maps.items()
            }
            for name, maps in asked.entries.items()
        },
        processes={
            name: tuple(FoundProcess(pid=9, name=daemon.name, is_left=True) for daemon in start.daemons)
            for name, (_, start) in asked.daemons.items()
        },
        configurations={
            name: {daemon.name: daemon.configuration for daemon in start.daemons}
            for name, (_, start) in asked.daemons.items()
        },
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_of_a_lab_as_it_was_built_nothing_differs_and_nothing_is_done(name: str) -> None:
    asked = wanted(name)
    assert compare(asked, as_built(asked)) == ()
    assert repairs(asked, as_built(asked), ()) == ()


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_thing_that_is_missing_is_named_alone_and_made_again(name: str) -> None:
    asked = wanted(name)
    there, whole = as_built(asked), as_built(asked).places
    # One node, one pod and the first router: the others have the same.
    for namespace in {asked.namespaces[1], asked.namespaces[-1], namespace_of(name, asked.lab.nodes[0].name)}:
        for key in filter(None, asked.things[namespace]):
            there.places = {**whole, namespace: {one: it for one, it in whole[namespace].items() if one != key}}
            named = [delta for delta in compare(asked, there) if not delta.is_explained]
            if asked.things[namespace][key].thing.may_be_absent:
                assert not named
                continue
            assert [(delta.namespace, delta.key) for delta in named] == [(namespace, key)]
            assert named[0].difference.change is Change.MISSING
            assert named[0].difference.command
            steps = repairs(asked, there, named)
            assert steps, key


CLOS_NODES = {namespace_of("clos-bgp", f"node{number}") for number in (1, 2, 3)}
CLOS_ROUTERS = {namespace_of("clos-bgp", name) for name in ("spine1", "spine2", "leaf1", "leaf2", "leaf3")}


def test_sessions_that_agreed_on_other_timers_are_cleared_after_both_ends_are_told_and_then_awaited() -> None:
    asked = wanted("clos-bgp")
    there = as_built(asked)
    assert {*there.configurations} == CLOS_NODES | CLOS_ROUTERS
    there.configurations = {
        name: {daemon: text.replace("timers bgp 1 3", "timers bgp 5 15") for daemon, text in each.items()}
        for name, each in there.configurations.items()
    }
    done = [action for step in repairs(asked, there, compare(asked, there)) for action in step.actions]
    kinds = [type(action) for action in done]
    last_told = max(at for at, kind in enumerate(kinds) if kind is FrrConfigure)
    cleared = [at for at, kind in enumerate(kinds) if kind is SessionsClear]
    awaited = [at for at, kind in enumerate(kinds) if kind is SessionsAwait]
    assert last_told < min(cleared) < max(cleared) < min(awaited) < kinds.index(NextHopsAwait)
    assert {(one.keepalive_s, one.hold_s) for one in done if isinstance(one, SessionsClear)} == {(1, 3)}
    assert {one.namespace for one in done if isinstance(one, SessionsClear)} == CLOS_NODES | CLOS_ROUTERS
    for namespace in CLOS_ROUTERS:
        told = [one.commands[0][-1] for one in done if isinstance(one, FrrConfigure) and one.namespace == namespace]
        assert told == ["no timers bgp 5 15", "timers bgp 1 3"], "the other way round FRR goes back to its default"


def test_of_some_parts_neither_all_sessions_nor_all_next_hops_are_awaited() -> None:
    asked = wanted("clos-bgp")
    there, leaf = as_built(asked), namespace_of("clos-bgp", "leaf1")
    there.configurations[leaf] = {
        daemon: text.replace("timers bgp 1 3", "timers bgp 5 15") for daemon, text in there.configurations[leaf].items()
    }
    deltas = [delta for delta in compare(asked, there) if delta.namespace == leaf]
    kinds = {type(action) for step in repairs(asked, there, deltas, is_whole=False) for action in step.actions}
    assert SessionsClear in kinds
    assert kinds.isdisjoint({SessionsAwait, NextHopsAwait})


def test_a_zebra_that_runs_is_told_the_addresses_of_devices_that_are_made_again_and_one_that_starts_is_not() -> None:
    asked = wanted("clos-bgp")
    there, leaf = as_built(asked), namespace_of("clos-bgp", "leaf1")
    there.places = {
        **there.places,
        leaf: {key: it for key, it in there.places[leaf].items() if "to-spine1" not in key},
    }
    done = [action for step in repairs(asked, there, compare(asked, there)) for action in step.actions]
    told = {one.namespace: [str(of.device) for of in one.addresses] for one in done if isinstance(one, AddressesTell)}
    assert told == {leaf: ["to-spine1"], namespace_of("clos-bgp", "spine1"): ["to-leaf1"]}
    there.processes[leaf] = ()
    done = [action for step in repairs(asked, there, compare(asked, there)) for action in step.actions]
    assert [one.namespace for one in done if isinstance(one, FrrRestart)] == [leaf]
    assert [one.namespace for one in done if isinstance(one, AddressesTell)] == [namespace_of("clos-bgp", "spine1")]


def test_a_setting_that_this_kernel_lacks_is_no_difference_and_one_with_another_value_is() -> None:
    """Without br_netfilter, as on a Debian that has not loaded it, there is nothing to switch off."""
    asked, key = wanted("bpf"), "sysctl net.bridge.bridge-nf-call-iptables"
    there = as_built(asked)
    underlay = asked.namespaces[0]
    assert key in there.places[underlay]
    there.places = {**there.places, underlay: {k: v for k, v in there.places[underlay].items() if k != key}}
    assert compare(asked, there) == ()
    there.places = {**there.places, underlay: {**there.places[underlay], key: Found(key, "1")}}
    assert [delta.difference.change for delta in compare(asked, there)] == [Change.CHANGED]


def test_with_a_device_go_its_addresses_and_routes_untold_but_mended() -> None:
    asked = wanted("bpf")
    there, namespace = as_built(asked), namespace_of("bpf", "client")
    gone = {key for key in there.places[namespace] if "eth0" in key}
    assert len(gone) > 5
    there.places[namespace] = {key: one for key, one in there.places[namespace].items() if key not in gone}
    deltas = compare(asked, there)
    assert [one.name for one in drift_of(asked, there, deltas).differences] == ["device eth0"]
    actions = [action for step in repairs(asked, there, deltas) for action in step.actions]
    assert sum(isinstance(action, VethAdd) for action in actions) == 1
    assert sum(isinstance(action, RouteAdd) for action in actions) == 2


def test_an_end_of_a_pair_that_is_left_goes_before_the_pair_is_made_again() -> None:
    asked = wanted("bpf")
    there = as_built(asked)
    node, client = namespace_of("bpf", "node1"), namespace_of("bpf", "client")
    lxc = f"device {asked.lab.pod('client').lxc}"

    def removal() -> DeviceDelete:
        return DeviceDelete(namespace=node, device="lxc", index=10)

    there.places[node] = {**there.places[node], lxc: Found(lxc, "", removal)}
    there.places[client] = {key: one for key, one in there.places[client].items() if "eth0" not in key}
    actions = [action for step in repairs(asked, there, compare(asked, there)) for action in step.actions]
    kinds = [type(action).__name__ for action in actions]
    assert kinds.index("DeviceDelete") < kinds.index("VethAdd")
    assert "FilterReplace" in kinds[kinds.index("VethAdd") :], "the program on it is attached again"


@pytest.mark.parametrize(
    ("part", "key", "found", "kind"),
    [
        ("client", "device eth0 mtu", "1400", DeviceSet),
        ("client", "device eth0 state", "down", DeviceSet),
        ("client", "route default", "via 10.9.9.9 dev eth0", RouteReplace),
        ("node1", "program cil_from_netdev on eth0 ingress tag", "0123456789abcdef", FilterReplace),
    ],
)
def test_what_can_be_changed_in_place_is(part: str, key: str, found: str, kind: type[object]) -> None:
    asked = wanted("bpf")
    there, namespace = as_built(asked), namespace_of("bpf", part)
    there.places[namespace] = {**there.places[namespace], key: Found(key, found)}
    (delta,) = compare(asked, there)
    assert (delta.difference.change, delta.difference.found) == (Change.CHANGED, found)
    (step,) = repairs(asked, there, (delta,))
    assert [type(action) for action in step.actions if not isinstance(action, DatapathReopen)] == [kind]


def test_a_device_of_another_kind_is_made_again_with_the_reason() -> None:
    asked = wanted("flannel-vxlan")
    there, namespace = as_built(asked), namespace_of("flannel-vxlan", "node1")
    key = "device flannel.1 type"
    there.places[namespace] = {**there.places[namespace], key: Found(key, "vxlan id 9")}
    (delta,) = compare(asked, there)
    assert delta.difference.why
    made = [type(action).__name__ for step in repairs(asked, there, (delta,)) for action in step.actions]
    assert {"TunnelAdd", "AddressAdd", "RouteReplace", "NeighbourReplace", "TunnelEntryAdd"} <= set(made)


def test_what_is_extra_is_named_and_removed_and_nothing_else_is_done() -> None:
    asked = wanted("bpf")
    there, namespace = as_built(asked), namespace_of("bpf", "client")

    def removal() -> AddressDelete:
        from ipaddress import IPv4Interface

        return AddressDelete(namespace=namespace, device="eth0", index=2, address=IPv4Interface("192.0.2.1/24"))

    key = "address 192.0.2.1 dev eth0"
    there.places[namespace] = {**there.places[namespace], key: Found(key, "/24", removal)}
    (delta,) = compare(asked, there)
    assert delta.difference.change is Change.EXTRA
    (step,) = repairs(asked, there, (delta,))
    assert step.actions == (removal(),)


def test_entries_of_maps_are_compared_by_key_and_value() -> None:
    asked = wanted("bpf")
    there, namespace = as_built(asked), namespace_of("bpf", "node1")
    entries = dict(there.entries[namespace]["ipcache"].entries)
    first, second, *_ = entries
    del entries[first]
    entries[second] = bytes(len(entries[second]))
    entries[b"\xc0\0\2\1"] = b"mine"
    there.entries[namespace]["ipcache"] = FoundMap(id=7, entries=entries)
    deltas = compare(asked, there)
    assert [one.difference.change for one in deltas] == [Change.MISSING, Change.CHANGED, Change.EXTRA]
    assert all(one.difference.kind == ObjectKind.ENTRY for one in deltas)
    assert deltas[1].difference.command.startswith("bpftool map update id 7 key hex ")
    kinds = [type(action) for step in repairs(asked, there, deltas) for action in step.actions]
    assert kinds.count(EntriesDelete) == 1
    assert kinds.count(MapsFill) == 2
    assert kinds[0] is DatapathReopen


def test_a_process_that_nobody_looks_after_is_extra_and_one_that_somebody_does_is_not() -> None:
    asked = wanted("bpf")
    there, namespace = as_built(asked), namespace_of("bpf", "client")
    there.processes[namespace] = (
        FoundProcess(pid=41, name="nc", is_left=True),
        FoundProcess(pid=42, name="bash", is_left=False),
    )
    (delta,) = compare(asked, there)
    assert delta.difference.name == "process nc (41)"


def test_a_daemon_that_ended_and_one_that_goes_by_something_else_are_named() -> None:
    asked = wanted("clos-ospf")
    there, namespace = as_built(asked), namespace_of("clos-ospf", "spine1")
    there.processes[namespace] = tuple(one for one in there.processes[namespace] if one.name != "zebra")
    there.configurations[namespace]["ospfd"] += "router ospf\n area 0 range 10.0.0.0/8\n"
    named = {(one.difference.change, one.difference.name) for one in compare(asked, there)}
    assert named == {
        (Change.MISSING, "daemon zebra"),
        (Change.EXTRA, "ospfd: router ospf / area 0 range 10.0.0.0/8"),
    }


def test_a_namespace_that_is_gone_is_one_difference_and_all_of_it_is_made() -> None:
    asked = wanted("services")
    there, namespace = as_built(asked), namespace_of("services", "server")
    del there.places[namespace]
    lxc = asked.lab.pod("server").lxc
    node = namespace_of("services", "node2")
    there.places[node] = {key: one for key, one in there.places[node].items() if lxc not in key}
    for name, maps in there.entries.items():
        alive = {
            key: value for key, value in maps["alive"].entries.items() if key != asked.lab.pod("server").address.packed
        }
        there.entries[name]["alive"] = replace(maps["alive"], entries=alive)
    deltas = compare(asked, there)
    assert [(one.part, one.name) for one in drift_of(asked, there, deltas).differences] == [("server", "namespace")]
    made = [type(action).__name__ for step in repairs(asked, there, deltas) for action in step.actions]
    assert made[0] == "NamespaceAdd"
    assert made.count("DeviceEntry") == len(asked.lab.nodes)
    assert "FilterReplace" in made


def test_rules_are_named_one_by_one_and_put_back_as_a_whole() -> None:
    asked = wanted("bpf")
    there, namespace = as_built(asked), namespace_of("bpf", "node1")
    listing = '*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m comment --comment "a b" -j ACCEPT\nCOMMIT\n'
    there.rules[namespace] = FoundRules(wanted=listing, found=listing.replace("-j ACCEPT", "-j DROP"))
    (delta,) = compare(asked, there)
    assert delta.difference.name == 'rule "a b" in chain FORWARD of table filter'
    assert "iptables -t filter -D FORWARD" in delta.difference.command
    (step,) = repairs(asked, there, (delta,))
    assert [type(action).__name__ for action in step.actions] == ["RulesReplace"]


@pytest.mark.parametrize(
    "comment", ["$(touch here)", "`touch here`", "a; iptables -F", 'say \\"no\\"', "it\\'s \\\\ mine"]
)
def test_the_text_of_a_strangers_rule_is_none_of_the_shells_that_the_command_is_pasted_into(
    tmp_path: Path, comment: str
) -> None:
    """As iptables-save quotes it: in double quotes, in which a shell would carry commands out."""
    asked = wanted("bpf")
    there, namespace = as_built(asked), namespace_of("bpf", "node1")
    listing = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
    rule = f'-A FORWARD -m comment --comment "{comment}" -j DROP'
    there.rules[namespace] = FoundRules(wanted=listing, found=listing.replace("COMMIT", f"{rule}\nCOMMIT"))
    (delta,) = compare(asked, there)
    said = comment.replace("\\'", "'").replace('\\"', '"').replace("\\\\", "\\")
    words = ["iptables", "-t", "filter", "-D", "FORWARD", "-m", "comment", "--comment", said, "-j", "DROP"]
    program = delta.difference.command.split()[0]
    pasted = f"{program}() {{ printf '%s\\0' \"$@\"; }}; {delta.difference.command}"
    argv = subprocess.run(["sh", "-c", pasted], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert argv.split("\0")[-len(words) - 1 : -1] == words
    assert not list(tmp_path.iterdir())


def test_a_process_that_calls_itself_a_command_is_none() -> None:
    """A process names itself, with any bytes, and a comment of the shell ends with its line."""
    said = ProcessEnd(namespace="labctl.bpf.client", pid=77, name="x\nreboot #").shell()
    assert said.splitlines() == ["kill -9 77  # 'x reboot #'"]
