"""`make test-distros`: what a fresh system takes over from its host, what a run records, and the documents' table."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import distro_host
import distro_results
import distro_run as distros
import pytest
from distro_host import Archive

TREE = Path(__file__).resolve().parents[2]
TARGETS = """\
http://mirror.example/debian\tbookworm\tDebian\tDebian\tmain
http://mirror.example/debian\tbookworm-updates\tDebian\tDebian\tmain
http://other.example/security\tbookworm-security\tDebian\tDebian-Security\tmain
https://extra.example/node\tnodistro\tNode Source\tNode Source\tmain
"""


# ---- what is taken over from the host


def test_the_mirror_is_the_one_that_the_hosts_own_apt_uses() -> None:
    found = Archive(mirror="http://mirror.example/debian", security="http://other.example/security")
    assert distro_host.archive_of(TARGETS) == found


@pytest.mark.parametrize("targets", ["", "http://archive.example/ubuntu\tnoble\tUbuntu\tUbuntu\tmain\n", "nonsense\n"])
def test_a_host_whose_apt_knows_no_debian_names_no_mirror(targets: str) -> None:
    """debootstrap's own default serves then."""
    assert distro_host.archive_of(targets) == Archive()


def test_a_released_suite_has_updates_and_security_and_a_rolling_one_has_not() -> None:
    archive = Archive(mirror="http://m/debian", security="http://s/security")
    assert distro_host.sources_list("trixie", archive, "http://m/debian").splitlines() == [
        "deb http://m/debian trixie main",
        "deb http://m/debian trixie-updates main",
        "deb http://s/security trixie-security main",
    ]
    assert distro_host.sources_list("sid", archive, "http://m/debian") == "deb http://m/debian sid main\n"
    assert "security" not in distro_host.sources_list("trixie", Archive(), "http://m/debian")


def test_of_apts_settings_only_those_that_reach_the_archive_are_taken_over() -> None:
    dump = """\
APT::Architecture "amd64";
Acquire::http::Proxy "http://cache.example:3142";
Acquire::https::Proxy::deb.example "DIRECT";
Acquire::http::Proxy-Auto-Detect "/usr/bin/find-proxy";
Acquire::Check-Valid-Until "false";
Acquire::https::CaInfo "/etc/ssl/own.pem";
DPkg::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb";
Dir::Cache "var/cache/apt";
"""
    kept = [line.split()[0] for line in distro_host.apt_settings(dump).splitlines()]
    assert kept == [
        "Acquire::http::Proxy", "Acquire::https::Proxy::deb.example", "Acquire::Check-Valid-Until",
        "Acquire::https::CaInfo",
    ]  # fmt: skip


def pip_conf(*files: str, own: bool = False, **environment: str) -> dict[str, str]:
    read = configparser.RawConfigParser()
    read.read_string(distro_host.pip_settings(files, environment, has_own_certificates=own))
    return dict(read["global"])


def test_pips_files_and_its_environment_become_one_file_and_the_later_wins() -> None:
    system = "[global]\nindex-url = https://one.example/simple\ntimeout = 60\n"
    user = "[global]\nindex-url = https://two.example/simple?a=%20\n"
    assert pip_conf(system, user) == {"index-url": "https://two.example/simple?a=%20", "timeout": "60"}
    assert pip_conf(system, PIP_INDEX_URL="https://three.example/simple")["index-url"] == "https://three.example/simple"
    assert pip_conf(PIP_EXTRA_INDEX_URL="https://four.example/", PIP_NO_INDEX="", HOME="/x") == {
        "extra-index-url": "https://four.example/"
    }
    assert pip_conf(own=True) == {"cert": distro_host.SYSTEM_BUNDLE}


def test_what_would_send_pip_elsewhere_than_into_the_venv_stays_on_the_host() -> None:
    assert pip_conf(PIP_TARGET="/opt/x", PIP_USER="1", PIP_CONFIG_FILE="/etc/mine") == {}


