"""On a running lab each thing that is deleted, changed or added is named, mended, and disturbs nothing else."""

from __future__ import annotations

import ctypes
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns_building import as_json, needs_root, ping, running

from labctl.engine.mend import mend
from labctl.loading import load_scenario
from labctl.model.changes import NOTHING
from labctl.model.drift import Change, Drift
from labctl.model.impairment import Impairment
from labctl.model.lab import Lab
from labctl.names import cgroup_of, namespace_of
from labctl.planning.resolve import resolve
from labctl.providers.netns.changes import read_changes
from labctl.providers.netns.changing import NetnsChanging
from labctl.providers.netns.kinds.daemon import vtysh
from labctl.providers.netns.kinds.program import running_programs
from labctl.providers.netns.provider import NetnsProvider
from labctl.system import cgroups, netns

pytestmark = [pytest.mark.root, needs_root]
CHECKOUT = Path(__file__).resolve().parents[3]
NETWORKS = (
    "legacy", "bpf-native", "services", "services-iptables", "services-nftables", "nodeport", "flannel-host-gw",
    "calico-vxlan", "calico-bgp", "docker-snat", "vxlan-p2p", "evpn", "macvlan", "clos-ospf", "bpf-on-clos", "stp-loop",
)  # fmt: skip
PROVIDER, CHANGING = NetnsProvider(), NetnsChanging()
_PR_SET_CHILD_SUBREAPER = 36


def lab_of(scenario: str, name: str) -> Lab:
    return resolve(load_scenario(scenario, start=CHECKOUT), name=name)


def does(lab: Lab, part: str, command: str) -> None:
    argv = netns.command(namespace_of(lab.name, part), ("sh", "-c", command))
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


def drift(lab: Lab) -> Drift:
    found = PROVIDER.compared(lab).drift
    assert found.unread == ()
    return found


def reaches(lab: Lab) -> bool:
    return ping(lab, "client", lab.pod("server").address).returncode == 0


def named(lab: Lab) -> set[tuple[str, str, str]]:
    return {(str(one.change), one.part, one.name) for one in drift(lab).differences}


def mended(lab: Lab) -> None:
    mend(PROVIDER, lab, lambda event: None)
    assert drift(lab).differences == ()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    # Other tests let this process inherit orphans: here a process that is left alone has to be init's.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    with running(lab_of("services", f"t{secrets.token_hex(3)}-drift")) as made:
        yield made


def map_of(lab: Lab, node: str, name: str) -> str:
    """The id of a map of the node's programs, as bpftool takes it."""
    from labctl.datapath import bpf

    for number in running_programs(namespace_of(lab.name, node), ()):
        program = bpf.program_descriptor(number)
        opened = bpf.maps_of_program(program)
        found = str(bpf.map_info(opened[name]).id) if name in opened else ""
        bpf.close_all((program, *opened.values()))
        if found:
            return found
    raise AssertionError(name)


