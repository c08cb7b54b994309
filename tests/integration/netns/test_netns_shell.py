"""The script of `labctl plan --shell`, run by hand, makes the lab that labctl makes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from netns_building import as_json, names_of, needs_root, ping, running

from labctl.datapath import bpf
from labctl.model.impairment import Impairment
from labctl.model.lab import Encapsulation, HostRouting, Lab, Masquerade
from labctl.names import namespace_of
from labctl.planning.show import as_script
from labctl.providers.netns.provider import NetnsProvider
from labctl.providers.netns.record import parts_of
from labctl.system import netns
from labctl.testing.labs import RECORDED, sample_lab

pytestmark = [pytest.mark.root, needs_root]
PROVIDER = NetnsProvider()

VIEWS = (
    ("link", ("-d", "link", "show")),
    ("address", ("address", "show")),
    ("route", ("route", "show", "table", "all")),
    ("neighbour", ("neighbour", "show", "nud", "permanent")),
)


def run_script(lab: Lab, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "build.sh"
    script.write_text(as_script(PROVIDER.plan(lab)))
    return subprocess.run(["sh", str(script)], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def script_built(host_as_found: str, tmp_path: Path) -> Iterator[str]:
    name = f"{host_as_found}s"
    yield name
    PROVIDER.teardown(name)


@pytest.mark.parametrize("encapsulation", RECORDED)
@pytest.mark.parametrize("host_routing", HostRouting)
def test_the_script_builds_the_same_lab(
    host_as_found: str, script_built: str, tmp_path: Path, host_routing: HostRouting, encapsulation: Encapsulation
) -> None:
    masquerade = Masquerade.IPTABLES if host_routing is HostRouting.LEGACY else Masquerade.BPF
    by_labctl = sample_lab(
        f"{host_as_found}e", host_routing=host_routing, encapsulation=encapsulation, masquerade=masquerade
    )
    by_hand = replace(by_labctl, name=script_built)
    with running(by_labctl):
        done = run_script(by_hand, tmp_path)
        assert done.returncode == 0, done.stderr
        for part_here, part_there in zip(parts_of(by_labctl), parts_of(by_hand), strict=True):
            for view, words in VIEWS:
                here, there = seen(part_here, words, by_labctl), seen(part_there, words, by_hand)
                assert here or view == "neighbour", (part_here, view)
                assert here == there, f"{view} of {part_there}"
            assert rules(part_here) == rules(part_there)
        for node in by_labctl.nodes:
            here, there = attached(by_labctl, node.name), attached(by_hand, node.name)
            assert here
            assert here == there
            assert seen(namespace_of(by_labctl.name, node.name), VIEWS[-1][1], by_labctl)
        for address in (by_hand.pod("neighbour").address, by_hand.pod("server").address):
            answered = ping(by_hand, "client", address)
            assert answered.returncode == 0, answered.stdout
    found = next(one for one in PROVIDER.discover() if one.name == by_hand.name)
    assert (found.is_whole, found.lab, found.digest) == (True, by_hand, by_labctl.digest)
    assert script_built not in Path("/proc/self/mountinfo").read_text().replace(f"labctl.{script_built}.", "")


def seen(namespace: str, words: tuple[str, ...], lab: Lab) -> list[Any]:
    """What `ip` shows of a namespace, in an order of its own (a hash table of the kernel's has none)."""
    shown = [steady(item, lab) for item in as_json("ip", "-n", namespace, "-j", *words) if item]
    return sorted(shown, key=repr)


def steady(value: Any, lab: Lab) -> Any:
    """Without the lab's name, without timers that count down, and without the numbers by which the kernel calls other
    namespaces (it counts them as they come up)."""
    match value:
        case dict():
            unsteady = {key for key in value if key == "link_netnsid" or key.endswith("_timer")}
            return {key: steady(item, lab) for key, item in value.items() if key not in unsteady}
        case list():
            return [steady(item, lab) for item in value]
        case str():
            return value.replace(lab.name, "LAB")
        case _:
            return value


def rules(namespace: str) -> list[str]:
    done = subprocess.run(netns.command(namespace, ("iptables-save",)), capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("-A")]


def attached(lab: Lab, node: str) -> list[tuple[object, ...]]:
    """Device, side, program, its tag and what its maps hold (without counters), of everything that is attached."""
    namespace = namespace_of(lab.name, node)
    found: list[tuple[object, ...]] = []
    for listed in as_json(*netns.command(namespace, ("bpftool", "-j", "net"))):
        for one in listed["tc"]:
            descriptor = bpf.program_descriptor(one["id"])
            maps = bpf.maps_of_program(descriptor)
            try:
                info = bpf.program_info(descriptor)
                held = {
                    name: sorted(bpf.dump(maps[name]))
                    for name in ("config", "endpoints", "ipcache", "tunnel")
                    if name in maps
                }
            finally:
                bpf.close_all([descriptor, *maps.values()])
            found.append((one["devname"], one["kind"], info.name, info.tag, held))
    return sorted(found, key=lambda each: (str(each[0]), str(each[1])))


def test_the_script_refuses_a_lab_that_is_there(host_as_found: str, tmp_path: Path) -> None:
    lab = sample_lab(host_as_found)
    with running(lab):
        done = run_script(lab, tmp_path)
        assert done.returncode == 1
        assert done.stderr == f"the lab {lab.name} is there already; remove it with: labctl down {lab.name}\n"
        assert ping(lab, "client", lab.pod("server").address).returncode == 0


def test_a_script_that_fails_half_way_leaves_no_bpffs_and_what_down_removes(script_built: str, tmp_path: Path) -> None:
    lab = sample_lab(script_built)
    plan = PROVIDER.plan(lab)
    text = as_script(plan)
    script = tmp_path / "build.sh"
    script.write_text(text.replace("tc -n", "false -n", 1))
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert names_of(lab.name)
    assert f"bpf-{lab.name}" not in Path("/proc/self/mountinfo").read_text()
    PROVIDER.teardown(lab.name)
    assert names_of(lab.name) == ()


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("ethtool") is None, reason="needs ethtool: setup/prepare.sh run")
def test_the_script_of_an_impaired_lab_impairs_it(script_built: str, tmp_path: Path) -> None:
    """Loss by an eBPF program, a rate by a queue, the offloads off by ethtool: nothing differs from the plan."""
    lab = replace(sample_lab(script_built), impairments={"node1": Impairment(loss=0.1, rate_bit_per_s=10_000_000)})
    done = run_script(lab, tmp_path)
    assert done.returncode == 0, done.stderr
    drift = PROVIDER.compared(lab).drift
    assert (drift.differences, drift.unread) == ((), ())
