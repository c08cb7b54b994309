"""What the rounds that taps took down come to, and the file that keeps them."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from labctl.errors import MeasureFailed
from labctl.load.places import Act, Place, Round, assigned, parts_of, places_file, read_places_file
from labctl.model.result import WayPart

TAP_NS, HOOK_TAP_NS = 50, 30


def place(act: Act, where: str = "", passes: int = 0) -> Place:
    """`where` is PART:DEVICE; nothing for a socket."""
    part = where.partition(":")[0]
    kind = {"client": "pod", "server": "pod", "": ""}.get(part, "node" if part.startswith("node") else "")
    return Place(act=act, tap=where, part=part, kind=kind, passes=passes)


def there(client: str, server: str, first: str, second: str, passes: int) -> list[tuple[Place, int, int]]:
    """One direction across nodes: each place with its time until the next, without taps, and netfilter's of it."""
    hooks = 400 * passes
    return [
        (place(Act.SENT, f"{client}:eth0"), 300, 0),
        (place(Act.RECEIVED, f"{first}:lxc1", passes), 700 + hooks, hooks),
        (place(Act.SENT, f"{first}:eth0"), 200, 0),
        (place(Act.RECEIVED, "underlay:port1"), 20, 0),
        (place(Act.SENT, "underlay:port2"), 200, 0),
        (place(Act.RECEIVED, f"{second}:eth0", passes), 600 + hooks, hooks),
        (place(Act.SENT, f"{second}:lxc1"), 350, 0),
        (place(Act.RECEIVED, f"{server}:eth0"), 90, 0),
        (place(Act.ARRIVED), 0, 0),
        (place(Act.AGAIN), 8000, 0),
    ]


def a_round(number: int, *, passes: int = 3, slower: float = 1.0) -> Round:
    """As the taps would have taken it down: each adds its own time, and those at hooks too."""
    steps = there("client", "server", "node1", "node2", passes) + there("server", "client", "node2", "node1", passes)
    at, moments = 0, b""
    for each, length_ns, hooks_ns in steps:
        seen_ns = round(hooks_ns * slower) + each.passes * HOOK_TAP_NS
        moments += struct.pack("<II", at, seen_ns if each.passes else 0)
        at += round((length_ns - hooks_ns) * slower) + seen_ns + 2 * each.passes * HOOK_TAP_NS + TAP_NS
    return Round(
        begun_ns=1_000_000 * number,
        whole_ns=at,
        hook_tap_ns=HOOK_TAP_NS,
        places=tuple(each for each, _, _ in steps),
        moments=moments,
    )


def test_parts_are_what_lies_between_two_places_without_what_the_taps_took() -> None:
    parts = parts_of([a_round(number) for number in range(20)], has_netfilter=True)
    assert {part: round(value * 1e9) for part, value in parts.items()} == {
        WayPart.NETFILTER: 4 * 3 * 400,
        WayPart.STACK: 2 * (700 + 600 + 90),
        WayPart.DEVICES: 2 * (300 + 350),
        WayPart.TUNNEL: 0,
        WayPart.WIRE: 2 * 420,
        WayPart.ENDS: 2 * 8000,
    }


def test_all_parts_together_are_the_whole_less_the_taps() -> None:
    one = a_round(1)
    taps_ns = len(one.places) * TAP_NS + sum(each.passes for each in one.places) * 3 * HOOK_TAP_NS
    parts = parts_of([replace(one, begun_ns=number) for number in range(9)], has_netfilter=True)
    assert sum(parts.values()) == pytest.approx((one.whole_ns - taps_ns) * 1e-9)


def test_without_taps_at_hooks_netfilter_is_in_the_stack() -> None:
    rounds = [a_round(number, passes=0) for number in range(20)]
    assert WayPart.NETFILTER not in parts_of(rounds, has_netfilter=False)