ANOTHER_PROGRAM = """
    set -e; d=$(mktemp -d); mount -t bpf bpf $d; bpftool prog pin id {other} $d/cil_from_netdev
    tc filter replace dev eth0 ingress prio 1 handle 1 protocol all bpf direct-action object-pinned $d/cil_from_netdev
    umount $d; rmdir $d
"""
NO_SOCKET_PROGRAM = """
    set -- $(bpftool cgroup show {cgroup} | grep -m1 connect)
    bpftool cgroup detach {cgroup} $2 id $1
"""
OTHER_KIND = "ip link delete cilium_vxlan; ip link add cilium_vxlan type bridge; ip link set cilium_vxlan up"
DAMAGES: dict[str, tuple[str, str, tuple[str, str | None]]] = {
    "a device, deleted": ("client", "ip link delete eth0", ("missing", "device eth0")),
    "a device, taken down": ("node2", "ip link set cilium_vxlan down", ("changed", "device cilium_vxlan state")),
    "a device's MTU": ("server", "ip link set eth0 mtu 1400", ("changed", "device eth0 mtu")),
    "a device, added": ("client", "ip link add mine type bridge", ("extra", "device mine")),
    "a port, freed": ("underlay", "ip link set port1 nomaster", ("missing", "device port1 master underlay")),
    "an address, deleted": ("client", "ip address flush dev eth0 scope global",
                            ("missing", "address {client}/32 dev eth0")),
    "an address, added": ("node1", "ip address add 192.0.2.1/24 dev eth0", ("extra", "address 192.0.2.1 dev eth0")),
    "a route, deleted": ("node1", "ip route delete {node2cidr}", ("missing", None)),
    "a route, changed": ("client", "ip route replace default via {router} dev eth0", ("changed", "route default")),
    "a route, added": ("node3", "ip route add 198.51.100.0/24 dev lo", ("extra", "route 198.51.100.0/24")),
    "a route of an address, deleted": ("node1", "ip route delete {underlay} dev eth0",
                                       ("missing", "route {underlay} dev eth0 proto kernel")),
    "a policy rule, added": ("node1", "ip rule add priority 99 table 7", ("extra", None)),
    "a neighbour, deleted": ("node1", "ip neighbour delete {node2} dev eth0", ("missing", None)),
    "a neighbour, changed": ("node1", "ip neighbour replace {node2} lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
                             ("changed", "neighbour {node2} dev eth0")),
    "a setting, changed": ("node1", "sysctl -w net.ipv4.ip_forward=0", ("changed", "sysctl net.ipv4.ip_forward")),
    "a setting of a device": ("node1", "sysctl -w net.ipv4.conf.eth0.rp_filter=1",
                              ("extra", "sysctl net.ipv4.conf.eth0.rp_filter")),
    "hooks, deleted": ("node2", "tc qdisc delete dev cilium_host clsact", ("missing", "qdisc clsact dev cilium_host")),
    "a qdisc, added": ("client", "tc qdisc add dev eth0 root tbf rate 10mbit burst 32k latency 50ms",
                       ("extra", "qdisc tbf dev eth0 root")),
    "a program, detached": ("node1", "tc filter delete dev eth0 ingress",
                            ("missing", "program cil_from_netdev on eth0 ingress")),
    "a program, changed": ("node1", ANOTHER_PROGRAM, ("changed", "program cil_from_netdev on eth0 ingress tag")),
    "a program of sockets, detached": ("node1", NO_SOCKET_PROGRAM, ("missing", None)),
    "a cgroup, added": ("underlay", "mkdir {cgroup}/../mine", ("extra", "cgroup labctl.{lab}/node1/mine")),
    "a device's MAC": ("server", "ip link set eth0 address 02:00:00:00:00:09", ("changed", "device eth0 address")),
    "ARP of a device": ("server", "ip link set eth0 arp off", ("changed", "device eth0 arp")),
    "a neighbour, added": ("node2", "ip neighbour add 172.30.0.99 lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
                           ("extra", "neighbour 172.30.0.99 dev eth0")),
    "a filter, added": ("node2", "tc filter add dev eth0 egress prio 9 u32 match u32 0 0 flowid 1:1",
                        ("extra", "filter u32 on eth0 egress pref 9")),
    "an entry, deleted": ("node1", "bpftool map delete id {ipcache} key hex {node2hex}", ("missing", None)),
    "an entry, changed": ("node1", "bpftool map update id {ipcache} key hex {node2hex} value hex 9 0 0 0 0 0 0 0",
                          ("changed", "map ipcache key {node2hex}")),
    "an entry, added": ("node1", "bpftool map update id {ipcache} key hex c0 0 2 1 value hex 9 0 0 0 0 0 0 0",
                        ("extra", "map ipcache key c0 00 02 01")),
    "a rule, deleted": ("node1", "iptables -D FORWARD 1", ("missing", None)),
    "a rule, added": ("node1", "iptables -I FORWARD -s 203.0.113.1 -j DROP",
                      ("extra", "rule -A FORWARD -s 203.0.113.1/32 -j DROP of table filter")),
    "a rule, changed": ("node1", "iptables -R FORWARD 1 -s 203.0.113.2 -j DROP", ("changed", None)),
    "a device of another kind": ("node2", OTHER_KIND, ("changed", "device cilium_vxlan type")),
    "a device of another kind in a pod": ("client", "ip link delete eth0; ip link add eth0 type bridge",
                                          ("changed", "device eth0 type")),
    "an address that ARP is answered for, added": ("node1", "ip neighbour add proxy 192.0.2.7 dev eth0",
                                                   ("extra", "neighbour proxy 192.0.2.7 dev eth0")),
    "a policy, changed": ("node2", "iptables -P FORWARD DROP", ("changed", "policy of chain FORWARD of table filter")),
    "a table, added": ("client", "nft add table inet mine", ("extra", "nft table inet mine")),
    "a process, left": ("server", "setsid -f sleep 999 >/dev/null 2>&1 </dev/null", ("extra", None)),
}  # fmt: skip
"""A part, what is done there, and the difference: how, and the name where it is told here."""
SAMPLE = (
    "a device, deleted", "a route, changed", "a setting, changed", "a program, detached", "an entry, changed",
    "a rule, added", "a process, left", "a device of another kind in a pod",
)  # fmt: skip


