"""What a tool's failure means: the lines of its output that matter, and the remedy where one is known. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from labctl.errors import StepFailed
from labctl.providers.base import Completed
from labctl.providers.cilium.commands import errors_in, joined
from labctl.values import dataclass

_LINES = 3
_MATTERS = re.compile(r"error|fail|denied|refused|not found|no such|unable|cannot|unknown|already|panic", re.IGNORECASE)
_NOISE = re.compile(r"^(Stack Trace:|goroutine |\s+at |\S+\.go:\d+|[a-z./]+\.\(?\*?\w+\)?\.\w+$|\[kubelet-check\]\s*$)")


_WARNING = re.compile(r"^\s*(\[WARNING [^\n]*|W\d{4} [^\n]*|WARNING: [^\n]*|[^\n]*level=warning[^\n]*)$", re.MULTILINE)
"""Lines that appear with a failure and are not its cause (kubeadm warns of swap on most machines)."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do when a tool's output matches: one line for each thing to try."""

    pattern: re.Pattern[str]
    remedy: str


def _known(pattern: str, *lines: str) -> Remedy:
    return Remedy(re.compile(pattern, re.IGNORECASE), "\n".join(lines))


ROOTLESS = (
    "docker context use default  # an engine that runs as root: Cilium's programs cannot be loaded from a user "
    "namespace"
)
MIRROR = "# in lab.yaml, kindCluster.registryMirrors: a mirror"
INOTIFY = "sudo sysctl -w fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512"
REMEDIES = (
    _known(
        r"permission denied.*docker\.sock|docker\.sock.*permission denied",
        "sudo usermod -aG docker $USER  # then log in again; or run labctl as root",
    ),
    _known(
        r"/snap/(bin/)?docker|invalid output path: directory \"?/tmp|"
        r"open \S*/images-tar\S*: no such file|(stat|lstat) /tmp/\S+: no such file",
        "mkdir -p ~/labctl-tmp",
        "export TMPDIR=~/labctl-tmp  # then the same command: docker from snap has its own /tmp",
        "sudo snap remove docker  # or this, and install docker from the distribution or docker.com",
    ),
    _known(
        r"running kind with rootless provider requires setting systemd property|requires .{0,30}Delegate=yes",
        "sudo mkdir -p /etc/systemd/system/user@.service.d",
        "printf '[Service]\\nDelegate=yes\\n' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf",
        "sudo systemctl daemon-reload  # then log in again",
        ROOTLESS,
    ),
    _known(
        r"rootless.{0,60}(requires|needs) cgroup v2",
        ROOTLESS,
    ),
    _known(
        r"cannot connect to the docker daemon|is the docker daemon running|error during connect|"
        r"cannot connect to podman|failed to connect to .*docker API|"
        r"docker\.sock: connect: (connection refused|no such file)",
        "sudo systemctl start docker",
        'echo "$DOCKER_HOST"  # sudo forgets it (sudo -E keeps it)',
        "docker context ls",
    ),
    _known(
        r"client version \S+ is too (new|old)|minimum supported API version|Maximum supported API version",
        "docker version  # client and server are too far apart: upgrade the older one",
        "export DOCKER_API_VERSION=VERSION-OF-THE-SERVER  # then the same command",
    ),
    _known(
        r"could not find an available.{0,40}address pool|all predefined address pools have been fully subnetted|"
        r"could not find an available predefined network|no available (subnet|network|IPv4 address)",
        "docker network ls",
        "docker network prune  # removes those that no container uses",
        "docker network create --driver bridge --subnet 172.31.255.0/24 kind  # or give kind a range of its own",
    ),
    _known(
        r"networks have overlapping IPv[46]|Pool overlaps with other one|conflicts with network",
        "docker network ls --no-trunc",
        "docker network inspect $(docker network ls -q) --format '{{.Name}} {{range .IPAM.Config}}{{.Subnet}} {{end}}'",
        "docker network rm NAME  # the one that kind's network overlaps with, if it is not needed",
    ),
    _known(
        r"IPv6 is (disabled|not (supported|enabled))|ip6tables.*(does not exist|can't initialize)|"
        r"could not (add|set up).{0,40}IPv6",
        "docker network create --driver bridge kind  # kind then uses it as it is, without IPv6",
    ),
    _known(
        r"iptables.{0,80}(No chain/target/match by that name|Chain .DOCKER\S* does not exist)|"
        r"Chain 'DOCKER\S*' does not exist",
        "sudo systemctl restart docker  # its rules were removed, often by a firewall that was started later",
    ),
    _known(
        r"configured to not run on a host using cgroup v1|\[ERROR SystemVerification\]: cgroups v1",
        "stat -fc %T /sys/fs/cgroup  # tmpfs is v1; boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2",
        '# or in lab.yaml, kindCluster: {kubernetes: "1.34.2"}: the kubelet refuses cgroup v1 from 1.35 on',
        "# or kindCluster.kubeadmConfigPatches with a KubeletConfiguration of failCgroupV1: false (docs/kind.md)",
    ),
    _known(
        r"(uploading crisocket|kubelet-start|failed to join node).{0,300}Unauthorized|"
        r"Unauthorized.{0,200}(crisocket|kubelet-start)|token id \S+ is invalid|could not find a JWS signature",
        "# the same command again: a slow start is the usual reason, and the API server did not know the node yet",
        "docker info --format '{{.NCPU}} CPUs, {{.MemTotal}} byte'  # each node needs a CPU and 1 GiB",
        "timedatectl  # tokens expire early when the clock jumps",
    ),
    _known(
        r"node\(s\) already exist for a cluster with the name",
        "kind get clusters",
        "# give the lab another --name; the cluster of that name is not labctl's to remove",
    ),
    _known(
        r"container name \"?\S+ is already in use|Conflict\. The container name",
        "docker ps -a --filter label=io.x-k8s.kind.cluster",
        "# give the lab another --name",
    ),
    _known(
        r"port is already allocated|address already in use|ports are not available",
        "sudo ss -ltnp  # shows which process uses it",
        "# in lab.yaml, kindCluster: {apiServerPort: 0} takes a free port",
    ),
    _known(
        r"failed to get random host port|cannot assign requested address|invalid IP address",
        "# in lab.yaml, kindCluster.apiServerAddress: an IP address that the engine's host itself has, and that this "
        "host reaches",
    ),
    _known(
        r"no space left on device|disk quota exceeded",
        "df -h; df -i",
        "docker system df",
        "docker system prune  # removes what no container uses",
    ),
    _known(
        r"too many open files|failed to create fsnotify watcher|failed to create inotify|"
        r"inotify_(init|add_watch)|(limit|number) .{0,30}inotify (watches|instances)",
        INOTIFY,
        "ulimit -n 65536  # in this shell, where the program itself has too many files open",
    ),
    _known(
        r"could not find a log line that matches",
        f"{INOTIFY}  # a node did not boot: often because these limits are too low",
        "docker info --format '{{.CgroupVersion}}'  # or the node image is too old for this host's cgroups",
    ),
    _known(
        r"apparmor_parser|apparmor=\"DENIED\"|unable to apply apparmor profile|AppArmor enabled on system but",
        "sudo apt-get install apparmor",
        "sudo dmesg | grep -i apparmor",
        "sudo systemctl restart apparmor docker",
    ),
    _known(
        r"open /dev/kmsg: (no such file|operation not permitted)|overlayfs.{0,80}(not supported|invalid argument)|"
        r"failed to mount overlay|driver not supported: overlay",
        "docker info --format '{{.Driver}} {{.SecurityOptions}}'  # nodes need overlay2, and an "
        "engine that does not itself run in an unprivileged container",
    ),
    _known(
        r"\[ERROR Swap\]|failed to run kubelet: [^\n]*swap",
        "sudo swapoff -a",
    ),
    _known(
        r"cgroup driver.{0,40}(is different|mismatch)|misconfiguration: kubelet cgroup driver",
        "# in lab.yaml, kindCluster.kubeadmConfigPatches: a KubeletConfiguration with cgroupDriver: cgroupfs",
    ),
    _known(
        r"oom.?kill|out of memory|cannot allocate memory|signal: killed|exit(ed with)? (code|status) 137",
        "free -h",
        "docker info --format '{{.MemTotal}}'",
        "# nodes: 2 in the scenario, or a larger machine",
    ),
    _known(
        r"kubelet is not running|kubelet isn't running|kubelet-check|failed to init node with kubeadm|"
        r"timed out waiting for the condition.*kubeadm",
        "# the kubelet's log is in the collected logs; on a host with cgroup v1 an old node image needs",
        "# kindCluster.kubeadmConfigPatches with a KubeletConfiguration of cgroupDriver: cgroupfs (docs/kind.md)",
    ),
    _known(
        r"ErrImageNeverPull|image: .* not present locally|no such image",
        "docker image ls",
        "docker load -i ARCHIVE  # or name it under kindCluster.archives",
    ),
    _known(
        r"content digest .*: not found",
        "docker save IMAGE -o FILE  # then kindCluster.archives: [FILE]: the engine's image store lacks parts of a "
        "multi-platform image",
    ),
    _known(
        r"exec format error|no matching manifest for|does not match the (specified|detected host) platform",
        "docker info --format '{{.Architecture}}'  # the image is for another architecture: use one for this host",
    ),
    _known(
        r"toomanyrequests|pull rate limit|429 Too Many Requests",
        "docker login  # the registry's rate limit for anonymous pulls is reached",
        MIRROR,
    ),
    _known(
        r"x509: certificate has expired or is not yet valid",
        "date; timedatectl  # the clock is wrong, or the certificate has expired",
    ),
    _known(
        r"x509: certificate signed by unknown authority|certificate (is not trusted|verify failed)|"
        r"x509: cannot validate certificate|http: server gave HTTP response to HTTPS client",
        "sudo cp CA.crt /usr/local/share/ca-certificates/  # the CA of the proxy or registry in between",
        "sudo update-ca-certificates",
        "sudo systemctl restart docker",
    ),
    _known(
        r"proxyconnect|407 Proxy Authentication Required|proxy.{0,40}(refused|timeout)",
        "env | grep -i _proxy  # sudo forgets it (sudo -E keeps it)",
        "systemctl show docker --property Environment  # the engine has a setting of its own",
    ),
    _known(
        r"cannot re-use a name that is still in use|a release named .{0,60} already exists",
        "helm list --all --all-namespaces",
        "labctl down LAB  # then build it again",
    ),
    _known(
        r"another operation \(install/upgrade/rollback\) is in progress",
        "helm list --all --all-namespaces  # an earlier helm was interrupted",
        "labctl down LAB  # then build it again",
    ),
    _known(
        r"invalid ownership metadata|cannot be imported into the current release",
        "labctl down LAB  # something else installed parts of the chart: build it again",
    ),
    _known(
        r"chart \"?\S+\"? version \S+ not found|no chart version found|chart .* not found in",
        "helm search repo cilium/cilium --versions",
        "# in lab.yaml, cilium.chart: PATH of a local .tgz",
    ),
    _known(
        r"chart requires kubeVersion",
        "# in lab.yaml: a newer kindCluster.kubernetes, an older cilium.version, or cilium.allowUntested: true",
    ),
    _known(
        r"pull access denied|manifest unknown|manifest for .* not found|unauthorized: |denied: requested access",
        "docker pull IMAGE  # by hand: is the name right, does it need a login?",
        MIRROR,
    ),
    _known(
        r"context \"[^\"]*\" does not exist|no context exists with the name|current-context is not set|"
        r"docker context .{0,60}not found|context not found",
        "docker context ls",
        "kubectl config get-contexts",
        "unset DOCKER_CONTEXT  # if it names a context that no longer exists",
    ),
    _known(
        r"unknown command|unknown flag: |unknown shorthand flag",
        "labctl doctor --provider kind  # a program is too old, or a different program of that name",
    ),
    _known(
        r"connection to the server .* was refused|was refused - did you specify the right host|"
        r"dial tcp (127\.0\.0\.1|\[::1\]|localhost):\d+: connect: connection refused|"
        r"(127\.0\.0\.1|localhost):\d+\S* .{0,20}TLS handshake timeout",
        "docker ps -a --filter label=io.x-k8s.kind.cluster  # the API server does not answer",
        "# in lab.yaml, kindCluster.apiServerAddress: the address of the engine's host, if that is another one",
        "free -h  # or it is too slow, for want of memory",
    ),
    _known(
        r"short-name .{0,200}did not resolve",
        "docker version  # here it is podman, which looks for such a name in no registry",
        "# in lab.yaml, the image with its registry: docker.io/…",
    ),
    _known(
        r"runc create failed|crun: |OCI runtime (create|start) failed|unable to start container process",
        "docker run --rm IMAGE true  # does the engine start any container? Its own message is the cause",
        "systemctl status docker containerd",
    ),
    _known(
        r"no such host|dial tcp|i/o timeout|network is unreachable|TLS handshake timeout|connection reset",
        "env | grep -i _proxy  # this host cannot reach it: a proxy setting may be missing",
        "# in lab.yaml: local files (cilium.chart, kindCluster.pull: false), or kindCluster.registryMirrors",
    ),
    _known(
        r"unable to decode config|invalid configuration",
        "labctl plan SCENARIO --provider kind --shell  # shows the configuration",
    ),
)
"""What the tools say in public reports, the most specific first. A text that fits none shows the tool's own words."""


