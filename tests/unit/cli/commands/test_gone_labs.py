"""`up --again`, `enable` and `disable`, and how labs are shown that went with a restart of the host."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.conftest import Bench
from labctl.cli.options import load_lab
from labctl.errors import LabError, StepFailed
from labctl.model.changes import NOTHING, Changes
from labctl.model.lab import Lab
from labctl.providers.base import Capabilities
from labctl.providers.netns.kept import NetnsKeeping
from labctl.system import clock, systemd
from labctl.testing.provider import running_lab

DOWN = Changes(links_down=("node1", "client"))


@dataclass
class ScriptedChanging:
    """Of `Changing` what bringing back asks for: a record of changes, and links that cannot be taken down."""

    record: dict[str, Changes] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    def changes(self, lab: Lab) -> Changes:
        return self.record.get(lab.name, NOTHING)

    def settle(self, lab: Lab) -> tuple[str, ...]:
        return ()

    def restore(self, lab: Lab, changes: Changes) -> tuple[tuple[str, LabError], ...]:
        failed = []
        for act in changes.acts():
            if act.name in self.refused:
                changes = changes.without(act)
                failed.append((str(act), StepFailed("the kernel refused", "no such device", "ip link")))
        self.record[lab.name] = changes
        return tuple(failed)


@pytest.fixture
def changing(bench: Bench) -> ScriptedChanging:
    made = ScriptedChanging()
    bench.provider.capabilities = Capabilities(keeping=NetnsKeeping(), changing=made)  # type: ignore[arg-type]
    return made


@pytest.fixture
def reboot(bench: Bench, changing: ScriptedChanging, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """A lab that was up and changed, and then the host was started again."""
    assert bench.run("up", "bpf", "--name", "mine").code == 0
    NetnsKeeping().keep(load_lab("bpf", provider=None, name="mine", overrides=()), DOWN)
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(clock, "BOOT_ID", tmp_path / "boot_id")
    return bench


def test_list_names_what_is_gone_with_the_command_that_brings_it_back(reboot: Bench) -> None:
    said = reboot.run("list")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[1].split() == ["mine", "bpf", "netns", "bpf,", "vxlan", "3", "3", "gone"]
    changed = "link node1 is down; link client is down"
    assert lines[2:] == [
        f"mine is gone: this host was started again while it was up; changed in it: {changed}",
        "  labctl up --again mine  # brings it back; to forget it: labctl down mine",
    ]
    (one,) = reboot.run("list", "--json").document["gone"]
    assert (one["lab"], one["pods"], one["changed"]) == ("mine", 3, ["link node1 is down", "link client is down"])


@pytest.mark.parametrize("command", ["status", "check", "diff", "enable"])
def test_every_command_says_so_of_a_lab_that_is_gone(reboot: Bench, command: str) -> None:
    said = reboot.run(command, "mine", *(["--show"] if command == "enable" else []))
    if command == "enable":  # what is gone can be enabled
        assert said.code == 0
        return
    assert said.code == 2
    assert "error: lab mine is gone: this host was started again while it was up" in said.err
    assert "  try: labctl up --again mine  # brings it back" in said.err


def test_again_builds_it_and_changes_it_as_it_was(reboot: Bench, changing: ScriptedChanging) -> None:
    said = reboot.run("up", "--again", "mine")
    assert said.code == 0, said.err
    assert said.out == (
        "lab mine is back: 3 nodes, 3 pods\nchanged as it was: link node1 is down; link client is down\n"
    )
    assert changing.record["mine"] == DOWN
    assert NetnsKeeping().kept("mine")[0].is_of_this_boot


def test_what_cannot_be_as_it_was_is_named_and_the_rest_is(reboot: Bench, changing: ScriptedChanging) -> None:
    changing.refused = ("client",)
    said = reboot.run("up", "--again", "mine", "--json")
    assert said.code == 4
    assert said.document["outcome"] == "built"
    assert said.document["restored"] == ["link node1 is down"]
    assert said.document["notRestored"] == [{"what": "link client", "why": "the kernel refused"}]
    assert "note: link client is not as it was: the kernel refused" in said.err
    assert NetnsKeeping().kept("mine")[0].changes == Changes(links_down=("node1",))


def test_a_lab_that_is_up_already_is_left_alone(reboot: Bench, changing: ScriptedChanging) -> None:
    changing.record["mine"] = DOWN
    lab = load_lab("bpf", provider=None, name="mine", overrides=())
    reboot.provider.running.append(
        running_lab(lab, is_whole=False, missing=("node1: device eth0 up",), can_be_opened=True)
    )
    reboot.provider.log.clear()
    said = reboot.run("up", "--again", "mine")
    assert (said.code, said.out) == (0, "lab mine is up already: nothing to do\n")
    assert reboot.provider.log == []


def test_a_build_that_fails_keeps_what_is_kept(reboot: Bench) -> None:
    reboot.provider.fails["make node1-link"] = StepFailed("the kernel refused")
    assert reboot.run("up", "--again", "mine").code == 4
    (one,) = NetnsKeeping().kept("mine")
    assert one.changes == DOWN


def test_up_of_the_scenario_instead_says_what_is_not_changed_any_more(reboot: Bench) -> None:
    said = reboot.run("up", "bpf", "--name", "mine")
    assert said.code == 0
    assert (
        "note: what was changed in lab mine when it was up before is not: link node1 is down; link client is down"
        in said.err
    )
    assert NetnsKeeping().kept("mine")[0].changes == NOTHING


def test_down_forgets_it(reboot: Bench) -> None:
    assert reboot.run("down", "mine", "--json").document["removed"] == ["mine"]
    assert NetnsKeeping().kept() == ()
    assert reboot.run("down", "mine").code == 2


def test_down_all_forgets_it_too(reboot: Bench) -> None:
    assert reboot.run("down", "--all").code == 0
    assert NetnsKeeping().kept() == ()


@pytest.mark.parametrize("option", [("--name", "x"), ("--set", "nodes=2"), ("--apply",), ("--provider", "kind")])
def test_again_takes_nothing_but_a_name(reboot: Bench, option: tuple[str, ...]) -> None:
    said = reboot.run("up", "--again", "mine", *option)
    assert said.code == 2
    assert "error: --again takes nothing but a lab's name" in said.err


def test_of_a_lab_that_nothing_is_kept_of_it_says_so(reboot: Bench) -> None:
    said = reboot.run("up", "--again", "yours")
    assert (said.code, said.err.splitlines()[:2]) == (
        2,
        ["error: nothing is kept of a lab named 'yours'", "  why: kept are: mine"],
    )


def test_a_lab_of_another_provider_says_what_becomes_of_it(bench: Bench) -> None:
    bench.is_up("mine")
    bench.provider.capabilities = Capabilities(after_boot="its nodes are containers")
    for args in (("up", "--again", "mine"), ("enable", "mine", "--show")):
        said = bench.run(*args)
        assert said.code == 2
        assert "  why: its nodes are containers" in said.err


def test_a_record_that_cannot_be_kept_is_a_note_and_no_failure(bench: Bench, changing: ScriptedChanging) -> None:
    from labctl.providers.netns import kept

    kept.DIRECTORY.parent.mkdir(parents=True, mode=0o700)
    kept.DIRECTORY.write_text("no folder")
    said = bench.run("up", "bpf", "--name", "mine")
    assert said.code == 0
    assert "note: lab mine is up and cannot be brought back after a boot: its record is not kept" in said.err


def test_enable_shows_the_unit_and_needs_systemd(reboot: Bench) -> None:
    shown = reboot.run("enable", "mine", "--show")
    assert f"the unit {systemd.path_of('mine')}:\n{systemd.text_of('mine')}" == shown.out
    assert "-m labctl up --again mine" in shown.out
    assert not systemd.path_of("mine").exists()
    said = reboot.run("enable", "mine")
    assert (said.code, said.out) == (3, "")
    assert "error: systemd does not run here" in said.err


def test_disable_removes_the_unit_and_so_does_down(reboot: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid())
    for args, code in ((("disable", "mine"), 0), (("down", "mine"), 0)):
        systemd.UNITS.mkdir(parents=True, exist_ok=True)
        systemd.path_of("mine").write_text(systemd.text_of("mine"))
        if os.getuid() != 0:
            assert reboot.run(*args).code == 3
            continue
        assert reboot.run(*args).code == code
        assert not systemd.path_of("mine").exists()


def test_list_says_which_labs_come_back_at_boot(reboot: Bench) -> None:
    def at_boot() -> list[bool]:
        return [one["atBoot"] for one in reboot.run("list", "--json").document["gone"]]

    assert at_boot() == [False]
    systemd.UNITS.mkdir(parents=True)
    systemd.path_of("mine").write_text(systemd.text_of("mine"))
    assert at_boot() == [True]
    assert reboot.run("list").out.splitlines()[-1] == (
        "mine comes back at every boot; not any more after: labctl disable mine"
    )


def test_disable_of_what_was_not_enabled_and_of_nothing(reboot: Bench) -> None:
    assert reboot.run("disable", "mine").out == "lab mine was not enabled: nothing to do\n"
    assert reboot.run("disable", "yours").code == 2
