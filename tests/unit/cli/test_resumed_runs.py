"""`compare --resume` of runs that somebody else wrote: refused in words, and nothing outside the run is changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl import app
from labctl.cli.options import load_lab
from labctl.engine.comparison.request import Options, Question, ask
from labctl.errors import Interrupted
from labctl.model.comparison import Environment
from labctl.model.lab import Lab
from labctl.planning.record import digest_of, lab_to_json
from labctl.store.runs import create_run
from labctl.testing.provider import running_lab

from .conftest import Bench, Said

HERE = Environment(kernel="6.1.0", cpu_model="Test CPU", cpus=2)


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labctl.engine.comparison.compare.environment_now", lambda: HERE)


@pytest.fixture
def asked(bench: Bench) -> Question:
    labs = [load_lab(name, provider=None, name=None, overrides=()) for name in ("legacy", "bpf")]
    options = Options(seed=1, token="3fa9")
    return ask(labs, {"netns": bench.provider}, app.checks(), replace(labs[0].compare, rounds=1), options)


def stored(runs_dir: Path, question: Question, labs: dict[str, Any] | None = None) -> Path:
    """A comparison that was cut short before its first block."""
    made = labs or {side.key: lab_to_json(side.lab) for side in question.sides}
    with pytest.raises(Interrupted), create_run(
        runs_dir, kind="compare", name="a-b", labs=made, settings=question.asked.settings(), environment=HERE
    ) as run:  # fmt: skip
        raise Interrupted(what="the power went")
    (run.path / "SHA256SUMS").unlink()
    return run.path


def changed(question: Question, change: Callable[[Lab], Lab]) -> tuple[Question, dict[str, Any]]:
    """The question and its labs as somebody wrote them who knows how: what names a lab says the same everywhere, and
    the digests fit."""
    labs = {}
    sides = []
    for side, about in zip(question.sides, question.asked.sides, strict=True):
        lab = change(side.lab)
        lab = replace(lab, digest=digest_of(lab))
        labs[side.key] = lab_to_json(lab)
        sides.append(replace(about, lab=lab.name, provider=lab.provider, digest=lab.digest, scenario=lab.scenario))
    written = replace(question.asked)
    object.__setattr__(written, "sides", tuple(sides))
    return replace(question, asked=written), labs


def named(name: str) -> Callable[[Lab], Lab]:
    return lambda lab: replace(lab, name=name)


def refused(said: Said, *parts: str) -> None:
    assert said.code == 2, (said.code, said.err)
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err, said.err


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Everything below: mode, and content or where a link leads."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            content = f"-> {path.readlink()}"
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content = "folder or pipe"
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that no run has anything to do with; it must be afterwards as it was."""
    folder = tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    (folder / "shadow").write_text("root:*:1\n")
    (folder / "inner" / "file").write_text("inner\n")
    before = snapshot(folder)
    yield folder
    assert snapshot(folder) == before


def test_an_honest_run_goes_on(bench: Bench, tmp_path: Path, asked: Question) -> None:
    bench.opens(asked.sides[0].lab)
    said = bench.run("compare", "--resume", str(stored(tmp_path / "runs", asked)))
    assert bench.provider.log.count("finish") == 2, said.err
    assert "not this run's" not in said.err


@pytest.mark.parametrize(
    "name",
    ["../../../etc", "..", "/etc", "a/../../b", "-rf", "{{ lookup('pipe', 'id') }}", "x" * 60, "A", "legacy-a-3fa9\n"],
)
def test_a_lab_whose_name_is_a_path_an_option_or_a_template_is_not_removed(
    bench: Bench, tmp_path: Path, asked: Question, outside: Path, name: str
) -> None:
    question, labs = changed(asked, named(name))
    refused(bench.run("compare", "--resume", str(stored(tmp_path / "runs", question, labs))))
    assert bench.provider.log == []


