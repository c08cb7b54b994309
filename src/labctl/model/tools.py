"""The programs that labctl runs: which implementation and version of each it needs, and what the end of one says.

A tool that failed is never the network's verdict. Whether it failed is decided here, for every check, proof and trace
alike: by how it ended and by its own words. Pure. What a program prints when it works is read where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from labctl.errors import MeasureFailed
from labctl.model.result import Completed
from labctl.values import dataclass

_VERSION = r"(\d+(?:\.\d+)*(?:[-.\w]*\w)?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A program, and what is known of it before it runs.

    `asked` is what makes it tell its version, `pattern` finds that in the answer of the one `implementation` that will
    serve (empty: any does). Nothing older than `oldest` serves, because of `lacking`. `parts` are libraries that
    it names beside its own version, `record` is what a run's environment calls it (empty: it is not recorded).
    """

    program: str
    package: str
    asked: tuple[str, ...]
    pattern: str
    implementation: str = ""
    oldest: tuple[int, ...] = ()
    lacking: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    record: str = ""

    @property
    def needed(self) -> str:
        """What is needed, in words: `iputils ping`, `iperf3 3.12 or newer`."""
        name = f"{self.implementation} {self.program}" if self.implementation else self.program
        return f"{name} {'.'.join(map(str, self.oldest))} or newer" if self.oldest else name


_LIBBPF = (("libbpf", rf"libbpf {_VERSION}"),)

TOOLS: Mapping[str, Tool] = MappingProxyType(
    {
        tool.program: tool
        for tool in (
            Tool(
                program="ip", package="iproute2", asked=("-V",), pattern=r"iproute2-(?:ss)?([\w.-]*\w)",
                implementation="iproute2", parts=_LIBBPF, record="iproute2",
            ),
            Tool(
                program="tc", package="iproute2", asked=("-V",), pattern=r"iproute2-(?:ss)?([\w.-]*\w)",
                implementation="iproute2",
            ),
            Tool(program="sysctl", package="procps", asked=("--version",), pattern=rf"procps(?:-ng)? {_VERSION}"),
            Tool(
                program="ping", package="iputils-ping", asked=("-V",), pattern=r"iputils[- ]s?([\w.]*\w)",
                implementation="iputils", record="ping",
            ),
            Tool(
                program="iperf3", package="iperf3", asked=("--version",), pattern=rf"iperf {_VERSION}",
                oldest=(3, 12), lacking="older versions do not report what the UDP receiver got", record="iperf3",
            ),
            Tool(
                program="sockperf", package="sockperf", asked=("--version",), pattern=rf"sockperf, version {_VERSION}",
                record="sockperf",
            ),
            Tool(
                program="tcpdump", package="tcpdump", asked=("--version",), pattern=rf"tcpdump version {_VERSION}",
                parts=(("libpcap", rf"libpcap version {_VERSION}"),), record="tcpdump",
            ),
            Tool(program="nft", package="nftables", asked=("--version",), pattern=rf"nftables v{_VERSION}"),
            *(
                Tool(
                    program=program, package="iptables", asked=("--version",),
                    pattern=rf"iptables(?:-save|-restore)? v({_VERSION[1:-1]}(?: \(\w+\))?)",
                    record="iptables" if program == "iptables" else "",
                )
                for program in ("iptables", "iptables-restore", "iptables-save")
            ),
            Tool(
                program="conntrack", package="conntrack", asked=("--version",), pattern=rf"conntrack v{_VERSION}",
                record="conntrack",
            ),
            Tool(
                program="nsenter", package="util-linux", asked=("--version",), pattern=rf"util-linux {_VERSION}",
            ),
            Tool(
                program="ssh", package="openssh-client", asked=("-V",), pattern=r"OpenSSH_([\w.]*\w)",
                implementation="OpenSSH",
            ),
            Tool(
                program="helm", package="helm", asked=("version", "--template", "{{.Version}}"),
                pattern=r"v(\d+\.\d+\.\d+\S*)",
            ),
            Tool(program="bash", package="bash", asked=("--version",), pattern=rf"GNU bash, version {_VERSION}"),
            Tool(program="bpftool", package="bpftool", asked=("version",), pattern=rf"bpftool v{_VERSION}"),
            Tool(program="clang", package="clang", asked=("--version",), pattern=rf"clang version {_VERSION}"),
            Tool(
                program="python3", package="python3", asked=("--version",), pattern=rf"Python {_VERSION}",
                oldest=(3, 8), lacking="older versions have no socket.create_server",
            ),
        )
    }
)  # fmt: skip
"""Every program whose implementation or version matters, by its name."""

