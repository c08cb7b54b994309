"""What a student wrote, as a value of the fact that was asked for; and whether two values are the same. Pure.

It stands alone because `grading` opens labs, and this can be tried without one.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from labctl.errors import UsageError
from labctl.model.fact import NONE, FactKind, FactType, Value

_YES = frozenset({"true", "yes", "y", "是", "对"})
_NO = frozenset({"false", "no", "n", "否", "不", "错"})
_NOTHING = frozenset({NONE, "nothing", "无", "没有"})
_BETWEEN = str.maketrans({"，": ",", "、": ",", "；": ",", ";": ","})


_LONGEST_NUMBER = 40
"""Characters. No fact has as many; of thousands Python makes no number."""


def parse_answer(kind: FactKind, text: str) -> Value:
    """Raises UsageError with what the fact can be, for a text that is no value of it: that is no wrong answer."""
    said = " ".join(text.split())
    if not said:
        raise UsageError(what="the answer is empty", cause=kind.what, remedy=_allowed(kind))
    folded = said.casefold()
    match kind.type:
        case FactType.BOOLEAN:
            if folded in _YES | _NO:
                return folded in _YES
        case FactType.NUMBER:
            if said.removeprefix("-").isdecimal() and len(said) <= _LONGEST_NUMBER:
                return int(said)
        case FactType.KEYWORD:
            if (word := _keyword(folded)) in kind.choices:
                return word
        case FactType.ADDRESS:
            if (address := _address(said)) is not None:
                return address
        case FactType.NAMES:
            if folded in _NOTHING:
                return ()
            return tuple(dict.fromkeys(one.strip() for one in said.translate(_BETWEEN).split(",") if one.strip()))
        case FactType.NAME:
            return NONE if folded in _NOTHING else said
    raise UsageError(
        what=f"{said[:60]} is no value of {kind.name}", cause=kind.what, remedy=_allowed(kind)
    )  # fmt: skip


def _keyword(folded: str) -> str:
    word = folded.replace(" ", "-")
    return NONE if word in _NOTHING else word


def _address(text: str) -> str | None:
    try:
        return str(IPv4Network(text)) if "/" in text else str(IPv4Address(text))
    except (AddressValueError, NetmaskValueError, ValueError):
        return None


def _allowed(kind: FactKind) -> str:
    match kind.type:
        case FactType.KEYWORD:
            return f"one of: {', '.join(kind.choices)}"
        case FactType.BOOLEAN:
            return "true or false"
        case FactType.NUMBER:
            return f"a whole number, in {kind.unit}" if kind.unit else "a whole number"
        case FactType.ADDRESS:
            return "an address such as 10.244.1.10, or a range such as 10.244.1.0/24"
        case FactType.NAMES:
            return "names with commas between them, or none"
        case FactType.NAME:
            return "a name"


def is_same(one: Value, other: Value) -> bool:
    """Names in any order and case; everything else exactly."""
    if isinstance(one, tuple) or isinstance(other, tuple):
        return _names(one) == _names(other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return str(one).casefold() == str(other).casefold()


def _names(value: Value) -> frozenset[str]:
    names = value if isinstance(value, tuple) else (str(value),)
    return frozenset(name.casefold() for name in names) - {NONE}
