"""The seam and the page that tells how to add a provider (CONTRIBUTING.md): neither has more than the other."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from labctl.providers.base import Capabilities, Executor, OpenLab, Provider, Target
from toy_provider import MakeFolder, ToyExecutor, ToyLab, ToyProvider, ToyTarget

TREE = Path(__file__).resolve().parents[3]
PAGE = (TREE / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a provider\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def members(of: type) -> set[str]:
    return {name for name in vars(of) if not name.startswith("_")}


def names_in(text: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", text))


def paragraph(number: int) -> str:
    """One numbered point of the page, without its code."""
    found = re.search(rf"^{number}\. .*?(?=^{number + 1}\. |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return re.sub(r"```python\n.*?```", "", found[0], flags=re.DOTALL)


def test_the_page_names_every_member_of_the_seam_and_no_other() -> None:
    first_column = "\n".join(re.findall(r"^\| (`.*?) \|", paragraph(2), re.MULTILINE))
    assert names_in(first_column) == members(Provider)
    assert names_in(paragraph(3)) == members(Executor)
    assert names_in(paragraph(4)) == members(OpenLab) | members(Target)
    assert names_in(paragraph(5)) == {field.name for field in fields(Capabilities)}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(block.strip().splitlines()[-1].strip()[:40]))
def test_the_code_of_the_page_is_that_of_the_toy(block: str) -> None:
    assert block in (TREE / "tests" / "toy_provider.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("toy", "seam"), [(ToyProvider, Provider), (ToyExecutor, Executor), (ToyLab, OpenLab), (ToyTarget, Target)]
)
def test_the_toy_has_what_the_page_asks_for_and_no_more(toy: type, seam: type) -> None:
    own = members(toy) | set(inspect.signature(toy).parameters) | ({"lab"} if seam is OpenLab else set())
    assert members(seam) <= own
    assert {name for name in members(toy) if inspect.isfunction(vars(toy)[name])} <= members(seam)


def test_the_acts_of_the_page_are_values() -> None:
    made = MakeFolder(path=Path("/x y"))
    assert made == MakeFolder(path=Path("/x y"))
    assert (made.shell(), made.record()) == ("mkdir -p '/x y'", {"kind": "make-folder", "path": "/x y"})


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`([a-z_/]+\.py)`", PAGE))
    assert len(named) > 8
    places = (TREE, TREE / "src" / "labctl", *(TREE / "src/labctl/providers" / name for name in ("netns", "kubeadm")))
    assert [name for name in named if not any((place / name).is_file() for place in places)] == []


def test_the_page_is_one_page() -> None:
    assert len(PAGE.splitlines()) <= 90


def test_a_provider_that_says_nothing_of_what_it_can_is_asked_for_nothing() -> None:
    can = Capabilities()
    assert (can.packing, can.switching, can.enter) == (None, None, None)
    assert (can.seek("lab"), can.processes("lab"), list(can.machine_probes())) == (None, (), [])
    with can.telling(lambda text, duration_s: None):
        pass
