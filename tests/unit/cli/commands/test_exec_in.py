"""`labctl exec --privileged` where pods are containers or machines."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from labctl.cli.commands import exec_in
from labctl.errors import UsageError
from labctl.providers.base import Capabilities, TargetKind
from labctl.providers.cilium.commands import HostCommands
from labctl.providers.cilium.targets import DoorTarget, pod_door


@pytest.mark.parametrize("provider", ["kind", "kubeadm", "cluster"])
def test_a_container_is_not_entered_with_other_powers_than_its_own(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Container:
        def command(self, argv: tuple[str, ...], *, with_input: bool = False) -> tuple[str, ...]:
            pytest.fail(f"went in with {argv}")

    opened = SimpleNamespace(target=lambda name: Container())
    builder = SimpleNamespace(open=lambda lab: nullcontext(opened), capabilities=Capabilities())
    found = (SimpleNamespace(provider=provider), builder)
    monkeypatch.setattr(exec_in, "find_lab", lambda name: found)
    ended = CliRunner().invoke(exec_in.command, ["--privileged", "lab", "pod", "--", "ls", "a b"])
    assert isinstance(ended.exception, UsageError)
    assert ended.exception.exit_code == 2
    assert ended.exception.remedy == "labctl exec lab pod -- ls 'a b'"


@pytest.mark.parametrize("is_behind", [False, True])
def test_what_is_piped_in_goes_through_the_door(is_behind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker exec` and `kubectl exec` give a program no input unless they are asked to."""
    target = DoorTarget(
        name="server", kind=TargetKind.POD, commands=HostCommands("kind"),
        door=pod_door(("kubectl",), "labctl-x", "server", "tools"),
    )  # fmt: skip
    opened = SimpleNamespace(target=lambda name: target)
    builder = SimpleNamespace(open=lambda lab: nullcontext(opened), capabilities=Capabilities())
    monkeypatch.setattr(exec_in, "find_lab", lambda name: (SimpleNamespace(provider="cluster"), builder))
    monkeypatch.setattr(exec_in, "_is_behind", lambda: is_behind)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    became: list[str] = []
    monkeypatch.setattr("os.execvp", lambda program, argv: became.extend(argv))
    CliRunner().invoke(exec_in.command, ["lab", "server", "--", "sha256sum"])
    assert became[-5:] == ["server", "-c", "tools", "--", "sha256sum"]
    assert ("-i" in became) is not is_behind
