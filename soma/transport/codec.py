"""Values to bytes and back: pickle protocol 5, large buffers out of band, cloudpickle where needed.

    encode(value) -> Packed(body, buffers, notes)        decode(body, buffers) -> value

A value arrives as it left (see `tensors` for arrays), private and writable. Classes and functions of `__main__`, and of modules
that the receiver cannot import, travel by value. Refuses what cannot be pickled, with the path of the part at fault.
Invariants: `Packed.buffers` are views of the caller's memory, not copies; the caller copies them before it returns to the user.
Decoding runs code that the sender chose, and may take any amount of memory: never decode what did not come from an
authenticated peer. MemoryError is not turned into DecodeError.
Limits: bytes and str of any size are in band. A reducer may run more than once for one value (overlapping tensors, looking for a
fault), so it should do nothing but note. SystemExit and KeyboardInterrupt raised by user code in between pass through.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import cloudpickle

from soma.errors import ArgumentNotSerializableError, DecodeError, NotSerializableError
from soma.transport import faults, tensors
from soma.transport.modules import by_value_where_needed

Buffer = bytes | bytearray | memoryview
Reducer = Callable[[Any, list[object]], tuple[Any, ...]]

_reducers: dict[type, Reducer] = {}


@dataclass(frozen=True, slots=True)
class Packed:
    """An encoded value."""

    body: bytes
    buffers: tuple[memoryview, ...] = ()
    """Flat, contiguous, in the order of the pickle."""
    notes: tuple[object, ...] = ()
    """What registered reducers noted, in order."""


def size_of(packed: Packed) -> int:
    """Bytes of body and buffers."""
    return len(packed.body) + sum(buffer.nbytes for buffer in packed.buffers)


def register(cls: type, reduce: Reducer) -> None:
    """Let `reduce(obj, notes)` pickle objects of exactly `cls`; it returns a pickle reduce tuple and may append to `notes`."""
    _reducers[cls] = reduce


def encode(value: object, *, path: str = "value", error: type[NotSerializableError] = NotSerializableError) -> Packed:
    """Encode `value`; `path` is what it is called in an error."""
    if _is_plain(value):
        return Packed(pickle.dumps(value, 5))
    return _encode(value, ((path, value),), error)


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """Encode `(args, kwargs)`; errors name `args[0]...` or `kwargs['name']...`."""
    # 1.4 µs for ((1,), {}) and 1.6 µs for ((1.0, "x"), {"k": None}); the first takes 3.6 µs through the Pickler below. One
    # argument, a small array, takes 7 µs, of 8 MB 11 µs (its bytes are not touched); decoding them 0.3, 1.5 and 2.3 µs.
    value = (args, kwargs)
    if _is_plain(args) and _is_plain(kwargs):
        return Packed(pickle.dumps(value, 5))
    return _encode(value, (("args", args), ("kwargs", kwargs)), ArgumentNotSerializableError)


def decode(body: bytes | memoryview, buffers: Sequence[Buffer] = ()) -> Any:
    """The value; arrays lie over `buffers`, which they keep. Read-only buffers are copied, so that what arrives is writable."""
    try:
        if not buffers:
            return pickle.loads(body)
        return pickle.loads(body, buffers=[bytearray(b) if memoryview(b).readonly else b for b in buffers])
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # a payload must not end its reader
        raise DecodeError(f"the value cannot be unpickled here: {type(error).__name__}: {error}") from error


_ATOMS = frozenset({int, float, str, bytes, bool, type(None)})


def _is_plain(value: Any) -> bool:
    """Nothing in it needs more than pickle itself; only a glance, for the many calls with few and small arguments."""
    kind = type(value)
    if kind is tuple or kind is list:
        return len(value) <= 64 and (_ATOMS.issuperset(map(type, value)) or all(map(_is_flat, value)))
    if kind is dict:
        return len(value) <= 64 and _ATOMS.issuperset(map(type, value)) and (
            _ATOMS.issuperset(map(type, value.values())) or all(map(_is_flat, value.values())))
    return kind in _ATOMS


def _is_flat(value: Any) -> bool:
    """The same without a second level: what is nested deeper goes the long way."""
    kind = type(value)
    if kind is tuple or kind is list:
        return len(value) <= 64 and _ATOMS.issuperset(map(type, value))
    if kind is dict:
        return len(value) <= 64 and _ATOMS.issuperset(map(type, value)) and _ATOMS.issuperset(map(type, value.values()))
    return kind in _ATOMS


def _in_band(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """Decides which buffers stay in the pickle and collects the others. Not a method: that would be a cycle, and keep a pickler,
    and with it all that it pickled, until the garbage collector comes by."""

    def small(buffer: pickle.PickleBuffer) -> bool:
        flat = buffer.raw()
        if flat.nbytes < tensors.IN_BAND:
            return True
        buffers.append(flat)
        return False

    return small


def _is_ours(thing: Any) -> bool:
    """Something of soma's, met with each array and with most calls: goes by name, without cloudpickle's long thought."""
    module = getattr(thing, "__module__", None)
    return type(module) is str and module.startswith("soma.") and getattr(sys.modules.get(module), thing.__qualname__, None) is thing


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]  # untyped
    """cloudpickle, after registered types, arrays and tensors."""

    def __init__(self, spans: tensors.Spans | None = None) -> None:
        self.file = io.BytesIO()
        self.buffers: list[memoryview] = []
        self.notes: list[object] = []
        self.spans = spans or tensors.Spans()
        # Looked up, never imported: a value can only be a tensor if somebody imported torch. (None while it is half imported.)
        self._array = getattr(sys.modules.get("numpy"), "ndarray", None)
        torch = sys.modules.get("torch")
        self._tensors = getattr(torch, "Tensor", None), getattr(getattr(torch, "nn", None), "Parameter", None)
        super().__init__(self.file, protocol=5, buffer_callback=_in_band(self.buffers))

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        reduce = _reducers.get(kind)
        if reduce is not None:
            return reduce(obj, self.notes)
        if kind is self._array:
            return tensors.reduce_array(obj)
        if kind is tensors.Span:
            return obj.reduce()
        if kind in self._tensors:
            return tensors.reduce_tensor(obj, self.spans)
        if kind is FunctionType or issubclass(kind, type):
            if _is_ours(obj):
                return NotImplemented
            by_value_where_needed(getattr(obj, "__module__", None))
            return super().reducer_override(obj)
        return NotImplemented


class _Tracer(_Pickler):
    """Remembers what it met last, so that the part at fault is known."""

    def __init__(self) -> None:
        self.met: deque[Any] = deque(maxlen=200)
        super().__init__()

    def reducer_override(self, obj: Any) -> Any:
        self.met.append(obj)
        return super().reducer_override(obj)


def _encode(value: object, roots: tuple[tuple[str, object], ...], error: type[NotSerializableError]) -> Packed:
    try:
        pickler = _Pickler()
        pickler.dump(value)
        if pickler.spans.conflict:
            pickler = _Pickler(pickler.spans.merged())
            pickler.dump(value)
    except MemoryError:
        raise
    except (Exception, SystemExit) as cause:
        raise _explain(cause, value, roots, error) from cause
    return Packed(pickler.file.getvalue(), tuple(pickler.buffers), tuple(pickler.notes))


def _explain(
    cause: Exception | SystemExit, value: object, roots: tuple[tuple[str, object], ...], error: type[NotSerializableError]
) -> NotSerializableError:
    whole = " and ".join(name for name, _ in roots)
    if isinstance(cause, RecursionError) or isinstance(cause.__cause__, RecursionError):
        return error(whole, "it is nested too deeply (RecursionError)", "flatten it, or send its parts")
    path, culprit = _locate(value, roots) or (whole, None)
    if isinstance(cause, NotSerializableError):
        return error(path, cause.problem, cause.hint)
    text = str(cause)
    problem = text if text.lower().startswith(("cannot pickle", "can't pickle")) else f"{type(cause).__name__}: {text}"
    return error(path, problem, faults.hint_for(culprit))


def _locate(value: object, roots: tuple[tuple[str, object], ...]) -> tuple[str, object] | None:
    """Path and object of the deepest part that fails; None if it fails no longer, or no part can be reached."""
    tracer = _Tracer()
    if not _fails(tracer, value):
        return None
    met = list(tracer.met)
    found = faults.paths(roots, met)
    # What was met last is usually at fault. It may be out of reach, made by somebody's __reduce__: then whoever was met
    # before it, can be reached, and fails on its own.
    candidates = [part for part in reversed(met) if id(part) in found]
    return next(((found[id(part)], part) for part in candidates[:16] if _fails(_Pickler(), part)), None)


def _fails(pickler: _Pickler, value: object) -> bool:
    try:
        pickler.dump(value)
    except MemoryError:
        raise
    except (Exception, SystemExit):  # only the verdict is wanted: the first failure is the cause that is reported
        return True
    return False
