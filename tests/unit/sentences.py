"""The sentences that labctl's code speaks to people in, read from the code itself.

    python tests/unit/sentences.py [PACKAGE…]    those that the Chinese catalogue lacks, as the TOML to fill in

A sentence is a string of at least two words, with `{0}`, `{1}`, … where an f-string fills something in. What is for
machines is left out by where it stands: patterns, docstrings of what is no command, descriptions in the JSON Schema,
errors of programming (TypeError), and commands, which begin with a program's name.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labctl.language import Language, catalogue

SOURCE = Path(__file__).resolve().parents[2] / "src" / "labctl"

_WORDS = re.compile(r"(?<![\w{/.-])[A-Za-z][a-z']+[,;:]? (?:[a-z]{1,2} )?(?:[a-z][a-z'-]+|\{)|(?<!\w)\{\w+\} [a-z]{2,}")
_PROGRAMS = frozenset(
    {
        "VBoxManage", "alias", "apt", "apt-get", "awk", "bpftool", "cat", "conntrack", "containerd", "cp", "crictl",
        "ctr", "curl", "date", "df", "dmesg", "dnf", "docker", "dpkg", "echo", "env", "exec", "find", "free", "getent",
        "git", "grep", "head", "helm", "id", "ip", "iperf3", "iptables", "journalctl", "kill", "kind", "kubeadm",
        "kubectl", "kubelet", "labctl", "ln", "ls", "make", "mkdir", "modprobe", "mount", "mv", "nft", "nsenter",
        "openssl", "ping", "pip", "pkill", "podman", "prlimit", "ps", "python3", "rm", "rmdir", "scp", "sed", "set",
        "sh", "snap", "ss", "ssh", "ssh-add", "ssh-copy-id", "ssh-keygen", "ssh-keyscan", "stat", "sudo", "sysctl",
        "systemctl", "tar", "tc", "tcpdump", "test", "timedatectl", "touch", "tr", "ulimit", "umount", "uname",
        "usermod", "vagrant", "vi", "virsh", "visudo",
    }
)  # fmt: skip
_FOR_MACHINES = {
    "re.compile",
    "re.search",
    "re.match",
    "re.sub",
    "re.fullmatch",
    "re.findall",
    "TypeError",
    "dataclasses.FrozenInstanceError",
    "_log.debug",
}
_NOT_SHOWN = {"description", "pattern", "metavar", "alias", "ready"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    text: str
    package: str
    place: str


def sentences(*, with_words: bool = False) -> Iterator[Sentence]:
    """Each sentence once, in the order of the files, with the package that has it first; `with_words`: also single
    words, and what else is no sentence."""
    seen = set[str]()
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE)
        if name.parts[0] == "testing" or name.name == "rebuild.py":
            continue
        for text, line in _of(path.read_text(encoding="utf-8"), is_command=name.parts[:2] == ("cli", "commands")):
            if text not in seen and (with_words or is_sentence(text)):
                seen.add(text)
                yield Sentence(text=text, package=_package(name), place=f"{name}:{line}")


def is_sentence(text: str) -> bool:
    """Whether it is for people: at least two words, and no command."""
    first = text.strip().split(" ", 1)[0]
    if first.split("=")[0] in _PROGRAMS and not re.search(r"  #|: |; ", text):
        return False
    return bool(_WORDS.search(text)) and not re.match(r"^[-/#$<*(\[\\^]", text.strip())


def _package(name: Path) -> str:
    parts = name.with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] == "providers" and len(parts) > 2 else parts[0]


def _of(source: str, *, is_command: bool) -> Iterator[tuple[str, int]]:
    tree = ast.parse(source)
    left_out = _for_machines(tree, source)
    if is_command:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any(map(_is_click_command, node.decorator_list)):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    yield " ".join(paragraph.split()), node.lineno
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.JoinedStr):
            pieces = iter(range(len(node.values)))
            yield (
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else f"{{{next(pieces)}}}" for part in node.values
                ),
                node.lineno,
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno


def _is_click_command(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.command", "click.group", "command.command")


def _for_machines(tree: ast.Module, source: str) -> set[int]:
    out = set[int]()
    lines = source.splitlines()

    def leave(node: ast.AST) -> None:
        out.update(id(one) for one in ast.walk(node))

    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            leave(node)  # docstrings, and what stands under a constant
        elif isinstance(node, ast.JoinedStr):
            out.update(id(part) for part in node.values if isinstance(part, ast.Constant))
            if lines[node.lineno - 1][_column(lines, node) :].startswith(("rf", "fr")):
                leave(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if lines[node.lineno - 1][_column(lines, node) :].startswith("r"):
                leave(node)
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in _FOR_MACHINES:
                for argument in node.args:
                    leave(argument)
            for keyword in node.keywords:
                if keyword.arg in _NOT_SHOWN:
                    leave(keyword)
        elif isinstance(node, ast.Assert):
            leave(node)
        elif isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            leave(node.format_spec)
    return out


def _column(lines: list[str], node: ast.expr) -> int:
    return len(lines[node.lineno - 1].encode()[: node.col_offset].decode())


def missing(packages: set[str]) -> Iterator[str]:
    """The lines to add to the catalogue, in the order of the code; a comment says where each sentence stands."""
    known = {text for text, _ in catalogue(Language.CHINESE)}
    package = ""
    for one in sorted(sentences(), key=lambda one: one.package):
        if one.text in known or (packages and one.package not in packages):
            continue
        if one.package != package:
            package = one.package
            yield f"\n# locales/zh/{package}.toml"
        yield f'# {one.place}\n{json.dumps(one.text, ensure_ascii=False)} = ""'


if __name__ == "__main__":
    print("\n".join(missing(set(sys.argv[1:]))))
