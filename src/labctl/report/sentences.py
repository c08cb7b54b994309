"""Whole sentences and short texts about a comparison, the same in every report; no layout.

Every figure comes from the records, every word from the catalogue of one language (`words`, `words_zh`), which is
chosen here. Of undetected rows they say what the run could have seen, or that the correction stands against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labctl import units
from labctl.compare.thresholds import ThresholdJudgement, ThresholdState
from labctl.model.comparison import (
    Caution,
    Change,
    ChangeVerdict,
    Comparison,
    Correction,
    MetricRow,
    Refusal,
    RunRecord,
    Side,
)
from labctl.model.evidence import ModeInForce
from labctl.model.lab import Fallback, Placement
from labctl.model.result import Metric, MetricFamily, Verdict
from labctl.report.words import ENGLISH, Language, Words

USUAL_CONFIDENCE = 0.95
_SHARES = ("most", "limit", "low", "high", "other_low", "other_high")


def words_for(language: Language) -> Words:
    """The catalogue of that language. The Chinese one is imported when it is asked for."""
    if language is Language.CHINESE:
        from labctl.report.words_zh import CHINESE

        return CHINESE
    return ENGLISH


def side_names(comparison: Comparison) -> tuple[str, str]:
    """What to call the sides: their scenarios, told apart when they are the same one."""
    a, b = comparison.a.scenario, comparison.b.scenario
    return (f"{a} (A)", f"{b} (B)") if a == b else (a, b)


def label(metric: Metric, words: Words) -> str:
    return words.labels.get(metric.name, metric.label)


def placement_name(placement: str, words: Words) -> str:
    return words.placements.get(placement, placement)


def standing_text(mode: ModeInForce | None, words: Words) -> str:
    """Whether a side is in the mode that was asked for; None where that was not checked."""
    if mode is None:
        return words.not_proven
    if not mode.proven or mode.fallback is None:
        return words.standings[mode.standing]
    return words.fell_back.format(
        **asked_and_found(mode), reason=mode.fallback.reason, log=log_text(mode.fallback, words)
    )


def asked_and_found(mode: ModeInForce) -> dict[str, object]:
    """The host routing that was asked for and the one that is in force, by `asked` and `found`."""
    key = "hostRouting"
    return {"asked": mode.asked.get(key), "found": mode.found.get(key)}


def log_text(fallback: Fallback, words: Words = ENGLISH) -> str:
    """What the agents of that version log as they fall back."""
    said = words.logged if fallback.line else words.unlogged
    return said.format(version=fallback.version, line=fallback.line)


def headline_row(comparison: Comparison) -> MetricRow | None:
    """The row that the headline is about: cross-node before same-node, latency before CPU before throughput.

    Chosen by what it is and never by what came out, so that the headline is not a pick among many.
    """
    families = (MetricFamily.LATENCY, MetricFamily.CPU, MetricFamily.THROUGHPUT)
    judged = [row for row in comparison.rows if row.verdict is not None]
    return min(
        judged,
        key=lambda row: (
            row.verdict is ChangeVerdict.REFUSED,
            row.placement is not Placement.CROSS_NODE,
            families.index(row.metric.family),
        ),
        default=None,
    )


def headline(comparison: Comparison, words: Words = ENGLISH) -> str:
    """The result in one sentence."""
    row = headline_row(comparison)
    if row is None:
        return words.headline_nothing
    said = row_sentence(comparison, row, words)
    return said if comparison.is_paired else words.headline_unpaired.format(headline=said)


def noise_floor_text(comparison: Comparison, words: Words = ENGLISH) -> str:
    """What `compare X X` is for, in one sentence; empty when the sides differ, or nothing could be judged."""
    changes = [
        row.change
        for row in comparison.rows
        if row.margin is not None and row.refusal is None and row.change is not None
    ]
    detectable = [change.detectable for change in changes if change.detectable is not None]
    if comparison.a.digest != comparison.b.digest or not comparison.is_paired or not detectable:
        return ""
    return words.noise_floor.format(
        largest=units.percent(max(abs(change.estimate) for change in changes)),
        detectable=units.percent(max(detectable)),
    )


def row_sentence(comparison: Comparison, row: MetricRow, words: Words = ENGLISH) -> str:
    """What one judged row says, as a sentence. Rows without a verdict have no sentence (empty)."""
    if row.verdict is None:
        return ""
    a, b = side_names(comparison)
    what = f"{placement_name(row.placement, words)}{words.joiner}{label(row.metric, words)}"
    what = what[:1].upper() + what[1:]
    change = row.change
    if row.verdict is ChangeVerdict.REFUSED or change is None:
        return words.headline_refused.format(what=what, reason=refusal_text(row.refusal, words))
    facts = {
        "what": what,
        "a": a,
        "b": b,
        "level": level(change),
        "change": units.percent(change.estimate, signed=True),
        "low": units.percent(change.low, signed=True),
        "high": units.percent(change.high, signed=True),
        "margin": units.percent(row.margin or 0.0),
    }
    if row.verdict.is_difference:
        near, far = sorted((abs(change.low), abs(change.high)))
        facts |= {
            "word": words.verdicts[row.verdict],
            "size": units.percent(abs(change.estimate)),
            "low": units.percent_number(near),
            "high": units.percent(far),
        }
        return words.headline_difference.format(**facts)
    if row.verdict is ChangeVerdict.NEGLIGIBLE:
        return words.headline_negligible.format(**facts)
    if row.verdict is ChangeVerdict.SAME:
        return words.headline_same.format(**facts)
    if is_uncorrected(change):
        return words.headline_uncorrected.format(**facts, p=p_text(change))
    if change.detectable is None:
        return words.headline_undetected_unknown.format(**facts)
    return words.headline_undetected.format(**facts, detectable=units.percent(change.detectable))


def in_report_order(rows: Iterable[MetricRow]) -> tuple[MetricRow, ...]:
    """Cross-node before same-node, primary before secondary, then as declared."""
    return tuple(sorted(rows, key=lambda row: (str(row.placement), row.verdict is None)))


def level(change: Change) -> str:
    """The interval's confidence: `95 %`."""
    return units.percent(change.confidence)


