"""What the kind provider needs of this host, found by trying, each with the command that fixes it.

Parsers are pure; `probes` runs the tools. Kernel options are read where the kernel shows them, and are "unknown"
where it does not.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from labctl.errors import LabError
from labctl.json_text import parse_json
from labctl.model.versions import Version
from labctl.providers.base import Probe
from labctl.providers.cilium.commands import INSTALL, Commands
from labctl.providers.kind.endpoint import EngineEndpoint, engine_endpoint
from labctl.providers.kind.failures import remedy_for
from labctl.providers.kind.presence import engine_here

NEEDED_FOR = "building labs with kind"
MEMORY_PER_NODE_BYTE = 700 * 2**20
USUAL_NODES = 3
INOTIFY_INSTANCES = 512
"""What kind advises (its known issues, "too many open files"). The kernel's default, 128, is short for two clusters."""
_ASK_S = 20.0
_OLDEST = {"kind": Version(0, 11), "helm": Version(3, 8), "kubectl": Version(1, 20)}
_VERSION_ARGV = {
    "kind": ("kind", "version"),
    "kubectl": ("kubectl", "version", "--client", "-o", "json"),
    "helm": ("helm", "version", "--template", "{{.Version}}"),
}
_VERSION = re.compile(r"v?\d+\.\d+(?:\.\d+)?(?:-[0-9A-Za-z.-]+)?")

KERNEL_OPTIONS = (
    "BPF", "BPF_SYSCALL", "BPF_JIT", "NET_CLS_BPF", "NET_CLS_ACT", "NET_SCH_INGRESS", "CGROUPS", "CGROUP_BPF",
    "CRYPTO_SHA1", "CRYPTO_USER_API_HASH", "PERF_EVENTS", "SCHEDSTATS", "VXLAN", "FIB_RULES",
)  # fmt: skip
"""Cilium's system requirements: base, tunnelling and routing."""
OPTIONAL_OPTIONS = ("SCHEDSTATS", "CRYPTO_SHA1", "CRYPTO_USER_API_HASH")
"""Older agents hash with the kernel's SHA-1, and read the clock rate from schedstat; they run without."""
MODULES = {"VXLAN": "vxlan", "NET_CLS_BPF": "cls_bpf", "NET_SCH_INGRESS": "sch_ingress"}


def probes(commands: Commands, read: Callable[[str], str | None] | None = None) -> Iterator[Probe]:
    """Every need, found or not. `read` gives a file's text or None."""
    look = read or read_text
    engine = engine_here(commands.find)
    endpoint = engine_endpoint(engine, commands)
    yield from _engine(commands, engine, endpoint, look)
    for tool in ("kind", "kubectl", "helm"):
        yield _tool(commands, tool)
    if endpoint.is_remote:
        return  # What follows is read from this host's kernel, which is not the nodes'.
    yield _inotify(look, "max_user_instances", INOTIFY_INSTANCES, least=128 * 2)
    yield _inotify(look, "max_user_watches", 524288, least=65536)
    yield from _kernel(look)


