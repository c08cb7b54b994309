"""What `down` takes away of a machine's kernel, on a real kernel: rules and chains of both back ends, sandboxes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).parents[3] / "playbooks" / "files"
NAMES = ("iptables", "ip6tables")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(shutil.which("iptables-legacy-save") is None, reason="needs iptables-legacy: iptables"),
]
STATE = """
for v in legacy nft; do for f in iptables ip6tables; do
    n=$(echo $f | sed s/tables/_tables_names/)
    [ $v = legacy ] && [ -z "$(cat /proc/net/$n)" ] && continue
    echo "$f $v"; $f-$v-save 2>/dev/null | grep -v '^#' | sed 's/ \\[.*//'
done; done; nft list ruleset 2>/dev/null
"""
CILIUMS = """
for t in filter nat mangle raw; do
    $i -t $t -N CILIUM_PRE; $i -t $t -N KUBE-MARK
    $i -t $t -A OUTPUT -m comment --comment 'cilium-feeder: CILIUM_PRE' -j CILIUM_PRE
    $i -t $t -A CILIUM_PRE -j RETURN
done
"""


def in_namespace(script: str) -> str:
    done = subprocess.run(
        ("unshare", "--net", "--mount", "sh", "-eu", "-c", script), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("back_end", ["legacy", "nft"])
@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("has_own", [False, True])
def test_rules_and_chains_of_cilium_and_the_kubelet_go_and_others_stay(
    back_end: str, family: str, has_own: bool
) -> None:
    iptables = f"{family}-{back_end}"
    own = f"{iptables} -N MINE; {iptables} -A MINE -j ACCEPT; {iptables} -A INPUT -i lo -j MINE" if has_own else ""
    # The legacy tables of a namespace stay once they were asked for: they are empty before, as on a machine in use.
    tables = f"for t in filter nat mangle raw; do {iptables} -t $t -S >/dev/null; done" if back_end == "legacy" else ""
    said = in_namespace(
        f"{tables}\n{own}\nbefore=$({STATE})\ni={iptables}\n{CILIUMS}\nmiddle=$({STATE})\n"
        f"sh {FILES / 'leftovers.sh'} 10.244.0.0/16 >/tmp/labctl-said.$$\nafter=$({STATE})\n"
        'printf "%s\\0%s\\0%s" "$before" "$middle" "$after"; rm /tmp/labctl-said.$$'
    )
    before, middle, after = said.split("\0")
    assert "CILIUM_PRE" in middle
    assert "KUBE-MARK" in middle
    assert "CILIUM_" not in after
    assert after == before


def test_tables_that_do_not_exist_are_not_made_by_looking() -> None:
    script = f"sh {FILES / 'leftovers.sh'} 10.244.0.0/16; cat /proc/net/ip_tables_names; nft list tables"
    assert in_namespace(script).strip() == ""


NETWORKS = """
ip link add mesh0 type bridge; ip link set mesh0 up; ip address add 10.244.1.1/24 dev mesh0
ip link add mesh-pod type veth peer name mesh-peer; ip link set mesh-pod up
ip link add mesh.1 type vxlan id 77 dstport 4799; ip link set mesh.1 up
ip route add 10.244.2.0/24 via 192.0.2.9 dev wire; ip route add blackhole 10.244.3.0/24 proto 80
ip route add 198.51.100.0/24 via 192.0.2.9 dev wire table 77; ip rule add fwmark 0x77 lookup 77 preference 777
nft add table inet mesh; nft 'add chain inet mesh every { type filter hook forward priority 0; }'
for i in $backs; do
    $i -t nat -N MESH-POST; $i -t nat -A POSTROUTING -m comment --comment 'mesh masq' -j MESH-POST
    $i -t nat -A MESH-POST -s 10.244.0.0/16 -j MASQUERADE
    $i -P FORWARD DROP; $i -I FORWARD 1 -i mesh0 -j ACCEPT; $i -A INPUT -p icmp -j ACCEPT
