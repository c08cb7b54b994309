"""Which programs this host has, as they report themselves: implementation, version, and whether labctl can use them.

All of them are run at once. What is needed of each is in `model.tools`; what it is needed for is the provider's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from labctl.errors import MeasureFailed
from labctl.model.tools import TOOLS, UNKNOWN, ProgramIdentity, Tool, identify, shortfall
from labctl.providers.base import Probe
from labctl.system import process
from labctl.values import dataclass

_ASK_S = 5.0
_AT_ONCE = 8
_USUAL = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A program of the table, and what a provider needs it for."""

    program: str
    needed_for: str
    required: bool = True
    remedy: str = ""
    """Where the distribution's package is not the way; empty: it is."""

    @property
    def tool(self) -> Tool:
        return TOOLS[self.program]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundProgram:
    """A program as it was found; `path` is empty where there is none. `said` is its output about its version;
    `is_silent`: it had printed none at the deadline."""

    path: str
    identity: ProgramIdentity = UNKNOWN
    said: str = ""
    is_silent: bool = False


def tool_probes(needs: Sequence[Need]) -> Iterator[Probe]:
    """A probe for each need, in their order."""
    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="labctl-tool") as pool:
        found = list(pool.map(lambda need: ask(need.tool), needs))
    by_name = {need.program: one for need, one in zip(needs, found, strict=True)}
    for need, one in zip(needs, found, strict=True):
        yield probe_of(need, one, also=_other_backend(need.program, by_name))


def ask(tool: Tool) -> FoundProgram:
    """Looks the program up and has it print its version."""
    path = process.find_program(tool.program)
    if path is None:
        return FoundProgram(path="")
    try:
        done = process.run((path, *tool.asked), timeout_s=_ASK_S)
        said = f"{done.text}\n{done.error_text}"
        if done.timed_out:
            said = f"it did not print a version within {_ASK_S:g} s"
        elif done.returncode < 0:
            said = f"it was killed by signal {-done.returncode}\n{said}"
    except MeasureFailed as failed:
        said = f"{failed.what}: {failed.cause}"
        return FoundProgram(path=path, identity=identify(tool, said), said=said)
    return FoundProgram(path=path, identity=identify(tool, said), said=said, is_silent=done.timed_out)


def probe_of(need: Need, found: FoundProgram, *, also: str = "") -> Probe:
    """What doctor says of one program. `also` is a further reason why it cannot be used. Pure."""
    tool = need.tool
    package = need.remedy or f"apt-get install {tool.package}"
    if not found.path:
        return Probe(
            name=tool.program, present=False, found="not there", needed_for=need.needed_for, remedy=package,
            required=need.required, needs=tool.needed,
        )  # fmt: skip
    # A busy machine's tool that has not answered yet is there, and may well be usable.
    short = "" if found.is_silent else shortfall(tool, found.identity, found.said) or also
    words = found.identity.words or (f"version unknown: {found.said}" if found.is_silent else "version unknown")
    return Probe(
        name=tool.program,
        present=not short,
        found=_in_words(words, found.path, short),
        needed_for=need.needed_for,
        remedy=package,
        required=need.required,
        path=found.path,
        implementation=found.identity.implementation,
        version=found.identity.version,
        needs=tool.needed,
    )


def _in_words(words: str, path: str, short: str) -> str:
    """With the program's path where that is not the distribution's, or where the program cannot be used."""
    if short:
        return f"{words} ({path}, first on PATH): {short}"
    return words if path.rpartition("/")[0] in _USUAL else f"{words} ({path})"


def _other_backend(program: str, found: Mapping[str, FoundProgram]) -> str:
    """iptables has two: rules that are written through nf_tables are not in the tables that the legacy one reads."""
    pair = ("iptables-restore", "iptables-save")
    if program != pair[1] or any(name not in found or "(" not in found[name].identity.version for name in pair):
        return ""
    writes, reads = (found[name].identity.version.rpartition("(")[2].rstrip(")") for name in pair)
    return (
        ""
        if writes == reads
        else f"it reads {reads}, and {pair[0]} writes {writes}: update-alternatives --config iptables"
    )
