"""What is read of vxlan devices' tables and of EVPN's routes. The outputs were recorded in labs of vxlan-p2p and evpn
(iproute2 6.1, FRR 8.4.4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import MeasureFailed
from labctl.facts.trace_facts import Unmeasured
from labctl.facts.tunnel_facts import flooded_to, parse_evpn, parse_fdb, places_of
from labctl.loading import load_scenario
from labctl.model.fact import FactQuestion
from labctl.model.lab import Placement
from labctl.model.signature import Role
from labctl.planning.resolve import resolve
from labctl.providers.base import Tap
from labctl.testing.scripted import Answer, ScriptedLab, ScriptedTarget

CHECKOUT = Path(__file__).resolve().parents[3]

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


PEER = '{"l2vpnEvpn":{"peers":{"172.30.0.250":{"state":"%s","pfxRcd":4}}}}'


@pytest.mark.parametrize("scenario", ["evpn", "vxlan-p2p"])
@pytest.mark.parametrize("state", ["Established", "Active"])
def test_where_no_session_is_up_an_empty_list_of_evpn_is_no_answer(scenario: str, state: str) -> None:
    """A busy machine loses a session of 3 s of hold time for a moment, and with it what BGP told."""
    lab = resolve(load_scenario(scenario, start=CHECKOUT))
    pair = next(one for one in lab.pairs if one.placement is Placement.CROSS_NODE)
    said = (PEER % state).encode()
    node = ScriptedTarget("node3", [Answer(argv=("bridge",), stdout=b"[]"), Answer(argv=("vtysh",), stdout=said)])
    tap = Tap(name="node1:vxlan7", target=node, interface="vxlan7", role=Role.CLIENT_TUNNEL)
    opened = ScriptedLab(lab, [node], taps=[tap])
    question = FactQuestion(fact="flooded-to", client=pair.client, server=pair.server, node="node3")
    if scenario == "evpn" and state == "Active":
        with pytest.raises(Unmeasured, match="no BGP session of node3 is up"):
            flooded_to(opened, pair, question)
    else:
        assert flooded_to(opened, pair, question) == ()
