"""Values of the model as JSON and back: the one codec of journals, runs, records, marks and `--json`.

The shape is that of the dataclass: a key is the field's name in camelCase, unless its type says otherwise with one of
the marks below (`pod_cidr: Annotated[IPv4Network, Key("podCIDR")]`). Reading is as strict as the types are, with the
bounds of `annotated_types`; it also takes the fields' own names, which labctl 0.1 wrote. Knows nothing about files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from labctl.errors import UsageError
from labctl.text import json_bytes
from labctl.values import dataclass

_ADDRESSES = (IPv4Address, IPv4Interface, IPv4Network)


@dataclass(frozen=True, slots=True)
class Key:
    """The field's key, where it is not its name in camelCase."""

    key: str


@dataclass(frozen=True, slots=True)
class Doc:
    """What the key is for, in the JSON Schema of the files that may have it."""

    text: str


@dataclass(frozen=True, slots=True)
class Fits:
    """Text of which `is_right` holds; `noun` is what it then is (`a MAC address`)."""

    is_right: Callable[[str], bool]
    noun: str


@dataclass(frozen=True, slots=True)
class ChosenBy:
    """The field's class is the one that another field names: the key in `classes`."""

    field: str
    classes: Mapping[str, type]

    def __hash__(self) -> int:
        return hash(self.field)


@dataclass(frozen=True, slots=True)
class _Flag:
    name: str


