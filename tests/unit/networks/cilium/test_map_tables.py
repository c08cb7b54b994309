"""The maps of a node in words: what the kernel gives, with the names that the lab has for it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from labctl.datapath.bpf import Entry, MapInfo, MapType
from labctl.datapath.layout import (
    METRIC,
    METRIC_KEY,
    SNAT_ENTRY,
    SNAT_KEY,
    PacketVerdict,
    Program,
    decode_metrics,
    pack_address,
    pack_ipcache,
    pack_tunnel_key,
)
from labctl.datapath.service_maps import FLOW_KEY
from labctl.model.evidence import MapTable
from labctl.model.lab import Fault, Lab
from labctl.networks.cilium.contents import map_contents
from labctl.networks.cilium.map_tables import map_table, names_of
from labctl.testing.labs import sample_lab

LAB = sample_lab("words")
DEVICES = {4: "eth0", 10: LAB.pod("client").lxc, 11: LAB.pod("neighbour").lxc}


def info(name: str, kind: MapType = MapType.HASH) -> MapInfo:
    return MapInfo(id=9, name=name, type=kind, key_size=4, value_size=4, max_entries=16)


def table(name: str, entries: list[Entry], *, kind: MapType = MapType.HASH, lab: Lab = LAB) -> MapTable:
    made = map_table(info(name, kind), entries, names_of(lab, DEVICES))
    assert made is not None
    return made


def filled(name: str, lab: Lab = LAB) -> MapTable:
    return table(name, [(key, (value,)) for key, value in map_contents(lab, "node1")[name]], lab=lab)


def test_endpoints_name_pod_lxc_and_identity() -> None:
    client = LAB.pod("client")
    rows = filled("endpoints").rows
    assert rows[0] == (
        f"{client.address} (client)", client.lxc, client.mac, client.lxc_mac, f"{client.identity} (app=client)"
    )  # fmt: skip
    assert len(rows) == 2


def test_the_ipcache_says_who_is_behind_which_tunnel() -> None:
    rows = {row[0]: row[1:] for row in filled("ipcache").rows}
    server = LAB.pod("server")
    assert rows[f"{server.address} (server)"] == (f"{server.identity} (app=server)", "172.30.0.3 (node2)")
    assert rows["172.30.0.2 (node1)"] == ("1 (host)", "")
    assert rows["10.244.1.1 (cilium_host of node2)"] == ("6 (remote-node)", "172.30.0.3 (node2)")


def test_the_table_shows_what_is_in_the_map_and_not_what_should_be() -> None:
    wrong = sample_lab("words", faults=(Fault.WRONG_VTEP,))
    assert ("10.244.1.0/24", "172.30.0.4 (node3)") in filled("tunnel", wrong).rows
    entry = (pack_tunnel_key(IPv4Network("10.9.0.0/24")), (pack_address(IPv4Address("1.2.3.4")),))
    assert table("tunnel", [entry]).rows == (("10.9.0.0/24", "1.2.3.4"),)


def test_addresses_are_in_the_order_of_their_numbers() -> None:
    entries: list[Entry] = [
        (pack_address(IPv4Address(f"10.9.0.{last}")), (pack_ipcache(2, IPv4Address(0)),)) for last in (100, 20, 3)
    ]
    assert [row[0] for row in table("ipcache", entries).rows] == ["10.9.0.3", "10.9.0.20", "10.9.0.100"]


def test_masquerading_is_shown_with_both_ends_and_the_rewritten_one() -> None:
    pod, outside, node = (IPv4Address(text) for text in ("10.244.0.2", "172.30.0.9", "172.30.0.2"))
    key = SNAT_KEY.pack(pod.packed, outside.packed, b"\x9c\x40", b"\x00\x50", 6, 0)
    value = SNAT_ENTRY.pack(1, 2, node.packed, b"\x9c\x41", 0)
    assert table("snat", [(key, (value,))], kind=MapType.LRU_HASH).rows == (
        ("tcp", "out", "10.244.0.2 (client):40000", "172.30.0.9:80", "source → 172.30.0.2 (node1):40001"),
    )


def test_metrics_are_summed_over_the_cpus_and_name_device_program_and_act() -> None:
    key = METRIC_KEY.pack(10, Program.FROM_CONTAINER, PacketVerdict.REDIRECT_PEER)
    entries: list[Entry] = [(key, (METRIC.pack(2, 200), METRIC.pack(1, 100)))]
    rows = table("metrics", entries, kind=MapType.PERCPU_HASH).rows
    assert rows == ((LAB.pod("client").lxc, "cil_from_container", "bpf_redirect_peer", "3", "300"),)
    assert decode_metrics(entries)[0].packets == 3


def test_the_configuration_is_a_list_of_settings() -> None:
    made = table("config", [(key, (value,)) for key, value in map_contents(LAB, "node1")["config"]], kind=MapType.ARRAY)
    settings = {row[0]: row[1] for row in made.rows}
    assert settings["node"] == "172.30.0.2 (node1)"
    assert settings["flags"] == "masquerade"
    assert made.max_entries is None


def test_maps_without_entries_to_list_are_left_out() -> None:
    assert map_table(info("events", MapType.RINGBUF), [], names_of(LAB, DEVICES)) is None


def test_flows_that_netfilter_translated_name_client_and_backend() -> None:
    client, server = LAB.pod("client").address, LAB.pod("server").address
    key = FLOW_KEY.pack(client.packed, server.packed, (40000).to_bytes(2), (5205).to_bytes(2), 6)
    rows = table("stack_flows", [(key, (bytes(8),))], kind=MapType.LRU_HASH).rows
    assert rows == (("tcp", f"{client} (client):40000", f"{server} (server):5205"),)
