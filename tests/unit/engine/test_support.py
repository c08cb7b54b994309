"""The support archive: bounded in size and time, without secrets, and complete whatever cannot be read."""

from __future__ import annotations

import json
import tarfile
import threading
import time
from pathlib import Path

import pytest

from labctl.engine.support import Limits, collected, cut, exhibits_of_any, write
from labctl.errors import LabError, StepFailed
from labctl.providers.base import Exhibit, Probe
from labctl.testing.labs import example_lab
from labctl.testing.provider import ScriptedProvider, running_lab


def exhibit(file: str, text: str) -> Exhibit:
    return Exhibit(file=file, source=f"cat {file}", read=lambda: text)


def failing(file: str, why: BaseException) -> Exhibit:
    def read() -> str:
        raise why

    return Exhibit(file=file, source=f"cat {file}", read=read)


def archived(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            assert member.mode == 0o600
            found[member.name.partition("/")[2]] = content.read().decode()
        return found


def test_each_part_is_in_it_with_where_it_comes_from(tmp_path: Path) -> None:
    filed = collected([exhibit("a/one.txt", "first"), exhibit("b/two.txt", "")], (), Limits())
    size_byte = write(tmp_path / "s.tar.gz", "mine", "netns", filed)
    assert (tmp_path / "s.tar.gz").stat().st_size == size_byte
    assert (tmp_path / "s.tar.gz").stat().st_mode & 0o777 == 0o600
    found = archived(tmp_path / "s.tar.gz")
    assert set(found) == {"README.txt", "index.json", "a/one.txt", "b/two.txt"}
    assert (found["a/one.txt"], found["b/two.txt"]) == ("first", "")
    index = json.loads(found["index.json"])
    assert (index["kind"], index["lab"], index["provider"]) == ("Support", "mine", "netns")
    assert index["parts"][0] == {
        "file": "a/one.txt", "source": "cat a/one.txt", "byte": 5, "cutByte": 0, "secretsRemoved": 0, "problem": "",
    }  # fmt: skip


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "s.tar.gz").write_text("mine")
    with pytest.raises(LabError, match="cannot write"):
        write(tmp_path / "s.tar.gz", "mine", "netns", [])
    assert (tmp_path / "s.tar.gz").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar.gz"]


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (StepFailed("node2 does not answer", "it is off", "ssh node2"), "node2 does not answer; it is off"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (KeyError("nodes"), "KeyError: 'nodes'"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
    ],
)
def test_what_cannot_be_read_is_in_it_with_the_reason_and_stops_nothing(
    why: BaseException, said: str, tmp_path: Path
) -> None:
    filed = collected([failing("a.txt", why), exhibit("b.txt", "fine")], (), Limits())
    assert said in filed[0].problem
    assert filed[1].text == "fine"
    write(tmp_path / "s.tar.gz", "mine", "kind", filed)
    found = archived(tmp_path / "s.tar.gz")
    assert said in found["a.txt"]
    assert said in found["README.txt"]


def test_secrets_are_gone_from_texts_from_reasons_and_from_sources(tmp_path: Path) -> None:
    secret = "right-horse"
    source = Exhibit(file="c.txt", source=f"curl -u me:{secret}", read=lambda: "password: hunter2\n")
    filed = collected(
        [exhibit("a.txt", f"it is {secret}"), failing("b.txt", StepFailed(f"sudo rejects {secret}")), source],
        [secret],
        Limits(),
    )
    write(tmp_path / "s.tar.gz", "mine", "kubeadm", filed)
    everything = "".join(archived(tmp_path / "s.tar.gz").values())
    assert secret not in everything
    assert "hunter2" not in everything
    assert [one.removed for one in filed] == [1, 1, 1]
    assert "3 secrets were removed" in everything


def test_what_is_too_large_loses_its_middle_with_a_note() -> None:
    text = "begin\n" + "x" * 10_000 + "\nend"
    shown, cut_byte = cut(text, 1000)
    assert shown.startswith("begin\n")
    assert shown.endswith("\nend")
    assert cut_byte == len(text) - 1000
    assert f"[labctl: {cut_byte} bytes are left out here]" in shown
    assert cut("short", 1000) == ("short", 0)
    assert cut("ä" * 1000, 999)[0].isprintable() is False  # whole characters on both sides of the note's line ends
    assert "\ufffd" not in cut("ä" * 1000, 999)[0]


