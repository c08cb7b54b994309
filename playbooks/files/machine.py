#!/usr/bin/env python3
"""Records the state of a machine before labctl changes it, and restores it.

    machine.py save    --to /etc/labctl/before  < wanted.json
    machine.py restore --to /etc/labctl/before [--packages]

Runs on the machine itself, by its own Python (3.6 or newer), with nothing but the standard library. `wanted.json`
names the files, directories, sysctls, services and packages that labctl may change. Prints one line for everything
that it changed. `--root` puts another directory in front of all paths (for tests).
"""

# ruff: noqa
# pathlib and newer syntax are left out: this file must run on Python 3.6 to the newest.

import argparse
import json
import os
import shutil
import subprocess
import sys

KUBELETS = "k8s.io"
PINNED = "io.cri-containerd.pinned"
KUBELET = "/var/lib/kubelet"
CGROUPS = ("kubepods", "kubepods.slice")
IPTABLES = ("filter", "nat", "mangle", "raw", "security")
CHAINS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
MODULES = {
    "vxlan": "vxlan",
    "geneve": "geneve",
    "ipip": "ipip",
    "sit": "sit",
    "gre": "ip_gre",
    "gretap": "ip_gre",
    "wireguard": "wireguard",
    "dummy": "dummy",
    "macvlan": "macvlan",
    "ipvlan": "ipvlan",
    "ifb": "ifb",
    "vrf": "vrf",
    "veth": "veth",
    "bridge": "bridge",
    "vlan": "8021q",
    "netkit": "netkit",
}
"""Kinds of devices that pod networks make, with their modules. No tun: those are VPNs and virtual machines."""
KERNELS_ROUTES = ("kernel", "ra", "dhcp", "redirect")
VARIANTS = ("iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy")


def run(*argv):
    """Exit code and output; 127 where the program is not there."""
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=300, check=False
        )
    except FileNotFoundError:
        return 127, ""
    except subprocess.TimeoutExpired:
        return 124, "no end after 300 s"
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def say(text):
    sys.stdout.write(text + "\n")


