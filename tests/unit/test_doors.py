"""Whatever crosses into root goes through a door, and docs/security.md tells the truth about its tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from crossings import crossings

TREE = Path(__file__).resolve().parents[2]
SECURITY = (TREE / "docs" / "security.md").read_text(encoding="utf-8")
SOURCES = TREE / "src" / "labctl"
NAMED = sorted(set(re.findall(r"`(tests/[\w/.-]+\.py)(?:::(\w+))?`", SECURITY)))


def test_the_page_names_tests() -> None:
    assert len(NAMED) >= 5


@pytest.mark.parametrize(("file", "function"), NAMED, ids=lambda part: part or "file")
def test_every_test_that_the_page_names_exists(file: str, function: str) -> None:
    tree = ast.parse((TREE / file).read_text(encoding="utf-8"))
    assert not function or function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


# ---- what can be pasted into a shell is quoted


def unquoted(tree: ast.AST) -> list[int]:
    """The lines where the words of a command are joined by spaces: `" ".join(argv)`, `" ".join(target.command(…))`."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=" "), attr="join"), args=[words]):
                name = words.func if isinstance(words, ast.Call) else words
                called = name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")
                if called in ("argv", "command"):
                    found.append(node.lineno)
    return found


def test_the_words_of_a_command_are_quoted_wherever_it_is_shown() -> None:
    assert unquoted(ast.parse("' '.join(self.argv)\n' '.join(a.command(('x',)))\nshlex.join(argv)\n")) == [1, 2]
    known = {"providers/cilium/commands.py", "planning/shell.py"}  # compared there: whether quoting changes anything
    known |= {"datapath/source/rebuild.py", "load/source/rebuild.py"}  # of a maintainer, with words of its own
    wrong = {
        str(path.relative_to(SOURCES)): lines
        for path in sorted(SOURCES.rglob("*.py"))
        if (lines := unquoted(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert set(wrong) == known, wrong


# ---- nothing crosses beside the doors


DOORS = {
    "system.files": "the door to files",
    "system.archives": "the door to archives",
    "system.process": "the door to programs",
    "cli.output": "the door to the terminal",
    "json_text": "the door to JSON",
}
KERNEL = "of the kernel (/proc, /sys): what it says is its own, and nobody else can write it"
CGROUPS = "cgroups of a lab's own, in the kernel's file system of them"
OWN_CODE = "of labctl's own package or installation, which is trusted as its code is"
DAEMONS = "a new folder in one of root's, which a daemon reads by its group"
NAMESPACES = "in /run/netns and /run/labctl, which root alone may write"
KIT = "in the new temporary folder (0700) in which a workshop kit is put together"
MAINTAINER = "builds the eBPF objects or the load program for a commit; labctl never runs it"
NULL = "of /dev/null"
LIBRARY = "a library of the system, by a constant name"
HEADER = "a number of the format, held against a header before tarfile reads it"

EXCEPTIONS = {
    ("cli.commands.capture", "os.open"): NULL,
    ("cli.commands.capture", "os.dup2"): "/dev/null in place of a standard output whose reader has gone",
    ("cli.commands.exec_in", "os.execvp"): "becomes the program that the person gave to `labctl exec`",
    ("cli.group", "importlib.import_module"): "one of the command modules in COMMANDS, " + OWN_CODE,
    ("cli.group", ".write_text"): "a paragraph of help, into click's buffer: no file",
    ("cli.streams", ".read_bytes"): KERNEL,
    ("cli.streams", "os.execv"): "this very command line again, in UTF-8 mode",
    ("cli.streams", "os.open"): NULL,
    ("cli.streams", "os.dup2"): "/dev/null in place of a stream whose reader has gone",
    ("datapath.bpf", ".read_text"): KERNEL,
    ("datapath.bpf", "ctypes.CDLL"): LIBRARY,
    ("datapath.events", "ctypes.CDLL"): LIBRARY,
    ("datapath.loader", "ctypes.CDLL"): LIBRARY,
    ("load.taps", "mmap.mmap"): "the memory of a map of the kernel's, to read",
    ("datapath.source.rebuild", "json.loads"): MAINTAINER,
    ("load.source.rebuild", "json.loads"): MAINTAINER,
    ("load.source.rebuild", "subprocess.run"): MAINTAINER,
    ("load.source.rebuild", "sys.stdout.write"): MAINTAINER,
    ("load.source.rebuild", ".read_bytes"): MAINTAINER,
    ("load.source.rebuild", ".read_text"): MAINTAINER,
    ("load.source.rebuild", "tempfile.TemporaryDirectory"): MAINTAINER,
    ("load.source.rebuild", ".mkdir"): MAINTAINER,
    ("load.source.rebuild", ".write_text"): MAINTAINER,
    ("system.cpus", ".read_text"): KERNEL,
    ("providers.netns.kinds.delay", "os.open"): "of /dev/net/tun, which is the kernel's",
    ("system.relay", "ctypes.CDLL"): LIBRARY,
    ("system.cgroups", ".read_bytes"): KERNEL,
    ("system.clock", ".read_text"): KERNEL,
    ("system.cgroups", ".mkdir"): CGROUPS,
    ("system.cgroups", "os.open"): CGROUPS,
    ("system.cgroups", ".rmdir"): CGROUPS,
    ("system.cgroups", ".read_text"): KERNEL,
    ("system.cgroups", ".write_text"): CGROUPS,
    ("datapath.source.rebuild", "subprocess.run"): MAINTAINER,
    ("datapath.source.rebuild", "sys.stdout.write"): MAINTAINER,
    ("datapath.source.rebuild", ".read_bytes"): MAINTAINER,
    ("datapath.source.rebuild", ".read_text"): MAINTAINER,
    ("datapath.source.rebuild", "tempfile.TemporaryDirectory"): MAINTAINER,
    ("datapath.source.rebuild", ".mkdir"): MAINTAINER,
    ("datapath.source.rebuild", ".write_text"): MAINTAINER,
    (
        "providers.cilium.bundle",
        "tarfile.open",
    ): "a new archive in a temporary folder; reading: one part after the other",
    ("providers.cilium.bundle", ".open"): "looks at a header, which must be a plain file's",
    ("providers.cilium.bundle", ".replace"): "of a `Folder` of the door to files",
    ("providers.cilium.bundle", "tarfile.AREGTYPE"): HEADER,
    ("providers.cilium.bundle", "tarfile.BLOCKSIZE"): HEADER,
    ("providers.cilium.bundle", "tarfile.REGTYPE"): HEADER,
    ("providers.cilium.bundle", "tarfile.XHDTYPE"): HEADER,
    ("providers.cilium.rendered", "yaml.load_all"): "with the safe loader",
    ("providers.kind.probes", ".read_bytes"): KERNEL,
    ("providers.kubeadm.images", "tarfile.open"): "a new archive, in a temporary folder of its own",
    (
        "providers.kubeadm.runner",
        "tempfile.mkdtemp",
    ): "for ssh's sockets: 0700, of an unpredictable name",
    ("providers.kubeadm.runner", "extravars"): "the door to Ansible: the file that ansible-runner reads",
    ("cli.installing", "click.confirm"): "asks a person before packages are installed; the words are labctl's own",
    ("providers.kubeadm.ssh", "socket.create_connection"): "a machine of the lab, by the person's own ssh settings",
    (
        "providers.kubeadm.ssh_config",
        "tempfile.NamedTemporaryFile",
    ): "0600, of an unpredictable name",
    ("providers.kubeadm.sessions", ".read_text"): "/etc/machine-id and /proc, which are root's and the kernel's",
    ("providers.kubeadm.ssh", ".open"): "a session of an SSH connection",
    ("providers.netns.kinds.base", "os.open"): NAMESPACES,
    ("providers.netns.open", "os.open"): NAMESPACES,
    ("language", ".read_text"): OWN_CODE,
    ("providers.netns.kinds.namespace", ".write_text"): "sysctls of a namespace: /proc/sys",
    ("providers.netns.kinds.namespace", ".read_text"): KERNEL,
    ("providers.netns.inspect_datapath", ".read_text"): KERNEL,
    ("providers.netns.probes", "ctypes.CDLL"): LIBRARY,
    ("providers.netns.probes", "os.open"): KERNEL,
    ("providers.netns.network_probes", "os.open"): KERNEL,
    ("providers.netns.probes", ".read_text"): KERNEL,
    (
        "providers.netns.provider",
        ".rmdir",
    ): "where the lab's bpffs was mounted: root's, and empty",
    ("report.pages", "jinja2.Environment"): "the door to HTML: labctl's own templates, everything escaped",
    ("store.environment", ".read_bytes"): "the kernel's configuration in /proc or /boot, which are root's",
    ("store.environment", ".read_text"): KERNEL,
    ("store.runs", "os.open"): "asks for the lock of a run: reads nothing of it, and follows no link",
    ("system.libraries", ".read_text"): OWN_CODE,
    ("system.netns", "os.link"): NAMESPACES,
    ("system.netns", "os.open"): NAMESPACES,
    ("system.netns", ".mkdir"): NAMESPACES,
    ("system.netns", ".touch"): NAMESPACES,
    ("system.netns", ".unlink"): NAMESPACES,
    ("system.netns", ".read_bytes"): NAMESPACES,
    ("system.netns", ".read_text"): KERNEL,
    ("system.netfilter", "ctypes.CDLL"): LIBRARY,
    ("system.netns", "ctypes.CDLL"): LIBRARY,
    ("system.notices", "ctypes.CDLL"): LIBRARY,
    ("system.pids", "ctypes.CDLL"): LIBRARY,
    ("system.powers", "ctypes.CDLL"): LIBRARY,
    ("system.view", "ctypes.CDLL"): LIBRARY,
    ("system.pids", "os.dup2"): NULL,
    ("system.pids", "os.fork"): "makes the first process of a process namespace, which starts nothing itself",
    ("system.pids", "os.open"): KERNEL,
    ("system.pids", "os.posix_spawn"): "`mount` of /proc in the namespace that this process has just made",
    ("system.netfilter", ".read_text"): KERNEL,
    ("system.usage", ".read_text"): KERNEL,
    ("system.view", "os.open"): KERNEL,
    ("system.users", "ctypes.CDLL"): LIBRARY,
    ("system.users", ".read_text"): KERNEL,
    ("system.host_files", "os.open"): "a folder of the host's settings, which has to be root's alone",
    ("system.host_files", "os.fchown"): DAEMONS,
    ("system.host_files", "os.fchmod"): DAEMONS,
    ("system.host_files", ".mkdir"): DAEMONS,
    ("lessons.capacity", ".read_text"): KERNEL,
    ("lessons.kit", ".chmod"): KIT,
    ("lessons.kit", ".mkdir"): KIT,
    ("lessons.kit", ".write_text"): KIT,
    ("lessons.kit", ".touch"): KIT,
    ("lessons.kit", ".unlink"): KIT,
    ("lessons.kit", "shutil.copy2"): KIT,
    ("lessons.kit", "shutil.copytree"): KIT,
    ("lessons.kit", "shutil.ignore_patterns"): KIT,
    ("lessons.kit", "shutil.rmtree"): KIT,
    ("lessons.kit", "tarfile.open"): KIT,
    ("system.view", ".read_bytes"): KERNEL,
}
"""Module and what crosses in it, with the reason why that needs no door. What is not there any more fails the test."""


def found_in_sources() -> dict[tuple[str, str], list[int]]:
    """By module and what crosses, the lines; without the doors themselves."""
    found: dict[tuple[str, str], list[int]] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
        if module not in DOORS and not module.startswith("testing."):
            for line, what in crossings(path.read_text(encoding="utf-8")):
                found.setdefault((module, what), []).append(line)
    return found


def test_nothing_crosses_beside_the_doors() -> None:
    found = found_in_sources()
    beside = [
        f"{module}:{lines[0]} {what}" for (module, what), lines in found.items() if (module, what) not in EXCEPTIONS
    ]
    assert not beside, "through a door (system/files.py, system/process.py, cli/output.py), or argued in EXCEPTIONS"
    assert sorted(set(EXCEPTIONS) - set(found)) == [], "exceptions that nothing needs any more"


def test_every_door_and_every_exception_says_why() -> None:
    assert all(map(str.strip, (*DOORS.values(), *EXCEPTIONS.values())))
    assert all((SOURCES / module.replace(".", "/")).with_suffix(".py").is_file() for module in DOORS)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("open('/etc/shadow')", "open"),
        ("import io\nio.open('x')", "io.open"),
        ("import codecs\ncodecs.open('x')", "codecs.open"),
        ("import os\nos.open('x', 0)", "os.open"),
        ("from os import open as o\no('x', 0)", "os.open"),
        ("import os as system\nsystem.unlink('x')", "os.unlink"),
        ("def f():\n    import os\n    return os.rename", "os.rename"),
        ("opener = open", "open"),
        ("map(open, names)", "open"),
        ("from os import *", "from os import *"),
        ("import os\ngetattr(os, 'sys' + 'tem')('id')", "getattr of a name"),
        ("import shutil\nshutil.rmtree('/')", "shutil.rmtree"),
        ("from shutil import copyfileobj as c\nc(a, b)", "shutil.copyfileobj"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("import tarfile\ntarfile.open('x')", "tarfile.open"),
        ("tar.extractall('/')", ".extractall"),
        ("import zipfile\nzipfile.ZipFile('x')", "zipfile.ZipFile"),
        ("import gzip\ngzip.open('x')", "gzip.open"),
        ("from pathlib import Path\nPath('x').write_text('')", ".write_text"),
        ("path.read_bytes()", ".read_bytes"),
        ("readers = [path.read_text]", ".read_text"),
        ("path.open('wb')", ".open"),
        ("(folder / 'x').open(mode)", ".open"),
        ("path.rename(other)", ".rename"),
        ("path.replace(other)", ".replace"),
        ("path.mkdir()", ".mkdir"),
        ("path.unlink()", ".unlink"),
        ("path.symlink_to('x')", ".symlink_to"),
        ("path.touch()", ".touch"),
        ("path.chmod(0o777)", ".chmod"),
        ("import os\nos.mkfifo('x')", "os.mkfifo"),
        ("import subprocess\nsubprocess.run('id', shell=True)", "subprocess.run"),
        ("from subprocess import Popen\nPopen(argv)", "subprocess.Popen"),
        ("import subprocess as sp\nsp.check_output(argv)", "subprocess.check_output"),
        ("import os\nos.system('id')", "os.system"),
        ("import os\nos.execvp('id', [])", "os.execvp"),
        ("import os\nos.posix_spawn('id', [], {})", "os.posix_spawn"),
        ("import pty\npty.spawn('id')", "pty.spawn"),
        ("import asyncio\nasyncio.create_subprocess_shell('id')", "asyncio.create_subprocess_shell"),
        ("import click\nclick.launch(url)", "click.launch"),
        ("from ctypes import CDLL\nCDLL(path)", "ctypes.CDLL"),
        ("import webbrowser\nwebbrowser.open(url)", "webbrowser.open"),
        ("from urllib.request import urlopen\nurlopen(url)", "urllib.request.urlopen"),
        ("import http.client\nhttp.client.HTTPConnection(host)", "http.client.HTTPConnection"),
        ("import socket\nsocket.create_connection(place)", "socket.create_connection"),
        ("import json\njson.loads(text)", "json.loads"),
        ("import xml.etree.ElementTree as ET\nET.fromstring(text)", "xml.etree.ElementTree.fromstring"),
        ("from xml.dom.minidom import parseString\nparseString(text)", "xml.dom.minidom.parseString"),
        ("from jinja2 import Template\nTemplate(text)", "jinja2.Template"),
        ("import traceback\ntraceback.print_exc()", "traceback.print_exc"),
        (
            "from importlib.util import spec_from_file_location\nspec_from_file_location('x', path)",
            "importlib.util.spec_from_file_location",
        ),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("import importlib\nimportlib.import_module(name)", "importlib.import_module"),
        ("import pickle\npickle.loads(data)", "pickle.loads"),
        ("from marshal import loads\nloads(data)", "marshal.loads"),
        ("import yaml\nyaml.load(text, yaml.Loader)", "yaml.load"),
        ("from yaml import UnsafeLoader as L\nL", "yaml.UnsafeLoader"),
        ("print('x')", "print"),
        ("import click\nclick.echo('x')", "click.echo"),
        ("import sys\nsys.stdout.write('x')", "sys.stdout.write"),
        ("import sys\nsys.stderr.buffer", "sys.stderr.buffer"),
        ("import os\nos.write(1, b'x')", "os.write"),
        ("run(extravars=x) if 'extravars' else 0", "extravars"),
    ],
)
def test_what_would_cross_is_found(code: str, what: str) -> None:
    assert what in [each for _, each in crossings(code)]


@pytest.mark.parametrize(
    "code",
    [
        "provider.open(lab)",
        "with side.provider.open(side.lab) as lab: pass",
        "text.replace('a', 'b')",
        "from dataclasses import replace\nreplace(lab, name='x')",
        "now.replace(microsecond=0)",
        "import os\nos.path.exists('x')\nos.environ.get('x')\nos.write(descriptor, b'x')",
        "import subprocess\nstdin = subprocess.DEVNULL",
        "import shutil\nshutil.which('ip')",
        "import re\nre.compile('x')",
        "import yaml\nyaml.safe_load(text)",
        "console.print(table)",
        "'this text says open(x), os.system and subprocess.run'",
        "def read_text(path: str) -> str: ...\nread_text('x')",
    ],
)
def test_what_does_not_cross_is_not_found(code: str) -> None:
    assert list(crossings(code)) == []


# ---- bandit looks too; each exception from it is argued

LOOKED_AT = sorted(path for folder in ("src", "setup", "playbooks") for path in (TREE / folder).rglob("*.py"))


def unargued(text: str) -> list[str]:
    """The lines with an exception from bandit that names no test of it, or gives no reason."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"#\s*nosec", line)]
    return [line for line in lines if not re.search(r"# nosec B\d{3}  # \w+ \w+", line)]


def test_every_exception_from_bandit_names_its_test_and_its_reason() -> None:
    found = {str(path): lines for path in LOOKED_AT if (lines := unargued(path.read_text(encoding="utf-8")))}
    assert found == {}
    skips = re.search(r"\[tool\.bandit\].*?skips = \[\n(.*?)\n\]", (TREE / "pyproject.toml").read_text(), re.DOTALL)
    assert skips is not None
    assert all(re.fullmatch(r'  "B\d{3}", # \w.{20,}', line) for line in skips[1].splitlines())


@pytest.mark.parametrize("line", ["x()  # nosec", "x()  # nosec B602", "x()  # nosec: it is fine", "x()  #nosec B602"])
def test_an_exception_without_test_or_reason_is_found(line: str) -> None:
    assert unargued(f"y()\n{line}\nz()  # nosec B602  # no data in it\n") == [line]


def test_the_linter_runs_bandit_over_all_of_it() -> None:
    makefile = (TREE / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^STATIC := .*\bsecurity\b", makefile, re.MULTILINE)
    _, _, security = makefile.partition("\nsecurity:\n")
    recipe, _, _ = security.partition("\n\n")
    assert re.search(r" -m bandit .*--configfile pyproject\.toml src setup playbooks$", recipe, re.MULTILINE)


# ---- the terminal

TO_THE_TERMINAL = {"cli/output.py", "cli/streams.py", "datapath/source/rebuild.py", "load/source/rebuild.py"}
"""rebuild.py is a tool for who changes the programs in C: it prints names that it has itself."""


def test_nothing_is_written_to_the_terminal_beside_its_door() -> None:
    beside = []
    for path in sorted((TREE / "src" / "labctl").rglob("*.py")):
        name = path.relative_to(TREE / "src" / "labctl").as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [] if name in TO_THE_TERMINAL else [node for node in ast.walk(tree) if _writes_to_a_terminal(node)]
        beside += [f"{name}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}" for node in found]

    assert not beside, "use emit, say, tell, show, pass_on or progress of cli/output.py: " + "; ".join(beside)


@pytest.mark.parametrize(
    "code",
    [
        "print('x')",
        "import builtins; builtins.print('x')",
        "click.echo('x')",
        "click.secho('x')",
        "sys.stdout.write('x')",
        "sys.stderr.buffer.write(b'x')",
        "sys.__stderr__.writelines(['x'])",
        "os.write(1, b'x')",
        "os.write(sys.stderr.fileno(), b'x')",
        "print('x', file=sys.stderr)",
        "Console().print('x')",
        "rich.print('x')",
        "open('/dev/tty', 'w')",
        "from sys import stdout",
    ],
)
def test_what_would_write_beside_the_door_is_found(code: str) -> None:
    assert any(_writes_to_a_terminal(node) for node in ast.walk(ast.parse(code)))


def _writes_to_a_terminal(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module == "sys":
        return any(alias.name in ("stdout", "stderr", "__stdout__", "__stderr__") for alias in node.names)
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    if re.fullmatch(r"(builtins\.|rich\.)?print|(click\.)?(echo|secho|echo_via_pager|pause)", called):
        return True
    if re.fullmatch(r"sys\.(__)?std(out|err)(__)?(\.buffer)?\.write(lines)?", called):
        return True
    if called == "os.write" and re.search(r"^([12]|sys\..*fileno\(\))$", ast.unparse(node.args[0])):
        return True
    if called.endswith("Console"):  # rich's own goes to stdout; one that draws into a buffer does not
        return not any(keyword.arg == "file" and ast.unparse(keyword.value) != "None" for keyword in node.keywords)
    return any(isinstance(argument, ast.Constant) and argument.value == "/dev/tty" for argument in node.args)
