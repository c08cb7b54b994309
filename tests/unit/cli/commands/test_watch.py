"""The screen of `labctl watch`: what it shows of a lab, in few lines and in many."""

from __future__ import annotations

import pytest

from labctl.cli import group
from labctl.cli.commands.events import line_of
from labctl.cli.commands.watch import _Shown, alike
from labctl.model.lab_event import EventKind, LabEvent, LiveNode, LiveState
from labctl.model.links import LinkEndState, LinkState
from labctl.testing.labs import sample_lab


def node(name: str, *, is_there: bool = True, up: int = 5) -> LiveNode:
    return LiveNode(
        name=name, is_there=is_there, pods=1, devices=5, devices_up=up, rx_packets=10, tx_packets=9, dropped=2
    )


def link(name: str, *, is_up: bool = True, impairments: tuple[str, ...] = ()) -> LinkState:
    end = LinkEndState(part=name, device="eth0", is_up=is_up, has_carrier=is_up, rx_packets=3, tx_packets=4)
    return LinkState(name=name, ends=(end,), impairments=impairments)


def shown(height: int, *, links: int = 3, events: int = 5) -> list[str]:
    screen = _Shown(sample_lab("x"), "hostRouting bpf, proven at 12:00:00")
    screen.state = LiveState(
        nodes=(node("node1"), node("node2", is_there=False, up=0)),
        links=(
            *(link(f"pod{n}") for n in range(links)),
            link("node1", impairments=("loss=1%",)),
            link("node2", is_up=False),
        ),
    )
    screen.drift = ("link node2 is down",)
    screen.events.extend(
        LabEvent(at_ns=n * 10**9, part="node2", kind=EventKind.LINK, what=f"device eth{n} is down")
        for n in range(events)
    )
    return [line.plain for line in screen.parts(80, height)]


def test_the_screen_says_what_the_lab_is_and_what_is_not_as_it_was() -> None:
    lines = shown(24)
    assert lines[0].startswith("x: netns, 3 nodes, 3 pods")
    assert lines[1] == "in force: hostRouting bpf, proven at 12:00:00"
    assert lines[2] == "changed: link node2 is down"
    assert any(line.startswith("node2  stopped") for line in lines)
    assert lines[-1].endswith("node2  device eth4 is down")


@pytest.mark.parametrize("height", [12, 24, 60])
def test_the_screen_has_no_more_lines_than_the_terminal_and_shows_the_last_events(height: int) -> None:
    lines = shown(height, links=100, events=150)
    assert len(lines) <= height
    assert lines[-1].endswith("device eth149 is down")


def test_links_that_are_not_as_usual_come_first() -> None:
    lines = shown(24, links=100)
    title = next(number for number, line in enumerate(lines) if line.startswith("link "))
    assert lines[title].endswith("101 of 102 up")
    assert lines[title + 1].split()[:2] == ["node2", "down"]
    assert lines[title + 2].split()[:2] == ["node1", "up"]
    assert lines[title + 2].endswith("loss=1%")


def test_an_event_is_a_line() -> None:
    event = LabEvent(at_ns=1_500_000_000, part="node1", kind=EventKind.ROUTE, what="route default withdrawn by BGP")
    assert line_of(event).endswith(":01.500  node1  route default withdrawn by BGP")


def test_without_a_terminal_it_says_what_to_use_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["watch", "bpf"]) == 2
    assert "labctl events bpf" in capsys.readouterr().err


def test_what_fifty_pods_tell_is_a_line_for_each_kind_of_thing() -> None:
    came = [
        LabEvent(at_ns=n * 10**6, part=f"p{n}", kind=EventKind.PART, what="its namespace is there") for n in range(50)
    ]
    up = [
        LabEvent(at_ns=10**8 + n * 10**6, part="node1", kind=EventKind.LINK, what=f"device lxc{n:x}f is up")
        for n in range(50)
    ]
    down = LabEvent(at_ns=2 * 10**8, part="node1", kind=EventKind.LINK, what="device lxc3f is down")
    late = LabEvent(at_ns=5 * 10**9, part="node1", kind=EventKind.LINK, what="device lxc4f is down")
    assert alike([*came, *up, down, late], {"node1"}) == [(came[0], 49), (up[0], 49), (down, 0), (late, 0)]
    mixed = [one for pair in zip(came, up, strict=True) for one in pair]
    assert alike(mixed, {"node1"}) == [(came[0], 49), (up[0], 49)], "also where they come by turns"
    screen = _Shown(sample_lab("x"), "not asked")
    screen.events.extend((*came, *up))
    lines = [line.plain for line in screen.parts(80, 24)]
    assert lines[-2].endswith("p0  50× its namespace is there")
    assert lines[-1].endswith("node1  50× device lxc0f is up")


def test_the_screen_of_a_lab_that_became_another_one_is_that_of_the_other() -> None:
    screen = _Shown(sample_lab("x"), "hostRouting bpf, proven at 12:00:00")
    screen.became(sample_lab("x", pods=(("client", "node1"), ("late", "node2"))))
    lines = [line.plain for line in screen.parts(80, 24)]
    assert lines[0].startswith("x: netns, 3 nodes, 2 pods")
    assert lines[1] == "in force: not asked again since the lab became another one"
