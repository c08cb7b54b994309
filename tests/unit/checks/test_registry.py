"""The registry finds each kind of check, whole and under its own name, and imports no other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from labctl.checks.registry import KINDS, all_checks
from labctl.model.parameters import PARAMETERS_OF


@pytest.mark.parametrize("kind", KINDS)
def test_a_check_is_found_by_its_kind(kind: str) -> None:
    checks = all_checks()
    assert checks[kind].kind == kind
    assert checks[kind] is checks[kind]
    assert checks[kind].metrics(PARAMETERS_OF[kind]()) is not None


def test_every_kind_that_scenarios_may_name_is_there_and_no_other() -> None:
    assert set(all_checks()) == set(PARAMETERS_OF)
    assert len(all_checks()) == len(PARAMETERS_OF)
    assert "pings" not in all_checks()
    with pytest.raises(KeyError):
        all_checks()["pings"]


def test_only_the_check_that_is_asked_for_is_imported() -> None:
    program = (
        "import sys; from labctl.checks.registry import all_checks; checks = all_checks(); assert 'ping' in checks;"
        "print([m for m in sys.modules if m.startswith('labctl.checks.') and m != 'labctl.checks.registry'])"
    )
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