def change_text(change: Change | None, verdict: ChangeVerdict | None = None) -> str:
    """`−21 %`; a `~` where the verdict is that no difference is detectable."""
    if change is None:
        return "–"
    if verdict in (ChangeVerdict.UNDETECTED, ChangeVerdict.SAME):
        return "~"
    return units.percent(change.estimate, signed=True)


def interval_text(change: Change | None, *, with_sign: bool = True) -> str:
    """`[−24, −19] %`; without the percent sign where the column's heading has it. A dash where there is no change, or
    only one value, which has no interval."""
    if change is None or not change.confidence:
        return "–"
    low, high = (units.percent_number(end, signed=True) for end in (change.low, change.high))
    return f"[{low}, {high}]" + (" %" if with_sign else "")


def verdict_text(row: MetricRow, words: Words, *, long: bool = False) -> str:
    """The verdict's word; `undetected` always with the difference that could have been seen, or why it is none."""
    if row.verdict is None:
        return words.secondary if row.refusal is None or row.change is not None else "–"
    if row.verdict is ChangeVerdict.UNDETECTED and row.change is not None and is_uncorrected(row.change):
        return f"{words.verdicts[row.verdict]} ({undetected_text(row.change)})"
    if row.verdict is ChangeVerdict.UNDETECTED and row.change is not None and row.change.detectable is not None:
        pattern = words.undetected_long if long else words.undetected_short
        return pattern.format(detectable=units.percent(row.change.detectable))
    return words.verdicts[row.verdict]


def row_values(row: MetricRow) -> tuple[str, str]:
    """The medians of both sides in one readable unit."""
    medians = [value for value in (row.a.median, row.b.median) if value is not None]
    scale = units.scale_for(row.metric.unit, medians)
    return (
        "–" if row.a.median is None else units.readable(row.a.median, row.metric.unit, scale),
        "–" if row.b.median is None else units.readable(row.b.median, row.metric.unit, scale),
    )


def refusal_text(refusal: Refusal | None, words: Words) -> str:
    return "" if refusal is None else words.refusals[refusal.kind].format(**_readable_facts(refusal.facts, words))


def caution_text(caution: Caution, words: Words) -> str:
    return words.cautions[caution.kind].format(**_readable_facts(caution.facts, words))


def mode_text(mode: Mapping[str, object]) -> str:
    """`hostRouting bpf, encapsulation vxlan, kubeProxyReplacement yes`."""
    shown = {True: "yes", False: "no"}
    return ", ".join(f"{key} {shown[value] if isinstance(value, bool) else value}" for key, value in mode.items())


