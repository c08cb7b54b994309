"""A new key of the datapath stands in the model, and where it acts: files, records, plans and `--json` follow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).resolve().parents[3]
MODEL, PROVIDER = "model/lab.py", "networks/cilium/network.py"
KEY = '    mtu_probe: Annotated[int, Ge(0), Le(9_000), OMITTED, Doc("Bytes of a probe from every pod.")] = 0\n'
ACT = """
        if lab.datapath.mtu_probe:
            yield Sysctls(namespace=namespace, settings=(("net/ipv4/route/min_pmtu", str(lab.datapath.mtu_probe)),))
"""
NEW = {
    "model/lab.py": ("    faults: Annotated[tuple[Fault, ...],", KEY),
    "networks/cilium/network.py": ("        yield LinkUp(namespace=namespace, device=device, index=inside)", ACT),
}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """labctl with `datapath.mtuProbe`, which two of its files know."""
    tree = tmp_path_factory.mktemp("tree")
    for part in ("src", "scenarios", "lab.yaml"):
        (shutil.copy2 if (TREE / part).is_file() else shutil.copytree)(TREE / part, tree / part)
    for name, (before, line) in NEW.items():
        path = tree / "src" / "labctl" / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, line + before, 1))

    def run(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, *(args if args[0] == "-c" else ("-m", "labctl", *args))],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree / "src"), "LABCTL_RUNS_DIR": str(tree / "runs")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        return ended

    return run


ASKED = ("--set", "datapath.mtuProbe=1400")


def test_the_schema_of_files_has_the_key(changed: Run) -> None:
    section = json.loads(changed("schema").stdout)["$defs"]["DatapathSection"]["properties"]
    assert section["mtuProbe"] == {
        "type": "integer", "minimum": 0, "maximum": 9000, "description": "Bytes of a probe from every pod.",
    }  # fmt: skip


@pytest.mark.parametrize("value", ["9001", "-1", "yes", "[]"])
def test_what_it_may_not_be_is_refused_with_its_place(changed: Run, value: str) -> None:
    said = changed("validate", "bpf", "--set", f"datapath.mtuProbe={value}", code=2).stderr
    assert "datapath.mtuProbe: " in said


def test_it_acts_in_the_plan_and_stands_in_its_document(changed: Run) -> None:
    steps = json.loads(changed("plan", "bpf", "--json", *ASKED).stdout)["steps"]
    acting = [step["id"] for step in steps if "min_pmtu" in json.dumps(step)]
    assert acting == ["pod-client", "pod-neighbour", "pod-server"]
    assert "mtuProbe" in json.dumps(steps[-1])  # the record that `labctl status` reads
    assert "min_pmtu" not in changed("plan", "bpf", "--json").stdout


def test_a_record_has_it_only_where_it_is_asked_for_and_gives_it_back(changed: Run) -> None:
    told = _lab(changed, "mtu_probe=1400")
    assert (told["record"]["datapath"]["mtuProbe"], told["back"]) == (1400, 1400)
    plain = _lab(changed, "")
    assert "mtuProbe" not in plain["record"]["datapath"]
    assert plain["back"] == 0


def test_labs_that_do_not_use_it_keep_their_digests_and_records(changed: Run) -> None:
    stored = json.loads((TREE / "tests" / "fixtures" / "stored" / "check" / "run.json").read_text())["labs"]["lab"]
    code = (
        "import json, sys; from labctl.planning.record import lab_from_json, lab_to_json; "
        f"print(json.dumps(lab_to_json(lab_from_json(json.loads({json.dumps(stored)!r})))))"
    )
    assert json.loads(changed("-c", code).stdout) == stored


@pytest.mark.parametrize("provider", ["kind", "kubeadm"])
def test_a_provider_that_does_not_act_on_it_refuses_it(changed: Run, provider: str) -> None:
    said = changed("validate", "bpf", "--set", f"provider={provider}", *ASKED, code=2).stderr
    assert "datapath.mtuProbe" in said


def _lab(changed: Run, change: str) -> Any:
    """The record of a lab with that change to its datapath, and the key's value when it is read back."""
    code = f"""
import json
from dataclasses import replace
from labctl.planning.record import digest_of, lab_from_json, lab_to_json
from labctl.testing.labs import sample_lab
lab = sample_lab("probed")
lab = replace(lab, datapath=replace(lab.datapath, {change}))
lab = replace(lab, digest=digest_of(lab))
record = lab_to_json(lab)
print(json.dumps({{"record": record, "back": lab_from_json(json.loads(json.dumps(record))).datapath.mtu_probe}}))
"""
    return json.loads(changed("-c", code).stdout)