@pytest.mark.parametrize(
    "name",
    ["mylab", "legacy", "legacy-a", "legacy-b-3fa9", "legacy-a-3fa0", "3fa9", "mylab-3fa9", "other-3fa9-a", "a-3fa9-x"],
)
def test_a_lab_that_is_not_the_comparisons_own_is_not_removed(
    bench: Bench, tmp_path: Path, asked: Question, name: str
) -> None:
    bench.is_up(name)
    question, labs = changed(asked, named(name))
    said = bench.run("compare", "--resume", str(stored(tmp_path / "runs", question, labs)))
    refused(said, "names labs that are not its own", name)
    assert [lab.name for lab in bench.provider.running] == [name]
    assert bench.provider.log == []


@pytest.mark.parametrize("token", ["", "a", "3fa9-x", "3FA9", "g000", "3fa90", "../x"])
def test_a_token_that_no_comparison_gets_is_refused(bench: Bench, tmp_path: Path, asked: Question, token: str) -> None:
    written = replace(asked.asked)
    object.__setattr__(written, "token", token)
    refused(bench.run("compare", "--resume", str(stored(tmp_path / "runs", replace(asked, asked=written)))))
    assert bench.provider.log == []


def test_a_lab_of_the_right_name_with_other_content_is_somebody_elses(
    bench: Bench, tmp_path: Path, asked: Question
) -> None:
    ours = asked.sides[0].lab
    bench.provider.running.append(running_lab(ours, digest="0" * 64))
    bench.opens(ours)
    refused(bench.run("compare", "--resume", str(stored(tmp_path / "runs", asked))), "it is not this run's", ours.name)
    assert f"teardown {ours.name}" not in bench.provider.log


def test_a_lab_of_the_right_name_that_is_just_being_built_is_left_alone(
    bench: Bench, tmp_path: Path, asked: Question
) -> None:
    ours = asked.sides[0].lab
    bench.provider.running.append(running_lab(ours, is_whole=False, is_being_built=True))
    refused(bench.run("compare", "--resume", str(stored(tmp_path / "runs", asked))), "is being built by another labctl")
    assert f"teardown {ours.name}" not in bench.provider.log


def test_what_a_killed_run_left_behind_is_removed(bench: Bench, tmp_path: Path, asked: Question) -> None:
    ours = asked.sides[0].lab
    # Of half a lab a namespace remembers the beginning of the digest.
    bench.provider.running.append(running_lab(ours, is_whole=False, digest=ours.digest[:16]))
    bench.opens(ours)
    bench.run("compare", "--resume", str(stored(tmp_path / "runs", asked)))
    assert bench.provider.log[0] == f"teardown {ours.name}"


def test_sides_and_labs_that_do_not_fit_are_refused(bench: Bench, tmp_path: Path, asked: Question) -> None:
    a, b = (lab_to_json(side.lab) for side in asked.sides)
    for labs in ({"a": b, "b": a}, {"a": a}, {"a": a, "b": b, "c": a}):
        refused(bench.run("compare", "--resume", str(stored(tmp_path / "runs", asked, labs))), "not those of its sides")
    assert bench.provider.log == []


HOST = {"address": "192.0.2.7", "user": "eve", "sudoPasswordFile": "/root/.secret", "knownHosts": "/tmp/known"}


