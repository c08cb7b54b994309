"""Chains of the real CNI plugins: what each makes, what a chain that fails takes back, what is left after `down`."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl import app
from labctl.engine.build import build as build_with_undo
from labctl.engine.prove import prove
from labctl.errors import HostLacks, StepFailed, UsageError
from labctl.loading import load_scenario
from labctl.model.lab import Lab
from labctl.model.pod_network import PLUGIN_DIRECTORY
from labctl.planning.resolve import resolve
from labctl.providers.netns import power
from labctl.providers.netns.kinds.attached import attached
from labctl.providers.netns.kinds.plugin import state_folder
from labctl.providers.netns.provider import NetnsProvider
from labctl.store.runs import MemorySinks
from labctl.system import process

CHECKOUT = Path(__file__).resolve().parents[3]
PROVIDER = NetnsProvider()
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces"),
    pytest.mark.skipif(not Path(PLUGIN_DIRECTORY, "ptp").exists(), reason="needs the CNI plugins: make setup-networks"),
]
MEETS = """#!/usr/bin/python3
import json, os, sys, time
document, command = sys.stdin.read(), os.environ["CNI_COMMAND"]
if command == "VERSION":
    print('{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}')
    sys.exit()
for number in range(3):
    try:
        os.close(os.open(f"HERE/{command}-{number}", os.O_CREAT | os.O_EXCL))
        break
    except FileExistsError:
        pass
deadline = time.monotonic() + 20
while not os.path.exists(f"HERE/{command}-2"):
    if time.monotonic() > deadline:
        print(json.dumps({"cniVersion": "1.0.0", "code": 99, "msg": "nobody else came"}))
        sys.exit(1)
    time.sleep(0.01)
print(json.dumps(json.loads(document)["prevResult"]))
"""
LOOKS = """#!/usr/bin/env python3
import json, os, sys
if os.environ["CNI_COMMAND"] == "VERSION":
    print(json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}))
    sys.exit()
said = json.load(sys.stdin)
devices = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
environment = {key: value for key, value in os.environ.items() if key.startswith("CNI_")}
with open("CALLS", "a") as calls:
    print(json.dumps({"environment": environment, "stdin": said, "devices": devices}), file=calls)
if os.environ["CNI_COMMAND"] == "ADD":
    print(json.dumps(said["prevResult"]))
"""
HOST_LOCAL: dict[str, Any] = {"type": "host-local", "subnet": "{{.PodCIDR}}", "routes": [{"dst": "0.0.0.0/0"}]}


@pytest.fixture
def name(host_as_found: str) -> Iterator[str]:
    yield host_as_found
    PROVIDER.teardown(host_as_found)


def lab_of(name: str, *plugins: dict[str, Any], folder: Path, version: str = "1.0.0", **choice: Any) -> Lab:
    """The shipped scenario's pods with these plugins."""
    conflist = {"cniVersion": version, "name": "chain", "plugins": plugins}
    scenario = {
        "apiVersion": "labctl/v1",
        "kind": "Scenario",
        "nodes": 2,
        "pods": [
            {"name": "client", "node": "node1"},
            {"name": "near", "node": "node1"},
            {"name": "server", "node": "node2"},
        ],
        "pairs": [{"client": "client", "server": "near"}, {"client": "client", "server": "server"}],
        "podNetwork": {"type": "cni", "conflist": conflist, **choice},
    }
    path = folder / "mine.yaml"
    path.write_text(json.dumps(scenario), encoding="utf-8")
    return resolve(load_scenario(path, start=folder, trust=True), name=name)


def build(lab: Lab) -> None:
    build_with_undo(PROVIDER, lab, lambda event: None)


def nothing_is_left(lab: Lab) -> bool:
    return not PROVIDER.discover(lab.name) and not state_folder(lab.name).parent.exists()


