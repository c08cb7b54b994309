"""What lab.yaml, a scenario, a record or a machine says never becomes a template of Ansible: real runs of
ansible-playbook on this host, with a template in every text, which would leave a file behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.errors import StepFailed
from labctl.providers.kubeadm import runner
from labctl.providers.kubeadm.inventory import inventory, join_documents
from labctl.providers.kubeadm.machines import Machine, machine_from_record
from labctl.providers.kubeadm.plan import play_variables
from labctl.providers.kubeadm.runner import AnsibleRunner, PlaybookResult
from labctl.providers.kubeadm.settings import read_settings
from labctl.providers.kubeadm.ssh_config import ansible_arguments

PLAYBOOKS = Path(__file__).resolve().parents[3] / "playbooks"

# Every way in which the playbooks use values: whole, in text, by the template of kubeadm's configuration, through
# variables of a task, through facts that are set, and in conditions.
PLAY = """
- hosts: all
  gather_facts: false
  vars:
    labctl_ignored: [FileContent]
    labctl_cgroup_driver: systemd
  tasks:
    - ansible.builtin.copy:
        dest: "{{ said }}/variables.json"
        content: "{{ {'labctl': labctl, 'join': join_document | default({}), 'machine': {
                        'host': ansible_host, 'user': ansible_user, 'arguments': ansible_ssh_common_args | default(''),
                        'password': ansible_become_password | default('')}} | to_json }}"
    - ansible.builtin.template: {src: kubeadm.yaml.j2, dest: "{{ said }}/kubeadm.yaml"}
    - ansible.builtin.set_fact:
        labctl_given: "{{ labctl.repository ~ labctl.bundle }}"
        labctl_words: "{{ (labctl.repository ~ ' ' ~ labctl.bundle).split() }}"
    - ansible.builtin.copy:
        dest: "{{ said }}/{{ inventory_hostname }}"
        content: "{{ labctl_given }} {{ labctl_words | join('+') }} {{ inner }}"
      vars:
        inner: "{{ labctl.repository_key }}"
    - ansible.builtin.command:
        argv: [printf, "%s", "{{ item.path }}"]
      loop: "{{ labctl.archives }}"
      loop_control: {label: "{{ item.name }}"}
      register: labctl_printed
    - ansible.builtin.copy:
        dest: "{{ said }}/printed"
        content: "{{ labctl_printed.results | map(attribute='stdout') | join }}"
    - ansible.builtin.shell: |
        printf %s {{ labctl.repository | quote }} >{{ said }}/shell
    - ansible.builtin.assert:
        that: labctl.repository | length > 0
        fail_msg: "{{ labctl.repository }}"
"""

SHORT = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: "{{ 'a b' | quote }}"}
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "a-template-ran"


@pytest.fixture
def ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsibleRunner]:
    """Plays PLAY on this host, with labctl's own configuration of Ansible."""
    playbooks = tmp_path / "playbooks"
    playbooks.mkdir()
    (playbooks / "probe.yml").write_text(PLAY)
    (playbooks / "short.yml").write_text(SHORT)
    for name in ("templates", "ansible.cfg"):
        (playbooks / name).symlink_to(PLAYBOOKS / name)
    monkeypatch.setattr(runner, "playbooks_directory", lambda: playbooks)
    (tmp_path / "said").mkdir()
    with AnsibleRunner(tmp_path / "run", ()) as opened:
        yield opened


def played(ansible: AnsibleRunner, hosts: dict[str, Any], variables: dict[str, Any], folder: Path) -> dict[str, Any]:
    for group in hosts["all"]["children"].values():
        for host in group["hosts"].values():
            host |= {
                "ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable,
            }  # fmt: skip
    ansible.play("probe", hosts, {**variables, "said": str(folder / "said")})
    said: dict[str, Any] = json.loads((folder / "said" / "variables.json").read_text())
    return said