@pytest.mark.parametrize(
    "what", [pytest.param(one, marks=() if one in SAMPLE else pytest.mark.thorough) for one in DAMAGES]
)
def test_what_is_deleted_changed_or_added_is_named_alone_and_mended(lab: Lab, what: str) -> None:
    part, command, expected = DAMAGES[what]
    node2 = lab.node("node2")
    words = {
        "client": lab.pod("client").address, "node2": node2.address.ip, "underlay": lab.network.underlay_cidr,
        "node2cidr": node2.pod_cidr,
        "router": lab.node("node1").router, "node2hex": node2.address.ip.packed.hex(" "),
        "ipcache": map_of(lab, "node1", "ipcache") if "{ipcache}" in command else "",
        "lab": lab.name, "other": running_programs(namespace_of(lab.name, "node1"), ())[-1],
        "cgroup": cgroups.path_of(cgroup_of(lab.name, "node1", "pods")),
    }  # fmt: skip
    assert named(lab) == set()
    does(lab, part, command.format_map(words))
    try:
        ((change, where, name),) = named(lab)
        assert (change, where) == (expected[0], part)
        if expected[1] is not None:
            assert name == expected[1].format_map(words)
        (one,) = drift(lab).differences
        assert one.key
        assert one.command
    finally:
        mended(lab)
    assert reaches(lab)


