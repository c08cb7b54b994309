"""Fabric against real sshds: programs, bytes, signals, sudo, host keys, clocks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeadm_farm import PASSWORD, USER, Farm, let_user_in, two_machines
from kubeadm_labs import make_lab
from labctl.errors import LabError, MeasureFailed, StepFailed, UsageError
from labctl.model.sections import Kubeadm, MachineSource
from labctl.providers.base import TargetKind
from labctl.providers.cilium.targets import Door, DoorTarget
from labctl.providers.kubeadm import own_files
from labctl.providers.kubeadm.machines import Machine, machines_of, site_machines
from labctl.providers.kubeadm.preflight import refuse_obstacles
from labctl.providers.kubeadm.probes import machine_probes
from labctl.providers.kubeadm.runner import AnsibleRunner
from labctl.providers.kubeadm.settings import read_settings
from labctl.providers.kubeadm.ssh import Fleet, MachineCommands
from labctl.providers.kubeadm.ssh_config import Reached, argv_jump
from labctl.providers.kubeadm.survey import look_at, measure, survey

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Two machines for all tests of this module."""
    yield from two_machines(tmp_path_factory.mktemp("machines"))


@pytest.fixture
def commands(machines: Farm) -> Iterator[MachineCommands]:
    opened = MachineCommands(machine(machines))
    yield opened
    opened.close()


def machine(grown: Farm, **changes: object) -> Machine:
    lab = make_lab(hosts=[grown.hosts()[0] | changes], nodes=1)
    return machines_of(lab)[0]


def target(commands: MachineCommands) -> DoorTarget:
    return DoorTarget(name="node1", kind=TargetKind.NODE, commands=commands, door=Door(closed=(), open=()))


def test_a_program_runs_on_the_machine_with_its_bytes_and_status(commands: MachineCommands) -> None:
    done = commands.run(("sh", "-c", r"printf '\000\377'; hostname >&2; exit 7"), timeout_s=60)
    assert (done.stdout, done.text and done.error_text.strip(), done.returncode) == (b"\x00\xff", "machine1", 7)


def test_words_with_shell_characters_arrive_as_they_are(commands: MachineCommands) -> None:
    words = ("a b", "$HOME", "`id`", "x;reboot", "quote'", "line\nbreak")
    assert commands.run(("printf", r"%s\n", *words), timeout_s=60).text == "".join(f"{word}\n" for word in words)


def test_standard_input_is_fed_and_large_output_is_whole(commands: MachineCommands) -> None:
    data = bytes(range(256)) * 8192
    assert commands.run(("cat",), timeout_s=60, stdin=data).stdout == data


def test_one_connection_serves_many_programs(commands: MachineCommands) -> None:
    ports = {commands.run(("sh", "-c", "echo $SSH_CONNECTION"), timeout_s=60).text for _ in range(4)}
    assert len(ports) == 1


def test_a_program_that_does_not_end_is_cut_off_at_its_deadline(commands: MachineCommands) -> None:
    done = commands.run(("sleep", "300"), timeout_s=0.5)
    assert done.timed_out
    assert done.duration_s < 120


def test_a_target_starts_a_program_waits_for_its_word_and_stops_it_by_signal(commands: MachineCommands) -> None:
    script = "trap 'echo stopped; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with target(commands).start(("sh", "-c", script)) as running:
        running.wait_for_output("ready", timeout_s=60)
        done = running.stop(sig=signal.SIGINT, timeout_s=60)
    assert done.text == "ready\nstopped\n"
    assert done.returncode == 3


def test_output_can_go_to_a_descriptor_as_it_comes(commands: MachineCommands, tmp_path: Path) -> None:
    path = tmp_path / "output"
    with path.open("wb") as file:
        script = "echo first; echo aside >&2; sleep 0.5; echo last"
        with target(commands).start(("sh", "-c", script), output=file.fileno()) as running:
            done = running.wait(timeout_s=60)
    assert path.read_text() == "first\nlast\n"
    assert (done.stdout, done.error_text, done.returncode) == (b"", "aside\n", 0)


