"""How a machine is reached: ssh's configuration, paths that ssh and Ansible would split, shells of all kinds."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from kubeadm_labs import make_lab
from labctl.errors import StepFailed
from labctl.model.sections import MachineRole
from labctl.providers.kubeadm.inventory import host_variables
from labctl.providers.kubeadm.machines import Machine, in_quotes, machines_of
from labctl.providers.kubeadm.runner import AnsibleRunner, socket_directory
from labctl.providers.kubeadm.ssh import MachineCommands, _unreached, command_line
from labctl.providers.kubeadm.ssh_config import Reached, argv_jump, lab_options, matches, parse_answer
from labctl.providers.kubeadm.survey import SCRIPT, parse_survey

MACHINE = Machine(node="node1", role=MachineRole.WORKER, address="node-a.lab", user="lab")


def answer(config: str, machine: Machine = MACHINE) -> str:
    """What this host's ssh says with that configuration."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(config)
        file.flush()
        argv = ("ssh", "-F", file.name, "-G", *lab_options(machine), "-l", machine.user, "--", machine.address)
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def reached(config: str, machine: Machine = MACHINE, **environment: str) -> Reached:
    return parse_answer(answer(config, machine), machine, environment=environment)


def test_a_host_entry_says_where_a_connection_goes_and_by_which_keys() -> None:
    goal = reached(
        "Host node-a.lab\n HostName 10.1.2.3\n Port 2222\n HostKeyAlias node-a\n IdentityFile /keys/a b\n"
        ' IdentityFile /keys/%h-%r-%p%%\n IdentitiesOnly yes\n UserKnownHostsFile "/keys/known hosts" /keys/more\n'
        " GlobalKnownHostsFile /dev/null\n".replace("/keys/a b", '"/keys/a b"'),
        SSH_AUTH_SOCK="/run/agent",
    )
    assert (goal.host, goal.port, goal.user, goal.key_name) == ("10.1.2.3", 2222, "lab", "node-a")
    assert goal.identities == ("/keys/a b", "/keys/10.1.2.3-lab-2222%")
    assert (goal.identities_only, goal.agent) == (True, "/run/agent")
    assert goal.known_hosts == ("/keys/known hosts", "/keys/more")
    assert (goal.through, goal.unfollowed) == ((), ())


def test_without_a_word_in_the_configuration_everything_is_as_lab_yaml_says() -> None:
    goal = reached("", SSH_AUTH_SOCK="/run/agent")
    assert (goal.host, goal.port, goal.user, goal.key_name, goal.through) == ("node-a.lab", 22, "lab", "node-a.lab", ())
    assert goal.known_hosts[-1] == "/etc/ssh/ssh_known_hosts2"
    assert all(path.startswith("/") and "/.ssh/id_" in path for path in goal.identities)


@pytest.mark.parametrize(
    ("jump", "hop"),
    [
        ("jump", ("jump",)),
        ("me@jump:2200", ("-p", "2200", "me@jump")),
        ("me@[fd00::1]:2200", ("-p", "2200", "me@fd00::1")),
        ("ssh://me@jump:2200", ("ssh://me@jump:2200",)),
        ("first,me@second", ("me@second",)),
    ],
)
def test_a_jump_host_is_reached_by_ssh_itself(jump: str, hop: tuple[str, ...]) -> None:
    argv = argv_jump(jump, "10.1.2.3", 2222)
    assert argv[argv.index("-W") + 1 :] == ("[10.1.2.3]:2222", *hop)
    assert ("-J" in argv) == ("," in jump)
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(argv)


def test_a_jump_and_a_command_of_the_configuration_are_ways_there() -> None:
    assert reached("Host *.lab\n ProxyJump jump:2200\n").through[-4:] == ("[node-a.lab]:22", "-p", "2200", "jump")
    assert reached("Host *.lab\n ProxyJump jump:2200\n").jump == "-p 2200 jump"
    command = reached("Host *.lab\n HostName x.lab\n ProxyCommand nc '%h' %p %r %n\n", SHELL="/bin/bash").through
    assert command == ("/bin/bash", "-c", "exec nc 'x.lab' 22 lab node-a.lab")
    assert reached("Host *.lab\n ProxyJump none\nHost *\n ProxyJump jump\n").through == ()


