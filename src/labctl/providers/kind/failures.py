"""What a tool's failure means: the lines of its output that matter, and the remedy where one is known. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from labctl.errors import StepFailed
from labctl.providers.base import Completed

_LINES = 3
_MATTERS = re.compile(r"error|fail|denied|refused|not found|no such|unable|cannot|unknown|already|panic", re.IGNORECASE)
_NOISE = re.compile(r"^(Stack Trace:|goroutine |\s+at |\S+\.go:\d+|[a-z./]+\.\(?\*?\w+\)?\.\w+$|\[kubelet-check\]\s*$)")


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do when a tool's output matches."""

    pattern: re.Pattern[str]
    remedy: str


def _known(pattern: str, remedy: str) -> Remedy:
    return Remedy(re.compile(pattern, re.IGNORECASE), remedy)


REMEDIES = (
    _known(
        r"cannot connect to the docker daemon|is the docker daemon running|error during connect|docker info",
        "systemctl start docker; or check DOCKER_HOST (sudo forgets it: sudo -E) and: docker context ls",
    ),
    _known(r"permission denied.*docker\.sock", "run labctl as root, or: usermod -aG docker $USER (then log in again)"),
    _known(
        r"node\(s\) already exist for a cluster with the name",
        "give the lab another --name; the cluster of that name is not labctl's to remove",
    ),
    _known(
        r"port is already allocated|address already in use",
        "kindCluster.apiServerPort: 0 takes a free port; who has it: ss -ltnp",
    ),
    _known(
        r"failed to get random host port|cannot assign requested address|invalid IP address",
        "kindCluster.apiServerAddress: an IP address that the engine's host itself has, and that this host reaches",
    ),
    _known(r"no space left on device", "docker system df; docker system prune; df -h"),
    _known(
        r"too many open files|inotify",
        "sysctl -w fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512",
    ),
    _known(
        r"could not find a log line that matches",
        "a node did not boot. Often inotify limits: sysctl -w fs.inotify.max_user_instances=512; "
        "or the node image is too old for this host's cgroups",
    ),
    _known(
        r"kubelet is not running|kubelet isn't running|kubelet-check|failed to init node with kubeadm|"
        r"timed out waiting for the condition.*kubeadm",
        "on a host with cgroup v1 an old node image needs kindCluster.kubeadmConfigPatches with a "
        "KubeletConfiguration of cgroupDriver: cgroupfs (docs/kind.md); the kubelet's log is in the collected logs",
    ),
    _known(
        r"image: .* not present locally|no such image",
        "docker image ls; docker load -i ARCHIVE; or kindCluster.archives",
    ),
    _known(
        r"content digest .*: not found",
        "the engine's image store lacks parts of a multi-platform image: docker save IMAGE -o FILE, then "
        "kindCluster.archives: [FILE]",
    ),
    _known(
        r"chart \"?\S+\"? version \S+ not found|no chart version found|chart .* not found in",
        "helm search repo cilium/cilium --versions; or cilium.chart: PATH of a local .tgz",
    ),
    _known(
        r"chart requires kubeVersion",
        "a newer kindCluster.kubernetes, an older cilium.version, or cilium.allowUntested: true",
    ),
    _known(
        r"no such host|dial tcp|i/o timeout|network is unreachable|TLS handshake timeout|connection reset",
        "this host has no way there: use local files (cilium.chart, kindCluster.pull: false), or a proxy or mirror",
    ),
    _known(
        r"connection to the server .* was refused|was refused - did you specify the right host",
        "the API server does not answer: docker ps -a --filter label=io.x-k8s.kind.cluster; with a remote engine set "
        "kindCluster.apiServerAddress to its address",
    ),
    _known(r"unable to decode config|invalid configuration", "labctl plan SCENARIO --provider kind --shell shows it"),
    _known(
        r"pull access denied|manifest unknown|toomanyrequests|unauthorized",
        "docker pull it by hand and see; a mirror: kindCluster.registryMirrors",
    ),
)


def meaningful(text: str, limit: int = _LINES) -> tuple[str, ...]:
    """The last lines that say something, those about errors first; at most `limit`."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    about = [line for line in lines if _MATTERS.search(line)]
    return tuple(dict.fromkeys((about or lines)[-limit:]))


def remedy_for(text: str, fallback: str = "") -> str:
    """The remedy of the first known pattern in the text, or the fallback."""
    return next((known.remedy for known in REMEDIES if known.pattern.search(text)), fallback)


def failed_command(done: Completed, *, timeout_s: float, remedy: str = "", what: str = "") -> StepFailed:
    """A failed tool as an error that can be acted on: its command can be pasted."""
    output = f"{done.error_text}\n{done.text}"
    lines = meaningful(done.error_text) or meaningful(done.text)
    happened = f"did not end in {timeout_s:g} s" if done.timed_out else f"failed (exit status {done.returncode})"
    return StepFailed(
        what=what or f"{_short(done.argv)} {happened}",
        cause="; ".join(line[:400] for line in lines) or "it printed nothing",
        remedy=remedy_for(output, remedy or f"by hand: {shlex.join(done.argv)}"),
    )


def _short(argv: Sequence[str]) -> str:
    """The tool and what it was to do, without paths and options."""
    words = [word for word in argv if not word.startswith(("-", "/"))]
    return " ".join(words[:4])
