"""Names of places inside the HTML report: fragments that links lead to."""

from __future__ import annotations

import re

from labctl.model.comparison import MetricRow, RunRecord

_OTHER = re.compile(r"[^A-Za-z0-9_.-]")


def anchor(row: MetricRow) -> str:
    """The fragment of a row's samples, made of letters, digits, dots and dashes."""
    return _OTHER.sub("-", f"{row.placement}-{row.check}-{row.client}-{row.server}-{row.metric.name}")


def run_anchor(run: RunRecord) -> str:
    """The fragment of one run among the raw data."""
    return f"run-{run.side}-{run.block}-{run.position}"
