"""What a support archive takes from machines over real sshds: all of one that is there, why of one that is not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeadm_farm import PASSWORD, USER, Farm, let_user_in, two_machines
from kubeadm_labs import make_lab
from labctl.engine.support import Limits, collected
from labctl.model.lab import Lab
from labctl.providers.cilium.commands import write_private
from labctl.providers.kubeadm.execute import state_text
from labctl.providers.kubeadm.machines import site_machines
from labctl.providers.kubeadm.provider import KubeadmProvider
from labctl.providers.kubeadm.support import LOGIN_S

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    for grown in two_machines(tmp_path_factory.mktemp("machines")):
        for machine in grown.machines:
            let_user_in(machine, grown.key)
            machine.run("sh", "-c", f"echo 127.0.1.1 {machine.name} >>/etc/hosts")  # or sudo waits for a name server
            machine.write("/etc/containerd/config.toml", f'[auth]\n  password = "hunter2"\n  note = "{PASSWORD}"\n')
        yield grown


def lab_on(grown: Farm, folder: Path) -> Lab:
    password = folder / "password"
    password.write_text(PASSWORD + "\n")
    password.chmod(0o600)
    mine = {"user": USER, "sudoPasswordFile": str(password)}
    return make_lab(hosts=[host | mine for host in grown.hosts()], nodes=2, kubeadm={"offline": True})


def archive(provider: KubeadmProvider, name: str) -> dict[str, str]:
    with provider.evidenced(name, None) as shown:
        return {one.file: one.text for one in collected(shown.exhibits, shown.secrets, Limits())}


def recorded(grown: Farm, folder: Path) -> tuple[KubeadmProvider, Lab]:
    provider, lab = KubeadmProvider(root=folder / "state"), lab_on(grown, folder)
    settings = provider.settings(lab)
    write_private(settings.files.state, state_text(settings, "Debian"))
    write_private(settings.files.kubeconfig, json.dumps({"users": [{"user": {"token": "t0k3nt0k3n"}}]}))
    return provider, lab


def test_each_machine_is_read_as_root_and_its_passwords_are_gone(machines: Farm, tmp_path: Path) -> None:
    provider, lab = recorded(machines, tmp_path)
    found = archive(provider, lab.name)
    for node in ("node1", "node2"):
        assert "127.0.0.1" in found[f"nodes/{node}/addresses.txt"]
        assert "password = " in found[f"nodes/{node}/containerd-config.txt"]
        assert "etcd does not like the disk" in found[f"nodes/{node}/kubelet.txt"]
    everything = "".join(found.values())
    for secret in (PASSWORD, "hunter2", "t0k3nt0k3n"):
        assert secret not in everything
    assert "kubeconfig" not in "".join(found)
    assert json.loads(found["state/machines.json"])["lab"] == lab.name


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["silent", "drop"])
def test_a_machine_that_is_gone_costs_one_attempt_of_seconds_and_is_one_part_of_the_list(
    way: str, machines: Farm, tmp_path: Path
) -> None:
    """Where it takes the connection and says nothing, as where it hangs up."""
    provider, lab = recorded(machines, tmp_path)
    gone = machines.machines[1]
    getattr(gone, way).set()
    tried, begun_s = gone.connections, time.monotonic()
    try:
        with provider.evidenced(lab.name, None) as shown:
            found = {one.file: one.text for one in collected(shown.exhibits, shown.secrets, Limits())}
            assert shown.unopened is not None
    finally:
        getattr(gone, way).clear()
    assert gone.connections == tried + 1
    assert time.monotonic() - begun_s < LOGIN_S + 30.0
    assert "127.0.0.1" in found["nodes/node1/addresses.txt"]
    (unread,) = [text for file, text in found.items() if file.startswith("nodes/node2/")]
    assert "node2 (127.0.0.1): cannot be reached" in unread


@pytest.mark.thorough
def test_without_a_record_the_machines_are_found_by_their_mark(machines: Farm, tmp_path: Path) -> None:
    for number, machine in enumerate(machines.machines, start=1):
        machine.write("/etc/labctl/lab.json", json.dumps({"lab": "lost", "node": f"node{number}"}), 0o600)
    lab = lab_on(machines, tmp_path)
    provider = KubeadmProvider(root=tmp_path / "state", site=lambda: site_machines(lab.settings["hosts"]))
    try:
        found = archive(provider, "lost")
    finally:
        for machine in machines.machines:
            machine.run("rm", "-rf", "/etc/labctl")
    assert '"lab": "lost"' in found["nodes/node2/mark.json"]
    assert archive(provider, "nobody") == {}