class Machine:
    def __init__(self, root, store):
        self.root = root.rstrip("/")
        self.store = self.at(store)

    def at(self, path):
        return self.root + path

    # What is read

    def sysctl(self, name):
        try:
            with open(self.at("/proc/sys/" + name.replace(".", "/"))) as file:
                return file.read().strip()
        except OSError:
            return None

    def swaps(self):
        try:
            with open(self.at("/proc/swaps")) as file:
                return [line.split()[0] for line in file.readlines()[1:]]
        except OSError:
            return []

    def modules(self):
        try:
            with open(self.at("/proc/modules")) as file:
                return sorted(line.split()[0] for line in file)
        except OSError:
            return []

    def entries(self, path):
        try:
            return sorted(os.listdir(self.at(path)))
        except OSError:
            return None

    def kubelets_cgroups(self):
        """Those that the kubelet makes for its pods: one in each hierarchy of version 1, or in the one of version 2."""
        top = "/sys/fs/cgroup"
        hierarchies = [top]
        if not os.path.exists(self.at(top + "/cgroup.controllers")):
            # Links lead to the same hierarchy by another name.
            under = [top + "/" + name for name in self.entries(top) or ()]
            hierarchies = [path for path in under if not os.path.islink(self.at(path))]
        paths = [hierarchy + "/" + name for hierarchy in hierarchies for name in CGROUPS]
        return [path for path in paths if os.path.isdir(self.at(path))]

    def mounts_at(self, path):
        """How many mounts lie there, one over the other."""
        try:
            with open(self.at("/proc/self/mounts")) as file:
                return [line.split()[1] for line in file].count(path)
        except OSError:
            return 0

    def save_file(self, path):
        """Keeps a copy and says how the file was; None where there was none."""
        real = self.at(path)
        if not os.path.lexists(real):
            return None
        state = os.lstat(real)
        if os.path.islink(real):
            return {"link": os.readlink(real)}
        copy = os.path.join(self.store, "files", path.strip("/").replace("/", "%"))
        os.makedirs(os.path.dirname(copy), mode=0o700, exist_ok=True)
        shutil.copyfile(real, copy)
        return {
            "copy": os.path.basename(copy),
            "mode": state.st_mode & 0o7777,
            "uid": state.st_uid,
            "gid": state.st_gid,
        }

    def save(self, wanted):
        record_path = os.path.join(self.store, "record.json")
        if os.path.exists(record_path):
            return
        os.makedirs(self.store, mode=0o700, exist_ok=True)
        record = {
            "files": {path: self.save_file(path) for path in wanted["files"]},
            "parents": absent_parents(
                self,
                wanted["files"]
                + wanted["directories"]
                + [path + "/." for path in wanted.get("hollow", [])]
                + (wanted.get("network") or {}).get("paths", []),
            ),
            "directories": {path: self.entries(path) for path in wanted["directories"]},
            "sysctls": {name: self.sysctl(name) for name in wanted["sysctls"]},
            "modules": self.modules(),
            "wantedModules": wanted["modules"],
            "swaps": self.swaps(),
            "services": {name: service_state(name) for name in wanted["services"]},
            "packages": {name: package_version(name) for name in wanted["packages"]},
            "installed": installed_packages() if wanted["packages"] else [],
            "images": images(wanted.get("socket", "")),
            "pinned": pinned(wanted.get("socket", "")),
            "socket": wanted.get("socket", ""),
            "namespaces": namespaces(wanted.get("socket", "")),
            "tables": nft_tables(),
            "cgroups": self.kubelets_cgroups(),
            "mounts": self.mounts_at(KUBELET),
            "ansible": wanted.get("ansible", ""),
            "selinux": run("getenforce")[1] or None,
            "network": self.network(wanted.get("network")),
        }
        # Written last and by renaming: a record that is there is whole.
        with open(record_path + ".new", "w") as file:
            json.dump(record, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.rename(record_path + ".new", record_path)
        say("saved")

    def network(self, wanted):
        """What a pod network may add to, where labctl does not know that network; None where it does."""
        if wanted is None:
            return None
        return {
            "paths": [path for path in wanted["paths"] if not os.path.lexists(self.at(path))],
            "links": sorted(links() or {}),
            "routes": routes(),
            "policies": policies(),
            "rules": {name: rules(name) for name in VARIANTS},
            "tables": nft_tables(),
            "hooks": hooks(),
        }

    # What is restored

    def restore(self, with_packages):
        record_path = os.path.join(self.store, "record.json")
        try:
            with open(record_path) as file:
                record = json.load(file)
        except OSError:
            return
        # Of a unit that is gone systemd does not say any more that it is enabled.
        for name, state in record["services"].items():
            disable_again(name, state)
        self.restore_network(record.get("network"), record.get("modules", []))
        restore_tables(record.get("tables"))
        self.restore_mounts(record.get("mounts"))
        if with_packages:
            restore_images(record)
            restore_namespace(record)
            remove_packages(record["packages"], record.get("installed"))
        restore_pins(record)
        changed = [path for path, state in record["files"].items() if self.restore_file(path, state)]
        for path, before in record["directories"].items():
            self.restore_directory(path, before)
        for path in record.get("parents", []):
            if self.entries(path) == []:
                self.remove_empty(path)
        if any("systemd" in path or "containerd" in path for path in changed):
            run("systemctl", "daemon-reload")
        for name, state in record["services"].items():
            restore_service(name, state, must_restart=name == "containerd" and any("containerd" in p for p in changed))
        for name, value in record["sysctls"].items():
            self.restore_sysctl(name, value)
        self.restore_cgroups(record.get("cgroups"))
        for device in record["swaps"]:
            if device not in self.swaps() and run("swapon", device)[0] == 0:
                say("swap on " + device + " is on again")
        for module in reversed(record.get("wantedModules", [])):
            name = module.replace("-", "_")
            if name not in record["modules"] and name in self.modules() and run("modprobe", "-r", name)[0] == 0:
                say("module " + name + " is unloaded")
        if record["selinux"] == "Enforcing" and run("getenforce")[1] == "Permissive":
            run("setenforce", "1")
            say("SELinux enforces again")

    def restore_network(self, before, modules):
        """Takes away what came since, of the kinds that pod networks make. Pods and their agents are gone by now."""
        if before is None:
            return
        for name in VARIANTS:
            take_rules(name, before["rules"].get(name), rules(name))
        for family, table, chain in hooks():
            # The kernel keeps one that still has a rule.
            if [family, table, chain] not in before["hooks"]:
                run("nft", "delete", "chain", family, table, chain)
        for family, name in nft_tables() or ():
            # iptables' own tables are a matter of their rules, and a table with an owner goes with its process.
            known = before["tables"] is None or [family, name] in before["tables"]
            if not known and not (family in ("ip", "ip6") and name in IPTABLES):
                if run("nft", "delete", "table", family, name)[0] == 0:
                    say("removed the table %s %s" % (family, name))
        for policy in minus(policies(), before["policies"]):
            if run("ip", "-4", "rule", "delete", "preference", *policy.replace(":", "", 1).split())[0] == 0:
                say("removed rule " + policy)
        for name, kind in sorted((links() or {}).items()):
            if name in before["links"] or kind not in MODULES or name not in (links() or {}):
                continue
            code, text = run("ip", "link", "delete", "dev", name)
            module = MODULES[kind]
            if code != 0 and module not in modules and run("modprobe", "-r", module)[0] == 0:
                code = 0
            say("removed device " + name if code == 0 else "could not remove device %s: %s" % (name, text))
        for route in minus(routes(), before["routes"]):
            if run("ip", "-4", "route", "delete", *route.split())[0] == 0:
                say("removed route " + route)
        for module in sorted(set(MODULES.values())):
            if module not in modules and module in self.modules() and run("modprobe", "-r", module)[0] == 0:
                say("module " + module + " is unloaded")
        for path in before["paths"]:
            if os.path.lexists(self.at(path)):
                remove_tree(self.at(path))
                say("removed " + path)

    def restore_file(self, path, state):
        real = self.at(path)
        if state is None:
            if not os.path.lexists(real):
                return False
            os.unlink(real)
            say("removed " + path)
            return True
        if "link" in state:
            if os.path.islink(real) and os.readlink(real) == state["link"]:
                return False
            if os.path.lexists(real):
                os.unlink(real)
            os.symlink(state["link"], real)
            say("put back " + path)
            return True
        with open(os.path.join(self.store, "files", state["copy"]), "rb") as file:
            content = file.read()
        try:
            with open(real, "rb") as file:
                same = file.read() == content and os.stat(real).st_mode & 0o7777 == state["mode"]
        except OSError:
            same = False
        if same:
            return False
        os.makedirs(os.path.dirname(real), exist_ok=True)
        with open(real + ".labctl", "wb") as file:
            file.write(content)
        os.chown(real + ".labctl", state["uid"], state["gid"])
        os.chmod(real + ".labctl", state["mode"])
        try:
            os.rename(real + ".labctl", real)
        except OSError:
            # A mount of its own, as /etc/hosts is in containers: written over.
            shutil.copyfile(real + ".labctl", real)
            os.unlink(real + ".labctl")
        say("put back " + path)
        return True

    def restore_directory(self, path, before):
        """Removes what was not in it; the directory as well if it was not there."""
        now = self.entries(path)
        if now is None:
            if before is not None:
                os.makedirs(self.at(path), exist_ok=True)
                say("made " + path + " again")
            return
        for name in now:
            if before is None or name not in before:
                remove_tree(os.path.join(self.at(path), name))
                say("removed " + os.path.join(path, name))
        if before is None:
            self.remove_empty(path)

    def remove_empty(self, path):
        try:
            os.rmdir(self.at(path))
            say("removed " + path)
        except OSError as kept:
            say("could not remove " + path + ": " + str(kept.strerror))

    def restore_mounts(self, before):
        """The kubelet mounts its directory onto itself where / is not shared. A disk that was mounted there stays."""
        while before is not None and self.mounts_at(KUBELET) > before:
            if run("umount", "-l", KUBELET)[0] != 0:
                return
            say("unmounted " + KUBELET)

    def restore_cgroups(self, before):
        """The kubelet leaves its pods' cgroups behind, empty; one with a process in it the kernel keeps."""
        ours = [path for path in self.kubelets_cgroups() if path not in before] if before is not None else []
        for name in sorted({os.path.basename(path) for path in ours if path.endswith(".slice")}):
            run("systemctl", "stop", name)
        for path in ours:
            for folder, _, _ in os.walk(self.at(path), topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
            if not os.path.isdir(self.at(path)):
                say("removed cgroup " + path)
            else:
                say("could not remove cgroup " + path)

    def restore_sysctl(self, name, value):
        now = self.sysctl(name)
        if value is None or now is None or now == value:
            return
        try:
            with open(self.at("/proc/sys/" + name.replace(".", "/")), "w") as file:
                file.write(value + "\n")
            say("%s is %s again" % (name, value))
        except OSError as refused:
            say("could not set %s to %s: %s" % (name, value, refused.strerror))


def absent_parents(machine, paths):
    """Directories of those files that are not there, deepest first: they go again when they are empty."""
    absent = set()
    for path in paths:
        parent = os.path.dirname(path)
        while parent != "/" and not os.path.lexists(machine.at(parent)):
            absent.add(parent)
            parent = os.path.dirname(parent)
    return sorted(absent, key=len, reverse=True)


def remove_tree(path):
    """Never follows a link and never leaves the file system: what is mounted below is unmounted first."""
    for mount in reversed(sorted(mounts_below(path))):
        run("umount", "-l", mount)
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


def mounts_below(path):
    try:
        with open("/proc/self/mounts") as file:
            points = [line.split()[1] for line in file]
    except OSError:
        return []
    real = os.path.realpath(path)
    return [point for point in points if point == real or point.startswith(real + "/")]


def service_state(name):
    enabled = run("systemctl", "is-enabled", name)[1].splitlines()
    return {"enabled": enabled[-1] if enabled else "", "active": run("systemctl", "is-active", "--quiet", name)[0] == 0}


def restore_service(name, before, must_restart):
    now = service_state(name)
    if now["active"] and not before["active"]:
        run("systemctl", "stop", name)
        say("service " + name + " is stopped")
    elif before["active"] and (must_restart or not now["active"]):
        run("systemctl", "restart", name)
        say("service " + name + " runs as before")
    if before["enabled"] == "enabled" and now["enabled"] != "enabled":
        run("systemctl", "enable", name)


def disable_again(name, before):
    if before["enabled"] != "enabled" and service_state(name)["enabled"] == "enabled":
        run("systemctl", "disable", name)
        say("service " + name + " does not start at boot, as before")


def package_version(name):
    """The version that is installed, or None. An apt package of which only the settings are left is not installed; one
    that is held is ("hi")."""
    if shutil.which("dpkg-query"):
        code, text = run("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Version}", name)
        return text.split()[1] if code == 0 and text[1:2] == "i" else None
    if shutil.which("rpm"):
        code, text = run("rpm", "-q", "--qf", "%{VERSION}-%{RELEASE}", name)
        return text if code == 0 else None
    return None


def installed_packages():
    """The names of all packages of a Debian system."""
    code, text = run("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n")
    return [line.split()[1] for line in text.splitlines() if line[1:2] == "i"] if code == 0 else []


def remove_packages(before, installed):
    ours = [name for name, version in before.items() if version is None and package_version(name) is not None]
    if not ours:
        return
    if shutil.which("apt-get"):
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        run("apt-mark", "unhold", *ours)
        code, text = run("apt-get", "purge", "-y", *ours)
        # What came with them is removed as well; what no package needed before is not ours to remove.
        unneeded = [
            line.split()[1] for line in run("apt-get", "-s", "autoremove")[1].splitlines() if line[:5] == "Remv "
        ]
        along = [name for name in unneeded if installed and name not in installed]
        if code == 0 and along:
            code, text = run("apt-get", "purge", "-y", *along)
    else:
        code, text = run("dnf", "-y", "remove", *ours)
    if code == 0:
        say("removed packages " + " ".join(ours))
    else:
        sys.exit("could not remove packages %s: %s" % (" ".join(ours), text[-400:]))


def images(socket):
    """References of the images that the kubelet can use, or None where containerd does not answer."""
    if not socket:
        return None
    code, text = run("ctr", "--address", socket, "--namespace", "k8s.io", "images", "list", "-q")
    return text.split() if code == 0 else None


def restore_images(record):
    now = images(record.get("socket", ""))
    if now is None or record.get("images") is None:
        return
    ours = [name for name in now if name not in record["images"]]
    if ours:
        # Waits until what the images were made of is gone too.
        run("ctr", "--address", record["socket"], "--namespace", "k8s.io", "images", "remove", "--sync", *ours)
        say("removed %d images" % len(ours))


def pinned(socket):
    """References of the images that the kubelet's garbage collection has to leave alone."""
    if not socket:
        return None
    code, text = run("ctr", "--address", socket, "--namespace", "k8s.io", "images", "list")
    return [line.split()[0] for line in text.splitlines() if PINNED + "=" in line] if code == 0 else None


def restore_pins(record):
    """Of the images that were there: those of a lab's archives are pinned as long as there is the lab."""
    socket, before, there = record.get("socket", ""), record.get("pinned"), record.get("images")
    if before is None or there is None:
        return
    for name in [name for name in pinned(socket) or () if name in there and name not in before]:
        run("ctr", "--address", socket, "--namespace", "k8s.io", "images", "label", name, PINNED + "=")
        say("image " + name + " is not pinned any more")


def namespaces(socket):
    """containerd's namespaces, or None where containerd does not answer."""
    if not socket:
        return None
    code, text = run("ctr", "--address", socket, "namespaces", "list", "-q")
    return text.split() if code == 0 else None


def restore_namespace(record):
    """The kubelet's namespace goes if it was not there and is empty: containerd keeps one that is not."""
    socket, before = record.get("socket", ""), record.get("namespaces")
    if before is None or KUBELETS in before or KUBELETS not in (namespaces(socket) or ()):
        return
    if run("ctr", "--address", socket, "namespaces", "remove", KUBELETS)[0] == 0:
        say("removed containerd's namespace " + KUBELETS)


def nft_tables():
    """Every table of nftables as (family, name), or None where it is not known: iptables may be nftables inside."""
    code, text = run("nft", "list", "tables")
    return [line.split()[1:3] for line in text.splitlines() if line.startswith("table ")] if code == 0 else None


def restore_tables(before):
    """The kubelet's and Cilium's iptables leaves its tables behind without a rule. Those that were not there go."""
    if before is None:
        return
    for family, name in nft_tables() or ():
        if [family, name] in before or family not in ("ip", "ip6") or name not in IPTABLES:
            continue
        code, text = run("nft", "list", "table", family, name)
        if code == 0 and is_empty_table(text) and run("nft", "delete", "table", family, name)[0] == 0:
            say("removed the empty table %s %s" % (family, name))


def is_empty_table(text):
    """True for a table that has nothing but iptables' own chains, without a rule, that let everything through."""
    for line in (line.strip() for line in text.splitlines()):
        if line in ("", "}") or line[:1] == "#" or line.startswith("table "):
            continue
        if line.startswith("chain ") and line.split()[1] in CHAINS:
            continue
        if line.startswith("type ") and line.endswith("policy accept;"):
            continue
        return False
    return True


def links():
    """The kind of each device by its name, empty for one without; None where ip does not say."""
    code, text = run("ip", "-details", "-json", "link", "show")
    try:
        return (
            {one["ifname"]: one.get("linkinfo", {}).get("info_kind", "") for one in json.loads(text)}
            if code == 0
            else None
        )
    except (ValueError, KeyError, TypeError):
        return None


# What the kernel says of a route as it is now; `ip route` does not take it back.
STATES_OF_ROUTES = (
    "linkdown", "dead", "unresolved", "offload", "offload_failed", "trap", "rt_trap", "notify", "pervasive"
)  # fmt: skip


def routes():
    """Routes that somebody set, as `ip route` takes them."""
    code, text = run("ip", "-4", "route", "show", "table", "all")
    found = []
    for line in text.splitlines() if code == 0 else ():
        words = [word for word in line.split() if word not in STATES_OF_ROUTES]
        said = words[words.index("proto") + 1] if "proto" in words[:-1] else ""
        if words and words[0] not in ("local", "broadcast") and said not in KERNELS_ROUTES:
            found.append(" ".join(words))
    return found


def policies():
    """Rules for routing, by their preference."""
    code, text = run("ip", "-4", "rule", "show")
    return [" ".join(line.split()) for line in text.splitlines()] if code == 0 else []


def rules(name):
    """Chains and rules of netfilter by table, without counters; None where there are none. Asking the legacy tables
    would make them exist where they do not."""
    if shutil.which(name + "-save") is None:
        return None
    if name.endswith("legacy"):
        try:
            with open("/proc/net/" + name.split("-")[0].replace("tables", "_tables_names")) as file:
                if not file.read().strip():
                    return None
        except OSError:
            return None
    code, text = run(name + "-save")
    tables, table = {}, None
    for line in text.splitlines() if code == 0 else ():
        if line[:1] == "*":
            table = tables.setdefault(line[1:], {"chains": {}, "rules": []})
        elif line[:1] == ":" and table is not None:
            chain, policy = line[1:].split()[:2]
            table["chains"][chain] = policy
        elif line[:3] == "-A " and table is not None:
            table["rules"].append(line)
    return tables


def take_rules(name, before, now):
    """Takes the rules, chains and policies of tables that were not there."""
    lines = []
    for table, there in sorted((now or {}).items()):
        had = (before or {}).get(table, {"chains": {}, "rules": []})
        ours = sorted(
            chain for chain, policy in there["chains"].items() if policy == "-" and chain not in had["chains"]
        )
        changes = [
            ":%s %s [0:0]" % (chain, had["chains"].get(chain, "ACCEPT"))
            for chain, policy in sorted(there["chains"].items())
            if policy != "-" and policy != had["chains"].get(chain, "ACCEPT")
        ]
        extra = minus(there["rules"], had["rules"])
        changes += ["-D" + rule[2:] for rule in extra if rule.split()[1] not in ours]
        changes += ["-F " + chain for chain in ours] + ["-X " + chain for chain in ours]
        if changes:
            lines += ["*" + table] + changes + ["COMMIT"]
    if not lines:
        return
    text = "\n".join(lines) + "\n"
    done = subprocess.run(
        [name + "-restore", "--noflush"],
        input=text.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode == 0:
        say("removed rules of netfilter that were not there (%s)" % name)
    else:
        say("could not remove rules (%s): %s" % (name, done.stdout.decode("utf-8", "replace").strip()[-300:]))


def hooks():
    """The hooks of iptables over nftables as (family, table, chain). It makes one for the first rule in it."""
    code, text = run("nft", "list", "chains")
    found, at = [], []
    for words in (line.split() for line in text.splitlines() if code == 0):
        if words[:1] == ["table"]:
            at = words[1:3]
        elif words[:1] == ["chain"] and at[:1] in (["ip"], ["ip6"]) and at[1] in IPTABLES and words[1] in CHAINS:
            found.append([at[0], at[1], words[1]])
    return found


def minus(now, before):
    """What is in the first list more often than in the second, in its order."""
    left, extra = list(before), []
    for one in now:
        if one in left:
            left.remove(one)
        else:
            extra.append(one)
    return extra


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("save", "restore"))
    parser.add_argument("--to", default="/etc/labctl/before")
    parser.add_argument("--root", default="")
    parser.add_argument("--packages", action="store_true")
    parser.add_argument("--wanted", default="{}")
    arguments = parser.parse_args()
    machine = Machine(arguments.root, arguments.to)
    if arguments.what == "save":
        machine.save(json.loads(arguments.wanted))
    else:
        machine.restore(arguments.packages)


if __name__ == "__main__":
    main()
