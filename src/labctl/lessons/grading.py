"""Grades tasks against the live lab: what was read, what is still missing, and by which command one sees it.

Feedback names what was seen. It never names the value that is wanted: of an answer it says what the observation was as
a whole, of a condition what is there now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from labctl.checks.base import Check
from labctl.engine.prove import one_pair_a_placement
from labctl.engine.run_checks import run_check
from labctl.engine.trace import pair_between
from labctl.engine.turns import measuring_turn
from labctl.errors import MeasureFailed
from labctl.facts.readings import Readings, command_for, usual_pair
from labctl.lessons.answers import is_same
from labctl.lessons.progress import Grade, Mark
from labctl.lessons.variation import filled
from labctl.model.fact import FactQuestion, Reading, Value, value_words
from labctl.model.lab import CheckSpec, Lab
from labctl.model.lesson import Ask, Condition
from labctl.model.parameters import PARAMETERS_OF
from labctl.model.result import Verdict
from labctl.store.runs import MemorySink


def question_of(ask: Ask | Condition, lab: Lab, said: Mapping[str, str]) -> FactQuestion:
    """With the variables filled in, and the lab's own pair where none is named."""
    usual = usual_pair(lab)
    return FactQuestion(
        fact=str(ask.fact),
        client=filled(ask.client or usual[0], said),
        server=filled(ask.server or usual[1], said),
        role=ask.role,
        way=ask.way,
        node=filled(ask.node or "", said),
        protocol=ask.protocol,
    )


def grade_answer(readings: Readings, ask: Ask, said: Mapping[str, str], value: Value) -> Grade:
    """Whether the live lab shows that value now."""
    question = question_of(ask, readings.open_lab.lab, said)
    reading = readings.read(question)
    if reading.value is None:
        return _unmeasured(reading)
    if is_same(value, reading.value):
        return Grade(mark=Mark.PASSED, said=("that is what the lab shows",))
    seen = f"not what the lab shows: {value_words(value)}"
    looked = (f"just now: {reading.saw}",) if reading.saw else ()
    where = (f"look at {question.kind.where}",) if question.kind.where else ()
    return Grade(mark=Mark.FAILED, said=(seen, *looked, *where), commands=(reading.command,))


def _unmeasured(reading: Reading) -> Grade:
    return Grade(
        mark=Mark.UNMEASURED,
        said=(f"unmeasured: {reading.question.fact}: {reading.unmeasured}", "that costs nothing: try again"),
        commands=(reading.command,),
    )


def grade_conditions(
    readings: Readings,
    checks: Mapping[str, Check],
    conditions: tuple[Condition, ...],
    keep: tuple[str, ...],
    said: Mapping[str, str],
) -> Grade:
    """All of them, each that is not met with what is there now. One that cannot be measured makes the whole
    unmeasured, unless another one is known not to be met."""
    every = (*conditions, *(Condition(check=name) for name in keep))
    grades = [_of_condition(readings, checks, condition, said) for condition in every]
    for mark in (Mark.FAILED, Mark.UNMEASURED):
        there = [grade for grade in grades if grade.mark is mark]
        if there:
            return Grade(
                mark=mark,
                said=tuple(dict.fromkeys(line for grade in there for line in grade.said)),
                commands=tuple(dict.fromkeys(command for grade in there for command in grade.commands)),
            )
    return Grade(mark=Mark.PASSED, said=("the lab shows what was asked for",))


def _of_condition(
    readings: Readings, checks: Mapping[str, Check], condition: Condition, said: Mapping[str, str]
) -> Grade:
    if condition.check is not None:
        return _of_check(readings, checks, condition, said)
    question = question_of(condition, readings.open_lab.lab, said)
    reading = readings.read(question)
    if reading.value is None:
        return _unmeasured(reading)
    wanted = condition.wanted if condition.unwanted is None else condition.unwanted
    value: Value = tuple(wanted) if isinstance(wanted, (tuple, list)) else wanted if wanted is not None else ""
    if isinstance(value, str):
        value = filled(value, said)
    if is_same(value, reading.value) is (condition.unwanted is None):
        return Grade(mark=Mark.PASSED)
    seen = f"not yet: {question.words()} is {value_words(reading.value)}"
    return Grade(mark=Mark.FAILED, said=(seen,), commands=(reading.command,))


def _of_check(readings: Readings, checks: Mapping[str, Check], condition: Condition, said: Mapping[str, str]) -> Grade:
    lab, name = readings.open_lab.lab, str(condition.check)
    spec = next((one for one in lab.checks if one.kind == name), None) or CheckSpec(
        name=name, kind=name, parameters=PARAMETERS_OF[name]()
    )
    usual = usual_pair(lab)
    client, server = (filled(end, said) if end else "" for end in (condition.client, condition.server))
    named = bool(client or server)
    pairs = (
        (pair_between(lab, client or usual[0], server or usual[1]),) if named else one_pair_a_placement(lab.pairs)
    )  # fmt: skip
    command = f"labctl check {lab.name} {name}"
    for pair in pairs:
        try:
            with measuring_turn((name,), lambda: None):
                result = run_check(checks[name], readings.open_lab, pair, spec, MemorySink(), lambda event: None)
        except MeasureFailed as failed:
            why = (f"unmeasured: {name}: {failed.what}", "that costs nothing: try again")
            return Grade(mark=Mark.UNMEASURED, said=why, commands=(command,))
        where = f"{name} {pair.client} → {pair.destination}"
        if result.verdict is Verdict.ERROR:
            why = (f"unmeasured: {where}: {result.reason}", "that costs nothing: try again")
            return Grade(mark=Mark.UNMEASURED, said=why, commands=(command,))
        if result.verdict is Verdict.FAIL:
            return Grade(mark=Mark.FAILED, said=(f"not yet: {where}: {result.reason}",), commands=(command,))
    return Grade(mark=Mark.PASSED)


def with_note(grade: Grade, note: str) -> Grade:
    return replace(grade, said=(note, *grade.said))


def command_of(ask: Ask, lab: Lab, said: Mapping[str, str]) -> str:
    """What shows the fact by hand: for hints and for the author's way."""
    return command_for(lab, question_of(ask, lab, said))