def test_no_text_of_lab_yaml_is_a_template(ansible: AnsibleRunner, mark: Path, tmp_path: Path) -> None:
    """Values of every kind of key, as deep as they may be, and keys."""
    run = "{{ lookup('pipe', 'touch " + str(mark) + "') }}"
    block = "{% for x in [lookup('pipe', 'touch " + str(mark) + "')] %}{% endfor %}"
    texts = {
        "clusterDomain": run, "list": [run, {"deep": block}], run: 1, block: {run: True}, "number": 7, "{#": "#}",
        "like others": ["", "1.20", "007", "0x1f", "1e3", "true", "no", "~", "2024-01-02", "=", "<<", "1:30", ".inf"],
        "__ansible_unsafe": run, "__ansible_vault": run, "__ansible_type": {"a": run}, "!unsafe": "!unsafe " + run,
        "lines": f"a\n{run}\n--- !unsafe\n", "other": "\u0085\u2028 \x07 ä 'quote' \"double\" \\ \t",
    }  # fmt: skip
    password = Path(f"{tmp_path}/{run}'s")
    password.parent.mkdir(parents=True)
    password.write_text(f"word {run}\n")
    lab = make_lab(
        hosts=[{**THREE_HOSTS[0], "key": f"/k/{run}", "sudoPasswordFile": str(password)}], nodes=1,
        kubeadm={
            "kubelet": texts, "cluster": {"etcd": texts}, "init": {"patches": texts},
            "packages": {
                "repository": f"https://r/{run}", "repositoryKey": f"https://k/{block}", "bundle": f"/b/{run}",
            },
            "images": {"archives": [f"/i/{run}.tar"]},
        },
    )  # fmt: skip
    settings = read_settings(lab, tmp_path / "state")
    variables = play_variables(settings)
    said = played(ansible, inventory(settings.machines), variables, tmp_path)
    assert not mark.exists()
    # What arrives is what was said, to the letter.
    assert said["labctl"] == json.loads(json.dumps(variables["labctl"]))
    assert said["machine"]["arguments"] == ansible_arguments(settings.machines[0])
    assert said["machine"]["password"] == f"word {run}"
    init, cluster, kubelet = yaml.safe_load_all((tmp_path / "said" / "kubeadm.yaml").read_text())
    assert init["patches"] == cluster["etcd"] == texts
    assert {key: kubelet[key] for key in texts} == texts
    assert (tmp_path / "said" / "shell").read_text() == f"https://r/{run}"
    assert (tmp_path / "said" / "printed").read_text() == f"/i/{run}.tar"
    assert (tmp_path / "said" / "node1").read_text().startswith(f"https://r/{run}/b/{run} ")


