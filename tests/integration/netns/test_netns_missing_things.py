"""What is missing of a running lab is named, whatever it is; what is more, or in use, is not taken for missing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from netns_building import needs_root, ping, running

from labctl.loading import load_scenario
from labctl.model.lab import Encapsulation, Fault, HostRouting, Lab, Masquerade
from labctl.names import namespace_of
from labctl.planning.resolve import resolve
from labctl.providers.netns import observed
from labctl.providers.netns.kinds.base import Found, NamespaceReader, ObjectKind
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.record import record_path
from labctl.system import netns
from labctl.testing.labs import RECORDED, sample_lab

pytestmark = [pytest.mark.root, needs_root]
NO_LAB_HERE = ("site", "services", "nodes-by-number")
"""No scenario, one that netns refuses, and one of 250 nodes."""
CORPUS = Path(__file__).resolve().parents[2] / "corpus"
VALID = [file for file in sorted((CORPUS / "valid").glob("*.yaml")) if file.stem not in NO_LAB_HERE]


def missing(lab: Lab) -> set[str]:
    (found,) = NetnsProvider().discover(lab.name)
    assert found.is_whole is not bool(found.missing)
    return set(found.missing)


def does(lab: Lab, part: str, command: str) -> None:
    argv = netns.command(namespace_of(lab.name, part), tuple(command.split()))
    subprocess.run(argv, check=True, capture_output=True, timeout=120)


def test_each_kind_of_thing_that_is_taken_away_is_named_and_nothing_else(host_as_found: str) -> None:
    lab = sample_lab(host_as_found, masquerade=Masquerade.IPTABLES, host_routing=HostRouting.LEGACY)
    client, server = lab.pod("client"), lab.pod("server")
    uplink = lab.node("node2").address
    taken = (
        ("node1", f"tc filter del dev {client.lxc} ingress",
         {f"node1: program cil_from_container on {client.lxc} ingress"}),
        ("node1", "sysctl -w net.ipv4.ip_forward=0", {"node1: sysctl net.ipv4.ip_forward=1"}),
        ("node1", f"ip neighbour del {uplink.ip} dev eth0",
         {f"node1: neighbour {uplink.ip} lladdr {lab.node('node2').mac} dev eth0"}),
        ("node1", "iptables -D FORWARD 1", {'node1: rule "cilium-feeder: CILIUM_FORWARD" of table filter'}),
        ("client", "ip route del default", {f"client: route default via {lab.node('node1').router} dev eth0 mtu 1450"}),
        ("client", "ip link set dev eth0 mtu 1400", {"client: device eth0 mtu 1500"}),
        ("underlay", "ip link set dev port1 nomaster", {"underlay: device port1 master underlay"}),
        ("underlay", "ip link set dev port3 down", {"underlay: device port3 up"}),
        ("node2", "ip link del cilium_vxlan", {"node2: device cilium_vxlan"}),
        ("node3", "tc qdisc del dev eth0 clsact",
         {"node3: program cil_from_netdev on eth0 ingress", "node3: program cil_to_netdev on eth0 egress"}),
    )  # fmt: skip
    with running(lab):
        assert missing(lab) == set()
        expected: set[str] = set()
        for part, command, gone in taken:
            does(lab, part, command)
            expected |= gone
            assert missing(lab) == expected, command
        address = f"{server.address}/32 dev eth0"
        does(lab, "server", f"ip address del {address}")
        assert f"server: address {address}" in missing(lab)
        does(lab, "node3", "iptables -t raw -F")
        assert {thing for thing in missing(lab) if thing.startswith("node3: rule")} == {
            f'node3: rule "{comment}" of table raw{again}'
            for comment, again in (
                ("cilium-feeder: CILIUM_PRE_raw", ""), ("cilium-feeder: CILIUM_OUTPUT_raw", ""),
                ("cilium: NOTRACK for proxy return traffic", ""),
                ("cilium: NOTRACK for proxy return traffic", ", number 2"),
                ("cilium: NOTRACK for L7 proxy upstream traffic", ""),
                ("cilium: NOTRACK for L7 proxy upstream traffic", ", number 2"),
                ("cilium: NOTRACK for proxy traffic", ""),
            )
        }  # fmt: skip
        netns.delete(namespace_of(lab.name, "server"))
        (found,) = NetnsProvider().discover(lab.name)
        assert found.missing[-1] == namespace_of(lab.name, "server")
        assert not found.can_be_opened
        assert not [thing for thing in found.missing if thing.startswith("server:") or server.lxc in thing]


@pytest.mark.parametrize("kind", [ObjectKind.DEVICE, ObjectKind.ROUTE, ObjectKind.PROGRAM, ObjectKind.SYSCTL])
def test_a_device_that_goes_while_one_looks_is_all_that_is_named(
    host_as_found: str, kind: ObjectKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever kind had been read by then: its routes, programs and settings go with it."""
    lab = sample_lab(host_as_found)
    reader, gone = observed._READERS[kind], [""]

    def and_then(look: NamespaceReader) -> Iterator[Found]:
        yield from reader(look)
        if len(gone) < 3 and "cilium_vxlan" in (link.name for link in look.links.values()):
            gone.append(f"node{len(gone)}")
            does(lab, gone[-1], "ip link del cilium_vxlan")

    with running(lab):
        monkeypatch.setattr(observed, "_READERS", {**observed._READERS, kind: and_then})
        (found,) = NetnsProvider().discover(lab.name)
    assert set(found.missing) == {"node1: device cilium_vxlan", "node2: device cilium_vxlan"}