@pytest.mark.parametrize(
    ("provider", "settings", "part"),
    [
        ("netns", {"cilium": {"chart": "--post-renderer=/tmp/x"}}, "has no section cilium"),
        ("netns", {"clusterName": "--config=/tmp/x"}, "has no section clusterName"),
        ("kind", {"clusterName": "--config=/tmp/x"}, "has no section clusterName"),
        ("kind", {"hosts": [HOST]}, "other machines than lab.yaml lists"),
        ("kind", {"cilium": {"chart": "--post-renderer=/tmp/x"}}, "chart"),
        ("kind", {"kindCluster": {"image": "--privileged"}}, "image"),
        ("kind", {"kindCluster": "not a section"}, "kindCluster"),
        ("kubeadm", {"cilium": {"chart": "--post-renderer=/tmp/x"}}, "chart"),
        ("kubeadm", {"hosts": [HOST, HOST, HOST]}, "other machines than lab.yaml lists"),
        ("kubeadm", {"kubeadm": {"kubernetes": "{{ lookup('pipe', 'id') }}"}}, "kubernetes"),
        ("kubeadm", {"kindCluster": {}}, "has no section kindCluster"),
    ],
)
def test_settings_that_no_scenario_may_have_are_refused_before_anything_is_built(
    bench: Bench, tmp_path: Path, asked: Question, provider: str, settings: dict[str, Any], part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    real = REAL_PROVIDER(provider)
    monkeypatch.setattr(app, "provider", lambda name: real)

    def never(*_: object) -> None:
        raise AssertionError("it was built, or looked for")

    for act in ("executor", "discover", "teardown", "open"):
        monkeypatch.setattr(type(real), act, never)
    question, labs = changed(asked, lambda lab: replace(lab, provider=provider, settings=settings))
    refused(bench.run("compare", "--resume", str(stored(tmp_path / "runs", question, labs))), part)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"kindCluster": {"extraMounts": [{"hostPath": "/", "containerPath": "/host"}]}}, "kindCluster.extraMounts[0]"),
        ({"kindCluster": {"containerdConfigPatches": ["[x]"]}}, "kindCluster.containerdConfigPatches"),
        ({"kindCluster": {"image": "evil/node:v1.32.2", "kubernetes": "1.32.2"}}, "kindCluster.image"),
        ({"cilium": {"values": {"extraContainers": [{"image": "evil"}]}}}, "cilium.values.extraContainers[0].image"),
    ],
)
def test_a_run_names_no_code_for_nodes_that_are_root_on_this_host(
    bench: Bench, tmp_path: Path, asked: Question, settings: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "provider", REAL_PROVIDER)
    question, labs = changed(asked, lambda lab: replace(lab, provider="kind", settings=settings))
    refused(bench.run("compare", "--resume", str(stored(tmp_path / "runs", question, labs))), key)


def test_an_unknown_provider_is_named(
    bench: Bench, tmp_path: Path, asked: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "provider", REAL_PROVIDER)
    for name in ("nothing", "labctl-providers-kind", "os"):
        question, labs = changed(asked, lambda lab, name=name: replace(lab, provider=name))  # type: ignore[misc]
        said = bench.run("compare", "--resume", str(stored(tmp_path / "runs", question, labs)))
        refused(said, f"there is no provider named {name}")


@pytest.mark.parametrize("source", ["/etc/shadow", "../../outside/shadow", "--option", "$(touch x)"])
def test_where_a_scenario_came_from_is_only_text(
    bench: Bench, tmp_path: Path, asked: Question, outside: Path, source: str
) -> None:
    bench.opens(asked.sides[0].lab)
    question, labs = changed(asked, lambda lab: replace(lab, source=source))
    said = bench.run("compare", "--resume", str(stored(tmp_path / "runs", question, labs)))
    assert bench.provider.log.count("finish") == 2, said.err
    assert "root:*" not in said.out + said.err


@pytest.mark.parametrize("name", ["9" * 40 + "-x", "999999999-x", "-1-x", "0x10-x", "٣-x"])
def test_a_raw_folder_of_a_huge_number_does_no_harm(bench: Bench, tmp_path: Path, asked: Question, name: str) -> None:
    path = stored(tmp_path / "runs", asked)
    (path / "raw" / name).mkdir(parents=True)
    bench.opens(asked.sides[0].lab)
    said = bench.run("compare", "--resume", str(path))
    assert bench.provider.log.count("finish") == 2, said.err
    assert not list((path / "raw" / name).iterdir())


# ---- the run's own files are something else (numbers 6 and 13)


def link_to_file(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "shadow")


def link_to_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "inner")


def dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "not-there")


def second_name(path: Path, outside: Path) -> None:
    path.hardlink_to(outside / "shadow")


def pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def endless(path: Path, outside: Path) -> None:
    path.symlink_to("/dev/zero")


