"""What kind, docker, helm and kubectl say in public reports, and what is advised: the texts are theirs."""

from __future__ import annotations

import re
import subprocess

import pytest

from labctl.model.result import Completed
from labctl.providers.kind.failures import REMEDIES, failed_command, remedy_for

KIND = ("kind", "create", "cluster", "--name", "labctl-x")
INIT = (
    'ERROR: failed to create cluster: failed to init node with kubeadm: command "docker exec --privileged x kubeadm '
    'init" failed with error: exit status 1\nCommand Output: I1129 12:00:00.1 1 init.go:1] [init] Using Kubernetes\n'
)
NETWORK = (
    'ERROR: failed to create cluster: failed to ensure docker network: command "docker network create kind" failed '
    "with error: exit status 1\nCommand Output: Error response from daemon: "
)

SAID = {
    "docker.sock (kind)": (
        ('ERROR: failed to create cluster: failed to get docker info: command "docker info" failed with error: exit '
        "status 1\nCommand Output: permission denied while trying to connect to the Docker daemon socket at "
        "unix:///var/run/docker.sock: dial unix /var/run/docker.sock: connect: permission denied"),
        "sudo usermod -aG docker $USER",
    ),
    "daemon down": (
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "sudo systemctl start docker",
    ),
    "daemon down, docker 28": (
        ("failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the "
        "daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory"),
        "sudo systemctl start docker",
    ),
    "old client": (
        "Error response from daemon: client version 1.24 is too old. Minimum supported API version is 1.44",
        "export DOCKER_API_VERSION",
    ),
    "rootless (kind#3936)": (
        ("ERROR: failed to create cluster: running kind with rootless provider requires setting systemd property "
        '"Delegate=yes", see https://kind.sigs.k8s.io/docs/user/rootless/'), "user@.service.d/delegate.conf",
    ),
    "pools (kind#2488)": (
        NETWORK + "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the "
        "network", "docker network prune",
    ),
    "pools (docker 24)": (NETWORK + "all predefined address pools have been fully subnetted", "docker network prune"),
    "IPv6 clash (kind#2496)": (
        NETWORK + "cannot create network 1 (br-1): conflicts with network 2 (br-2): networks have overlapping IPv6",
        "docker network rm",
    ),
    "IPv4 clash": (NETWORK + "Pool overlaps with other one on this address space", "docker network inspect"),
    "docker's rules are gone": (
        ("docker: Error response from daemon: driver failed programming external connectivity: Unable to enable DNAT "
        "rule: (iptables failed: iptables --wait -t nat -A DOCKER: iptables: No chain/target/match by that name."),
        "sudo systemctl restart docker",
    ),
    "snap (kind#431)": (
        ('ERROR: command "docker save -o /tmp/images-tar1/images.tar local/tools:1" failed with error: exit status 1\n'
        'Command Output: failed to save image: invalid output path: directory "/tmp/images-tar1" does not exist'),
        "export TMPDIR=~/labctl-tmp",
    ),
    "cgroup v1": (
        INIT + "error: kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported",
        "failCgroupV1: false",
    ),
    "join refused": (
        ("ERROR: failed to create cluster: failed to join node with kubeadm: exit status 1\nCommand Output: [kubelet-"
        "start] Starting\nerror execution phase kubelet-start: error uploading crisocket: Unauthorized"), "timedatectl",
    ),
    "name taken": (
        'ERROR: failed to create cluster: node(s) already exist for a cluster with the name "x"', "another --name",
    ),
    "port": ("Error: Bind for 127.0.0.1:6443 failed: port is already allocated", "apiServerPort: 0"),
    "disk": ("write /var/lib/docker/tmp/x: no space left on device", "docker system df"),
    "files": ("Failed to create control group inotify object: Too many open files", "sysctl -w fs.inotify"),
    "files, kubelet": ("E1 kubelet: failed to create fsnotify watcher: too many open files", "sysctl -w fs.inotify"),
    "rate limit": (
        ("Error response from daemon: toomanyrequests: You have reached your pull rate limit. You may increase the "
        "limit by authenticating and upgrading"), "docker login",
    ),
    "certificate": (
        ('Error response from daemon: Get "https://registry-1.docker.io/v2/": tls: failed to verify certificate: x509: '
        "certificate signed by unknown authority"), "sudo update-ca-certificates",
    ),
    "http registry": ("http: server gave HTTP response to HTTPS client", "update-ca-certificates"),
    "proxy": (
        ('Error response from daemon: Get "https://registry-1.docker.io/v2/": proxyconnect tcp: dial tcp 10.0.0.1:3128'
        ": connect: connection refused"), "systemctl show docker --property Environment",
    ),
    "helm: name in use": (
        "Error: INSTALLATION FAILED: cannot re-use a name that is still in use", "helm list --all --all-namespaces",
    ),
    "helm: cut off": (
        "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress", "helm list --all",
    ),
    "no such image": ("Error response from daemon: pull access denied for x, repository does not exist", "docker pull"),
    "wrong processor": ("exec /usr/local/bin/entrypoint: exec format error", "{{.Architecture}}"),
    "apparmor": ("AppArmor enabled on system but the docker-default profile could not be loaded",
        "apt-get install apparmor"),
    "wrong context": ('error: context "kind-x" does not exist', "kubectl config get-contexts"),
    "helm: no API server": (
        ('Error: INSTALLATION FAILED: Kubernetes cluster unreachable: Get "https://127.0.0.1:40000/version": dial tcp '
        "127.0.0.1:40000: connect: connection refused"), "label=io.x-k8s.kind.cluster",
    ),
    "kubectl: no API server": (
        "The connection to the server 127.0.0.1:40000 was refused - did you specify the right host or port?",
        "label=io.x-k8s.kind.cluster",
    ),
    "slow API server": (
        ('error: error validating "STDIN": failed to download openapi: Get "https://127.0.0.1:40000/openapi/v2": '
        "net/http: TLS handshake timeout"), "free -h",
    ),
    "podman": (
        ('Error: short-name "kindest/node:v1.32.2" did not resolve to an alias and no unqualified-search registries '
        "are defined in /etc/containers/registries.conf"), "docker.io/",
    ),
    "no container starts": (
        ("docker: Error response from daemon: OCI runtime create failed: runc create failed: unable to start container"
        " process: error during container init: error setting cgroup config for procHooks process: unable to freeze"),
        "docker run --rm IMAGE true",
    ),
    "memory": ("command failed with error: exit status 137", "free -h"),
    "swap": (INIT + "\t[ERROR Swap]: running with swap on is not supported. Please disable swap", "sudo swapoff -a"),
}  # fmt: skip