def test_no_text_of_a_record_of_machines_is_a_template(ansible: AnsibleRunner, mark: Path, tmp_path: Path) -> None:
    """The record that `down` goes by, and what machines are joined with, every text of them."""
    run = "{{ lookup('pipe', 'touch " + str(mark) + "') }}"
    record = machine_from_record(
        {
            "node": "node1", "role": "control-plane", "address": run, "user": run, "key": run, "known_hosts": run,
            "interface": run, "node_address": run, "sudo_password_file": str(tmp_path / run),
        }
    )  # fmt: skip
    worker = Machine(**{**record.record(), "node": "node2", "role": "worker"})
    machines = (record, worker)
    password = tmp_path / run
    password.parent.mkdir(parents=True)
    password.write_text(run)
    settings = read_settings(make_lab(hosts=THREE_HOSTS[:2], nodes=2), tmp_path / "state")

    def hostile(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: hostile(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [hostile(inner) for inner in value] + [run]
        return f"{value}{run}" if isinstance(value, str) else value

    variables = hostile(json.loads(json.dumps(play_variables(settings))))
    variables["labctl"]["archives"] = [{"path": run, "name": run}]
    variables["labctl"]["init_documents"].pop()
    documents = {node: hostile(document) for node, document in join_documents(settings.kubeadm, machines).items()}
    said = played(ansible, inventory(machines, documents), variables, tmp_path)
    assert not mark.exists()
    assert said["labctl"] == variables["labctl"]
    assert said["machine"]["host"] == said["machine"]["user"] == run


def test_ansible_settings_and_plugins_of_the_users_environment_are_not_passed_on(
    ansible: AnsibleRunner, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (plugins / "quote.py").write_text(f"open({str(mark)!r}, 'w')\n")
    for kind in ("CALLBACK", "FILTER", "LOOKUP", "ACTION", "STRATEGY", "VARS", "INVENTORY"):
        monkeypatch.setenv(f"ANSIBLE_{kind}_PLUGINS", str(plugins))
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "evil")
    monkeypatch.setenv("ANSIBLE_VARS_ENABLED", "evil")
    settings = read_settings(make_lab(hosts=THREE_HOSTS[:1], nodes=1), tmp_path / "state")
    ansible.play("short", inventory(settings.machines), {})
    assert not mark.exists()


# ---- a machine that answers without an end

LARGE = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Ask
      ansible.builtin.command: {argv: [sh, -c, "head -c {{ size }} /dev/zero | tr '\\\\0' x; exit {{ code }}"]}
"""
SSH = """#!/bin/sh
exec 3<&0
cat <&3 >/dev/null &
"""
FLOODS = {
    "on its standard output": "exec tr '\\0' x </dev/zero",
    "as errors": "exec tr '\\0' x </dev/zero >&2",
    "in lines": "exec yes '{\"changed\": true}'",
}
"""What an ssh does whose machine prints so."""


def far_away(name: str = "node1") -> dict[str, Any]:
    return {"all": {"children": {"machines": {"hosts": {name: {"ansible_host": "192.0.2.1"}}}}}}


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in ssh's place."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def put(script: str) -> None:
        (tmp_path / "bin" / "ssh").write_text(SSH + script + "\n")
        (tmp_path / "bin" / "ssh").chmod(0o755)

    return put


@pytest.fixture
def large(ansible: AnsibleRunner, tmp_path: Path) -> AnsibleRunner:
    (tmp_path / "playbooks" / "large.yml").write_text(LARGE)
    return ansible


def left(folder: Path) -> list[str]:
    """The processes of that run which are still there."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            if process.name.isdecimal() and os.fsencode(folder) in words + (process / "environ").read_bytes():
                found.append(words.decode(errors="replace"))
    return found


def all_gone(folder: Path) -> bool:
    until_s = time.monotonic() + 60
    while left(folder) and time.monotonic() < until_s:
        time.sleep(0.05)
    return not left(folder)


@pytest.mark.parametrize("script", FLOODS.values(), ids=FLOODS)
def test_a_machine_that_answers_without_an_end_is_cut_off(
    large: AnsibleRunner, tmp_path: Path, ssh: Callable[[str], None], script: str
) -> None:
    ssh(script)
    with pytest.raises(StepFailed, match="was stopped: ansible-playbook used more than 192 MiB of memory") as raised:
        large.play("large", far_away(), {"size": "1", "code": "0"}, timeout_s=300)
    assert raised.value.cause.startswith("task Ask; ")
    assert all_gone(tmp_path)


def test_one_answer_that_fills_an_event_is_cut_off_in_bounded_memory(large: AnsibleRunner, tmp_path: Path) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StepFailed, match="was stopped: "):
        played_large(large, 24_000_000, 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 256 << 10
    assert all_gone(tmp_path)


@pytest.mark.thorough
def test_an_answer_that_is_left_out_of_its_event_is_named(large: AnsibleRunner) -> None:
    with pytest.raises(StepFailed) as raised:
        played_large(large, 1_000_000, 1)
    assert "answered with more than 700000 characters" in raised.value.cause
    assert played_large(large, 1_000_000, 0).ok + played_large(large, 1000, 0).changed == 2


def played_large(large: AnsibleRunner, size_byte: int, code: int) -> PlaybookResult:
    here = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
    hosts = {"all": {"children": {"machines": {"hosts": {"node1": here}}}}}
    return large.play("large", hosts, {"size": str(size_byte), "code": str(code)}, timeout_s=300)


@pytest.mark.thorough
def test_at_its_deadline_nothing_of_a_playbook_goes_on(
    large: AnsibleRunner, tmp_path: Path, ssh: Callable[[str], None]
) -> None:
    """Ansible's processes for machines have sessions of their own, which the end of the first one does not reach."""
    ssh("exec sleep 600")
    with pytest.raises(StepFailed, match=r"did not finish \(timeout\)"):
        large.play("large", far_away(), {"size": "1", "code": "0"}, timeout_s=5)
    assert all_gone(tmp_path)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'all is well'", "reported no task of the playbook large.yml"),
        ("exit 0", "reported no task of the playbook large.yml"),
        ("echo 'a special failure'; exit 7", "did not finish"),
        ("kill -9 $$", "did not finish"),
    ],
)
def test_another_program_of_its_name_and_one_that_dies_have_done_nothing(
    large: AnsibleRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    program = tmp_path / "playing" / "ansible-playbook"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(runner, "ansible_playbook", lambda: str(program))
    with pytest.raises(StepFailed, match=told) as raised:
        played_large(large, 1, 0)
    if "special" in script:
        assert "a special failure" in raised.value.cause


PLAYS = """
import sys
from pathlib import Path
from labctl.providers.kubeadm import runner
folder = Path(sys.argv[1])
runner.playbooks_directory = lambda: folder / "playbooks"
hosts = {"all": {"children": {"machines": {"hosts": {"node1": {"ansible_host": "192.0.2.1"}}}}}}
with runner.AnsibleRunner(folder / "run", ()) as ansible:
    ansible.play("large", hosts, {"size": "1", "code": "0"}, timeout_s=300)
"""


def playing(folder: Path) -> int:
    return sum("ansible-playbook" in words for words in left(folder))


@pytest.mark.thorough
def test_when_labctl_is_killed_no_further_task_begins(
    large: AnsibleRunner, tmp_path: Path, ssh: Callable[[str], None]
) -> None:
    """What works on a machine at that moment is in a session of its own, and ends with its connection."""
    ssh(f"echo $PPID >{tmp_path}/working; mv {tmp_path}/working {tmp_path}/asked; exec sleep 600")
    until_s = time.monotonic() + 60
    with subprocess.Popen((sys.executable, "-c", PLAYS, str(tmp_path))) as killed:
        while not (tmp_path / "asked").exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        killed.kill()
    worker = int((tmp_path / "asked").read_text())
    while playing(tmp_path) > 1 and time.monotonic() < until_s:
        time.sleep(0.05)
    assert playing(tmp_path) == 1
    os.kill(worker, signal.SIGKILL)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(tmp_path) in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)
    assert all_gone(tmp_path)


@pytest.mark.thorough
def test_an_interruption_ends_all_of_a_playbook(
    large: AnsibleRunner, tmp_path: Path, ssh: Callable[[str], None]
) -> None:
    ssh(f"touch {tmp_path}/asked; exec sleep 600")

    def interrupt() -> None:
        until_s = time.monotonic() + 60
        while not (tmp_path / "asked").exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        large.play("large", far_away(), {"size": "1", "code": "0"}, timeout_s=300)
    assert all_gone(tmp_path)
