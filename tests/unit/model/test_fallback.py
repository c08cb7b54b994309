"""The one table of conditions under which Cilium runs Legacy: held against what real agents did and logged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labctl.model.fallback import (
    ENDS_LINE,
    KNOWN,
    ROWS,
    Condition,
    conditions_of,
    ends,
    fallback_in_log,
    fallback_of,
)
from labctl.model.lab import Datapath, Encapsulation, HostRouting, Masquerade
from labctl.model.versions import Version

RECORDED = Path(__file__).resolve().parents[2] / "fixtures" / "cilium" / "fallback"
ASKED = Datapath(
    host_routing=HostRouting.BPF,
    encapsulation=Encapsulation.VXLAN,
    masquerade=Masquerade.BPF,
    kube_proxy_replacement=True,
)
IPTABLES = replace(ASKED, masquerade=Masquerade.IPTABLES)
WITHOUT = replace(ASKED, kube_proxy_replacement=False, masquerade=Masquerade.IPTABLES)
SERIES = [f"1.{minor}.0" for minor in range(10, 21)]


def version(text: str) -> Version:
    return Version.parse(text)


def log_of(recording: str) -> list[str]:
    lines = (RECORDED / f"{recording}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("level=")]


@pytest.mark.parametrize("series", SERIES)
def test_what_can_be_had_does_not_fall_back(series: str) -> None:
    assert fallback_of(ASKED, version(series)) is None
    assert fallback_of(replace(WITHOUT, host_routing=HostRouting.LEGACY), version(series)) is None


@pytest.mark.parametrize("series", SERIES)
def test_netfilters_masquerading_takes_bpf_host_routing_away_in_every_series(series: str) -> None:
    fallback = fallback_of(IPTABLES, version(series))
    assert fallback is not None
    assert fallback.reason == Condition.IPTABLES_MASQUERADE
    assert fallback.masquerade is Masquerade.IPTABLES
    assert fallback.version == series
    assert fallback.remedy == "--set datapath.masquerade=bpf"


@pytest.mark.parametrize(("recording", "asked"), [("masq-iptables", IPTABLES), ("kpr-disabled", WITHOUT)])
def test_the_line_is_the_one_that_the_recorded_agent_logged(recording: str, asked: Datapath) -> None:
    fallback = fallback_of(asked, version("1.13.12"))
    assert fallback is not None
    recorded = fallback_in_log(log_of(recording))
    assert recorded is not None
    assert (fallback.line, fallback.reason) == (recorded.line, recorded.reason)


@pytest.mark.parametrize(
    ("series", "line"),
    [
        ("1.10.6", "Auto-disabling"),
        ("1.13.12", "Auto-disabling"),
        ("1.14.1", ""),
        ("1.16.0-rc.0", ""),
        ("1.19.6", ""),
        # From 1.20 on the first thing that the agent asks is whether netfilter masquerades, and it logs that.
        ("1.20.0", "BPF host routing requires enable-bpf-masquerade."),
    ],
)
def test_some_versions_keep_silent_when_kube_proxy_stays(series: str, line: str) -> None:
    fallback = fallback_of(WITHOUT, version(series))
    assert fallback is not None
    assert fallback.line.startswith(line)
    assert bool(fallback.line) is bool(line)


def test_without_kube_proxy_replacement_ebpf_does_not_masquerade_either() -> None:
    fallback = fallback_of(replace(ASKED, kube_proxy_replacement=False), version("1.13.12"))
    assert fallback is not None
    assert fallback.masquerade is Masquerade.IPTABLES


def test_an_agent_that_is_to_masquerade_by_ebpf_beside_kube_proxy_ends_since_1_16() -> None:
    asked = replace(ASKED, kube_proxy_replacement=False)
    assert [series for series in SERIES if ends(asked, version(series))] == SERIES[6:]
    assert not any(ends(other, version("1.18.12")) for other in (ASKED, IPTABLES, WITHOUT))


def test_both_things_in_the_way_are_told_with_both_remedies() -> None:
    assert conditions_of(WITHOUT) == (Condition.NO_KUBE_PROXY_REPLACEMENT, Condition.IPTABLES_MASQUERADE)
    fallback = fallback_of(WITHOUT, version("1.18.12"))
    assert fallback is not None
    assert fallback.remedy == "--set datapath.kubeProxyReplacement=true; --set datapath.masquerade=bpf"


def test_every_condition_has_a_row_and_every_line_is_recognised_as_its_condition() -> None:
    assert {row.condition for row in ROWS} == set(KNOWN) == set(Condition)
    for row in ROWS:
        if row.line:
            found = fallback_in_log([f'level=info msg="{row.line.replace(chr(34), chr(92) + chr(34))}" subsys=daemon'])
            assert found is not None
            assert found.line == row.line
            # One text stands for kube-proxy replacement that is off and that is partial.
            assert found.reason.startswith(row.condition.split(" is ")[0])


def test_no_series_has_two_lines_for_one_condition() -> None:
    for series in SERIES:
        conditions = [row.condition for row in ROWS if version(series) in row.versions]
        assert len(conditions) == len(set(conditions))


def test_no_explanation_in_the_log_is_no_explanation() -> None:
    assert fallback_in_log(log_of("kpr-partial")) is None
    assert fallback_in_log([]) is None


def test_the_documentation_has_the_table() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "datapath.md").read_text(encoding="utf-8")
    for row in ROWS:
        said = f"`{row.line}`" if row.line else "nothing"
        assert f"| {row.condition} | {row.versions} | {said} |" in page
    assert ENDS_LINE in page
