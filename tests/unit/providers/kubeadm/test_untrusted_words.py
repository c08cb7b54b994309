"""What machines, records and lab.yaml say is data: for Ansible, for this host's files, for a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.errors import MeasureFailed, UsageError
from labctl.providers.cilium.cluster_facts import parse_endpoints
from labctl.providers.cilium.workloads import parse_pods
from labctl.providers.kubeadm.execute import plain_kubeconfig
from labctl.providers.kubeadm.failures import TaskFailure, step_failed
from labctl.providers.kubeadm.inventory import Template, inventory, to_ansible
from labctl.providers.kubeadm.machines import Machine, machines_of
from labctl.providers.kubeadm.marks import parse_mark, seek_mark
from labctl.providers.kubeadm.open import device_of
from labctl.providers.kubeadm.settings import read_settings

PLAYBOOKS = Path(__file__).resolve().parents[4] / "playbooks"
RUN = "{{ lookup('pipe', 'touch /tmp/pwned') }}"
MARK = {"lab": "bpf", "node": "node2", "podCidr": "10.9.0.0/16", "criSocket": "/run/c.sock", "digest": "0a"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lab", RUN), ("lab", "../../etc"), ("lab", ["bpf"]),
        ("node", RUN), ("node", "/etc/cron.d/x"), ("node", "-oProxyCommand=id"), ("node", "all:!x"),
        ("podCidr", RUN), ("podCidr", "0.0.0.0/0; reboot"), ("podCidr", 7),
        ("criSocket", RUN), ("criSocket", "/run/c.sock $(reboot)"), ("criSocket", "tcp://elsewhere"),
        ("digest", RUN), ("scenario", "\x1b]0;x\x07"), ("scenario", "x" * 300),
    ],
)  # fmt: skip
def test_a_mark_with_more_than_names_in_it_is_none(key: str, value: object) -> None:
    assert parse_mark(json.dumps(MARK)) is not None
    assert parse_mark(json.dumps({**MARK, key: value})) is None


@pytest.mark.parametrize("text", ["[" * 100_000, json.dumps({**MARK, "more": "x" * 70_000})], ids=["deep", "long"])
def test_a_mark_is_short_and_flat(text: str) -> None:
    assert parse_mark(text) is None


def test_a_machine_whose_mark_is_malformed_is_reported_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = machines_of(make_lab(hosts=THREE_HOSTS[:2], nodes=2))
    said = {"192.168.56.10": json.dumps(MARK), "192.168.56.11": json.dumps({**MARK, "podCidr": RUN})}

    class Answer:
        returncode, error_text = 0, ""

        def __init__(self, text: str) -> None:
            self.text = text

    class Scripted:
        def __init__(self, machine: Machine) -> None:
            self.machine = machine

        def run(self, argv: tuple[str, ...], *, timeout_s: float) -> Answer:
            return Answer(said[self.machine.address])

    class Fleet:
        def __init__(self, machines: tuple[Machine, ...]) -> None:
            self.machines = machines

        def __enter__(self) -> list[Scripted]:
            return [Scripted(machine) for machine in self.machines]

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("labctl.providers.kubeadm.marks.Fleet", Fleet)
    marked = seek_mark("bpf", machines)
    assert [machine.node for machine in marked.machines] == ["node2"]
    assert [machine.address for machine in marked.silent] == ["192.168.56.11"]
    assert marked.failure is not None
    assert marked.failure.what.endswith("/etc/labctl/lab.json is not as labctl writes it")


def scalars(node: yaml.Node) -> list[yaml.ScalarNode]:
    """Every value that Ansible could take for a template. Keys are none."""
    match node:
        case yaml.ScalarNode():
            return [node]
        case yaml.SequenceNode():
            return [scalar for item in node.value for scalar in scalars(item)]
        case yaml.MappingNode():
            return [scalar for _, item in node.value for scalar in scalars(item)]
    raise AssertionError(node)


def test_every_text_with_a_brace_is_marked_and_the_templates_are_labctls_own() -> None:
    hosts = [{**THREE_HOSTS[0], "key": f"/k{RUN}", "knownHosts": "/h{#", "sudoPasswordFile": f"/p{RUN}"}]
    found = inventory(machines_of(make_lab(hosts=hosts, nodes=1)), {"node1": {RUN: [{"deep": (RUN, "{%")}]}})
    composed = yaml.compose(to_ansible(found))
    assert composed is not None
    tree = scalars(composed)
    braced = [scalar for scalar in tree if "{" in scalar.value]
    plain = [scalar.value for scalar in braced if scalar.tag != "!unsafe"]
    assert len(braced) == 5
    assert plain == [found["all"]["children"]["control_plane"]["hosts"]["node1"]["ansible_become_password"]]
    assert isinstance(plain[0], str)
    assert RUN not in plain[0]


def test_texts_stay_texts_whatever_yaml_would_make_of_them() -> None:
    class Loader(yaml.SafeLoader):
        """With the tag as ansible-core 2.19 reads it: by what the text looks like."""

    def unsafe(loader: Any, node: yaml.ScalarNode) -> Any:
        node.tag = loader.resolve(yaml.ScalarNode, node.value, (True, False))
        return loader.yaml_constructors[node.tag](loader, node) if node.tag[-3:] != "str" else node.value

    Loader.add_constructor("!unsafe", unsafe)
    texts = [
        "",
        "1.20",
        "007",
        "1e3",
        "yes",
        "null",
        "~",
        "=",
        "<<",
        "2024-01-02",
        "1:30",
        " a ",
        "a: b",
        "\u2028\x07é",
    ]
    values: dict[str, Any] = {"a": texts, "<<": {"=": "x"}, "n": [1, 1.5, True, None], "e": {}, "l": []}
    assert yaml.load(to_ansible(values), Loader=Loader) == values
    assert yaml.load(to_ansible({"t": Template("{{ x }}")}), Loader=Loader) == {"t": "{{ x }}"}


@pytest.mark.parametrize("node", ["node[1:3]", "!node1", "a,b", "~x", "@file", ""])
def test_a_name_that_ansible_would_read_as_a_pattern_is_no_host(node: str) -> None:
    machine = machines_of(make_lab(hosts=THREE_HOSTS[:1], nodes=1))[0]
    with pytest.raises(ValueError, match="cannot be a host's name"):
        inventory([Machine(**{**machine.record(), "node": node, "role": machine.role})])


def test_no_playbook_takes_a_file_name_or_an_action_from_a_machine() -> None:
    """Includes are named in full, and commands are lists or have no value in them."""
    for path in sorted(PLAYBOOKS.rglob("*.yml")):
        for task in tasks(yaml.safe_load(path.read_text())):
            for key, value in task.items():
                name = key.removeprefix("ansible.builtin.")
                if name in (
                    "include_tasks",
                    "import_tasks",
                    "import_playbook",
                    "include_vars",
                    "include_role",
                    "roles",
                ):
                    assert "{{" not in str(value), (path.name, task)
                if name in ("command", "raw") and isinstance(value, str):
                    assert "{{" not in value, (path.name, task)
                assert name not in ("local_action", "delegate_to", "add_host", "group_by", "fetch"), (path.name, task)


def tasks(tree: Any) -> list[dict[str, Any]]:
    if isinstance(tree, list):
        return [task for item in tree for task in tasks(item)]
    if isinstance(tree, dict):
        inner = [task for key in ("tasks", "block", "always", "rescue", "handlers") for task in tasks(tree.get(key))]
        return [tree, *inner]
    return []


KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: kubernetes, cluster: {certificate-authority-data: Y2E=, server: "https://10.0.0.1:6443"}}]
contexts: [{name: a@k, context: {cluster: kubernetes, user: kubernetes-admin}}]
current-context: a@k
users: [{name: kubernetes-admin, user: {client-certificate-data: Y3J0, client-key-data: a2V5}}]
"""