def meaningful(text: str, limit: int = _LINES) -> tuple[str, ...]:
    """The last meaningful lines, those about errors first; at most `limit`."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    about = [line for line in lines if _MATTERS.search(line)]
    return tuple(dict.fromkeys((about or lines)[-limit:]))


def remedy_for(text: str, fallback: str = "") -> str:
    """The remedy of the first known pattern in the text, or the fallback."""
    errors = _WARNING.sub("", text)
    return next((known.remedy for known in REMEDIES if known.pattern.search(errors)), fallback)


def failed_command(
    done: Completed, *, timeout_s: float, remedy: str = "", what: str = "", log: Path | None = None
) -> StepFailed:
    """A failed tool as an error that can be acted on: its own errors whole, its command to be pasted, and `log`, the
    file that keeps all that it printed."""
    output = f"{done.error_text}\n{done.text}"
    errors = errors_in(done.error_text) or errors_in(done.text)
    lines = meaningful(done.error_text) or meaningful(done.text)
    command = _short(done.argv)
    failed = f"{command} failed (exit status {done.returncode})"
    return StepFailed(
        what=what or (f"{command} did not end in {timeout_s:g} s" if done.timed_out else failed),
        cause=joined(errors) or "; ".join(line[:400] for line in lines) or "it printed nothing",
        remedy=(remedy_for("\n".join(errors)) or remedy_for(output, remedy or f"{shlex.join(done.argv)}  # by hand"))
        + (f"\nless {shlex.quote(str(log))}  # all that it printed" if log else ""),
    )


def _short(argv: Sequence[str]) -> str:
    """The tool and its subcommand, without paths and options."""
    words = [word for word in argv if not word.startswith(("-", "/"))]
    return " ".join(words[:4])
