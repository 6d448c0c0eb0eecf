"""Where in a value the part is that cannot be pickled: its path, e.g. `args[0].net._lock`.

Used only after pickling failed. The walk sees what pickle would see (items, attributes or `__getstate__`, closures and globals of
functions that travel by value), breadth first, so that the path is a shortest one; it ends after 10,000 objects.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import cloudpickle

LIMIT = 10_000
_ATOMS = (int, float, complex, str, bytes, bytearray, type(None), types.BuiltinFunctionType, types.ModuleType)

_HINTS = {
    **dict.fromkeys(("lock", "RLock", "_RLock", "Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "SimpleQueue",
                     "Queue", "_local", "Thread"), "leave it out in __getstate__, or make it in the actor's constructor"),
    **dict.fromkeys(("generator", "coroutine", "async_generator"), "send a list of what it yields, or what makes it"),
    **dict.fromkeys(("socket", "SSLSocket", "SSLContext", "TextIOWrapper", "BufferedReader", "BufferedWriter", "FileIO",
                     "Connection", "Cursor", "Popen"), "open it in the actor, and send its name or address instead"),
    **dict.fromkeys(("frame", "traceback"), "send its text: traceback.format_exception()"),
    **dict.fromkeys(("ReferenceType", "WeakValueDictionary", "WeakKeyDictionary"), "send what it refers to"),
}


def hint_for(culprit: object) -> str:
    """What to do instead, for the usual suspects."""
    return next((_HINTS[cls.__name__] for cls in type(culprit).__mro__ if cls.__name__ in _HINTS), "")


def paths(roots: Iterable[tuple[str, object]], wanted: Iterable[object]) -> dict[int, str]:
    """Path to each of the `wanted` objects that can be reached, by its id."""
    missing = {id(one) for one in wanted}
    found: dict[int, str] = {}
    queue = deque(roots)
    seen: dict[int, object] = {}  # keeps what __getstate__ made alive, so that no id comes twice
    while queue and missing and len(seen) < LIMIT:
        path, value = queue.popleft()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if id(value) in missing:
            missing.remove(id(value))
            found[id(value)] = path
        if len(path) < 1000:
            queue.extend((path + step, child) for step, child in _children(value) if not isinstance(child, _ATOMS))
    return found


def _children(value: Any) -> Iterator[tuple[str, object]]:
    match value:
        case dict():
            for n, (key, child) in enumerate(value.items()):
                if n == LIMIT:
                    break
                yield f"[{_short(key)}]", child
                yield f".<key {_short(key)}>", key
        case list() | tuple() | deque():
            yield from ((f"[{i}]", value[i]) for i in range(min(len(value), LIMIT)))
        case set() | frozenset():
            yield from ((f".<item {_short(child)}>", child) for child in value)
        case types.FunctionType():
            yield from _of_function(value)
        case types.MethodType():
            yield from ((".__self__", value.__self__), (".__func__", value.__func__))
        case functools.partial():
            yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
        case type():
            if travels_by_value(value):
                yield from ((f".{name}", child) for name, child in vars(value).items())
        case staticmethod() | classmethod():
            yield ".__func__", value.__func__
        case property():
            yield from ((".fget", value.fget), (".fset", value.fset))
    if type(value).__name__ == "ndarray" and value.dtype.hasobject:
        yield from ((f".flat[{i}]", child) for i, child in enumerate(value.flat[:LIMIT]))
    if not isinstance(value, (type, types.FunctionType)):
        yield from _of_state(value)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    if not travels_by_value(function):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".<closure {name}>", cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
    codes = [function.__code__]
    for code in codes:
        codes.extend(const for const in code.co_consts if isinstance(const, types.CodeType))
        yield from ((f".<global {name}>", function.__globals__[name]) for name in code.co_names if name in function.__globals__)
    yield ".__defaults__", function.__defaults__
    yield ".__kwdefaults__", function.__kwdefaults__
    yield from ((f".{name}", child) for name, child in vars(function).items())


def _of_state(value: Any) -> Iterator[tuple[str, object]]:
    """Attributes, as `__getstate__` gives them where a class defines one."""
    state: Any = None
    if getattr(type(value), "__getstate__", None) is not getattr(object, "__getstate__", None):
        try:
            state = value.__getstate__()
        except Exception:  # this is what is being looked for; the attributes themselves are the next best thing
            state = None
    if isinstance(state, dict):
        yield from ((f".{name}", child) for name, child in state.items())
    elif state is not None:
        yield ".__getstate__()", state
    else:
        yield from ((f".{name}", child) for name, child in getattr(value, "__dict__", {}).items())
        for cls in type(value).__mro__:
            slots = vars(cls).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name):
                    yield f".{name}", getattr(value, name)
    if travels_by_value(type(value)):
        yield ".__class__", type(value)


def travels_by_value(thing: type | types.FunctionType) -> bool:
    """Whether a class or function is sent whole, so that its inside can be at fault."""
    module = thing.__module__ or ""
    return (module == "__main__" or "<" in thing.__qualname__
            or any(module == name or module.startswith(name + ".") for name in cloudpickle.list_registry_pickle_by_value()))


def _short(key: object) -> str:
    try:
        text = repr(key)
    except Exception as error:  # a key that cannot even be shown still has a place in the path
        text = f"<{type(key).__name__}, whose repr raised {type(error).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
