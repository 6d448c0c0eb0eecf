"""Arrays of several ranks made into one: pure.

Half precision is summed in float32 and rounded once. numpy has no bfloat16: such arrays come as their bits, uint16, under the name
"bfloat16".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Op = Literal["sum", "mean", "max", "min"]
OPS: tuple[str, ...] = get_args(Op)
BFLOAT16 = "bfloat16"

Array = NDArray[Any]
_BY = {"sum": np.add, "mean": np.add, "max": np.maximum, "min": np.minimum}


def check(op: str, dtype: str) -> None:
    """ValueError for what has no meaning: an unknown operation, a mean of whole numbers, a dtype that cannot be added."""
    if op not in OPS:
        raise ValueError(f"op={op!r}: one of {', '.join(OPS)}")
    kind = "f" if dtype == BFLOAT16 else np.dtype(dtype).kind
    if kind not in "fiuc" or (kind == "c" and op in ("max", "min")):
        raise ValueError(f"op={op!r} of {dtype} has no meaning")
    if op == "mean" and kind in "iu":
        raise ValueError(f"op='mean' of {dtype} is no whole number: reduce a float array, or use op='sum'")


def reduce(out: Array, others: Sequence[Array], op: str, dtype: str) -> None:
    """Combine `others`, in this order, into `out`, element by element."""
    combine = _BY[op]
    half = dtype in (BFLOAT16, "float16")
    total = _widened(out, dtype) if half else out
    for part in others:
        combine(total, _widened(part, dtype) if half else part, out=total)
    if op == "mean":
        np.divide(total, len(others) + 1, out=total)
    if half:
        out[...] = _as_bfloat16(total) if dtype == BFLOAT16 else total


def is_finite(array: Array, dtype: str) -> bool:
    """Whether no element is NaN or infinite."""
    if dtype != BFLOAT16 and array.dtype.kind not in "fc":
        return True
    values = _widened(array, dtype) if dtype == BFLOAT16 else array
    with np.errstate(over="ignore", invalid="ignore"):
        quick = np.isfinite(values.sum())  # finite numbers may sum to infinity, others never to a finite one
    return bool(quick or np.isfinite(values).all())


def _widened(array: Array, dtype: str) -> NDArray[np.float32]:
    """A copy as float32."""
    if dtype == BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _as_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest, ties to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded
