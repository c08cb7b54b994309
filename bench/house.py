"""The shape of the code in figures: python bench/house.py [TREE]

Prints, for `src/labctl` of this tree or another checkout, what the house's targets are about: modules, crumbs, circles,
class names that mean several things, lines. Reads the files as text and runs none of them.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SMALL_LINES = 100
REASON = ("stands alone", "stands apart", "Apart from", "apart from", "so that")
CODECS = ("planning.record", "path.record", "report.json", "report.json", "store.encoding", "store.decoding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file of the package; `imports` are modules of labctl, also those inside functions."""

    name: str
    lines: int
    docstring: str
    classes: tuple[str, ...]
    imports: frozenset[str]
    is_package: bool


def modules(tree: Path) -> dict[str, Module]:
    """Every module of the package in that checkout, by its name relative to labctl."""
    source = tree / "src" / "labctl"
    names = {_name(path, source): path for path in sorted(source.rglob("*.py"))}
    return {name: _module(name, path, names) for name, path in names.items()}


def _name(path: Path, source: Path) -> str:
    return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__").removesuffix("__init__")


def _module(name: str, path: Path, names: Mapping[str, Path]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    return Module(
        name=name,
        lines=text.count("\n"),
        docstring=ast.get_docstring(tree) or "",
        classes=tuple(node.name.lstrip("_") for node in ast.walk(tree) if isinstance(node, ast.ClassDef)),
        imports=frozenset(_imported(tree, names)) - {name},
        is_package=path.name == "__init__.py",
    )


def _imported(tree: ast.Module, names: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("labctl"):
            continue
        module = (node.module or "").removeprefix("labctl").removeprefix(".")
        inner = {f"{module}.{alias.name}".removeprefix(".") for alias in node.names} & names.keys()
        yield from inner or ({module} & names.keys())


def importers(found: Mapping[str, Module]) -> dict[str, set[str]]:
    """Who imports each module."""
    by: dict[str, set[str]] = defaultdict(set)
    for module in found.values():
        for imported in module.imports:
            by[imported].add(module.name)
    return by


def figures(tree: Path) -> dict[str, str]:
    """The rows of the table."""
    found = modules(tree)
    real = {name: one for name, one in found.items() if not one.is_package}
    by = importers(found)
    crumbs = [one for one in real.values() if one.lines < SMALL_LINES and len(by[one.name]) == 1]
    silent = [one for one in crumbs if not any(word in one.docstring for word in REASON)]
    circles = {frozenset((a, b)) for a in real for b in real[a].imports if b in real and a in real[b].imports}
    meanings: dict[str, int] = defaultdict(int)
    for one in found.values():
        for name in one.classes:
            meanings[name] += 1
    several = sorted(name for name, count in meanings.items() if count > 1)
    codecs = {name: found[name].lines for name in CODECS if name in found}
    return {
        "modules": str(len(real)),
        "modules under 60 lines": str(sum(one.lines < 60 for one in real.values())),
        f"modules under {SMALL_LINES} lines with one importer": str(len(crumbs)),
        "… without a reason in the docstring": _listed([one.name for one in silent]),
        "two-file circles": _listed([" ↔ ".join(sorted(pair)) for pair in circles]),
        "class names": str(len(meanings)),
        "… that mean several things": _listed(several),
        "lines of hand-written codecs": f"{sum(codecs.values())} ({', '.join(codecs)})" if codecs else "0",
        "lines": str(sum(one.lines for one in found.values())),
        "longest module": " ".join(map(str, max((one.lines, one.name) for one in real.values()))),
    }


def _listed(names: list[str]) -> str:
    return f"{len(names)}" + (f" ({', '.join(sorted(names))})" if 0 < len(names) <= 8 else "")


def main() -> None:
    tree = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    rows = figures(tree)
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    main()
