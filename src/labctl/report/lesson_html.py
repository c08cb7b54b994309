"""A lesson's text as one page: Markdown made HTML, with no HTML of its own let through. Pure.

It stands alone because markdown-it is imported for it and for nothing else, when a page is asked for.
"""

from __future__ import annotations

from labctl.report.pages import language_tag, page


def lesson_html(markdown: str, *, title: str, language: str) -> str:
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    # What the text has of HTML is shown as text: markdown-it escapes it, as it does everything else.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return page(
        "lesson.html",
        language=language_tag(language),
        title=title,
        styles=("report.css",),
        main_class="lesson",
        body=Markup(body),  # nosec B704  # escaped by markdown-it
    )
