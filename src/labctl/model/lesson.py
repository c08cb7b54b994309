"""What may stand in a lesson's files: lesson.yaml and its author's solution, as the model of parser and JSON Schema.

It owns keys, types, bounds and descriptions. What keys mean together (a fact's parameters, names that must exist, texts
that must be there) is `loading/lessons.py`. No answer stands in a lesson: its tasks ask for facts of the live lab.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import Field, StringConstraints

from labctl.model.lab import Said
from labctl.model.section import CLASS_PATTERN, END_PATTERN, FILE_PATTERN, STUDENT_PATTERN, VARIABLE_PATTERN, Section
from labctl.model.signature import Role
from labctl.model.trace import ProbeProtocol, Way
from labctl.names import NAME_PATTERN

VARIABLE = "var."
MOST_VARIANTS = 64

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
End = Annotated[str, StringConstraints(pattern=END_PATTERN)]
"""A pod, node, host or Service of the lab, or `$name` of a variable."""
FactName = Annotated[str, StringConstraints(min_length=1, max_length=60)]


class TaskKind(StrEnum):
    PREDICT = "predict"
    OBSERVE = "observe"
    CONFIGURE = "configure"
    REPAIR = "repair"


class FactOf(StrEnum):
    """What a fact is read by; it follows from the fact, and if it is written it must be true."""

    TRACE = "trace"
    PROOF = "proof"
    LAB = "lab"
    TOOL = "tool"


class Ask(Section):
    """A fact of the live lab, and where it is read."""

    fact: FactName = Field(description="The fact's name: labctl facts LAB lists them.")
    of: FactOf | None = Field(None, description="What it is read by. It follows from the fact.")
    client: End | None = Field(None, description="Who sends. Without it: the lab's first pair across nodes.")
    server: End | None = Field(None, description="Who answers.")
    role: Role | None = Field(None, description="The tap, by its role on the way.")
    way: Way = Field(Way.REQUEST, description="The half of the exchange.")
    node: End | None = Field(None, description="The node or router.")
    protocol: ProbeProtocol | None = Field(None, description="What is sent: icmp, tcp or udp.")


class Condition(Section):
    """What must be so when a task is done: a fact with a value, or a check that passes."""

    fact: FactName | None = Field(None, description="A fact's name, with `is` or `isNot`.")
    check: Name | None = Field(None, description="A check that must pass, in place of a fact.")
    of: FactOf | None = Field(None, description="What the fact is read by. It follows from the fact.")
    client: End | None = Field(None, description="Who sends. Without it: the lab's first pair across nodes.")
    server: End | None = Field(None, description="Who answers.")
    role: Role | None = Field(None, description="The tap, by its role on the way.")
    way: Way = Field(Way.REQUEST, description="The half of the exchange.")
    node: End | None = Field(None, description="The node or router.")
    protocol: ProbeProtocol | None = Field(None, description="What is sent: icmp, tcp or udp.")
    wanted: Said | tuple[str, ...] | None = Field(None, alias="is", description="The value that the fact must have.")
    unwanted: Said | None = Field(None, alias="isNot", description="A value that the fact must not have.")


class Inject(Section):
    """The fault that is put into the running lab, hidden: one of these, by the seed."""

    one_of: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)] = Field(
        description="Names of faults (docs/faults.md). No two may look alike."
    )


class Task(Section):
    """One task; the next is unlocked when it is passed."""

    id: Name = Field(description="Its name, which is its section's in the texts.")
    kind: TaskKind = Field(description="What the student does.")
    points: Annotated[int, Ge(0), Le(100)] = Field(1, description="What it counts.")
    ask: Ask | None = Field(None, description="With predict and observe: the fact that is asked for.")
    reason: Literal["required", "none"] = Field("required", description="With predict: whether a reason is wanted.")
    reveal: Name | None = Field(
        None, description="With predict: the task after which it is compared with what was seen. Default: the next one."
    )
    file: Annotated[str, StringConstraints(pattern=FILE_PATTERN)] | None = Field(
        None,
        description="With configure: the student's scenario, in the folder where the lesson was started. Without it "
        "the lab that is up is changed by hand.",
    )
    allow: Annotated[tuple[str, ...], Field(min_length=1, max_length=40)] | None = Field(
        None, description="With configure: the keys that the student's scenario may have (datapath.hostRouting)."
    )
    inject: Inject | None = Field(None, description="With repair: the fault.")
    locate: Ask | None = Field(None, description="With repair: the fact that says where it is, answered first.")
    done: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=16)] | None = Field(
        None, description="With configure and repair: what must be so afterwards."
    )
    keep: Annotated[tuple[Name, ...], Field(max_length=8)] = Field(
        (), description="With repair: checks that passed before and must pass afterwards."
    )
    constant: str | None = Field(None, description="Why the fact has one value in all variants, where it has.")


class LessonDocument(Section):
    """A lesson: a scenario, its variation, and tasks that are graded against the live lab."""

    api_version: Literal["labctl/v1"] = Field(description="The version of the file format.")
    kind: Literal["Lesson"] = Field(description="What the file is.")
    name: Name = Field(description="The lesson's name, which is its folder's.")
    number: Annotated[int, Ge(1), Le(999)] = Field(description="Its place in the syllabus.")
    version: Annotated[int, Ge(1), Le(9999)] = Field(description="Part of the seed: raise it when a task changes.")
    needs: Annotated[tuple[Name, ...], Field(max_length=16)] = Field((), description="Lessons to do before.")
    minutes: Annotated[int, Ge(1), Le(600)] = Field(description="How long it takes a person.")
    scenario: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="The scenario that is built: a name, or a file beside lesson.yaml."
    )
    provider: Literal["netns", "kind", "kubeadm", "cluster"] = Field(
        "netns", description="What builds it. Lessons for a real cluster are not run by labctl lesson test."
    )
    settings: Annotated[dict[str, Said], Field(max_length=16)] = Field(
        {}, description="Keys of the scenario that all variants have (datapath.hostRouting: legacy)."
    )
    vary: Annotated[
        dict[
            Annotated[str, StringConstraints(pattern=VARIABLE_PATTERN)],
            Annotated[tuple[Said, ...], Field(min_length=2, max_length=8)],
        ],
        Field(max_length=6),
    ] = Field({}, description="What the seed picks: keys of the scenario, and var.NAME for what tasks and texts use.")
    tasks: Annotated[tuple[Task, ...], Field(min_length=1, max_length=20)] = Field(
        description="In order: each unlocks the next."
    )

    def task(self, name: str) -> Task:
        """Raises KeyError."""
        return {task.id: task for task in self.tasks}[name]


class When(Section):
    """An answer for some variants: the first whose values all fit counts."""

    when: dict[str, Said] = Field({}, description="Values of `vary`, and `fault`. Empty: any variant.")
    answer: Said | tuple[str, ...] | None = Field(None, description="What is answered.")
    scenario: dict[str, Any] | None = Field(None, description="With configure: what the student's scenario says.")
    run: Annotated[tuple[str, ...], Field(max_length=20)] = Field((), description="Commands, as a student types them.")


class Solved(Section):
    """How one task is solved."""

    answer: Said | tuple[str, ...] | None = Field(None, description="What is answered in every variant.")
    reason: str | None = Field(None, description="With predict: the reason.")
    cases: Annotated[tuple[When, ...], Field(max_length=64)] = Field((), description="By variant.")
    scenario: dict[str, Any] | None = Field(None, description="With configure: what the student's scenario says.")
    run: Annotated[tuple[str, ...], Field(max_length=20)] = Field(
        (), description="Commands, as a student types them: $lab, $client and the variables are filled in."
    )


class SolutionDocument(Section):
    """The author's solution of a lesson, which is no part of what students get."""

    api_version: Literal["labctl/v1"] = Field(description="The version of the file format.")
    kind: Literal["Solution"] = Field(description="What the file is.")
    lesson: Name = Field(description="The lesson's name.")
    version: Annotated[int, Ge(1), Le(9999)] = Field(description="The version of the lesson that it solves.")
    tasks: dict[Name, Solved] = Field(description="By the task's name.")


class ClassDocument(Section):
    """A roster: who takes part in a class."""

    api_version: Literal["labctl/v1"] = Field(description="The version of the file format.")
    kind: Literal["Class"] = Field(description="What the file is.")
    name: Annotated[str, StringConstraints(pattern=CLASS_PATTERN)] = Field(
        description="The class's name: lower-case letters, digits and hyphens, at most 16."
    )
    students: Annotated[
        dict[
            Annotated[str, StringConstraints(pattern=STUDENT_PATTERN)],
            Annotated[str, StringConstraints(min_length=1, max_length=60)],
        ],
        Field(min_length=1, max_length=200),
    ] = Field(description="By the name that their labs begin with, what the board calls them.")


def variants(lesson: LessonDocument) -> int:
    """How many combinations of `vary` and faults there are."""
    count = 1
    for values in lesson.vary.values():
        count *= len(values)
    for task in lesson.tasks:
        count *= len(task.inject.one_of) if task.inject is not None else 1
    return count
