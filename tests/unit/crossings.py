"""What leaves Python for files, programs, other code, the terminal or Ansible, found in source text. For
test_doors.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def _words(text: str, prefix: str = "") -> frozenset[str]:
    return frozenset(prefix + word for word in text.split())


_FILE_FUNCTIONS = _words("open io.open io.FileIO codecs.open fileinput.input") | _words(
    "open mkdir makedirs unlink remove removedirs rename renames replace rmdir link symlink chmod lchmod fchmod chown "
    "lchown fchown mkfifo mknod truncate utime copy_file_range sendfile",
    "os.",
)
_FILE_MODULES = ("tempfile", "zipfile", "gzip", "bz2", "lzma", "dbm", "shelve", "sqlite3", "mmap")
_HARMLESS = frozenset(
    {"shutil.which", "shutil.get_terminal_size", "shutil.disk_usage", "gzip.decompress", "tarfile.TarError"}
    | {"tarfile.TarFile", "tarfile.TarInfo", "tempfile.gettempdir", "subprocess.Popen[]"}
)
_PATH_METHODS = _words(
    "read_text read_bytes write_text write_bytes mkdir rmdir unlink touch symlink_to hardlink_to chmod lchmod "
    "extractall"
)
"""Of pathlib (and tarfile), with names that nothing else has."""

_PROGRAM_FUNCTIONS = _words(
    "system popen fork forkpty posix_spawn posix_spawnp execl execle execlp execlpe execv execve execvp execvpe spawnl "
    "spawnle spawnlp spawnlpe spawnv spawnve spawnvp spawnvpe",
    "os.",
) | frozenset(
    {"asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "click.edit", "click.launch"}
    | {"concurrent.futures.ProcessPoolExecutor", "ctypes.CDLL", "ctypes.PyDLL", "ctypes.cdll.LoadLibrary"}
)
_PROGRAM_MODULES = ("subprocess", "pty", "multiprocessing", "webbrowser")
_NETWORK_FUNCTIONS = frozenset({"socket.create_connection", "socket.create_server", "asyncio.open_connection"})
_NETWORK_MODULES = ("http", "ftplib", "smtplib", "telnetlib", "xmlrpc", "requests", "httpx", "aiohttp", "urllib3")
_CODE_FUNCTIONS = frozenset(
    {"eval", "exec", "compile", "__import__", "importlib.import_module", "runpy.run_path", "runpy.run_module"}
    | {"importlib.util.spec_from_file_location", "importlib.machinery.SourceFileLoader"}
    | {"jinja2.Environment", "jinja2.Template", "jinja2.nativetypes.NativeEnvironment"}
)
_DATA_FUNCTIONS = frozenset({"json.load", "json.loads", "tomllib.load"}) | _words(
    "parse fromstring fromstringlist iterparse XML XMLParser", "xml.etree.ElementTree."
)
"""Readers without a bound of their own on what they build, or, of XML, on what entities expand to."""
_DATA_MODULES = ("xml.dom", "xml.sax", "plistlib", "configparser")
_CODE_MODULES = ("pickle", "marshal", "code", "jsonpickle", "dill", "cloudpickle")
_YAML_LOADERS = frozenset(
    {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader"}
    | {"yaml.FullLoader", "yaml.CLoader"}
)
_TERMINAL = frozenset(
    {"print", "click.echo", "click.secho", "click.echo_via_pager", "pprint.pprint", "os.dup2"}
    | {"traceback.print_exc", "traceback.print_exception", "traceback.print_stack", "logging.basicConfig"}
    | {"faulthandler.enable", "click.prompt", "click.confirm", "click.pause", "sys.stdout.writelines"}
    | {"sys.stderr.writelines"}
    | {"sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer", "sys.stderr.buffer", "sys.__stdout__"}
    | {"sys.__stderr__", "rich.print"}
)
_BUILTINS = _words("open eval exec compile __import__ print")
_OPENS_A_LAB = frozenset({"provider", "chosen", "connection"})
"""`provider.open(lab)` and `connection.open()` open no file."""


def crossings(source: str) -> Iterator[tuple[int, str]]:
    """The line and the name of everything that crosses, in the order of the text: `os.open`, `.write_text`, …

    Names are followed through imports and their aliases, and found also where they are not called but handed on.
    """
    tree = ast.parse(source)
    names = _imported(tree)
    found = {(getattr(node, "lineno", 0), what) for node in ast.walk(tree) if (what := _crossing(node, names))}
    return iter(sorted(found))


def _imported(tree: ast.AST) -> dict[str, str]:
    """What each name of the module stands for, wherever it is imported."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def _crossing(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.ImportFrom):
        starred = any(alias.name == "*" for alias in node.names)
        return f"from {node.module} import *" if starred else ""
    if isinstance(node, ast.Constant):
        return "extravars" if node.value == "extravars" else ""
    if isinstance(node, ast.Call):
        return _method(node, names)
    if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
        return ""
    dotted = _dotted(node, names)
    if dotted and _is_forbidden(dotted):
        return dotted
    return f".{node.attr}" if isinstance(node, ast.Attribute) and node.attr in _PATH_METHODS else ""