def test_leaving_the_context_ends_the_program_on_the_machine(machines: Farm, commands: MachineCommands) -> None:
    with target(commands).start(("sleep", "4242")) as running:
        assert running.is_alive()
        until_s = time.monotonic() + 60
        while "\nsleep 4242" not in machines.machines[0].run("ps", "-eo", "args"):
            assert time.monotonic() < until_s
            time.sleep(0.05)
    assert "sleep 4242" not in machines.machines[0].run("ps", "-eo", "args")


def test_a_target_reports_the_cpu_time_of_what_it_ran(commands: MachineCommands) -> None:
    burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    done = target(commands).run(("sh", "-c", burn), timeout_s=60)
    assert done.cpu_s is not None
    assert 0 < done.cpu_s <= done.duration_s + 0.1


def test_a_program_that_is_not_there_is_an_error_that_names_it(commands: MachineCommands) -> None:
    with pytest.raises(MeasureFailed, match="sockperf-of-old is not in node1"):
        target(commands).run(("sockperf-of-old",), timeout_s=60)


def test_a_file_of_root_is_copied_here(machines: Farm, commands: MachineCommands, tmp_path: Path) -> None:
    machines.machines[0].write("/root/result.bin", "content", 0o600)
    commands.get("/root/result.bin", tmp_path / "here")
    assert (tmp_path / "here").read_text() == "content"


def test_an_unknown_host_key_is_refused_with_the_remedy(machines: Farm, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    refused = MachineCommands(machine(machines, knownHosts=str(tmp_path / "empty")))
    with pytest.raises(StepFailed) as failed:
        refused.run(("true",), timeout_s=60)
    assert failed.value.what == "node1 (127.0.0.1): cannot be reached"
    assert "is not known yet" in failed.value.cause
    # What is answered with yes goes into the file that labctl goes by.
    ways = f"-p {machines.machines[0].port} -i {machines.key} -o UserKnownHostsFile={tmp_path / 'empty'}"
    assert f"ssh {ways} root@127.0.0.1 true" in failed.value.remedy


def test_a_changed_host_key_is_refused_with_the_remedy(machines: Farm, tmp_path: Path) -> None:
    other, port = machines.machines[1].host_key.split()[:2], machines.machines[0].port
    (tmp_path / "changed").write_text(f"[127.0.0.1]:{port} {' '.join(other)}\n")
    refused = MachineCommands(machine(machines, knownHosts=str(tmp_path / "changed")))
    with pytest.raises(StepFailed) as failed:
        refused.run(("true",), timeout_s=60)
    assert "presents a host key other than the known one" in failed.value.cause
    assert f"ssh-keygen -R '[127.0.0.1]:{port}'" in failed.value.remedy


def test_what_known_hosts_marks_is_not_passed_over(machines: Farm, tmp_path: Path) -> None:
    entry = f"[127.0.0.1]:{machines.machines[0].port} {' '.join(machines.machines[0].host_key.split()[:2])}\n"
    (tmp_path / "known").write_text(f"@revoked * ssh-ed25519 AAAA\nbroken\n{entry.replace('127.0.0.1', '127.0.0.?')}")
    commands = MachineCommands(machine(machines, knownHosts=str(tmp_path / "known")))
    assert commands.run(("echo", "in"), timeout_s=60).text == "in\n"
    commands.close()
    for text, cause in (
        (f"{entry}@revoked {entry}", "is marked @revoked in known_hosts"),
        (f"@cert-authority {entry}", "these options of ssh's configuration: @cert-authority in known_hosts"),
    ):
        (tmp_path / "known").write_text(text)
        with pytest.raises(StepFailed) as failed:
            MachineCommands(machine(machines, knownHosts=str(tmp_path / "known"))).run(("true",), timeout_s=60)
        assert cause in failed.value.cause


def test_a_key_that_the_machine_does_not_know_is_reported_as_such(machines: Farm, tmp_path: Path) -> None:
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "wrong")), check=True)
    refused = MachineCommands(machine(machines, key=str(tmp_path / "wrong")))
    with pytest.raises(StepFailed) as failed:
        refused.run(("true",), timeout_s=60)
    assert "accepts none of the available keys for root" in failed.value.cause


