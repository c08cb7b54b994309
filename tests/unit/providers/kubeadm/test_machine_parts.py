"""The parts that run on or look at machines: containerd's configuration, survey, crictl, save and restore."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest

from kubeadm_labs import THREE_HOSTS, make_lab
from labctl.errors import MeasureFailed
from labctl.model.lab import Encapsulation, Masquerade
from labctl.model.versions import Version
from labctl.providers.kubeadm.inventory import Template, inventory, pause_tag, sandbox_image, sources
from labctl.providers.kubeadm.kubernetes import kernel_modules, kernel_options
from labctl.providers.kubeadm.machines import machines_of, settings_of
from labctl.providers.kubeadm.open import device_of, door_into, parse_pid
from labctl.providers.kubeadm.plan import play_variables
from labctl.providers.kubeadm.preflight import judge_survey, least_python
from labctl.providers.kubeadm.settings import read_settings
from labctl.providers.kubeadm.survey import parse_survey

PLAYBOOKS = Path(__file__).resolve().parents[4] / "playbooks"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def containerd() -> ModuleType:
    return load(PLAYBOOKS / "filter_plugins" / "containerd_config.py")


VERSION_2 = """version = 2
# a comment that stays
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "k8s.gcr.io/pause:3.6"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = ""
      SystemdCgroup = false