def test_what_fabric_cannot_follow_is_named_and_what_guards_a_key_is_refused() -> None:
    goal = reached("Host *\n CertificateFile /keys/c-cert.pub\n BindAddress 127.0.0.1\n AddressFamily inet\n")
    assert goal.unfollowed == ("addressfamily", "bindaddress", "certificatefile")
    with pytest.raises(StepFailed, match="cannot be reached as ssh's configuration says") as refused:
        reached("Host *\n RevokedHostKeys /etc/ssh/revoked\n")
    assert "revokedhostkeys" in refused.value.cause


@pytest.mark.parametrize("agent", ["none", "SSH_AUTH_SOCK", "/run/other agent", "${MY_AGENT}", "$MY_AGENT"])
def test_the_agent_is_the_one_that_the_configuration_names(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_AGENT", "/run/mine")  # ssh looks there itself
    goal = reached(f'Host *\n IdentityAgent "{agent}"\n', SSH_AUTH_SOCK="/run/agent", MY_AGENT="/run/mine")
    wanted = {"none": "", "SSH_AUTH_SOCK": "/run/agent", "${MY_AGENT}": "/run/mine", "$MY_AGENT": "/run/mine"}.get(
        agent, agent
    )
    assert goal.agent == wanted


@pytest.mark.parametrize(
    ("uid", "behind", "told"), [(0, "me", True), (0, "", False), (0, "root", False), (7, "me", False)]
)
def test_under_sudo_the_error_says_whose_configuration_counts(
    uid: int, behind: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", behind)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    failed = _unreached(MACHINE, reached(""), "Permission denied (publickey)", "")
    assert ("uses root's keys, known_hosts and ssh configuration, not me's" in failed.cause) is told
    assert ("# the same command without sudo" in failed.remedy) is told


PATHS = (
    "/a b/key",
    "/it's",
    '/say "x"',
    "/100%",
    "/%h",
    "/back\\slash",
    "/schlüssel/鑰匙",
    "/#x",
    "/a\tb",
    "/{{ 1 }}{%",
)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_reaches_ssh_as_it_is_by_fabric_by_ansible_and_by_hand(path: str) -> None:
    machine = replace(MACHINE, key=f"{path}-key", known_hosts=path)
    assert reached("", machine).identities == (f"{path}-key",)
    assert reached("", machine).known_hosts == (path,)
    # That Ansible makes no template of it is shown with Ansible itself (test_kubeadm_untrusted).
    by_ansible = shlex.split(host_variables(machine)["ansible_ssh_common_args"])
    by_hand = shlex.split(machine.place)[:-1]
    for options in (by_ansible, by_hand):
        done = subprocess.run(
            ("ssh", "-F", "none", "-G", *options, "x"), capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        goal = parse_answer(done, MACHINE, environment={})
        assert path in goal.known_hosts
        if options is by_ansible or "%" in path:
            assert goal.identities[0] == f"{path}-key"
        else:
            assert f"{path}-key" in options


def test_a_plain_path_stands_in_no_quotes() -> None:
    assert in_quotes("UserKnownHostsFile", "~/.ssh/known") == "UserKnownHostsFile=~/.ssh/known"


@pytest.mark.parametrize(
    ("patterns", "fits"),
    [
        (["*.lab"], True), (["?.lab"], False), (["[*.lab]:22"], False), (["*.lab", "!node-a.*"], False),
        (["NODE-A.lab"], True), (["!node-b.lab", "node-*"], True), (["!node-b.lab"], False),
    ],
)  # fmt: skip
def test_names_in_known_hosts_may_be_patterns(patterns: list[str], fits: bool) -> None:
    assert matches(patterns, "node-a.lab") is fits


def test_user_and_port_are_left_to_the_configuration_only_where_lab_yaml_is_silent() -> None:
    hosts: list[dict[str, object]] = [{"address": "a.lab"}, {"address": "b.lab", "user": "me", "port": 22}]
    silent, explicit = machines_of(make_lab(hosts=hosts, nodes=2))
    assert (silent.user, silent.port, silent.names_user, silent.names_port) == ("root", 22, False, False)
    assert (explicit.names_user, explicit.names_port) == (True, True)


# All that csh, fish, rc and locales read in another way than sh.
WORDS = ("a b", "$HOME", "`id`", "it's", "!x", "!!", "line\nbreak", "back\\slash", "two\\\\", "end\\", "ü 鑰", "", "~",
         "*", "{a,b}", "(x)", '"', "^a^b", "a=b", "%", "\t", "#", ";", "&&", "|", "<", "=ls")  # fmt: skip
SHELLS = tuple(shell for shell in ("sh", "bash", "tcsh", "fish", "rc", "zsh", "ksh") if shutil.which(shell))


def test_a_shell_that_is_not_posix_is_among_those_that_are_tried() -> None:
    assert "tcsh" in SHELLS


@pytest.mark.parametrize("shell", SHELLS)
def test_words_reach_a_program_through_every_login_shell(shell: str) -> None:
    line = command_line(("env", "LC_ALL=C"), ("printf", "%s\\000", *WORDS))
    done = subprocess.run((shell, "-c", line), capture_output=True, check=False)
    assert done.stderr == b""
    assert done.stdout.decode().split("\0")[:-1] == list(WORDS)
    failed = subprocess.run((shell, "-c", command_line((), ("sh", "-c", "\nexit 7"))), check=False)
    assert failed.returncode == 7


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell != "rc"])
def test_the_survey_is_one_word_to_every_login_shell(shell: str) -> None:
    """Even where it is quoted as for sh. rc has no double quotes, and gets it by `command_line`."""
    argv = ("env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", SCRIPT)
    done = subprocess.run((shell, "-c", shlex.join(argv)), capture_output=True, text=True, check=False)
    assert done.stderr == ""
    seen = parse_survey("node1", done.stdout)
    assert (seen.cpus > 0, bool(seen.free_byte), bool(seen.devices)) == (True, True, True)


GERMAN = {"LANG": "de_DE.UTF-8"}
SPEAKS = [GERMAN, {"LC_ALL": "zh_CN.UTF-8"}, {"LC_MESSAGES": "fr_FR.UTF-8", "LANGUAGE": "fr:es"}]


@pytest.mark.parametrize("locale", SPEAKS, ids=["German", "Chinese", "French"])
@pytest.mark.parametrize("shell", SHELLS)
def test_sudo_speaks_english_whatever_the_machine_does(shell: str, locale: dict[str, str], tmp_path: Path) -> None:
    """By Fabric, with a password and without, and by Ansible."""
    (tmp_path / "sudo").write_text('#!/bin/sh\necho "$LC_ALL"\n')
    (tmp_path / "sudo").chmod(0o755)
    machine = Machine(node="node1", role=MachineRole.WORKER, address="10.0.0.2", user="lab")
    lines = [
        command_line(MachineCommands(machine).become(has_password=has_password), ("id",))
        for has_password in (True, False)
    ]
    lines.append(f"{host_variables(machine)['ansible_become_exe']} -n id")
    for line in lines:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **locale}
        done = subprocess.run(
            (shutil.which(shell) or shell, "-c", line), env=environment, capture_output=True, check=False
        )
        assert done.stdout == b"C\n", done.stderr


def test_plain_words_stay_readable() -> None:
    assert command_line(("sudo", "-n"), ("crictl", "ps", "a b")) == "sudo -n crictl ps 'a b'"


@pytest.mark.parametrize("name", ["averylongdirectory" * 4, "100%h", "${x}", 'a"b', "ü" * 40])
def test_sockets_of_ssh_go_where_ssh_can_bind_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / name
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with AnsibleRunner(tmp_path / "run", []) as runner:
        directory = Path(runner._environment("/usr/bin/ansible-playbook")["ANSIBLE_SSH_CONTROL_PATH_DIR"])
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(directory / ("0123456789" + "." + "r" * 16)))
        assert directory.stat().st_mode & 0o777 == 0o700
        assert place not in directory.parents
    assert not directory.exists()


def test_a_short_directory_for_temporary_files_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        directory = socket_directory()
        assert directory.parent == Path(short)


def test_where_no_socket_can_be_bound_it_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(StepFailed, match="no directory is suitable for ssh's control sockets") as failed:
        socket_directory()
    assert "/tmp: Permission denied" in failed.value.cause
