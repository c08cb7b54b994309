"""Every sentence that labctl says to people is there in Chinese, and is found again when it has been filled in."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from rich.cells import cell_len

from labctl import language
from labctl.cli import group
from labctl.language import Language, Translator, catalogue, translator
from labctl.text import cells, filled

from sentences import SOURCE, is_sentence, sentences  # isort: skip  # beside this module

CHINESE = re.compile("[\u4e00-\u9fff]")
PLACE = re.compile(r"\{(\w+)\}")
CATALOGUE = dict(catalogue(Language.CHINESE))
CLICKS = tomllib.loads((SOURCE / "locales" / "zh" / "click.toml").read_text(encoding="utf-8"))
"""What the library of the command line says; its words may change with its version."""
FILES = sorted((SOURCE / "locales" / "zh").glob("*.toml"))


def test_no_sentence_is_without_a_translation() -> None:
    missing = [f"{one.place}: {one.text}" for one in sentences() if one.text not in CATALOGUE]
    assert not missing, "python tests/unit/sentences.py prints what to fill in:\n" + "\n".join(missing)


def test_no_translation_is_of_a_sentence_that_is_gone() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    said = {one.text for one in sentences(with_words=True)}
    gone = [key for key in CATALOGUE if key not in said and key not in text and key not in CLICKS]
    assert not gone


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_sentence_stands_in_one_file_only(file: Path) -> None:
    others = {key for other in FILES if other != file for key in tomllib.loads(other.read_text(encoding="utf-8"))}
    assert not others & tomllib.loads(file.read_text(encoding="utf-8")).keys()


def test_a_translation_is_chinese_and_is_filled_with_what_the_sentence_is() -> None:
    translated = [(text, said) for text, said in CATALOGUE.items() if said]
    assert translated
    assert not [said for _, said in translated if not CHINESE.search(said)]
    assert not [said for text, said in translated if not set(PLACE.findall(said)) <= set(PLACE.findall(text))]


@pytest.mark.parametrize("command", [(), *((name,) for name in group.COMMANDS)])
def test_help_is_all_in_chinese(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run([*command, "--lang", "zh", "--help"]) == 0
    lines = [re.sub("labctl( [a-z]+)+", "", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("用法：")
    english = [line for line in lines[1:] if re.search(r"(?<![\w-])[a-z]{3,} [a-z]{2,} [a-z]{2,}", line)]
    assert not [line for line in english if is_sentence(line)]
    assert max(map(cell_len, lines)) <= 110


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--lang", "zh", "upp"], "没有命令"),
        (["upp", "--lang=zh"], "没有命令"),
        (["up", "--lang", "zh"], "错误："),
        (["validate", "nowhere.yaml", "--lang", "zh"], "没有"),
    ],
)
def test_errors_are_in_the_language_that_was_asked_for(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert group.run(args) == 2
    said = capsys.readouterr()
    assert words in said.out + said.err


def test_what_stands_behind_the_dashes_is_the_programs_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert group.run(["exec", "nowhere", "client", "--", "true", "--lang", "zh"]) == 2
    assert not CHINESE.search(capsys.readouterr().err)


def test_a_run_of_the_command_line_leaves_no_language_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    group.run(["--lang", "zh", "--version"])
    group.run(["--version"])
    from labctl.cli.output import spoken

    assert spoken() is Language.ENGLISH


SMALL = Translator(
    {
        "error: {0}": "错误：{0}",
        "{0} is down": "{0} 已断开",
        "lab {0} is down": "实验环境 {0} 已停止",
        "nothing to do": "无需操作",
        "{0} of {1} {2}": "{1} 个{2}中有 {0} 个",
        "pods": "Pod",
        "{a} was changed by {b}": "{b} 改动了 {a}",
        "{0} ended with status {1}": "{0} 以状态 {1} 结束",
        "{0} more hops: the kernel took part": "多 {0} 跳：内核参与其中",
        "at {0} the TTL is {1}: {2}": "在 {0}，TTL 为 {1}：{2}",
        "its output: {0}": "其输出：{0}",
        "; did you mean '{0}'?": "；是否指 '{0}'？",
        "": "",
    }
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing to do", "无需操作"),
        ("  nothing to do\n", "  无需操作\n"),
        ("node1 is down", "node1 已断开"),
        ("lab x is down", "实验环境 x 已停止"),  # the longer sentence wins
        ("error: lab x is down", "错误：实验环境 x 已停止"),
        ("2 of 3 pods", "3 个Pod中有 2 个"),
        ("sh ended with status 1; nothing to do", "sh 以状态 1 结束；无需操作"),  # nothing stands in its middle
        ("sh ended with status 1: its output: x: y; nothing to do", "sh 以状态 1 结束：其输出：x: y；无需操作"),
        ("at a the TTL is 6: 2 more hops: the kernel took part", "在 a，TTL 为 6：多 2 跳：内核参与其中"),
        ("no key 'x'; did you mean 'y'?", "no key 'x'; 是否指 'y'？"),
        ("a, b and c: nothing to do", "a, b and c: 无需操作"),
        ("; ".join(["nothing to do"] * 12), "；".join(["无需操作"] * 12)),
        ("x was changed by y", "y 改动了 x"),
        ("why: x was changed by y", "why: y 改动了 x"),  # what leads a line is no word of a sentence
        ("node1 is down; nothing to do", "node1 已断开；无需操作"),
        ("node1 is down\nnode2 is down", "node1 已断开\nnode2 已断开"),
        ("ip link set eth0 up", "ip link set eth0 up"),
        ("nobody knows this: nothing to do", "nobody knows this: 无需操作"),
        ("{0} is a place", "{0} is a place"),
        ("", ""),
        ("12.5 %", "12.5 %"),
    ],
)
def test_sentences_are_found_however_they_are_put_together(text: str, said: str) -> None:
    assert SMALL.translated(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "a" * 30_000,
        "error: " * 3000,
        "; ".join("x" * 400),
        ": ".join(["it is down; a, b (c)"] * 900),
        "{" * 500,
        "\n" * 5000,
    ],
)
def test_any_text_comes_back_in_bounded_time(text: str) -> None:
    assert translator(Language.CHINESE).translated(text)


def test_english_is_what_the_code_says() -> None:
    assert translator(Language.ENGLISH).translated("error: x is down") == "error: x is down"


@pytest.mark.parametrize("width", [20, 33, 40, 80])
def test_lines_of_chinese_fit_the_terminal_and_begin_with_no_closing_mark(width: int) -> None:
    sentence = "这是一个很长的句子，用来测试中文的换行是否正确：labctl up bpf 会建立实验环境。它不应在标点之前断开。"
    text = sentence * 3
    lines = filled(text, width).split("\n")
    assert max(map(cells, lines)) <= width + 2  # a closing mark may stand beyond
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not [line for line in lines[1:] if line[0] in "，。：）"]


def test_cells_are_those_of_the_terminal() -> None:
    for text in ("", "abc", "中文 a", "µs → ±", "，。（）", "e\u0301"):
        assert cells(text) == cell_len(text) or "\u0301" in text


def test_the_catalogue_is_read_only_when_it_is_asked_for() -> None:
    assert isinstance(translator(Language.ENGLISH), language._Untranslated)
