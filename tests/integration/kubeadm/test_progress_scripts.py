"""How far a control plane is, and which images are pulled: asked of the machine, by the playbooks' own scripts."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

FILES = Path(__file__).parents[3] / "playbooks" / "files"
CRICTL = """#!/bin/sh
echo "$*" >>"$STATE/said"
for last; do :; done
case "$*" in
*" inspecti -q "*) grep -qxF "$last" "$STATE/there" ;;
*" pull "*)
    if [ -e "$STATE/cut" ]; then rm "$STATE/cut"; echo "read tcp: connection reset by peer" >&2; exit 1; fi
    if [ "$last" = "$(cat "$STATE/lost")" ]; then
        echo "FATA[0001] pulling image: failed to resolve reference $last: not found" >&2; exit 1
    fi
    echo "$last" >>"$STATE/there" ;;
esac
"""
KUBEADM = """#!/bin/sh
for one in kube-apiserver:v1 kube-proxy:v1 etcd:3 pause:3; do echo "r.io/$one"; done
"""
KUBECTL = """#!/bin/sh
case "$*" in
*"--raw /readyz") [ -e "$STATE/answers" ] ;;
*"get service kube-dns") [ -e "$STATE/dns" ] ;;
esac
"""


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (("crictl", CRICTL), ("kubeadm", KUBEADM), ("kubectl", KUBECTL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        for name in ("there", "said", "lost"):
            (folder / name).write_text("")

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        world = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "STATE": str(self.folder)}
        argv = ("sh", "-c", script, "script", *words)
        return subprocess.run(argv, env=world, capture_output=True, text=True, check=False, timeout=60)

    def pull(self) -> subprocess.CompletedProcess[str]:
        return self.run((FILES / "pull-images.sh").read_text(), "unix:///run/containerd/containerd.sock")

    def pulls(self) -> list[str]:
        said = (self.folder / "said").read_text().splitlines()
        return [line.split()[-1] for line in said if " pull " in line]

    def how_far(self, wait_s: int = 0) -> list[str]:
        """With /etc/kubernetes in the folder of the test."""
        script = (FILES / "control-plane-is.sh").read_text().replace("/etc/kubernetes", f"{self.folder}/kubernetes")
        done = self.run(script, str(wait_s))
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def has(self, *files: str) -> None:
        for file in files:
            path = self.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_the_machine_lacks_is_pulled_and_nothing_else(machine: Machine) -> None:
    (machine.folder / "there").write_text("r.io/etcd:3\n")
    done = machine.pull()
    assert (done.returncode, done.stdout) == (0, "pulled r.io/kube-apiserver:v1 r.io/pause:3\n")
    assert machine.pulls() == ["r.io/kube-apiserver:v1", "r.io/pause:3"]  # no kube-proxy
    assert (machine.pull().stdout, len(machine.pulls())) == ("", 2)


def test_the_first_that_cannot_be_pulled_ends_it_at_once_with_the_registrys_words(machine: Machine) -> None:
    (machine.folder / "lost").write_text("r.io/kube-apiserver:v1")
    done = machine.pull()
    assert done.returncode == 1
    assert "labctl: cannot pull r.io/kube-apiserver:v1" in done.stderr
    assert "failed to resolve reference r.io/kube-apiserver:v1: not found" in done.stderr
    assert machine.pulls() == ["r.io/kube-apiserver:v1"]  # once, and not five times


def test_a_connection_that_was_cut_is_tried_once_more(machine: Machine) -> None:
    (machine.folder / "cut").touch()
    assert machine.pull().returncode == 0
    assert machine.pulls() == ["r.io/kube-apiserver:v1", "r.io/kube-apiserver:v1", "r.io/etcd:3", "r.io/pause:3"]


MANIFEST, ADMIN, KUBELET = (
    "kubernetes/manifests/kube-apiserver.yaml", "kubernetes/admin.conf", "kubernetes/kubelet.conf",
)  # fmt: skip


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ((), []),
        ((ADMIN, KUBELET, "answers", "dns"), []),
        ((MANIFEST,), ["begun"]),
        ((MANIFEST, ADMIN, "answers", "dns"), ["begun"]),
        ((MANIFEST, ADMIN, KUBELET, "dns"), ["begun"]),
        ((MANIFEST, ADMIN, KUBELET, "answers"), ["begun"]),
        ((MANIFEST, ADMIN, KUBELET, "answers", "dns"), ["begun", "whole"]),
    ],
)
def test_a_control_plane_is_whole_when_it_answers_and_has_what_kubeadm_makes_last(
    there: tuple[str, ...], said: list[str], machine: Machine
) -> None:
    machine.has(*there, "labctl/initialised")
    assert machine.how_far() == said


def test_an_api_server_that_boots_is_waited_for(machine: Machine) -> None:
    machine.has(MANIFEST, ADMIN, KUBELET, "dns")
    booting = threading.Timer(1.0, (machine.folder / "answers").touch)
    booting.start()
    assert machine.how_far(30) == ["begun", "whole"]
    booting.join()
