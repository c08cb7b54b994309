"""The lines in which a tool says what failed, known by their form: kubeadm, kubelet, helm, kubectl, kind, docker,
containerd, crictl, apt, dpkg and dnf each have one of their own. Pure.

Warnings stand around them, mostly before, and often look more alarming: a failure is told by its error lines, whole,
and everything else is for the file that keeps the output.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST = 4000
"""Characters that the errors of one failure may have; more is the machine's business, and is in the file."""
_LEAST_KNOWN = 3
_WARNING = re.compile(
    r"\s*\[WARNING |W\d{4} \d\d:|(?:time=\S+ )?level=warn|W: |WARN\[|(?:\w+: )?(?:WARNING|Warning|warning)[: ]"
    r"|debconf: "
)
"""kubeadm, klog (Kubernetes), logrus (containerd, docker), apt, crictl, helm and kubectl, debconf."""
_CAUSES = re.compile(
    r"\s*\[ERROR [\w.-]+\]"  # a preflight check of kubeadm
    r"|the kubelet says: |labctl: "  # from labctl's own scripts on the machine
    r"|The following packages have unmet dependencies:"  # apt
    r"|dpkg: error "
    r"| Problem(?: \d+)?: "  # dnf
)
"""Lines that name the cause itself; they go first."""
_ERRORS = re.compile(
    r"error execution phase |Unfortunately, an error has occurred:"  # kubeadm
    r"|Error: |ERROR: |error: |panic: |fatal: "  # helm, dnf; kind, docker compose; kubectl and kubeadm
    r"|Error from server|Unable to connect to the server: |The connection to the server "  # kubectl
    r"|The \S+ \"[^\"]*\" is invalid:"
    r"|Error response from daemon: |Cannot connect to the Docker daemon"
    r"|(?:docker|ctr|crictl|containerd|runc|apt-get|modprobe|sysctl|systemctl|kubelet|nft|iptables): "
    r"|FATA\[\d+\] |(?:time=\S+ )?level=(?:fatal|panic) "
    r"|F\d{4} \d\d:\d\d:\d\d"
    r"|E: |Err:\d+ "  # apt
    r"|(?:Job for \S+ failed|Failed to (?:start|restart|enable|reload) )"  # systemctl
)
_LOGGED = re.compile(r"E\d{4} \d\d:\d\d:\d\d|(?:time=\S+ )?level=error |ERRO\[\d+\] ")
"""Errors in a log: a program that goes on logs them, too, so they count where nothing better was said."""
_INSIDE = re.compile(r"(?:failed: |stderr: )(?=E: |Error: |error: |error execution phase )")
"""A tool's error behind the words of a module of Ansible that ran it."""
_CONTINUED = re.compile(r"\s+\S|[-*] |, ")
_ONLY_SUMS_UP = re.compile(r"error execution phase preflight: \[preflight\] Some fatal errors occurred:?$")


def errors_in(text: str) -> tuple[str, ...]:
    """Every error that the output tells, each whole and in one line, the causes first; empty where no line has the
    form of an error. Warnings, and lines that belong to a warning, are never among them."""
    causes: dict[str, None] = {}
    errors: dict[str, None] = {}
    logged: dict[str, None] = {}
    for kind, words in _told(text.splitlines()):
        {"cause": causes, "error": errors, "logged": logged}[kind].setdefault(words)
    if causes:
        errors = {words: None for words in errors if not _ONLY_SUMS_UP.match(words)}
    found = (*causes, *errors)
    return found or tuple(logged)[-_LEAST_KNOWN:]


def joined(errors: Iterable[str]) -> str:
    """The errors as one text, which ends with `…` where there is more than `LONGEST` of it."""
    text = "; ".join(errors)
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()}…"


def _told(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(kind, whole error) in the order of the lines. A line that is indented, a list's, or announced by a colon
    belongs to the one before it."""
    kind, parts = "", [""]
    for raw in lines:
        line = raw.rstrip()
        if inside := _INSIDE.search(line):
            line = line[inside.end() :]
        begins = _kind(line)
        is_more = _CONTINUED.match(line) or parts[-1].endswith(":")
        if not begins and line and kind and is_more:
            parts.append(line.strip())
            continue
        if not begins and not line and parts[-1].endswith(":"):
            continue
        if kind in ("cause", "error", "logged"):
            yield kind, " ".join(parts)
        kind, parts = begins, [line.strip()]
    if kind in ("cause", "error", "logged"):
        yield kind, " ".join(parts)


def _kind(line: str) -> str:
    """What kind of line begins here: a cause, an error, one of a log, a warning; empty for any other."""
    for kind, form in (("warning", _WARNING), ("cause", _CAUSES), ("error", _ERRORS), ("logged", _LOGGED)):
        if form.match(line):
            return kind
    return ""