def test_a_kubeconfig_is_taken_over_without_the_programs_and_files_that_it_names() -> None:
    plain = plain_kubeconfig(KUBECONFIG.encode())
    assert yaml.safe_load(plain)["users"][0]["user"] == {"client-certificate-data": "Y3J0", "client-key-data": "a2V5"}
    for more in (
        "exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, reboot]}",
        "auth-provider: {name: gcp, config: {cmd-path: /bin/sh}}", "tokenFile: /etc/shadow", "client-key: /etc/shadow",
    ):  # fmt: skip
        assert plain_kubeconfig(KUBECONFIG.replace("user: {client", f"user: {{{more}, client").encode()) == plain
    for more in ("proxy-url: http://elsewhere", "insecure-skip-tls-verify: true", "certificate-authority: /etc/shadow"):
        assert plain_kubeconfig(KUBECONFIG.replace("cluster: {cert", f"cluster: {{{more}, cert").encode()) == plain


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("https://10.0.0.1:6443", "http://10.0.0.1"), ("https://10.0.0.1:6443", "https://x\\u001b[2J"),
        ("Y3J0", "not base64!"), ("client-key-data: a2V5", "token: abc"), ("Y2E=", "[1]"),
        ("users:", "accounts:"), ("apiVersion: v1", "x" * 300_000),
        ("apiVersion: v1", "!!python/object/apply:os.system [id]"), ("apiVersion: v1", "[" * 2000),
    ],
    ids=lambda part: part[:20],
)  # fmt: skip
def test_what_is_no_kubeconfig_of_kubeadm_is_refused(before: str, after: str) -> None:
    with pytest.raises(ValueError, match=r"^it|^its|base64|Only base64|Invalid|padding"):
        plain_kubeconfig(KUBECONFIG.replace(before, after, 1).encode())


