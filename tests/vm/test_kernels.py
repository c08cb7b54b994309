"""The kernels that distributions ship, booted: what labctl does on each of them, and says that it cannot do.

    make test-vm KERNELS="6.1 6.12"     everything, on each of them
    make test-sample                    the same without the tests of the parts, on one of them: the date says which

It is collected only when LABCTL_TEST_VM names kernels (tests/conftest.py); `make test` needs no machine of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from guest import CHECKS, OTHERS, SCENARIOS, SHORT, TREE
from kernels import prepared
from machine import Ran, run
from results import judged, recorded, wanted_kernels

from labctl.model.lab import Encapsulation, HostRouting
from labctl.providers.netns import kernel as product

KERNELS, IS_SAMPLE = wanted_kernels(os.environ.get("LABCTL_TEST_VM", ""))
if not KERNELS:
    pytest.skip('no kernel is named: make test-vm KERNELS="6.1 6.12"', allow_module_level=True)
PARTS = (
    "tests/integration/datapath/test_datapath_loader.py",
    "tests/integration/datapath/test_datapath_cells.py",
    "tests/integration/checks/test_cells.py",
    "tests/integration/trace/test_trace_cells.py",
    "tests/integration/trace/test_trace_faults.py",
)
"""The tests of loader, cells and trace."""
LIMIT_S = 1800.0 if IS_SAMPLE else 7200.0
"""Only a guest that hangs takes so long, also where it is emulated on a host that is busy with other things."""

each_kernel = pytest.mark.parametrize("wanted", KERNELS)
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


@cache
def in_a_guest(wanted: str, out: Path) -> tuple[Ran, Any]:
    """One boot for all that is asked of a kernel. Raises CannotBoot."""
    kernel = prepared(wanted)
    out.mkdir()
    # What the guest compiles is gone with it, and takes minutes where it is emulated.
    subprocess.run((sys.executable, "-m", "compileall", "-q", "src", "tests"), cwd=TREE, check=True)
    job = (sys.executable, str(TREE / "tests/vm/guest.py"), "/out/results.json", *(() if IS_SAMPLE else PARTS))
    ran = run(kernel, job, out, timeout_s=LIMIT_S)
    results = out / "results.json"
    assert results.exists(), f"the guest came to no end:\n{ran.log[-3000:]}\n{ran.console[-2000:]}"
    found = json.loads(results.read_text())
    found["package"] = kernel.package
    if not IS_SAMPLE:
        recorded(wanted, judged(found))
    return ran, found


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guests")


@pytest.fixture
def found(wanted: str, outputs: Path) -> Any:
    return in_a_guest(wanted, outputs / wanted)[1]


def document(command: Any, code: int = 0) -> Any:
    assert command["code"] == code, f"{command['argv']}: {command['stderr'][-2000:]}{command['stdout'][-1000:]}"
    return json.loads(command["stdout"])


def tells_connections(found: Any) -> bool:
    """By its number, and not by the trial that labctl itself relies on."""
    version = product.parse_release(found["kernel"])
    assert version is not None
    return version >= product.CONNECTION_STATE_SINCE


@each_kernel
def test_doctor_finds_that_labs_can_be_run(wanted: str, found: Any) -> None:
    said = document(found["doctor"])
    assert said["ready"]
    assert found["kernel"].startswith(wanted.removesuffix(".x").rstrip("."))
    rows = {probe["name"]: probe for probe in said["probes"]}
    assert rows["kernel"]["found"] == found["kernel"]
    connections = rows["conntrack in nft traces"]
    assert connections["present"] is tells_connections(found)
    assert connections["present"] or "Linux 6.16 and later have it" in connections["found"]


@each_scenario
@each_kernel
def test_a_scenario_is_built_proven_and_checked(wanted: str, scenario: str, found: Any) -> None:
    done = found["scenarios"][scenario]
    document(done["up"])
    if not IS_SAMPLE:
        assert document(done["status"])["modeInForce"]["proven"]
    checked = document(done["check"])
    (mode,) = checked["modeInForce"]
    routing, _, encapsulation = scenario.partition("-")
    assert mode["proven"]
    assert mode["found"]["hostRouting"] == HostRouting(routing)
    assert mode["found"]["encapsulation"] == Encapsulation(encapsulation or "vxlan")
    results = checked["results"]
    checks = SHORT if IS_SAMPLE else CHECKS
    assert {(one["check"], one["placement"]) for one in results} >= {
        (check, placement) for check in checks for placement in ("same-node", "cross-node")
    }
    assert [(one["check"], one["reason"]) for one in results if one["verdict"] != "pass"] == []


@each_scenario
@each_kernel
def test_a_scenario_is_traced_and_what_cannot_be_shown_is_said(wanted: str, scenario: str, found: Any) -> None:
    trace = document(found["scenarios"][scenario]["trace"])
    assert trace["wrong"] is None
    assert trace["notes"] == []
    movers = {act["mover"] for path in trace["paths"] for hop in path["hops"] for act in hop["movedBy"]}
    through_netfilter = scenario != "bpf-native"
    assert ("netfilter" in movers) is through_netfilter
    assert ("conntrack" in movers) is (through_netfilter and tells_connections(found))
    untold = [(one["mover"], one["kernel"], one["since"]) for one in trace["unshown"]]
    assert untold == ([] if tells_connections(found) else [("conntrack", found["kernel"], "6.16")])


@pytest.mark.parametrize("scenario", SCENARIOS if IS_SAMPLE else (*SCENARIOS, *OTHERS))
@each_kernel
def test_a_scenario_is_taken_down(wanted: str, scenario: str, found: Any) -> None:
    down = found["scenarios"][scenario]["down"]
    assert down["code"] == 0, down["stderr"]


@each_kernel
def test_nothing_is_left_behind_on_the_kernel(wanted: str, found: Any) -> None:
    assert found["leftBehind"] == {"namespaces": [], "progs": [], "maps": []}


if not IS_SAMPLE:

    @each_kernel
    def test_every_shipped_object_loads(wanted: str, found: Any) -> None:
        shipped = {path.stem for path in (TREE / "src/labctl/datapath/objects").glob("*.o")}
        assert found["objects"] == dict.fromkeys(shipped, "")

    @pytest.mark.parametrize("scenario", OTHERS)
    @each_kernel
    def test_services_masquerading_and_geneve_are_built_checked_and_traced(
        wanted: str, scenario: str, found: Any
    ) -> None:
        done = found["scenarios"][scenario]
        document(done["up"])
        assert document(done["status"])["modeInForce"]["proven"]
        checks, _ = OTHERS[scenario]
        results = document(done["check"])["results"]
        assert {one["check"] for one in results if one["verdict"] == "pass"} == {*checks}
        assert [(one["check"], one["reason"]) for one in results if one["verdict"] not in ("pass", "skip")] == []
        trace = document(done["trace"])
        assert trace["wrong"] is None
        assert trace["notes"] == []

    @each_kernel
    def test_the_tests_of_loader_cells_and_trace_pass(wanted: str, found: Any) -> None:
        tests = found["tests"]
        assert tests["code"] == 0, tests["stdout"][-6000:]
