from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from labctl.system import netlink, rtnetlink, rtnetlink_changes
from labctl.system.netlink import Request, attributes
from labctl.system.rtnetlink import NetDevice, RouteScope


def known(request: Request, header: int) -> dict[int, bytes]:
    return dict(netlink.attributes(request.body, header))


def test_an_attribute_counts_its_length_without_the_padding() -> None:
    assert netlink.attribute(3, b"lo\0") == struct.pack("=HH", 7, 3) + b"lo\0\0"
    assert dict(netlink.attributes(netlink.attribute(3, b"lo\0") + netlink.number_attribute(4, 1500))) == {
        3: b"lo\0",
        4: struct.pack("=I", 1500),
    }


def test_a_truncated_attribute_ends_the_list() -> None:
    assert list(netlink.attributes(b"\0\0\0\0rest")) == []


def test_a_route_has_its_metric_gateway_and_source() -> None:
    request = rtnetlink.route_add(
        3,
        IPv4Network("10.244.1.0/24"),
        gateway=IPv4Address("10.244.0.1"),
        source=IPv4Address("10.244.0.1"),
        mtu=1450,
    )
    family, bits, _, _, table, protocol, scope, kind, _ = struct.unpack_from("=BBBBBBBBI", request.body)
    assert (family, bits, table, protocol, scope, kind) == (2, 24, 254, 3, 0, 1)
    attributes = known(request, 12)
    assert attributes[1] == bytes((10, 244, 1, 0))
    assert attributes[5] == attributes[7] == bytes((10, 244, 0, 1))
    assert dict(netlink.attributes(attributes[8])) == {2: struct.pack("=I", 1450)}
    assert attributes[4] == struct.pack("=I", 3)


def test_the_default_route_has_no_destination() -> None:
    request = rtnetlink.route_add(2, IPv4Network("0.0.0.0/0"), gateway=IPv4Address("10.244.0.1"))
    assert 1 not in known(request, 12)


def test_a_link_scope_route_says_its_scope() -> None:
    request = rtnetlink.route_add(2, IPv4Network("10.244.0.1/32"), scope=RouteScope.LINK)
    assert request.body[6] == 253


def test_a_veth_pair_has_its_peer_inside_the_link_info() -> None:
    end = NetDevice(name="lxc0", index=10, mac="02:00:00:00:00:01", mtu=1500, flags=rtnetlink.IFF_UP)
    peer = NetDevice(name="eth0", index=2, mac="02:00:00:00:00:02", mtu=1500, flags=0)
    request = rtnetlink.veth_add(end, peer, peer_namespace=7, master=4)
    attributes = known(request, 16)
    assert attributes[10] == struct.pack("=I", 4)
    info = dict(netlink.attributes(attributes[18]))
    assert info[1] == b"veth\0"
    inside = dict(netlink.attributes(info[2]))[1]
    assert struct.unpack_from("=BxHiII", inside)[2:] == (2, 0, 0)
    assert dict(netlink.attributes(inside, 16))[28] == struct.pack("=I", 7)


def test_an_address_is_its_own_peer() -> None:
    attributes = known(rtnetlink.address_add(2, IPv4Interface("10.244.0.2/32")), 8)
    assert attributes[1] == attributes[2] == bytes((10, 244, 0, 2))


def test_a_filter_answer_of_another_kind_is_nothing() -> None:
    body = struct.pack("=BxxxiIII", 0, 1, 0, 0, 0) + netlink.text_attribute(1, "u32")
    assert rtnetlink.parse_filter(body) is None


@pytest.mark.parametrize(("mode", "flag"), [(1, 4), (2, 2), (3, 8)], ids=["driver", "generic", "hardware"])
def test_an_xdp_program_is_detached_in_the_mode_that_it_is_attached_in(mode: int, flag: int) -> None:
    """Without the flag the kernel looks at the driver's hook, and leaves a generic program on a veth silently."""
    said = rtnetlink_changes.xdp_remove(7, mode).body[16:]
    inner = dict(attributes(dict(attributes(said))[43]))
    assert (inner[1], inner[3]) == (struct.pack("=i", -1), struct.pack("=I", flag))
