"""Which variant of a lesson a student gets: the seed, what it picks, and what is filled into tasks and texts. Pure.

The seed is an HMAC, so that nobody without the key can work out another student's variant; it is stored with the
attempt, and stays the same for it whatever happens to the key.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Iterator, Mapping
from string import Template

from labctl.model.lab import Lab, Said
from labctl.model.lesson import VARIABLE, LessonDocument, Task
from labctl.values import dataclass

FAULT = "fault"
"""In the author's solution: the fault, beside the keys of `vary`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What was picked: of each key of `vary` a value, and for each task that injects a fault its name."""

    values: Mapping[str, Said]
    faults: Mapping[str, str]

    @property
    def overrides(self) -> tuple[str, ...]:
        """What is laid over the scenario, as `--set` takes it."""
        return tuple(f"{key}={json.dumps(value)}" for key, value in self.values.items() if not key.startswith(VARIABLE))

    def words(self) -> str:
        return ", ".join(f"{key} {_said(value)}" for key, value in self.values.items())


def seed_of(key: bytes, lesson: str, version: int, student: str, attempt: int) -> str:
    said = json.dumps([lesson, version, student, attempt]).encode()
    return hmac.new(key, said, hashlib.sha256).hexdigest()


def variant_of(lesson: LessonDocument, seed: str) -> Variant:
    """What that seed picks."""
    return Variant(
        values={key: values[_pick(seed, f"vary:{key}", len(values))] for key, values in lesson.vary.items()},
        faults={
            task.id: task.inject.one_of[_pick(seed, f"inject:{task.id}", len(task.inject.one_of))]
            for task in lesson.tasks
            if task.inject is not None
        },
    )


def all_variants(lesson: LessonDocument) -> Iterator[Variant]:
    """Every combination, in the order of the file."""
    faults = {task.id: task.inject.one_of for task in lesson.tasks if task.inject is not None}
    for picked in itertools.product(*lesson.vary.values()):
        for broken in itertools.product(*faults.values()):
            yield Variant(
                values=dict(zip(lesson.vary, picked, strict=True)), faults=dict(zip(faults, broken, strict=True))
            )


def _pick(seed: str, what: str, count: int) -> int:
    return int.from_bytes(hmac.new(bytes.fromhex(seed), what.encode(), hashlib.sha256).digest()) % count


def variables(lesson: LessonDocument, values: Mapping[str, Said], lab: Lab) -> dict[str, str]:
    """What `$name` stands for in tasks, texts and solutions: the variables, the lab, and what it is made of."""
    own = {key.removeprefix(VARIABLE): _said(value) for key, value in values.items() if key.startswith(VARIABLE)}
    names = {key.rpartition(".")[2]: _said(value) for key, value in values.items() if not key.startswith(VARIABLE)}
    return {**_of_lab(lab), **names, **own, "lab": lab.name, "lesson": lesson.name}


def _of_lab(lab: Lab) -> dict[str, str]:
    """`$client_address`, `$node1_address`, `$node1_mac`: what a text or a repair needs of this lab."""
    found = dict[str, str]()
    for pod in lab.pods:
        found |= {f"{pod.name}_address": str(pod.address), f"{pod.name}_node": pod.node, f"{pod.name}_lxc": pod.lxc}
    for node in lab.nodes:
        found |= {f"{node.name}_address": str(node.address.ip), f"{node.name}_mac": node.mac}
    return {name.replace("-", "_"): value for name, value in found.items()}


def _said(value: Said) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def filled(text: str, said: Mapping[str, str]) -> str:
    """The text with every `$name` that there is filled in; what is none stays as it is."""
    return Template(text).safe_substitute(said)


def fits(when: Mapping[str, Said], variant: Variant, task: Task) -> bool:
    """Whether a case of the author's solution is for this variant."""
    there = {**variant.values, FAULT: variant.faults.get(task.id, "")}
    return all(there.get(key) == value for key, value in when.items())
