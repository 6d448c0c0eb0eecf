"""Any value that is not a leaf, taken apart: containers, code, arrays of objects, and all else the way pickle would.

What `__reduce_ex__` gives is how a value is made again: a callable, its arguments, a state. If all of these are equal, so are the values.
Attributes are sorted by name: the order in which they were set says nothing. Refuses what pickle cannot take apart (locks, files,
sockets, generators), weak references, and refs and handles of actors: these name a place and not a value.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from soma.store import definitions, foreign
from soma.store.atoms import framed, tuple_of
from soma.store.parts import Parts, Unstable

_PROTOCOL = 4
_NEW = copyreg.__dict__["__newobj__"]  # by its name it would be unknown to type checkers


def parts_of(value: Any) -> Parts:
    """Take a value apart.

    Raises:
        Unstable: it equals nothing but itself.
    """
    kind = type(value)
    if kind is list or kind is tuple:
        return Parts(b"[" if kind is list else b"(", [(f"[{n}]", part) for n, part in enumerate(value)])
    if kind is dict or kind is MappingProxyType:
        return Parts(b":" if kind is dict else b"proxy", _pairs(value.items()))
    if kind is set or kind is frozenset:
        return Parts(b"{" if kind is set else b"<", [(".<item>", part) for part in value], ordered=False)
    return definitions.parts(value) or foreign.parts(value) or _other(value)


def _pairs(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, part in pairs:
        shown = _short(key)
        items += ((f".<key {shown}>", key), (f"[{shown}]", part))
    return items


def _short(key: Any) -> str:
    """A key as a path shows it."""
    if isinstance(key, str | int | float | bytes | bool | None):
        said = repr(key)
        return said if len(said) <= 60 else said[:57] + "..."
    return f"<{type(key).__name__}>"


def _other(value: Any) -> Parts:
    kind = type(value)
    if kind.__module__.startswith("soma.actors."):
        raise Unstable(f"a soma {kind.__name__} names a place and not a value; soma.get(...) it first")
    if isinstance(value, set | frozenset):  # its own way would be a list in the order of the hashes, which is another in each process
        held = set(value) if isinstance(value, set) else frozenset(value)
        return Parts(b"set of a kind", [(".__class__", kind), ("", held), *_state(getattr(value, "__dict__", None))])
    reduced = _reduced(value)
    if isinstance(reduced, str):  # the name of a global
        module = getattr(value, "__module__", None) or kind.__module__
        return Parts(framed(b"global", str(module).encode(), reduced.encode()), [(".__class__", kind)])
    make, arguments, *rest = reduced
    state, elements, pairs, setter = (*rest, None, None, None, None)[:4]
    if make is _NEW:
        items = [(".__class__", arguments[0])]
        items += [(f".__getnewargs__()[{n}]", part) for n, part in enumerate(arguments[1:])]
    else:
        items = [(".__reduce__()[0]", make)] + [(f".__reduce__()[1][{n}]", part) for n, part in enumerate(arguments)]
    counts = [len(items)]
    for more in (_state(state), [(f"[{n}]", part) for n, part in enumerate(elements or ())],
                 _pairs(pairs or ()), [] if setter is None else [(".__reduce__()[5]", setter)]):
        items += more
        counts.append(len(more))
    named = [step.encode("utf-8", "surrogatepass") for step, _ in items[counts[0]:counts[0] + counts[1]]]
    return Parts(tuple_of(b"object", b"made" if make is _NEW else b"called", repr(counts).encode(), *named), items)


def _reduced(value: Any) -> Any:
    """How pickle would take it apart: a tuple, or the name of a global."""
    kind = type(value)
    registered = copyreg.dispatch_table.get(kind)
    try:
        reduced = registered(value) if registered is not None else value.__reduce_ex__(_PROTOCOL)
    except MemoryError:
        raise
    except Exception as error:  # whatever the user's own __reduce__ or __getstate__ raises: the value cannot be taken apart
        raise Unstable(f"a {_called(kind)} cannot be taken apart ({type(error).__name__}: {error}); "
                       "leave it out in __getstate__, or give what it is made from instead") from error
    if isinstance(reduced, str) or (isinstance(reduced, tuple) and len(reduced) >= 2):
        return reduced
    raise Unstable(f"__reduce__ of a {_called(kind)} gave {reduced!r:.60}, neither a name nor a callable with arguments")


def _called(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else definitions.name_of(kind)


def _state(state: Any) -> list[tuple[str, Any]]:
    """Attributes by name, where the state is a dict of them, or a pair of such dicts: those of the instance and those of its slots."""
    if state is None:
        return []
    both = state if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict) else (state, None)
    if not all(attributes is None or _has_names(attributes) for attributes in both):
        return [(".__getstate__()", state)]
    return [(f".{name}", attributes[name]) for attributes in both if attributes for name in sorted(attributes)]


def _has_names(state: Any) -> bool:
    return type(state) is dict and set(map(type, state)) <= {str}


