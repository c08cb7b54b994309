"""What a class did, as CSV (RFC 4180): a line for each student and task. Pure.

Students write into it what they like: no cell is taken for a formula. It begins with a byte order mark, by which
spreadsheets know that it is UTF-8. It stands alone because a board is drawn without it.
"""

from __future__ import annotations

import csv
import io

from labctl.model.classroom import Board
from labctl.report.csv import harmless

COLUMNS = (
    "class", "student", "name", "lesson", "state", "attempt", "task", "kind", "passed", "shown", "minutes", "tries",
    "hints", "unmeasured", "points", "prediction", "reason",
)  # fmt: skip
_MARK = "\ufeff"


def class_csv(board: Board) -> str:
    """A student who has not started a lesson has one line for it, without a task."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for row in sorted(board.rows, key=lambda one: (one.student, one.lesson)):
        head = (board.class_name, row.student, row.full_name, row.lesson, str(row.standing), row.attempt)
        if not row.tasks:
            writer.writerow([harmless(cell) for cell in (*head, *("",) * (len(COLUMNS) - len(head)))])
        for task in row.tasks:
            minutes = "" if task.minutes is None else round(task.minutes, 1)
            about = (task.task, task.kind, _yes(task.is_passed), _yes(task.is_shown), minutes)
            counted = (task.tries, task.hints, task.unmeasured, task.points)
            writer.writerow([harmless(cell) for cell in (*head, *about, *counted, task.prediction, task.reason)])
    return _MARK + buffer.getvalue()


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
