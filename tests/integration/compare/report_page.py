"""Reads the HTML report of a comparison as a person does who follows its links: from a result to its blocks, from a
block's figure to its check run, from that to the names of raw files. Knows nothing of how the page is made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass(slots=True)
class Cell:
    """One cell of a table: its text, the link in it, and the exact values behind its text."""

    text: str = ""
    link: str = ""
    values: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Line:
    """One line of a table: which table by its class, its own id, and the section and the card that it is in."""

    table: str
    identity: str
    section: str
    card: str
    cells: list[Cell] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [" ".join(cell.text.split()) for cell in self.cells]


class ReportPage(HTMLParser):
    """All lines of all tables of the page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.lines: list[Line] = []
        self.text = ""
        self._section = self._card = self._table = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        having = {name: value or "" for name, value in attrs}
        if tag == "section":
            self._section, self._card = having["id"], ""
        elif tag == "article":
            self._card = having.get("id", "")
        elif tag == "table":
            self._table = having.get("class", "")
        elif tag == "tr":
            self.lines.append(Line(self._table, having.get("id", ""), self._section, self._card))
        elif tag in ("td", "th"):
            self.lines[-1].cells.append(Cell())
        elif tag == "a" and self.lines and self.lines[-1].cells:
            self.lines[-1].cells[-1].link = having["href"].removeprefix("#")
        elif tag == "data":
            self.lines[-1].cells[-1].values.append(float(having["value"]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._table and self.lines and self.lines[-1].cells:
            self.lines[-1].cells[-1].text += data

    def results(self) -> list[Line]:
        """The lines that have a figure: those whose name leads to samples."""
        return [line for line in self.lines if line.table.startswith("results") and line.cells[0].link]

    def blocks(self, card: str) -> list[Line]:
        return [line for line in self.lines if (line.table, line.card) == ("figures", card) and line.texts[0].isdigit()]

    def run(self, identity: str) -> Line:
        (found,) = (line for line in self.lines if line.identity == identity)
        return found

    def run_directories(self) -> list[str]:
        """The names of the runs on disk that the page says its raw files are in."""
        return sorted(set(re.findall(r"\d{8}T\d{6}Z-[\w-]+", self.text)))


def raw_files(line: Line) -> tuple[str, list[str] | int]:
    """The directory that a line of the raw data names, and the files in it: their names, or of many their number."""
    text = line.texts[-1]
    if many := re.fullmatch(r"(\S+)/ \((\d+)\)", text):
        return many[1], int(many[2])
    first, *more = text.split(", ")
    directory, _, name = first.rpartition("/")
    return directory, [name, *more]
