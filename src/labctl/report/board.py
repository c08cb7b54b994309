"""The board of a class, for a terminal and as one page for a projector: those who are stuck first, and how many
predicted what. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from labctl.language import Language
from labctl.model.classroom import Board, BoardRow, Prediction, Standing
from labctl.report.grid import Column, Grid
from labctl.report.pages import language_tag, page

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_BAR_CELLS = 32
_COLUMNS = (
    Column(),
    Column(title="student", is_text=True),
    Column(title="lesson"),
    Column(title="task"),
    Column(title="min", is_right=True),
    Column(title="tries", is_right=True),
    Column(title="hints", is_right=True),
    Column(title="unm.", is_right=True),
    Column(title="done", is_right=True),
)
_STYLES: Mapping[Standing, str] = {Standing.STUCK: "bold red", Standing.CHANGED: "bold yellow", Standing.DONE: "green"}
_SIGNS: Mapping[Standing, str] = {Standing.STUCK: "!", Standing.CHANGED: "?"}


def head_of(board: Board) -> str:
    """One line: what the whole class does."""
    counts = {standing: sum(row.standing is standing for row in board.rows) for standing in Standing}
    said = f"{counts[Standing.STUCK]} stuck, {counts[Standing.WORKING]} working, {counts[Standing.DONE]} done"
    return f"class {board.class_name}, {_clock(board.at)} UTC: {said}"


def _clock(at: str) -> str:
    return at[11:19]


def board_view(board: Board, language: Language, *, has_names: bool = True) -> Iterator[RenderableType]:
    """For a terminal. Without names only the predictions: for everybody's eyes."""
    from rich.text import Text

    yield Text(head_of(board), style="bold")
    if has_names:
        rows = [_cells(row) for row in board.rows if row.standing is not Standing.NOT_STARTED]
        if rows:
            yield Grid(_COLUMNS, rows, heads=2, gap=1)
            yield Text("! is stuck; unm.: tries that could not be measured, which count for nothing", style="dim")
        for lesson, names in waiting(board):
            yield Text(f"{lesson} is not started by: {', '.join(names)}")
    for said in board.predictions:
        if said.answers:
            yield Text("")
            yield Text(title_of(said, language), style="bold")
            yield Grid((Column(), Column(), Column(is_right=True)), list(_bars(said)), has_head=False)


def _cells(row: BoardRow) -> list[str | Text]:
    from rich.text import Text

    style = _STYLES.get(row.standing, "")
    return [
        Text(_SIGNS.get(row.standing, ""), style=style),
        Text(row.full_name, style=style),
        row.lesson,
        row.task or str(row.standing),
        "" if row.minutes is None else f"{row.minutes:.0f}",
        str(row.tries),
        str(row.hints),
        str(row.unmeasured),
        f"{row.passed}/{len(row.tasks)}" if row.tasks else "",
    ]


def waiting(board: Board) -> Iterator[tuple[str, list[str]]]:
    """By lesson who has not started it."""
    for lesson in dict.fromkeys(row.lesson for row in sorted(board.rows, key=lambda row: row.lesson)):
        rows = [row for row in board.rows if row.lesson == lesson and row.standing is Standing.NOT_STARTED]
        if rows:
            yield lesson, sorted(row.full_name for row in rows)


def title_of(said: Prediction, language: Language) -> str:
    title = said.titles.get(str(language)) or said.titles.get(str(Language.ENGLISH), said.task)
    return f"{said.lesson}: {title} ({said.answers})"


def _bars(said: Prediction) -> Iterator[tuple[str, str, str]]:
    most = max(count for _, count in said.counts)
    for answer, count in said.counts:
        yield answer, "█" * max(1, round(count * _BAR_CELLS / most)), str(count)


def board_page(board: Board, language: Language, *, refresh_s: int = 0, has_names: bool = True) -> str:
    """One HTML page. With `refresh_s` a browser loads it again after so many seconds."""
    shown = [row for row in board.rows if row.standing is not Standing.NOT_STARTED]
    return page(
        "board.html",
        language=language_tag(str(language)),
        title=head_of(board),
        styles=("report.css", "board.css"),
        main_class="board",
        refresh_s=refresh_s,
        columns=[column.title for column in _COLUMNS[1:]],
        rows=[
            {"standing": row.standing.name.lower(), "cells": [str(cell) for cell in _cells(row)[1:]]} for row in shown
        ]
        if has_names
        else [],
        waiting=[f"{lesson} is not started by: {', '.join(names)}" for lesson, names in waiting(board)]
        if has_names
        else [],
        predictions=[
            {"title": title_of(said, language), "most": said.answers, "counts": said.counts}
            for said in board.predictions
            if said.answers
        ],
    )