@pytest.mark.parametrize(
    "plugins",
    [
        pytest.param(
            ({"type": "bridge", "isGateway": True, "ipam": HOST_LOCAL},), id="bridge", marks=pytest.mark.thorough
        ),
        pytest.param(
            (
                {
                    "type": "macvlan",
                    "master": "{{.Uplink}}",
                    "ipam": {"type": "host-local", "subnet": "{{.ClusterCIDR}}"},
                },
            ),
            id="macvlan",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            ({"type": "ptp", "ipMasq": True, "ipam": HOST_LOCAL}, {"type": "firewall"}),
            id="ptp that masquerades",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_every_first_plugin_that_is_known_shows_what_it_should(
    name: str, plugins: tuple[dict[str, Any], ...], tmp_path: Path
) -> None:
    lab = lab_of(name, *plugins, folder=tmp_path)
    build(lab)
    with PROVIDER.open(lab) as opened:
        proven = prove(app.checks(), opened, MemorySinks(), lambda event: None)
    assert proven.mode.proven, proven.mode.reason
    results = [one for one in proven.mode.evidence if one.witness == "plugin-results"]
    assert results
    assert all(one.supports for one in results), results
    PROVIDER.teardown(lab.name)
    assert nothing_is_left(lab)


def test_a_plugin_that_fails_has_its_own_words_shown_and_the_ones_before_it_take_back_their_part(
    name: str, tmp_path: Path
) -> None:
    hostname = {"type": "tuning", "sysctl": {"kernel.hostname": "x"}}
    lab = lab_of(name, {"type": "ptp", "ipam": HOST_LOCAL}, hostname, folder=tmp_path)
    with pytest.raises(StepFailed) as failed:
        build(lab)
    assert "CNI plugin tuning failed (ADD, pod client)" in failed.value.what
    assert "code " in failed.value.cause
    assert re.search(r"kernel[./]hostname", failed.value.cause), "sid's plugins write it as a path"
    assert "CNI_COMMAND=ADD" in failed.value.remedy
    assert failed.value.key == "podNetwork.conflist.plugins.1"
    assert nothing_is_left(lab)


def test_an_unknown_plugin_is_named_with_the_folder_that_was_looked_in(name: str, tmp_path: Path) -> None:
    lab = lab_of(name, {"type": "ptpp", "ipam": HOST_LOCAL}, folder=tmp_path)
    with pytest.raises(HostLacks) as lacking:
        build(lab)
    assert lacking.value.what == f"there is no CNI plugin ptpp in {PLUGIN_DIRECTORY}"
    assert lacking.value.remedy == "type: ptp"
    assert lacking.value.key == "podNetwork.conflist.plugins.0.type"
    assert nothing_is_left(lab)


def test_a_version_that_a_plugin_does_not_speak_is_named_with_those_that_it_does(name: str, tmp_path: Path) -> None:
    lab = lab_of(name, {"type": "ptp", "ipam": HOST_LOCAL}, folder=tmp_path, version="1.1.0")
    done = process.run((f"{PLUGIN_DIRECTORY}/ptp",), timeout_s=60, environment={"CNI_COMMAND": "VERSION"})
    spoken = json.loads(done.text)["supportedVersions"]
    if "1.1.0" in spoken:
        build(lab)
        return
    with pytest.raises(UsageError) as refused:
        build(lab)
    assert refused.value.cause == f"{PLUGIN_DIRECTORY}/ptp speaks {', '.join(spoken)}"
    assert refused.value.key == "podNetwork.conflist.cniVersion"


def test_a_plugin_that_only_looks_is_called_with_what_the_specification_says(name: str, tmp_path: Path) -> None:
    """ADD, CHECK and DEL in their order, each with its environment and with the result before it."""
    for one in ("ptp", "host-local"):
        (tmp_path / one).symlink_to(Path(PLUGIN_DIRECTORY, one))
    calls = tmp_path / "calls"
    plugin = tmp_path / "looks"
    plugin.write_text(LOOKS.replace("CALLS", str(calls)), encoding="utf-8")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    lab = lab_of(
        name,
        {"type": "ptp", "ipam": HOST_LOCAL},
        {"type": "looks", "capabilities": {"portMappings": True, "bandwidth": False}, "at": "{{.PodCIDR}}"},
        folder=tmp_path,
        pluginDirectory=str(tmp_path),
        runtimeConfig={"server": {"portMappings": [{"hostPort": 1}]}},
    )
    build(lab)
    PROVIDER.teardown(lab.name)
    said = [json.loads(line) for line in calls.read_text().splitlines()]
    commands = [call["environment"]["CNI_COMMAND"] for call in said]
    assert commands == ["ADD"] * 3 + ["CHECK"] * 3 + ["DEL"] * 3, "pods at the same time, a pod's plugins in turn"
    for call in said:
        document, environment = call["stdin"], call["environment"]
        container = environment["CNI_CONTAINERID"]
        assert environment["CNI_NETNS"] == f"/run/netns/{container}"
        assert (environment["CNI_IFNAME"], environment["CNI_PATH"]) == ("eth0", str(tmp_path))
        assert set(environment["CNI_ARGS"].split(";")) >= {"IgnoreUnknown=1", "K8S_POD_NAMESPACE=default"}
        assert {"lo", "eth0"} < set(call["devices"]), "it runs in the node's namespace, beside the pod's wire"
        assert document["cniVersion"] == "1.0.0"
        assert document["name"] == "chain"
        assert document["prevResult"]["ips"][0]["address"].endswith("/24")
        assert ("runtimeConfig" in document) is container.endswith(".server")
    assert nothing_is_left(lab)


def test_plugins_of_different_pods_run_at_the_same_time(name: str, tmp_path: Path) -> None:
    """One that goes on only when it is run for three pods at once, as a container runtime may run it."""
    for one in ("ptp", "host-local"):
        (tmp_path / one).symlink_to(Path(PLUGIN_DIRECTORY, one))
    plugin, here = tmp_path / "meets", tmp_path / "here"
    here.mkdir()
    plugin.write_text(MEETS.replace("HERE", str(here)), encoding="utf-8")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    chain = ({"type": "ptp", "ipam": HOST_LOCAL}, {"type": "meets"})
    lab = lab_of(name, *chain, folder=tmp_path, pluginDirectory=str(tmp_path))
    assert len(lab.pods) == 3
    build(lab)
    PROVIDER.teardown(lab.name)
    assert sorted(path.name for path in here.iterdir()) == sorted(
        f"{c}-{n}" for c in ("ADD", "CHECK", "DEL") for n in "012"
    )
    assert nothing_is_left(lab)


def test_a_pod_whose_node_came_back_empty_is_attached_again(name: str) -> None:
    lab = resolve(load_scenario("cni-chain", start=CHECKOUT), name=name)
    build(lab)
    power.stop(lab, "node1")
    power.start(lab, "node1")
    (running,) = PROVIDER.discover(lab.name)
    assert running.is_whole, running.missing
    assert all(not one.missing for one in attached(lab.name))


def test_a_device_that_a_plugin_answered_with_and_that_is_gone_is_missed(name: str) -> None:
    lab = resolve(load_scenario("cni-chain", start=CHECKOUT), name=name)
    build(lab)
    of_client = next(one for one in attached(lab.name) if one.pod == "client")
    assert of_client.device is not None
    buckets = next(one for one in of_client.says.split(",") if "bwp" in one).split()[0]
    done = process.run(("ip", "-n", f"labctl.{lab.name}.node1", "link", "delete", buckets), timeout_s=60)
    assert done.returncode == 0, done.error_text
    (running,) = PROVIDER.discover(lab.name)
    assert running.missing == ("node1: attachment of client",)
    now = next(one for one in attached(lab.name, ask=True) if one.pod == "client")
    assert now.missing == (buckets,)
    assert any("bandwidth refuses" in one for one in now.refused)
