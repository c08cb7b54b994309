"""Whatever crosses into root goes through a door, and docs/security.md tells the truth about its tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
SECURITY = (TREE / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/.-]+\.py)(?:::(\w+))?`", SECURITY)))


def test_the_page_names_tests() -> None:
    assert len(NAMED) >= 5


@pytest.mark.parametrize(("file", "function"), NAMED, ids=lambda part: part or "file")
def test_every_test_that_the_page_names_exists(file: str, function: str) -> None:
    tree = ast.parse((TREE / file).read_text(encoding="utf-8"))
    assert not function or function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


TO_THE_TERMINAL = {"cli/output.py", "cli/streams.py", "datapath/source/rebuild.py"}
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
