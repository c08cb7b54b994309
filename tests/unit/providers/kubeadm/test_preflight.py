"""Whether a machine can be used: room, ports, cgroups; its tables of nftables; how a person gets there."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.providers.kubeadm.machines import machines_of, section_of
from labctl.providers.kubeadm.preflight import judge_machine, judge_survey
from labctl.providers.kubeadm.settings import read_settings
from labctl.providers.kubeadm.ssh import MachineCommands
from labctl.providers.kubeadm.survey import SCRIPT, parse_survey

MACHINE = Path(__file__).resolve().parents[4] / "playbooks" / "files" / "machine.py"
SURVEY = """uid=0
kernel=6.1.0-18-amd64
family= debian
systemd=yes
python=yes
kubeadm=v1.20.2
kubelet=Kubernetes v1.20.2
containerd=containerd github.com/containerd/containerd 1.6.20
"""


def machine_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location(MACHINE.stem, MACHINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def problems(tmp_path: Path, text: str, **kubeadm: Any) -> list[str]:
    settings = read_settings(make_lab(hosts=THREE_HOSTS[:1], nodes=1, kubeadm=kubeadm), tmp_path)
    return [o.cause for o in judge_survey(settings, [parse_survey("node1", text)])]


ROOM = """cpus=2
memory=4030212
free=7340032 /var/lib
cgroup=tmpfs
port=22
"""


@pytest.mark.parametrize(
    ("change", "keys", "cause"),
    [
        (("cpus=2", "cpus=1"), {}, "the control plane needs 2 CPUs, and it has 1"),
        (("cpus=2", "cpus=1"), {"ignorePreflightErrors": ["NumCPU"]}, ""),
        (("memory=4030212", "memory=1020000"), {}, "the control plane needs 1700 MB of memory, and it has 996"),
        (("free=7340032", "free=90000"), {}, "/var/lib has 87 MB free, and images, logs and etcd need more"),
        (("port=22", "port=6443"), {}, "port 6443 is taken on the machine"),
        (("port=22", "port=6443"), {"apiPort": 7443}, ""),
        (("port=22", "port=10250"), {}, "port 10250 is taken on the machine"),
        (("port=22", "port=6443\nmark=legacy"), {}, ""),
        (("cgroup=tmpfs", "cgroup=cgroup2fs"), {}, ""),
    ],
)
def test_room_and_ports_are_looked_at_before_anything_is_changed(
    tmp_path: Path, change: tuple[str, str], keys: dict[str, Any], cause: str
) -> None:
    found = problems(tmp_path, (SURVEY + ROOM).replace(*change), offline=True, **keys)
    assert (len(found), cause in "".join(found)) == (1 if cause else 0, True)


PRESSURE = """space=7340032 20000000 /var/lib
space=7340032 20000000 /var/lib/containerd
inodes=900000 1300000 /var/lib
inodes=0 0 /var/lib/containerd
available=1500000
"""


@pytest.mark.parametrize(
    ("change", "keys", "causes"),
    [
        (("", ""), {}, []),
        (("space=7340032 20000000 /var/lib\n", "space=900000 20000000 /var/lib\n"), {},
         ["DiskPressure and evict pods: 4.5 % of the space of /var/lib are free, and 5 % have to be"]),
        (("space=7340032 20000000 /var/lib/c", "space=3 20000000 /var/lib/c"), {},
         ["DiskPressure and evict pods: 0.0 % of the space of /var/lib/containerd"]),
        (("inodes=900000", "inodes=12000"), {}, ["DiskPressure and evict pods: 0.9 % of the inodes of /var/lib"]),
        (("available=1500000", "available=409600"), {},
         ["MemoryPressure and evict pods: 400 MB of memory are available, and the lab needs 500"]),
        (("available=1500000", "available=409600\nmark=legacy"), {}, []),
        (("available=1500000", "available=90000\nmark=legacy"), {}, ["87 MB of memory are available"]),
        (("7340032 20000000", "900000 20000000"), {"kubelet": {"evictionHard": {"nodefs.available": "0%"}}}, []),
    ],
)  # fmt: skip
def test_pressure_of_disk_inodes_and_memory_is_foreseen(
    tmp_path: Path, change: tuple[str, str], keys: dict[str, Any], causes: list[str]
) -> None:
    found = problems(tmp_path, (SURVEY + ROOM + PRESSURE).replace(*change), offline=True, **keys)
    assert len(found) == len(causes), found
    assert all(cause in said for cause, said in zip(causes, found, strict=True))


def test_a_real_machine_tells_its_room() -> None:
    seen = parse_survey(
        "node1", subprocess.run(("sh", "-c", SCRIPT), capture_output=True, text=True, check=True).stdout
    )
    assert {room.unit for room in seen.rooms} == {"space", "inodes"}
    assert {room.directory for room in seen.rooms} >= {"/var/lib"}
    space = next(room for room in seen.rooms if room.unit == "space")
    assert 0 < space.free <= space.total
    assert 0.0 <= space.free_percent <= 100.0
    assert seen.available_byte > 1 << 20


@pytest.mark.parametrize(
    ("kubernetes", "kubelet", "cgroup", "containerd", "cause"),
    [
        ("1.20.2", {}, "tmpfs", "1.6.20", ""),
        ("1.20.2", {}, "cgroup2fs", "1.6.20", ""),
        ("1.20.2", {}, "cgroup2fs", "1.3.9", "it has cgroup v2, which containerd 1.3.9 does not support"),
        ("1.34.2", {}, "tmpfs", "1.7.24", ""),
        ("1.35.0", {}, "tmpfs", "1.7.24", "on which the kubelet of Kubernetes 1.35.0 does not start"),
        ("1.35.0", {"failCgroupV1": False}, "tmpfs", "1.7.24", ""),
        ("1.35.0", {}, "cgroup2fs", "1.7.24", ""),
        ("1.35.0", {}, "", "1.7.24", ""),
    ],
)
def test_cgroups_that_the_kubelet_or_containerd_cannot_use_are_reported_early(
    kubernetes: str, kubelet: dict[str, Any], cgroup: str, containerd: str, cause: str
) -> None:
    text = f"uid=0\npython=yes\nsystemd=yes\ncontainerd=containerd x {containerd}\ncgroup={cgroup}\n"
    kubeadm = section_of({"kubernetes": kubernetes, "kubelet": kubelet})
    found = judge_machine(kubeadm, machines_of(make_lab(hosts=THREE_HOSTS))[0], parse_survey("node1", text))
    assert [cause in said for said, _ in found if "cgroup" in said] == ([True] if cause else [])


EMPTY_TABLE = """# Warning: table ip nat is managed by iptables-nft, do not touch!
table ip nat {
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
	}

	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
	}
}
"""


@pytest.mark.parametrize(
    ("text", "is_empty"),
    [
        (EMPTY_TABLE, True),
        (EMPTY_TABLE.replace("policy accept", "policy drop", 1), False),
        (EMPTY_TABLE.replace("srcnat; policy accept;", "srcnat; policy accept;\n\t\tmasquerade"), False),
        (EMPTY_TABLE.replace("\tchain PREROUTING", "\tset mine {\n\t}\n\tchain PREROUTING"), False),
        (EMPTY_TABLE.replace("chain PREROUTING", "chain theirs"), False),
    ],
)
def test_only_a_table_without_rules_and_without_chains_of_ones_own_counts_as_empty(text: str, is_empty: bool) -> None:
    assert machine_program().is_empty_table(text) is is_empty


def test_what_is_to_be_typed_has_the_port_key_and_host_keys_of_lab_yaml() -> None:
    plain, full = (
        machines_of(make_lab(hosts=[{**THREE_HOSTS[0], **more}], nodes=1))[0]
        for more in ({}, {"port": 2222, "key": "~/my keys/lab", "knownHosts": "/etc/lab/keys"})
    )
    assert plain.place == "debian@192.168.56.10"
    assert full.place == ("-p 2222 -i ~/'my keys/lab' -o UserKnownHostsFile=/etc/lab/keys debian@192.168.56.10")
    assert plain.forgetting() == "-R '192.168.56.10'"
    assert full.forgetting() == "-R '[192.168.56.10]:2222' -f /etc/lab/keys"
    assert full.forgetting("alias") == "-R 'alias' -f /etc/lab/keys"
    prefix = MachineCommands(full).prefix
    assert prefix[:3] == ("ssh", "-p", "2222")
    assert prefix[4] == str(Path("~/my keys/lab").expanduser())
