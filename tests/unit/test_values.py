"""A class that `labctl.values` decorates does what the standard decorator's does."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from labctl import values

SOURCE = Path(__file__).resolve().parents[2] / "src" / "labctl"
Decorator = Callable[..., Any]
BOTH = pytest.mark.parametrize("dataclass", [dataclasses.dataclass, values.dataclass], ids=["standard", "labctl"])


@values.dataclass(frozen=True, slots=True, kw_only=True)
class Pickled:
    """At the top of a module, where pickle finds it."""

    name: str
    parts: tuple[str, ...] = ()


def address(dataclass: Decorator) -> Any:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Address:
        """Of a device."""

        KIND: ClassVar[str] = "address"
        text: str
        length: int = 24
        labels: list[str] = field(default_factory=list, compare=False)
        secret: str = field(default="", repr=False)

    return Address


@BOTH
def test_values_have_defaults_equality_hash_and_text(dataclass: Decorator) -> None:
    made = address(dataclass)
    one, other = made(text="10.0.0.1"), made(text="10.0.0.1", labels=["uplink"])
    assert (one.length, one.labels, made.KIND) == (24, [], "address")
    assert one == other
    assert hash(one) == hash(other)
    assert one != made(text="10.0.0.2")
    assert one != "10.0.0.1"
    assert repr(one).endswith("Address(text='10.0.0.1', length=24, labels=[])")
    assert one.labels is not made(text="10.0.0.1").labels


@BOTH
def test_a_value_that_lacks_a_field_or_has_one_more_is_refused_by_the_class_name(dataclass: Decorator) -> None:
    made = address(dataclass)
    with pytest.raises(TypeError, match=r"Address\.__init__\(\) missing 1 required keyword-only argument: 'text'"):
        made()
    with pytest.raises(TypeError, match=r"Address\.__init__\(\) got an unexpected keyword argument 'scope'"):
        made(text="10.0.0.1", scope="host")
    with pytest.raises(TypeError, match="positional"):
        made("10.0.0.1")


@BOTH
def test_a_value_is_frozen_and_has_slots(dataclass: Decorator) -> None:
    one = address(dataclass)(text="10.0.0.1")
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'text'"):
        one.text = "10.0.0.2"
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'text'"):
        del one.text
    assert not hasattr(one, "__dict__")


@BOTH
def test_the_tools_for_dataclasses_take_it(dataclass: Decorator) -> None:
    one = address(dataclass)(text="10.0.0.1", secret="s")
    assert dataclasses.replace(one, length=32) == type(one)(text="10.0.0.1", length=32, secret="s")
    assert dataclasses.asdict(one) == {"text": "10.0.0.1", "length": 24, "labels": [], "secret": "s"}
    assert [each.name for each in dataclasses.fields(one)] == ["text", "length", "labels", "secret"]


@BOTH
def test_a_class_that_derives_has_the_fields_of_both_and_its_own_methods_stay(dataclass: Decorator) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Lab:
        name: str
        seen: ClassVar[list[str]] = []

        def __post_init__(self) -> None:
            self.seen.append(self.name)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Sized(Lab):
        nodes: int = 3

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Lab) and other.name == self.name

        def __repr__(self) -> str:
            return f"{self.name} of {self.nodes}"

    class Plain(Sized):
        pass

    sized = Sized(name="bpf", nodes=2)
    assert Lab.seen == ["bpf"]
    assert sized == Lab(name="bpf")
    assert str(sized) == "bpf of 2"
    assert hash(sized) == hash(Sized(name="bpf", nodes=2))
    assert Plain(name="vxlan").nodes == 3
    assert Lab(name="bpf") == Lab(name="bpf")
    assert Lab(name="bpf") != Lab(name="other")


@BOTH
def test_positional_fields_and_matching_stay(dataclass: Decorator) -> None:
    @dataclass(frozen=True, slots=True)
    class Port:
        number: int
        protocol: str = "udp"

    match Port(8472):
        case Port(number, protocol):
            assert (number, protocol) == (8472, "udp")


def test_other_options_are_the_standard_decorators() -> None:
    @values.dataclass(slots=True)
    class Counter:
        count: int = 0

    counter = Counter()
    counter.count = 3
    assert counter == Counter(3)


def test_a_value_is_the_same_after_pickle() -> None:
    one = Pickled(name="node1", parts=("eth0",))
    assert pickle.loads(pickle.dumps(one)) == one


def test_nothing_is_compiled_before_it_is_called() -> None:
    made = address(values.dataclass)
    waiting = {name: getattr(made, name) for name in ("__init__", "__eq__", "__repr__", "__hash__")}
    one = made(text="10.0.0.1")
    assert {name for name, method in waiting.items() if getattr(made, name) is not method} == {"__init__"}
    assert one == made(text="10.0.0.1")
    assert {name for name, method in waiting.items() if getattr(made, name) is not method} == {"__init__", "__eq__"}


def test_frozen_classes_of_labctl_are_decorated_so() -> None:
    """The standard decorator's would be compiled each time that a command begins."""
    standard = [
        str(source.relative_to(SOURCE))
        for source in sorted(SOURCE.rglob("*.py"))
        if source.name != "values.py" and "@dataclass(frozen=True" in (text := source.read_text(encoding="utf-8"))
        if "from labctl.values import dataclass" not in text
    ]
    assert standard == []
