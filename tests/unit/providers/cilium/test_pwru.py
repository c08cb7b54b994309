"""pwru: what it needs, how it is asked, and its JSON in the documented shape (tests/fixtures/cilium/documented)."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from labctl.errors import MeasureFailed
from labctl.model.trace import Mover
from labctl.providers.base import TargetKind
from labctl.providers.cilium.hubble_pwru import (
    FUNCTIONS,
    KERNEL_SCRIPT,
    PLACE_SCRIPT,
    Kernel,
    LabNamespace,
    argv_pwru,
    parse_kernel,
    parse_place,
    parse_pwru,
)
from labctl.providers.cilium.hubble_pwru import why_not as reason
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.providers.cilium.versions import Version
from labctl.providers.kind.tools import HostCommands

from .cilium_recordings import recorded

JSON = recorded("documented/pwru-json.txt")
PAIR = ("10.244.0.10", "10.244.1.20")
PLACES = (
    LabNamespace(name="node1", boot="b", netns=4026532575, links={12: "lxc3a6f7d4e8c73", 9: "eth0"}),
    LabNamespace(name="node2", boot="b", netns=4026532700, links={9: "eth0"}),
)
GOOD = Kernel(
    boot="b", release="6.8.0-40-generic", has_btf=True, has_kprobes=True, has_tracing=True, version=Version(1, 0, 12)
)


def test_the_filter_is_one_pcap_expression_and_the_output_json() -> None:
    argv = argv_pwru(PAIR)
    assert argv[-1] == "host 10.244.0.10 and host 10.244.1.20"
    assert "--output-json" in argv
    assert not any(word.startswith(("--filter-src", "--filter-dst", "--filter-netns")) for word in argv)
    assert int(argv[argv.index("--output-limit-lines") + 1]) > 0


def test_only_whole_names_of_functions_are_probed() -> None:
    argv = argv_pwru(PAIR)
    pattern = re.compile(argv[argv.index("--filter-func") + 1])
    assert all(pattern.search(name) for name in FUNCTIONS)
    assert not any(pattern.search(name) for name in ("ip_rcv_core", "__ip_forward", "ip_forward_finish", "veth_xmit"))


def test_one_network_namespace_can_be_asked_for() -> None:
    argv = argv_pwru(PAIR, netns=4026532575)
    assert argv[argv.index("--filter-netns") + 1] == "inode:4026532575"


def test_without_a_pair_pwru_is_never_started() -> None:
    with pytest.raises(MeasureFailed, match="a pair of pods only"):
        argv_pwru(("10.0.0.1",))


def test_events_go_to_their_node_by_namespace_and_to_their_device_by_index() -> None:
    seen = parse_pwru(JSON, PLACES, clock_ns=1_000)
    assert [(m.node, m.device, m.helper) for m in seen] == [
        ("node1", "lxc3a6f7d4e8c73", "ip_rcv"),
        ("node1", "lxc3a6f7d4e8c73", "ip_forward"),
        ("node2", "eth0", "kfree_skb_reason(SKB_DROP_REASON_NETFILTER_DROP)"),
    ]
    assert {m.mover for m in seen} == {Mover.AGENT}
    assert (seen[0].packet.protocol, seen[0].packet.first, seen[0].packet.second) == ("tcp", 41600, 80)
    assert (seen[2].packet.protocol, seen[2].packet.first) == ("icmp", 0)
    assert [m.time_ns for m in seen] == [5_000_001_100, 5_000_001_200, 5_000_001_400]


def test_a_release_without_its_reason_is_left_out_since_every_capture_makes_one() -> None:
    """pwru before 1.0.9 does not give the reason of `sk_skb_reason_drop` (Linux 6.11 and later)."""
    bare = JSON.replace("sk_skb_reason_drop(SKB_CONSUMED)", "sk_skb_reason_drop")
    assert parse_pwru(bare, PLACES) == parse_pwru(JSON, PLACES)
    named = JSON.replace("sk_skb_reason_drop(SKB_CONSUMED)", "sk_skb_reason_drop(SKB_DROP_REASON_NETFILTER_DROP)")
    assert len(parse_pwru(named, PLACES)) == len(parse_pwru(JSON, PLACES)) + 1


def test_without_the_offset_of_the_clocks_events_have_no_time() -> None:
    assert {m.time_ns for m in parse_pwru(JSON, PLACES)} == {None}


@pytest.mark.parametrize(
    "text", ["", "{", "SKB  CPU PROCESS", '{"netns": 4026532575}', '{"netns": "x", "tuple": {}}', "[1]"]
)
def test_what_is_no_event_is_left_out(text: str) -> None:
    assert parse_pwru(text, PLACES) == ()


def test_a_kernel_that_has_everything_allows_it() -> None:
    assert reason(GOOD) == ""


@pytest.mark.parametrize(
    ("lacks", "word"),
    [
        ({"version": Version(0, 0, 9)}, "up to 0.0.9 it filters by --filter-src-ip"),
        ({"version": Version(1, 0, 5)}, "--output-json came with 1.0.6"),
        ({"version": None}, "does not tell its version"),
        ({"release": "4.19.0-amd64"}, "needs 5.3 or later"),
        ({"release": "?"}, "release cannot be read"),
        ({"has_btf": False}, "no BTF"),
        ({"has_kprobes": False}, "no kprobes"),
        ({"has_tracing": False}, "mount -t debugfs"),
    ],
)
def test_each_thing_that_is_missing_is_a_reason_of_its_own(lacks: dict[str, object], word: str) -> None:
    said = reason(replace(GOOD, **lacks))  # type: ignore[arg-type]
    assert word in said
    assert "; the kernel has no" not in said


@pytest.mark.parametrize("said", ["pwru v1.0.9", "pwru 1.0.9", "pwru version 1.0.9-dirty"])
def test_the_kernels_conditions_are_read(said: str) -> None:
    kernel = parse_kernel(f"boot=abc\nrelease=6.1.0-30-amd64\nbtf=yes\ntracing=/sys/kernel/tracing\nversion={said}\n")
    assert (kernel.boot, kernel.has_btf, kernel.has_kprobes, kernel.has_tracing) == ("abc", True, False, True)
    assert kernel.version is not None
    assert kernel.version.series == (1, 0)


def test_a_program_that_the_shell_does_not_find_has_no_version() -> None:
    assert parse_kernel("version=sh: 1: pwru: not found").version is None


def test_a_place_tells_its_namespace_and_devices() -> None:
    place = parse_place("node1", "boot=abc\nnetns=net:[4026532575]\nlink=1 lo\nlink=12 lxc3a6f7d4e8c73\n")
    assert (place.boot, place.netns, dict(place.links)) == ("abc", 4026532575, {1: "lo", 12: "lxc3a6f7d4e8c73"})
    with pytest.raises(MeasureFailed, match="node1 does not tell"):
        parse_place("node1", "sh: readlink: not found")


def test_the_scripts_ask_a_real_shell_and_a_real_kernel() -> None:
    here = DoorTarget(name="here", kind=TargetKind.NODE, door=Door(closed=(), open=()), commands=HostCommands())
    place, kernel = parse_place("here", here.read(PLACE_SCRIPT)), parse_kernel(here.read(KERNEL_SCRIPT))
    assert place.netns == Path("/proc/self/ns/net").stat().st_ino
    assert "lo" in place.links.values()
    assert (kernel.boot, kernel.release) == (place.boot, os.uname().release)
    assert kernel.has_btf is os.access("/sys/kernel/btf/vmlinux", os.R_OK)
