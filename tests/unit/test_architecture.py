"""The shape of the code, enforced: imports point inwards, pure packages stay pure, modules stay small and explained."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
SOURCE = TREE / "src" / "labctl"
TESTS = TREE / "tests" / "unit"
MAX_LINES = 600
CRUMB_LINES = 100
STANDS_ALONE = re.compile(r"\b(?:stands alone because|apart from `?[\w.]+`? so that)\s", re.IGNORECASE)
"""How the docstring of a small module with one reader says why it did not move in with it."""

LEAVES = frozenset({"codec", "errors", "json_text", "language", "units", "names", "text", "values"})
"""What every package may import."""

MAY_IMPORT: dict[str, frozenset[str]] = {
    "model": frozenset(),
    "planning": frozenset({"model"}),
    "compare": frozenset({"model"}),
    "report": frozenset({"model", "compare", "planning"}),
    "loading": frozenset({"model", "planning", "system.files"}),
    "system": frozenset({"model"}),
    "store": frozenset({"model", "system"}),
    "datapath": frozenset({"model", "system"}),
    "path": frozenset({"model"}),
    "fabrics": frozenset({"model", "planning.topology", "planning.ways", "providers.netns.kinds"}),
    "services": frozenset({"model", "planning"}),
    "drift": frozenset({"model", "planning", "providers.netns.kinds"}),
    "faults": frozenset({"model", "planning", "datapath", "fabrics", "networks", "providers.netns.kinds"}),
    "networks": frozenset(
        {"model", "path", "datapath", "fabrics", "services", "providers.netns.kinds", "providers.netns.counters"}
    ),
    "load": frozenset({"model", "system", "compare.statistics", "datapath.bpf", "datapath.loader"}),
    "checks": frozenset({"model", "system", "path", "fabrics", "networks", "services", "load", "providers.base"}),
    "providers": frozenset(
        {
            "model",
            "planning",
            "system",
            "datapath",
            "store",
            "path",
            "fabrics",
            "networks",
            "services",
            "drift",
            "faults",
        }
    ),
    "engine": frozenset(
        {
            "model",
            "planning",
            "compare",
            "system",
            "store",
            "path",
            "networks",
            "checks.base",
            "checks.captures",
            "checks.mode",
            "checks.outcome",
            "providers.base",
        }
    ),
    "facts": frozenset({"model", "compare", "system", "fabrics", "checks", "engine", "store", "providers.base"}),
    "lessons": frozenset(
        {"model", "loading", "planning", "system", "store", "engine", "facts", "checks.base", "providers.base"}
    ),
    "testing": frozenset({"model", "system", "providers.base", "checks.base"}),
    "app": frozenset(
        {"model", "loading", "planning", "engine", "checks", "providers", "datapath", "faults", "store", "system"}
    ),
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
            "facts",
            "lessons",
            "system",
            "path",
            "networks",
            "checks.base",
            "providers.base",
        }
    ),
    "__main__": frozenset({"cli"}),
}
"""Who may import whom, besides itself and the leaves. A dotted name allows that module and no other of its package."""

PURE = ("model", "planning", "compare", "path", "report", "fabrics", "networks", "services", "drift", "faults")
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

ENDS_WHAT_IT_FORKED = {
    "system.pids": frozenset({"os._exit"}),
    "testing.faults.session": frozenset({"os._exit"}),
    "testing.faults.world": frozenset({"os._exit"}),
}
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


def each_module(rule: Callable[[Module], None]) -> Callable[[], None]:
    """One test that holds the rule against all modules and names each that breaks it."""

    def test() -> None:
        broken = []
        for module in MODULES.values():
            try:
                rule(module)
            except AssertionError as refusal:
                broken.append(f"{module.name or 'labctl'}: {refusal}")
        assert not broken, "\n".join(broken)

    test.__name__, test.__doc__ = rule.__name__, rule.__doc__
    return test


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


def circle(imports: Mapping[str, frozenset[str]]) -> str:
    """One circle of modules that import each other, `a → b → a`; empty when there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as found:
        return " → ".join(reversed(found.args[1]))
    return ""


