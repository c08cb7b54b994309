"""The JSON Schema of every kind of file (draft 2020-12), from the same models that check them.

The copies under docs/schema/ are what editors read; a test keeps them current.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from labctl.model.section import API_VERSION, CLASS, LESSON, MATRIX, SCENARIO, SITE, SOLUTION

DIALECT = "https://json-schema.org/draft/2020-12/schema"

KINDS = (SCENARIO, SITE, MATRIX, LESSON, SOLUTION, CLASS)


def model_of(kind: str) -> type[BaseModel]:
    """The model of a kind of file. Those of lessons do not wait for those of labs, nor these for them."""
    if kind in (LESSON, SOLUTION, CLASS):
        from labctl.model.lesson import ClassDocument, LessonDocument, SolutionDocument

        of_lessons: dict[str, type[BaseModel]] = {
            LESSON: LessonDocument, SOLUTION: SolutionDocument, CLASS: ClassDocument
        }  # fmt: skip
        return of_lessons[kind]
    from labctl.model.document import MatrixDocument, ScenarioDocument, SiteDocument

    models: dict[str, type[BaseModel]] = {SCENARIO: ScenarioDocument, SITE: SiteDocument, MATRIX: MatrixDocument}
    return models[kind]


# The order in which people write a file; sections of providers come last.
_FIRST = (
    "apiVersion",
    "kind",
    "name",
    "extends",
    "provider",
    "nodes",
    "pods",
    "pairs",
    "services",
    "outside",
    "network",
    "fabric",
    "podNetwork",
    "datapath",
    "checks",
)


class _Generator(GenerateJsonSchema):
    """Leaves out what a file may not say: a key is absent or has a value, it is never null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema(kind: str = SCENARIO) -> dict[str, Any]:
    """The schema of one kind of file: `Scenario`, `Site`, `Matrix`, `Lesson`, `Solution` or `Class`."""
    made = model_of(kind).model_json_schema(schema_generator=_Generator)
    for part in (made, *made.get("$defs", {}).values()):
        part.pop("title", None)
        if "description" in part:
            part["description"] = " ".join(part["description"].partition("\n\n")[0].split())
    keys = made["properties"]
    made["properties"] = {key: keys[key] for key in (*(key for key in _FIRST if key in keys), *keys)}
    return {"$schema": DIALECT, "title": f"labctl {kind.lower()} ({API_VERSION})", **made}


@cache
def _cached(kind: str) -> dict[str, Any]:
    return schema(kind)


def part_of(kind: str, path: tuple[str | int, ...], data: Any) -> dict[str, Any]:
    """The part of the schema that describes the value at `path` of `data`; empty when nothing does."""
    root = _cached(kind)
    part = _resolved(root, root, data)
    for step in path:
        below = data[step] if _has(data, step) else None
        part = _resolved(root, _below(part, step), below)
        data = below
    return part


def is_free_form(part: dict[str, Any]) -> bool:
    """True where any keys and any values may stand (Helm values)."""
    return part.get("type") == "object" and part.get("additionalProperties") is True


def _below(part: dict[str, Any], step: str | int) -> dict[str, Any]:
    found = part.get("items") if isinstance(step, int) else part.get("properties", {}).get(step)
    if found is None and isinstance(step, str):
        found = part.get("additionalProperties") or next(iter(part.get("patternProperties", {}).values()), None)
    return found if isinstance(found, dict) else {}


def _resolved(root: dict[str, Any], part: dict[str, Any], data: Any) -> dict[str, Any]:
    """`part` with its reference followed, and the branch taken that `data` belongs to."""
    while True:
        if "$ref" in part:
            followed: dict[str, Any] = root["$defs"][part["$ref"].rpartition("/")[2]]
            part = followed | {key: value for key, value in part.items() if key == "description"}
        elif "oneOf" in part:
            key = part.get("discriminator", {}).get("propertyName")
            branches = [_resolved(root, branch, data) for branch in part["oneOf"]]
            if key:
                tag = data.get(key) if isinstance(data, dict) else None
                chosen = [branch for branch in branches if branch["properties"][key].get("const") == tag]
                if not chosen:
                    return {"type": "object", "discriminator": key, "tags": list(part["discriminator"]["mapping"])}
            else:
                wanted = "array" if isinstance(data, list) else "object" if isinstance(data, dict) else None
                chosen = [branch for branch in branches if branch.get("type") == wanted] or branches
            part = chosen[0]
        else:
            return part


def _has(data: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(data, list) and 0 <= step < len(data)
    return isinstance(data, dict) and step in data