_OTHERS = (
    ("busybox", re.compile(rf"BusyBox v{_VERSION}")),
    ("toybox", re.compile(rf"toybox {_VERSION}", re.IGNORECASE)),
    ("inetutils", re.compile(rf"inetutils\)? {_VERSION}")),
    ("iputils", re.compile(r"iputils[- ]s?([\w.]*\w)")),
    ("dropbear", re.compile(r"[Dd]ropbear v?([\w.]*\w)")),
    ("fping", re.compile(rf"fping: Version {_VERSION}")),
)
"""Those that are met under names that are not theirs alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramIdentity:
    """What a program says that it is. `version` is empty where it does not say; `parts` are libraries of its own."""

    implementation: str
    version: str
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> str:
        """`iputils 20221126`, `4.99.3, libpcap 1.10.3`; empty when nothing is known."""
        own = " ".join(part for part in (self.implementation, self.version) if part)
        return ", ".join(part for part in (own, *(f"{name} {version}" for name, version in self.parts)) if part)


UNKNOWN = ProgramIdentity(implementation="", version="")


def identify(tool: Tool, text: str) -> ProgramIdentity:
    """From what the program printed when it was asked for its version, on both streams."""
    found = re.search(tool.pattern, text)
    if found is not None:
        parts = tuple((name, match[1]) for name, pattern in tool.parts if (match := re.search(pattern, text)))
        return ProgramIdentity(implementation=tool.implementation, version=found[1], parts=parts)
    for name, pattern in _OTHERS:
        if (match := pattern.search(text)) is not None:
            return ProgramIdentity(implementation=name, version=match[1])
    return UNKNOWN


def shortfall(tool: Tool, identity: ProgramIdentity, text: str = "") -> str:
    """Why this one does not serve, as half a sentence; empty when it does. `text` is what it printed when asked."""
    if not identity.version:
        words = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
        if tool.implementation or tool.oldest or is_broken(text):
            return f"its version is unknown (it printed: {words[:120]}); {tool.needed} is needed"
        return ""
    if tool.implementation and identity.implementation != tool.implementation:
        return f"{tool.needed} is needed"
    if tool.oldest and numbers(identity.version) < tool.oldest:
        return f"{tool.needed} is needed: {tool.lacking}"
    return ""


def numbers(version: str) -> tuple[int, ...]:
    """`3.12` as (3, 12), so that versions compare; what is no number ends it."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def is_broken(text: str) -> bool:
    """Whether a program says that it cannot run at all."""
    return _BROKEN.search(text) is not None


_BROKEN = re.compile(r"error while loading shared libraries|symbol lookup error|Exec format error|version `GLIBC")
_HINTS = (
    (
        re.compile(
            r"Operation not permitted|[Pp]ermission denied|don't have permission|must be root|are you root|"
            r"[Ll]acking privilege|CAP_[A-Z_]+|cap_net_\w+|Function not implemented"
        ),
        "it is not permitted: a capability, a permission or a kernel function is missing",
    ),
    (
        re.compile(
            r"(?:invalid|unrecognized|unrecognised|unknown|illegal) (?:option|argument|command)|"
            r"invalid (?:number|value) |Option \".*\" is unknown|Usage:|option requires",
            re.IGNORECASE,
        ),
        "it does not know the option or command: another implementation, or an older version",
    ),
    (_BROKEN, "it cannot run here: its installation is broken"),
    (
        re.compile(r"Too many open files|Cannot allocate memory|No space left on device|Resource temporarily"),
        "this host is out of memory, disk space or file descriptors",
    ),
)
_COMPLAINT = re.compile(
    r"\berror\b|unable to|cannot|can['`]t|not permitted|permission|must be root|privilege|"
    r"(?:invalid|unrecognized|unknown|illegal) (?:option|argument)|is unknown|not found|no such",
    re.IGNORECASE,
)