def as_user(grown: Farm, password: str, directory: Path, mode: int = 0o600) -> Machine:
    file = directory / "sudo-password"
    file.write_text(password + "\n")
    file.chmod(mode)
    let_user_in(grown.machines[0], grown.key)
    return machine(grown, user=USER, sudoPasswordFile=str(file))


def test_sudo_gets_its_password_through_standard_input(machines: Farm, tmp_path: Path) -> None:
    commands = MachineCommands(as_user(machines, PASSWORD, tmp_path))
    try:
        done = commands.run(("sh", "-c", "id -u; cat"), timeout_s=60, stdin=b"after the password")
        assert done.text == "0\nafter the password"
        assert PASSWORD not in " ".join((*commands.become(True), *done.argv))
    finally:
        commands.close()


def test_a_wrong_sudo_password_is_reported_as_such(machines: Farm, tmp_path: Path) -> None:
    commands = MachineCommands(as_user(machines, "wrong", tmp_path))
    try:
        with pytest.raises(StepFailed) as failed:
            look_at(commands)
        assert "sudo rejects the password" in failed.value.cause
        assert "wrong" not in "".join(failed.value.lines()).replace("sudo does not", "")
    finally:
        commands.close()


def test_a_password_file_that_others_may_read_is_refused(machines: Farm, tmp_path: Path) -> None:
    commands = MachineCommands(as_user(machines, PASSWORD, tmp_path, mode=0o644))
    with pytest.raises(StepFailed, match="other users can read the sudo password") as failed:
        commands.run(("true",), timeout_s=60)
    assert failed.value.remedy.startswith("chmod 600 ")