done
cd $folder/var/lib; mkdir -p mesh/deep; echo state >mesh/deep/file; touch theirs/more; cd /
"""
SHOWN = """
ip -4 rule show; ip -4 route show table all | grep -v ^local | grep -v ^broadcast; ip -o link show | cut -d' ' -f2,3,9
"""


@pytest.mark.parametrize("backs", ["iptables-legacy iptables-nft", "iptables-nft"])
def test_what_a_network_that_nobody_knows_added_goes_and_what_was_there_stays(tmp_path: Path, backs: str) -> None:
    """Devices, routes, policies, rules and folders, on a real kernel; a rule of the machine's own stands twice."""
    wanted = {
        "files": [], "directories": [], "sysctls": [], "services": [], "packages": [], "modules": [],
        "network": {"paths": ["/var/lib/mesh", "/var/lib/theirs"]},
    }  # fmt: skip
    (tmp_path / "var/lib/theirs").mkdir(parents=True)
    own = """
ip link set lo up; ip link add wire type veth peer name far; ip link set wire up; ip link set far up
ip address add 192.0.2.1/24 dev wire; ip route add 203.0.113.0/24 via 192.0.2.9
for i in $backs; do
    $i -A INPUT -p icmp -j ACCEPT; $i -t nat -N OWN; $i -t nat -A POSTROUTING -s 192.0.2.0/24 -j OWN
done
nft add table inet own
"""
    machine = f"python3 {FILES / 'machine.py'}"
    there = f"--to /before --root {tmp_path}"
    said = in_namespace(
        f"backs='{backs}' folder={tmp_path}\n{own}\n{machine} save {there} --wanted '{json.dumps(wanted)}' >/dev/null\n"
        f"before=$({SHOWN}{STATE})\n{NETWORKS}\nmiddle=$({SHOWN}{STATE})\n"
        f"said=$({machine} restore {there})\nafter=$({SHOWN}{STATE})\nagain=$({machine} restore {there})\n"
        'printf "%s\\0%s\\0%s\\0%s\\0%s" "$before" "$middle" "$said" "$after" "$again"'
    )
    before, middle, told, after, again = said.split("\0")
    for part in ("mesh0", "MESH-POST", "777", "inet mesh", "10.244.3.0/24"):
        assert part in middle
    assert after == before
    for line in (
        "removed device mesh0", "removed device mesh.1", "removed the table inet mesh", "removed /var/lib/mesh",
        "removed route blackhole 10.244.3.0/24 proto 80", "removed rule 777: from all fwmark 0x77 lookup 77",
    ):  # fmt: skip
        assert line in told.splitlines()
    assert again == ""
    assert [path.name for path in (tmp_path / "var/lib").iterdir()] == ["theirs"], "what was there keeps what it got"


PLACES = """
cp -a /etc $folder/etc; mkdir $folder/opt $folder/lib; printf '' >$folder/sets
mount --bind $folder/etc /etc; mount --bind $folder/opt /opt; mount --bind $folder/lib /var/lib
mount -t tmpfs tmpfs /run; mount -t sysfs sysfs /sys; mount -t bpf bpf /sys/fs/bpf
mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/kubelet/pods /sys/fs/bpf/own
echo own >/etc/cni/net.d/10-own.conflist; touch /etc/sysctl.d/99-own.conf /opt/cni/bin/bridge; echo own >>$folder/sets
ip link set lo up; ip link add lxc-own type veth peer name far; ip link set lxc-own up
ip address add 192.0.2.1/24 dev lxc-own
"""
IPSET = """#!/bin/sh
case $1 in
list) cat "$folder/sets" ;;
destroy) sed -i "/^$2\\$/d" "$folder/sets" ;;
esac
"""
OF_CILIUM = """
cd /etc/cni/net.d; mv 10-own.conflist 10-own.conflist.cilium_bak; touch 05-cilium.conflist; cd /
touch /etc/sysctl.d/99-zzz-override_cilium.conf /opt/cni/bin/cilium-cni; printf 'cilium_a\ncilium_b\n' >>$folder/sets
mkdir -p /var/lib/cilium/bpf /run/cilium/cgroupv2 /sys/fs/bpf/cilium/devices /sys/fs/bpf/tc/globals/cilium_lxc
ln -s tc /sys/fs/bpf/ip
mount -t tmpfs tmpfs /run/cilium/cgroupv2; mkdir /run/cilium/cgroupv2/deep
mkdir /var/lib/kubelet/pods/volume; mount -t tmpfs tmpfs /var/lib/kubelet/pods/volume
ip link add cilium_host type veth peer name cilium_net; ip link set cilium_host up
ip link add cilium_vxlan type vxlan id 77 dstport 4799; ip link add lxc12ab type veth peer name there
ip address add 10.0.0.7/32 dev cilium_host; ip route add 10.244.1.0/24 dev cilium_host src 10.0.0.7
ip route add 10.244.8.0/24 dev lxc-own; ip rule add fwmark 0x200 lookup 2004 preference 9
ip route add local 0.0.0.0/0 dev lo table 2004; ip rule add preference 100 lookup local; ip rule delete preference 0
"""
ALL = """
for d in /etc/cni /etc/sysctl.d /opt /var/lib /run /sys/fs/bpf; do find $d ! -name xtables.lock; done | sort
cat /etc/cni/net.d/*; cat $folder/sets; awk '$2 ~ "^/(run/cilium|var/lib/kubelet)/" {print $2}' /proc/self/mounts
ip -o link show | cut -d' ' -f2
ip -4 rule show; ip -4 route show table all
"""


