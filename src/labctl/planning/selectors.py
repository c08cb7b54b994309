"""Which labels say exactly these pods, and which pods have these labels: how Kubernetes names a Service's backends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def selected(selector: Mapping[str, str], pods: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The pods (by name, with their labels) that have every label of the selector."""
    return tuple(name for name, labels in pods.items() if selector.items() <= labels.items())


def selector_of(backends: Iterable[str], pods: Mapping[str, Mapping[str, str]]) -> dict[str, str] | None:
    """The labels that all of these pods have in common, if no other pod has all of them; else None."""
    chosen = [pods[name] for name in backends]
    common = dict(chosen[0]) if chosen else {}
    for labels in chosen[1:]:
        common = {key: value for key, value in common.items() if labels.get(key) == value}
    if not common or set(selected(common, pods)) != set(backends):
        return None
    return common
