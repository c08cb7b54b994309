"""A lab with other settings of its provider laid over it: what a bundle says instead of the scenario. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from labctl.model.lab import Lab
from labctl.planning.record import digest_of


def with_settings(lab: Lab, over: Mapping[str, Mapping[str, object]]) -> Lab:
    """`over` has sections by name, and wins key by key; None takes a key away. The digest follows."""
    settings = dict(lab.settings)
    for name, section in over.items():
        before = settings.get(name)
        merged = {**(before if isinstance(before, Mapping) else {}), **section}
        settings[name] = {key: value for key, value in merged.items() if value is not None}
    changed = replace(lab, settings=settings)
    return replace(changed, digest=digest_of(changed))
