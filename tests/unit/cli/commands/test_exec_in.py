"""`labctl exec --privileged` where pods are containers or machines."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from labctl.cli.commands import exec_in
from labctl.errors import UsageError
from labctl.providers.base import Capabilities


@pytest.mark.parametrize("provider", ["kind", "kubeadm", "cluster"])
def test_a_container_is_not_entered_with_other_powers_than_its_own(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Container:
        def command(self, argv: tuple[str, ...]) -> tuple[str, ...]:
            pytest.fail(f"went in with {argv}")

    opened = SimpleNamespace(target=lambda name: Container())
    builder = SimpleNamespace(open=lambda lab: nullcontext(opened), capabilities=Capabilities())
    found = (SimpleNamespace(provider=provider), builder)
    monkeypatch.setattr(exec_in, "find_lab", lambda name: found)
    ended = CliRunner().invoke(exec_in.command, ["--privileged", "lab", "pod", "--", "ls", "a b"])
    assert isinstance(ended.exception, UsageError)
    assert ended.exception.exit_code == 2
    assert ended.exception.remedy == "labctl exec lab pod -- ls 'a b'"
