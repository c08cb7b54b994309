"""The chart as rendered: what `cilium-config` really says, compared with what was meant, before anything is installed.

Helm ignores unknown keys, so only the output shows them. Every difference becomes one problem that names the right key.
Pure: text in, problems out.

How the chart is fetched and rendered, as argv for helm. Pure; fetching and rendering are the executors'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from labctl.errors import UsageError
from labctl.model.sections import Cilium
from labctl.model.versions import Version
from labctl.providers.cilium.chart import Chart
from labctl.providers.cilium.compatibility import kube_version_to_render
from labctl.providers.cilium.helm_names import wrong_here
from labctl.providers.cilium.values import Wanted, expected_config, leaves
from labctl.values import dataclass

CONFIG_MAP = "cilium-config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The parts of the rendered chart that matter: the agent's configuration, every image, the agents' environment."""

    config: Mapping[str, str]
    images: tuple[str, ...]
    agent_environment: Mapping[str, str]


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """Raises UsageError for what is no YAML."""
    try:
        for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(document, dict):
                yield document
    except (yaml.YAMLError, ValueError, RecursionError) as failed:  # a date that there is none of is a ValueError
        raise UsageError(
            what="what helm rendered cannot be read", cause=str(failed)[:500], remedy="helm template …  # by hand"
        ) from failed


def _section(document: dict[str, Any], name: str) -> dict[Any, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def parse_rendered(text: str) -> Rendered:
    """Reads the output of `helm template`. Raises UsageError when it holds no `cilium-config`."""
    config: dict[str, str] | None = None
    images: dict[str, None] = {}
    environment: dict[str, str] = {}
    for document in _documents(text):
        name = _section(document, "metadata").get("name")
        if document.get("kind") == "ConfigMap" and name == CONFIG_MAP:
            config = {key: str(value) for key, value in _section(document, "data").items()}
        for container in _containers(document):
            image, entries = container.get("image"), container.get("env")
            if isinstance(image, str):
                images[image] = None
            if document.get("kind") == "DaemonSet" and container.get("name") == "cilium-agent":
                environment = {
                    entry["name"]: str(entry["value"])
                    for entry in (entries if isinstance(entries, list) else ())
                    if isinstance(entry, dict) and "value" in entry and "name" in entry
                }
    if config is None:
        raise UsageError(
            what="the rendered chart holds no cilium-config",
            cause="is it Cilium's chart? labctl looked for the ConfigMap that the agents read",
            remedy="helm show chart CHART",
        )
    return Rendered(config=config, images=tuple(images), agent_environment=environment)


def _containers(node: object) -> Iterator[dict[str, object]]:
    """Every container of a manifest, wherever its pod template is."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers") and isinstance(value, list):
                yield from (entry for entry in value if isinstance(entry, dict))
            else:
                yield from _containers(value)
    elif isinstance(node, list):
        for entry in node:
            yield from _containers(entry)


def differences(rendered: Rendered, wanted: Wanted, user: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """One sentence for each key of `cilium-config` that does not say what was meant."""
    found = []
    for key, expected in expected_config(wanted, user).items():
        actual = rendered.config.get(key)
        if actual == expected or (expected == "false" and key == "enable-bpf-masquerade" and actual is None):
            continue
        really = "is not there" if actual is None else f"is '{actual}'"
        found.append(
            f"{key} should be '{expected}', and {really}"
            if expected is not None
            else f"{key} should be absent, and {really}"
        )
    environment = rendered.agent_environment
    for name, value, meant in (
        ("KUBERNETES_SERVICE_HOST", "k8sServiceHost", wanted.api_host),
        ("KUBERNETES_SERVICE_PORT", "k8sServicePort", str(wanted.api_port)),
    ):
        if value not in (user or {}) and environment.get(name) != meant:
            found.append(f"the agent's {name} should be '{meant}', and is '{environment.get(name, '')}'")
    return tuple(found)


def wrong_values(user: Mapping[str, object], version: Version, chart: Chart | None) -> tuple[str, ...]:
    """One sentence for each of the user's values that this chart would ignore, garble or refuse."""
    found = []
    for path, value in leaves(user):
        wrong = _wrong_at(path, value, version)
        if wrong is not None:
            found.append(wrong)
        elif chart is not None and not chart.knows(path):
            nearest = chart.nearest(path)
            hint = f"; did you mean '{nearest}'?" if nearest else ""
            found.append(f"{path}: the chart {chart.version} has no such value and would ignore it{hint}")
    return tuple(found)


def _wrong_at(path: str, value: object, version: Version) -> str | None:
    wrong = wrong_here(path, value, version)
    if wrong is None:
        return None
    shown = f"{path}: {value}" if wrong.only else path
    return f"{shown} is {wrong.effect} in Cilium {version}; use {wrong.instead}"


def refuse_wrong_values(problems: Iterable[str], *, where: str) -> None:
    """Raises UsageError that lists every problem."""
    found = tuple(problems)
    if not found:
        return
    raise UsageError(
        what=f"{where}: {len(found)} {'value does' if len(found) == 1 else 'values do'} not take effect",
        cause="\n".join(found),
        remedy="correct cilium.values in the scenario; labctl plan SCENARIO --provider kind shows what is rendered",
        key="cilium.values",
    )


def refuse_wrong_chart(chart: Chart, place: str, wanted: Wanted, user: Mapping[str, object]) -> None:
    """Raises UsageError for a chart of another version, and for values that have no effect in it."""
    if chart.version != wanted.version:
        raise UsageError(
            what=f"the chart {place} is version {chart.version}, not {wanted.version}",
            cause="value names and images depend on the version",
            remedy=f'cilium.version: "{chart.version}"',
        )
    refuse_wrong_values(wrong_values(user, chart.version, chart), where="cilium.values")


def refuse_differences(rendered: Rendered, wanted: Wanted, user: Mapping[str, object]) -> None:
    """Raises UsageError for a `cilium-config` that does not say what was meant."""
    found = differences(rendered, wanted, user)
    if found:
        raise UsageError(
            what="the rendered cilium-config does not say what was meant",
            cause="; ".join(found),
            remedy="remove the value that overrides it from cilium.values, or ask for that datapath in `datapath`",
        )


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