def _method(call: ast.Call, names: dict[str, str]) -> str:
    """What is told by how it is called: names that others have too, by what they are called on and with."""
    function = call.func
    if _dotted(function, names) == "os.write" and isinstance(call.args[0], ast.Constant):
        return "os.write"  # to descriptor 1 or 2; to one that a door opened it may
    if not isinstance(function, ast.Attribute):
        return "getattr of a name" if isinstance(function, ast.Name) and _is_hidden(call) else ""
    if _dotted(function, names).partition(".")[0] in ("os", "io", "codecs", "tarfile", "shutil", "webbrowser"):
        return ""  # told by its dotted name
    receiver = function.value
    last = receiver.attr if isinstance(receiver, ast.Attribute) else getattr(receiver, "id", "")
    if function.attr == "open" and last not in _OPENS_A_LAB:
        return ".open"
    # str.replace has two arguments, datetime.replace and dataclasses.replace have none by position alone.
    is_of_path = len(call.args) == 1 and not call.keywords
    return f".{function.attr}" if function.attr in ("rename", "replace") and is_of_path else ""


def _is_hidden(call: ast.Call) -> bool:
    """`getattr(os, "sys" + "tem")`: of the modules that cross, nothing is looked up by a computed name."""
    assert isinstance(call.func, ast.Name)
    if call.func.id != "getattr" or not call.args or not isinstance(call.args[0], ast.Name):
        return False
    return call.args[0].id in ("os", "shutil", "subprocess", "builtins", "tarfile", "tempfile", "pickle")


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`os.path.join` for that expression, through imports; a builtin by its own name; else the empty text."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    if node.id in names:
        return ".".join((names[node.id], *reversed(parts)))
    return node.id if not parts else ""


def _is_forbidden(dotted: str) -> bool:
    first = dotted.partition(".")[0]
    if dotted in _HARMLESS or (
        dotted == first and first not in ("open", "eval", "exec", "compile", "__import__", "print")
    ):
        return False
    if first in (*_FILE_MODULES, *_CODE_MODULES, *_PROGRAM_MODULES, *_NETWORK_MODULES):
        return _is_function(dotted)
    if dotted.startswith(tuple(f"{module}." for module in (*_DATA_MODULES, "urllib.request"))):
        return True
    if dotted in _NETWORK_FUNCTIONS | _DATA_FUNCTIONS:
        return True
    if first in ("shutil", "tarfile"):
        return True
    return dotted in _FILE_FUNCTIONS | _PROGRAM_FUNCTIONS | _CODE_FUNCTIONS | _YAML_LOADERS | _TERMINAL


def _is_function(dotted: str) -> bool:
    """Not a constant (`subprocess.DEVNULL`) and not an exception."""
    last = dotted.rpartition(".")[2]
    return not last.isupper() and not last.endswith(("Error", "Expired"))