"""
VERSION_3 = """version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'registry.k8s.io/pause:3.10'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
"""


@pytest.mark.parametrize("text", [VERSION_2, VERSION_3], ids=["containerd 1", "containerd 2"])
def test_both_settings_are_changed_where_they_stand_and_nothing_else(containerd: ModuleType, text: str) -> None:
    changed = containerd.containerd_config(text, systemd_cgroup=True, sandbox_image="mirror/pause:3.2")
    assert containerd.cgroup_driver(changed) == "systemd"
    assert containerd.sandbox_image_of(changed) == "mirror/pause:3.2"
    different = [(a, b) for a, b in zip(text.splitlines(), changed.splitlines(), strict=True) if a != b]
    assert len(different) == 2
    assert containerd.containerd_config(changed, systemd_cgroup=True, sandbox_image="mirror/pause:3.2") == changed


DEBIANS = """version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
"""


def test_debians_containerd_learns_where_cilium_puts_its_plugin(containerd: ModuleType) -> None:
    assert containerd.cni_directories_of(DEBIANS) == ["/usr/lib/cni"]
    changed = containerd.containerd_config(DEBIANS, cni_directory="/opt/cni/bin")
    assert changed == DEBIANS.replace("/usr/lib/cni", "/opt/cni/bin")
    assert containerd.containerd_config(DEBIANS, cni_directory="/usr/lib/cni") == DEBIANS


@pytest.mark.parametrize(
    ("line", "directories"),
    [
        ("", ["/opt/cni/bin"]),
        ("bin_dir = ''", ["/opt/cni/bin"]),
        ("bin_dirs = ['/usr/libexec/cni', '/opt/cni/bin']", ["/usr/libexec/cni", "/opt/cni/bin"]),
    ],
)
def test_a_directory_that_is_there_already_is_left(containerd: ModuleType, line: str, directories: list[str]) -> None:
    text = f"version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\n  {line}\n"
    assert containerd.cni_directories_of(text) == directories
    assert containerd.containerd_config(text, cni_directory="/opt/cni/bin") == text


def test_a_table_for_runc_has_its_type(containerd: ModuleType) -> None:
    """containerd 1.6.20 shows `runtime_type = ""` in `config dump` for a file that gives runc only options."""
    parsed = tomllib.loads(containerd.containerd_config(DEBIANS, systemd_cgroup=True, sandbox_image="p:1"))
    cri = parsed["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["containerd"]["runtimes"]["runc"] == {
        "runtime_type": "io.containerd.runc.v2", "options": {"SystemdCgroup": True},
    }  # fmt: skip
    assert cri["sandbox_image"] == "p:1"
    own = "version = 2\n[" + containerd.RUNTIME[2] + ']\n  runtime_type = "io.containerd.runc.v1"\n'
    assert 'runtime_type = "io.containerd.runc.v1"' in containerd.containerd_config(own, systemd_cgroup=True)


def test_a_list_of_directories_stays_a_list(containerd: ModuleType) -> None:
    text = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\n  bin_dirs = ['/usr/lib/cni']\n"
    changed = containerd.containerd_config(text, cni_directory="/opt/cni/bin")
    assert changed == text.replace("['/usr/lib/cni']", '["/opt/cni/bin"]')


def test_missing_tables_are_added(containerd: ModuleType) -> None:
    changed = containerd.containerd_config("", systemd_cgroup=True, sandbox_image="p:1")
    assert containerd.cgroup_driver(changed) == "systemd"
    assert containerd.sandbox_image_of(changed) == "p:1"
    assert changed.startswith("version = 2\n")


def test_a_missing_key_goes_into_its_own_table(containerd: ModuleType) -> None:
    text = VERSION_2.replace("      SystemdCgroup = false\n", "")
    lines = containerd.containerd_config(text, systemd_cgroup=True).splitlines()
    assert lines[lines.index('      BinaryName = ""') - 1].strip() == "SystemdCgroup = true"


def test_what_is_not_asked_stays(containerd: ModuleType) -> None:
    assert containerd.containerd_config(VERSION_2) == VERSION_2


def test_a_disabled_cri_is_enabled_and_other_plugins_stay_disabled(containerd: ModuleType) -> None:
    text = 'disabled_plugins = ["cri", "btrfs"]\nversion = 2\n'
    assert containerd.has_cri_disabled(text)
    assert containerd.containerd_config(text).splitlines()[0] == 'disabled_plugins = ["btrfs"]'


def machine(tmp_path: Path, *arguments: str, programs: str = "/nonexistent") -> str:
    done = subprocess.run(
        (sys.executable, str(PLAYBOOKS / "files" / "machine.py"), *arguments, "--root", str(tmp_path)),
        capture_output=True, check=True, timeout=60, text=True, env={"PATH": programs},
    )  # fmt: skip
    return done.stdout


def test_what_was_written_down_is_put_back_and_only_that(tmp_path: Path) -> None:
    for directory in ("etc/cni/net.d", "etc/containerd", "proc/sys/net"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc/containerd/config.toml").write_text("before\n")
    (tmp_path / "etc/containerd/config.toml").chmod(0o640)
    (tmp_path / "etc/cni/net.d/10-theirs.conf").write_text("theirs")
    (tmp_path / "proc/sys/net/forward").write_text("0\n")
    (tmp_path / "link").symlink_to("somewhere")
    wanted = {
        "files": ["/etc/containerd/config.toml", "/etc/crictl.yaml", "/link"],
        "directories": ["/etc/cni/net.d", "/var/lib/etcd"],
        "sysctls": ["net.forward", "net.absent"], "services": [], "packages": [], "modules": [],
    }  # fmt: skip
    assert machine(tmp_path, "save", "--wanted", json.dumps(wanted)) == "saved\n"

    (tmp_path / "etc/containerd/config.toml").write_text("after\n")
    (tmp_path / "etc/crictl.yaml").write_text("ours")
    (tmp_path / "etc/cni/net.d/05-cilium.conflist").write_text("ours")
    (tmp_path / "var/lib/etcd/member").mkdir(parents=True)
    (tmp_path / "proc/sys/net/forward").write_text("1\n")
    (tmp_path / "link").unlink()
    # A second save, after things were changed, must not take the changes for what was before.
    assert machine(tmp_path, "save", "--wanted", json.dumps(wanted)) == ""

    said = machine(tmp_path, "restore")
    assert (tmp_path / "etc/containerd/config.toml").read_text() == "before\n"
    assert (tmp_path / "etc/containerd/config.toml").stat().st_mode & 0o777 == 0o640
    assert not (tmp_path / "etc/crictl.yaml").exists()
    assert [p.name for p in (tmp_path / "etc/cni/net.d").iterdir()] == ["10-theirs.conf"]
    assert not (tmp_path / "var/lib/etcd").exists()
    assert (tmp_path / "proc/sys/net/forward").read_text() == "0\n"
    assert (tmp_path / "link").readlink() == Path("somewhere")
    assert "put back /etc/containerd/config.toml" in said.splitlines()
    assert machine(tmp_path, "restore") == ""


SYSTEMCTL = """#!/bin/sh
cd "${0%/*}/../etc/systemd/system"
link=multi-user.target.wants/$2
case $1 in
is-enabled)
    if [ ! -e "$2" ]; then echo "Failed to get unit file state for $2" >&2; exit 1; fi
    if [ -L "$link" ]; then echo enabled; else echo disabled; exit 1; fi ;;
