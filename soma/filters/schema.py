"""What a value must look like: a dtype and a shape with named dimensions, e.g. `float64[n, 3]`.

A name stands for one size within one filter: `input_schema="float64[n, 3]", output_schema="float64[n]"` says that rows stay rows.
Checked twice: between two filters when a graph is compiled, as far as sizes are known then, and on every value that comes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Dim = int | str
"""A size, or a name for one; "*" is any size, and "..." any number of further dimensions."""

_FAMILIES = ("any", "number", "floating", "integer", "complexfloating")
_NAME = re.compile(r"[A-Za-z_]\w*")
_TEXT = re.compile(r"\s*([A-Za-z_][\w.]*)?\s*(?:\[(.*)\])?\s*", re.S)


@dataclass(frozen=True, slots=True)
class Schema:
    """A dtype and a shape.

    Attributes:
        dtype: numpy's or torch's name ("float64", "bfloat16", "bool"), or a family: "floating", "integer", "complexfloating",
            "number", "any".
        shape: a size or a name for each dimension; None does not say. "*" is any size; "..." (once) any number of dimensions.

    Schemas are also written as text: "float64[n, 3]", "floating[...]", "[batch, *]", "int64".
    """

    dtype: str = "any"
    shape: tuple[Dim, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, str) or not self.dtype:
            raise ValueError(f"dtype={self.dtype!r}: a name such as 'float64', or one of {', '.join(_FAMILIES)}")
        for dim in self.shape or ():
            named = isinstance(dim, str) and (dim in ("*", "...") or _NAME.fullmatch(dim))
            sized = isinstance(dim, int) and not isinstance(dim, bool) and dim >= 0
            if not named and not sized:
                raise ValueError(f"dimension {dim!r}: a size from 0, a name, '*' or '...'")
        if (self.shape or ()).count("...") > 1:
            raise ValueError(f"{self}: '...' may stand once")

    @classmethod
    def of(cls, spec: Any) -> Schema:
        """From text, `{"dtype": …, "shape": …}`, `(dtype, shape)`, or a schema. ValueError or TypeError says what is wrong."""
        if isinstance(spec, Schema):
            return spec
        if isinstance(spec, str):
            return cls._parsed(spec)
        if isinstance(spec, Mapping) and set(spec) <= {"dtype", "shape"}:
            return cls(_dtype_name(spec.get("dtype", "any")), _shape(spec.get("shape")))
        if isinstance(spec, tuple) and len(spec) == 2:
            return cls(_dtype_name(spec[0]), _shape(spec[1]))
        raise TypeError(f"{spec!r} is no schema: write 'float64[n, 3]' or soma.Schema('float64', ('n', 3))")

    @classmethod
    def _parsed(cls, text: str) -> Schema:
        found = _TEXT.fullmatch(text)
        if found is None or not text.strip():
            raise ValueError(f"{text!r} is no schema: 'dtype[dimension, …]', e.g. 'float64[n, 3]'")
        dims = None
        if found[2] is not None:
            dims = tuple(int(d) if d.isdigit() else d for d in map(str.strip, found[2].split(",")) if d or found[2].strip())
        return cls(found[1] or "any", dims)

    def __str__(self) -> str:
        return self.dtype + ("" if self.shape is None else f"[{', '.join(map(str, self.shape))}]")


Schemas = Schema | Mapping[str, Schema]
"""One for the value (or for each of several inputs alike), or one for each input by its node's id."""


def schemas_of(key: str, spec: Any) -> Schemas:
    """What stands behind `input_schema=` or `output_schema=`."""
    try:
        if isinstance(spec, Mapping) and not set(spec) <= {"dtype", "shape"}:
            return {str(name): Schema.of(one) for name, one in spec.items()}
        return Schema.of(spec)
    except (ValueError, TypeError) as e:
        raise type(e)(f"{key}: {e}") from None


def _dtype_name(dtype: Any) -> str:
    if isinstance(dtype, str):
        return dtype
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None)  # np.dtype, np.float64
    return name if isinstance(name, str) else str(dtype).removeprefix("torch.")


def _shape(shape: Any) -> tuple[Dim, ...] | None:
    return None if shape is None else tuple("..." if d is Ellipsis else d for d in shape)


# -- values -----------------------------------------------------------------------------------------------------------------


def problem_with(value: Any, schema: Schema, sizes: dict[str, int]) -> str:
    """What is wrong with a value, in words; "" if nothing is. `sizes` holds what names stand for, and learns new ones."""
    dtype, shape = dtype_of(value), getattr(value, "shape", None)
    if schema.dtype != "any":
        if dtype is None:
            return f"{schema} is wanted, and a {type(value).__name__} has no dtype"
        if not _is_of(dtype, schema.dtype):
            return f"{schema} is wanted, and this is {described(value)}"
    if schema.shape is None:
        return ""
    if shape is None:
        return f"{schema} is wanted, and a {type(value).__name__} has no shape"
    return _match(schema, tuple(shape), sizes, lambda: described(value))


def described(value: Any) -> str:
    """"float32[20, 3]"."""
    shape = getattr(value, "shape", None)
    return (dtype_of(value) or type(value).__name__) + ("" if shape is None else f"[{', '.join(map(str, tuple(shape)))}]")


def _match(schema: Schema, shape: tuple[Any, ...], sizes: dict[str, int], said: Callable[[], str]) -> str:
    wanted = list(schema.shape or ())
    if "..." in wanted:
        at = wanted.index("...")
        wanted[at:at + 1] = ["*"] * max(0, len(shape) - len(wanted) + 1)
    if len(wanted) != len(shape):
        return f"{schema} is wanted, and this is {said()}"
    for dim, size in zip(wanted, shape, strict=True):
        if dim == "*":
            continue
        known = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
        if known != size:
            which = f" ({dim} is {known})" if isinstance(dim, str) else ""
            return f"{schema} is wanted{which}, and this is {said()}"
    return ""


def dtype_of(value: Any) -> str | None:
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return None
    return str(getattr(dtype, "name", None) or str(dtype).removeprefix("torch."))


def _is_of(name: str, wanted: str) -> bool:
    if name == wanted or wanted == "any":
        return True
    if wanted not in _FAMILIES:
        return _canonical(name) == _canonical(wanted)
    if name == "bfloat16":  # torch's, of which numpy knows nothing
        return wanted in ("floating", "number")
    numpy = sys.modules.get("numpy")
    try:
        return bool(numpy is not None and numpy.issubdtype(numpy.dtype(name), getattr(numpy, wanted)))
    except TypeError:
        return False


def _canonical(name: str) -> str:
    """numpy's name where it has one, so that "float" and "float64" are the same."""
    numpy = sys.modules.get("numpy")
    try:
        return str(numpy.dtype(name).name) if numpy is not None else name
    except TypeError:
        return name


# -- two filters ------------------------------------------------------------------------------------------------------------


def cannot_meet(given: Schema, wanted: Schema) -> str:
    """Why no value could fit both, in words; "" if one might. Names are unknown sizes here, so they never contradict."""
    both = f"gives {given}, and {wanted} is wanted"
    if "any" not in (given.dtype, wanted.dtype) and not (
            _is_of(given.dtype, wanted.dtype) or (given.dtype in _FAMILIES and (_is_of(wanted.dtype, given.dtype)
                                                                               or "number" in (given.dtype, wanted.dtype)))):
        return both
    if given.shape is None or wanted.shape is None or "..." in given.shape or "..." in wanted.shape:
        return ""
    if len(given.shape) != len(wanted.shape):
        return both
    unequal = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(given.shape, wanted.shape, strict=True))
    return both if unequal else ""
