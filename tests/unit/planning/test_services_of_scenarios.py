"""Services from a scenario's words to addresses, and through a record and back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from labctl.loading import load_scenario
from labctl.model.lab import Lab, ServiceProtocol, ServiceType
from labctl.planning.record import digest_of, lab_from_json, lab_to_json
from labctl.planning.resolve import resolve, selected, selector_of, service_address, service_capacity, with_settings
from labctl.planning.show import differences

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
PODS = {"one": {"app": "web", "tier": "a"}, "two": {"app": "web", "tier": "b"}, "client": {"app": "client"}}


@pytest.fixture
def lab() -> Lab:
    return resolve(load_scenario("valid/services.yaml", start=CORPUS))


def test_services_get_addresses_in_the_order_of_the_file_beyond_those_that_kubernetes_takes(lab: Lab) -> None:
    web, dns, door = lab.services
    assert [str(service.address) for service in lab.services] == ["10.96.0.11", "10.96.0.12", "10.96.0.13"]
    assert (web.port, web.target_port, web.backends, dict(web.selector)) == (80, 5205, ("one", "two"), {"app": "web"})
    assert (dns.protocol, dns.target_port, dns.backends) == (ServiceProtocol.UDP, 53, ("two",))
    assert (door.type, door.node_port, dict(door.selector)) == (
        ServiceType.NODE_PORT,
        30205,
        {"app": "web", "tier": "b"},
    )


def test_the_smallest_range_has_room_for_four() -> None:
    smallest = IPv4Network("10.96.0.0/28")
    assert service_capacity(smallest) == 4
    assert service_address(smallest, 3) < smallest.broadcast_address


def test_a_lab_with_services_goes_through_its_record_and_back(lab: Lab) -> None:
    assert lab_from_json(lab_to_json(lab)) == lab


def test_a_lab_without_services_has_the_digest_that_it_always_had(lab: Lab) -> None:
    bare = replace(lab, services=())
    assert "services" not in lab_to_json(bare)
    assert digest_of(bare) != digest_of(lab)


def test_what_differs_between_services_is_said(lab: Lab) -> None:
    other = replace(lab, services=(replace(lab.services[0], port=81), *lab.services[2:]))
    assert differences(lab, other) == ("service dns is gone", "service web: port is 81, was 80")
    assert differences(replace(lab, services=()), replace(lab, services=lab.services[:1])) == ("service web is new",)


def test_backends_are_said_by_the_labels_that_they_alone_have_in_common() -> None:
    assert selector_of(("one", "two"), PODS) == {"app": "web"}
    assert selector_of(("two",), PODS) == {"app": "web", "tier": "b"}
    assert selector_of(("one", "client"), PODS) is None
    assert selector_of(("one",), {"one": {"app": "web"}, "two": {"app": "web"}}) is None
    assert selected({"app": "web"}, PODS) == ("one", "two")


def test_settings_laid_over_a_lab_win_key_by_key_and_none_takes_away(lab: Lab) -> None:
    before = replace(lab, settings={"cilium": {"version": "1.18.12", "imageRepository": "mirror"}})
    after = with_settings(
        before, {"cilium": {"version": "1.13.12", "imageRepository": None}, "kindCluster": {"pull": False}}
    )
    assert after.settings == {"cilium": {"version": "1.13.12"}, "kindCluster": {"pull": False}}
    assert after.digest == digest_of(after) != before.digest


def test_an_address_that_is_said_is_taken_and_the_others_go_round_it(tmp_path: Path) -> None:
    text = (CORPUS / "valid" / "services.yaml").read_text(encoding="utf-8")
    chosen = text.replace("{name: dns,", "{name: dns, clusterIP: 10.96.0.11,")
    (tmp_path / "own.yaml").write_text(chosen, encoding="utf-8")
    services = resolve(load_scenario(tmp_path / "own.yaml", start=tmp_path)).services
    assert [str(service.address) for service in services] == ["10.96.0.12", "10.96.0.11", "10.96.0.13"]


def test_a_service_whose_selector_fits_no_pod_is_allowed_with_a_warning_at_its_place() -> None:
    scenario = load_scenario("valid/service-without-backends.yaml", start=CORPUS)
    assert [service.backends for service in resolve(scenario).services] == [()]
    (warning,) = scenario.warnings
    assert (warning.line, warning.column, warning.path) == (13, 37, "services[0].selector")
    assert str(warning) == (
        "valid/service-without-backends.yaml:13:37: services[0].selector: warning: no pod has these labels, so every "
        "connection to the Service is refused (allowed: {app: client}, {app: web, tier: a}, {app: web, tier: b})"
    )
