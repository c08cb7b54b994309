"""Checks one file's tree against the model of its kind and says each deviation in words.

Keys, types, bounds and closed sets only: everything that JSON Schema can say too, and nothing else (a test holds the
two equal). What values mean together is `rules`'.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from labctl.errors import Problem
from labctl.loading.messages import as_name, brief, listed, nearest, path_text, said, shown
from labctl.loading.schema import is_free_form, model_of, part_of
from labctl.loading.tree import Block, KeyPath, Listing, Place, Scalar, Tree, child, find, place_of, plain
from labctl.model.fabric import ENDPOINT_PATTERN
from labctl.model.impairment import LINK_PATTERN
from labctl.model.section import (
    ADDRESS_PATTERN,
    CIDR_PATTERN,
    CLASS_PATTERN,
    DEVICES_PATTERN,
    END_PATTERN,
    ENGINE_NAME_PATTERN,
    FILE_PATTERN,
    IPV4_PATTERN,
    MACHINE_ADDRESS_PATTERN,
    OPERAND_PATTERN,
    REGISTRY_PATTERN,
    SCENARIO_PATTERN,
    STUDENT_PATTERN,
    USER_PATTERN,
    VARIABLE_PATTERN,
    VERSION_PATTERN,
)
from labctl.names import LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN, NAME_PATTERN

_MOST = 100

_PATTERNS = {
    NAME_PATTERN: ("{0} is not a name", "lower-case letters, digits and hyphens, at most 40 characters"),
    IPV4_PATTERN: ("{0} is not an IPv4 address", "an address such as 10.96.0.20"),
    ENDPOINT_PATTERN: ("{0} is not an end of a link", "a router or node such as r1, or r1:eth1 with its device's name"),
    LINK_PATTERN: ("{0} is not a link", "a node's or pod's name, two routers' such as leaf1-spine1, or uplink"),
    END_PATTERN: ("{0} is not an end", "a pod's, node's, host's or Service's name, or $NAME of a variable"),
    CLASS_PATTERN: ("{0} is not a class's name", "2 to 16 lower-case letters, digits and hyphens"),
    STUDENT_PATTERN: ("{0} is not a student's name", "at most 16 lower-case letters and digits, a letter first"),
    FILE_PATTERN: ("{0} is not a file's name", "lower-case letters, digits and hyphens, ending in .yaml"),
    VARIABLE_PATTERN: ("{0} is neither a key nor a variable", "datapath.encapsulation, var.peer"),
    CIDR_PATTERN: ("{0} is not an IPv4 network", "an address range such as 10.244.0.0/16"),
    SCENARIO_PATTERN: ("{0} is not a scenario", "a scenario's name, or a path ending in .yaml"),
    OPERAND_PATTERN: ("{0} could be an option of a tool", "one line that begins neither with '-' nor with a blank"),
    ADDRESS_PATTERN: ("{0} is not an address", "a host's name or address"),
    MACHINE_ADDRESS_PATTERN: ("{0} is not an address", "a host's name or address"),
    REGISTRY_PATTERN: ("{0} is not a registry", "a registry's name, such as docker.io or mirror.example:5000"),
    ENGINE_NAME_PATTERN: ("{0} is not a network of the engine", "letters, digits, '_', '.', '-'"),
    DEVICES_PATTERN: ("{0} are not devices", "names of network devices with one blank between them"),
    USER_PATTERN: ("{0} is not a user's name", "lower-case letters, digits, '_', '-'"),
    VERSION_PATTERN: ("{0} is not a version", 'a version in quotes, such as "1.13.12"'),
    LABEL_KEY_PATTERN: ("{0} is not a label's key", "a Kubernetes label key, such as app"),
    LABEL_VALUE_PATTERN: (
        "{0} is not a label's value",
        "a Kubernetes label value: at most 63 letters, digits, '-', '_', '.'",
    ),
}
_BOOLEAN_WORDS = {"yes": "true", "y": "true", "on": "true", "no": "false", "n": "false", "off": "false"}
# Where pydantic puts the branch of a union into the location, which is no key of the file.
_BRANCHES = {("nodes", 1), ("checks", 2)}


def structure_problems(tree: Tree, kind: str) -> tuple[Problem, ...]:
    """Every deviation from the model of `kind`, at most a hundred."""
    if not isinstance(tree, Block):
        message = f"a {kind.lower()} file holds keys and values, not {said(tree)}"
        return (_problem(tree.place, (), message, "apiVersion: labctl/v1, …"),)
    data = plain(tree)
    empty = [path for path in _empty_values(tree, ()) if not _in_free_form(kind, path, data)][:_MOST]
    problems = [_problem(place_of(tree, path), path, "has no value; write one, or remove the key") for path in empty]
    try:
        model_of(kind).model_validate_json(json.dumps(data))
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
        for error in errors:
            path = _path(tree, error["type"], error["loc"])
            place = _place(tree, error["type"], path)
            if path in empty:
                continue
            if error["type"] == "too_short" and _has_errors_below(errors, error["loc"]):
                continue  # its items were wrong, each of which has its own error
            problems.append(_told(tree, data, kind, error, path, place))
            if len(problems) >= _MOST:
                problems.append(_problem(place, (), f"there are more than {_MOST} problems; the rest is not shown"))
                break
    return tuple(problems)


def _has_errors_below(errors: Sequence[Any], location: tuple[str | int, ...]) -> bool:
    return any(len(e["loc"]) > len(location) and e["loc"][: len(location)] == location for e in errors)


def _in_free_form(kind: str, path: KeyPath, data: Any) -> bool:
    """True inside what is passed on as it is, such as Helm values, where null has a meaning."""
    return any(is_free_form(part_of(kind, path[:length], data)) for length in range(1, len(path)))


def _empty_values(tree: Tree, path: KeyPath) -> Iterator[KeyPath]:
    """The paths of keys and items without a value."""
    if isinstance(tree, Scalar) and tree.value is None:
        yield path
    elif isinstance(tree, Block):
        for key, entry in tree.entries.items():
            yield from _empty_values(entry.value, (*path, key))
    elif isinstance(tree, Listing):
        for index, item in enumerate(tree.items):
            yield from _empty_values(item, (*path, index))


def _path(tree: Tree, error: str, location: tuple[str | int, ...]) -> KeyPath:
    """The path in the file of pydantic's location."""
    path: list[str | int] = []
    at: Tree | None = tree
    for number, step in enumerate(location):
        if (location[0], number) in _BRANCHES or step == "[key]":
            continue
        below = child(at, step)
        if below is None and not (error == "missing" and number == len(location) - 1):
            continue
        path.append(step)
        at = below
    return tuple(path)


