"""States as trees: nested dicts, lists and tuples whose leaves are arrays, tensors and numbers.

    layout = Layout({"w": array, "steps": 3}, "client 'a'")
    layout.values(other, "client 'b'")      # its leaves, in this layout's order
    layout.made(flats)                      # a state like the first, from flat float64 arrays

Leaves have a kind. Those of "float" and "complex" numbers are averaged; "int" too, and rounded; all others ("fixed": text, None, bools and
arrays of them, any object) must be equal everywhere. States of one layout have the same keys, shapes and kinds; the first decides dtypes,
containers, and whether a leaf is an array, a tensor or a number. Refuses whatever differs, with its path and whose it is.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from soma.errors import IdentityError, StateMismatchError
from soma.store import digest

Kind = Literal["float", "int", "complex", "fixed"]
BLOCK = 131_072
"""Elements that are worked on together: as float64 they stay in the cache, and Python's part is small."""
EXACT = 2**53
"""Whole numbers up to here are exact in float64."""
_KINDS: dict[str, Kind] = {"f": "float", "i": "int", "u": "int", "c": "complex"}
_NUMBERS: tuple[tuple[type, Kind], ...] = ((int, "int"), (float, "float"), (complex, "complex"))


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of a state. `path` is how one would write it: `state['layers'][0]`."""

    path: str
    value: Any
    kind: Kind
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def flatten(state: Any, path: str = "state") -> list[Leaf]:
    """The leaves of a state, in the order of its containers."""
    return list(_leaves(state, path))


def unflatten(like: Any, values: Sequence[Any]) -> Any:
    """A state with the containers of `like` and other leaves, in the order of `flatten`."""
    rest = iter(values)
    made = _rebuilt(like, rest)
    if (left := sum(1 for _ in rest)) > 0:
        raise ValueError(f"unflatten: {left} values more than there are leaves")
    return made


def _leaves(state: Any, path: str) -> Iterator[Leaf]:
    if _is_container(state):
        for key, value in _items(state):
            yield from _leaves(value, f"{path}[{key!r}]")
    else:
        yield Leaf(path, state, kind_of(state), shape_of(state))


def _is_container(state: Any) -> bool:
    return isinstance(state, (dict, list, tuple))


def _items(container: Any) -> Iterator[tuple[Any, Any]]:
    return iter(container.items() if isinstance(container, dict) else enumerate(container))


def _rebuilt(like: Any, values: Iterator[Any]) -> Any:
    if not _is_container(like):
        try:
            return next(values)
        except StopIteration:
            raise ValueError("unflatten: fewer values than there are leaves") from None
    inner = [_rebuilt(v, values) for _, v in _items(like)]
    if isinstance(like, dict):
        made = copy.copy(like)
        made.update(zip(like, inner, strict=True))
        return made
    if isinstance(like, tuple) and hasattr(like, "_make"):
        return like._make(inner)
    return inner if type(like) is list else type(like)(inner)


# -- leaves --------------------------------------------------------------------------------------------------------------------


def is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def kind_of(value: Any) -> Kind:
    """What may be done with a leaf."""
    if is_tensor(value):
        if value.is_floating_point():
            return "float"
        return "complex" if value.is_complex() else "fixed" if str(value.dtype) == "torch.bool" else "int"
    if isinstance(value, (np.ndarray, np.generic)):
        return _KINDS.get(value.dtype.kind, "fixed")
    if isinstance(value, bool):
        return "fixed"
    return next((kind for type, kind in _NUMBERS if isinstance(value, type)), "fixed")


def shape_of(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if is_tensor(value) or isinstance(value, np.ndarray) else ()


def flat(value: Any) -> Any:
    """A number, array or tensor as something with one axis that `window` can be applied to; over the same memory where that can be."""
    if not is_tensor(value):
        return np.ravel(np.asarray(value))
    plain = value.detach().cpu().reshape(-1)
    try:
        return plain.numpy()
    except TypeError:  # bfloat16 and the like: numpy has none; windows are converted one by one
        return plain


def window(flattened: Any, start: int, stop: int) -> Any:
    """Some elements, as an array."""
    part = flattened[start:stop]
    return part.float().numpy() if is_tensor(part) else part


def windows(size: int, step: int = BLOCK) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, size)) for start in range(0, size, step))


def numbers(leaf: Leaf, value: Any) -> Any:
    """All elements of a leaf, flat, in double precision; a fresh array."""
    data = flat(value)
    out = np.empty(leaf.size, wide(leaf.kind))
    for a, b in windows(leaf.size):
        out[a:b] = window(data, a, b)
    return out


def wide(kind: Kind) -> Any:
    return np.complex128 if kind == "complex" else np.float64


def is_finite(value: Any) -> bool:
    data = flat(value)
    return all(bool(np.isfinite(window(data, a, b)).all()) for a, b in windows(len(data)))


def like(value: Any, flattened: Any) -> Any:
    """`flattened` (double precision, one axis) as a leaf of the type, dtype and shape of `value`."""
    kind = kind_of(value)
    if kind == "int":
        flattened = np.rint(flattened)
    if is_tensor(value):
        return _tensor_like(value, flattened)
    if isinstance(value, np.ndarray):
        out = np.empty_like(value)
        np.copyto(out, flattened.reshape(value.shape), casting="unsafe")
        return out
    if isinstance(value, np.generic):
        return value.dtype.type(flattened[0])
    return (int if kind == "int" else complex if kind == "complex" else float)(flattened[0])


def _tensor_like(value: Any, flattened: Any) -> Any:
    torch = sys.modules["torch"]
    with torch.no_grad():
        made = torch.empty_like(value, requires_grad=False)
        made.copy_(torch.from_numpy(flattened).reshape(tuple(value.shape)))
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(made, requires_grad=value.requires_grad)
    return made.requires_grad_(value.requires_grad)


def shown(value: Any) -> str:
    """`float32[3, 4]`, `'relu'`."""
    if is_tensor(value) or isinstance(value, (np.ndarray, np.generic)):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__ if kind_of(value) != "fixed" else f"{value!r:.60}"


# -- states of one form --------------------------------------------------------------------------------------------------------


class Layout:
    """The form of a state, which others must share.

    Args:
        state: the state.
        whose: whom it is from, for messages: "client 'a'".
    """

    def __init__(self, state: Any, whose: str) -> None:
        self.state, self.whose = state, whose
        self.leaves = flatten(state)
        self._check_whole(whose, [leaf.value for leaf in self.leaves])
        self._fixed: dict[int, str] = {}

    @property
    def averaged(self) -> list[tuple[int, Leaf]]:
        """The leaves that are numbers, with their places."""
        return [(i, leaf) for i, leaf in enumerate(self.leaves) if leaf.kind != "fixed"]

    def values(self, state: Any, whose: str) -> list[Any]:
        """The leaves of another state, in this layout's order.

        Raises:
            StateMismatchError: it has other keys, lengths, shapes or kinds, or a fixed leaf differs; says where and whose.
        """
        found: list[Any] = []
        self._collect(self.state, state, "state", whose, found)
        for i, (leaf, value) in enumerate(zip(self.leaves, found, strict=True)):
            kind, shape = kind_of(value), shape_of(value)
            same = kind == leaf.kind and (shape == leaf.shape if kind != "fixed" else self._equal(i, value, whose))
            if not same:
                self._refuse(whose, f"{leaf.path} is {shown(value)}", shown(leaf.value))
        self._check_whole(whose, found)
        return found

    def bad(self, values: Sequence[Any]) -> str:
        """The path of the first leaf that holds NaN or infinity; "" if there is none."""
        for leaf, value in zip(self.leaves, values, strict=True):
            if leaf.kind in ("float", "complex") and not is_finite(value):
                return leaf.path
        return ""

    def made(self, flats: Sequence[Any]) -> Any:
        """A state of this form from one flat array for each leaf; fixed leaves stay as they are."""
        with np.errstate(over="ignore", invalid="ignore"):
            return unflatten(self.state, [leaf.value if leaf.kind == "fixed" else like(leaf.value, numbers)
                                          for leaf, numbers in zip(self.leaves, flats, strict=True)])

    def _collect(self, first: Any, state: Any, path: str, whose: str, found: list[Any]) -> None:
        if not _is_container(first):
            if _is_container(state):
                self._refuse(whose, f"{path} is a {type(state).__name__}", shown(first))
            found.append(state)
            return
        word = dict if isinstance(first, dict) else (list, tuple)
        if not isinstance(state, word):
            self._refuse(whose, f"{path} is {_named(state)}", f"a {type(first).__name__}")
        if isinstance(first, dict):
            self._check_keys(first, state, path, whose)
        elif len(first) != len(state):
            self._refuse(whose, f"{path} has {len(state)} items", str(len(first)))
        for key, value in _items(first):
            self._collect(value, state[key], f"{path}[{key!r}]", whose, found)

    def _check_keys(self, first: Mapping[Any, Any], state: Mapping[Any, Any], path: str, whose: str) -> None:
        if missing := [k for k in first if k not in state]:
            raise StateMismatchError(f"{whose}: {path}[{missing[0]!r}] is missing; {self.whose} has it")
        if more := [k for k in state if k not in first]:
            raise StateMismatchError(f"{whose}: {path}[{more[0]!r}] is unknown; {self.whose} has no such key")

    def _equal(self, i: int, value: Any, whose: str) -> bool:
        try:
            if i not in self._fixed:
                self._fixed[i] = digest(self.leaves[i].value, self.leaves[i].path)
            return digest(value, self.leaves[i].path) == self._fixed[i]
        except IdentityError as e:
            raise StateMismatchError(f"{whose}: {e}: it can neither be averaged nor compared") from None

    def _check_whole(self, whose: str, values: Sequence[Any]) -> None:
        for leaf, value in zip(self.leaves, values, strict=True):
            if leaf.kind == "int" and leaf.size and _largest(value) > EXACT:
                raise StateMismatchError(f"{whose}: {leaf.path} holds whole numbers beyond 2**53, which an average would not keep exact")

    def _refuse(self, whose: str, found: str, wanted: str) -> None:
        raise StateMismatchError(f"{whose}: {found}, but of {self.whose} it is {wanted}")


def _largest(value: Any) -> int:
    if isinstance(value, int):
        return abs(value)
    data = flat(value)
    return max(abs(int(data.max())), abs(int(data.min())))


def _named(value: Any) -> str:
    return f"a {type(value).__name__}" if _is_container(value) else shown(value)