@pytest.mark.parametrize("name", ["-w/etc/passwd", "eth0; reboot", "$(reboot)", "../x", "x" * 40, ""])
def test_what_a_machine_calls_a_device_is_a_devices_name_or_nothing(name: str) -> None:
    links = [{"ifname": name, "addr_info": [{"local": "10.0.0.1"}]}]
    assert device_of(json.dumps(links), "10.0.0.1") == ""
    assert device_of(json.dumps([{**links[0], "ifname": "eth0.100"}]), "10.0.0.1") == "eth0.100"
    for text in ("null", "[1]", '[{"addr_info": [1]}]', '{"a": 1}'):
        assert device_of(text, "10.0.0.1") == ""


@pytest.mark.parametrize("key", ["name", "namespace", "nodeName"])
@pytest.mark.parametrize("name", ["--kubeconfig=/tmp/x", "-c", "a b", "a;reboot", "../x", "A", "x" * 254])
def test_what_a_cluster_calls_a_pod_is_no_option_of_kubectl(key: str, name: str) -> None:
    meta, spec = {"name": "client", "namespace": "labctl-x"}, {"nodeName": "node1"}
    assert parse_pods(json.dumps({"items": [{"metadata": meta, "spec": spec}]}))[0].name == "client"
    (spec if key == "nodeName" else meta)[key] = name
    with pytest.raises(MeasureFailed, match="a pod with an invalid name"):
        parse_pods(json.dumps({"items": [{"metadata": meta, "spec": spec}]}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("interface-name", "-w/x"), ("interface-name", "a b"), ("mac", "$(reboot)"), ("host-mac", "--x"), ("mac", ["a"])],
)
def test_what_an_agent_calls_a_device_is_no_option_of_tcpdump(key: str, value: object) -> None:
    networking = {"interface-name": "lxc12ab", "mac": "0a:00:00:00:00:01", "host-mac": "0a:00:00:00:00:02"}
    assert parse_endpoints(json.dumps([{"status": {"networking": networking}}]))[0].lxc == "lxc12ab"
    with pytest.raises(MeasureFailed, match="an invalid device name or MAC"):
        parse_endpoints(json.dumps([{"status": {"networking": {**networking, key: value}}}]))


def test_a_machines_words_in_a_remedy_run_nothing_when_it_is_pasted() -> None:
    machine = machines_of(make_lab(hosts=THREE_HOSTS[:1], nodes=1))[0]
    said = "containerd does not have $(reboot)`reboot`; reboot & reboot | reboot\nreboot"
    for task, message in (
        ("x", f"labctl: pulling is disabled (images.pull: false), and {said}"),
        ("x", f"REMOTE HOST IDENTIFICATION HAS CHANGED ({said})"),
        ("x", f"E: Unable to locate package {said}"),
    ):  # fmt: skip
        remedy = step_failed([TaskFailure(node="node1", task=task, message=message)], [machine]).remedy
        lines = [line.partition("  #")[0] for line in remedy.splitlines() if not line.startswith("#")]
        assert not any(character in line for line in lines for character in "`;&|$"), remedy


@pytest.mark.parametrize("path", ["/", "/etc", "/opt/../etc", "opt/cni", "/opt/cni/$(reboot)", '/opt/cni"x', RUN])
def test_down_empties_no_directory_of_a_machine_but_one_of_cnis(path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a directory of its own"):
        read_settings(make_lab(hosts=THREE_HOSTS, cilium={"values": {"cni": {"binPath": path}}}), tmp_path)
    for good in ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"):
        lab = make_lab(hosts=THREE_HOSTS, cilium={"values": {"cni": {"binPath": good}}})
        assert read_settings(lab, tmp_path).cni_directory == good
