"""The shape of the code, enforced: imports point inwards, pure packages stay pure, modules stay small and explained."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
SOURCE = TREE / "src" / "labctl"
MAX_LINES = 600

LEAVES = frozenset({"errors", "language", "units", "names", "text"})
"""What every package may import."""

MAY_IMPORT: dict[str, frozenset[str]] = {
    "model": frozenset(),
    "planning": frozenset({"model"}),
    "compare": frozenset({"model"}),
    "report": frozenset({"model", "compare", "planning", "path.record"}),
    "loading": frozenset({"model", "planning", "system.files"}),
    "system": frozenset({"model"}),
    "store": frozenset({"model", "system"}),
    "datapath": frozenset({"model", "system"}),
    "path": frozenset({"model"}),
    "checks": frozenset({"model", "system", "path", "providers.base"}),
    "providers": frozenset({"model", "planning", "system", "datapath", "store", "path"}),
    "engine": frozenset(
        {
            "model",
            "planning",
            "compare",
            "system",
            "store",
            "path",
            "checks.base",
            "checks.captures",
            "checks.outcome",
            "providers.base",
        }
    ),
    "testing": frozenset({"model", "system", "providers.base", "checks.base"}),
    "app": frozenset({"model", "loading", "planning", "engine", "checks", "providers", "datapath", "store", "system"}),
    "cli": frozenset(
        {
            "app",
            "model",
            "loading",
            "planning",
            "compare",
            "report",
            "store",
            "engine",
            "system",
            "path",
            "checks.base",
            "providers.base",
        }
    ),
    "__main__": frozenset({"cli"}),
}
"""Who may import whom, besides itself and the leaves. A dotted name allows that module and no other of its package."""

PURE = ("model", "planning", "compare", "path", "report")
"""No I/O at all: data in, data or text out."""

IO_MODULES = frozenset(
    {
        "asyncio", "ctypes", "fcntl", "glob", "http", "io", "logging", "multiprocessing", "os", "pathlib", "pyroute2",
        "random", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys",
        "tempfile", "threading", "time", "urllib",
    }
)  # fmt: skip
PURE_PARTS = {
    "io": frozenset({"BytesIO", "StringIO"}),
    "pathlib": frozenset({"PurePath", "PurePosixPath"}),
    "random": frozenset({"Random"}),  # with a seed
}
"""What a pure module may use of a module of `IO_MODULES`."""

ENDS_WHAT_IT_FORKED = {"system.pids": frozenset({"os._exit"})}
"""Processes without exec, which must not run what others registered for the end of labctl."""

IO_CALLS = frozenset({"open", "print", "input", "exec", "eval", "breakpoint"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module, and the names taken from it."""

    module: str
    names: frozenset[str]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One Python file of the package; `name` is relative to labctl (`checks.ping`)."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def imports(self) -> Iterator[Import]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(module=alias.name, names=frozenset(), line=node.lineno)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: relative imports hide the direction"
                names = frozenset(alias.name for alias in node.names)
                yield Import(module=node.module or "", names=names, line=node.lineno)

    def own_imports(self) -> Iterator[tuple[str, int]]:
        """Imported modules of labctl, relative to it; `from labctl.checks import base` counts as `checks.base`."""
        for found in self.imports():
            if found.module == "labctl":
                yield from ((name, found.line) for name in found.names if not name.startswith("__"))
            elif found.module.startswith("labctl."):
                module = found.module.removeprefix("labctl.")
                submodules = {f"{module}.{name}" for name in found.names} & MODULE_NAMES
                yield from ((name, found.line) for name in submodules or {module})


def _module(path: Path) -> Module:
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    text = path.read_text(encoding="utf-8")
    return Module(name="" if name == "__init__" else name, path=path, text=text, tree=ast.parse(text))


MODULES = {module.name: module for module in map(_module, sorted(SOURCE.rglob("*.py")))}
MODULE_NAMES = frozenset(MODULES)
each_module = pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name or "labctl")


def is_allowed(importer: str, imported: str) -> bool:
    """True when the module `importer` may import `imported`, both relative to labctl."""
    package, target = importer.partition(".")[0], imported.partition(".")[0]
    if target == package or target in LEAVES:
        return True
    # A checks package needs its own seam's result types only; everything else is listed.
    return any(imported == allowed or imported.startswith(f"{allowed}.") for allowed in MAY_IMPORT.get(package, ()))


def provider_of(name: str) -> str:
    """`netns` for `providers.netns.plan`; empty for the seam and for what providers share."""
    parts = name.split(".")
    return (
        parts[1] if parts[0] == "providers" and len(parts) > 1 and parts[1] not in ("base", "cilium", "tools") else ""
    )


def attributes_used(tree: ast.Module, name: str) -> frozenset[str]:
    """The `x` of every `name.x`."""
    return frozenset(
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    )


