"""Which files lab.yaml may name: a password is sent, and host keys vouch, only from the person's own folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kubeadm_labs import make_lab
from labctl.errors import LabError, StepFailed, UsageError
from labctl.model.sections import Kubeadm, MachineRole
from labctl.providers.kubeadm import ssh
from labctl.providers.kubeadm.machines import Machine, site_machines
from labctl.providers.kubeadm.own_files import require_own, require_packages, require_places, sudo_password
from labctl.providers.kubeadm.provider import KubeadmProvider
from labctl.providers.kubeadm.runner import AnsibleRunner
from labctl.system import files


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The person's home, with the two folders."""
    made = tmp_path / "home"
    (made / ".config" / "labctl").mkdir(parents=True)
    (made / ".ssh").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return made


def machine(*, password: str = "", known_hosts: str = "", user: str = "debian") -> Machine:
    return Machine(
        node="node1", role=MachineRole.CONTROL_PLANE, address="192.0.2.1", user=user, sudo_password_file=password,
        known_hosts=known_hosts,
    )  # fmt: skip


def write(path: Path, text: str = "secret\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_password_in_the_persons_folder_is_read(home: Path) -> None:
    write(home / ".config" / "labctl" / "sudo", "secret\r\n")
    assert sudo_password(machine(password="~/.config/labctl/sudo")) == b"secret\n"
    assert sudo_password(machine(password="~/.config/labctl/sudo", user="root")) == b""
    assert sudo_password(machine()) == b""


def test_the_folder_is_where_xdg_says(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "labctl").mkdir(parents=True)
    file = write(tmp_path / "config" / "labctl" / "sudo")
    assert sudo_password(machine(password=str(file))) == b"secret\n"


ELSEWHERE = (
    "~/.netrc",
    "~/.ssh/id_ed25519",
    "~/.config/labctl/../../.netrc",
    "~/.config/labctl",
    "~/.config/labctl-other/sudo",
    "/etc/machine-id",
    "/proc/self/environ",
    "sudo-password",
)


@pytest.mark.parametrize("path", ELSEWHERE)
def test_no_other_file_is_sent_whatever_its_mode(path: str, home: Path) -> None:
    write(home / ".netrc")
    write(home / ".ssh" / "id_ed25519")
    led = machine(password=path)
    for refused in (lambda: require_places([led]), lambda: sudo_password(led), lambda: require_own(led)):
        with pytest.raises(UsageError, match="cannot be its sudoPasswordFile") as failed:
            refused()
        assert "secret" not in "".join(failed.value.lines())
        assert failed.value.exit_code == 2


@pytest.mark.parametrize(
    "path", ["known_hosts", "./keys", "/srv/clone/known_hosts", "~/clone/known_hosts", "~/.ssh/../clone/known_hosts"]
)
def test_host_keys_do_not_come_from_elsewhere(path: str, home: Path) -> None:
    with pytest.raises(UsageError, match="cannot be its knownHosts"):
        require_own(machine(known_hosts=path))


@pytest.mark.parametrize("path", ["~/.ssh/known_hosts", "~/.ssh/labs/keys", "~/.config/labctl/keys", "/etc/ssh/x"])
def test_host_keys_of_the_person_are_used(path: str, home: Path) -> None:
    require_own(machine(known_hosts=path))


def test_host_keys_that_another_user_could_have_written_are_not_used(home: Path) -> None:
    write(home / ".ssh" / "known_hosts", mode=0o666)
    with pytest.raises(StepFailed, match="could have been written by another user"):
        require_own(machine(known_hosts="~/.ssh/known_hosts"))


def _link(path: Path) -> None:
    write(path.with_name("target"))
    path.symlink_to("target")


MADE_BADLY: dict[str, tuple[Callable[[Path], object], str]] = {
    "of two lines": (lambda path: write(path, "one\ntwo\n"), "one line"),
    "empty": (lambda path: write(path, ""), "one line"),
    "an empty line": (lambda path: write(path, "\n"), "one line"),
    "with a zero byte": (lambda path: write(path, "a\0b\n"), "one line"),
    "long": (lambda path: write(path, "x" * 2000), "larger"),
    "readable by others": (lambda path: write(path, mode=0o644), "chmod 600"),
    "readable by a group": (lambda path: write(path, mode=0o640), "chmod 600"),
    "a link": (_link, "symbolic link"),
    "a pipe": (lambda path: os.mkfifo(path, 0o600), "not a regular file"),
    "a folder": (lambda path: path.mkdir(mode=0o700), "directory"),
    "missing": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("name", MADE_BADLY)
def test_a_password_file_is_a_regular_file_of_one_line_that_only_the_person_reads(name: str, home: Path) -> None:
    make, said = MADE_BADLY[name]
    make(home / ".config" / "labctl" / "sudo")
    with pytest.raises(StepFailed) as failed:
        sudo_password(machine(password="~/.config/labctl/sudo"))
    assert said in "\n".join(failed.value.lines())


def test_a_password_file_of_another_user_is_not_sent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".config" / "labctl" / "sudo")
    monkeypatch.setattr(files, "trusted_users", lambda: frozenset({12345}))
    with pytest.raises(StepFailed, match="cannot read the sudo password") as failed:
        sudo_password(machine(password="~/.config/labctl/sudo"))
    assert "it belongs to user" in failed.value.cause


@pytest.mark.parametrize("led", [{"password": "~/.netrc"}, {"known_hosts": "known_hosts"}], ids=str)
def test_no_door_to_a_machine_uses_such_files(
    led: dict[str, str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / ".netrc")

    def connected(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr("socket.create_connection", connected)
    monkeypatch.setattr(ssh, "_piped", connected)
    with pytest.raises(UsageError):
        ssh.MachineCommands(machine(**led)).run(("true",), timeout_s=1)
    with pytest.raises(UsageError):
        AnsibleRunner(tmp_path / "run", [machine(**led)])


@pytest.mark.parametrize("key", ["sudoPasswordFile", "knownHosts"])
def test_a_plan_says_so_before_anything_is_done(key: str, home: Path, tmp_path: Path) -> None:
    host = {"address": "192.0.2.1", "user": "debian", "port": 22, key: "/srv/file"}
    lab, provider = make_lab(hosts=[host], nodes=1), KubeadmProvider(tmp_path)
    with pytest.raises(LabError, match=f"cannot be its {key}"):
        provider.plan(lab)
    with pytest.raises(LabError, match=f"cannot be its {key}"):  # what `validate` asks
        provider.refuse(lab)
    forgetful = KubeadmProvider(tmp_path, site=lambda: site_machines([host]))
    with pytest.raises(UsageError, match=f"cannot be its {key}"):  # what `down --machines` asks
        forgetful.seek("forgotten")


# ---- what is copied to machines


def kubeadm(**given: object) -> Kubeadm:
    return Kubeadm.model_validate_json(json.dumps(given))


def test_a_folder_of_packages_may_be_sent(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"!<arch>\ndebian-binary")
    (tmp_path / "b.rpm").write_bytes(b"\xed\xab\xee\xdb\x03\x00")
    require_packages(kubeadm(packages={"source": "bundle", "bundle": str(tmp_path)}))
    require_packages(kubeadm(packages={"source": "auto", "bundle": "/root"}))


def _secret(path: Path) -> None:
    path.write_text("secret\n")


NO_PACKAGES: dict[str, Callable[[Path], object]] = {
    "a secret beside": lambda folder: _secret(folder / "id_ed25519"),
    "a secret by the name of a package": lambda folder: _secret(folder / "shadow.deb"),
    "a link by the name of a package": lambda folder: (folder / "b.deb").symlink_to("/etc/machine-id"),
    "a folder": lambda folder: (folder / "deeper.deb").mkdir(),
    "a pipe": lambda folder: os.mkfifo(folder / "pipe.deb"),
    "nothing": lambda folder: (folder / "a.deb").unlink(),
    "not even a folder": shutil.rmtree,
}


@pytest.mark.parametrize("name", NO_PACKAGES)
def test_a_folder_with_anything_else_is_not_sent(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "a.deb").write_bytes(b"!<arch>\ndebian-binary")
    NO_PACKAGES[name](folder)
    with pytest.raises(UsageError, match=r"cannot be packages\.bundle"):
        require_packages(kubeadm(packages={"source": "bundle", "bundle": str(folder)}))


@pytest.mark.parametrize(
    "given",
    [
        {"images": {"archives": ["/etc/passwd"]}},
        {"images": {"archives": ["/proc/self/environ"]}},
        {"images": {"archives": ["~/.netrc"]}},
        {"packages": {"source": "bundle", "bundle": "/etc"}},
    ],
    ids=str,
)
def test_no_other_file_of_this_host_is_sent_and_no_machine_is_connected_to(
    given: dict[str, object], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / ".netrc")

    def connected(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(ssh, "connect", connected)
    host = {"address": "192.0.2.1", "user": "root", "port": 22}
    provider = KubeadmProvider(tmp_path)
    lab = make_lab(hosts=[host], nodes=1, kubeadm=given)
    survey = next(action for step in provider.plan(lab).steps for action in step.actions)
    with provider.executor(lab) as executor, pytest.raises(UsageError, match=r"is not an image archive|cannot be pack"):
        executor.execute([survey])