def read_text(path: str) -> str | None:
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    return (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8", errors="replace")


def _engine(
    commands: Commands, engine: str, endpoint: EngineEndpoint, read: Callable[[str], str | None]
) -> Iterator[Probe]:
    if commands.find(engine) is None:
        yield _lack(engine, "not on this host", INSTALL[engine])
        return
    where = endpoint.url
    try:
        asked = commands.run((engine, "info", "--format", "{{json .}}"), timeout_s=_ASK_S)
    except LabError as failed:
        yield _lack(f"{engine} daemon", failed.what, failed.remedy)
        return
    try:
        info = parse_json(asked.text or "{}")
    except ValueError:
        info = {}
    if asked.returncode != 0 or not isinstance(info, dict) or info.get("ServerErrors"):
        said = asked.error_text.strip().splitlines()
        answer = said[-1] if said else "does not answer"
        yield _lack(
            f"{engine} daemon",
            f"{answer} (at {where})" if where else answer,
            remedy_for(
                asked.error_text,
                'echo "$DOCKER_HOST"  # sudo forgets it (sudo -E keeps it)\ndocker context ls'
                if where
                else f"sudo systemctl start {engine}\ndocker context ls",
            ),
        )
        return
    version = _engine_version(info)
    yield _have(f"{engine} daemon", f"{version}, at {where}" if where else version)
    if endpoint.is_remote:
        yield _remote(endpoint, info)
    if "MemTotal" in info:  # podman reports all this under names of its own
        if _is_rootless(info):
            yield _lack(
                f"{engine} with root",
                "it runs rootless",
                "an engine that runs as root: Cilium's programs cannot be loaded from a user namespace",
            )
        yield _cgroups(info, None if endpoint.is_remote else read("/proc/mounts"))
        yield _memory(info)


def _engine_version(info: dict[str, object]) -> str:
    podman = info.get("version")
    said = info.get("ServerVersion") or (podman.get("Version") if isinstance(podman, dict) else "")
    return str(said or "version unknown")


def _is_rootless(info: dict[str, object]) -> bool:
    options = info.get("SecurityOptions")
    return any("name=rootless" in str(option).split(",") for option in (options if isinstance(options, list) else ()))


def _remote(endpoint: EngineEndpoint, info: dict[str, object]) -> Probe:
    """The API server is published on that host, and kubectl asks it from here."""
    return Probe(
        name="address of the engine's host",
        present=bool(endpoint.address),
        found=f"{endpoint.address or f'{endpoint.host} does not resolve here'} "
        f"(kernel {info.get('KernelVersion', 'unknown')} there)",
        needed_for="reaching the API server of the nodes, which are on that host",
        remedy="kindCluster.apiServerAddress: ADDRESS-OF-THAT-HOST",
    )


def _cgroups(info: dict[str, object], mounts: str | None) -> Probe:
    """`mounts` is /proc/mounts of the engine's host, None where it cannot be read."""
    version = str(info.get("CgroupVersion", ""))
    beside = parse_cgroup2(mounts or "")
    words = [f"v{version}" if version else "unknown", f"with cgroup2 at {beside}" if beside and version != "2" else ""]
    return Probe(
        name="cgroup version",
        present=version == "2" or bool(beside),
        found=" ".join(filter(None, words)),
        needed_for="Services by eBPF at the socket (kube-proxy replacement)",
        remedy="mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1. Where "
        "old nodes' kubelets do not start: cgroupDriver: cgroupfs in kindCluster.kubeadmConfigPatches (docs/kind.md)",
        required=False,
    )


def _memory(info: dict[str, object]) -> Probe:
    total = info.get("MemTotal")
    have = total if isinstance(total, int) else 0
    need = MEMORY_PER_NODE_BYTE * USUAL_NODES
    return Probe(
        name="memory",
        present=have >= need,
        found=f"{have / 2**30:.1f} GiB",
        needed_for=f"{USUAL_NODES} nodes ({need / 2**30:.1f} GiB); comparing two labs at once takes twice that",
        remedy="nodes: 2 in the scenario, kindCluster.controlPlane: first, kindCluster.strategy: switch",
        required=False,
    )


def _tool(commands: Commands, tool: str) -> Probe:
    path = commands.find(tool)
    if path is None:
        return _lack(tool, "not on this host", INSTALL[tool])
    try:
        asked = commands.run(_VERSION_ARGV[tool], timeout_s=_ASK_S)
    except LabError as failed:
        return _lack(tool, failed.what, INSTALL[tool])
    version = parse_tool_version(asked.text)
    if version is None:
        said = (asked.error_text or asked.text).strip().splitlines()
        return Probe(
            name=tool,
            present=True,
            found=f"version unknown ({said[0][:60] if said else 'no output'})",
            needed_for=NEEDED_FOR,
        )
    return Probe(
        name=tool,
        present=version >= _OLDEST[tool],
        found=str(version),
        path=path,
        version=str(version),
        needs=f"{tool} {_OLDEST[tool].major}.{_OLDEST[tool].minor} or newer",
        needed_for=f"{NEEDED_FOR} ({_OLDEST[tool].major}.{_OLDEST[tool].minor} or later)",
        remedy=INSTALL[tool],
    )


def parse_tool_version(text: str) -> Version | None:
    """The first version in what a tool prints about itself (`kind v0.27.0 go1.26`, kubectl's JSON, `v3.16.4`)."""
    match = _VERSION.search(text.replace('"major": "', '"').replace('"gitVersion": "', '"'))
    if text.lstrip().startswith("{"):
        try:
            return Version.parse(str(parse_json(text)["clientVersion"]["gitVersion"]))
        except (ValueError, KeyError, TypeError):
            return None
    return Version.parse(match.group(0)) if match else None


def _inotify(read: Callable[[str], str | None], name: str, wanted: int, least: int) -> Probe:
    text = read(f"/proc/sys/fs/inotify/{name}")
    value = int(text) if text and text.strip().isdigit() else 0
    return Probe(
        name=f"fs.inotify.{name}",
        present=value >= least,
        found=str(value) if text else "unknown",
        needed_for="nodes that boot (each watches many files)",
        remedy=f"sysctl -w fs.inotify.{name}={wanted}",
        required=False,
    )


def _kernel(read: Callable[[str], str | None]) -> Iterator[Probe]:
    release = (read("/proc/sys/kernel/osrelease") or "").strip()
    try:
        version: Version | None = Version.parse(release)
    except ValueError:
        version = None
    yield Probe(
        name="kernel",
        present=version is not None and version >= Version(5, 10),
        found=release or "unknown",
        needed_for="BPF host routing (Linux 5.10 or later)",
        remedy="a newer kernel, or the scenario legacy",
        required=False,
    )
    text = read("/proc/config.gz") or read(f"/boot/config-{release}")
    if text is None:
        yield Probe(
            name="kernel options",
            present=False,
            found="this kernel does not show them",
            needed_for="knowing beforehand whether Cilium can run",
            remedy="modprobe configs",
            required=False,
        )
        return
    options = parse_kernel_config(text)
    missing = [name for name in KERNEL_OPTIONS if name not in options and name not in OPTIONAL_OPTIONS]
    yield Probe(
        name="kernel options",
        present=not missing,
        found=_options_found(options, missing),
        needed_for="Cilium (what is in force is proven after building, whatever a kernel's configuration says)",
        remedy="a distribution's kernel has them: apt-get install linux-image-amd64" if missing else "",
        required=False,
    )
    modules = (read("/proc/modules") or "").split()
    unloaded = [m for option, m in MODULES.items() if options.get(option) == "m" and m not in modules]
    if unloaded:
        yield Probe(
            name="kernel modules",
            present=False,
            found=f"not loaded yet: {', '.join(unloaded)}",
            needed_for="Cilium (nodes load them from the host)",
            remedy=f"modprobe -a {' '.join(unloaded)}",
            required=False,
        )


def _options_found(options: Mapping[str, str], missing: Sequence[str]) -> str:
    if missing:
        return f"CONFIG_{', CONFIG_'.join(missing)} not set"
    without = [name for name in OPTIONAL_OPTIONS if name not in options]
    if without:
        there = len(KERNEL_OPTIONS) - len(without)
        return f"{there} of Cilium's {len(KERNEL_OPTIONS)}; agents run without CONFIG_{', CONFIG_'.join(without)}"
    return f"all {len(KERNEL_OPTIONS)} of Cilium's"


def parse_cgroup2(mounts: str) -> str:
    """Where cgroup2 is mounted, by the text of /proc/mounts; empty where it is not."""
    fields = (line.split() for line in mounts.splitlines())
    return next((words[1] for words in fields if len(words) > 2 and words[2] == "cgroup2"), "")


def parse_kernel_config(text: str) -> dict[str, str]:
    """Options that are set (`y` or `m`), without `CONFIG_`."""
    return dict(re.findall(r"^CONFIG_(\w+)=([ym])$", text, re.MULTILINE))


def _have(name: str, found: str) -> Probe:
    return Probe(name=name, present=True, found=found, needed_for=NEEDED_FOR)


def _lack(name: str, found: str, remedy: str) -> Probe:
    return Probe(name=name, present=False, found=found, needed_for=NEEDED_FOR, remedy=remedy)
