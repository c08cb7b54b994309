"""The files that people read and edit: the playbooks read by ansible-lint, the Vagrantfile by Vagrant."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.loading import load_scenario
from labctl.model.sections import Kubeadm, Vagrant
from labctl.planning.resolve import resolve
from labctl.providers.kubeadm.machines import vagrant_machines

ROOT = Path(__file__).resolve().parents[3]


def beside_python(name: str) -> str:
    found = Path(sys.executable).with_name(name)
    path = str(found) if found.exists() else shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not on this host: pip install ansible-core ansible-lint")
    return path


def quiet(*argv: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "ignore", **more}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)


def test_the_playbooks_pass_ansible_lint_at_its_strictest(tmp_path: Path) -> None:
    lint = beside_python("ansible-lint")
    shutil.copytree(ROOT / "playbooks", tmp_path / "playbooks")
    done = quiet(lint, "--offline", "--nocolor", "--profile", "production", cwd=tmp_path / "playbooks")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_playbook_can_be_read_by_ansible() -> None:
    playbook = beside_python("ansible-playbook")
    names = sorted(path.name for path in (ROOT / "playbooks").glob("*.yml"))
    assert names == [
        "cilium.yml",
        "control-plane.yml",
        "join.yml",
        "network.yml",
        "pods.yml",
        "prepare.yml",
        "reset.yml",
        "site.yml",
    ]
    done = quiet(playbook, "--syntax-check", "-i", "localhost,", *names, cwd=ROOT / "playbooks")
    assert done.returncode == 0, done.stderr


VAGRANT_CASES = {
    "defaults": "",
    "virtualbox": "kubeadm:\n  vagrant: {provider: virtualbox, cpus: 4, network: 192.168.77.0/24}\nnodes: 2\n",
}


def vagrant(directory: Path, site: str, *argv: str, **more: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant is not on this host: apt-get install vagrant")
    shutil.copy(ROOT / "Vagrantfile", directory)
    shutil.copytree(ROOT / "scenarios", directory / "scenarios")
    (directory / "lab.yaml").write_text(f"apiVersion: labctl/v1\nkind: Site\n{site}")
    return quiet("vagrant", *argv, cwd=directory, VAGRANT_HOME=str(directory / "home"), **more)


@pytest.mark.parametrize("name", VAGRANT_CASES)
def test_vagrant_takes_the_vagrantfile(tmp_path: Path, name: str) -> None:
    done = vagrant(tmp_path, VAGRANT_CASES[name], "validate", "--ignore-provider", LABCTL_SCENARIO="bpf-native")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


def test_vagrant_says_which_scenario_is_not_there(tmp_path: Path) -> None:
    done = vagrant(tmp_path, "", "validate", "--ignore-provider", LABCTL_SCENARIO="nosuch")
    assert done.returncode != 0
    assert "there is no scenario nosuch" in done.stderr


_RECORDING = """
require 'json'
class Any
  def initialize(machine = nil) = @machine = machine
  def vm = self
  def define(name, **)
    $machines << (@machine = { 'name' => name })
    yield self
  end
  def network(kind, **keys) = @machine.update('kind' => kind, 'ip' => keys[:ip], 'netmask' => keys[:netmask])
  def provider(name)
    @machine['provider'] = name
    yield self
  end
  def hostname=(name)
    @machine['hostname'] = name
  end
  def method_missing(name, *values, **)
    @machine[name.to_s.delete_suffix('=')] = values.first if @machine && name.to_s.end_with?('=')
    self
  end
  def respond_to_missing?(*) = true
end
module Vagrant
  def self.configure(_) = yield(Any.new)
end
$machines = []
load ARGV[0]
puts JSON.generate($machines)
"""


@pytest.mark.parametrize("scenario", sorted(path.stem for path in (ROOT / "scenarios").glob("*.yaml")))
def test_the_vagrantfile_makes_the_machines_that_labctl_goes_to(tmp_path: Path, scenario: str) -> None:
    """Both count addresses by themselves: names, addresses and memory of every scenario, as Ruby itself reads them."""
    if shutil.which("ruby") is None:
        pytest.skip("ruby is not on this host: apt-get install vagrant")
    site = "kubeadm: {machines: vagrant, vagrant: {network: 192.168.77.0/24, memoryMb: 3000}}\n"
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    shutil.copy(ROOT / "Vagrantfile", tmp_path)
    (tmp_path / "lab.yaml").write_text(f"apiVersion: labctl/v1\nkind: Site\n{site}")
    (tmp_path / "record.rb").write_text(_RECORDING)
    nodes = [node.name for node in resolve(load_scenario(scenario, start=tmp_path)).nodes]
    ruby = shutil.which("ruby") or "ruby"
    done = quiet(ruby, "record.rb", "./Vagrantfile", cwd=tmp_path, LABCTL_SCENARIO=scenario, LABCTL_LAB="mine")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    wanted = vagrant_machines("mine", nodes, Kubeadm(vagrant=Vagrant(network="192.168.77.0/24", memoryMb=3000)))
    assert [(one["name"], one["ip"]) for one in made] == [(machine.node, machine.address) for machine in wanted]
    assert {one["netmask"] for one in made} == {"255.255.255.0"}
    assert [one["memory"] for one in made][1:] == [3000] * (len(made) - 1)
