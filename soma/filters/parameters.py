"""The parameters of a filter: the arguments of its constructor, kept under their own names (scikit-learn's rule)."""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Mapping
from typing import Any

from soma.errors import GraphError
from soma.filters.options import title_of
from soma.filters.searching import Search


def parameters_of(filter: Any) -> dict[str, Any]:
    """Name → value. A class whose constructor keeps its arguments under other names gives all attributes of the object instead."""
    own = getattr(filter, "__soma_parameters__", None)
    if own is not None:
        found: dict[str, Any] = own()
        return found
    held: dict[str, Any] = {**_slots(filter), **getattr(filter, "__dict__", {})}
    names = named(filter)
    return {n: held[n] for n in names} if names is not None and all(n in held for n in names) else dict(sorted(held.items()))


def _slots(filter: Any) -> dict[str, Any]:
    declared = [vars(c).get("__slots__", ()) for c in type(filter).__mro__]
    names = [n for some in declared for n in ((some,) if isinstance(some, str) else some)]
    return {n: getattr(filter, n) for n in names if n not in ("__dict__", "__weakref__") and hasattr(filter, n)}


def named(filter: Any) -> tuple[str, ...] | None:
    """The names of its constructor's arguments; None where they cannot be told (`*args`, `**kwargs`, no signature)."""
    cls: type = type(filter)
    return _signature_of(cls)


@functools.lru_cache(maxsize=1024)
def _signature_of(cls: type) -> tuple[str, ...] | None:
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (ValueError, TypeError):
        return None
    fixed = all(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    return tuple(p.name for p in parameters) if fixed else None


def searched(filter: Any) -> dict[str, Search]:
    """The parameters that `soma.search` stands for."""
    return {name: value for name, value in parameters_of(filter).items() if isinstance(value, Search)}


def with_parameters(filter: Any, changes: Mapping[str, Any]) -> Any:
    """A new filter like this one but for some parameters; made by its constructor, so that what is derived from them is right.

    Raises:
        GraphError: it has no such parameter.
    """
    own = getattr(filter, "__soma_with__", None)
    known = parameters_of(filter)
    if unknown := sorted(set(changes) - set(known)):
        raise GraphError(f"{title_of(filter)} has no parameter {', '.join(map(repr, unknown))}; it has {', '.join(known) or 'none'}")
    if own is not None:
        return own(changes)
    if named(filter) is not None:
        return type(filter)(**{**known, **changes})
    made = copy.copy(filter)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def resolved(filter: Any, node: str) -> Any:
    """The filter with the defaults of what is searched.

    Raises:
        GraphError: a parameter is searched and has no default.
    """
    open_ones = searched(filter)
    if not open_ones:
        return filter
    for name, search in open_ones.items():
        if not search.has_default:
            raise GraphError(f"node {node!r}: {name} is a soma.search without a default: give one (default=…), give the parameter a "
                             f"value (graph.with_parameters({{{f'{node}.{name}'!r}: …}})), or run a study")
    return with_parameters(filter, {name: search.default for name, search in open_ones.items()})


def label_of(filter: Any) -> str:
    """How plans show a filter: its own repr, or `Name(parameter=value)`."""
    if any("__repr__" in vars(c) for c in type(filter).__mro__[:-1]):
        text = repr(filter)
    else:
        names = named(filter) or ()
        held = getattr(filter, "__dict__", {})
        text = f"{title_of(filter)}({', '.join(f'{n}={_brief(held[n])}' for n in names if n in held)})"
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= 80 else text[:79] + "…"


def _brief(value: Any) -> str:
    plain = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if plain else f"<{type(value).__name__}>"