def test_folders_of_wheels_are_found_in_pips_settings(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    conf = f"[global]\nfind-links = {tmp_path}/wheels https://x.example/\n  /nowhere/at/all\ntimeout = 60\n"
    assert distro_host.local_folders(conf) == (tmp_path / "wheels",)


def test_certificates_of_the_hosts_administrator_are_found_each_once(tmp_path: Path) -> None:
    one, two, three = (
        f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----" for name in ("one", "two", "three")
    )
    own = tmp_path / "own"
    (own / "sub").mkdir(parents=True)
    (own / "a.crt").write_text(f"{one}\n{two}\n")
    (own / "sub/b.crt").write_text(f"# a comment\n{two}\n")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(f"{three}\n{one}\n")
    assert distro_host.certificates({}, own) == (one, two)
    assert distro_host.certificates({"REQUESTS_CA_BUNDLE": str(bundle)}, own) == (one, two, three)
    assert distro_host.certificates({"SSL_CERT_FILE": distro_host.SYSTEM_BUNDLE}, tmp_path / "none") == ()


def test_proxies_are_taken_over_in_both_spellings_and_nothing_else() -> None:
    environment = {"http_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2", "no_proxy": "", "TOKEN": "secret"}
    assert distro_host.proxies(environment) == {"http_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2"}


# ---- what is asked for


@pytest.mark.parametrize("wrong", [["jammy"], ["--steps", "comapre", "sid"], []])
def test_an_unknown_distribution_or_step_is_a_mistake_of_usage(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        distros.parse_arguments(wrong)
    assert ended.value.code == 2
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ("STEPS=compare", "compare"),
        ("", "compare test"),
        ("KEEP=1 DISTROS=sid", "compare test"),
        ("NEWEST=1 STEPS=test", "test"),
        ("NEWEST=0", "compare test"),
    ],
)
def test_the_make_target_hands_on_what_it_was_asked(words: str, steps: str) -> None:
    argv = ["make", "-n", "test-distros", *words.split(), 'TESTS=tests/unit -k "a b"']
    # Not what this make was given.
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    lines = subprocess.run(argv, cwd=TREE, capture_output=True, text=True, check=True, env=environment).stdout
    assert f'--steps "{steps}" --tests="$TESTS"' in lines
    assert ("--keep" in lines) is ("KEEP=1" in words)
    assert ("--newest" in lines) is ("NEWEST=1" in words)
    assert lines.rstrip().endswith(" sid" if "DISTROS" in words else " bookworm trixie sid")


@pytest.mark.parametrize("lacking", ["root", "debootstrap", "keys"])
def test_what_the_host_lacks_is_said_with_its_remedy(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000 if lacking == "root" else 0)
    monkeypatch.setattr(
        "shutil.which", lambda name: None if (name, lacking) == ("debootstrap", "debootstrap") else f"/usr/bin/{name}"
    )
    monkeypatch.setattr(distros, "KEYRING", tmp_path / "none" if lacking == "keys" else tmp_path)
    remedies = {
        "root": "sudo make test-distros",
        "debootstrap": "apt-get install debootstrap",
        "keys": "apt-get install debian-archive-keyring",
    }
    with pytest.raises(distros.Lacks) as caught:
        distros.require_host()
    assert str(caught.value).splitlines()[-1] == f"  try: {remedies[lacking]}"


def test_the_tree_is_tried_with_what_is_not_committed_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*argv: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path / "tree"), *argv], check=True, capture_output=True)

    tree = tmp_path / "tree"
    tree.mkdir()
    git("init", "--quiet")
    (tree / "kept").write_text("1")
    (tree / "gone").write_text("1")
    (tree / ".gitignore").write_text("ignored\n")
    git("add", "--all")
    git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "-m", "one")
    monkeypatch.setattr(distros, "TREE", tree)
    head, tried = distros.snapshot()
    assert head == tried
    (tree / "tests/distros/results").mkdir(parents=True)
    (tree / "tests/distros/results/sid.json").write_text("{}")
    assert not distros.differs(*distros.snapshot()), "the record of an earlier run"
    shutil.rmtree(tree / "tests")
    (tree / "kept").write_text("2")
    (tree / "gone").unlink()
    (tree / "new").write_text("2")
    (tree / "ignored").write_text("2")
    index = (tree / ".git/index").read_bytes()
    head, tried = distros.snapshot()
    assert distros.differs(head, tried)
    distros.clone_into(tmp_path / "clone", tried)
    assert {path.name for path in (tmp_path / "clone").iterdir()} == {".git", ".gitignore", "kept", "new"}
    assert (tmp_path / "clone/kept").read_text() == "2"
    assert (tree / ".git/index").read_bytes() == index


