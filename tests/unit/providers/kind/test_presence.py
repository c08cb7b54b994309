"""Whether kind labs can be here is told without the provider, and never wrongly denied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from kind_world import completed
from labctl.providers.base import Completed
from labctl.providers.kind.presence import argv_list, may_have_labs

SILENT = completed(("docker", "ps"), "", "Cannot connect to the Docker daemon at unix:///x", 1)


def asked(root: Path, answer: Completed, engine: str | None = "/usr/bin/docker") -> bool:
    def run(argv: Sequence[str]) -> Completed:
        assert tuple(argv) == argv_list("docker")
        return answer

    return may_have_labs(root, find=lambda name: engine if name == "docker" else None, run=run)


@pytest.mark.parametrize(("listed", "may"), [("", False), ("\n", False), ("labctl-bpf-worker\n", True)])
def test_an_engine_that_answers_is_judged_by_its_node_containers(tmp_path: Path, listed: str, may: bool) -> None:
    assert asked(tmp_path, completed(("docker", "ps"), listed)) is may


def test_without_an_engine_the_labs_on_record_are_still_listed(tmp_path: Path) -> None:
    assert not asked(tmp_path, SILENT, engine=None)
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf" / "lab.json").write_text("{}")
    assert asked(tmp_path, SILENT, engine=None)


def test_of_a_silent_engine_the_labs_on_record_are_still_listed(tmp_path: Path) -> None:
    assert not asked(tmp_path, SILENT)
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf" / "lab.json").write_text("{}")
    assert asked(tmp_path, SILENT)
