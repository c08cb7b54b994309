"""What is read of vxlan devices' tables and of EVPN's routes. The outputs were recorded in labs of vxlan-p2p and evpn
(iproute2 6.1, FRR 8.4.4)."""

from __future__ import annotations

import pytest

from labctl.errors import MeasureFailed
from labctl.facts.tunnel_facts import parse_evpn, parse_fdb, places_of

FDB = (
    '[{"mac":"ca:03:ce:b3:91:a6","flags":[],"master":"br0","state":""},'
    '{"mac":"ca:03:ce:b3:91:a6","dst":"172.30.0.3","flags":["self"],"state":""},'
    '{"mac":"00:00:00:00:00:00","dst":"172.30.0.3","flags":["self"],"state":"permanent"},'
    '{"mac":"00:00:00:00:00:00","dst":"172.30.0.4","flags":["self"],"state":"permanent"}]'
)
EVPN = (
    '{"bgpTableVersion":3,"localAS":64512,'
    '"172.30.0.2:2":{"rd":"172.30.0.2:2","[2]:[0]:[48]:[4a:3f:a3:75:c1:5e]":{"prefixLen":352},'
    '"[2]:[0]:[48]:[66:7b:3b:53:e0:ad]:[32]:[10.244.0.11]":{"prefixLen":352},'
    '"[3]:[0]:[32]:[172.30.0.2]":{"prefixLen":352}},'
    '"172.30.0.3:2":{"rd":"172.30.0.3:2","[3]:[0]:[32]:[172.30.0.3]":{"prefixLen":352}},"numPrefix":4}'
)


def test_a_mac_is_behind_the_vtep_of_its_entry_and_unknown_ones_go_to_several() -> None:
    entries = parse_fdb(FDB)
    assert places_of(entries, "CA:03:CE:B3:91:A6") == ("172.30.0.3",)
    assert places_of(entries, "00:00:00:00:00:00") == ("172.30.0.3", "172.30.0.4")
    assert places_of(entries, "2a:85:98:46:de:33") == ()


def test_routes_are_sorted_by_their_type() -> None:
    found = parse_evpn(EVPN)
    assert found == {2: ("4a:3f:a3:75:c1:5e", "66:7b:3b:53:e0:ad"), 3: ("172.30.0.2", "172.30.0.3")}
    assert parse_evpn("{}") == {}


@pytest.mark.parametrize("text", ["[", "{}"])
def test_what_bridge_does_not_print_is_an_error_and_no_empty_table(text: str) -> None:
    with pytest.raises(MeasureFailed, match="the output of bridge cannot be read"):
        parse_fdb(text)


@pytest.mark.parametrize("text", ["% Unknown command", "[]"])
def test_what_vtysh_does_not_print_is_an_error_and_no_empty_table(text: str) -> None:
    with pytest.raises(MeasureFailed, match="the output of vtysh cannot be read"):
        parse_evpn(text)