# ---- what is recorded

LOG = """\
All checks passed!
======================= 8391 passed in 273.15s (0:04:33) =======================
tests/integration/test_a.py ..F                                                 [100%]
=========================== short test summary info ============================
SKIPPED [19] tests/unit/kind/test_kind_cli.py:20: needs the real kind and helm: setup/prepare.sh test
FAILED tests/unit/test_a.py::test_b[x - y] - AssertionError: no
ERROR tests/unit/test_c.py::test_d - OSError
= 1 failed, 5390 passed, 19 skipped, 1 error in 700.12s (0:11:40) =
make: *** [Makefile:40: test] Error 1
"""


def test_the_tests_that_failed_and_pytests_own_counts_are_recorded() -> None:
    record = distro_results.step_record(LOG, 2, 754, "test")
    assert record == {
        "exitCode": 2,
        "seconds": 754,
        "counts": {"passed": 13781, "failed": 1, "skipped": 19, "error": 1},
        "red": ["tests/unit/test_a.py::test_b[x - y]", "tests/unit/test_c.py::test_d"],
    }
    said = distro_results.outcome(record)
    assert said == "exit code 2 (13781 passed, 1 failed, 19 skipped, 1 error, 12 min 34 s)"


def test_a_step_that_ended_before_its_tests_is_recorded_with_its_last_words() -> None:
    log = "setup: installing clang\nsrc/x.py:1: error: bad\nmake: *** [Makefile:58: static] Error 2\n\n"
    record = distro_results.step_record(log, 2, 61, "test")
    assert record["lastWords"] == "make: *** [Makefile:58: static] Error 2"
    assert distro_results.outcome(record) == "exit code 2 (1 min 1 s)"
    assert distro_results.step_record("", 124, 0, "compare")["lastWords"] == "it printed nothing"


SAID = """\
python\tPython 3.13.5
iputils\tping from iputils 20240905
iproute2\tip utility, iproute2-6.15.0, libbpf 1.5.0
iperf3\tiperf 3.18 (cJSON 1.7.15)
nft\tnftables v1.1.3 (Commodore Bullmoose #4)
tcpdump\ttcpdump version 4.99.5
clang\tDebian clang version 19.1.7 (3+b1)
openssh\tOpenSSH_10.0p2 Debian-7+deb13u4, OpenSSL 3.5.9 29 Sep 2026
kernel\t6.18.44-custom
"""


def test_versions_are_read_from_what_the_tools_say_about_themselves() -> None:
    assert distro_results.parse_versions(SAID) == {
        "python": "3.13.5", "iputils": "20240905", "iproute2": "6.15.0", "iperf3": "3.18", "nft": "1.1.3",
        "tcpdump": "4.99.5", "clang": "19.1.7", "openssh": "10.0p2", "kernel": "6.18.44",
    }  # fmt: skip
    assert distro_results.parse_versions("iputils\tping: command not found\n") == {}


def recorded(**changes: Any) -> dict[str, Any]:
    record = {
        "suite": "trixie", "name": "Debian 13 (trixie)", "release": "13", "date": "2026-11-29", "commit": "a" * 40,
        "changed": False, "versions": distro_results.parse_versions(SAID),
        "steps": {
            "compare": {"exitCode": 0, "seconds": 173},
            "test": {"exitCode": 0, "seconds": 800, "counts": {"passed": 5400, "skipped": 20}, "red": []},
        },
    }  # fmt: skip
    return record | changes


def test_the_table_says_what_passed_and_names_every_test_that_did_not() -> None:
    red = recorded(name="Debian sid", release="", steps={"compare": {"exitCode": 0, "seconds": 9}, "test": {
        "exitCode": 2, "seconds": 60, "counts": {"failed": 1, "passed": 2}, "red": ["tests/unit/test_a.py::test_b"],
    }})  # fmt: skip
    lines = distro_results.table([recorded(), red]).splitlines()
    assert lines[:2] == ["|  | Debian 13 (trixie) | Debian sid |", "|---|---|---|"]
    assert "| `make compare` | passed (2 min 53 s) | passed (0 min 9 s) |" in lines
    test = (
        "| `make test` | passed (5400 passed, 20 skipped, 13 min 20 s) | exit code 2 (1 failed, 2 passed, 1 min 0 s) |"
    )
    assert test in lines
    assert "| OpenSSH | 10.0p2 | 10.0p2 |" in lines
    assert lines[-3:] == ["Debian sid, `make test`:", "", "- `tests/unit/test_a.py::test_b`"]


