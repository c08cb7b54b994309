"""The texts of a lesson in one language: Markdown with one section a task, taken apart and held against the lesson.

A file begins with `# Title` and what the lesson is about. Each task has a section `## TASK: title`, and in it, in this
order, as many `### hint` as there are (from general to particular) and at most one `### after`, which is shown when the
task is passed. A translation says on its first line which text it translates: `<!-- translates en.md DIGEST -->`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from labctl.errors import Problem
from labctl.language import Language
from labctl.loading.project import Project
from labctl.loading.yaml_files import UnreadableFile, read_text
from labctl.values import dataclass

_TASK = re.compile(r"## ([a-z0-9-]+): (\S.*)")
_SIGNS, _MARKS = "\u4e00-\u9fff", "\u3000-\u303f\uff00-\uffef"
_IN_CHINESE = re.compile(rf"(?<=[{_SIGNS}{_MARKS}])\n(?=[{_SIGNS}])|(?<=\S)\n(?=[{_MARKS}])")
_EMPTY = re.compile(r"\A(?:[ \t]*\n)+")
_TRANSLATES = re.compile(r"<!-- translates en\.md ([0-9a-f]{16}) -->")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_HINT, _AFTER = "### hint", "### after"
ORIGINAL = Language.ENGLISH


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskText:
    """One task's section. `line` is that of its heading."""

    title: str
    body: str
    hints: tuple[str, ...]
    after: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonText:
    """A lesson in one language. `translates` is the digest that its first line names, empty without one."""

    title: str
    intro: str
    tasks: Mapping[str, TaskText]
    translates: str = ""


def digest_of(text: str) -> str:
    """By which a translation names what it translates."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_text(text: str) -> LessonText:
    """Whatever is there: what lacks is `text_problems`' to say."""
    lines = text.splitlines()
    translates = ""
    if lines and (named := _TRANSLATES.fullmatch(lines[0].strip())):
        translates, lines = named[1], ["", *lines[1:]]
    title, intro, tasks = "", "", {}
    for number, part in _parts(lines, "## "):
        head = part[0] if part else ""
        if found := _TASK.fullmatch(head.rstrip()):
            tasks[found[1]] = _task(part, found[2], number)
        elif not tasks:
            first = next((at for at, line in enumerate(part) if line.startswith("# ")), None)
            title = "" if first is None else part[first].removeprefix("# ").strip()
            intro = _text(part if first is None else part[first + 1 :])
    return LessonText(title=title, intro=intro, tasks=tasks, translates=translates)


def _task(lines: Sequence[str], title: str, line: int) -> TaskText:
    body, hints, after = "", [], ""
    for _, part in _parts(lines[1:], "### "):
        text = _text(part[1:] if part and part[0].startswith("### ") else part)
        head = part[0].rstrip() if part else ""
        if head == _HINT:
            hints.append(text)
        elif head == _AFTER:
            after = text
        else:
            body = f"{body}\n\n{head}\n\n{text}" if head.startswith("### ") else text
    return TaskText(title=title.strip(), body=body, hints=tuple(hints), after=after, line=line)


def _text(lines: Sequence[str]) -> str:
    """Without the empty lines around it. The first line keeps its indentation, by which it is code. Within a Chinese
    sentence lines are one: the end of a line would be shown as a space."""
    return _IN_CHINESE.sub("", _EMPTY.sub("", "\n".join(lines)).rstrip())


def _parts(lines: Sequence[str], heading: str) -> Iterator[tuple[int, list[str]]]:
    """What stands before the first heading, then each heading with what follows it, and the number of its line. A line
    of code in a fence is no heading."""
    part: list[str] = []
    begun, is_code = 1, False
    for number, line in enumerate(lines, start=1):
        if _FENCE.match(line):
            is_code = not is_code
        if line.startswith(heading) and not is_code:
            yield begun, part
            part, begun = [], number
        part.append(line)
    yield begun, part


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTexts:
    """The texts of all languages that could be read."""

    texts: Mapping[Language, LessonText]
    problems: tuple[Problem, ...]


def read_texts(folder: Path, tasks: Sequence[str], project: Project) -> ReadTexts:
    """Raises UsageError for a file that root does not trust."""
    texts, raw, problems = {}, {}, []
    for language in Language:
        path = folder / f"{language}.md"
        shown = project.shown(path)
        try:
            raw[language] = read_text(path, shown, is_trusted=project.is_trusted, is_yaml=False)
        except UnreadableFile as unreadable:
            problems.append(unreadable.problem)
            continue
        texts[language] = parse_text(raw[language])
        problems += _problems(texts[language], tasks, shown)
    if ORIGINAL in texts:
        for language in set(texts) - {ORIGINAL}:
            shown = project.shown(folder / f"{language}.md")
            problems += _translation_problems(texts[language], texts[ORIGINAL], digest_of(raw[ORIGINAL]), shown)
    return ReadTexts(texts=texts, problems=tuple(problems))


def _problems(text: LessonText, tasks: Sequence[str], file: str) -> Iterator[Problem]:
    if not text.title:
        yield Problem(file=file, line=1, column=1, path="", message="has no title", allowed="# TITLE")
    for task in tasks:
        found = text.tasks.get(task)
        if found is None:
            yield Problem(
                file=file, line=1, column=1, path=task, message="has no section for this task",
                allowed=f"## {task}: TITLE",
            )  # fmt: skip
        elif not found.body:
            yield Problem(file=file, line=found.line, column=1, path=task, message="says nothing of the task")
        elif not found.hints:
            yield Problem(
                file=file, line=found.line, column=1, path=task, message="has no hint", allowed="### hint"
            )  # fmt: skip
    for task, found in text.tasks.items():
        if task not in tasks:
            yield Problem(
                file=file, line=found.line, column=1, path=task, message="is a section for no task of the lesson",
                allowed=", ".join(tasks),
            )  # fmt: skip


def _translation_problems(text: LessonText, original: LessonText, digest: str, file: str) -> Iterator[Problem]:
    wanted = f"<!-- translates en.md {digest} -->"
    if text.translates != digest:
        message = "translates another text than en.md is now" if text.translates else "does not say what it translates"
        yield Problem(file=file, line=1, column=1, path="", message=message, allowed=wanted)
    for task, found in text.tasks.items():
        other = original.tasks.get(task)
        if other is None:
            continue
        if len(found.hints) != len(other.hints):
            message = f"has {len(found.hints)} hints, and en.md has {len(other.hints)}"
            yield Problem(file=file, line=found.line, column=1, path=task, message=message)
        if bool(found.after) != bool(other.after):
            message = "en.md has ### after here" if other.after else "en.md has no ### after here"
            yield Problem(file=file, line=found.line, column=1, path=task, message=message)
