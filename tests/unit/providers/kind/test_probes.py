from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import pytest

from kind_world import World, completed
from labctl.providers.base import Completed, Probe
from labctl.providers.kind import endpoint
from labctl.providers.kind.presence import engine_of
from labctl.providers.kind.probes import KERNEL_OPTIONS, parse_tool_version, probes

GOOD_INFO = {"ServerVersion": "28.2.2", "CgroupVersion": "2", "MemTotal": 16 * 2**30}
FILES = {
    "/proc/sys/fs/inotify/max_user_instances": "512\n",
    "/proc/sys/fs/inotify/max_user_watches": "524288\n",
    "/proc/sys/kernel/osrelease": "6.18.0\n",
    "/proc/config.gz": "".join(f"CONFIG_{name}=y\n" for name in KERNEL_OPTIONS),
    "/proc/modules": "",
}


class Host(World):
    """Answers what probes ask."""

    def __init__(self, info: Mapping[str, object] = GOOD_INFO, **said: str) -> None:
        super().__init__()
        self.info, self.answers = info, said

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
        if "info" in argv and not self.daemon_is_up:
            return completed(argv, "{}", "Cannot connect to the Docker daemon at unix:///x", 1)
        if "info" in argv:
            return completed(argv, json.dumps(self.info))
        tool = argv[0]
        default = {
            "kind": "kind v0.27.0 go1.24 linux/amd64\n",
            "kubectl": json.dumps({"clientVersion": {"gitVersion": "v1.32.4", "major": "1"}}),
            "helm": "v3.16.4",
        }
        return completed(argv, self.answers.get(tool, default[tool]))


def found(host: World, files: Mapping[str, str] = FILES) -> dict[str, Probe]:
    read: Callable[[str], str | None] = files.get
    return {probe.name: probe for probe in probes(host, read)}


def test_a_host_with_everything_lacks_nothing() -> None:
    lacking = [probe.name for probe in found(Host()).values() if not probe.present]
    assert lacking == []


def test_what_is_missing_has_a_remedy_in_every_case() -> None:
    host = Host()
    host.absent_tools = {"docker", "podman", "nerdctl", "kind", "kubectl", "helm"}
    lacking = [probe for probe in found(host, {}).values() if not probe.present and probe.is_looked_at]
    assert {"docker", "kind", "kubectl", "helm"} <= {probe.name for probe in lacking}
    assert all(probe.remedy for probe in lacking)


def test_a_stopped_daemon_is_reported_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.9:2375")
    host = Host()
    host.daemon_is_up = False
    daemon = found(host)["docker daemon"]
    assert (daemon.present, daemon.required) == (False, True)
    assert daemon.found == "Cannot connect to the Docker daemon at unix:///x (at tcp://10.0.0.9:2375)"
    assert "docker context ls" in daemon.remedy


def test_a_remote_engine_is_judged_by_its_own_host_and_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.9:2375")
    seen = found(Host({**GOOD_INFO, "KernelVersion": "6.18.0"}), {})
    assert seen["address of the engine's host"].present
    assert seen["address of the engine's host"].found == "10.0.0.9 (kernel 6.18.0 there)"
    assert not {"kernel", "kernel options", "fs.inotify.max_user_watches"} & set(seen)
    monkeypatch.setenv("DOCKER_HOST", "tcp://build.example:2375")
    monkeypatch.setattr(endpoint, "resolved", lambda name: "")
    lost = found(Host(GOOD_INFO))["address of the engine's host"]
    assert (lost.present, lost.required) == (False, True)
    assert "kindCluster.apiServerAddress" in lost.remedy


def test_a_rootless_engine_is_a_lack() -> None:
    options = ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]
    rootless = found(Host({**GOOD_INFO, "SecurityOptions": options}))["docker with root"]
    assert (rootless.present, rootless.required) == (False, True)


def test_podmans_own_words_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIND_EXPERIMENTAL_PROVIDER", "podman")
    seen = found(Host({"version": {"Version": "5.4.2"}, "host": {"cgroupVersion": "v2"}}))
    assert seen["podman daemon"].found == "5.4.2"


def test_cgroup_v1_and_little_memory_are_warnings() -> None:
    seen = found(Host({"ServerVersion": "20", "CgroupVersion": "1", "MemTotal": 2**30}))
    assert [(seen[name].present, seen[name].required) for name in ("cgroup version", "memory")] == [(False, False)] * 2
    assert "cgroupDriver: cgroupfs" in seen["cgroup version"].remedy