def test_files_mounts_pins_devices_and_rules_of_cilium_go_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ipset").write_text(IPSET)
    (tmp_path / "bin" / "ipset").chmod(0o755)
    said = in_namespace(
        f"export folder={tmp_path} PATH={tmp_path}/bin:$PATH\n{PLACES}\nbefore=$({ALL})\n{OF_CILIUM}\n"
        f"middle=$({ALL})\nsaid=$(sh {FILES / 'leftovers.sh'} 10.244.0.0/16)\n"
        f"rmdir /var/lib/kubelet/pods/volume\nafter=$({ALL})\n"
        'printf "%s\\0%s\\0%s\\0%s" "$before" "$middle" "$said" "$after"'
    )
    before, middle, told, after = said.split("\0")
    for part in ("99-zzz-override_cilium.conf", "cilium_bak", "/run/cilium/cgroupv2", "lxc12ab", "lookup 2004"):
        assert part in middle
    assert after == before
    for line in (
        "removed /etc/sysctl.d/99-zzz-override_cilium.conf", "put back /etc/cni/net.d/10-own.conflist",
        "removed ipset cilium_a", "removed ipset cilium_b", "unmounted /run/cilium/cgroupv2", "removed device lxc12ab",
        "removed /sys/fs/bpf/cilium", "removed /sys/fs/bpf/tc/globals/cilium_lxc", "put back rule 0",
        "unmounted /var/lib/kubelet/pods/volume", "removed route 10.244.8.0/24",
    ):  # fmt: skip
        assert line in told.splitlines()


CRICTL = """#!/usr/bin/python3
import json, os, sys, time
words = sys.argv[1:]
limit_s = 2.0
while words and words[0].startswith("--"):
    name, value = words.pop(0), words.pop(0)
    if name == "--timeout":
        limit_s = float(value.rstrip("s"))
path = os.environ["PODS"]
pods = json.load(open(path))
command, pod = words[0], words[-1]
with open(path + ".said", "a") as said:
    said.write(" ".join(words) + "\\n")
if command == "pods":
    print("\\n".join(pods))
elif command == "inspectp":
    print(pods[pod]["network"])
elif command == "stopp":
    time.sleep(0.01)
    if pods[pod]["takes_s"] > limit_s:
        sys.exit("context deadline exceeded")
    pods[pod]["stopped"] = True
elif command == "rmp":
    if not pods[pod].get("stopped") and "--force" not in words:
        sys.exit("pod sandbox is not stopped")
    if pods[pod]["takes_s"] > limit_s:
        sys.exit("context deadline exceeded")
    del pods[pod]
json.dump(pods, open(path, "w"))
"""


def _stand_in(tmp_path: Path, pods: dict[str, dict[str, Any]]) -> None:
    for name, text in (("crictl", CRICTL), ("systemctl", "#!/bin/sh\nexit 0\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "pods").write_text(json.dumps(pods))


def ended(tmp_path: Path, which: str, takes_s: float) -> tuple[list[str], str]:
    """The pods that are left, and what the script said."""
    pods = {
        "a1": {"network": "POD", "takes_s": takes_s}, "b2": {"network": "NODE", "takes_s": takes_s},
        "c3": {"network": "POD", "takes_s": 0.1},
    }  # fmt: skip
    _stand_in(tmp_path, pods)
    world = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PODS": str(tmp_path / "pods")}
    argv = ("sh", str(FILES / "sandboxes.sh"), "unix:///run/x.sock", which)
    done = subprocess.run(argv, env=world, capture_output=True, text=True, check=True, timeout=120)
    return sorted(json.loads((tmp_path / "pods").read_text())), done.stdout


@pytest.mark.parametrize("takes_s", [0.5, 5.0, 45.0])
def test_sandboxes_that_are_slow_to_end_are_ended(tmp_path: Path, takes_s: float) -> None:
    left, said = ended(tmp_path, "networked", takes_s)
    assert left == ["b2"]
    assert said.splitlines() == ["ended sandbox a1", "ended sandbox c3"]
    assert ended(tmp_path, "all", takes_s)[0] == []


def test_network_namespaces_of_sandboxes_go_once_no_sandbox_is_left_and_others_stay(tmp_path: Path) -> None:
    world = "for name in cni-0a1b cni-2c3d mine; do ip netns add $name; done"
    for pods, left in (({"a1": {"network": "POD", "takes_s": 90.0}}, "cni-0a1b\ncni-2c3d\nmine\n"), ({}, "mine\n")):
        _stand_in(tmp_path, pods)
        script = f"sh {FILES / 'sandboxes.sh'} unix:///run/x.sock all >&2"
        places = f"mount -t tmpfs tmpfs /run; export PATH={tmp_path}:$PATH PODS={tmp_path}/pods"
        said = in_namespace(f"{places}; {world}; {script}; ls /run/netns")
        assert said == left