IMPORTS = {
    module.name: frozenset(name for name, _ in module.own_imports() if name in MODULE_NAMES and name != module.name)
    for module in MODULES.values()
}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions and for types count too: they hide a circle, and a reader goes round it all the same."""
    assert not circle(IMPORTS)


@pytest.mark.parametrize(
    ("imports", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, ""),
        ({"a": {"b"}, "b": {"a"}}, "a → b → a"),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, "b → c → b"),
    ],
)
def test_circles_are_seen(imports: dict[str, set[str]], found: str) -> None:
    told = circle({name: frozenset(names) for name, names in imports.items()})
    assert frozenset(told.split(" → ")) == frozenset(found.split(" → "))


def is_crumb(module: Module, importers: int) -> bool:
    """Whether a module is so small, with one reader alone, that it has to say why it does not stand with it."""
    if module.path.name == "__init__.py" or module.text.count("\n") >= CRUMB_LINES or importers != 1:
        return False
    return STANDS_ALONE.search(" ".join((ast.get_docstring(module.tree) or "").split())) is None


@each_module
def test_a_small_module_with_one_reader_says_why_it_stands_alone(module: Module) -> None:
    importers = [name for name, names in IMPORTS.items() if module.name in names]
    assert not is_crumb(module, len(importers)), (
        f"{module.name} has {module.text.count(chr(10))} lines and one reader, {importers[0]}: move it in there, or "
        "say in its docstring that it 'stands alone because …'"
    )


@pytest.mark.parametrize(
    ("docstring", "importers", "lines", "crumb"),
    [
        ("Parts.", 1, 10, True),
        ("Parts.", 2, 10, False),
        ("Parts.", 0, 10, False),
        ("Parts.", 1, CRUMB_LINES, False),
        ("Parts. It stands alone because\nwho looks for labs loads nothing else.", 1, 10, False),
        ("Parts, apart from `provider` so that listing stays quick.", 1, 10, False),
        ("Parts that stand alone.", 1, 10, True),
    ],
)
def test_crumbs_are_seen(docstring: str, importers: int, lines: int, crumb: bool) -> None:
    text = f'"""{docstring}"""\n' + "\n" * lines
    module = Module(name="model.x", path=Path("x.py"), text=text, tree=ast.parse(text))
    assert is_crumb(module, importers) is crumb


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


@pytest.mark.parametrize("seam", ["providers.base", "providers.live", "checks.base"])
def test_a_seam_stands_on_the_model_and_other_seams_only(seam: str) -> None:
    """So that a package may import a seam without importing what is behind it."""
    imported = {name for name, _ in MODULES[seam].own_imports()}
    assert {name for name in imported if name.partition(".")[0] not in LEAVES | {"model"}} <= {
        "providers.base",
        "providers.live",
    }


@each_module
def test_what_networks_and_fabrics_are_made_of_knows_none_of_them(module: Module) -> None:
    """The kinds of objects and the readings of nodes: the words in which pure packages say what a lab has."""
    if module.name.startswith("providers.netns.kinds") or module.name == "providers.netns.counters":
        beneath = {"model", "planning", "system", "datapath", *LEAVES}
        imported = {name for name, _ in module.own_imports() if name.partition(".")[0] not in beneath}
        assert all(name.startswith("providers.netns.kinds") for name in imported), imported


NETWORK_WORDS = re.compile(r"cilium|lxc|flannel|calico|\bcni\b", re.IGNORECASE)
MAY_NAME_A_NETWORK = {
    "providers.netns.kinds.attached": "gives a pod the devices that its plugins named, by the model's names",
    "providers.netns.kinds.plugin": "runs programs by the specification of that name, whichever network they make",
    "providers.netns.probes": "says to a person what a match that this kernel lacks is wanted for",
}


def test_the_netns_provider_knows_kinds_of_objects_and_no_pod_network() -> None:
    named: dict[str, list[str]] = {}
    for module in MODULES.values():
        if module.name.startswith("providers.netns"):
            for line in filter(NETWORK_WORDS.search, module.text.splitlines()):
                named.setdefault(module.name, []).append(line.strip())
    assert set(named) == set(MAY_NAME_A_NETWORK), named
    del named["providers.netns.kinds.plugin"]
    assert all(len(lines) == 1 for lines in named.values()), named


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
        ("networks.cilium.network", "providers.netns.kinds.link", True),
        ("networks.cilium.network", "providers.netns.execute", False),
        ("fabrics.bridge", "networks.base", False),
        ("providers.netns.plan", "networks", True),
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


ROOMS = frozenset(path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py")) | frozenset(
    path.parent.relative_to(SOURCE) for path in SOURCE.rglob("__init__.py")
)
"""Every module and package, by its path without `.py`."""
ROOM_NAMES = frozenset(room.name for room in ROOMS)


def out_of_place(test: Path) -> str:
    """What is wrong with the place of a test module (its path within tests/unit); empty where nothing is."""
    if test.parent not in ROOMS:
        return f"{test}: labctl has no package {test.parent}"
    name = test.stem.removeprefix("test_")
    if name in ROOM_NAMES and test.parent / name not in ROOMS:
        return f"{test}: named after a module that {SOURCE.name}/{test.parent} does not have"
    return ""


def test_unit_tests_stand_where_what_they_test_stands() -> None:
    tests = sorted(path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("*.py")}
    assert len(tests) > 100
    wrong = [f"labctl has no package {folder}" for folder in sorted(folders) if folder not in ROOMS]
    assert not wrong + [said for said in map(out_of_place, tests) if said]
    # Folders are packages, so that several may have a test_plan.py.
    assert not [folder for folder in folders if folder != Path() and not (TESTS / folder / "__init__.py").is_file()]


@pytest.mark.parametrize(
    ("test", "is_wrong"),
    [
        ("providers/netns/test_plan.py", False),
        ("providers/netns/test_a_subject_of_its_own.py", False),
        ("engine/test_comparison.py", False),
        ("test_text.py", False),
        ("test_setup.py", False),
        ("netns/test_plan.py", True),
        ("providers/netns/test_chart.py", True),
        ("report/test_statistics.py", True),
        ("test_ping.py", True),
    ],
)
def test_a_test_that_stands_elsewhere_is_seen(test: str, is_wrong: bool) -> None:
    assert bool(out_of_place(Path(test))) is is_wrong


HTML = re.compile(
    r"(?<!\?P)</?(?:a|body|code|details|div|em|h[1-6]|head|html|li|main|ol|p|pre|section|span|style|summary|t[drh]|table|ul)\b"
)
"""Tags of pages. Drawings have tags of their own (docs/adr): docs/adr/0014-own-svg.md."""
FOLDS = frozenset({"report.markdown"})
"""Markdown folds a long part away with `<details>`: it has no sign of its own for that."""
TEMPLATES = SOURCE / "report" / "templates"


@each_module
def test_pages_are_made_by_templates_and_not_in_python(module: Module) -> None:
    texts = (node for node in ast.walk(module.tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    found = [f"line {text.lineno}: {text.value!r}" for text in texts if HTML.search(str(text.value))]
    assert not found or module.name in FOLDS, f"{module.name} writes HTML by hand: {found}"


@each_module
def test_templates_are_imported_when_a_page_is_asked_for(module: Module) -> None:
    """A module that imports Jinja2 when it is loaded makes every command wait for it."""
    at_once = [
        name
        for node in module.tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    assert not [name for name in at_once if name.partition(".")[0] == "jinja2"]


def test_styles_stand_in_files_of_their_own() -> None:
    pages = sorted(TEMPLATES.glob("*.html"))
    assert pages
    assert sorted(path.name for path in TEMPLATES.glob("*.css")) == [
        "board.css",
        "graph.css",
        "report.css",
        "trace.css",
    ]
    for path in pages:
        text = path.read_text(encoding="utf-8").replace("<style>{{ style }}</style>", "")
        assert not re.search(r"<style|\bstyle=", text), path


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


def test_every_file_that_the_architecture_names_is_there() -> None:
    page = (TREE / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./-]+(?:\.(?:py|md|txt|yaml)|/))`", page))
    assert len(named) > 50
    assert not [name for name in sorted(named) if not ((SOURCE / name).exists() or (TREE / name).exists())]


def test_the_architecture_says_where_each_package_comes_in() -> None:
    page = (TREE / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")} - {"testing"}
    assert not [name for name in sorted(packages) if f"{name}/" not in page]
