"""How the chart is fetched and rendered, as argv for helm. Pure; fetching and rendering are the executors'."""

from __future__ import annotations

from pathlib import Path

from labctl.model.sections_kind import Cilium
from labctl.providers.cilium.compatibility import kube_version_to_render
from labctl.providers.cilium.versions import Version

REPOSITORY = "https://helm.cilium.io"


def is_local(cilium: Cilium) -> bool:
    """True when the chart is a file or a folder of this host."""
    return bool(cilium.chart) and "://" not in cilium.chart


def chart_place(cilium: Cilium, version: Version, folder: Path) -> str:
    """Where the chart is when it is rendered: the local one, or where `argv_pull` puts it."""
    return cilium.chart if is_local(cilium) else str(folder / f"cilium-{version}.tgz")


def argv_pull(cilium: Cilium, version: Version, folder: Path) -> tuple[str, ...]:
    """Fetches the chart into `folder`; empty when it is local."""
    if is_local(cilium):
        return ()
    if cilium.chart.startswith("oci://"):
        return ("helm", "pull", cilium.chart, "--version", str(version), "--destination", str(folder))
    if cilium.chart.endswith(".tgz"):
        return ("helm", "pull", cilium.chart, "--destination", str(folder))
    repository = cilium.chart or REPOSITORY
    return ("helm", "pull", "cilium", "--repo", repository, "--version", str(version), "--destination", str(folder))


def argv_render(cilium: Cilium, version: Version, kubernetes: Version, charts: Path, values: Path) -> tuple[str, ...]:
    return (
        "helm", "template", "cilium", chart_place(cilium, version, charts), "--namespace", "kube-system",
        "--kube-version", str(kube_version_to_render(version, kubernetes)), "--values", str(values),
    )  # fmt: skip
