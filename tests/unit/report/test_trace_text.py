"""The trace on a terminal: every hop, what moved it and what was skipped, in words, on 80 and on 140 columns."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from rich.console import Console

from labctl.model.lab import Encapsulation, HostRouting, Placement
from labctl.model.trace import Carriage, Movement, Mover, Trace, Way
from labctl.report.trace_text import trace_view
from labctl.report.trace_words import different, steps

from .trace_example import BPF, CELLS, CROSS, KEY, LEGACY, NATIVE, SAME, VXLAN, example_trace, lost_trace

each_cell = pytest.mark.parametrize(("mode", "how", "where"), CELLS)
each_width = pytest.mark.parametrize("width", [80, 140])


def shown(trace: Trace, width: int = 80) -> str:
    console = Console(width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as captured:
        console.print(trace_view(trace, width=width))
    return captured.get()


def words(trace: Trace, width: int = 140) -> str:
    """What stands beside the lanes, wrapped lines joined again."""
    return re.sub(r"\s+", " ", re.sub(r"[┊┃●○╰╯─▶◀✗]", " ", shown(trace, width)))


@each_cell
@each_width
def test_no_line_is_wider_than_the_terminal(
    mode: HostRouting, how: Encapsulation, where: Placement, width: int
) -> None:
    for line in shown(example_trace(mode, how, where), width).splitlines():
        assert len(line) <= width, line


def test_a_command_is_one_line_that_can_be_pasted() -> None:
    command = "nsenter --net=/run/netns/labctl.a.client -- ping -n -c 1 -p " + "ab" * 16 + " 10.244.1.10"
    trace = replace(example_trace(BPF, VXLAN, CROSS), command=command)
    console = Console(width=80, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(trace_view(trace, width=80), crop=False)
    assert f"  $ {command}" in captured.get().splitlines()


@each_cell
def test_every_hop_has_its_number_tap_and_ttl(mode: HostRouting, how: Encapsulation, where: Placement) -> None:
    trace = example_trace(mode, how, where)
    text = words(trace)
    for path in trace.paths:
        for number, hop in enumerate(path.hops, start=1):
            assert f"{number} {hop.tap} {hop.direction} ttl {hop.ttl}" in text


@each_cell
def test_bpf_says_that_the_lxc_was_gone_past_and_legacy_never_does(
    mode: HostRouting, how: Encapsulation, where: Placement
) -> None:
    text = words(example_trace(mode, how, where))
    said = "never transmitted on lxcb3eacd33433b: redirected into the pod" in text
    assert said is (mode is BPF)
    assert ("bpf_redirect_peer" in text) is (mode is BPF)


def test_the_envelope_is_opened_with_the_vni_as_an_identity_and_the_vteps_as_nodes() -> None:
    text = words(example_trace(BPF, VXLAN, CROSS))
    assert "VXLAN 172.30.0.2 (node1) → 172.30.0.3 (node2), UDP 40123 → 8472, outer TTL 64" in text
    assert "VNI 51130 = client (app=client), the sender's identity" in text
    assert "VNI 1279 = server (app=server), the sender's identity" in text
    assert "VXLAN" not in words(example_trace(BPF, NATIVE, CROSS))


def test_a_vni_that_is_nobodys_or_not_the_senders_is_said_to_be_so() -> None:
    trace = example_trace(BPF, VXLAN, CROSS)

    def with_envelope(**changes: object) -> Trace:
        hops = tuple(
            replace(hop, envelope=replace(hop.envelope, **changes)) if hop.envelope else hop  # type: ignore[arg-type]
            for hop in trace.paths[0].hops
        )
        return replace(trace, paths=(replace(trace.paths[0], hops=hops),))

    assert "no pod of this lab has that identity" in words(with_envelope(identity_pods=(), identity_labels=()))
    assert "NOT the sender's identity" in words(with_envelope(is_senders=False))


def test_the_kernels_hooks_are_named_where_the_stack_forwards() -> None:
    text = words(example_trace(LEGACY, NATIVE, CROSS))
    for hook in ("PREROUTING", "FORWARD", "POSTROUTING"):
        assert f"netfilter {hook}: accepted" in text
    assert "FORWARD" not in words(example_trace(BPF, NATIVE, CROSS))


def test_one_node_needs_three_lanes_and_two_nodes_five() -> None:
    same, cross = shown(example_trace(BPF, VXLAN, SAME)), shown(example_trace(BPF, VXLAN, CROSS))
    assert re.search(r"^ *client +node1 +server +request 1", same, re.MULTILINE)
    assert re.search(r"^ *client +node1 +wire +node2 +server +request 1", cross, re.MULTILINE)


def test_a_lost_packet_is_lost_in_words_where_it_was_last_seen() -> None:
    text = shown(lost_trace())
    assert "✗" in text
    assert "LOST: the tunnel entry names another" in text
    assert "arrived" not in text
    assert text.startswith("The request goes wrong at underlay:port1")


def test_nothing_is_said_by_colour_alone() -> None:
    """The plain text holds both ways by name; styles are all that a console without colours leaves out."""
    text = shown(example_trace(BPF, VXLAN, CROSS))
    assert "request 1: ICMP echo request" in text
    assert "reply 1: ICMP echo reply" in text
    assert "\x1b[" not in text


def test_packets_that_went_the_same_way_are_shown_once() -> None:
    trace = example_trace(BPF, VXLAN, CROSS, packets=3)
    assert [numbers for _, numbers in different(trace)] == [(1, 2, 3), (1, 2, 3)]
    assert "request 2, 3: the same path" in words(trace)


def test_a_packet_that_went_another_way_is_shown_by_itself() -> None:
    trace = example_trace(BPF, VXLAN, CROSS, packets=2)
    second = next(path for path in trace.paths if path.number == 2 and path.way is Way.REQUEST)
    odd = replace(second, hops=(*second.hops[:-1], replace(second.hops[-1], ttl=61)))
    changed = replace(trace, paths=tuple(odd if path is second else path for path in trace.paths))
    assert [(path.way, numbers) for path, numbers in different(changed)] == [
        (Way.REQUEST, (1,)),
        (Way.REPLY, (1, 2)),
        (Way.REQUEST, (2,)),
    ]


def test_what_was_skipped_stands_where_it_lies_on_the_way() -> None:
    request = example_trace(BPF, VXLAN, CROSS).paths[0]
    order = [getattr(step, "tap", None) or getattr(step, "taps", ("",))[0] for step in steps(request)]
    assert order.index("node2:lxcb3eacd33433b") == order.index("server:eth0") - 1
    assert order.index("node1:lxc948fe603f61d") < order.index("node1:cilium_host") < order.index("node1:eth0")


def test_long_names_and_hostile_ones_do_not_break_the_picture() -> None:
    trace = replace(example_trace(BPF, VXLAN, CROSS), client="c" * 40, server_node="n" * 40, lab="[red]x[/red]")
    for width in (80, 140):
        for line in shown(trace, width).splitlines():
            assert len(line) <= width
    note = replace(trace, notes=("[bold]not markup[/bold]",))
    assert "[bold]not markup[/bold]" in shown(note)


def test_what_moved_it_on_a_third_node_is_said_to_be_there() -> None:
    trace = example_trace(BPF, VXLAN, CROSS)
    request = trace.paths[0]
    strange = tuple(
        replace(hop, moved_by=tuple(replace(act, node="node3") for act in hop.moved_by)) for hop in request.hops
    )
    text = words(replace(trace, paths=(replace(request, hops=strange),)))
    assert "⇣ on node3: cil_from_container" in text
    assert "on node1:" not in words(trace)


def test_the_place_is_named_once_in_the_headline() -> None:
    trace = lost_trace()
    assert trace.wrong is not None
    wrong = replace(trace.wrong, sentence="at underlay:port1 the request is in a wrong envelope")
    assert (
        shown(replace(trace, wrong=wrong)).splitlines()[0].startswith("The request goes wrong: at underlay:port1 the")
    )


def acting(what: str, device: str, hook: str, *, encapsulated: bool) -> Movement:
    return Movement(
        node="node1", mover=Mover.PROGRAM, what=what, device=device, hook=hook, helper="seen",
        packet=KEY, encapsulated=encapsulated,
    )  # fmt: skip


@pytest.mark.parametrize("mode", [LEGACY, BPF])
def test_the_vxlan_device_stands_between_what_had_the_packet_and_what_had_its_envelope(
    mode: HostRouting,
) -> None:
    trace = example_trace(mode, VXLAN, CROSS)
    acts = {
        False: [("cil_to_overlay", "cilium_vxlan", "egress", False), ("cil_to_netdev", "eth0", "egress", True)],
        True: [("cil_from_netdev", "eth0", "ingress", True), ("cil_from_overlay", "cilium_vxlan", "ingress", False)],
    }
    paths = []
    for path in trace.paths:
        hops = tuple(
            replace(
                hop,
                because="the vxlan device worked",
                moved_by=tuple(
                    acting(what, device, hook, encapsulated=wrapped)
                    for what, device, hook, wrapped in acts[hop.envelope is None]
                ),
            )
            if hop.carriage is Carriage.TUNNEL
            else replace(hop, moved_by=())
            for hop in path.hops
        )
        paths.append(replace(path, hops=hops))
    lines = re.findall(
        r"⇣ (cil_to_overlay|cil_to_netdev|cil_from_netdev|cil_from_overlay|the vxlan device worked)(?=[ \n]).*",
        shown(replace(trace, paths=tuple(paths)), 200),
    )
    one_way = [
        "cil_to_overlay", "the vxlan device worked", "cil_to_netdev",
        "cil_from_netdev", "the vxlan device worked", "cil_from_overlay",
    ]  # fmt: skip
    text = [line for line in lines if line in one_way]
    assert text[:6] == one_way
    assert text == one_way * (len(text) // 6)
