"""What a machine of the rig looks like, so that a test can prove that `down` left it as it was before `up`."""

from __future__ import annotations

from collections.abc import Mapping

from rig_machines import RigMachine

_LOOKS = {
    "links": "ip -o link show | sed -E 's/^[0-9]+: //; s/@.*//; s/:.*//' | sort",
    "addresses": "ip -o address show | awk '{print $2, $3, $4}' | sort",
    "routes": "ip route show table all | sed 's/ *$//' | sort",
    "rules": "ip rule show",
    "namespaces": "ls /run/netns 2>/dev/null | sort",
    "iptables, legacy": "iptables-legacy-save 2>/dev/null | grep -vE '^(#|COMMIT)' | sed -E 's/\\[[0-9:]+\\]//' | "
                        "grep -vE '^(\\*|:[A-Z]+ ACCEPT)' || true",
    "iptables, nft": "iptables-nft-save 2>/dev/null | grep -vE '^(#|COMMIT)' | sed -E 's/\\[[0-9:]+\\]//' | "
                     "grep -vE '^(\\*|:[A-Z]+ ACCEPT)' || true",
    "nft": "nft -s list ruleset",
    "programs of the uplink": "tc qdisc show dev eth0; tc filter show dev eth0 ingress; tc filter show dev eth0 egress",
    "pins": "find /sys/fs/bpf 2>/dev/null | sort",
    "sysctls": "sysctl -a 2>/dev/null | grep -E '^(net|kernel.panic|vm.overcommit|fs.inotify)' | "
               "grep -vE 'nf_conntrack_count|stable_secret|net.ipv[46].(conf|neigh).(lxc|cilium)' | sort",
    "mounts": "awk '{print $2, $3}' /proc/self/mounts | sort | uniq -c",
    "cgroups": "find /sys/fs/cgroup -mindepth 1 -maxdepth 4 -type d | "
               "grep -vE '/(system|user|init)[.](slice|scope)' | sort",
    "files": "python3 - <<'END'\n{files}END",
    "images": "ctr --namespace k8s.io images list | awk 'NR > 1 {print $1, $3, /pinned=pinned/}' | sort",
    "containers": "ctr --namespace k8s.io containers list -q; ctr namespaces list -q | sort",
    "services": "systemctl list-units --type=service --state=active --plain --no-legend | awk '{print $1}' | "
                "grep -vE 'systemd-tmpfiles|user@|user-runtime|session' | sort",
}  # fmt: skip


_FILES = """import hashlib, os
HASHED = ("/etc/", "/opt/", "/root/", "/usr/local/", "/var/lib/")
LEFT_OUT = {"/proc", "/sys", "/dev", "/tmp", "/var/cache", "/var/lib/containerd", "/var/lib/systemd", "/var/lib/dpkg",
            "/var/lib/apt", "/run/systemd", "/run/containerd", "/run/udev", "/run/user", "/run/lock"}
SESSIONS = ("/run/sshd.pid", "/run/utmp", "/run/xtables.lock", "/var/log/wtmp", "/var/log/lastlog", "/var/log/btmp",
            "/var/log/journal")
for folder, folders, names in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in LEFT_OUT]
    for name in sorted(folders + names):
        path = os.path.join(folder, name)
        if path.startswith(SESSIONS):
            continue
        state, what = os.lstat(path), ""
        if os.path.islink(path):
            what = os.readlink(path)
        elif os.path.isfile(path):
            what = str(state.st_size)
            if path.startswith(HASHED):
                with open(path, "rb") as file:
                    what = hashlib.sha1(file.read()).hexdigest()[:12]
        print(f"{state.st_mode:o} {state.st_uid} {path} {what}")
"""


def snapshot(machine: RigMachine) -> dict[str, list[str]]:
    """Lines under headings, of everything that a lab changes on a machine."""
    looks = ((heading, look.replace("{files}", _FILES)) for heading, look in _LOOKS.items())
    script = "".join(f"echo '=== {heading}'; {look}\n" for heading, look in looks)
    found: dict[str, list[str]] = {}
    for line in machine.shell(script, timeout_s=180, check=False).splitlines():
        if line.startswith("=== "):
            current = found.setdefault(line[4:], [])
        elif line.strip():
            current.append(line)
    return found


def differences(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> list[str]:
    """What was there and is not, and what came, a line each."""
    found = []
    for heading in before:
        one, other = before[heading], after.get(heading, [])
        found += [f"{heading}: gone: {line}" for line in one if line not in other]
        found += [f"{heading}: left behind: {line}" for line in other if line not in one]
    return found