UNREACHED = ("Connection timed out", "No route to host", "Network is unreachable", "Host is unreachable")
"""What the kernel answers a program when the network does not let it through: the network's words, not the tool's."""
_OF_THE_NETWORK = (
    *UNREACHED, "timed out", "Connection refused", "Connection reset by peer", "Message too long",
    "message too long", "sendmsg: Operation not permitted", "Network is down", "Host is down",
)  # fmt: skip


def is_of_the_network(line: str) -> bool:
    """Whether a line of complaint tells what the network, or the rules on the way, did to a packet. (A rule in the
    pod's own OUTPUT hook reaches the sender as `sendmsg: Operation not permitted`.)"""
    return any(words in line for words in _OF_THE_NETWORK)


def said(completed: Completed) -> str:
    """What a process complained about: the last line that looks like a complaint, or else its last line."""
    words = words_of(completed)
    return f"its last output: {words}" if words else "it printed nothing"


def words_of(completed: Completed) -> str:
    """The line that `said` quotes; empty when there is none."""
    texts = (completed.error_text, completed.text)
    lines = [[line.strip() for line in text.splitlines() if line.strip()] for text in texts]
    complaints = [line for text in lines for line in text if _COMPLAINT.search(line)]
    found = complaints or next((text for text in lines if text), [])
    return found[-1][:300] if found else ""


def why(completed: Completed) -> str:
    """What a process that failed said, and what that means where it is known."""
    return "; ".join(part for part in (said(completed), meaning(completed)) if part)


def meaning(completed: Completed) -> str:
    """What a failure means by its words, and what is needed where it is another program; empty when not known."""
    text = completed.error_text + completed.text
    meant = next((hint for pattern, hint in _HINTS if pattern.search(text)), "")
    tool = TOOLS.get(_program(completed))
    if tool is None or not tool.implementation:
        return meant
    others = (name for name, pattern in _OTHERS if name != tool.implementation and pattern.search(text))
    if other := next(others, ""):
        return f"this is {other}'s, and {tool.needed} is needed"
    return f"{meant}; {tool.needed} is needed" if "does not know" in meant else meant


def remedy_for(completed: Completed) -> str:
    """What to type next, after a tool has failed."""
    tool = TOOLS.get(_program(completed))
    return f"labctl doctor  # which {tool.program} is here; needed is {tool.needed}" if tool is not None else ""


def _program(completed: Completed) -> str:
    return completed.argv[0].rpartition("/")[2] if completed.argv else "the tool"


def require_ended(completed: Completed) -> None:
    """Raises MeasureFailed when the process was killed at its deadline or by a signal."""
    program = _program(completed)
    if completed.timed_out:
        raise MeasureFailed(
            f"{program} did not end in time", f"killed after {completed.duration_s:.1f} s; {said(completed)}"
        )
    if completed.returncode < 0:
        raise MeasureFailed(f"{program} was killed by signal {-completed.returncode}", said(completed))


def require_success(completed: Completed, what: str = "", *, statuses: Sequence[int] = (0,)) -> Completed:
    """Gives the process back when it ended by itself with one of `statuses`. Raises MeasureFailed with the tool's own
    words otherwise; `what` says what could not be done for it (else the tool and its status are named)."""
    require_ended(completed)
    if completed.returncode not in statuses:
        program = _program(completed)
        raise MeasureFailed(
            what or f"{program} ended with status {completed.returncode}",
            f"{program}: {why(completed)}" if what else why(completed),
            remedy_for(completed),
        )
    return completed


def require_output(completed: Completed, what: str = "") -> str:
    """What a process printed that succeeded and must have printed something. Raises MeasureFailed otherwise."""
    text = require_success(completed, what).text
    if not text.strip():
        program = _program(completed)
        raise MeasureFailed(what or f"{program} printed nothing", f"{program} ended with status 0; {said(completed)}")
    return text