def test_a_lab_yaml_that_brings_its_own_host_keys_gets_no_connection_and_no_file(
    machines: Farm, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is really there, its key is in the file that comes along, and the named file could be read."""
    clone = tmp_path_factory.mktemp("clone")
    monkeypatch.setattr(own_files, "config_folders", lambda: (clone / "nowhere",))
    (clone / "known_hosts").write_bytes(machines.known_hosts.read_bytes())
    let_user_in(machines.machines[0], machines.key)
    (clone / "netrc").write_text("machine example login me password secret\n")
    (clone / "netrc").chmod(0o600)
    before = len(machines.machines[0].children)
    for changes in (
        {"knownHosts": str(clone / "known_hosts")},
        {"user": USER, "sudoPasswordFile": str(clone / "netrc"), "knownHosts": "/etc/ssh/ssh_known_hosts"},
    ):
        led = machine(machines, **changes)
        with pytest.raises(UsageError, match="cannot be its"):
            MachineCommands(led).run(("true",), timeout_s=60)
        with pytest.raises(UsageError, match="cannot be its"):
            AnsibleRunner(clone / "run", [led])
    # Without the file that came along the machine is a stranger.
    stranger = MachineCommands(machine(machines, knownHosts="/etc/ssh/ssh_known_hosts"))
    with pytest.raises(StepFailed) as failed:
        stranger.run(("true",), timeout_s=60)
    assert "is not known yet" in failed.value.cause
    assert len(machines.machines[0].children) == before + 1


def test_the_clock_of_a_machine_on_this_host_is_this_hosts_clock(commands: MachineCommands) -> None:
    begun_s = time.monotonic()
    offset = measure("node1", commands)
    assert abs(offset.offset_s) <= offset.error_s + 0.001
    assert 0 < offset.error_s < time.monotonic() - begun_s


def test_the_survey_reports_what_a_machine_has(machines: Farm, tmp_path: Path) -> None:
    lab = make_lab(hosts=machines.hosts(), nodes=2, kubeadm={"offline": True})
    settings = read_settings(lab, tmp_path)
    with Fleet(settings.machines) as fleet:
        seen = survey(fleet, ["node1", "node2"])
    refuse_obstacles(settings, seen)
    assert [str(one.installed.kubeadm) for one in seen] == ["1.20.2", "1.20.2"]
    assert all(one.is_root and one.has_systemd and one.has_python and one.family == "Debian" for one in seen)
    # An address that no device has is found out before anything is built.
    wrong = make_lab(hosts=[machines.hosts()[0], machines.hosts()[1] | {"nodeAddress": "10.9.9.9"}], nodes=2)
    with pytest.raises(StepFailed, match="1 of 2 machines cannot be used") as failed:
        refuse_obstacles(read_settings(wrong, tmp_path), seen)
    assert "node2 (127.0.0.1): it has no address 10.9.9.9; it has none" in failed.value.cause


@pytest.mark.thorough
def test_every_machine_that_cannot_be_reached_is_named(machines: Farm, tmp_path: Path) -> None:
    lab = make_lab(hosts=machines.hosts(), nodes=2)
    machines.machines[1].drop.set()
    try:
        with Fleet(read_settings(lab, tmp_path).machines) as fleet, pytest.raises(LabError) as failed:
            survey(fleet, ["node1", "node2"])
    finally:
        machines.machines[1].drop.clear()
    assert failed.value.what == "node2 (127.0.0.1): cannot be reached"
    assert "dropped the connection" in failed.value.cause


@pytest.mark.thorough
def test_doctor_asks_every_machine_and_says_of_each_what_is_wrong(machines: Farm) -> None:
    machines.machines[1].drop.set()
    try:
        probes = list(machine_probes(Kubeadm(kubernetes="1.20.2", offline=True), site_machines(machines.hosts())))
    finally:
        machines.machines[1].drop.clear()
    fits, silent = probes
    assert fits.present
    assert fits.name == f"127.0.0.1:{machines.machines[0].port}"
    assert re.fullmatch(
        r"Debian family, Linux [\d.]+, \d+ CPUs?, [\d.]+ GB memory, [\d.]+ GB free, cgroup v1, containerd 1.6.20, "
        r"kubeadm 1.20.2", fits.found
    )  # fmt: skip
    assert (silent.present, silent.required) == (False, True)
    assert "dropped the connection" in silent.found
    assert f"-i {machines.key} " in silent.remedy


def test_a_machine_that_is_too_slow_for_doctor_does_not_hold_it_up(machines: Farm) -> None:
    machines.machines[0].write("/usr/local/bin/nproc", "#!/bin/sh\nsleep 300\n", 0o755)
    begun_s = time.monotonic()
    try:
        probes = list(machine_probes(Kubeadm(), site_machines(machines.hosts()[:1]), deadline_s=2.0))
    finally:
        machines.machines[0].run("rm", "/usr/local/bin/nproc")
    assert time.monotonic() - begun_s < 120
    assert [(probe.present, probe.name) for probe in probes] == [(False, f"127.0.0.1:{machines.machines[0].port}")]


def test_doctor_misses_machines_where_lab_yaml_lists_none_and_none_are_made() -> None:
    assert [probe.found for probe in machine_probes(Kubeadm(), ())] == ["lab.yaml lists none under hosts:"]
    assert list(machine_probes(Kubeadm(machines=MachineSource.VAGRANT), ())) == []


def sudoers(grown: Farm, line: str) -> None:
    """Replaces what sudo on the first machine says of the user (in the machine's own /etc, gone with it)."""
    grown.machines[0].write(f"/etc/sudoers.d/{USER}", f"{line}\nDefaults:{USER} !lecture\n", 0o440)


@pytest.fixture
def csh_user(machines: Farm) -> Iterator[Farm]:
    """The first machine, its user with csh as login shell and sudo asking for the password; as before afterwards."""
    let_user_in(machines.machines[0], machines.key)
    machines.machines[0].run("usermod", "--shell", "/usr/bin/tcsh", USER)
    # Without a name server sudo would wait for the machine's own name.
    machines.machines[0].run("sh", "-c", "grep -q machine1 /etc/hosts || echo 127.0.1.1 machine1 >> /etc/hosts")
    yield machines
    machines.machines[0].run("usermod", "--shell", "/bin/sh", USER)
    sudoers(machines, f"{USER} ALL=(ALL) ALL")


@pytest.mark.parametrize(
    ("line", "password", "cause"),
    [
        (f"{USER} ALL=(ALL) ALL\nDefaults:{USER} requiretty", PASSWORD, "requires a terminal (requiretty)"),
        (f"{USER} ALL=(ALL) ALL", "", "asks learner for a password, and none is configured"),
        (f"{USER} ALL=(ALL) NOPASSWD: /bin/true", PASSWORD, "allows learner only some programs"),
        ("# nothing", PASSWORD, "learner may not become root"),
    ],
    ids=["requiretty", "no password", "some programs", "not in sudoers"],
)
def test_what_real_sudo_refuses_is_reported_behind_csh(
    csh_user: Farm, tmp_path: Path, line: str, password: str, cause: str
) -> None:
    sudoers(csh_user, line)
    wanted = as_user(csh_user, PASSWORD, tmp_path)
    commands = MachineCommands(wanted if password else machine(csh_user, user=USER))
    try:
        with pytest.raises(StepFailed) as failed:
            look_at(commands)
    finally:
        commands.close()
    assert cause in failed.value.cause


def test_a_password_that_sudo_does_not_ask_for_does_not_reach_the_program(csh_user: Farm, tmp_path: Path) -> None:
    sudoers(csh_user, f"{USER} ALL=(ALL) NOPASSWD: ALL")
    commands = MachineCommands(as_user(csh_user, PASSWORD, tmp_path))
    try:
        script = "cat\necho 'it''s' !$0 >&2"  # what csh would take apart
        done = commands.run(("sh", "-c", script, "x"), timeout_s=60, stdin=b"all of it")
        assert (done.text, done.error_text.splitlines()[-1]) == ("all of it", "its !x")
        assert look_at(commands).is_root
    finally:
        commands.close()


_CLIENT = r"""
import json, subprocess, sys
from pathlib import Path
from kubeadm_labs import make_lab
from labctl.errors import LabError
from labctl.providers.kubeadm.inventory import inventory, to_ansible
from labctl.providers.kubeadm.machines import machines_of
from labctl.providers.kubeadm.runner import AnsibleRunner
from labctl.providers.kubeadm.ssh import MachineCommands
from labctl.providers.kubeadm.ssh_config import settled

work, password = Path(sys.argv[1]), sys.argv[2]
machines = settled(machines_of(make_lab(hosts=[{"address": "behind", "sudoPasswordFile": password}], nodes=1)))
commands = MachineCommands(machines[0])
try:
    by_fabric = commands.run(("sh", "-c", "id -u; hostname"), timeout_s=60).text.split()
except LabError as refused:
    by_fabric = [refused.cause]
commands.close()
program = Path(sys.executable).with_name("ansible")
(work / "hosts.yml").write_text(to_ansible(inventory(machines)))
with AnsibleRunner(work / "run", machines) as runner:
    environment = {**__import__("os").environ, **runner._environment(str(program))}
    said = subprocess.run(
        (program, "-i", work / "hosts.yml", "all", "--become", "-m", "raw", "-a", "id -u; hostname"),
        env=environment, capture_output=True, text=True,
    )
print(json.dumps([machines[0].user, by_fabric, said.stdout.partition(">>")[2].split()[:2], said.stdout + said.stderr]))
"""


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def through_a_jump_host(csh_user: Farm, tmp_path: Path, *, is_known: bool) -> tuple[str, list[str], list[str], str]:
    """The user, what Fabric and what Ansible got from a machine, and all that Ansible printed. The machine's name
    resolves on the jump host alone, user and port stand in the configuration alone, and every path has characters that
    ssh, Ansible or a shell would split or expand. A jump host that is not known is one whose key the configuration says
    not to check."""
    behind, home = csh_user.machines[0], tmp_path / "root's home"
    keys = home / ".ssh"
    keys.mkdir(parents=True, mode=0o700)
    (keys / "my key 100%").write_bytes(csh_user.key.read_bytes())
    (keys / "my key 100%").chmod(0o600)
    own = home / ".config" / "labctl"
    own.mkdir(parents=True)
    (own / "sudo's password").write_text(PASSWORD + "\n")
    (own / "sudo's password").chmod(0o600)
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "jump")), check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "hosts").write_text("127.0.0.1 localhost machine.behind.invalid\n")
    # A host whose own sshd has not been started since it was booted has no /run/sshd.
    hops = f"mount --bind '{tmp_path}/hosts' /etc/hosts && mount -t tmpfs none /run && mkdir /run/sshd"
    options = (
        f"Port={port}", "ListenAddress=127.0.0.1", f"HostKey={tmp_path}/jump", "PidFile=none", "UsePAM=no",
        f"AuthorizedKeysFile={csh_user.key}.pub", "StrictModes=no", "PermitRootLogin=yes",
    )  # fmt: skip
    (keys / "known_hosts").write_text(
        f"behind-it {behind.host_key}\n"
        + (f"[127.0.0.1]:{port} {(tmp_path / 'jump.pub').read_text()}" if is_known else "")
    )
    (keys / "config").write_text(
        f'Host jump\n HostName 127.0.0.1\n Port {port}\n IdentityFile "~/.ssh/my key 100%%"\n'
        f"{'' if is_known else ' StrictHostKeyChecking no'}\n"
        f"Host behind\n HostName machine.behind.invalid\n Port {behind.port}\n User {USER}\n ProxyJump jump\n"
        ' HostKeyAlias behind-it\n IdentityFile "~/.ssh/my key 100%%"\n IdentitiesOnly yes\n'
        " LocalForward 127.0.0.1:1 localhost:1\n ExitOnForwardFailure yes\n RemoteCommand false\n"
    )
    # root's home is another one where the client runs, and only there.
    passwd = Path("/etc/passwd").read_text().replace(":/root:", f":{home}:", 1)
    (tmp_path / "passwd").write_text(passwd)
    own_home = f"mount --bind '{tmp_path}/passwd' /etc/passwd && exec \"$@\""
    alone = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
    said = (tmp_path / "said").open("wb")
    jump = subprocess.Popen(
        (*alone, f'{hops} && exec "$@"', "sh", "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null",
         *(word for o in options for word in ("-o", o))),
        stderr=said,
    )  # fmt: skip
    try:
        until_s = time.monotonic() + 60
        while not answers(port):
            assert jump.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < until_s, (tmp_path / "said").read_text()
            time.sleep(0.02)
        client = subprocess.run(
            (*alone, own_home, "sh", sys.executable, "-c", _CLIENT, str(tmp_path), str(own / "sudo's password")),
            env={**os.environ, "HOME": str(home), "PYTHONPATH": ":".join(p for p in sys.path if p)},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    finally:
        jump.terminate()
        jump.wait(timeout=60)
        said.close()
    assert client.returncode == 0, client.stderr
    user, by_fabric, by_ansible, printed = json.loads(client.stdout)
    return user, by_fabric, by_ansible, printed


def test_a_machine_behind_a_jump_host_is_reached_as_the_configuration_of_ssh_says(
    csh_user: Farm, tmp_path: Path
) -> None:
    user, by_fabric, by_ansible, printed = through_a_jump_host(csh_user, tmp_path, is_known=True)
    assert user == USER
    assert by_fabric == by_ansible == ["0", "machine1"], printed


def test_the_host_key_of_a_jump_host_is_checked_whatever_the_configuration_says(csh_user: Farm, tmp_path: Path) -> None:
    _, by_fabric, by_ansible, printed = through_a_jump_host(csh_user, tmp_path, is_known=False)
    assert by_ansible == []
    assert "unreachable: true" in printed
    assert "Host key verification failed" in by_fabric[0]


def test_a_jump_host_that_does_not_answer_is_reported_as_the_way_there(
    machines: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = Reached(
        host="machine.behind.invalid", port=22, user="root", key_name="behind",
        through=argv_jump("127.0.0.1:1", "machine.behind.invalid", 22), jump="-p 1 127.0.0.1",
    )  # fmt: skip
    monkeypatch.setattr("labctl.providers.kubeadm.ssh.reached", lambda _: goal)
    with pytest.raises(LabError) as failed:
        MachineCommands(machine(machines)).run(("true",), timeout_s=60)
    assert failed.value.what == "node1 (127.0.0.1): cannot be reached"
    assert re.search(r"the connection by way of ssh .*-W .* fails: .*Connection refused", failed.value.cause)
    assert failed.value.remedy.splitlines()[0] == "ssh -p 1 127.0.0.1 true"