def _place(tree: Tree, error: str, path: KeyPath) -> Place:
    """Unknown keys are shown at the key, wrong values at the value, missing keys at the mapping that lacks them."""
    above = find(tree, *path[:-1])
    if error == "extra_forbidden" and isinstance(above, Block) and isinstance(path[-1], str):
        return above.entries[path[-1]].key_place
    return place_of(tree, path)


def _told(tree: Tree, data: Any, kind: str, error: Any, path: KeyPath, place: Place) -> Problem:
    """pydantic's error in labctl's words."""
    part = part_of(kind, path, data)
    found = find(tree, *path)
    name = error["type"]
    if name == "extra_forbidden":
        return _unknown_key(data, kind, path, place)
    if name == "value_error":
        return _problem(place, path, str(error["ctx"]["error"]))
    if name == "missing":
        return _problem(place, path, "is missing", describe(part))
    if name in ("union_tag_not_found", "union_tag_invalid"):
        return _wrong_tag(found, part, path, place)
    if found is None:
        return _problem(place, path, str(error["msg"]))
    if error["loc"][-1] == "[key]":
        message, allowed = _PATTERNS.get(error.get("ctx", {}).get("pattern", ""), ("{0} is not allowed", ""))
        return _problem(place, path, message.format(f"the key {shown(str(path[-1]))}"), allowed)
    if name == "string_pattern_mismatch":
        message, allowed = _PATTERNS.get(part.get("pattern", ""), ("{0} does not fit", describe(part)))
        suggestion = as_name(str(found.value)) if isinstance(found, Scalar) and part["pattern"] == NAME_PATTERN else ""
        return _problem(place, path, message.format(brief(found)), allowed, suggestion)
    if name in ("enum", "literal_error"):
        choices = [str(choice) for choice in part.get("enum", [part.get("const")])]
        suggestion = nearest(found.value, choices) if isinstance(found, Scalar) and isinstance(found.value, str) else ""
        return _problem(place, path, f"{brief(found)} is not one of the choices", listed(choices), suggestion)
    if name in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return _problem(place, path, f"{brief(found)} is out of range", describe(part))
    if name in ("too_short", "too_long"):
        count = len(found.items) if isinstance(found, Listing) else 0
        return _problem(place, path, f"has {count:,} items" if count else "is empty", describe(part))
    return _wrong_type(found, part, path, place)


