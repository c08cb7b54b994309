"""YAML → `Scenario`: strict, every error at once with its place.

The names below are imported when they are first used: `labctl --help` must not pay for YAML and pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.loading.load import load_scenario, scenario_names, validate_files, where_of

__all__ = ["load_scenario", "scenario_names", "validate_files", "where_of"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from labctl.loading import load

    return getattr(load, name)