@pytest.mark.parametrize("host_routing", HostRouting)
@pytest.mark.parametrize("encapsulation", RECORDED)
def test_a_lab_with_every_option_traffic_and_things_of_a_persons_own_is_whole(
    host_as_found: str, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    plain = sample_lab(host_as_found, host_routing=host_routing, encapsulation=encapsulation)
    faults = (Fault.MISSING_NEIGHBOUR, *((Fault.WRONG_VTEP,) if encapsulation is Encapsulation.VXLAN else ()))
    datapath = dataclasses.replace(plain.datapath, extra_iptables_rules=300, extra_delay_ns=500, faults=faults)
    network = dataclasses.replace(plain.network, mtu=65_520, route_mtu=65_470)
    lab = dataclasses.replace(plain, datapath=datapath, network=network)
    with running(lab):
        ping(lab, "client", lab.pod("neighbour").address)
        does(lab, "client", "ip address add 192.0.2.7/24 dev eth0")
        does(lab, "node1", "ip route add 203.0.113.0/24 dev eth0")
        does(lab, "node1", "iptables -I FORWARD -m comment --comment mine -j ACCEPT")
        does(lab, "node1", "ip neighbour add 203.0.113.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent")
        does(lab, "node2", "ip link add mine type veth peer name yours")
        assert missing(lab) == set()


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_a_lab_of_every_valid_scenario_is_whole_when_it_is_up(host_as_found: str, file: Path) -> None:
    lab = resolve(load_scenario(str(file), start=CORPUS), name=host_as_found)
    with running(lab):
        assert missing(lab) == set()


def newer(document: dict[str, Any]) -> None:
    document["datapath"]["somethingNewer"] = True


def of_another_version(document: dict[str, Any]) -> None:
    document["apiVersion"] = "labctl/v9"


def with_services(document: dict[str, Any]) -> None:
    document["services"] = [
        {"name": "web", "address": "10.96.0.10", "port": 80, "targetPort": 80, "protocol": "tcp",
         "backends": ["server"], "selector": {"app": "server"}}
    ]  # fmt: skip


def much_longer(document: dict[str, Any]) -> None:
    document["nodes"] = [{**document["nodes"][0], "name": f"n{number}"} for number in range(300)]


@pytest.mark.parametrize(
    "change",
    [
        newer,
        *(pytest.param(one, marks=pytest.mark.thorough) for one in (of_another_version, with_services, much_longer)),
    ],
)
def test_a_lab_of_another_labctl_hides_no_other_and_is_neither_half_there_nor_changed_and_can_be_removed(
    host_as_found: str, change: Callable[[dict[str, Any]], None]
) -> None:
    mine, others = sample_lab(f"{host_as_found}a"), sample_lab(f"{host_as_found}b")
    with running(mine), running(others):
        path = record_path(others.name)
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        listed = labctl("list", "--json")
        labs = {lab["lab"]: lab for lab in json.loads(listed.stdout)["labs"]}
        assert (listed.returncode, labs[mine.name]["state"], labs[others.name]["whole"]) == (0, "up", None)
        what = f"lab {others.name} was made by another version of labctl"
        assert labs[others.name]["notAsked"]["what"] == what
        assert labs[others.name]["missing"] == []
        assert "labctl down" not in listed.stderr + labctl("list").stdout.split(others.name, 1)[1].split("\n")[0]
        for command in (("status", others.name), ("up", "bpf", "--name", others.name)):
            refused = labctl(*command)
            assert (refused.returncode, what in refused.stderr) == (2, True), refused.stderr
        assert labctl("check", mine.name, "ping").returncode == 0
        removed = labctl("down", others.name)
        assert removed.returncode == 0, removed.stderr
        assert labctl("status", others.name).returncode == 2


def labctl(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "labctl", *argv), capture_output=True, text=True, timeout=120, check=False
    )
