"""By whom routers send: by cost, and as BGP chooses."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from labctl.model.fabric import Link, LinkEnd, Router, Routing
from labctl.planning.ways import lengths_of, steps_of, ways_to


def fabric(
    joined: str, numbers: dict[str, int] | None = None, reflectors: str = ""
) -> tuple[tuple[Router, ...], tuple[Link, ...]]:
    """`a-b a-c=10`: links with their costs; each router's system is its own unless it is given."""
    links, names = [], []
    for number, said in enumerate(joined.split()):
        ends, _, cost = said.partition("=")
        parts = ends.split("-")
        names += parts
        made = [
            LinkEnd(part=part, device=f"port{number}", index=10 + number, mac="02:00:00:00:00:01") for part in parts
        ]
        links.append(Link(ends=(made[0], made[1]), cost=int(cost or 1)))
    routers = tuple(
        Router(
            name=name,
            router_id=IPv4Address(f"10.255.0.{number + 1}"),
            asn=(numbers or {}).get(name, 65_101 + number),
            is_reflector=name in reflectors,
        )
        for number, name in enumerate(sorted(dict.fromkeys(names)))
    )
    return routers, tuple(links)


def ways(edge: str, routing: Routing | None, made: tuple[tuple[Router, ...], tuple[Link, ...]]) -> dict[str, str]:
    return {name: "".join(sorted(by)) for name, by in ways_to(edge, routing, *made).items()}


@pytest.mark.parametrize("routing", [Routing.STATIC, Routing.OSPF, None])
def test_the_way_of_least_cost_is_taken_and_equal_ones_together(routing: Routing | None) -> None:
    assert ways("b", routing, fabric("a-b=10 a-c=3 c-b=3")) == {"a": "c", "b": "", "c": "b"}
    assert ways("d", routing, fabric("a-b a-c b-d c-d")) == {"a": "bc", "b": "d", "c": "d", "d": ""}
    assert ways("b", routing, fabric("a-b c-d")) == {"a": "b", "b": ""}


def test_bgp_counts_systems_and_takes_all_that_are_equal() -> None:
    assert ways("b", Routing.BGP, fabric("a-b=10 a-c c-b")) == {"a": "b", "b": "", "c": "b"}
    assert ways("d", Routing.BGP, fabric("a-b a-c b-d c-d")) == {"a": "bc", "b": "d", "c": "d", "d": ""}


def test_bgp_takes_no_path_that_names_its_own_system() -> None:
    made = fabric("a-c c-b", {"a": 65_000, "b": 65_000})
    assert "a" not in ways("b", Routing.BGP, made)
    spines = fabric("a-s a-t b-s b-t", {"s": 65_000, "t": 65_000})
    assert ways("b", Routing.BGP, spines) == {"a": "st", "b": "", "s": "b", "t": "b"}


def test_within_a_system_only_a_reflector_passes_on() -> None:
    one = dict.fromkeys("abc", 65_000)
    assert ways("a", Routing.BGP, fabric("a-b b-c", one)) == {"a": "", "b": "a"}
    assert ways("a", Routing.BGP, fabric("a-b b-c", one, reflectors="b")) == {"a": "", "b": "a", "c": "b"}


def test_what_came_from_another_system_is_preferred_to_what_came_from_within() -> None:
    """b hears of e from d and, by a of its own system, from c: as far, but from within."""
    made = fabric("a-b a-c b-d c-e d-e", {"a": 65_000, "b": 65_000})
    assert ways("e", Routing.BGP, made)["b"] == "d"


def test_the_steps_of_a_packet_and_how_many_routers_it_passes() -> None:
    found = ways_to("d", Routing.OSPF, *fabric("a-b a-c b-d c-d"))
    assert [*steps_of(found, "a")] == [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    assert lengths_of(found, "a") == {3}
    uneven = ways_to("b", Routing.OSPF, *fabric("a-b=2 a-c c-b"))
    assert lengths_of(uneven, "a") == {2, 3}
    assert lengths_of({"a": frozenset("b"), "b": frozenset("a")}, "a") == frozenset()
