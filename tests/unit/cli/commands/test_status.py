"""`labctl status` shows a cluster's own addresses, devices and identities, not those that were planned for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kind_world import Cluster, completed, lab_of
from labctl.cli import group
from labctl.cli.commands import status
from labctl.model.lab import Lab
from labctl.providers.base import RunningLab
from labctl.providers.kind.provider import KindProvider
from labctl.report.terminal import PLANNED_ADDRESSES

OWN = ("10.244.0.187", "lxcclient", 16843, "a2:78:55:91:97:1b")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def planned(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab, provider = lab_of(tmp_path), KindProvider(commands=cluster, root=tmp_path / "state")
    kubeconfig = tmp_path / "state" / "bpf" / "kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.write_text("")
    running = RunningLab(
        name=lab.name, provider="kind", scenario=lab.scenario, digest=lab.digest, is_whole=True, lab=lab
    )
    monkeypatch.setattr(status, "find_running", lambda _: (lab, running, provider))
    return lab


@pytest.mark.parametrize("flags", [["--no-proof"], ["--datapath"]])
def test_the_document_has_the_clusters_own(flags: list[str], planned: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    group.run(["status", planned.name, *flags, "--json"])
    told = json.loads(capsys.readouterr().out)
    client = next(pod for pod in told["pods"] if pod["name"] == "client")
    assert (client["address"], client["lxc"], client["identity"], client["lxcMac"]) == OWN
    node = next(one for one in told["nodes"] if one["name"] == "node1")
    assert (node["address"], node["podCIDR"], node["router"]) == ("172.18.0.3", "10.244.3.0/24", "10.244.3.53")
    assert told["addressesFrom"] == "lab"
    assert str(planned.pod("client").address) not in json.dumps(told)


def test_the_page_has_the_clusters_own(planned: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    group.run(["status", planned.name, "--no-proof"])
    page = capsys.readouterr().out
    assert all(str(own) in page for own in OWN[:3])
    assert planned.pod("client").lxc not in page
    assert PLANNED_ADDRESSES not in page


def test_without_the_cluster_the_plan_is_shown_and_said_to_be_one(
    planned: Lab, cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = "The connection to the server 127.0.0.1:1 was refused"
    monkeypatch.setattr(cluster, "run", lambda argv, **_: completed(argv, err=refused, code=1))
    assert group.run(["status", planned.name, "--no-proof"]) == 0
    page = capsys.readouterr().out
    assert PLANNED_ADDRESSES.split(":")[0] in page
    assert planned.pod("client").lxc in page
    group.run(["status", planned.name, "--no-proof", "--json"])
    assert json.loads(capsys.readouterr().out)["addressesFrom"] == "plan"
