"""The provider kubeadm on three machines with a real Kubernetes 1.20.2, as a person uses it: make test-machines.

What is real: systemd, sshd with MaxSessions 10, containerd, kubeadm, the kubelet, Ansible, SSH, eBPF. What stands in:
Cilium (rig/standin), whose images cannot be had; every result that rests on it is labelled so by the agent's version.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rig_engine
import rig_images
import rig_machines
import rig_place
from rig_links import Links
from rig_snapshot import differences, snapshot

from live_acts import TAPS, VXLAN, Live, write_scenarios
from live_results import all_tried, new_column, recorded

HERE = Path(__file__).resolve().parent
pytestmark = [
    pytest.mark.root,
    pytest.mark.needs_machines,
    pytest.mark.skipif(
        os.environ.get("LABCTL_TEST_MACHINES") != "1", reason="machines are made by: make test-machines"
    ),
]
ROOT = HERE.parents[1]
CHART = HERE.parent / "rig" / "standin" / "chart"
NAME = "rigged"
ABOUT = (
    "three systemd machines in containers (sshd with MaxSessions 10), Kubernetes 1.20.2 by kubeadm, containerd 1.6; "
    "**a stand-in takes Cilium's place**: labctl's own eBPF objects behind a CNI plugin, an agent that answers as "
    "Cilium 1.13 does, and a chart with its values. Ctrl-C was pressed in the phases 1, 3 and 5 of 7."
)
_SHARED = ("pause", "tools", "cilium-stand-in", "operator-stand-in")


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[rig_machines.RigMachine, ...]]:
    if reason := rig_place.why_not():
        pytest.skip(reason)
    rig_place.build()
    try:
        rig_engine.start()
        made = rig_machines.start()
        _load_images(made)
        yield made
    finally:
        if not os.environ.get("LABCTL_RIG_KEEP"):
            rig_engine.clear()


def _load_images(machines: tuple[rig_machines.RigMachine, ...]) -> None:
    """As on machines whose images were loaded beforehand; only the operator's comes by labctl, as an archive."""
    every = (*rig_images.images(), *rig_images.stand_ins())
    shared = [image for image in every if any(part in image.name for part in _SHARED)]
    control = [image for image in every if image not in shared]
    archives = [
        rig_images.write_archive(
            [one for one in shared if one.name != rig_images.OPERATOR], rig_place.RUN / "shared.tar"
        ),
        rig_images.write_archive(control, rig_place.RUN / "control.tar"),
    ]
    rig_images.write_archive([one for one in shared if one.name == rig_images.OPERATOR], rig_place.RUN / "operator.tar")

    there = "/var/lib/labctl/images.tar"

    def load(one: rig_machines.RigMachine) -> None:
        for archive in archives if one.node == "node1" else archives[:1]:
            rig_machines.copy_in(one, archive, there)
            one.shell(f"ctr --namespace k8s.io images import {there} && rm {there}", timeout_s=600)
        one.shell("rmdir /var/lib/labctl 2>/dev/null || true")

    with ThreadPoolExecutor(max_workers=len(machines)) as pool:
        list(pool.map(load, machines))


def _write_project(folder: Path, links: Links) -> dict[str, str]:
    """A folder with lab.yaml and scenarios for these machines; the environment that labctl runs in there."""
    config = folder / "config" / "labctl"
    config.mkdir(parents=True, mode=0o700)
    known = config / "known_hosts"
    keys = [line.split(maxsplit=1)[1] for line in rig_machines.KNOWN_HOSTS.read_text().splitlines()]
    known.write_text("".join(f"[127.0.0.1]:{link.port} {key}\n" for link, key in zip(links.links, keys, strict=True)))
    known.chmod(0o600)
    hosts = "".join(
        f"  - {{ address: 127.0.0.1, port: {link.port}, user: root, key: {rig_machines.KEY}, knownHosts: {known}, "
        f"nodeAddress: {link.machine.address} }}\n"
        for link in links.links
    )
    (folder / "lab.yaml").write_text(
        f"""apiVersion: labctl/v1
kind: Site
provider: kubeadm
hosts:
{hosts}network: {{ serviceCIDR: 10.96.0.0/12 }}
kubeadm:
  kubernetes: "{rig_place.KUBERNETES}"
  offline: true
  toolsImage: {rig_images.TOOLS}
  images: {{ archives: [{rig_place.RUN / "operator.tar"}] }}
  kernelChecks: false
  ignorePreflightErrors: [Swap, SystemVerification]
cilium:
  version: "1.13.12"
  chart: {CHART}
  image: {rig_images.AGENT}
  operatorImage: {rig_images.OPERATOR}
"""
    )
    write_scenarios(folder, VXLAN)
    return {
        "XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONPATH": str(ROOT / "src"),
        "PATH": f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip


def _strays(machines: tuple[rig_machines.RigMachine, ...]) -> list[str]:
    """Programs of labctl on the machines, by the mark in their environment."""
    look = "grep -slaz '^LABCTL_OWNER=' /proc/[0-9]*/environ | cut -d/ -f3 | xargs -r ps -o args= -p"
    return [f"{one.name}: {line}" for one in machines for line in one.shell(look, check=False).splitlines()]


@contextlib.contextmanager
def _stopped(one: rig_machines.RigMachine) -> Iterator[None]:
    one.run("systemctl", "stop", "containerd")
    try:
        yield
    finally:
        one.run("systemctl", "start", "containerd")
        deadline = time.monotonic() + 60
        while "true" not in one.shell("crictl info >/dev/null 2>&1 && echo true", check=False):
            assert time.monotonic() < deadline, "containerd does not come back"
            time.sleep(0.5)


def test_the_whole_life_of_a_lab_leaves_the_machines_as_they_were(
    machines: tuple[rig_machines.RigMachine, ...], tmp_path: Path
) -> None:
    if shutil.which("helm", path=f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}") is None:
        pytest.skip("helm is not here: setup/prepare.sh test builds it where Go is")
    before = {one.name: snapshot(one) for one in machines}
    column = new_column(ABOUT)
    with Links(machines) as links:
        live = Live(
            provider="kubeadm", name=NAME, scenario="legacy", other="bpf", directory=tmp_path,
            environment=_write_project(tmp_path, links), up_s=2400.0, act_s=300.0, phases=(1, 3, 5), taps=TAPS,
            without={"compare, in parallel": "three machines are one cluster"},
            sever=lambda: links.cut(0), silence=lambda: links.dead(1), slow=links.slow,
            stop_engine=lambda: _stopped(machines[1]), strays=lambda: _strays(machines),
        )  # fmt: skip
        try:
            failures = all_tried(live, column, lambda line: print(line, file=sys.stderr, flush=True))
        finally:
            for name in (NAME, f"{NAME}-s"):
                live.run("down", name, timeout_s=live.up_s)
    recorded("kubeadm", column)
    changed = [f"{one.name}: {line}" for one in machines for line in differences(before[one.name], snapshot(one))]
    assert not failures, "\n".join(failures)
    assert not changed, "the machines are not as they were:\n" + "\n".join(changed)
