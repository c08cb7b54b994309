"""The state folders of labs on real Cilium: the person's alone, and of labs' own names alone.

Commands as a person pastes them on this host, wherever they run.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from labctl.errors import StepFailed, UsageError
from labctl.planning.record import digest_of, lab_to_json
from labctl.providers.cilium.commands import Commands, LabFiles, pasted, read_state, with_kubeconfig, write_private
from labctl.providers.cilium.settings import read_record
from labctl.providers.kind.provider import KindProvider
from labctl.providers.kubeadm.provider import KubeadmProvider
from labctl.providers.kubeadm.runner import AnsibleRunner
from labctl.testing.labs import example_lab

NAMES = ["../outside", "..", "/etc", "a/b", "", "logs", "bundles", "-rf", "x" * 60]


@pytest.fixture(params=[0, 0o002, 0o077], ids=lambda mask: f"umask {mask:03o}")
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def assert_private(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has mode {mode:04o}"


@pytest.mark.usefixtures("_umask")
def test_state_is_private_whatever_the_umask(tmp_path: Path) -> None:
    files = LabFiles.of(tmp_path / "state" / "kind", "mylab")
    for path in (files.kubeconfig, files.values, files.rendered, files.record, files.charts / "x", files.logs / "y"):
        write_private(path, "text\n")
    assert_private(tmp_path / "state")


@pytest.mark.usefixtures("_umask")
def test_what_ansible_is_told_is_private_whatever_the_umask(tmp_path: Path) -> None:
    with AnsibleRunner(tmp_path / "state" / "logs" / "mylab", ()) as runner:
        runner._prepare("prepare", {"all": {}}, {"labctl": {}})
    assert_private(tmp_path / "state")


def test_state_belongs_to_the_person_behind_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1235")
    write_private(tmp_path / "state" / "kind" / "mylab" / "kubeconfig", "text\n")
    for path in (tmp_path / "state", *(tmp_path / "state").rglob("*")):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (1234, 1235), path


def test_a_folder_that_another_user_may_write_is_not_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "mylab"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StepFailed, match="cannot write") as refused:
        write_private(folder / "kubeconfig", "text\n")
    assert "every user may write to it" in refused.value.cause
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("linked", ["mylab", "mylab/kubeconfig"])
def test_a_link_in_the_state_is_not_written_through(tmp_path: Path, linked: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kubeconfig").write_text("not yours\n")
    (tmp_path / linked).parent.mkdir(exist_ok=True)
    (tmp_path / linked).symlink_to(tmp_path / "outside" / Path(linked).relative_to("mylab"))
    with pytest.raises(StepFailed, match="cannot write"):
        write_private(tmp_path / "mylab" / "kubeconfig", "text\n")
    assert (tmp_path / "outside" / "kubeconfig").read_text() == "not yours\n"


def test_a_record_that_another_user_may_write_is_not_trusted(tmp_path: Path) -> None:
    lab = replace(example_lab(), provider="kind")
    path = tmp_path / "mylab" / "lab.json"
    write_private(path, json.dumps(lab_to_json(replace(lab, digest=digest_of(lab)))))
    assert read_record(path) is not None
    path.chmod(0o666)
    assert read_record(path) is None
    assert read_state(path) is None
    path.chmod(0o600)
    path.parent.chmod(0o777)
    assert read_record(path) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_a_path_leads_to_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    root = tmp_path / "state"
    for other in ("logs", "bundles"):
        (root / other / "of-another-lab").mkdir(parents=True)
    for act in (
        lambda: LabFiles.of(root, name),
        lambda: KindProvider(root=root).teardown(name),
        lambda: KubeadmProvider(root=root).teardown(name),
    ):
        with pytest.raises(UsageError, match="is not a valid lab name"):
            act()
    assert (tmp_path / "outside").is_dir()
    assert all((root / other / "of-another-lab").is_dir() for other in ("logs", "bundles"))


def test_removing_a_lab_takes_its_folder_and_nothing_that_a_link_in_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("x")
    files = LabFiles.of(tmp_path, "mylab")
    files.folder.mkdir()
    (files.folder / "link").symlink_to(tmp_path / "outside")
    files.logs.mkdir(parents=True)
    files.remove()
    assert not files.folder.exists()
    assert files.logs.is_dir()
    assert (tmp_path / "outside" / "file").exists()


SSH = ("ssh", "-p", "2222", "lab@10.0.0.1", "sudo")


class Place:
    prefix = SSH


def here(prefix: tuple[str, ...] = ()) -> Commands:
    place: Any = Place()
    place.prefix = prefix
    return cast(Commands, place)


@pytest.mark.parametrize(
    ("prefix", "argv", "text"),
    [
        ((), ("kubectl", "get", "pods"), "kubectl get pods"),
        ((), ("sh", "-c", "a b"), "sh -c 'a b'"),
        (SSH, ("kubectl", "get", "pods"), "ssh -p 2222 lab@10.0.0.1 sudo kubectl get pods"),
        (SSH, ("sh", "-c", "a $b"), """ssh -p 2222 lab@10.0.0.1 sudo 'sh -c '"'"'a $b'"'"''"""),
    ],
    ids=["here", "here, quoted", "there", "there, for two shells"],
)
def test_a_command_can_be_pasted(prefix: tuple[str, ...], argv: tuple[str, ...], text: str) -> None:
    assert pasted(prefix, argv) == text


def test_a_bare_kubectl_gets_the_cluster() -> None:
    kubectl = ("kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf")
    assert with_kubeconfig("kubectl -n kube-system logs ds/cilium", here(SSH), kubectl) == (
        "ssh -p 2222 lab@10.0.0.1 sudo kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system logs ds/cilium"
    )
    assert with_kubeconfig("--set datapath.hostRouting=bpf", here(SSH), kubectl) == "--set datapath.hostRouting=bpf"
