"""The next hop that a pod asks for."""

from __future__ import annotations

import pytest

from labctl.checks.wire import parse_next_hop
from labctl.errors import MeasureFailed


def test_the_gateway_is_asked_for_or_the_server_itself_on_its_wire() -> None:
    by_gateway = '[{"dst":"10.244.1.10","gateway":"169.254.1.1","dev":"eth0","prefsrc":"10.244.0.10","flags":[]}]'
    on_wire = '[{"dst":"10.244.1.10","dev":"eth0","prefsrc":"10.244.0.10","flags":[]}]'
    assert parse_next_hop(by_gateway, "10.244.1.10") == "169.254.1.1"
    assert parse_next_hop(on_wire, "10.244.1.10") == "10.244.1.10"


def test_no_route_is_no_next_hop() -> None:
    with pytest.raises(MeasureFailed, match="no route"):
        parse_next_hop("[]", "10.244.1.10")