def _wrong_type(found: Tree, part: dict[str, Any], path: KeyPath, place: Place) -> Problem:
    wanted = part.get("type")
    if wanted == "boolean" and isinstance(found, Scalar) and str(found.value).lower() in _BOOLEAN_WORDS:
        meant = _BOOLEAN_WORDS[str(found.value).lower()]
        return _problem(place, path, f"{brief(found)} is text in YAML 1.2: write true or false", "true, false", meant)
    if wanted == "boolean" and isinstance(found, Scalar) and str(found.value).lower() in ("true", "false"):
        return _problem(place, path, f"must be true or false, not {said(found)}; remove the quotes")
    if wanted == "string" and isinstance(found, Scalar):
        return _problem(place, path, f"must be text, not {said(found)}; put it in quotes", describe(part))
    needed, allowed = _TYPES.get(str(wanted), "something else"), describe(part)
    return _problem(place, path, f"must be {needed}, not {said(found)}", "" if allowed == needed else allowed)


_TYPES = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a mapping of keys",
}


def _unknown_key(data: Any, kind: str, path: KeyPath, place: Place) -> Problem:
    key = str(path[-1])
    keys = list(part_of(kind, path[:-1], data).get("properties", {}))
    meant = nearest(key, keys)
    return _problem(place, path, "unknown key", listed(keys), meant or _elsewhere(key, kind))


def _elsewhere(key: str, kind: str) -> str:
    """The path of a key of that name in another section of the file, for a key that stands one level too high."""
    sections = part_of(kind, (), {})["properties"]
    for section in sections:
        part = part_of(kind, (section,), {section: {}})
        if key in part.get("properties", {}):
            return f"{section}.{key}"
        if key in part_of(kind, (section, 0), {section: [{}]}).get("properties", {}):
            return f"{section}[].{key}"
    return key if key in sections else ""


def _wrong_tag(found: Tree | None, part: dict[str, Any], path: KeyPath, place: Place) -> Problem:
    key, tags = str(part.get("discriminator", "")), list(part.get("tags", ()))
    tag = child(found, key)
    if tag is None:
        return _problem(place, (*path, key), "is missing", listed(tags))
    word = tag.value if isinstance(tag, Scalar) and isinstance(tag.value, str) else ""
    return _problem(tag.place, (*path, key), f"there is no {key} {brief(tag)}", listed(tags), nearest(word, tags))


def describe(part: dict[str, Any]) -> str:
    """What a part of the schema allows, in words."""
    kind = part.get("type")
    if "enum" in part or "const" in part:
        return listed(str(choice) for choice in part.get("enum", [part.get("const")]))
    if part.get("pattern") in _PATTERNS:
        return _PATTERNS[part["pattern"]][1]
    if kind in ("integer", "number"):
        return _range(_TYPES[kind], part)
    if kind == "array":
        least, most = part.get("minItems"), part.get("maxItems")
        return f"a list of {least} to {most:,} items" if most else f"a list of at least {least}" if least else "a list"
    if kind == "object" and "properties" in part:
        return f"a mapping with the keys {listed(part['properties'])}"
    return _TYPES.get(str(kind), "")


def _range(number: str, part: dict[str, Any]) -> str:
    low, above, high = part.get("minimum"), part.get("exclusiveMinimum"), part.get("maximum")
    if low is not None and high is not None:
        return f"{number} from {_figure(low)} to {_figure(high)}"
    if above is not None and high is not None:
        return f"{number} above {_figure(above)}, at most {_figure(high)}"
    return f"{number}, at least {_figure(low)}" if low is not None else number


def _figure(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


def _problem(place: Place, path: KeyPath, message: str, allowed: str = "", suggestion: str = "") -> Problem:
    return Problem(
        file=place.file,
        line=place.line,
        column=place.column,
        path=path_text(path),
        message=message,
        allowed=allowed,
        suggestion=suggestion,
    )
