"""HTML pages: templates with everything escaped that comes from data, and a policy that lets no script run.

A page is one file that needs nothing else. Jinja2 is imported when a page is asked for, and not before. What a drawing
gives (`svg`, `trace_svg`) is marked as HTML by the module that escaped its texts; nothing else is.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl.language import Language, translator

if TYPE_CHECKING:
    from jinja2 import Environment


def page(
    template: str, *, language: str, title: str, styles: Sequence[str], main_class: str = "", **facts: object
) -> str:
    """The page that `template` makes of `facts`. `styles` are style sheets beside the templates.

    The Content-Security-Policy allows that style by its digest, and no script, image, frame or form at all.
    """
    from markupsafe import Markup

    environment = _environment(language)
    # Our own files, without any data in them.
    style = Markup("".join(environment.get_template(name).render() for name in styles))  # nosec B704  # no data
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template(template).render(
        language=language,
        title=title,
        style=style,
        style_digest=f"sha256-{digest}",
        main_class=main_class,
        **facts,
    )


def rendered(template: str, **facts: object) -> str:
    """A file of another kind (a picture) from its template, in English."""
    return _environment("en").get_template(template).render(**facts)


def language_tag(tag: str) -> str:
    """The value of `lang` for a language of the reports."""
    return "zh-CN" if tag == "zh" else tag


@functools.cache
def _environment(tag: str) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    said = translator(Language(tag.partition("-")[0])).translated
    environment = Environment(
        loader=PackageLoader("labctl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda fact: said(fact) if type(fact) is str else fact,
    )
    # A figure and its percent sign stay on one line. On Markup, `replace` escapes what it puts in.
    environment.filters["together"] = lambda text: text.replace(" %", "\u00a0%")
    return environment