TRAPS = [link_to_file, link_to_folder, dangling, second_name, pipe, endless]


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("file", ["journal.jsonl", ".lock", "raw", "run.json"])
def test_a_run_whose_own_file_is_something_else_is_refused(
    bench: Bench, tmp_path: Path, asked: Question, outside: Path, file: str, trap: Callable[[Path, Path], None]
) -> None:
    path = stored(tmp_path / "runs", asked)
    (path / file).unlink(missing_ok=True)
    trap(path / file, outside)
    bench.opens(asked.sides[0].lab)
    refused(bench.run("compare", "--resume", str(path)), "error: ")
    assert bench.provider.log == [], "nothing may be built for such a run"


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("file", ["result.json", "SHA256SUMS", "raw/0001-x"])
def test_a_run_in_which_something_else_is_never_leads_outside(
    bench: Bench, tmp_path: Path, asked: Question, outside: Path, file: str, trap: Callable[[Path, Path], None]
) -> None:
    path = stored(tmp_path / "runs", asked)
    (path / file).parent.mkdir(exist_ok=True)
    trap(path / file, outside)
    bench.opens(asked.sides[0].lab)
    said = bench.run("compare", "--resume", str(path))
    assert "Traceback" not in said.err
    # `outside` is compared when the test ends.


def test_the_runs_folder_that_is_swapped_for_a_link_meanwhile_gets_what_was_begun_in_it(
    bench: Bench, tmp_path: Path, asked: Question, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path / "runs", asked)
    bench.opens(asked.sides[0].lab)
    moved = tmp_path / "moved"
    (outside / path.name).mkdir()
    for name in ("journal.jsonl", "run.json", "result.json"):
        (outside / path.name / name).write_text("not yours\n")
    before = snapshot(outside)
    finish = bench.provider.finish

    def swap(self: object, lab: Lab) -> None:
        if not moved.exists():
            (tmp_path / "runs").rename(moved)
            (tmp_path / "runs").symlink_to(outside)
        finish(lab)

    monkeypatch.setattr(type(bench.provider), "finish", swap)
    bench.run("compare", "--resume", str(path))
    assert snapshot(outside) == before
    for name in ("journal.jsonl", "run.json", "result.json"):
        (outside / path.name / name).unlink()
    (outside / path.name).rmdir()
    assert "resumed" in (moved / path.name / "journal.jsonl").read_text()
    assert json.loads((moved / path.name / "run.json").read_text())["state"] != "running"


REAL_PROVIDER = app.provider


JOURNAL = """[
  {"kind": "prepared", "at": "", "side": "a"}, {"kind": "mode", "at": "", "side": "a", "mode": {"side": "a"}},
  {"kind": "run", "at": "", "run": {"side": "a", "block": 1}}, {"kind": "noise", "at": "", "reading": {"block": 1}}
]"""
HOSTILE: tuple[object, ...] = (
    "../../../etc", "/etc/passwd", "-rf", "--x=/tmp", "$(id)", "{{ 7 * 7 }}", "<script>x</script>", "\x1b]0;x\x07",
    "\x9b2J",
    "\u202e", "\x00", "x" * 5000, None, True, -1, 10**30, 1.5, [], {}, ["x"], {"x": "y"},
)  # fmt: skip


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("file", ["run.json", "journal.jsonl"])
def test_hostile_pieces_anywhere_in_a_run_are_told_and_lead_nowhere(
    bench: Bench, tmp_path: Path, asked: Question, outside: Path, file: str, data: st.DataObject
) -> None:
    bench.opens(asked.sides[0].lab)
    run = stored(tmp_path / "runs", asked)
    path = run / file
    documents = [json.loads(path.read_text())] if file == "run.json" else json.loads(JOURNAL)
    for _ in range(data.draw(st.integers(1, 3))):
        at: Any = data.draw(st.sampled_from(documents))
        while True:
            steps = sorted(at) if isinstance(at, dict) else list(range(len(at)))
            step = data.draw(st.sampled_from(steps))
            if isinstance(at[step], (dict, list)) and at[step] and data.draw(st.booleans()):
                at = at[step]
                continue
            at[step] = data.draw(st.sampled_from(HOSTILE))
            break
    path.write_text("\n".join(map(json.dumps, documents)) + "\n")
    for argv in (("runs",), ("report", str(run)), ("compare", "--resume", str(run))):
        said = bench.run(*argv)
        assert said.code in (0, 1, 2, 3, 4)
        assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(said.out + said.err)
        assert "Traceback" not in said.err