OMITTED = _Flag("omitted")
"""Left out where it has its default. A key that is added to what has a digest needs this: the digests of labs that do
not use it stay as they are, and records that were written before it are whole."""
NULL = _Flag("null")
"""`null` where it is empty: no text, or 0."""
UNWRITTEN = _Flag("unwritten")
"""Not written: the reader has it from elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    name: str
    key: str
    kind: Any
    default: Any
    is_required: bool
    is_omitted: bool
    is_null: bool
    is_unwritten: bool
    is_special: bool
    marks: tuple[Any, ...]


@cache
def _fields(kind: type) -> tuple[_Field, ...]:
    """Once for each class, not for each of a thousand pods."""
    hints = get_type_hints(kind, include_extras=True)
    made = []
    for field in fields(cast(Any, kind)):
        hint = hints[field.name]
        marks = hint.__metadata__ if get_origin(hint) is Annotated else ()
        made.append(
            _Field(
                name=field.name,
                key=next((mark.key for mark in marks if isinstance(mark, Key)), _camel(field.name)),
                kind=hint,
                default=field.default_factory() if field.default_factory is not MISSING else field.default,
                is_required=field.default is MISSING and field.default_factory is MISSING,
                is_omitted=OMITTED in marks,
                is_null=NULL in marks,
                is_unwritten=UNWRITTEN in marks,
                is_special=any(mark in (OMITTED, NULL, UNWRITTEN) for mark in marks),
                marks=marks,
            )
        )
    return tuple(made)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def key_of(kind: type, name: str) -> str:
    """The key of that field."""
    return next(field.key for field in _fields(kind) if field.name == name)


@dataclass(frozen=True, slots=True)
class Rest:
    """Of a view: all fields but those."""

    but: tuple[str, ...]

    def __init__(self, *but: str) -> None:
        object.__setattr__(self, "but", but)


Part = str | tuple[str, Callable[[Any], object]] | Rest
View = Mapping[type, tuple[Part, ...]]
"""What documents show of a class, in order, where that is not all of it: names of fields, and keys with what makes
their value. A value whose key is empty is an object, whose keys are shown in its place."""


def plain(value: object) -> object:
    """`value` with dataclasses as objects, tuples as lists, enums and addresses as text.

    A number that is not finite becomes the text `NaN`, `Infinity` or `-Infinity`, which `typed` reads back: JSON has
    no such numbers. Raises TypeError for anything that has no plain form.
    """
    return _plain(value, None)


def viewed(value: object, view: View) -> dict[str, Any]:
    """That dataclass as a document for others, as the view has it. Numbers that are not finite become null."""
    return cast("dict[str, Any]", _plain(value, view))


_AS_IT_IS = frozenset({str, int, bool, NoneType})
_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
_TEXTS = ("NaN", *_NOT_FINITE.values())


def _plain(value: Any, view: View | None) -> Any:
    kind = type(value)
    return value if kind in _AS_IT_IS else _writer(cast(Any, kind))(value, view)


@cache
def _writer(kind: Any) -> Callable[[Any, View | None], Any]:
    if is_dataclass(kind):
        return _write_object
    if issubclass(kind, list | tuple):
        return lambda value, view: [_plain(item, view) for item in value]
    if issubclass(kind, Mapping):
        return lambda value, view: {str(key): _plain(item, view) for key, item in value.items()}
    if issubclass(kind, Set):
        return lambda value, view: sorted((_plain(item, view) for item in value), key=str)
    if issubclass(kind, float):
        return _write_number
    if issubclass(kind, (str, *_ADDRESSES, PurePath)):
        return lambda value, _: str(value)
    if issubclass(kind, int):
        return lambda value, _: int(value)
    raise TypeError(f"{kind.__name__} has no plain JSON form")


def _write_number(value: float, view: View | None) -> float | str | None:
    if math.isfinite(value):
        return float(value)
    return None if view is not None else _NOT_FINITE.get(value, "NaN")


def _write_object(value: Any, view: View | None) -> dict[str, Any]:
    kind: Any = type(value)
    parts = None if view is None else view.get(kind)
    made: dict[str, Any] = {}
    for part in _fields(kind) if parts is None else _parts(kind, parts):
        if isinstance(part, _Field):
            found = getattr(value, part.name)
            if part.is_special:
                if (part.is_omitted and found == part.default) or (part.is_unwritten and parts is None):
                    continue
                found = None if part.is_null and not found else found
            made[part.key] = found if type(found) in _AS_IT_IS else _plain(found, view)
        elif part[0]:
            made[part[0]] = _plain(part[1](value), view)
        else:
            made |= _plain(part[1](value), view)
    return made


@cache
def _parts(kind: type, parts: tuple[Part, ...]) -> tuple[_Field | tuple[str, Callable[[Any], object]], ...]:
    by_name = {field.name: field for field in _fields(kind)}
    made: list[_Field | tuple[str, Callable[[Any], object]]] = []
    for part in parts:
        if isinstance(part, Rest):
            made.extend(field for name, field in by_name.items() if name not in part.but)
        else:
            made.append(by_name[part] if isinstance(part, str) else part)
    return tuple(made)


def json_line(value: object) -> bytes:
    """One line of JSON with its newline."""
    return json_bytes(plain(value), indent=None, is_compact=True) + b"\n"


def json_document(value: object) -> bytes:
    """JSON for people to read, with a newline at its end."""
    return json_bytes(plain(value), indent=2) + b"\n"


T = TypeVar("T")


class Misfit(ValueError):
    """Data that does not fit a type. `path` are the keys and indexes that lead to it."""

    def __init__(self, problem: str, *path: str | int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: tuple[str | int, ...] = path

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.problem}" if self.path else self.problem


def typed(kind: type[T], data: object, *, where: str) -> T:
    """The value that `plain` made `data` of; `where` names the place in error messages.

    Numbers come back as they were, to the last bit; `NaN` and `Infinity` too. A key that is missing gets the field's
    default; unknown ones, of a later version, are ignored. Raises UsageError.
    """
    try:
        return cast(T, _reader(cast(Any, kind), False)(data))
    except (ValueError, OverflowError) as misfit:
        path = isinstance(misfit, Misfit) and misfit.path
        problem = "it is missing" if data is None else str(misfit)
        raise UsageError(
            what=f"{where} cannot be read",
            cause=str(misfit) if path else f"{getattr(kind, '__name__', str(kind))}: {problem}",
            remedy="it was changed after it was written, or another version of labctl wrote it; measure again",
        ) from misfit


def exact(kind: type[T], data: object) -> T:
    """As `typed`, of what has a digest: every key that `plain` writes has to be there, no other one may be, and a whole
    number stays one. Raises ValueError."""
    return cast(T, _reader(cast(Any, kind), True)(data))


Reader = Callable[[Any], Any]
_BASIC: Mapping[Any, str] = {str: "text", int: "a whole number", bool: "true or false", NoneType: "null"}


@cache
def _reader(kind: Any, is_exact: bool) -> Reader:
    """What makes a value of that type from JSON data, or raises ValueError."""
    origin, of = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(of[0], of[1:], is_exact)
    if kind in (object, Any):
        return lambda data: data
    if kind in _BASIC:
        return _basic(kind)
    if kind is float:
        return _exact_number if is_exact else _number
    if origin is Literal:
        return _one_of(of)
    if origin in (UnionType, Union):
        return _any_of(of, is_exact)
    if origin is tuple:
        return _listed(of[0], is_exact) if of[-1] is Ellipsis else _row(tuple, of, is_exact)
    if origin is not None and issubclass(origin, Mapping):
        return _mapped(of[0], of[1], is_exact)
    if is_dataclass(kind):
        return _object(cast(type, kind), is_exact)
    if issubclass(kind, tuple):  # a NamedTuple
        return _row(kind._make, tuple(get_type_hints(kind).values()), is_exact)
    if issubclass(kind, Enum) or kind in _ADDRESSES:
        return _from_text(kind)
    raise TypeError(f"{kind} is not read from JSON")


def _basic(kind: type) -> Reader:
    def read(data: Any) -> Any:
        if type(data) is not kind:
            raise Misfit(f"{_BASIC[kind]} was expected, not {_short(data)}")
        return data

    return read


def _exact_number(data: Any) -> float:
    if type(data) is not float and type(data) is not int:
        raise Misfit(f"a number was expected, not {_short(data)}")
    return data


def _number(data: Any) -> float:
    return float(data if type(data) is float or data in _TEXTS else _exact_number(data))


def _from_text(kind: Any) -> Reader:
    known = ", ".join(map(str, kind)) if issubclass(kind, Enum) else ""

    def read(data: Any) -> Any:
        if type(data) is str:
            try:
                return kind(data)
            except ValueError as wrong:
                raise Misfit(f"{_short(data)} is not one of {known}" if known else str(wrong)[:200]) from None
        raise Misfit(f"text was expected, not {_short(data)}")

    return read


def _one_of(allowed: tuple[Any, ...]) -> Reader:
    def read(data: Any) -> Any:
        if data not in allowed:
            raise Misfit(f"{_short(data)} is not one of {', '.join(map(str, allowed))}")
        return data

    return read


def _any_of(kinds: tuple[Any, ...], is_exact: bool) -> Reader:
    readers = [_reader(kind, is_exact) for kind in kinds if kind is not NoneType]
    has_null = NoneType in kinds

    def read(data: Any) -> Any:
        if data is None and has_null:
            return None
        for reader in readers[:-1]:
            try:
                return reader(data)
            except ValueError:
                continue
        return readers[-1](data)

    return read


def _bounded(kind: Any, marks: tuple[Any, ...], is_exact: bool) -> Reader:
    inner = _reader(kind, is_exact)
    if NULL in marks:
        inner = _null_as(get_origin(kind) or kind, inner)
    tests = [test for mark in marks if (test := _test(mark)) is not None]

    def read(data: Any) -> Any:
        value = inner(data)
        for is_right, problem in tests:
            if not is_right(value):
                raise Misfit(f"{_short(value)} is not {problem}")
        return value

    return read if tests else inner


def _test(mark: object) -> tuple[Callable[[Any], bool], str] | None:
    match mark:
        case Fits(is_right=is_right, noun=noun):
            return is_right, noun
        case Ge(ge=least):
            return lambda value: value >= least, f"{least} or more"
        case Gt(gt=below):
            return lambda value: value > below, f"more than {below}"
        case Le(le=most):
            return lambda value: value <= most, f"{most} or less"
        case Lt(lt=above):
            return lambda value: value < above, f"less than {above}"
    return None


def _null_as(kind: Any, inner: Reader) -> Reader:
    return lambda data: kind() if data is None else inner(data)


def _listed(kind: Any, is_exact: bool) -> Reader:
    read_item = _reader(kind, is_exact)

    def read(data: Any) -> tuple[Any, ...]:
        made: list[Any] = []
        _checked(data, list)
        try:
            for item in data:
                made.append(read_item(item))
        except Misfit as misfit:
            misfit.path = (len(made), *misfit.path)
            raise
        return tuple(made)

    return read


def _row(make: Callable[[Any], Any], kinds: Sequence[Any], is_exact: bool) -> Reader:
    readers = [_reader(kind, is_exact) for kind in kinds]

    def read(data: Any) -> Any:
        if len(_checked(data, list)) != len(readers):
            raise Misfit(f"{len(readers)} items were expected, not {len(data)}")
        return make([reader(item) for reader, item in zip(readers, data, strict=True)])

    return read


def _mapped(key_kind: Any, kind: Any, is_exact: bool) -> Reader:
    read_key, read_item = _reader(key_kind, is_exact), _reader(kind, is_exact)

    def read(data: Any) -> dict[Any, Any]:
        made = {}
        for key, item in _checked(data, dict).items():
            try:
                made[read_key(key)] = read_item(item)
            except Misfit as misfit:
                misfit.path = (key, *misfit.path)
                raise
        return made

    return read


def _object(kind: type, is_exact: bool, noun: str = "keys") -> Reader:
    of_kind = _fields(kind)
    table: list[tuple[str, str, bool, Reader]] = []
    chosen: list[tuple[_Field, ChosenBy]] = []
    needed = {field.name for field in of_kind if field.is_required or (is_exact and not field.is_omitted)}
    known = {field.key for field in of_kind}
    for field in of_kind:
        by = next((mark for mark in field.marks if isinstance(mark, ChosenBy)), None)
        if by is None:
            table.append((field.key, field.name, field.name in needed, _reader(field.kind, is_exact)))
        else:
            chosen.append((field, by))

    def read(data: Any) -> Any:
        _checked(data, dict)
        given: dict[str, Any] = {}
        for key, name, is_needed, reader in table:
            item = data.get(key, MISSING)
            if item is MISSING:
                item = data.get(name, MISSING)
            if item is not MISSING:
                try:
                    given[name] = reader(item)
                except Misfit as misfit:
                    misfit.path = (key, *misfit.path)
                    raise
            elif is_needed:
                raise Misfit("it is missing", key)
        for field, by in chosen:
            of_class = by.classes.get(given[by.field])
            if of_class is None:
                raise ValueError(f"it has a {key_of(kind, by.field)} of the unknown kind {_short(given[by.field])}")
            if field.key not in data:
                raise Misfit("it is missing", field.key)
            try:
                given[field.name] = _chosen(of_class, is_exact, field.key)(data[field.key])
            except Misfit as misfit:
                misfit.path = (field.key, *misfit.path)
                raise
        if is_exact and not known >= data.keys():
            raise ValueError(f"it has unknown {noun}: {', '.join(sorted(data.keys() - known))[:200]}")
        return kind(**given)

    return read


_chosen = cache(_object)


def _checked(data: Any, kind: type) -> Any:
    if type(data) is not kind:
        raise Misfit(f"{'a list' if kind is list else 'an object'} was expected, not {_short(data)}")
    return data


def _short(data: object) -> str:
    return repr(data)[:60]
