"""Which rows a model learns from, and which it is judged by. Pure: what is random follows from a seed.

Rows are dealt out along their targets in order: so every part has its share of each class, and of small and large numbers. Each row is
judged at most once; no row is learnt from and judged by the same model.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

from soma.errors import StudyError
from soma.filters.rows import rows_of

Indices = Any
Split = tuple[Indices, Indices]
"""Rows to learn from, rows to be judged by; ascending."""

SHARE = 0.25
"""Of the rows, for judging, where nobody says."""


def split(X: Any, y: Any, share: Any, seed: int) -> Split:
    """One split: a share of the rows is for judging."""
    if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < float(share) < 1:
        raise StudyError(f"validation={share!r:.80}: (X, y), or a share of the rows between 0 and 1")
    order = _dealt(X, y, seed, f"validation={share!r}")
    at = np.floor(np.arange(len(order) + 1) * float(share) + 0.5)
    judged = at[1:] > at[:-1]
    if judged.all() or not judged.any():
        raise StudyError(f"validation={share!r}: of {len(order)} rows, {int(judged.sum())} would be for judging")
    return np.sort(order[~judged]), np.sort(order[judged])


def splits(X: Any, y: Any, cv: Any, seed: int) -> list[Split]:
    """Several splits: by the number of folds, by a splitter (`cv.split(X, y)`), or those that are given."""
    if hasattr(cv, "split") and not isinstance(cv, (str, bytes)):
        return list(cv.split(X, y))
    if isinstance(cv, numbers.Integral) and not isinstance(cv, bool):
        order = _dealt(X, y, seed, f"cv={cv}")
        if not 2 <= int(cv) <= len(order):
            raise StudyError(f"cv={cv}: from 2 folds to as many as there are rows ({len(order)})")
        fold = np.arange(len(order)) % int(cv)
        return [(np.sort(order[fold != k]), np.sort(order[fold == k])) for k in range(int(cv))]
    found = list(cv) if isinstance(cv, Iterable) and not isinstance(cv, (str, bytes)) else []
    if not found or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in found):
        raise StudyError(f"cv={cv!r:.80}: a number of folds, a splitter with split(X, y), or pairs of index arrays (train, test)")
    return found


def _dealt(X: Any, y: Any, seed: int, asked: str) -> Any:
    """The rows, shuffled, then in the order of their targets where those are single values."""
    rows = rows_of(X)
    if rows is None:
        raise StudyError(f"{asked}: X (a {type(X).__name__}) has no rows to choose from; give validation=(X, y)")
    order = np.random.default_rng(seed).permutation(rows)
    targets = np.asarray(y) if y is not None and rows_of(y) == rows else np.empty(0)
    if targets.shape == (rows,):
        if targets.dtype == object:
            targets = targets.astype(str)
        order = order[np.argsort(targets[order], kind="stable")]
    return order
