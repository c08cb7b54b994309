"""A plain cluster on the three machines: kubeadm, kube-proxy, and a CNI that labctl did not install (Debian's bridge).

python3 tests/rig/rig_cluster.py up            machines, Kubernetes and pods' network; prints the kubeconfig's path
python3 tests/rig/rig_cluster.py kubeconfig    the path again
python3 tests/rig/rig_cluster.py run COMMAND…  up, the command with KUBECONFIG and PATH set, down
python3 tests/rig/rig_cluster.py down          everything gone, the host as it was
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rig_engine
import rig_images
import rig_machines
import rig_place
from rig_machines import RigMachine
from rig_place import CACHE, KUBERNETES, RUN, RigFailed, run

KUBECONFIG = RUN / "kubeconfig"
POD_CIDR, SERVICE_CIDR = "10.244.0.0/16", "10.96.0.0/12"
_ARCHIVE = "/var/lib/labctl/rig-images.tar"
_UNIT = """[Unit]
Description=kubelet: The Kubernetes Node Agent
After=containerd.service
ConditionPathExists=/var/lib/kubelet/config.yaml
[Service]
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=/usr/local/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
_IGNORED = "--ignore-preflight-errors=Swap,SystemVerification,Mem,NumCPU,ImagePull"


def start(machines: Sequence[RigMachine]) -> Path:
    """Kubernetes with kube-proxy and Debian's CNI plugins; the kubeconfig of its administrator. Raises RigFailed."""
    archive = rig_images.write_archive(rig_images.images())
    with ThreadPoolExecutor(max_workers=len(machines)) as pool:
        list(pool.map(lambda one: _prepare(one, archive), machines))
    leader, *workers = machines
    leader.write("/etc/rig-kubeadm.yaml", _init_configuration(leader))
    leader.run(
        "kubeadm", "init", "--config", "/etc/rig-kubeadm.yaml", "--skip-phases=addon/coredns", _IGNORED, timeout_s=400
    )
    token = leader.run("kubeadm", "token", "create", "--print-join-command").split()
    options = dict(zip(token[3::2], token[4::2], strict=False))

    def join(one: RigMachine) -> None:
        one.write("/etc/rig-kubeadm.yaml", _join_configuration(one, leader, options))
        one.run("kubeadm", "join", "--config", "/etc/rig-kubeadm.yaml", _IGNORED, timeout_s=400)

    with ThreadPoolExecutor(max_workers=len(machines)) as pool:
        list(pool.map(join, workers))
    KUBECONFIG.write_text(leader.run("cat", "/etc/kubernetes/admin.conf"))
    KUBECONFIG.chmod(0o600)
    _connect(machines)
    kubectl("taint", "nodes", "--all", "node-role.kubernetes.io/master-", check=False)
    kubectl("wait", "--for", "condition=Ready", "nodes", "--all", "--timeout=120s", timeout_s=150)
    return KUBECONFIG


def kubectl(*words: str, timeout_s: float = 60, check: bool = True) -> str:
    """kubectl of the same version, from this host."""
    return run(
        (str(CACHE / "bin" / "kubectl"), "--kubeconfig", str(KUBECONFIG), *words), timeout_s=timeout_s, check=check
    ).stdout


def _prepare(one: RigMachine, archive: Path) -> None:
    rig_machines.copy_in(one, archive, _ARCHIVE)
    one.shell(f"ctr --namespace k8s.io images import --no-unpack {_ARCHIVE} >/dev/null && rm {_ARCHIVE}", timeout_s=600)
    # Debian's configuration has its CNI directory; the sandbox image is the one that was packed for this Kubernetes.
    one.shell(
        "grep -q sandbox_image /etc/containerd/config.toml || "
        "sed -i 's#restrict_oom_score_adj = true#&\\n    sandbox_image = \"k8s.gcr.io/pause:3.2\"#' "
        "/etc/containerd/config.toml"
        " && systemctl restart containerd"
    )
    one.write("/etc/crictl.yaml", "runtime-endpoint: unix:///run/containerd/containerd.sock\ntimeout: 60\n")
    one.write("/etc/systemd/system/kubelet.service", _UNIT)
    one.shell("systemctl daemon-reload && systemctl enable kubelet && echo 1 > /proc/sys/net/ipv4/ip_forward")