def test_pods_whose_wires_are_crossed_are_named_and_each_gets_its_own(lab: Lab) -> None:
    """Names, MACs, addresses and routes as planned, and each pod behind the other's device on the node."""
    one, other = (namespace_of(lab.name, name) for name in ("client", "neighbour"))
    shown = [as_json("ip", "-n", place, "-j", "link", "show", "eth0")[0]["address"] for place in (one, other)]
    router = lab.node("node1").router
    crossed = f"ip netns add {lab.name}-tmp; ip -n {one} link set eth0 netns {lab.name}-tmp\n"
    crossed += f"ip -n {other} link set eth0 netns {one}; ip -n {lab.name}-tmp link set eth0 netns {other}\n"
    for place, mac, pod in ((one, shown[0], "client"), (other, shown[1], "neighbour")):
        crossed += f"""
ip -n {place} link set eth0 address {mac} up; ip -n {place} address add {lab.pod(pod).address}/32 dev eth0
ip -n {place} route add {router} dev eth0 scope link; ip -n {place} route add default via {router} dev eth0 mtu 1450
"""
    try:
        done = subprocess.run(("sh", "-ec", crossed), check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        peers = {("changed", "client", "device eth0 peer"), ("changed", "neighbour", "device eth0 peer")}
        assert {one for one in named(lab) if one[1] in ("client", "neighbour") and "device" in one[2]} == peers
        (first, *_) = [one for one in drift(lab).differences if one.name == "device eth0 peer"]
        assert first.found.endswith(f"of {namespace_of(lab.name, 'node1')}")
        assert first.why == "the other end of a veth is given when the pair is made"
    finally:
        subprocess.run(("ip", "netns", "delete", f"{lab.name}-tmp"), check=False, capture_output=True, timeout=60)
        mended(lab)
    assert reaches(lab)


def test_what_is_reset_of_a_part_is_recorded_as_changed_no_more(lab: Lab) -> None:
    """An impairment that was set by hand, at both ends of the part's link; and that of another part stays."""
    for link, loss in (("node1", 0.2), ("node2", 0.1)):
        CHANGING.impair(lab, (link,), Impairment(loss=loss))
    assert {part for _, part, _ in named(lab)} >= {"node1", "node2"}
    mend(PROVIDER, lab, lambda event: None, parts=("node1",))
    assert dict(read_changes(lab.name).impairments) == {"node2": Impairment(loss=0.1)}
    assert not [one for one in named(lab) if "node1" in one[1] or "port1" in one[2]]
    mended(lab)
    assert read_changes(lab.name) == NOTHING


def test_traffic_elsewhere_loses_nothing_while_a_lab_is_mended(lab: Lab) -> None:
    """Between two pods whose node is mended around them, at one packet a millisecond."""
    address = lab.pod("neighbour").address
    argv = netns.command(
        namespace_of(lab.name, "client"), ("ping", "-q", "-i", "0.001", "-c", "1500", "-w", "20", str(address))
    )
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as pinging:
        time.sleep(0.2)
        does(lab, "node1", f"ip route delete {lab.node('node2').pod_cidr}; iptables -I FORWARD -j ACCEPT")
        does(lab, "server", "ip link delete eth0")
        mended(lab)
        output, _ = pinging.communicate(timeout=60)
    assert " 0% packet loss" in output, output


@pytest.mark.thorough
def test_a_namespace_that_is_gone_is_made_again_with_all_that_was_on_it(lab: Lab) -> None:
    for part in ("server", "node2", "underlay"):
        netns.delete(namespace_of(lab.name, part))
        assert ("missing", part, "namespace") in named(lab)
        mended(lab)
        assert reaches(lab)


@pytest.mark.thorough
@pytest.mark.parametrize("scenario", NETWORKS)
def test_of_every_network_a_lab_as_it_was_built_differs_in_nothing_and_is_mended(
    lab_prefix: str, scenario: str
) -> None:
    with running(lab_of(scenario, f"{lab_prefix}-{scenario}")) as made:
        assert named(made) == set()
        assert reaches(made)
        assert named(made) == set(), "what is learned is no difference"
        pod = made.pod("server")
        does(made, "server", "ip link delete eth0")
        does(made, pod.node, "ip route flush table main || true")
        assert {("missing", "server", "device eth0")} <= named(made)
        mended(made)
        deadline = time.monotonic() + 60
        while not reaches(made):
            assert time.monotonic() < deadline
        assert Change.EXTRA not in {one.change for one in drift(made).differences}


@pytest.mark.thorough
def test_a_namespace_that_is_added_is_named_and_removed(lab: Lab) -> None:
    name = namespace_of(lab.name, "more")
    added = f"ip netns add {name} && ip -n {name} link set dev lo alias labctl"
    subprocess.run(("sh", "-c", added), check=True, capture_output=True, timeout=60)
    assert named(lab) == {("extra", "more", "namespace")}
    mended(lab)
    assert not netns.is_mounted(name)


TUNNELS = {
    "deleted": ("bridge fdb delete {mac} dev flannel.1 dst {node2}", "missing"),
    "changed": ("bridge fdb replace {mac} dev flannel.1 dst 172.30.0.99", "changed"),
    "added": ("bridge fdb append 02:00:00:00:00:07 dev flannel.1 dst 172.30.0.99", "extra"),
}


@pytest.mark.thorough
def test_entries_of_a_vxlan_device_are_named_and_mended(lab_prefix: str) -> None:
    with running(lab_of("flannel-vxlan", f"{lab_prefix}-fdb")) as made:
        node2 = str(made.node("node2").address.ip)
        entry = next(one for one in as_json("bridge", "-n", namespace_of(made.name, "node1"), "-j", "fdb", "show")
                     if one.get("dst") == node2)  # fmt: skip
        for command, change in TUNNELS.values():
            does(made, "node1", command.format(mac=entry["mac"], node2=node2))
            found = named(made)
            assert found
            assert all("tunnel of" in name for _, _, name in found), found
            if change != "changed":
                assert {how for how, _, _ in found} == {change}
            mended(made)
            assert reaches(made)


FRR_DAMAGES: tuple[tuple[tuple[str, ...], set[str]], ...] = (
    (("router bgp 65000", "no bgp bestpath as-path multipath-relax"), {"missing"}),
    (("router bgp 65000", "timers bgp 7 21"), {"missing", "extra"}),
    (("router bgp 65000", "address-family ipv4 unicast", "network 203.0.113.0/24"), {"extra"}),
)
"""A statement deleted, changed (its old form is missing, its new one is not in the plan), added."""


@pytest.mark.thorough
def test_frr_s_daemons_and_what_they_go_by_are_named_and_mended(lab_prefix: str) -> None:
    with running(lab_of("clos-bgp", f"{lab_prefix}-frr")) as made:
        namespace = namespace_of(made.name, "spine1")
        words = ("-c", "configure terminal", "-c", "router bgp 65000", "-c", "neighbor 10.254.0.1 shutdown")
        subprocess.run(netns.command(namespace, vtysh(namespace, words)), check=True, capture_output=True, timeout=30)
        assert named(made) == {("extra", "spine1", "bgpd: router bgp 65000 / neighbor 10.254.0.1 shutdown")}
        mended(made)
        for told, changes in FRR_DAMAGES:
            typed = tuple(word for line in ("configure terminal", *told) for word in ("-c", line))
            argv = netns.command(namespace, vtysh(namespace, typed))
            subprocess.run(argv, check=True, capture_output=True, timeout=30)
            found = {one for one in named(made) if not one[2].startswith("learned route")}
            assert {(change, part) for change, part, _ in found} == {(change, "spine1") for change in changes}, found
            assert all(name.startswith("bgpd: router bgp 65000 / ") for _, _, name in found)
            mended(made)
        does(
            made,
            "spine2",
            "kill -9 $(cat /run/frr/{}/bgpd.pid)".format(namespace_of(made.name, "spine2").replace(".", "_")),
        )
        assert named(made) == {("missing", "spine2", "daemon bgpd")}
        mended(made)
