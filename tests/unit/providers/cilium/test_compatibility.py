from __future__ import annotations

import pytest

from labctl.errors import UsageError
from labctl.model.versions import Version
from labctl.providers.cilium.compatibility import kube_version_to_render, refuse_impossible

from .cilium_recordings import datapath


def judged(
    cilium: str, kubernetes: str, kernel: str = "6.18", mode: str = "bpf", allow: bool = False
) -> tuple[str, ...]:
    return refuse_impossible(
        cilium=Version.parse(cilium),
        kubernetes=Version.parse(kubernetes),
        kernel=Version.parse(kernel),
        datapath=datapath(mode),
        allow_untested=allow,
    )


@pytest.mark.parametrize(
    ("cilium", "kubernetes"), [("1.18.12", "1.32.2"), ("1.13.12", "1.20.2"), ("1.16.19", "1.30.0")]
)
def test_pairs_that_are_tested_are_not_worth_a_word(cilium: str, kubernetes: str) -> None:
    assert judged(cilium, kubernetes) == ()


@pytest.mark.parametrize(("cilium", "kubernetes"), [("1.11.0", "1.20.5"), ("1.10.6", "1.20.5")])
def test_the_versions_that_this_project_comes_from_both_install(cilium: str, kubernetes: str) -> None:
    judged(cilium, kubernetes)


def test_a_pair_outside_the_tested_range_is_a_warning_with_a_suggestion() -> None:
    (warning,) = judged("1.16.19", "1.33.1")
    assert "tested upstream with Kubernetes 1.27 to 1.30" in warning
    assert "suggested: 1.30" in warning


def test_1_16_on_1_20_renders_as_for_the_charts_minimum_because_it_was_run() -> None:
    (warning,) = judged("1.16.0-rc.0", "1.20.2")
    assert "rendered for that version and applied to 1.20.2" in warning
    assert kube_version_to_render(Version.parse("1.16.0-rc.0"), Version.parse("1.20.2")) == Version(1, 21)


def test_a_chart_that_refuses_the_cluster_is_refused_here_with_the_nearest_pair() -> None:
    with pytest.raises(UsageError) as refused:
        judged("1.17.18", "1.20.2")
    assert refused.value.what == "the chart of Cilium 1.17.18 refuses Kubernetes 1.20.2"
    assert refused.value.remedy == (
        "Kubernetes 1.31 (kindCluster.kubernetes, kubeadm.kubernetes), or cilium.version: 1.14, "
        "or cilium.allowUntested: true"
    )


def test_an_untested_pair_can_be_allowed() -> None:
    (warning,) = judged("1.17.18", "1.20.2", allow=True)
    assert "asks for Kubernetes 1.21.0 or later" in warning


def test_what_the_agent_itself_refuses_cannot_be_allowed() -> None:
    with pytest.raises(UsageError, match=r"Cilium 1\.19\.6 does not run on Kubernetes 1\.20\.2"):
        judged("1.19.6", "1.20.2", allow=True)


@pytest.mark.parametrize(("cilium", "kernel"), [("1.13.12", "4.18.0"), ("1.16.0", "5.3.0"), ("1.18.0", "5.4.0")])
def test_a_kernel_below_the_minimum_is_refused(cilium: str, kernel: str) -> None:
    with pytest.raises(UsageError, match="does not run on Linux"):
        judged(cilium, "1.30.0", kernel, "legacy")


def test_bpf_host_routing_needs_5_10_and_legacy_does_not() -> None:
    judged("1.13.12", "1.24.0", "5.4.0", "legacy")
    with pytest.raises(UsageError, match="BPF host routing is not available on Linux 5"):
        judged("1.13.12", "1.24.0", "5.4.0", "bpf")


def test_cilium_before_1_10_is_refused() -> None:
    with pytest.raises(UsageError, match="older than labctl supports"):
        judged("1.9.18", "1.20.2")


def test_a_newer_cilium_than_the_tables_know_is_a_warning() -> None:
    (warning,) = judged("1.21.0", "1.36.1")
    assert "newer than labctl's tables" in warning
