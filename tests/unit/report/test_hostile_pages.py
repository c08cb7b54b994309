"""A page made of a crafted run has no live tag: every text of the record is text on the page, and no script may run."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from comparison_example import example_comparison
from labctl.report.html import comparison_page
from labctl.report.matrix import matrix_page
from labctl.report.trace_html import trace_page
from labctl.report.words_zh import CHINESE

from .trace_example import CELLS, example_trace, lost_trace

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "</svg><foreignObject><iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "&lt;script&gt;",
)


class Tags(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def poisoned(value: Any, text: str) -> Any:
    """`value` with `text` in every field that is free text; keys that join records to each other change alike."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {
            field.name: poisoned(getattr(value, field.name), text)
            for field in dataclasses.fields(value)
            if field.init and field.name not in ("unit", "name", "key", "side")
        }
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(poisoned(item, text) for item in value)
    if isinstance(value, dict):
        return {key: poisoned(item, text) for key, item in value.items()}
    return value + text if type(value) is str else value


def with_side_keys(comparison: Any, text: str) -> Any:
    """The same with a hostile key for side b, everywhere that it stands."""

    def renamed(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(
                value, **{f.name: renamed(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
            )
        if isinstance(value, tuple):
            return tuple(renamed(item) for item in value)
        return text if value == comparison.b.key and type(value) is str else value

    return renamed(comparison)


PAGES: dict[str, Callable[[str], str]] = {
    "comparison": lambda text: comparison_page(poisoned(example_comparison(), text)),
    "comparison in Chinese": lambda text: comparison_page(poisoned(example_comparison(), text), CHINESE),
    "comparison with side keys": lambda text: comparison_page(with_side_keys(example_comparison(), text)),
    "matrix": lambda text: matrix_page([poisoned(example_comparison(), text)], ["page-b.html"]),
    "trace": lambda text: trace_page(poisoned(example_trace(*CELLS[-1]), text)),
    "lost packet": lambda text: trace_page(poisoned(lost_trace(), text)),
}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_no_text_of_a_record_becomes_a_tag_or_an_attribute(make: Callable[[str], str], text: str) -> None:
    harmless = Tags(make("harmless"))
    found = Tags(make(text))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(names) for _, names in found.tags] == [sorted(names) for _, names in harmless.tags]
    for tag, attributes in found.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        assert not any(name.startswith("on") for name in attributes)
        target = attributes.get("href") or "#"
        assert target.startswith(("#", "data:application/json;", "data:text/csv;", "page-b.html"))


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_the_policy_allows_the_style_of_the_page_and_nothing_else(make: Callable[[str], str]) -> None:
    page = make("")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(attributes["content"] for tag, attributes in Tags(page).tags if "http-equiv" in attributes)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "style=" not in page.replace(style[0], "")
