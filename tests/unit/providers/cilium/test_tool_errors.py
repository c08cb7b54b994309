"""What failed, found by the form that each tool gives its errors, amid the warnings that stand around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.model.sections import MachineRole
from labctl.providers.base import Completed
from labctl.providers.cilium.commands import LONGEST, errors_in, joined
from labctl.providers.kind.failures import failed_command
from labctl.providers.kubeadm.failures import TaskFailure, step_failed
from labctl.providers.kubeadm.machines import Machine

# As the tools print them: kubeadm 1.20 to 1.32, helm 3, kubectl, kind 0.27, containerd 1.6/2.0, crictl, apt, dnf.
KUBEADM_WARNINGS = (
    "W1129 17:02:11.331457    4711 version.go:109] could not fetch a Kubernetes version from the internet: unable to "
    'get URL "https://dl.k8s.io/release/stable-1.txt": Get "https://dl.k8s.io/release/stable-1.txt": dial tcp: lookup '
    "dl.k8s.io: no such host\n"
    "W1129 17:02:11.331582    4711 version.go:110] falling back to the local client version: v1.32.2\n"
    "\t[WARNING Swap]: swap is supported for cgroup v2 only. The kubelet must be properly configured to use swap. "
    "Please refer to https://kubernetes.io/docs/concepts/architecture/nodes/#swap-memory, or disable swap on the node\n"
    "\t[WARNING SystemVerification]: missing optional cgroups: hugetlb, not found\n"
    '\t[WARNING Hostname]: hostname "node1" could not be reached\n'
    '\t[WARNING Hostname]: hostname "node1": lookup node1 on 192.168.56.1:53: no such host, failed\n'
)
PREFLIGHT = "error execution phase preflight: [preflight] Some fatal errors occurred:\n"
LAST_WORDS = (
    "[preflight] If you know what you are doing, you can make a check non-fatal with `--ignore-preflight-errors=...`\n"
    "To see the stack trace of this error execute with --v=5 or higher\n"
)
MEMORY = "[ERROR Mem]: the system RAM (973 MB) is less than the minimum 1700 MB"
PULL = (
    "\t[ERROR ImagePull]: failed to pull image registry.k8s.io/etcd:3.5.16-0: output: E1129 17:02:11 remote.go:180\n"
    ", error: exit status 1\n"
)
SAID = {
    "kubeadm, one check": (
        KUBEADM_WARNINGS + PREFLIGHT + f"\t{MEMORY}\n" + LAST_WORDS,
        (MEMORY,),
    ),
    "kubeadm, three checks": (
        KUBEADM_WARNINGS + PREFLIGHT + f"\t[ERROR NumCPU]: the number of available CPUs 1 is less than the required 2\n"
        f"\t{MEMORY}\n{PULL}" + LAST_WORDS,
        (
            "[ERROR NumCPU]: the number of available CPUs 1 is less than the required 2",
            MEMORY,
            ("[ERROR ImagePull]: failed to pull image registry.k8s.io/etcd:3.5.16-0: output: E1129 17:02:11 "
            "remote.go:180 , error: exit status 1"),
        ),
    ),
    "kubeadm waits in vain": (
        KUBEADM_WARNINGS
        + "[kubelet-check] The kubelet is not healthy after 4m0.000843525s\n\nUnfortunately, an error has occurred:\n"
        "\tThe HTTP call equal to 'curl -sSL http://127.0.0.1:10248/healthz' returned error: connection refused\n\n\n"
        "This error is likely caused by:\n\t- The kubelet is not running\n\n"
        "error execution phase wait-control-plane: could not initialize a Kubernetes cluster\n"
        "To see the stack trace of this error execute with --v=5 or higher\n"
        "the kubelet says: failed to run Kubelet: running with swap on is not supported\n",
        (
            "the kubelet says: failed to run Kubelet: running with swap on is not supported",
            ("Unfortunately, an error has occurred: The HTTP call equal to 'curl -sSL http://127.0.0.1:10248/healthz' "
            "returned error: connection refused"),
            "error execution phase wait-control-plane: could not initialize a Kubernetes cluster",
        ),
    ),
    "helm, a chart that refuses": (
        ("WARNING: Kubernetes configuration file is group-readable. This is insecure. Location: /x/kubeconfig\n"
        "Error: INSTALLATION FAILED: execution error at (cilium/templates/validate.yaml:48:5): \n"
        "kubeProxyReplacement must be explicitly set to a valid value (true or false) to continue.\n"),
        (
            ("Error: INSTALLATION FAILED: execution error at (cilium/templates/validate.yaml:48:5): "
            "kubeProxyReplacement must be explicitly set to a valid value (true or false) to continue."),
        ),
    ),
    "helm, a schema": (
        ("Error: values don't meet the specifications of the schema(s) in the following chart(s):\ncilium:\n"
        "- tunnelPort: Invalid type. Expected: integer, given: string\n- debug.verbose: Invalid type\n"),
        (
            ("Error: values don't meet the specifications of the schema(s) in the following chart(s): cilium: "
            "- tunnelPort: Invalid type. Expected: integer, given: string - debug.verbose: Invalid type"),
        ),
    ),
    "kubectl, the server": (
        ("Warning: policy/v1beta1 PodSecurityPolicy is deprecated in v1.21+, unavailable in v1.25+, not found\n"
        'Error from server (Forbidden): pods is forbidden: User "x" cannot list resource "pods" in API group ""\n'),
        ('Error from server (Forbidden): pods is forbidden: User "x" cannot list resource "pods" in API group ""',),
    ),
    "kubectl, what it was given": (
        ('Warning: would violate PodSecurity "restricted:latest": host namespaces\n'
        'The Pod "client" is invalid: \n* spec.containers[0].image: Required value\n* spec.nodeName: Forbidden\n'),
        ('The Pod "client" is invalid: * spec.containers[0].image: Required value * spec.nodeName: Forbidden',),
    ),
    "containerd, by ctr": (
        ('time="2026-11-29T17:00:00Z" level=warning msg="failed to load plugin" error="not found"\n'
        'ctr: failed to extract layer sha256:0b: failed to mount /tmp/x: no space left on device: unknown\n'),
        ("ctr: failed to extract layer sha256:0b: failed to mount /tmp/x: no space left on device: unknown",),
    ),
    "crictl": (
        ('WARN[0000] image connect using default endpoints: [unix:///run/containerd/containerd.sock]. Not found\n'
        'E1129 17:02:11.331457    4711 remote_image.go:180] "PullImage from image service failed" err="rpc error"\n'
        'FATA[0002] pulling image: failed to pull and unpack image "quay.io/cilium/cilium:v1.18.2": not found\n'),
        ('FATA[0002] pulling image: failed to pull and unpack image "quay.io/cilium/cilium:v1.18.2": not found',),
    ),
    "containerd's service": (
        ("Job for containerd.service failed because the control process exited with error code.\n"
        'See "systemctl status containerd.service" and "journalctl -xeu containerd.service" for details.\n'),
        ("Job for containerd.service failed because the control process exited with error code.",),
    ),
    "apt, dependencies": (
        ("W: Target Packages (main/binary-amd64/Packages) is configured multiple times\n"
        "Reading package lists...\nThe following packages have unmet dependencies:\n"
        " kubeadm : Depends: kubelet (>= 1.19.0) but it is not going to be installed\n"
        "           Depends: cri-tools (>= 1.30.0) but it is not installable\n"
        "E: Unable to correct problems, you have held broken packages.\n"),
        (
            ("The following packages have unmet dependencies: kubeadm : Depends: kubelet (>= 1.19.0) but it is not "
            "going to be installed Depends: cri-tools (>= 1.30.0) but it is not installable"),
            "E: Unable to correct problems, you have held broken packages.",
        ),
    ),
    "apt, through Ansible's module": (
        ("'/usr/bin/apt-get -y install 'kubeadm=1.32.2'' failed: E: Could not get lock /var/lib/dpkg/lock-frontend.\n"
        "W: Be aware that removing the lock file is not a solution and may break your system: an error\n"),
        ("E: Could not get lock /var/lib/dpkg/lock-frontend.",),
    ),
    "dpkg": (
        ("debconf: unable to initialize frontend: Dialog, an error\n"
        "dpkg: error processing package kubelet (--configure):\n"
        " installed kubelet package post-installation script subprocess returned error exit status 1\n"
        "E: Sub-process /usr/bin/dpkg returned an error code (1)\n"),
        (
            ("dpkg: error processing package kubelet (--configure): installed kubelet package post-installation "
            "script subprocess returned error exit status 1"),
            "E: Sub-process /usr/bin/dpkg returned an error code (1)",
        ),
    ),
    "dnf": (
        ("Warning: failed loading '/etc/yum.repos.d/x.repo', skipping.\n"
        "Error: \n Problem: package kubeadm-1.32.2 from kubernetes requires cri-tools >= 1.30.0\n"),
        ("Problem: package kubeadm-1.32.2 from kubernetes requires cri-tools >= 1.30.0",),
    ),
    "only a log": (
        'time="2026-11-29T17:00:00Z" level=warning msg="cannot"\ntime="2026-11-29T17:00:01Z" level=error msg="one"\n',
        ('time="2026-11-29T17:00:01Z" level=error msg="one"',),
    ),
}  # fmt: skip
MACHINE = Machine(node="node1", role=MachineRole.CONTROL_PLANE, address="192.168.56.10", user="debian")


@pytest.mark.parametrize("case", SAID)
def test_the_errors_of_each_tool_are_found_whole_and_no_warning_is_one(case: str) -> None:
    said, errors = SAID[case]
    assert errors_in(said) == errors
    assert errors_in(said.replace("\n", "\r\n")) == errors


@pytest.mark.parametrize("case", SAID)
def test_both_providers_put_what_failed_first_and_whole_and_name_the_file_with_the_rest(
    case: str, tmp_path: Path
) -> None:
    said, errors = SAID[case]
    failure = step_failed([TaskFailure(node="node1", task="T", message=said)], (MACHINE,), "/runs/x/stdout")
    log = tmp_path / "failed-command.txt"
    done = Completed(argv=("kind", "x"), returncode=1, stdout=b"", stderr=said.encode(), duration_s=1.0)
    kind = failed_command(done, timeout_s=9.0, log=log)
    assert kind.cause == "; ".join(errors)
    assert kind.remedy.splitlines()[-1] == f"less {log}  # all that it printed"
    assert all(error.removeprefix("the kubelet says: ") in failure.cause for error in errors[:1])
    assert "less /runs/x/stdout" in failure.remedy
    for shown in (kind.cause, failure.cause):
        assert "WARN" not in shown.upper()


def test_every_check_of_kubeadm_that_failed_has_its_remedy() -> None:
    said, _ = SAID["kubeadm, three checks"]
    failed = step_failed([TaskFailure(node="node1", task="T", message=said)], (MACHINE,), "LOG")
    assert "[Swap, NumCPU]" in failed.remedy
    assert "[Swap, Mem]" in failed.remedy
    assert "kubeadm.offline: true" in failed.remedy


def test_output_without_an_error_has_none_and_a_flood_is_bounded() -> None:
    assert errors_in("everything went well\nW: but slowly\n") == ()
    assert errors_in("") == ()
    assert len(joined(errors_in("\n".join(f"E: number {number}" for number in range(5000))))) <= LONGEST + 1