def _registration(one: RigMachine) -> str:
    return (
        f"nodeRegistration:\n  name: {one.node}\n  criSocket: /run/containerd/containerd.sock\n"
        f"  kubeletExtraArgs: {{node-ip: {one.address}}}\n"
    )


def _init_configuration(leader: RigMachine) -> str:
    return (
        "apiVersion: kubeadm.k8s.io/v1beta2\nkind: InitConfiguration\n"
        f"localAPIEndpoint: {{advertiseAddress: {leader.address}}}\n{_registration(leader)}---\n"
        f"apiVersion: kubeadm.k8s.io/v1beta2\nkind: ClusterConfiguration\nkubernetesVersion: v{KUBERNETES}\n"
        f"networking: {{podSubnet: {POD_CIDR}, serviceSubnet: {SERVICE_CIDR}}}\n---\n"
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncgroupDriver: cgroupfs\ncgroupRoot: /\n"
        "failSwapOn: false\nimageGCHighThresholdPercent: 100\nevictionHard: {memory.available: 50Mi}\n---\n"
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n"
        "conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}\n"
    )


def _join_configuration(one: RigMachine, leader: RigMachine, options: dict[str, str]) -> str:
    return (
        "apiVersion: kubeadm.k8s.io/v1beta2\nkind: JoinConfiguration\ndiscovery:\n  bootstrapToken:\n"
        f"    apiServerEndpoint: {leader.address}:6443\n    token: {options['--token']}\n"
        f"    caCertHashes: [{options['--discovery-token-ca-cert-hash']}]\n{_registration(one)}"
    )


def _connect(machines: Sequence[RigMachine]) -> None:
    """The bridge plugin on each node with the addresses that Kubernetes gave it, and routes to the others'."""
    deadline = time.monotonic() + 60
    while True:
        nodes = {
            item["metadata"]["name"]: item["spec"].get("podCIDR", "")
            for item in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
        }
        if len(nodes) == len(machines) and all(nodes.values()):
            break
        if time.monotonic() > deadline:
            raise RigFailed(f"not every node has a podCIDR: {nodes}")
        time.sleep(0.5)
    for one in machines:
        one.write("/etc/cni/net.d/10-rig.conflist", cni_configuration(nodes[one.node]))
        for other in machines:
            if other is not one:
                one.run("ip", "route", "replace", nodes[other.node], "via", other.address)


def cni_configuration(pod_cidr: str) -> str:
    """Debian's bridge and portmap plugins for one node."""
    conf = {
        "cniVersion": "0.3.1", "name": "rig", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_cidr}]]}},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }  # fmt: skip
    return json.dumps(conf, indent=1)


def up(*, guarded: bool = True) -> Path:
    """The whole rig with a plain cluster on it; `guarded`: it goes with this process. Raises RigFailed."""
    if reason := rig_place.why_not():
        raise RigFailed(f"the rig cannot run here: {reason}")
    if KUBECONFIG.exists() and rig_engine.is_up():
        return KUBECONFIG
    rig_place.build()
    try:
        rig_engine.start(guarded=guarded)
        return start(rig_machines.start())
    except BaseException:
        if not os.environ.get("LABCTL_RIG_KEEP"):
            rig_engine.clear()
        raise


def main(arguments: Sequence[str]) -> int:
    try:
        match list(arguments):
            case ["up"]:
                print(up(guarded=False))
            case ["kubeconfig"]:
                print(KUBECONFIG)
            case ["run", *command] if command:
                up()
                try:
                    path = f"{CACHE / 'bin'}{os.pathsep}{os.environ['PATH']}"
                    return subprocess.run(
                        command, env={**os.environ, "KUBECONFIG": str(KUBECONFIG), "PATH": path}, check=False
                    ).returncode
                finally:
                    rig_engine.clear()
            case ["down"]:
                rig_engine.clear()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except RigFailed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
