"""`dataclass` as the standard library has it; what it compiles for a frozen class is compiled when first called.

The standard decorator compiles six functions for each frozen class, which takes 0.5 ms. A command of labctl reads in
three hundred such classes and makes values of some of them: half of its CPU time went there (docs/adr/0019-values.md).
What one can do with the classes is the same (`fields`, `replace`, equality, hash, text, errors, pickle), which a test
holds against the standard decorator's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, **options):
        """The standard decorator; of `frozen=True, slots=True` (and `kw_only`) with compiling put off."""
        if cls is None:
            return lambda decorated: dataclass(decorated, **options)
        if options.get("frozen") and options.get("slots") and not set(options) - {"frozen", "slots", "kw_only"}:
            return _put_off(cls, kw_only=options.get("kw_only", False))
        return dataclasses.dataclass(cls, **options)

    _COMPILED = {
        "__init__": {"init": True, "repr": False, "eq": False, "frozen": True},
        "__repr__": {"init": False, "repr": True, "eq": False},
        "__eq__": {"init": False, "repr": False, "eq": True},
        "__hash__": {"init": False, "repr": False, "eq": True, "unsafe_hash": True},
    }
    """By which options the standard decorator makes each alone."""

    def _put_off(cls, *, kw_only):
        """The class with its slots and fields, with methods that put the compiled ones in their place."""
        own = {name for name, value in vars(cls).items() if value is not None}
        cls.__doc__ = cls.__doc__ or cls.__name__  # otherwise it is made from the signature, which compiles it
        made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
        for name in _COMPILED.keys() - own:
            setattr(made, name, _first(made, name))
        for name in _SHARED.keys() - own:
            setattr(made, name, _SHARED[name])
        return made

    def _first(made, name):
        """Stands for a method until it is called."""

        def method(self, *args, **named):
            compiled = _compiled(made, name)
            setattr(made, name, compiled)
            return compiled(self, *args, **named)

        return method

    def _compiled(made, name):
        """That method, of a standard class with the same fields."""
        taken = ("__doc__", "__post_init__")  # a class with no text gets one that is made from its signature
        twin = dataclasses.make_dataclass(
            made.__name__,
            [(field.name, field.type, field) for field in dataclasses.fields(made)],
            namespace={each: getattr(made, each) for each in taken if hasattr(made, each)},
            **_COMPILED[name],
        )
        compiled = vars(twin)[name]
        compiled.__qualname__ = f"{made.__qualname__}.{name}"
        return compiled

    def _refuse_setting(self, name, value):
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def _refuse_deleting(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def _state(self):
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def _take_state(self, state):
        for field, value in zip(dataclasses.fields(self), state, strict=True):
            object.__setattr__(self, field.name, value)

    _SHARED = {
        "__setattr__": _refuse_setting,
        "__delattr__": _refuse_deleting,
        "__getstate__": _state,
        "__setstate__": _take_state,
    }
