"""What doctor says of this host's programs: which one was found, by its own words, and whether it will do."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from labctl.cli.commands.doctor import command, namesakes, sign_of
from labctl.model.tools import TOOLS, ProgramIdentity
from labctl.providers.base import Probe
from labctl.providers.netns import probes
from labctl.providers.tools import FoundProgram, Need, probe_of, tool_probes
from labctl.system import process

FIXTURES = Path(__file__).parents[2] / "fixtures"
PING = Need(program="ping", needed_for="check ping")
CLANG = Need(program="clang", needed_for="rebuilding", required=False)


def program(folder: Path, name: str, *lines: str) -> None:
    path = folder / name
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)


def shown(folder: Path, monkeypatch: pytest.MonkeyPatch, *needs: Need) -> list[Probe]:
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return list(tool_probes(needs))


def says(file: str) -> str:
    return f"cat <<'E'\n{(FIXTURES / 'tools' / file).read_text()}E"


@pytest.mark.parametrize(
    ("name", "lines", "version", "found"),
    [
        ("iperf3", ['echo "iperf 3.9 (cJSON 1.7.13)"'], "3.9", "iperf3 3.12 or newer is needed"),
        (
            "ping",
            [says("busybox-version.txt"), "exit 1"],
            "1.35.0",
            "busybox 1.35.0 ({path}, first on PATH): iputils ping is needed",
        ),
        (
            "ping",
            [says("inetutils-version.txt")],
            "2.4",
            "inetutils 2.4 ({path}, first on PATH): iputils ping is needed",
        ),
        ("ip", [says("busybox-ip-usage.txt"), "exit 1"], "1.35.0", "iproute2 ip is needed"),
        ("tcpdump", ['echo "error while loading shared libraries: libpcap.so" >&2', "exit 127"], "", "libpcap.so"),
        ("ping", ["kill -SEGV $$"], "", f"it was killed by signal {int(signal.SIGSEGV)}"),
        ("iperf3", ["true"], "", "it printed: nothing"),
    ],
)
def test_a_program_that_will_not_do_is_unfit_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lines: list[str], version: str, found: str
) -> None:
    program(tmp_path, name, *lines)
    (probe,) = shown(tmp_path, monkeypatch, Need(program=name, needed_for="something"))
    assert (probe.present, probe.version, sign_of(probe)) == (False, version, "UNFIT")
    assert found.format(path=tmp_path / name) in probe.found
    assert f"({tmp_path / name}, first on PATH): " in probe.found
    assert probe.remedy == f"apt-get install {TOOLS[name].package}"


def test_a_program_that_will_do_shows_implementation_version_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "ping", says("version-ping.txt"))
    program(tmp_path, "tcpdump", says("version-tcpdump.txt"))
    ping, tcpdump = shown(tmp_path, monkeypatch, PING, Need(program="tcpdump", needed_for="check tcpdump"))
    assert (ping.found, sign_of(ping)) == (f"iputils 20221126 ({tmp_path}/ping)", "ok")
    assert tcpdump.found == f"4.99.3, libpcap 1.10.3 ({tmp_path}/tcpdump)"


def test_iptables_of_two_kinds_are_unfit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "iptables-restore", 'echo "iptables-restore v1.8.9 (nf_tables)"')
    program(tmp_path, "iptables-save", 'echo "iptables-save v1.8.9 (legacy)"')
    needs = [Need(program=name, needed_for="x") for name in ("iptables-restore", "iptables-save")]
    restore, save = shown(tmp_path, monkeypatch, *needs)
    assert (restore.present, save.present) == (True, False)
    assert "it reads legacy, and iptables-restore writes nf_tables" in save.found


def test_signs_tell_what_is_missing_from_what_will_not_do() -> None:
    nowhere = FoundProgram(path="")
    old = FoundProgram(
        path="/x/clang", identity=ProgramIdentity(implementation="", version=""), said="symbol lookup error: x"
    )
    assert [sign_of(probe_of(need, nowhere)) for need in (PING, CLANG)] == ["MISSING", "absent"]
    assert sign_of(probe_of(CLANG, old)) == "unfit"


@pytest.mark.parametrize("need", [PING, CLANG])
def test_a_tool_that_has_not_answered_in_time_is_there_and_not_called_unfit(need: Need) -> None:
    """As on a machine that is emulated, or too busy: no answer says nothing of what the tool is."""
    silent = FoundProgram(path=f"/usr/bin/{need.program}", said="it did not print a version within 5 s", is_silent=True)
    probe = probe_of(need, silent)
    assert (probe.present, probe.found, sign_of(probe)) == (
        True,
        "version unknown: it did not print a version within 5 s",
        "ok",
    )
    assert not probe_of(PING, FoundProgram(path="/usr/bin/ping", said="it did not print a version within 5 s")).present


def test_doctor_shows_it_and_has_it_in_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "iperf3", 'echo "iperf 3.9 (cJSON 1.7.13)"')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin:/usr/sbin:/sbin")
    done = CliRunner().invoke(command, ["--json"])
    probe = next(each for each in json.loads(done.output)["probes"] if each["name"] == "iperf3")
    assert (probe["present"], probe["version"], probe["path"]) == (False, "3.9", f"{tmp_path}/iperf3")
    assert (probe["implementation"], probe["needs"]) == (None, "iperf3 3.12 or newer")
    lines = CliRunner().invoke(command, []).output.splitlines()
    assert any(line.split()[:2] == ["UNFIT", "iperf3"] for line in lines)


def test_every_tool_of_the_probes_is_in_the_table_with_a_package_that_set_up_knows() -> None:
    packages = (Path(__file__).parents[3] / "setup" / "packages.txt").read_text()
    for need in probes.TOOLS:
        assert need.program == "bash" or f" {need.tool.package}\n" in packages, need.program


def test_another_labctl_first_on_path_is_named_with_the_way_round_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other, roots = tmp_path / "clone/labctl", tmp_path / "bin/labctl", tmp_path / "sbin/labctl"
    for each in (ours, other, roots):
        each.parent.mkdir()
        program(each.parent, "labctl", "exit 0")
    link = tmp_path / "links/labctl"
    link.parent.mkdir()
    link.symlink_to(ours)
    monkeypatch.setattr(process, "SECURE_PATH", "/nothing")
    for path, found in ((f"{link.parent}:{other.parent}", []), (str(tmp_path), []), (str(other.parent), [str(other)])):
        monkeypatch.setenv("PATH", path)
        assert [probe.found.rpartition(": ")[2] for probe in namesakes(str(ours))] == found
    monkeypatch.setattr(process, "SECURE_PATH", str(roots.parent))
    (probe,) = namesakes(str(ours))
    assert probe.found.endswith(f": {other}, {roots}")
    assert not probe.required
    assert str(ours) in probe.remedy
    monkeypatch.setenv("PATH", str(link.parent))
    (probe,) = namesakes(str(ours))
    assert probe.found.endswith(f": {roots}"), "sudo would start another one"