@pytest.mark.parametrize("place", ["/sys/fs/cgroup/unified", "/run/cilium/cgroupv2"])
def test_cgroup_v1_with_a_cgroup2_mount_beside_it_does_as_the_remedy_says(place: str) -> None:
    mounts = f"cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 {place} cgroup2 rw,nsdelegate 0 0\n"
    info = {"ServerVersion": "20", "CgroupVersion": "1", "MemTotal": 2**34}
    seen = found(Host(info), {**FILES, "/proc/mounts": mounts})["cgroup version"]
    assert (seen.present, seen.found) == (True, f"v1 with cgroup2 at {place}")
    alone = found(Host(info), {**FILES, "/proc/mounts": mounts.splitlines()[0]})["cgroup version"]
    assert (alone.present, alone.found) == (False, "v1")


def test_all_options_are_only_said_to_be_there_when_they_are() -> None:
    assert found(Host())["kernel options"].found == f"all {len(KERNEL_OPTIONS)} of Cilium's"
    files = {**FILES, "/proc/config.gz": FILES["/proc/config.gz"].replace("CONFIG_SCHEDSTATS=y\n", "")}
    options = found(Host(), files)["kernel options"]
    assert (options.present, options.found) == (True, "13 of Cilium's 14; agents run without CONFIG_SCHEDSTATS")


def test_an_old_tool_is_a_lack() -> None:
    kind = found(Host(kind="kind v0.9.0 go1.15"))["kind"]
    assert (kind.present, kind.found) == (False, "0.9.0")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("kind v0.27.0 go1.24.0 linux/amd64", "0.27.0"),
        ("v3.16", "3.16.0"),
        ('{"clientVersion": {"major": "1", "gitVersion": "v1.32.4-dispatcher"}}', "1.32.4"),
        ("nothing", "None"),
        ("{}", "None"),
    ],
)
def test_what_tools_say_of_their_version_is_read(text: str, version: str) -> None:
    assert str(parse_tool_version(text)) == version


def test_a_missing_kernel_option_is_named() -> None:
    files = {**FILES, "/proc/config.gz": FILES["/proc/config.gz"].replace("CONFIG_NET_CLS_BPF=y\n", "")}
    options = found(Host(), files)["kernel options"]
    assert (options.present, options.found) == (False, "CONFIG_NET_CLS_BPF not set")


def test_a_module_that_is_not_loaded_comes_with_its_modprobe() -> None:
    files = {**FILES, "/proc/config.gz": FILES["/proc/config.gz"].replace("CONFIG_VXLAN=y", "CONFIG_VXLAN=m")}
    assert found(Host(), files)["kernel modules"].remedy == "modprobe -a vxlan"
    assert "kernel modules" not in found(Host(), {**files, "/proc/modules": "vxlan 131072 0 - Live"})


def test_an_old_kernel_is_said_to_lack_bpf_host_routing() -> None:
    kernel = found(Host(), {**FILES, "/proc/sys/kernel/osrelease": "5.4.0-42-generic"})["kernel"]
    assert (kernel.present, kernel.found) == (False, "5.4.0-42-generic")


@pytest.mark.parametrize(
    ("environment", "there", "engine"),
    [
        ({}, {"docker", "podman"}, "docker"),
        ({}, {"podman"}, "podman"),
        ({}, {"podman", "nerdctl"}, "nerdctl"),
        ({"KIND_EXPERIMENTAL_PROVIDER": "nerdctl"}, {"docker"}, "nerdctl"),
        ({}, set(), "docker"),
    ],
)
def test_the_engine_is_the_one_that_kind_takes(environment: dict[str, str], there: set[str], engine: str) -> None:
    assert engine_of(environment, lambda name: name if name in there else None) == engine


@pytest.mark.parametrize("why", ["stopped", "hangs", "absent"])
def test_what_only_the_engine_knows_is_unknown_when_it_cannot_be_asked_not_fine_and_not_missing(why: str) -> None:
    class Hanging(Host):
        def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Completed:
            if "info" in argv:
                return completed(argv, code=-9, timed_out=True)
            return super().run(argv, timeout_s=timeout_s, stdin=stdin)

    host = Hanging() if why == "hangs" else Host()
    host.daemon_is_up = why != "stopped"
    if why == "absent":
        host.absent_tools = {"docker", "podman", "nerdctl"}
    seen = found(host)
    for name in ("cgroup version", "memory"):
        assert (seen[name].is_looked_at, seen[name].required) == (False, False)
        assert seen[name].found.startswith("not asked: docker ")
    daemon = seen["docker" if why == "absent" else "docker daemon"]
    assert (daemon.present, daemon.required, daemon.is_looked_at) == (False, True, True)
    if why == "hangs":
        assert daemon.found.startswith("no answer within ")
        assert "systemctl start" not in daemon.remedy  # it runs
