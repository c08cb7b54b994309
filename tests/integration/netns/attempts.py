"""Runs inside a pod or node: tries what a program might do, and prints what came of it as JSON: "" where it worked,
else the name of the error or what the tool said. Its argument is the number of a process on the host."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)
HOST_PROCESS = int(sys.argv[1])
NEW_NETWORK = 0x40000000
PTRACE_SEIZE = 0x4206
AN_UNKNOWN_COMMAND = 0x12345


def called(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "")


def tool(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"exit {done.returncode}")
    return done.stdout


def written(place: str) -> None:
    os.close(os.open(place, os.O_WRONLY))


def first_of(*places: str) -> str:
    return next(place for place in places if os.path.exists(place))


def entered(place: str) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    called(libc.setns(descriptor, NEW_NETWORK))


def captured() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        argv = ("tcpdump", "-U", "-nni", "lo", "-c", "1", "-w", folder + "/x.pcap", "icmp")
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as seeing:
            assert seeing.stderr is not None
            assert seeing.stderr.readline()
            tool("ping", "-c", "1", "-W", "2", "127.0.0.1")
            assert seeing.wait(10) == 0
        assert os.path.getsize(folder + "/x.pcap") > 24


def another_user() -> None:
    with tempfile.NamedTemporaryFile() as file:
        nobody = pwd.getpwnam("nobody")
        os.chown(file.name, nobody.pw_uid, nobody.pw_gid)
        child = subprocess.Popen(("sleep", "20"), user="nobody")
        child.terminate()
        assert child.wait(5) == -signal.SIGTERM


def cgroup() -> None:
    os.mkdir("/sys/fs/cgroup/tried")
    os.rmdir("/sys/fs/cgroup/tried")


def bound() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 7))


def address() -> None:
    tool("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
    tool("ip", "address", "del", "198.51.100.1/32", "dev", "lo")


def link() -> None:
    tool("ip", "link", "add", "tried0", "type", "bridge")
    tool("tc", "qdisc", "add", "dev", "tried0", "clsact")
    with open("/sys/class/net/tried0/mtu", "w") as file:
        file.write("1400")
    tool("ip", "link", "del", "tried0")


KEYLESS = ("prog_array", "queue", "ringbuf")
"""Types of maps that bpftool cannot list by keys."""


def program() -> None:
    programs = json.loads(tool("bpftool", "-j", "net"))[0]["tc"]
    tool("bpftool", "prog", "show", "id", str(programs[0]["id"]))
    maps = [one for one in json.loads(tool("bpftool", "-j", "map", "show")) if one["type"] not in KEYLESS]
    tool("bpftool", "map", "dump", "id", str(maps[0]["id"]))
    tool("tc", "filter", "show", "dev", programs[0]["devname"], "ingress")


ATTEMPTS: dict[str, Callable[[], object]] = {
    # the lab's own network
    "ping": lambda: tool("ping", "-c", "1", "-W", "2", "127.0.0.1"),
    "tcpdump": captured,
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
    "low port": bound,
    "address": address,
    "link, tc and mtu": link,
    "sysctl net": lambda: tool("sysctl", "-w", "net.ipv4.ip_default_ttl=64"),
    "iptables": lambda: tool("iptables-save"),
    "nft": lambda: tool("nft", "list", "ruleset"),
    "conntrack": lambda: tool("conntrack", "-L"),
    "another user": another_user,
    "bpftool": program,
    # the host
    "unload a module": lambda: called(libc.delete_module(b"no_such_module", 0)),
    "see a process": lambda: os.stat(f"/proc/{HOST_PROCESS}"),
    "signal a process": lambda: os.kill(HOST_PROCESS, 0),
    "trace": lambda: called(libc.ptrace(PTRACE_SEIZE, HOST_PROCESS, None, None)),
    "root of the first process": lambda: os.listdir("/proc/1/root/"),
    "network of the first process": lambda: entered("/proc/1/ns/net"),
    "memory of the first process": lambda: os.close(os.open("/proc/1/mem", os.O_RDWR)),
    "device file": lambda: os.mknod("tried.device", 0o60600, os.makedev(7, 7)),
    "chroot": lambda: os.chroot("/"),
    "raw input and output": lambda: called(libc.iopl(3)),
    "clock": lambda: time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME)),
    "reboot": lambda: called(libc.reboot(AN_UNKNOWN_COMMAND)),
    "accounting": lambda: called(libc.acct(b"/no/such/file")),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, -1),
    "sysctl kernel": lambda: written("/proc/sys/kernel/core_pattern"),
    "sysctl vm": lambda: written("/proc/sys/vm/drop_caches"),
    "sysctl fs": lambda: written("/proc/sys/fs/file-max"),
    "switch in /sys": lambda: written(first_of("/sys/kernel/uevent_helper", "/sys/kernel/uevent_seqnum")),
    "parameter of a module": lambda: written("/sys/module/printk/parameters/time"),
    "cgroup": cgroup,
    "mount": lambda: called(libc.mount(b"tried", b"/mnt", b"tmpfs", 0, None)),
}

# In processes of their own: some change what comes after.
found = {}
for name, attempt in ATTEMPTS.items():
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            attempt()
            said = ""
        except OSError as failed:
            said = errno.errorcode.get(failed.errno or 0, str(failed))
        except BaseException as failed:
            said = repr(failed)
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    os.wait()
    with open(reading, "rb") as file:
        found[name] = file.read().decode()
with open("/proc/self/status") as status:
    found["capabilities"] = next(line.split()[1] for line in status if line.startswith("CapEff:"))
print(json.dumps(found))
