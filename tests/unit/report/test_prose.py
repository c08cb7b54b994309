"""Sentences in a narrow terminal: where their lines end, in English and in Chinese, and what they are styled with."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, Group
from rich.text import Text

from labctl.report.prose import Prose
from labctl.text import cells

CHINESE = (
    "节点 node1 上的 cil_from_container 把请求直接重定向到 server 的 eth0（bpf_redirect_peer），"
    "所以 tcpdump 在 lxc 上看不到它。"
)
ENGLISH = "cil_from_container on node1 redirected the request to the server's eth0, so the lxc does not see it."


def lines(text: Text, width: int) -> list[str]:
    drawn = io.StringIO()
    Console(file=drawn, width=width, markup=False, highlight=False).print(Group(text))
    return drawn.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 39, 40, 80])
def test_a_chinese_line_is_full_and_does_not_begin_with_a_closing_mark(width: int) -> None:
    shown = lines(Prose(CHINESE), width)
    assert "".join(shown).replace(" ", "") == CHINESE.replace(" ", "")
    longest_word = cells("cil_from_container")
    for line in shown:
        assert cells(line) <= width
        assert line[0] not in "，。；：！？、）"
    assert all(cells(line) > width - longest_word - 4 for line in shown[:-1])


@pytest.mark.parametrize("width", [24, 39, 40, 80])
def test_an_english_sentence_wraps_as_any_text_does(width: int) -> None:
    assert lines(Prose(ENGLISH), width) == lines(Text(ENGLISH), width)


def test_a_word_that_is_longer_than_the_line_is_folded_and_nothing_is_lost() -> None:
    shown = lines(Prose("见 /var/lib/labctl/labs/bpf/records 下的文件。", overflow="fold"), 12)
    assert all(cells(line) <= 12 for line in shown)
    assert "".join(shown).replace(" ", "") == "见/var/lib/labctl/labs/bpf/records下的文件。"


def test_the_style_of_words_follows_them_over_the_end_of_a_line() -> None:
    text = Text(CHINESE)
    text.stylize("bold", 3, 40)
    wrapped = Prose.of(text).wrap(Console(width=30), 30)
    bold = "".join(line.plain[span.start : span.end] for line in wrapped for span in line.spans if span.style == "bold")
    assert bold.replace(" ", "") == CHINESE[3:40].replace(" ", "")
