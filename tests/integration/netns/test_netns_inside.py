"""A process in a pod or on a node sees that pod's or node's own /sys, on whatever host labctl stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from netns_building import copied_for, needs_root, running

from labctl.model.lab import Lab
from labctl.names import UNDERLAY, namespace_of
from labctl.providers.netns.provider import NetnsProvider
from labctl.system import netns, process
from labctl.testing.labs import sample_lab

pytestmark = [pytest.mark.root, needs_root]
ROOT = Path(__file__).parents[3]
LABCTL = str(ROOT / "labctl")
DEVICES = ("ls", "/sys/class/net")


def links(lab: str, part: str) -> dict[str, int]:
    """Every device of the part with its MTU, as netlink tells."""
    argv = ("ip", "-n", namespace_of(lab, part), "-j", "link")
    found = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout)
    return {link["ifname"]: link["mtu"] for link in found}


def mtus(text: str) -> dict[str, int]:
    return {name: int(mtu) for name, mtu in (line.split() for line in text.splitlines())}


READ_MTUS = ("sh", "-c", 'cd /sys/class/net && for d in *; do echo "$d $(cat $d/mtu)"; done')


def by_command(lab: Lab, target: str, *argv: str, before: str = "true") -> subprocess.CompletedProcess[str]:
    """`labctl exec`, in a mount namespace of the test's own in which `before` was done to the host's mounts."""
    script = f'{before} && exec "$@"'
    full = ("unshare", "--mount", "sh", "-c", script, "sh", LABCTL, "exec", lab.name, target, "--", *argv)
    return subprocess.run(full, capture_output=True, text=True, timeout=60, check=False)


def test_every_part_of_a_lab_sees_its_own_devices_and_the_host_its_own(host_as_found: str) -> None:
    lab = sample_lab(host_as_found)
    host = process.run(DEVICES, timeout_s=60).text
    with running(lab), NetnsProvider().open(lab) as opened:
        for part in ("client", "server", "node1", "node2", UNDERLAY, "client"):
            seen = opened.target(part).run(READ_MTUS, timeout_s=60)
            assert mtus(seen.text) == links(lab.name, part), part
            with opened.target(part).start(("cat", "/sys/class/net/lo/ifindex")) as started:
                assert started.wait(timeout_s=60).text == "1\n"
            assert process.run(DEVICES, timeout_s=60).text == host
        assert set(links(lab.name, "client")) == {"lo", "eth0"}


def test_exec_shows_the_same(host_as_found: str) -> None:
    with running(sample_lab(host_as_found)) as lab:
        for part in ("client", "node1"):
            ended = by_command(lab, part, *READ_MTUS)
            assert (ended.returncode, ended.stderr) == (0, "")
            assert mtus(ended.stdout) == links(lab.name, part)
        missing = by_command(lab, "client", "no-such-program")
        assert (missing.returncode, missing.stderr) == (127, "no-such-program: No such file or directory\n")
        assert by_command(lab, "client", "/etc/passwd").returncode == 126
        piped = by_command(lab, "client", "sh", "-c", "yes | head -n 1")
        assert (piped.stdout, piped.stderr) == ("y\n", "")


@pytest.mark.parametrize(
    ("host", "argv"),
    [
        pytest.param(
            "mount -t bpf none /sys/fs/bpf && mkdir /sys/fs/bpf/pinned",
            ("test", "-d", "/sys/fs/bpf/pinned"),
            id="bpffs",
        ),
        pytest.param(
            "{ umount -R /sys/fs/cgroup || true; } && mount -t cgroup2 none /sys/fs/cgroup",
            ("test", "-f", "/sys/fs/cgroup/cgroup.procs"),
            id="cgroup v2 alone",
        ),
        pytest.param(
            "{ umount -R /sys/fs/cgroup || true; } && mount -t tmpfs none /sys/fs/cgroup "
            "&& mkdir /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified",
            ("test", "-f", "/sys/fs/cgroup/unified/cgroup.procs"),
            id="cgroup2 beside v1",
        ),
        pytest.param(
            "mount -o remount,bind,ro /sys",
            ("sh", "-c", "! echo 1400 2>/dev/null > /sys/class/net/eth0/mtu"),
            id="read-only /sys",
        ),
        pytest.param(
            "mount -t tmpfs none '/mnt' && mkdir '/mnt/a b' && cd '/mnt/a b'",
            ("test", "-d", "/mnt/a b"),
            id="a place with a space",
        ),
    ],
)
def test_what_the_host_has_mounted_is_still_there(host_as_found: str, host: str, argv: tuple[str, ...]) -> None:
    with running(sample_lab(host_as_found)) as lab:
        ended = by_command(lab, "client", *argv, before=host)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        assert by_command(lab, "client", *DEVICES, before=host).stdout.split() == ["eth0", "lo"]


IN_CHROOT = """
import os, sys
os.chroot(sys.argv[1]); os.chdir("/")
from pathlib import Path
from labctl.system import process
inside = process.run(("ls", "/", "/sys/class/net"), timeout_s=120, namespace=Path(sys.argv[2]))
outside = process.run(("ls", "/"), timeout_s=120)
print(process.without_own_sys(), inside.text.split(), outside.text.split(), inside.error_text)
"""


def test_a_chroot_stays_one(host_as_found: str, tmp_path: Path) -> None:
    """Going into a mount namespace and back leads to its root directory, which is not ours inside a chroot."""
    name = f"{host_as_found}-one"
    wanted = ("bin", "lib", "lib64", "usr", "proc", "sys", "dev", "run", "etc", sys.prefix[1:], str(ROOT / "src")[1:])
    places = [place for place in wanted if Path("/", place).is_dir()]
    binds = "".join(f'mkdir -p "$0/{place}" && mount --rbind /{place} "$0/{place}" && ' for place in places)
    script = f'touch "$0/only-here" && {binds}exec "$@"'
    netns.create(name, lambda: None)
    try:
        own = (sys.executable, "-c", IN_CHROOT, str(tmp_path), str(netns.path_of(name)))
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        ended = subprocess.run(
            ("unshare", "--mount", "sh", "-c", script, str(tmp_path), *own),
            capture_output=True, text=True, timeout=60, check=False, env=environment,
        )  # fmt: skip
    finally:
        netns.delete(name)
    assert ended.stdout.startswith("None "), ended.stdout + ended.stderr
    assert ended.stdout.count("'only-here'") == 2, ended.stdout
    assert "'/sys/class/net:', 'lo']" in ended.stdout, ended.stdout


REFUSED = """
import os
from labctl.providers.netns.probes import _own_sys
from labctl.system import netns, process
probe = _own_sys()
print(probe.present, probe.required, probe.found)
print(process.run(("true",), timeout_s=60).returncode)
"""


def test_a_host_that_allows_no_own_sys_says_so(host_as_found: str, tmp_path: Path) -> None:
    """As in an unprivileged container: a user namespace whose /sys has parts hidden may not mount another one."""
    environment = {**os.environ, "PYTHONPATH": str(copied_for(REFUSED, tmp_path))}
    inside = ("unshare", "-Urnm", os.path.realpath(sys.executable), "-c", REFUSED)
    script = 'mount -t tmpfs none /sys/module && exec "$@"'
    ended = subprocess.run(
        ("unshare", "--mount", "sh", "-c", script, "sh", *inside),
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert ended.stdout.splitlines() == ["False False [Errno 1] Operation not permitted: 'mount of /sys'", "0"], (
        ended.stdout + ended.stderr
    )


STARTED = """
from labctl.system import process
done = process.run(("ls", "-d", "/proc/self"), timeout_s=60)
print(done.returncode, done.text)
"""


@pytest.mark.parametrize("where", [".", "closed", "closed/below", "seen but not entered", "gone"])
def test_programs_are_started_from_a_directory_that_root_may_not_enter(where: str, tmp_path: Path) -> None:
    """As a home on a network file system is, to root: labctl is in it when it is typed there."""
    directory = tmp_path / where
    directory.mkdir(parents=True, exist_ok=True)
    for path, mode in ((tmp_path / "closed", 0o700), (tmp_path / "seen but not entered", 0o744)):
        if path.is_dir():
            os.chown(path, 12345, 12345)
            path.chmod(mode)
    environment = {**os.environ, "PYTHONPATH": str(copied_for(STARTED, tmp_path))}
    leave = 'rmdir "$PWD"; ' if where == "gone" else ""
    inside = ("sh", "-c", f'{leave}exec "$@"', "sh", os.path.realpath(sys.executable), "-P", "-c", STARTED)
    ended = subprocess.run(
        ("unshare", "-Ur", *inside),
        cwd=directory, capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert ended.stdout.splitlines()[:1] == ["0 /proc/self"], ended.stdout + ended.stderr


def test_a_namespace_with_the_number_of_one_that_is_gone_is_not_taken_for_it(host_as_found: str) -> None:
    """The kernel gives the number of a namespace that is gone to a later one."""
    name = f"{host_as_found}-one"
    seen: set[tuple[int, int] | None] = set()
    for attempt in range(200):
        descriptor = netns.create(name, lambda: None)
        number, device = netns.key_of(name), f"device{attempt}"
        try:
            if attempt and number not in seen:
                continue
            subprocess.run(("ip", "-n", name, "link", "add", device, "type", "bridge"), check=True, timeout=60)
            shown = process.run(DEVICES, timeout_s=60, namespace=netns.path_of(name)).text.split()
            assert sorted(shown) == sorted((device, "lo"))
        finally:
            os.close(descriptor)
            netns.delete(name)
        if number in seen:
            return
        seen.add(number)
    # Where the kernel gives no number twice there is nothing to confuse.


def test_the_devices_of_a_deleted_namespace_go_although_a_process_looked_at_them(host_as_found: str) -> None:
    one, other = f"{host_as_found}-one", f"{host_as_found}-two"
    descriptors = [netns.create(name, lambda: None) for name in (one, other)]
    try:
        argv = ("ip", "-n", one, "link", "add", "here0", "type", "veth", "peer", "there0", "netns", other)
        subprocess.run(argv, check=True, timeout=60)
        process.run(DEVICES, timeout_s=60, namespace=netns.path_of(one))
        os.close(descriptors.pop(0))
        netns.delete(one)
        deadline = time.monotonic() + 60
        while "there0" in process.run(DEVICES, timeout_s=60, namespace=netns.path_of(other)).text.split():
            assert time.monotonic() < deadline, "the other end of the deleted namespace's veth is still there"
            time.sleep(0.02)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        netns.delete(one)
        netns.delete(other)
