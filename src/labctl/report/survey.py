"""A survey as a document and as tables: nodes that are alike in one row, what differs named one by one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from labctl.codec import plain
from labctl.model.survey import NOT_SHOWN, Survey, SurveyedPair
from labctl.report.grid import Column, Grid

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = 30
_TRAITS = ("kernel", "kubelet", "runtime", "os", "architecture", "agent", "kube-proxy")
_MODE = ("hostRouting", "encapsulation", "masquerade", "kubeProxyReplacement")


def survey_document(survey: Survey) -> dict[str, object]:
    """The JSON of a survey: everything, with the differences drawn from it."""
    content = plain(survey)
    assert isinstance(content, dict)
    return {
        "apiVersion": "labctl/v1",
        "kind": "Survey",
        **content,
        "differences": plain(survey.differences),
        "complete": survey.is_complete,
    }


def survey_view(survey: Survey) -> Iterator[RenderableType]:
    """For a rich console."""
    from rich.text import Text

    where = f"context {survey.cluster}" if survey.cluster else "the current context"
    version = f", Kubernetes {survey.version}" if survey.version else ""
    yield Text(f"{where}: {len(survey.nodes)} nodes{version}")
    yield Text(f"in force: {_mode_in_words(survey)}")
    yield Text("")
    yield Grid((Column(title="what"), Column(title="value"), Column(title="nodes", is_right=True)), _counted(survey))
    differences = survey.differences
    if differences:
        yield Text("")
        yield Text(f"{len({one.node for one in differences})} nodes differ from the rest:")
        rows = [(one.node, one.trait, one.value, one.most) for one in differences[:_SHOWN]]
        yield Grid(tuple(Column(title=title) for title in ("node", "what", "value", "most have")), rows)
        if len(differences) > _SHOWN:
            yield Text(f"… and {len(differences) - _SHOWN} more (--json has all of them)")
    if survey.unasked:
        yield Text("")
        yield Text(f"{len(survey.unasked)} nodes could not be asked:", style="bold yellow")
        unasked = [(node.name, node.unasked) for node in survey.unasked[:_SHOWN]]
        yield Grid((Column(title="node"), Column(title="why", is_text=True)), unasked)
        if len(survey.unasked) > _SHOWN:
            yield Text(f"… and {len(survey.unasked) - _SHOWN} more (--json has all of them)")
    if survey.pairs:
        yield Text("")
        yield from _pairs(survey)
    for note in survey.notes:
        yield Text(f"note: {note}", style="yellow")
    if survey.interrupted:
        yield Text("interrupted: what is here was asked before", style="bold yellow")


def _mode_in_words(survey: Survey) -> str:
    """What most agents say, key by key; not shown where there is none to ask."""
    said = {key: Counter(_word(node.mode[key]) for node in survey.nodes if key in node.mode) for key in _MODE}
    words = []
    for key, counted in said.items():
        if counted:
            values = ", ".join(f"{value} on {count}" for value, count in counted.most_common())
            words.append(f"{key} {next(iter(counted))}" if len(counted) == 1 else f"{key} {values}")
    if words:
        return ", ".join(words)
    if any(node.unasked for node in survey.nodes):
        return f"{NOT_SHOWN}: no agent could be asked"
    return f"{NOT_SHOWN}: no Cilium agent is there, and no other CNI says by itself how it forwards"


def _counted(survey: Survey) -> list[tuple[str, str, str]]:
    """Each value of each trait, with how many nodes have it."""
    rows = []
    for trait in (*_TRAITS, *_MODE):
        counted = Counter(node.traits()[trait] for node in survey.nodes if trait in node.traits())
        rows += [(trait, value, str(count)) for value, count in counted.most_common(6)]
    return rows


def _pairs(survey: Survey) -> Iterator[RenderableType]:
    from rich.text import Text

    measured = [pair for pair in survey.pairs if not pair.failed]
    lost = [pair for pair in measured if pair.received < pair.sent]
    medians = sorted(pair.rtt_p50_s for pair in measured if pair.rtt_p50_s is not None)
    words = f"{len(measured)} of {len(survey.pairs)} sampled pairs measured, pod to pod (seed {survey.seed})"
    if medians:
        middle, last = medians[len(medians) // 2], medians[-1]
        words += f"; median round trip {_ms(middle)} in the middle, {_ms(medians[0])} to {_ms(last)}"
    yield Text(f"{words}; packets were lost on {len(lost)}" if lost else words)
    shown = sorted(survey.pairs, key=_worst_first)[:10]
    rows = [_pair_row(pair) for pair in shown]
    titles = ("pair, the slowest first", "answered", "least", "median", "most")
    yield Grid(tuple(Column(title=title, is_text=title == "answered") for title in titles), rows)


def _pair_row(pair: SurveyedPair) -> tuple[str, ...]:
    name = f"{pair.a} → {pair.b}"
    if pair.failed:
        return name, pair.failed[:200], "", "", ""
    return name, f"{pair.received}/{pair.sent}", _ms(pair.rtt_min_s), _ms(pair.rtt_p50_s), _ms(pair.rtt_max_s)


def _worst_first(pair: SurveyedPair) -> tuple[int, float]:
    if pair.failed or pair.rtt_p50_s is None:
        return 0, 0.0
    return (1 if pair.received < pair.sent else 2), -pair.rtt_p50_s


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.3f} ms"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
