"""What to say of undetected rows: what the run could have seen, or that Holm's correction stands against them."""

from __future__ import annotations

from labctl import units
from labctl.model.comparison import Change, ChangeVerdict, Comparison
from labctl.report.words import Words


def detectable_text(change: Change | None) -> str:
    """`≥ 4.1 %`: what the run could have seen, or a dash."""
    return "–" if change is None or change.detectable is None else f"≥ {units.percent(change.detectable)}"


def is_uncorrected(change: Change) -> bool:
    """Whether the interval excludes 0 but Holm's correction over the primary rows does not bear the row out."""
    return change.p_holm is not None and (change.low > 0 or change.high < 0)


def undetected_text(change: Change | None) -> str:
    """What an undetected row could have seen, `≥ 4.1 %`; for one whose interval excludes 0, Holm's p."""
    return f"p {p_text(change)}" if change is not None and is_uncorrected(change) else detectable_text(change)


def p_text(change: Change) -> str:
    return f"{change.p_holm:.2g}"


def undetected_notes(comparison: Comparison, words: Words) -> tuple[str, ...]:
    """What `~` means, and why an interval that excludes zero can have it; empty where no row has it."""
    changes = [row.change for row in comparison.rows if row.verdict is ChangeVerdict.UNDETECTED and row.change]
    if not changes:
        return ()
    corrected = any(is_uncorrected(change) for change in changes)
    return (words.undetected_note, words.holm_note) if corrected else (words.undetected_note,)
