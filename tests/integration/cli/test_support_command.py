"""`labctl support` on real netns labs: whole, with a part gone, without the record, and where Ctrl-C comes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from cli_running import Desk, needs_labs
from cli_running import desk_fixture as desk_fixture

from labctl.providers.netns.record import record_path
from labctl.system import netns

pytestmark = needs_labs
INSIDE = ("addresses.txt", "routes.txt", "iptables.txt", "nftables.txt", "bpf-attached.txt", "sysctls.txt")


def content(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {
            member.name.partition("/")[2]: file.read().decode()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }


def test_of_a_whole_lab_everything_is_there_and_the_lab_is_as_it_was(desk: Desk) -> None:
    name = desk.prefix
    assert desk.run("up", "bpf", "--name", name).code == 0
    said = desk.run("support", name, "-o", "s.tar.gz")
    assert said.code == 0, said.err
    found = content(desk.directory / "s.tar.gz")
    for part in ("node1", "node2", "client", "server", "underlay"):
        for file in INSIDE:
            assert f"namespaces/{part}/{file}" in found, (part, file)
    assert "cilium_vxlan" in found["namespaces/node1/addresses.txt"]
    assert "10.244." in found["namespaces/client/routes.txt"]
    status = json.loads(found["labctl/status.json"])
    assert status["modeInForce"]["proven"] is True
    assert status["datapath"]["nodes"]
    assert "plan of lab" in found["labctl/plan.txt"]
    assert json.loads(found["labctl/lab.json"])["name"] == name
    index = json.loads(found["index.json"])
    assert [part["file"] for part in index["parts"] if part["file"].startswith("state/")] == [
        "state/lab.json", "state/marks.txt", "state/processes.txt",
    ]  # fmt: skip
    assert desk.run("status", name, "--no-proof").code == 0
    assert desk.run("down", name).code == 0


def test_of_a_damaged_lab_the_rest_is_there_with_what_is_missing(desk: Desk) -> None:
    name = desk.prefix
    assert desk.run("up", "bpf", "--name", name).code == 0
    netns.delete(f"labctl.{name}.server")
    said = desk.run("support", name, "-o", "s.tar.gz", "--json")
    assert said.code == 0, said.err
    found = content(desk.directory / "s.tar.gz")
    assert not [file for file in found if file.startswith("namespaces/server/")]
    assert "namespaces/client/addresses.txt" in found
    assert json.loads(found["labctl/found.json"])["missing"]
    status = next(part for part in said.document["parts"] if part["file"] == "labctl/status.json")
    assert status["problem"]
    assert desk.run("down", name).code == 0


def test_of_a_lab_without_its_record_the_namespaces_are_there(desk: Desk) -> None:
    name = desk.prefix
    assert desk.run("up", "bpf", "--name", name).code == 0
    record_path(name).unlink()
    said = desk.run("support", name, "-o", "s.tar.gz")
    assert said.code == 0, said.err
    found = content(desk.directory / "s.tar.gz")
    assert "namespaces/node1/addresses.txt" in found
    assert "record: missing" in found["state/marks.txt"]
    assert "not read: state/lab.json" in found["README.txt"]
    assert desk.run("down", name).code == 0


def test_list_alone_writes_nothing_and_needs_no_packets(desk: Desk) -> None:
    name = desk.prefix
    assert desk.run("up", "bpf", "--name", name).code == 0
    before = sorted(path.name for path in desk.directory.iterdir())
    said = desk.run("support", name, "--list", "--json")
    assert said.code == 0
    assert said.document["file"] is None
    assert sorted(path.name for path in desk.directory.iterdir()) == before
    assert desk.run("down", name).code == 0


def test_ctrl_c_leaves_no_half_archive(desk: Desk) -> None:
    name = desk.prefix
    assert desk.run("up", "bpf", "--name", name).code == 0
    running = subprocess.Popen(
        (sys.executable, "-m", "labctl", "support", name, "-o", "s.tar.gz"), cwd=desk.directory,
        env=desk.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    running.stdout.readline()  # the list: now it reads
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode in (130, 0)  # it may have been done
    made = [
        path.name for path in desk.directory.glob("*") if "s.tar.gz" in path.name or path.name.startswith("labctl-")
    ]
    assert made == ([] if running.returncode == 130 else ["s.tar.gz"])
    assert desk.run("down", name).code == 0
