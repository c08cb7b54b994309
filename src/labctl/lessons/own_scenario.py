"""The scenario that a student writes in a task: what labctl puts there to begin with, and whether it keeps to the keys
that the task allows.

It is an ordinary scenario file: it extends that of the lesson, and `labctl up FILE --name LAB --apply` brings the lab
to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from labctl.errors import UsageError
from labctl.lessons.progress import Grade, Mark
from labctl.lessons.workplace import lab_for
from labctl.loading.layers import override, read_tree
from labctl.loading.project import project_at
from labctl.loading.tree import Block, Place, Tree, merge, plain, planted
from labctl.model.lab import Lab, Said, Scenario
from labctl.system import files

_NOWHERE = Place("", 0, 0)
_HEAD = ("apiVersion", "kind", "name", "extends")


def beginning(scenario: str | Path, given: Mapping[str, Said], allow: Sequence[str], more: Mapping[str, object]) -> str:
    """What stands in the file before the student writes: the keys of the variant that are not the student's to change.
    `more` is what the author's solution says, laid over them."""
    lines = [
        "# Yours to change: " + ", ".join(allow),
        "apiVersion: labctl/v1",
        "kind: Scenario",
        f"extends: {scenario}",
    ]
    kept = {key: value for key, value in given.items() if not _is_allowed(key, allow)}
    tree = plain(merge(planted(_nested(kept), _NOWHERE), planted(more, _NOWHERE)))
    lines += [f"{section}: {json.dumps(keys)}" for section, keys in tree.items()]
    return "\n".join(lines) + "\n"


def _nested(given: Mapping[str, Said]) -> dict[str, object]:
    tree, _ = override(planted({}, _NOWHERE), [f"{key}={json.dumps(value)}" for key, value in given.items()])
    nested = plain(tree)
    assert isinstance(nested, dict)
    return nested


def write_beginning(path: Path, text: str) -> bool:
    """Whether it was written: a file that is there is the student's, and stays."""
    if path.exists():
        return False
    files.write_atomically(path, text.encode())
    return True


def lab_of_file(
    path: Path, lab: Lab, given: Mapping[str, Said], allow: Sequence[str], refuse: Callable[[Scenario], None]
) -> Lab | Grade:
    """The lab that the file says, or what is wrong with it as a task. Raises ScenarioInvalid for a file that is no
    scenario, which is no try."""
    if not path.is_file():
        raise UsageError(
            what=f"there is no file {path}", cause="the task is about it", remedy="labctl lesson reset  # writes it"
        )
    tree, problems = read_tree(path, project_at(path.parent))
    keys = set(_keys(tree, ())) if tree is not None and not problems else set()
    foreign = sorted(key for key in keys if not _is_allowed(key, allow) and not _is_given(tree, key, given))
    if foreign:
        said = (
            f"{path.name} has keys that this task does not allow: {', '.join(foreign)}",
            f"allowed: {', '.join(allow)}",
        )
        return Grade(mark=Mark.FAILED, said=said, commands=(f"labctl validate {path}",))
    return lab_for(path, lab.name, (), refuse)


def _keys(tree: Tree, above: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(tree, Block) or not tree.entries:
        yield ".".join(above)
        return
    for key, entry in tree.entries.items():
        if above or key not in _HEAD:
            yield from _keys(entry.value, (*above, key))


def _is_allowed(key: str, allow: Sequence[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in allow)


def _is_given(tree: Tree | None, key: str, given: Mapping[str, Said]) -> bool:
    found = plain(tree) if tree is not None else {}
    for step in key.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return key in given and found == given[key]


def grade_built(standing: Lab, wanted: Lab, path: Path) -> Grade | None:
    """None where the lab that is up is the one that the file says."""
    if standing.digest == wanted.digest:
        return None
    command = f"labctl up {path} --name {standing.name} --apply"
    said = (f"not yet: lab {standing.name} is not what {path.name} says",)
    return Grade(mark=Mark.FAILED, said=said, commands=(command, f"labctl diff {standing.name} {path}"))
