"""The space that a study searches: dimensions by name, in order, some of which exist only together with values of earlier ones. Pure.

Invariants: the order is that of the declaration, so the same answers to the same questions give the same parameters; a dimension that
does not exist is not asked for and is in no parameters; a frozen one is in them and is never asked for. A whole number is Python's
`int`, a choice is the very object that was declared. Every refusal is a `SpaceError` that names the dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from soma.errors import SpaceError
from soma.filters.searching import Search, belonging, position, search, shown
from soma.study.declaring import Dimension as Dimension
from soma.study.declaring import dimension
from soma.study.distributions import decode as decode
from soma.study.distributions import distribution_of as distribution_of
from soma.study.distributions import encode as encode
from soma.study.distributions import encoded_choices

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Space:
    """`dimensions` by name, in order; `frozen` are the values of those that are not searched."""

    dimensions: Mapping[str, Dimension] = field(default_factory=dict)
    frozen: Params = field(default_factory=dict)

    @classmethod
    def of(cls, declared: Any = None) -> Space:
        """The space that a user wrote.

        Args:
            declared: None or an empty dict or list for an empty space; a dict of name → `soma.search(…)`, a range `(low, high)`, a list of
                choices, or a dict with "type" ("float", "int", "categorical"), "low", "high", "scale" ("linear", "log"), "step",
                "choices", "default", "when"; or a list of such dicts, each with its "name".
                `"when": {"kernel": "rbf"}` or `{"kernel": ["rbf", "poly"]}`: it exists only then; "kernel" is declared before it.

        Raises:
            SpaceError: what was declared cannot be; names the dimension.
        """
        if isinstance(declared, Space):
            return declared
        dimensions: dict[str, Dimension] = {}
        for name, one in named(declared):
            if not isinstance(name, str) or not name:
                raise SpaceError(f"{name!r} is no name of a dimension")
            if name in dimensions:
                raise SpaceError(f"dimension {name!r} is declared twice")
            dimensions[name] = dimension(name, one, dimensions)
        return cls(dimensions)

    def freeze(self, values: Params | None) -> Space:
        """This space with the values of some dimensions fixed; they stay in the parameters.

        Raises:
            SpaceError: no such dimension, or a value outside.
        """
        values = _mapping("frozen", values or {})
        fixed = {}
        for name, value in values.items():
            if name not in self.dimensions:
                raise SpaceError(f"frozen: {self._unknown(name)}")
            try:
                fixed[name] = belonging(self.dimensions[name].search, value)
            except ValueError as e:
                raise SpaceError(f"frozen: {name}={value!r}; {e}") from None
        return replace(self, frozen={**self.frozen, **fixed})

    def suggest(self, pick: Callable[[str, Search], Any]) -> dict[str, Any]:
        """One set of parameters: `pick(name, search)` is asked for every dimension that exists and is not frozen, in order."""
        params: dict[str, Any] = {}
        for name, d in self.dimensions.items():
            if self._exists(name, params):
                params[name] = self.frozen[name] if name in self.frozen else pick(name, d.search)
        return params

    def active(self, params: Params) -> tuple[str, ...]:
        """The dimensions that exist with these values."""
        known: dict[str, Any] = {}
        names = []
        for name in self.dimensions:
            if self._exists(name, known):
                names.append(name)
                if name in self.frozen or name in params:
                    known[name] = self.frozen[name] if name in self.frozen else params[name]
        return tuple(names)

    def defaults(self) -> dict[str, Any]:
        """Those that were declared, of the dimensions that exist with them."""
        of = {name: belonging(d.search, d.search.default) for name, d in self.dimensions.items() if d.search.has_default}
        of.update(self.frozen)
        return {name: of[name] for name in self.active(of) if name in of}

    def check(self, params: Params, *, partial: bool = False) -> dict[str, Any]:
        """Parameters that a user gave, in order and in the types of their dimensions, with those that are frozen.

        Args:
            partial: some may be missing: they are to be searched.

        Raises:
            SpaceError: names everything that does not fit, and why.
        """
        params = _mapping("params", params)
        wrong = [self._unknown(name) for name in params if name not in self.dimensions]
        known: dict[str, Any] = {}
        open_ones: set[str] = set()  # of which nobody knows yet whether they exist, or with what value
        for name in self.dimensions:
            exists = self._exists(name, known, open_ones)
            if name in params and exists is not False:
                try:
                    known[name] = self._fitting(name, params[name])
                    continue
                except ValueError as e:
                    wrong.append(f"{name}={params[name]!r}; {e}")
            elif name in params:
                wrong.append(f"{name!r} exists only {self._condition(name)}")
            elif exists and name in self.frozen:
                known[name] = self.frozen[name]
                continue
            elif exists and not partial:
                wrong.append(f"{name!r} is missing")
            if exists is not False:
                open_ones.add(name)
        if wrong:
            raise SpaceError("params: " + "; ".join(wrong))
        return known

    # -- as optuna keeps them ------------------------------------------------------------------------------------------------------

    def encoded(self, params: Params) -> dict[str, Any]:
        """The parameters that are searched, as optuna keeps them (`encode`)."""
        return {name: encode(d.search, params[name]) for name, d in self.dimensions.items() if name in params and name not in self.frozen}

    def decoded(self, stored: Params) -> dict[str, Any]:
        """The parameters of a trial that optuna kept, with those that are frozen.

        Raises:
            SpaceError: the choices have changed since.
        """
        params: dict[str, Any] = {}
        for name, d in self.dimensions.items():
            if name in self.frozen and self._exists(name, params):
                params[name] = self.frozen[name]
            elif name in stored:
                try:
                    params[name] = decode(d.search, stored[name])
                except ValueError as e:
                    raise SpaceError(f"dimension {name!r}: {e}") from None
        return params

    def describe(self) -> list[dict[str, Any]]:
        """As plain data that JSON can hold: one dict a dimension, with the keys that `of` knows, its "name", and "frozen" if it is."""
        return list(self._described())

    def _described(self) -> Iterator[dict[str, Any]]:
        for name, d in self.dimensions.items():
            s = d.search
            one: dict[str, Any] = {"name": name, "type": s.type}
            if s.type == "categorical":
                one["choices"] = list(encoded_choices(s))
            else:
                one |= {"low": s.low, "high": s.high, "scale": s.scale} | ({"step": s.step} if s.step is not None else {})
            if s.has_default:
                one["default"] = encode(s, s.default)
            if d.when:
                one["when"] = {other: [encode(self.dimensions[other].search, v) for v in allowed] for other, allowed in d.when.items()}
            if name in self.frozen:
                one["frozen"] = encode(s, self.frozen[name])
            yield one

    def __str__(self) -> str:
        return ", ".join(f"{name}: " + (f"{self.frozen[name]!r}, frozen" if name in self.frozen else shown(d.search))
                         + (f" {self._condition(name)}" if d.when else "") for name, d in self.dimensions.items())

    def __len__(self) -> int:
        return len(self.dimensions)

    # -- conditions ----------------------------------------------------------------------------------------------------------------

    def _exists(self, name: str, known: Params, open_ones: set[str] | frozenset[str] = frozenset()) -> bool | None:
        """Whether all its conditions hold; None if that depends on `open_ones`. What is not known does not exist."""
        unsure = False
        for other, allowed in self.dimensions[name].when.items():
            if other in known:
                if not holds(self.dimensions[other].search, allowed, known[other]):
                    return False
            elif other in open_ones:
                unsure = True
            else:
                return False
        return None if unsure else True

    def _condition(self, name: str) -> str:
        when = self.dimensions[name].when.items()
        return "when " + " and ".join(f"{other} is {' or '.join(map(repr, allowed))}" for other, allowed in when)

    def _fitting(self, name: str, value: Any) -> Any:
        d = self.dimensions[name].search
        clean = belonging(d, value)
        if name in self.frozen and not holds(d, (self.frozen[name],), clean):
            raise ValueError(f"it is frozen at {self.frozen[name]!r}")
        return clean

    def _unknown(self, name: Any) -> str:
        there = f"there are {', '.join(map(repr, self.dimensions))}" if self.dimensions else "the space is empty"
        return f"{name!r} is no dimension; {there}"


def edge(*, default: bool = True) -> Search:
    """The dimension of an edge: True, it is there, or False, it is not.

        graph.study(…, space={"pca -> svc": soma.study.edge()})

    Without it, a node that has no other input gets the graph's own, and one whose output leads nowhere is left out.
    """
    return search(choices=[True, False], default=default)


def holds(search: Search, allowed: tuple[Any, ...], value: Any) -> bool:
    """Whether a value of this dimension is one of those; all of them belong to it."""
    if search.type != "categorical":
        return value in allowed
    at = position(search.choices, value)
    return at is not None and at in (position(search.choices, one) for one in allowed)


def named(declared: Any) -> Iterator[tuple[Any, Any]]:
    """Name and declaration of each dimension, as `Space.of` takes them."""
    if declared is None:
        return
    if isinstance(declared, Mapping):
        yield from declared.items()
        return
    if not isinstance(declared, (list, tuple)):
        raise SpaceError(f"space={declared!r:.80}: a dict of name → what it may be, or a list of dicts with 'name'")
    for i, one in enumerate(declared):
        if not isinstance(one, Mapping) or "name" not in one:
            raise SpaceError(f"space[{i}]={one!r:.80}: a dict with 'name'")
        yield one["name"], {key: value for key, value in one.items() if key != "name"}


def _mapping(what: str, given: Any) -> Params:
    if not isinstance(given, Mapping):
        raise SpaceError(f"{what}={given!r:.80}: a dict of name → value")
    return given
