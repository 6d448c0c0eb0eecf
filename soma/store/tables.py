"""pandas' tables and labels by what they hold: values, labels, names, dtypes. Not their blocks, caches and engines.

Works on what pandas says of itself, whatever its version; never imports it.
"""

from __future__ import annotations

import sys
from typing import Any

from soma.store.atoms import framed, text
from soma.store.parts import Parts


def parts(value: Any) -> Parts | None:
    """A DataFrame, a Series, an Index or one of pandas' arrays taken apart; None for all else."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not hasattr(pandas, "Categorical"):  # while it is being imported, nothing is of it
        return None
    if isinstance(value, pandas.DataFrame):
        columns = [(f".iloc[:, {n}]", value.iloc[:, n].array) for n in range(value.shape[1])]
        return _with_labels(value, b"frame", [(".columns", value.columns), (".index", value.index), *columns])
    if isinstance(value, pandas.Series):
        return _with_labels(value, b"series", [(".name", value.name), (".index", value.index), (".array", value.array)])
    if isinstance(value, pandas.Index):
        return _index(value, pandas)
    if isinstance(value, pandas.api.extensions.ExtensionArray):
        return _array(value, pandas)
    return None


def _with_labels(value: Any, tag: bytes, items: list[tuple[str, Any]]) -> Parts:
    unique = b"unique" if not value.flags.allows_duplicate_labels else b""
    return Parts(framed(tag, unique), [(".__class__", type(value)), (".attrs", value.attrs), *items])


def _index(index: Any, pandas: Any) -> Parts:
    items = [(".__class__", type(index)), (".names", list(index.names))]
    if isinstance(index, pandas.RangeIndex):
        return Parts(b"range", [*items, (".range", range(index.start, index.stop, index.step))])
    if isinstance(index, pandas.MultiIndex):
        return Parts(b"levels", [*items, (".levels", list(index.levels)), (".codes", [codes.tolist() for codes in index.codes])])
    return Parts(framed(b"index", text(str(getattr(index, "freq", None)))), [*items, (".array", index.array)])


def _array(array: Any, pandas: Any) -> Parts:
    dtype = text(str(array.dtype))
    if isinstance(array, pandas.Categorical):
        held = [(".categories", array.categories), (".codes", array.codes.tolist())]
        return Parts(framed(b"categories", b"ordered" if array.ordered else b""), held)
    if hasattr(array, "asi8"):  # dates, durations and periods are numbers
        return Parts(framed(b"times", dtype), [(".asi8", array.asi8)])
    numbers = array.to_numpy()
    if isinstance(array, pandas.arrays.NumpyExtensionArray):
        return Parts(framed(b"numpy", dtype), [("", numbers)])
    return Parts(framed(b"values", dtype), [("", numbers.astype(object))])