def test_a_run_that_ignored_the_lock_has_a_column_of_its_own_and_names_what_was_newer() -> None:
    lock = "numpy==2.3.5 \\\n    --hash=sha256:aa\nnumpy==2.4.0 ; python_version >= '3.13' \\\nPyYAML==6.0.3 \\\n"
    packages = "numpy==2.4.0\npyyaml==6.0.4\nlabctl==0.1\nnot a line\n"
    newest = distro_results.not_locked(packages, lock)
    assert newest == {"pyyaml": "6.0.4"}
    lines = distro_results.table([recorded(), recorded(newest=newest), recorded(newest={})]).splitlines()
    assert lines[0] == "|  | Debian 13 (trixie) | Debian 13 (trixie), NEWEST=1 | Debian 13 (trixie), NEWEST=1 |"
    told = "Debian 13 (trixie), NEWEST=1: `make test NEWEST=1`; not the lock's versions: "
    assert lines[-3] == told + "pyyaml 6.0.4."
    assert lines[-1] == told + "none, the lock has the newest."


def test_results_are_read_as_they_were_written_the_oldest_release_first(tmp_path: Path) -> None:
    tmp_path /= "results"  # a clone without any has no such folder
    assert distro_results.read_results(tmp_path) == []
    distro_results.write_result("sid", recorded(name="Debian sid", release=""), tmp_path)
    distro_results.write_result("trixie", recorded(), tmp_path)
    distro_results.write_result("bookworm", recorded(name="Debian 12 (bookworm)", release="12"), tmp_path)
    names = [record["name"] for record in distro_results.read_results(tmp_path)]
    assert names == ["Debian 12 (bookworm)", "Debian 13 (trixie)", "Debian sid"]


def test_the_table_of_the_document_is_the_one_that_the_recorded_runs_make() -> None:
    document = distro_results.DOCUMENT.read_text(encoding="utf-8")
    assert distro_results.with_table(document, distro_results.table(distro_results.read_results())) == document


def test_only_complete_runs_of_the_distributions_that_are_named_are_recorded() -> None:
    for path in distro_results.RESULTS.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert path.stem == record["suite"] + ("-newest" if record.get("newest") is not None else "")
        assert record["suite"] in distros.SUITES
        assert tuple(record["steps"]) == distros.STEPS
        assert set(record["versions"]) <= set(distro_results.VERSIONS)


def test_a_document_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        distro_results.with_table("# Platforms\n", "| |\n")


# ---- the namespaces


def ends_soon(command: str) -> bool:
    """The kernel ends a namespace's processes when its first one is gone, a moment later."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if subprocess.run(["pgrep", "-fx", command], capture_output=True, check=False).returncode:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.root
def test_what_runs_in_its_own_namespaces_ends_with_them_whatever_it_started(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    mark = f"30{os.getpid()}"
    program = f"mount -t tmpfs none {tmp_path} && touch {tmp_path}/inside && setsid sleep {mark} & sleep 0.2; exit 7"
    assert distros.run_contained(["sh", "-c", program], 20) == 7
    assert list(tmp_path.iterdir()) == []
    assert ends_soon(f"sleep {mark}")


@pytest.mark.root
def test_a_run_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    mark = f"31{os.getpid()}"
    assert distros.run_contained(["sh", "-c", f"setsid sleep {mark} & wait"], 0.5, tmp_path / "log") == 124
    assert ends_soon(f"sleep {mark}")


def test_entering_a_root_is_refused_outside_of_a_pid_namespace(tmp_path: Path) -> None:
    """Else its mounts would be the host's."""
    done = subprocess.run(
        [str(TREE / "tests/distros/enter.sh"), str(tmp_path), "x", "true"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "first process of a PID namespace" in done.stderr


def test_the_scripts_run_on_the_standard_library_alone() -> None:
    for name in ("distro_run.py", "distro_results.py", "distro_host.py"):
        program = f"import sys; sys.path.insert(0, {str(TREE / 'tests/distros')!r}); import {name[:-3]}"
        subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
