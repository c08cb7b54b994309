"""One section of lab.yaml by itself, for who has no scenario: `labctl down` of a lab that only machines remember."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labctl.errors import ScenarioInvalid
from labctl.loading.layers import site_layer
from labctl.loading.project import project_at
from labctl.loading.tree import find, plain


def site_section(name: str, *, start: Path | None = None, trust: bool = False) -> Any:
    """The plain value of that section, None where lab.yaml has none. Raises ScenarioInvalid for a faulty lab.yaml, and
    UsageError for one that root does not go by without `trust`."""
    tree, problems, _ = site_layer(project_at(start, trust=trust))
    if problems:
        raise ScenarioInvalid(problems)
    found = find(tree, name)
    return None if found is None else plain(found)