def statements(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    """Sentences that belong to the figures, each with the sides that it is about: `A`, `B` or `A, B`."""
    about: dict[str, list[str]] = {}
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        for statement in side.statements:
            about.setdefault(statement, []).append(letter)
    return tuple((", ".join(letters), statement) for statement, letters in about.items())


def sides(comparison: Comparison) -> tuple[tuple[str, Side], tuple[str, Side]]:
    """Both sides with the letter that reports call them by."""
    return ("A", comparison.a), ("B", comparison.b)


def refused_rows(comparison: Comparison) -> tuple[tuple[str, tuple[MetricRow, ...]], ...]:
    """Judged rows without a verdict, gathered by their reason in English."""
    gathered: dict[str, list[MetricRow]] = {}
    for row in comparison.rows:
        if row.verdict is ChangeVerdict.REFUSED:
            gathered.setdefault(refusal_text(row.refusal, ENGLISH), []).append(row)
    return tuple((reason, tuple(rows)) for reason, rows in gathered.items())


def stopping_text(comparison: Comparison, words: Words) -> str:
    """When it stopped; empty for a comparison with a fixed number of blocks."""
    stopping = comparison.stopping
    if stopping is None:
        return ""
    pattern = words.stopped_narrow if stopping.is_reached else words.stopped_limit
    return pattern.format(
        until=units.percent(stopping.until),
        reached="–" if stopping.half_width is None else units.percent(stopping.half_width),
        after=stopping.after,
        looks=", ".join(str(look.rounds) for look in stopping.looks),
    )


def limit_lines(comparison: Comparison, words: Words) -> tuple[tuple[str, str], ...]:
    """What the rows with a reference say, as titles with lines: `round-trip p50: A +57 % [+51, +62] %, B +10 % […]`."""
    lines = []
    for row in in_report_order(comparison.rows):
        if row.limit is None or row.verdict is None:
            continue
        texts = [
            f"{letter} {change_text(change)} {interval_text(change)}"
            for letter, change in (("A", row.limit.a), ("B", row.limit.b))
        ]
        title = words.limit.format(client=row.limit.client, server=row.limit.server)
        lines.append((title, f"{label(row.metric, words)}: {', '.join(texts)}"))
    return tuple(lines)


def judgement_text(judgement: ThresholdJudgement, words: Words) -> str:
    """`CROSSED: cross-node rtt_p50 > +5% (+12 % [+9, +15] %)`."""
    named = {
        ThresholdState.CROSSED: words.crossed,
        ThresholdState.HELD: words.held,
        ThresholdState.UNKNOWN: words.unknown,
    }
    row = judgement.row
    where = f"{placement_name(row.placement, words)} {label(row.metric, words)}, {row.client}→{row.server}"
    why = refusal_text(row.refusal, words) if judgement.outcome is ThresholdState.UNKNOWN else ""
    seen = f"{change_text(row.change)} {interval_text(row.change)}"
    return f"{named[judgement.outcome]}: {judgement.threshold.text} ({where}: {why or seen})"


def method_text(comparison: Comparison, words: Words) -> str:
    family = [row.change for row in comparison.rows if row.change is not None and row.change.p_adjusted is not None]
    correction = next((change.correction for change in family if change.correction is not None), Correction.HOLM)
    levels = [row.change.confidence for row in comparison.rows if row.change is not None]
    pattern = words.method_paired if comparison.is_paired else words.method_unpaired
    interval = _interval_words(max(levels, default=0.95), comparison, words)
    method = pattern.format(
        seed=comparison.seed, rows=len(family), interval=interval, correction=words.corrections[correction]
    )
    return " ".join(
        said for said in (method, margins_text(comparison, words), stopping_text(comparison, words)) if said
    )


def _interval_words(confidence: float, comparison: Comparison, words: Words) -> str:
    """Which interval the changes have: five pairs have no exact one of 95 %, and a single one has none at all."""
    if not confidence:
        return words.interval_none
    pattern = words.interval_paired if comparison.is_paired else words.interval_unpaired
    short = words.interval_short if confidence < USUAL_CONFIDENCE else ""
    return pattern.format(level=units.percent(confidence)) + short


def margins_text(comparison: Comparison, words: Words) -> str:
    """The margins of this comparison, by family of metrics; empty when nothing is judged."""
    margins = {row.metric.family: row.margin for row in comparison.rows if row.margin is not None}
    named = ", ".join(f"{words.families[family]} ± {units.percent(margin)}" for family, margin in margins.items())
    return words.margins.format(margins=named) if named else ""


def row_name(comparison: Comparison, row: MetricRow, words: Words) -> str:
    """The row's label, with check and pair where the same label stands for several rows of its placement."""
    name = label(row.metric, words)
    alike = [each for each in comparison.rows if (each.placement, label(each.metric, words)) == (row.placement, name)]
    return name if len(alike) == 1 else f"{name} ({row.check} {row.client}→{row.server})"


def failed_run_lines(comparison: Comparison, words: Words) -> tuple[str, ...]:
    """Runs that did not pass and that no refused row mentions: those of checks that yield no numbers (netfilter,
    service, …), and of the way between the nodes. One line for each side, check and pair."""
    told = {(row.check, row.client, row.server) for row in comparison.rows if row.refusal is not None}
    by_key: dict[tuple[str, str, str, str], list[RunRecord]] = {}
    for run in comparison.runs:
        if (run.check, run.client, run.server) not in told:
            by_key.setdefault((run.side, run.check, run.client, run.server), []).append(run)
    names = dict(zip((comparison.a.key, comparison.b.key), side_names(comparison), strict=True))
    lines = []
    for (side, check, client, server), runs in by_key.items():
        bad = [run for run in runs if run.verdict is not Verdict.PASS]
        if bad:
            first = bad[0]
            lines.append(
                words.failed_run.format(
                    side=names[side],
                    placement=placement_name(first.placement, words),
                    check=check,
                    client=client,
                    server=server,
                    count=len(bad),
                    of=len(runs),
                    block=first.block,
                    verdict=words.check_verdicts[first.verdict],
                    reason=first.reason,
                )
            )
    return tuple(lines)


def environment_lines(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    """The environment as names and values, in a fixed order."""
    environment = comparison.environment
    memory = [("memory", units.readable(environment.memory_byte, "byte"))] if environment.memory_byte else []
    return (
        ("kernel", environment.kernel),
        ("cpu", f"{environment.cpus} × {environment.cpu_model}"),
        *memory,
        *((("pinning", environment.pinning),) if environment.pinning else ()),
        *sorted(environment.versions.items()),
        *sorted(environment.settings.items()),
        *sorted(environment.sysctls.items()),
    )


def _readable_facts(facts: Mapping[str, str | int | float], words: Words) -> dict[str, str | int | float]:
    readable: dict[str, str | int | float] = {}
    for key, value in facts.items():
        if key in _SHARES and isinstance(value, float):
            readable[key] = units.percent(value)
        elif key.endswith("_hz") and isinstance(value, float):
            readable[key] = f"{units.significant(value / units.GIGA)} GHz"
        elif key == "placement":
            readable[key] = placement_name(str(value), words)
        elif key == "label":
            readable[key] = words.labels.get(str(facts.get("metric", "")), str(value))
        elif key in ("correlation",) and isinstance(value, float):
            readable[key] = units.significant(value, 2)
        else:
            readable[key] = value
    return readable


def detectable_text(change: Change | None) -> str:
    """`≥ 4.1 %`: what the run could have seen, or a dash."""
    return "–" if change is None or change.detectable is None else f"≥ {units.percent(change.detectable)}"


def is_uncorrected(change: Change) -> bool:
    """Whether the interval excludes 0 but the correction over the primary rows does not bear the row out."""
    return change.p_adjusted is not None and (change.low > 0 or change.high < 0)


def undetected_text(change: Change | None) -> str:
    """What an undetected row could have seen, `≥ 4.1 %`; for one whose interval excludes 0, the corrected p."""
    return f"p {p_text(change)}" if change is not None and is_uncorrected(change) else detectable_text(change)


def p_text(change: Change) -> str:
    return f"{change.p_adjusted:.2g}"


def undetected_notes(comparison: Comparison, words: Words) -> tuple[str, ...]:
    """What `~` means, and why an interval that excludes zero can have it; empty where no row has it."""
    changes = [row.change for row in comparison.rows if row.verdict is ChangeVerdict.UNDETECTED and row.change]
    if not changes:
        return ()
    corrected = any(is_uncorrected(change) for change in changes)
    return (words.undetected_note, words.corrected_note) if corrected else (words.undetected_note,)
