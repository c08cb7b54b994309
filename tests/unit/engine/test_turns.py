"""One measurement at a time: who measures waits for the others, who only looks does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.engine.turns import MEASURING, measuring_turn
from labctl.errors import MeasureFailed
from labctl.model.parameters import PARAMETERS_OF
from labctl.system import locks


@pytest.fixture(autouse=True)
def own_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(locks, "ROOT_DIRECTORY", tmp_path / "labctl" / "locks")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_two_that_measure_wait_for_each_other_and_one_that_looks_does_not() -> None:
    waited: list[str] = []
    with measuring_turn(("ping", "iperf"), lambda: waited.append("first")):
        with measuring_turn(("ping", "tcpdump"), lambda: waited.append("looks")):
            pass
        with (
            pytest.raises(MeasureFailed, match="others measured on this host"),
            measuring_turn(("load",), lambda: waited.append("second"), timeout_s=0.05),
        ):
            pass
    assert waited == ["second"]
    with measuring_turn(("load",), lambda: waited.append("third"), timeout_s=0):
        pass
    assert waited == ["second"]


def test_what_measures_is_a_kind_of_check() -> None:
    assert set(PARAMETERS_OF) >= MEASURING