def impurities(module: Module) -> Iterator[str]:
    for found in module.imports():
        top = found.module.partition(".")[0]
        used = found.names or attributes_used(module.tree, top)
        if top in IO_MODULES and not (used and used <= PURE_PARTS.get(top, frozenset())):
            yield f"line {found.line}: imports {found.module}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IO_CALLS:
            yield f"line {node.lineno}: calls {node.func.id}()"


@each_module
def test_imports_point_inwards(module: Module) -> None:
    wrong = [f"line {line}: {name}" for name, line in module.own_imports() if not is_allowed(module.name, name)]
    assert not wrong, f"{module.name} may not import {wrong}; allowed: {sorted(MAY_IMPORT.get(module.package, ()))}"


@each_module
def test_no_provider_imports_another(module: Module) -> None:
    own = provider_of(module.name)
    others = [name for name, _ in module.own_imports() if provider_of(name) not in ("", own)]
    assert not own or not others, f"{module.name} imports {others}"


@each_module
def test_a_pure_package_does_no_input_or_output(module: Module) -> None:
    if module.package in PURE:
        found = list(impurities(module))
        assert not found, f"{module.name} is pure by design: {found}"


@each_module
def test_only_the_cli_prints_and_exits(module: Module) -> None:
    if module.package in ("cli", "__main__"):
        return
    ends = {"print", "sys.exit", "exit", "quit", "os._exit"} - ENDS_WHAT_IT_FORKED.get(module.name, frozenset())
    calls = {
        f"line {node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ends
    }
    assert not calls, f"{module.name}: {sorted(calls)}"


@each_module
def test_every_module_says_what_it_owns(module: Module) -> None:
    docstring = ast.get_docstring(module.tree)
    assert docstring, f"{module.path} has no docstring"
    assert "." in docstring, f"{module.path}: the docstring's first line is not a sentence"


@each_module
def test_modules_stay_small(module: Module) -> None:
    lines = module.text.count("\n")
    assert lines <= MAX_LINES, f"{module.name} has {lines} lines: it has more than one subject, split it"


def test_every_package_has_a_place_in_the_order() -> None:
    packages = {module.package for module in MODULES.values()} - LEAVES - {""}
    assert packages <= set(MAY_IMPORT), f"add to MAY_IMPORT: {sorted(packages - set(MAY_IMPORT))}"


def test_no_two_packages_may_import_each_other() -> None:
    mutual = [
        f"{importer} and {name}"
        for importer, allowed in MAY_IMPORT.items()
        for name in allowed
        if importer in MAY_IMPORT.get(name, frozenset())
    ]
    assert not mutual


@pytest.mark.parametrize("seam", ["providers.base", "checks.base"])
def test_a_seam_stands_on_the_model_and_other_seams_only(seam: str) -> None:
    """So that a package may import a seam without importing what is behind it."""
    imported = {name for name, _ in MODULES[seam].own_imports()}
    assert {name for name in imported if name.partition(".")[0] not in LEAVES | {"model"}} <= {"providers.base"}


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("model.lab", "errors", True),
        ("model.lab", "store.runs", False),
        ("engine.build", "providers.base", True),
        ("engine.build", "providers.netns.provider", False),
        ("checks.ping", "providers.netns", False),
        ("checks.ping", "checks.base", True),
        ("compare.order", "system.clock", False),
        ("cli.commands.up", "app", True),
        ("cli.commands.up", "providers.netns", False),
        ("store.runs", "providers.base", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert is_allowed(importer, imported) is allowed


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import os", 1),
        ("from pathlib import Path", 1),
        ("from pathlib import PurePosixPath", 0),
        ("import random", 1),
        ("from random import Random", 0),
        ("import random\nrandom.Random(7)", 0),
        ("import random\nrandom.Random(7)\nrandom.random()", 1),
        ("import os.path", 1),
        ("def f():\n    open('x')", 1),
        ("print('x')", 1),
        ("import math", 0),
    ],
)
def test_impurities_are_seen(text: str, found: int) -> None:
    module = Module(name="model.x", path=Path("x.py"), text=text, tree=ast.parse(text))
    assert len(list(impurities(module))) == found


PRIVATE = re.compile(r"/work/(?:main|shared)|/root/\.pyenv|\.\./shared/")
MAY_NAME_HOMES = frozenset({Path("tests/unit/test_architecture.py")})


def _project_files() -> tuple[Path, ...]:
    listed = subprocess.run(
        ("git", "-C", str(TREE), "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = (TREE / name.decode() for name in listed.stdout.split(b"\0") if name)
    else:  # a release tarball has no repository
        tops = ("src", "tests", "docs", "setup", "bench", "scenarios")
        names = (path for top in tops for path in TREE.glob(f"{top}/**/*"))
    return tuple(path for path in names if path.is_file() and path.suffix not in (".o", ".pcap", ".pyc"))


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    files = _project_files()
    assert len(files) > 50
    named = [
        f"{path.relative_to(TREE)}:{number}: {line.strip()}"
        for path in files
        if path.relative_to(TREE) not in MAY_NAME_HOMES
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if PRIVATE.search(line)
    ]
    assert not named, "\n".join(named)