disable) [ -e "$2" ] && rm "$link" ;;
*) exit 3 ;;
esac
"""
UMOUNT = """#!/bin/sh
cd "${0%/*}/../proc/self"
/bin/tac mounts | /bin/sed "0,\\# $2 # { \\# $2 # d }" | /bin/tac >mounts.new && /bin/mv mounts.new mounts
"""


def test_what_a_kubelet_leaves_goes_and_what_was_there_of_one_stays(tmp_path: Path) -> None:
    groups, links = tmp_path / "sys/fs/cgroup", tmp_path / "etc/systemd/system/multi-user.target.wants"
    for folder in ("cpu,cpuacct", "memory/kubepods", "systemd"):
        (groups / folder).mkdir(parents=True)
    (groups / "cpu").symlink_to("cpu,cpuacct")
    for place in (links, tmp_path / "opt", tmp_path / "root/.kube/cache/http", tmp_path / "programs"):
        place.mkdir(parents=True)
    (tmp_path / "root/.kube/cache/http/theirs").write_text("")
    for name, text in (("systemctl", SYSTEMCTL), ("umount", UMOUNT)):
        (tmp_path / "programs" / name).write_text(text)
        (tmp_path / "programs" / name).chmod(0o755)
    mounts = tmp_path / "proc/self/mounts"
    mounts.parent.mkdir(parents=True)
    mounts.write_text("/dev/sdb /var/lib/kubelet ext4 rw 0 0\n")
    unit = "/etc/systemd/system/kubelet.service"
    wanted = {
        "files": [unit], "directories": ["/opt/cni/bin", "/root/.kube/cache/discovery", "/root/.kube/cache/http"],
        "sysctls": [], "services": ["kubelet.service"], "packages": [], "modules": [],
    }  # fmt: skip
    words = {"programs": f"{tmp_path / 'programs'}:/usr/bin:/bin"}
    machine(tmp_path, "save", "--wanted", json.dumps(wanted), **words)

    for folder in ("cpu,cpuacct/kubepods/burstable/pod1", "memory/kubepods/pod1", "systemd/kubepods.slice/pod1"):
        (groups / folder).mkdir(parents=True)
    (tmp_path / "opt/cni/bin").mkdir(parents=True)
    (tmp_path / "opt/cni/bin/ours").write_text("")
    (tmp_path / "root/.kube/cache/discovery/10.0.0.1_6443").mkdir(parents=True)
    (tmp_path / "root/.kube/cache/http/ours").write_text("")
    (tmp_path / unit.strip("/")).write_text("[Service]")
    (links / "kubelet.service").symlink_to(unit)
    mounts.write_text(mounts.read_text() + "/dev/sda /var/lib/kubelet ext4 rw 0 0\n")

    said = machine(tmp_path, "restore", **words).splitlines()
    assert sorted(str(path.relative_to(groups)) for path in groups.rglob("*kubepods*")) == ["memory/kubepods"]
    assert not (tmp_path / "opt/cni").exists()
    assert [path.name for path in (tmp_path / "root/.kube/cache").rglob("*")] == ["http", "theirs"]
    assert list(links.iterdir()) == []
    assert mounts.read_text() == "/dev/sdb /var/lib/kubelet ext4 rw 0 0\n"
    assert "unmounted /var/lib/kubelet" in said
    assert "removed cgroup /sys/fs/cgroup/cpu,cpuacct/kubepods" in said
    assert machine(tmp_path, "restore", **words) == ""


CTR = """#!/bin/sh
cd "${0%/*}"
shift 2
case $* in
"namespaces list -q") echo k8s.io ;;
"--namespace k8s.io images list -q") /usr/bin/cut -d ' ' -f 1 images ;;
"--namespace k8s.io images list") /bin/cat images ;;
"--namespace k8s.io images label "*"=") /bin/sed -i "s#^\\($5 .*\\),$6pinned#\\1#" images ;;
*) exit 3 ;;
esac
"""


def test_an_image_that_was_there_is_pinned_only_as_long_as_the_lab_is(tmp_path: Path) -> None:
    (tmp_path / "ctr").write_text(CTR)
    (tmp_path / "ctr").chmod(0o755)
    pin = ",io.cri-containerd.pinned=pinned"
    (tmp_path / "images").write_text(f"docker.io/a:1 managed\nk8s.gcr.io/pause:3.2 managed{pin}\n")
    lists: dict[str, list[str]] = {
        name: [] for name in ("files", "directories", "sysctls", "services", "packages", "modules")
    }
    machine(tmp_path, "save", "--wanted", json.dumps({"socket": "/c.sock", **lists}), programs=str(tmp_path))
    (tmp_path / "images").write_text(f"docker.io/a:1 managed{pin}\nk8s.gcr.io/pause:3.2 managed{pin}\n")
    assert machine(tmp_path, "restore", programs=str(tmp_path)) == "image docker.io/a:1 is not pinned any more\n"
    assert (tmp_path / "images").read_text() == f"docker.io/a:1 managed\nk8s.gcr.io/pause:3.2 managed{pin}\n"


SURVEY = """Welcome to this machine = have fun
uid=0
kernel=6.1.0-18-amd64
family= debian
systemd=yes
python=yes
kubeadm=v1.20.2
kubelet=Kubernetes v1.20.2
containerd=containerd github.com/containerd/containerd 1.6.20
mark=
device=lo 127.0.0.1
device=eth0 10.0.2.15
device=eth1@if3 192.168.56.10
"""


def problems(tmp_path: Path, text: str, **kubeadm: Any) -> list[str]:
    lab = make_lab(hosts=[{**THREE_HOSTS[0], "nodeAddress": "192.168.56.10"}], nodes=1, kubeadm=dict(kubeadm))
    settings = read_settings(lab, tmp_path)
    return [o.cause for o in judge_survey(settings, [parse_survey("node1", text)])]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("lacks=crictl\nlacks=conntrack\n", "downloading is disabled, and it lacks crictl and conntrack"),
        ("containerd=containerd github.com/containerd/containerd v2.0.1 c\n",
         "containerd 2.0.1 does not work with the kubelet of Kubernetes 1.20.2 (CRI v1alpha2)"),
        ("pythonversion=3.5\n", "its Python is 3.5, and ansible-core"),
    ],
)  # fmt: skip
def test_what_a_machine_lacks_for_offline_work_is_reported_early(tmp_path: Path, change: str, cause: str) -> None:
    found = problems(tmp_path, SURVEY + change, offline=True)
    assert len(found) == 1
    assert found[0].startswith(cause)


def test_a_check_of_kubeadm_that_is_waived_is_waived_early_too(tmp_path: Path) -> None:
    text = SURVEY + "lacks=conntrack\n"
    assert problems(tmp_path, text, offline=True, ignorePreflightErrors=["Swap", "FileExisting-conntrack"]) == []


@pytest.mark.parametrize(
    ("ansible_core", "least"), [("2.15.13", (3, 6)), ("2.17.1", (3, 7)), ("2.19.14", (3, 8)), ("2.20.0", (3, 9))]
)
def test_each_ansible_works_with_its_own_pythons(ansible_core: str, least: tuple[int, int]) -> None:
    assert least_python(ansible_core) == least


def test_only_what_cilium_cannot_do_without_stops_a_machine() -> None:
    by_bpf = {option.name: option for option in kernel_options(make_lab().datapath)}
    by_iptables = {o.name for o in kernel_options(replace(make_lab().datapath, masquerade=Masquerade.IPTABLES))}
    assert not by_bpf["CONFIG_CRYPTO_USER_API_HASH"].required
    assert by_bpf["CONFIG_NET_CLS_BPF"].required
    assert by_bpf["CONFIG_NET_CLS_BPF"].line == "CONFIG_NET_CLS_BPF:cls_bpf:Cilium's programs on devices:must"
    assert "CONFIG_IP_SET" in by_iptables - set(by_bpf)


@pytest.mark.parametrize(
    ("encapsulation", "options", "modules"),
    [
        (Encapsulation.VXLAN, {"CONFIG_VXLAN"}, {"vxlan"}),
        (Encapsulation.GENEVE, {"CONFIG_GENEVE"}, {"geneve"}),
        (Encapsulation.NATIVE, set(), set()),
    ],
)
def test_a_machine_needs_the_tunnel_of_its_datapath_alone(
    encapsulation: Encapsulation, options: set[str], modules: set[str]
) -> None:
    datapath = replace(make_lab().datapath, encapsulation=encapsulation)
    tunnels = {"CONFIG_VXLAN", "CONFIG_GENEVE"}
    assert {option.name for option in kernel_options(datapath)} & tunnels == options
    assert set(kernel_modules(datapath)) & {"vxlan", "geneve"} == modules


def test_the_kernel_is_judged_by_what_it_must_have_and_what_it_may() -> None:
    script = PLAYBOOKS / "files" / "kernel-check.sh"
    options = "CONFIG_NO_SUCH:nosuch:x:must;CONFIG_NONE_EITHER:none_either:y:may;CONFIG_BPF::z:must"
    done = subprocess.run(("sh", str(script), options), capture_output=True, check=True, text=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("unknown")]
    if lines:  # a kernel whose configuration can be read
        assert lines == ["missing CONFIG_NO_SUCH (needed for x)", "without CONFIG_NONE_EITHER (needed for y)"]
    else:
        assert done.stdout.startswith("unknown: the kernel's configuration cannot be read")


def test_every_image_that_a_machine_needs_is_known_before(tmp_path: Path) -> None:
    own = {"image": "local/cilium:1", "operatorImage": "local/operator-generic:1"}
    lab = make_lab(hosts=THREE_HOSTS, kubeadm={"offline": True, "toolsImage": "docker.io/library/tools:1"}, cilium=own)
    assert read_settings(lab, tmp_path).images == (
        "local/cilium:1",
        "local/operator-generic:1",
        "docker.io/library/tools:1",
    )
    assert "quay.io/cilium/cilium:v1.13.12" in read_settings(make_lab(hosts=THREE_HOSTS), tmp_path).images


def test_cilium_learns_from_its_own_values_where_its_plugin_goes(tmp_path: Path) -> None:
    lab = make_lab(hosts=THREE_HOSTS, cilium={"values": {"cni": {"binPath": "/usr/lib/cni"}}})
    settings = read_settings(lab, tmp_path)
    assert settings.cni_directory == "/usr/lib/cni"
    labctl = play_variables(settings)["labctl"]
    assert labctl["cni_directory"] == "/usr/lib/cni"
    assert "/usr/lib/cni" in labctl["remember"]["directories"]


def test_a_machine_that_fits_has_nothing_against_it(tmp_path: Path) -> None:
    seen = parse_survey("node1", SURVEY)
    assert seen.device_of("192.168.56.10") == "eth1"
    assert problems(tmp_path, SURVEY, offline=True) == []


@pytest.mark.parametrize(
    ("change", "keys", "cause"),
    [
        (("uid=0", "uid=1000"), {}, "debian is not root there"),
        (("python=yes\n", ""), {}, "Ansible needs Python 3"),
        (("systemd=yes\n", ""), {}, "it does not run systemd"),
        (("mark=", "mark=bpf"), {}, "it belongs to lab bpf"),
        (("mark=", "mark=\ncluster=yes"), {}, "it is a node of a cluster that labctl did not make"),
        (("6.1.0-18", "4.9.0-1"), {}, "does not run on Linux 4.9"),
        (("kubeadm=v1.20.2", "kubeadm=v1.24.0"), {}, "kubeadm 1.24.0 builds Kubernetes 1.24 and 1.23, not 1.20.2"),
        (("kubeadm=v1.20.2", "kubeadm="), {"offline": True}, "it lacks kubeadm"),
        (("kubeadm=v1.20.2", "kubeadm="), {}, "in no vendor repository any more"),
        (("192.168.56.10\n", "192.168.56.99\n"), {}, "it has no address 192.168.56.10; it has 10.0.2.15 (eth0)"),
    ],
)
def test_each_obstacle_is_reported(tmp_path: Path, change: tuple[str, str], keys: dict[str, Any], cause: str) -> None:
    assert any(cause in said for said in problems(tmp_path, SURVEY.replace(*change), **keys)), cause


def test_this_labs_own_machines_are_no_obstacle(tmp_path: Path) -> None:
    assert problems(tmp_path, SURVEY.replace("mark=", "mark=legacy\ncluster=yes"), offline=True) == []


def test_a_pods_process_is_read_from_crictl_and_entered_by_its_namespaces() -> None:
    assert parse_pid(json.dumps({"info": {"pid": 4711}, "status": {}})) == 4711
    assert door_into(4711).closed[:2] == ("nsenter", "--target=4711")
    with pytest.raises(MeasureFailed):
        parse_pid("{}")


def test_the_uplink_is_the_device_with_the_nodes_address() -> None:
    links = {"eth0": "10.0.2.15", "eth1": "10.0.0.1"}
    text = json.dumps([{"ifname": name, "addr_info": [{"local": address}]} for name, address in links.items()])
    assert device_of(text, "10.0.0.1") == "eth1"
    assert device_of(text, "10.0.0.9") == ""
    assert device_of("no JSON", "10.0.0.1") == ""


def test_the_inventory_holds_no_password_and_reads_it_when_needed() -> None:
    hosts = [{**THREE_HOSTS[0], "sudoPasswordFile": '/home/me/it\'s "mine"', "key": "/k"}, *THREE_HOSTS[1:]]
    found = inventory(machines_of(make_lab(hosts=hosts)))
    leader = found["all"]["children"]["control_plane"]["hosts"]["node1"]
    assert isinstance(leader["ansible_become_password"], Template)
    asked: list[str] = []
    content = ""

    def lookup(kind: str, path: str, *, rstrip: bool) -> str:
        assert (kind, rstrip) == ("ansible.builtin.file", False)
        asked.append(path)
        return content

    template = jinja2.Environment(autoescape=False).from_string(leader["ansible_become_password"])
    path = leader["labctl_sudo_password_file"]
    assert template.render(lookup=lookup, labctl_sudo_password_file=path) == ""
    content = "secret \nmore\n"
    assert template.render(lookup=lookup, labctl_sudo_password_file=path) == "secret "
    assert set(asked) == {'/home/me/it\'s "mine"'}
    assert list(found["all"]["children"]["workers"]["hosts"]) == ["node2", "node3"]


def test_a_mirror_serves_the_sandbox_image_too() -> None:
    mirror = settings_of(make_lab(kubeadm={"imageRepository": "registry.aliyuncs.com/google_containers"}))
    assert sandbox_image(mirror) == "registry.aliyuncs.com/google_containers/pause:3.2"
    assert sandbox_image(settings_of(make_lab())) == ""
    assert [pause_tag(Version.parse(v)) for v in ("1.20.5", "1.25.0", "1.31.4")] == ["3.2", "3.8", "3.10"]


def test_the_vendors_repository_goes_by_minor_version_and_family() -> None:
    settings = settings_of(make_lab(kubeadm={"kubernetes": "1.31.4"}))
    assert sources(settings, "Debian").kubernetes == "https://pkgs.k8s.io/core:/stable:/v1.31/deb/"
    assert sources(settings, "RedHat").kubernetes_key.endswith("/v1.31/rpm/repodata/repomd.xml.key")
    mirrored = settings_of(make_lab(kubeadm={"packages": {"repository": "http://mirror/{minor}/"}}))
    assert sources(mirrored, "Debian").kubernetes == "http://mirror/v1.20/"