def failed(said: str, argv: tuple[str, ...] = KIND) -> str:
    done = Completed(argv=argv, returncode=1, stdout=b"", stderr=said.encode(), duration_s=1.0)
    return failed_command(done, timeout_s=900).remedy


@pytest.mark.parametrize("case", SAID)
def test_what_is_said_is_met_with_a_remedy_that_fits(case: str) -> None:
    said, remedy = SAID[case]
    assert remedy in failed(said)


def test_a_warning_beside_the_failure_does_not_choose_the_remedy() -> None:
    said = (
        INIT + "\t[WARNING Swap]: running with swap on is not supported. Please disable swap\n"
        "\t[WARNING SystemVerification]: cgroups v1 support is in maintenance mode, please migrate to cgroups v2\n"
        'time="2026-01-01T00:00:00Z" level=warning msg="no space left on device"\n'
        "error execution phase kubelet-start: cannot allocate memory"
    )
    assert failed(said).splitlines()[0] == "free -h"


def test_an_unknown_failure_shows_the_command_and_the_tools_own_words() -> None:
    done = Completed(argv=KIND, returncode=1, stdout=b"", stderr=b"ERROR: the moon is full", duration_s=1.0)
    error = failed_command(done, timeout_s=900)
    assert (error.cause, error.remedy) == ("ERROR: the moon is full", "kind create cluster --name labctl-x  # by hand")
    assert remedy_for("the moon is full") == ""


def test_every_line_of_a_remedy_can_be_pasted() -> None:
    commands = re.compile(
        r"#|(sudo )?(apt-get|systemctl|sysctl|swapoff|ss|cp|update-ca-certificates|dmesg|mkdir|usermod|snap)\b|"
        r"(docker|kind|kubectl|helm|labctl|mkdir|export|unset|printf|stat|env|date|df|free|ulimit|echo|timedatectl|"
        r"systemctl)\b"
    )
    for known in REMEDIES:
        for line in known.remedy.splitlines():
            assert commands.match(line), line
            assert " && " not in line
            done = subprocess.run(("bash", "-n", "-c", line), capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)
