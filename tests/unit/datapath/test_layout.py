"""The bytes of the maps: packing and unpacking, and agreement with the C structures as the objects declare them."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from labctl.datapath import layout, service_maps
from labctl.datapath.layout import (
    Config,
    ConfigFlag,
    EndpointEntry,
    PacketVerdict,
    Program,
    SecurityIdentity,
    pack_config,
    pack_endpoint,
    pack_ipcache,
    pack_mac,
    pack_tunnel_key,
    unpack_config,
    unpack_endpoint,
    unpack_ipcache,
    unpack_metric_key,
    unpack_tunnel_key,
)
from labctl.datapath.loader import object_path
from labctl.model.lab import Encapsulation, HostRouting

HEADER = (Path(layout.__file__).parent / "source" / "layout.h").read_text(encoding="utf-8")

CONFIG = Config(
    node_address=IPv4Address("172.30.0.3"),
    router_address=IPv4Address("10.244.0.1"),
    pod_cidr=IPv4Network("10.244.0.0/16"),
    uplink_ifindex=4,
    cilium_net_ifindex=2,
    cilium_vxlan_ifindex=5,
    cilium_host_mac="02:00:00:00:00:03",
    flags=ConfigFlag.TRACE | ConfigFlag.WRONG_VNI,
    extra_delay_ns=2500,
    trace_source=IPv4Address("10.244.0.10"),
    trace_destination=IPv4Address("10.244.1.10"),
)


def test_a_config_is_laid_out_as_the_programs_read_it() -> None:
    assert pack_config(CONFIG).hex(" ", 4) == (
        "c4090000 00000000 ac1e0003 0af40001 0af40000 ffff0000 04000000 02000000 05000000 09000000 "
        "0af4000a 0af4010a 02000000 00030000"
    )


def test_a_config_survives_packing() -> None:
    assert unpack_config(pack_config(CONFIG)) == CONFIG


@pytest.mark.parametrize("delay", [-1, layout.MAX_EXTRA_DELAY_NS + 1])
def test_a_delay_that_the_loop_cannot_keep_is_refused(delay: int) -> None:
    bad = Config(**{**{name: getattr(CONFIG, name) for name in Config.__slots__}, "extra_delay_ns": delay})
    with pytest.raises(ValueError, match=f"between 0 and {layout.MAX_EXTRA_DELAY_NS}"):
        pack_config(bad)


def test_an_endpoint_begins_with_the_macs_of_the_frame_that_it_gets() -> None:
    endpoint = EndpointEntry(mac="02:00:00:00:00:0a", lxc_mac="02:00:00:00:00:1a", ifindex=10, identity=16843)
    packed = pack_endpoint(endpoint)
    assert packed[:12].hex() == "02000000000a" + "02000000001a"
    assert unpack_endpoint(packed) == endpoint


def test_an_ipcache_entry_survives_packing() -> None:
    assert unpack_ipcache(pack_ipcache(6, IPv4Address("172.30.0.4"))) == (6, IPv4Address("172.30.0.4"))


def test_a_tunnel_key_is_a_prefix_length_and_an_address() -> None:
    prefix = IPv4Network("10.244.1.0/24")
    assert pack_tunnel_key(prefix) == b"\x18\0\0\0\x0a\xf4\x01\0"
    assert unpack_tunnel_key(pack_tunnel_key(prefix)) == prefix


@pytest.mark.parametrize("mac", ["", "02:00:00:00:00", "02:00:00:00:00:00:00"])
def test_what_is_no_mac_address_is_refused(mac: str) -> None:
    with pytest.raises(ValueError, match="not a MAC address"):
        pack_mac(mac)


def test_a_metric_key_that_no_program_wrote_is_refused() -> None:
    with pytest.raises(ValueError, match="99"):
        unpack_metric_key(struct.pack("<IBB2x", 1, 99, 1))


def c_enum(name: str) -> dict[str, int]:
    body = re.search(rf"enum {name} {{(.*?)}};", HEADER, re.DOTALL)
    assert body, name
    return {key: int(value) for key, value in re.findall(r"(\w+) = (\d+),", body[1])}


def test_programs_and_flags_and_identities_have_the_numbers_of_the_c_source() -> None:
    assert c_enum("program") == {f"PROGRAM_{one.name}": int(one) for one in Program}
    assert c_enum("config_flag") == {f"FLAG_{one.name}": int(one) for one in ConfigFlag}
    assert c_enum("identity") == {f"IDENTITY_{one.name}": int(one) for one in SecurityIdentity}


def test_verdicts_have_the_numbers_of_the_c_source_and_words() -> None:
    assert c_enum("verdict") == {
        f"{'DROP' if one.is_drop else 'VERDICT'}_{one.name}": int(one) for one in PacketVerdict
    }
    assert all(one.words.startswith("dropped: ") == one.is_drop for one in PacketVerdict)


def test_program_names_are_ciliums() -> None:
    assert {one.function: one.hook for one in Program} == {
        "cil_from_container": "ingress",
        "cil_from_host": "egress",
        "cil_to_host": "ingress",
        "cil_from_netdev": "ingress",
        "cil_to_netdev": "egress",
        "cil_from_overlay": "ingress",
        "cil_to_overlay": "egress",
        "cil_sock4_connect": "connect4",
        "cil_sock4_sendmsg": "sendmsg4",
        "cil_sock4_recvmsg": "recvmsg4",
        "cil_sock4_getpeername": "getpeername4",
        "cil_sock_release": "sock_release",
    }


@pytest.mark.skipif(shutil.which("bpftool") is None, reason="needs bpftool")
def test_structures_have_the_sizes_and_offsets_that_the_objects_declare() -> None:
    path = object_path(HostRouting.BPF, Encapsulation.VXLAN, "lb")
    dumped = json.loads(
        subprocess.run(("bpftool", "-j", "btf", "dump", "file", path), capture_output=True, check=True).stdout
    )
    structures = {one["name"]: one for one in dumped["types"] if one["kind"] == "STRUCT"}
    sizes = {
        "config": layout.CONFIG,
        "endpoint": layout.ENDPOINT,
        "ipcache_entry": layout.IPCACHE,
        "tunnel_key": layout.TUNNEL_KEY,
        "snat_key": layout.SNAT_KEY,
        "snat_entry": layout.SNAT_ENTRY,
        "fragment_key": layout.FRAGMENT_KEY,
        "ports": layout.PORTS,
        "metric_key": layout.METRIC_KEY,
        "metric": layout.METRIC,
        "event": layout.EVENT,
        "service_key": service_maps.SERVICE_KEY,
        "service_entry": service_maps.SERVICE_ENTRY,
        "backend": service_maps.BACKEND,
        "socket_key": service_maps.SOCKET_KEY,
        "socket_entry": service_maps.SOCKET_ENTRY,
        "flow_key": service_maps.FLOW_KEY,
        "flow_entry": service_maps.FLOW_ENTRY,
    }
    assert {name: structures[name]["size"] for name in sizes} == {name: one.size for name, one in sizes.items()}
    for name, format_ in sizes.items():
        declared = [
            member["bits_offset"] // 8
            for member in structures[name]["members"]
            if not member["name"].startswith("unused")
        ]
        assert declared == offsets(format_.format), name


def offsets(format_: str) -> list[int]:
    """Where each field of a struct format begins; padding is no field."""
    found, at = [], 0
    for count, letter in re.findall(r"(\d*)([a-zA-Z])", format_):
        size = struct.calcsize(f"<{letter}")
        if letter == "x":
            at += int(count or 1)
        elif letter == "s":
            found.append(at)
            at += int(count)
        else:
            for _ in range(int(count or 1)):
                found.append(at)
                at += size
    return found
