"""What `labctl doctor --class` says of a host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labctl.lessons.capacity import HostFacts, class_probes, read_host

HOST = HostFacts(
    memory_mib=8000, cpus=8, disk_mib=100_000, namespaces=60_000, terminals=4096, missing_tools=(),
    has_rules_folder=True, has_sshd=True,
)  # fmt: skip


def test_a_large_host_has_room_for_thirty() -> None:
    assert [probe.name for probe in class_probes(30, HOST) if not probe.present] == []


@pytest.mark.parametrize(
    ("change", "name", "is_required"),
    [
        ({"memory_mib": 1000}, "memory", True),
        ({"cpus": 1}, "processors", False),
        ({"disk_mib": 100}, "disk", True),
        ({"namespaces": 100}, "network namespaces", True),
        ({"terminals": 64}, "terminals", True),
        ({"missing_tools": ("useradd",)}, "tools for logins", True),
        ({"has_rules_folder": False}, "rules for sudo", True),
        ({"has_sshd": False}, "sshd", False),
    ],
)
def test_what_is_lacking_is_named_with_its_remedy(change: dict[str, object], name: str, is_required: bool) -> None:
    (lacking,) = [probe for probe in class_probes(30, replace(HOST, **change)) if not probe.present]  # type: ignore[arg-type]
    assert (lacking.name, lacking.required) == (name, is_required)
    assert lacking.remedy


def test_this_host_is_read() -> None:
    found = read_host()
    assert found.memory_mib > 0
    assert found.cpus > 0