def test_a_secret_that_stands_where_it_is_cut_is_gone_too() -> None:
    body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" * 40
    text = "a" * 230 + f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n" + "z" * 2000
    (filed,) = collected([exhibit("a.txt", text)], (), Limits(exhibit_byte=1000))
    assert "MIIEvQ" not in filed.text
    assert filed.cut_byte > 0


def test_the_whole_is_bounded_and_what_is_left_out_is_named() -> None:
    parts = [exhibit(f"{number}.txt", "x" * 400) for number in range(5)]
    filed = collected(parts, (), Limits(whole_byte=1000))
    assert [one.size_byte for one in filed] == [400, 400, 0, 0, 0]
    assert all("left out" in one.problem for one in filed[2:])
    # One that is small still fits behind one that did not.
    filed = collected([*parts[:3], exhibit("small.txt", "y" * 100)], (), Limits(whole_byte=1000))
    assert filed[-1].text == "y" * 100


def test_parts_are_read_at_the_same_time_and_stay_in_order() -> None:
    barrier = threading.Barrier(3, timeout=60)

    def meet(number: int) -> Exhibit:
        def read() -> str:
            barrier.wait()
            return str(number)

        return Exhibit(file=f"{number}", source="", read=read)

    filed = collected([meet(number) for number in range(3)], (), Limits())
    assert [one.text for one in filed] == ["0", "1", "2"]


def test_when_its_time_is_over_the_rest_is_named_and_not_read() -> None:
    def slow() -> str:
        time.sleep(0.2)
        return "read"

    parts = [Exhibit(file=f"{number}", source="", read=slow) for number in range(30)]
    filed = collected(parts, (), Limits(time_s=0.3))
    assert filed[0].text == "read"
    assert "not read: 0 s were over" in filed[-1].problem
    assert len(filed) == 30


def test_any_lab_shows_labctl_its_record_its_plan_this_host_and_the_newest_runs(tmp_path: Path) -> None:
    lab = example_lab()
    provider = ScriptedProvider(lacking=(Probe(name="docker", present=False, found="no", needed_for="all"),))
    for number in range(5):
        run = tmp_path / "runs" / f"2026112{number}T000000Z-compare-x-00000{number}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(
            json.dumps(
                {
                    "apiVersion": "labctl/v1", "kind": "Run", "id": run.name, "runKind": "compare", "name": "x",
                    "state": "complete", "startedAt": "", "labctlVersion": "0.1.0", "argv": [],
                }
            )
        )  # fmt: skip
        (run / "journal.jsonl").write_text("{}\n")
    shown = {one.file: one for one in exhibits_of_any(running_lab(lab), provider, tmp_path / "runs")}
    runs = sorted({file.split("/")[1][:9] for file in shown if file.startswith("runs/")})
    assert runs == ["20261122T", "20261123T", "20261124T"]
    filed = {one.file: one for one in collected(list(shown.values()), (), Limits())}
    assert json.loads(filed["labctl/found.json"].text)["whole"] is True
    assert json.loads(filed["labctl/lab.json"].text)["name"] == lab.name
    assert "plan of lab example" in filed["labctl/plan.txt"].text
    assert json.loads(filed["labctl/doctor.json"].text)[0]["name"] == "docker"
    assert json.loads(filed["labctl/version.json"].text)["labctl"]
    assert "kernel" in filed["host/environment.json"].text


def test_a_lab_without_a_record_shows_the_rest(tmp_path: Path) -> None:
    running = running_lab(example_lab(), lab=None, is_whole=False, missing=("its record",))
    shown = [one.file for one in exhibits_of_any(running, ScriptedProvider(), tmp_path)]
    assert "labctl/lab.json" not in shown
    assert "labctl/found.json" in shown
    gone = [one.file for one in exhibits_of_any(None, ScriptedProvider(), tmp_path)]
    assert {"labctl/version.json", "labctl/doctor.json"} < set(gone)