def test_the_quickest_and_the_slowest_quarter_do_not_count() -> None:
    usual = [a_round(number) for number in range(16)]
    odd = [a_round(number, slower=slower) for number, slower in ((20, 0.5), (21, 40.0), (22, 0.6), (23, 9.0))]
    assert parts_of([*odd, *usual], has_netfilter=True) == pytest.approx(parts_of(usual, has_netfilter=True))


def test_only_rounds_of_the_commonest_way_count() -> None:
    usual = [a_round(number) for number in range(16)]
    others = [a_round(number, passes=2, slower=3.0) for number in range(30, 40)]
    assert parts_of([*others, *usual], has_netfilter=True) == parts_of(usual, has_netfilter=True)


def test_a_tunnel_is_between_the_two_devices_that_send_one_after_the_other() -> None:
    into = (place(Act.SENT, "node1:cilium_vxlan"), place(Act.RECEIVED, "node2:cilium_vxlan"))
    one = a_round(1, passes=0)
    sent, received = one.places[2], one.places[5]
    places = (*one.places[:2], into[0], sent, *one.places[3:5], received, into[1], *one.places[6:])
    moments = struct.unpack(f"<{2 * len(one.places)}I", one.moments)
    times = [moments[2 * number] for number in range(len(one.places))]
    # The device of the tunnel stands 100 ns before the uplink's, and behind it.
    with_tunnel = [*times[:2], times[2] - 100, *times[2:6], times[5] + 100, *times[6:]]
    packed = b"".join(struct.pack("<II", each, 0) for each in with_tunnel)
    rounds = [replace(one, places=places, moments=packed, begun_ns=number) for number in range(9)]
    parts = parts_of(rounds, has_netfilter=True)
    assert parts[WayPart.TUNNEL] == pytest.approx((100 + 100 - 2 * TAP_NS) * 1e-9)


@pytest.mark.parametrize("fewer", [0, 7])
def test_too_few_rounds_come_to_nothing(fewer: int) -> None:
    assert parts_of([a_round(number) for number in range(fewer)], has_netfilter=True) == {}


def test_a_packet_that_was_lost_sight_of_comes_to_nothing() -> None:
    whole = a_round(1)
    rounds = [replace(whole, places=whole.places[:-2], moments=whole.moments[:-16]) for _ in range(20)]
    assert parts_of(rounds, has_netfilter=True) == {}


def test_the_file_has_every_round_as_it_was() -> None:
    rounds = [a_round(number, slower=1 + number / 7) for number in (1, 2, 3)] + [a_round(9, passes=0)]
    assert read_places_file(places_file(rounds, has_netfilter=True)) == (tuple(rounds), True)
    assert read_places_file(places_file(reversed(rounds[:3]), has_netfilter=True)) == (tuple(rounds[:3]), True)
    assert read_places_file(places_file([], has_netfilter=False)) == ((), False)


@pytest.mark.parametrize("damage", ["cut", "another line", "fewer rounds"])
def test_a_damaged_file_is_refused(damage: str) -> None:
    data = places_file([a_round(1), a_round(2)], has_netfilter=True)
    damaged = {"cut": data[:-9], "another line": b"{}\n" + data, "fewer rounds": data.replace(b'": 2}', b'": 1}')}
    assert read_places_file(data)
    with pytest.raises(MeasureFailed, match="cannot be read"):
        read_places_file(damaged[damage])


def test_a_round_is_that_of_the_slice_in_which_it_lies_wholly() -> None:
    one = a_round(0)
    begun = {1_000: 5, 1_000 + one.whole_ns: None, 500_000: 6, 499_999: None}
    rounds = [replace(one, begun_ns=at) for at in begun]
    windows = [(1_000, 1_000 + one.whole_ns, 5), (500_000, 900_000, 6)]
    found = assigned(rounds, windows)
    assert {number: [each.begun_ns for each in found[number]] for number in found} == {5: [1_000], 6: [500_000]}
