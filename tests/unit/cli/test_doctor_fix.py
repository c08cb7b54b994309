"""`labctl doctor --fix`: what it installs, what it shows before, and what it leaves to the person."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.cli.installing import SAFE, acts_of, install_missing, packages_of
from labctl.errors import HostLacks, NeedsRoot, StepFailed
from labctl.providers.base import Probe

TREE = Path(__file__).resolve().parents[3]


def lacking(name: str, remedy: str) -> Probe:
    return Probe(name=name, present=False, found="not there", needed_for="labs", remedy=remedy)


PROBES = [
    lacking("sockperf", "apt-get install sockperf"),
    lacking("tc", "apt-get install iproute2  # or dnf"),
    lacking("docker", "apt-get install docker.io  # or https://docs.docker.com/engine/install/"),
    lacking("sshd", "apt-get install openssh-server"),
    lacking("kernel", "apt-get install sockperf; rm -rf /"),
    Probe(name="ping", present=True, found="", needed_for="", remedy="apt-get install iputils-ping"),
]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-get that writes down what it was asked, and says what the file `answer` beside it has."""
    program = tmp_path / "apt-get"
    program.write_text('#!/bin/sh\necho "$@" >>"$0.asked"\ncat "$0.answer"\nexit "$(cat "$0.code")"\n')
    program.chmod(0o755)
    (tmp_path / "apt-get.answer").write_text("Inst sockperf (3.8)\nInst iproute2 (6.1)\n")
    (tmp_path / "apt-get.code").write_text("0")
    (tmp_path / "apt-get.asked").write_text("")
    monkeypatch.setattr("labctl.system.process.find_program", lambda name: str(program) if name == "apt-get" else None)
    monkeypatch.setattr("labctl.system.process._dying_with_us", lambda _: ())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def asked(apt: Path) -> list[str]:
    return (apt / "apt-get.asked").read_text().splitlines()


def test_only_packages_that_are_safe_and_named_as_a_package_are_taken() -> None:
    assert packages_of(PROBES) == ("sockperf", "iproute2")


def test_the_safe_packages_are_those_of_setup() -> None:
    rows = [line.split() for line in (TREE / "setup" / "packages.txt").read_text().splitlines()]
    of_labs = {row[3] for row in rows if len(row) == 4 and row[0] in ("run", "networks")}
    assert of_labs - {"frr"} == SAFE


def test_what_apt_would_do_is_shown_before_it_is_asked(
    apt: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    install_missing(PROBES, is_agreed=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert "to be installed: sockperf, iproute2" in said.err
    assert "nothing was installed" in said.err
    assert len(asked(apt)) == 1
    assert asked(apt)[0].endswith("--simulate")


def test_with_yes_they_are_installed(apt: Path) -> None:
    install_missing(PROBES, is_agreed=True)
    assert asked(apt)[1] == "install --yes --no-install-recommends --no-remove sockperf iproute2"


def test_nothing_is_installed_where_something_would_be_removed(apt: Path) -> None:
    (apt / "apt-get.answer").write_text("Remv nginx [1]\nInst sockperf (3.8)\n")
    with pytest.raises(HostLacks, match="would remove packages") as told:
        install_missing(PROBES, is_agreed=True)
    assert told.value.cause == "nginx"
    assert len(asked(apt)) == 1


def test_who_is_not_root_is_told_what_would_be_done(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NeedsRoot):
        install_missing(PROBES, is_agreed=True)
    assert len(asked(apt)) == 1


def test_what_apt_cannot_do_is_an_error_in_its_words(apt: Path) -> None:
    (apt / "apt-get.code").write_text("100")
    with pytest.raises(StepFailed, match="apt cannot install"):
        install_missing(PROBES, is_agreed=True)


def test_nothing_missing_is_nothing_done(apt: Path) -> None:
    install_missing(PROBES[2:], is_agreed=True)
    assert asked(apt) == []


def test_what_apt_says_is_read() -> None:
    assert acts_of("Reading…\nInst a (1)\nConf a\nRemv b [2]\n") == (("a",), ("b",))
    assert acts_of("") == ((), ())
