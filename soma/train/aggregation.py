"""What makes one state of several: the weighted mean, and rules that bear a few clients that are wrong or malicious.

    fedavg([{"m": 2.0}, {"m": 5.6}], [4, 5])       # {"m": 4.0}

Plain functions of states (see `pytrees`), all in double precision, whatever the dtype of the states; the result has the dtypes, containers
and fixed leaves of the first. Integers are averaged and rounded. They refuse: no states, states that differ in form, NaN and infinity (with
path and owner), weights that cannot be, and more liars than a rule can bear. Nothing is ever copied whole to double precision but the
result: blocks that fit in a core's cache are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from soma.errors import NonFiniteError
from soma.train.pytrees import BLOCK, Layout, Leaf, flat, numbers, wide, window, windows

Row = list[Any]
"""The leaves of one state, in the order of the layout."""

NonFinite = Literal["raise", "skip"]


def fedavg(states: Iterable[Any], weights: Iterable[float], *, names: Sequence[str] | None = None,
           on_nonfinite: NonFinite = "raise") -> Any:
    """The mean of the states, each weighted by its samples (McMahan et al. 2017, arXiv:1602.05629).

    Args:
        states: nested dicts, lists and tuples of arrays, tensors and numbers; all of one form.
        weights: one for each, from 0, not all 0.
        names: whose they are, for messages; by default "state 0", ….
        on_nonfinite: what to do with a state that holds NaN or infinity: "raise" NonFiniteError, or "skip" it.

    Raises:
        ValueError: no states, or weights that cannot be.
        StateMismatchError: states of different forms; says where and whose.
        NonFiniteError: see `on_nonfinite`.
    """
    layout, rows, whose = _gathered(states, names, on_nonfinite)
    given = checked_weights(weights, len(rows))
    mean = Mean(layout)
    mean.add(list(zip(given, rows, strict=True)))
    flats = mean.result()
    if layout.bad(flats) or 0 in given:  # looking at the sum spares looking at each state; but it does not show those that weigh nothing
        kept = _finite(layout, rows, whose, on_nonfinite)
        mean.add([(w, row) for w, row, keep in zip(checked_weights(given, len(rows), kept), rows, kept, strict=True) if keep])
        flats = mean.result()
        if path := layout.bad(flats):
            raise NonFiniteError(f"the sum of {path} is beyond what double precision can hold")
    return layout.made(flats)


def median(states: Iterable[Any], *, names: Sequence[str] | None = None, on_nonfinite: NonFinite = "raise") -> Any:
    """The median of each coordinate (Yin et al. 2018, arXiv:1803.01498). Bears fewer than half of the states being wrong."""
    layout, rows = _kept(states, names, on_nonfinite)
    return layout.made(coordinatewise(layout, rows, lambda block: np.median(block, axis=0)))


def trimmed_mean(states: Iterable[Any], cut: float = 0.1, *, names: Sequence[str] | None = None, on_nonfinite: NonFinite = "raise") -> Any:
    """The mean of each coordinate without its `cut` smallest and `cut` largest values (Yin et al. 2018).

    Args:
        cut: how many at each end: a whole number, or a fraction of the states below 0.5, rounded down.

    Raises:
        ValueError: nothing would be left.
    """
    layout, rows = _kept(states, names, on_nonfinite)
    n = len(rows)
    k = _count_cut(cut, n)
    return layout.made(coordinatewise(layout, rows, lambda block: np.sort(block, axis=0)[k:n - k].mean(axis=0)))


def krum(states: Iterable[Any], f: int | None = None, *, names: Sequence[str] | None = None, on_nonfinite: NonFinite = "raise") -> Any:
    """The one state that is nearest to its n − f − 2 nearest others (Blanchard et al. 2017, arXiv:1703.02757).

    Integers do not count in the distance. Of equally near states the first is taken.

    Args:
        f: how many states may be wrong; by default as many as can be borne. n ≥ 2f + 3.

    Raises:
        ValueError: f is too large for so many states.
    """
    layout, rows = _kept(states, names, on_nonfinite)
    best = int(np.argmin(krum_scores(layout, rows, f)))
    return layout.made([_flat(leaf, v) for leaf, v in zip(layout.leaves, rows[best], strict=True)])


def multi_krum(states: Iterable[Any], f: int | None = None, m: int | None = None, *, names: Sequence[str] | None = None,
               on_nonfinite: NonFinite = "raise") -> Any:
    """The mean of the `m` states that are best by Krum's measure; by default n − f of them."""
    layout, rows = _kept(states, names, on_nonfinite)
    scores = krum_scores(layout, rows, f)
    many = len(rows) - _liars(f, len(rows)) if m is None else m
    if type(many) is not int or not 1 <= many <= len(rows):
        raise ValueError(f"m={m!r}: a whole number from 1 to {len(rows)}, the number of states")
    mean = Mean(layout)
    mean.add([(1.0, rows[i]) for i in sorted(np.argsort(scores, kind="stable")[:many])])
    return layout.made(mean.result())


# -- the mean ------------------------------------------------------------------------------------------------------------------


class Mean:
    """A weighted mean that grows as states come. Adding them one by one or all at once gives the same bits, in the same order.

    A single state with a weight comes out as it went in.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sums: list[Any] = []
        self._only: Row = []
        self._scratch = np.empty(BLOCK)
        self.weight = 0.0

    def add(self, updates: Sequence[tuple[float, Row]]) -> None:
        """Add states that are known to be of the layout's form."""
        counted = [(w, row) for w, row in updates if w > 0]
        if not counted:
            return
        fresh = not self._sums
        if fresh:
            self._sums = [np.zeros(leaf.size, wide(leaf.kind)) if leaf.kind != "fixed" else None for leaf in self._layout.leaves]
        self._only = counted[0][1] if fresh and len(counted) == 1 else []
        for i, leaf in self._layout.averaged:
            self._add_leaf(leaf, self._sums[i], [(w, flat(row[i])) for w, row in counted])
        for w, _ in counted:
            self.weight += w

    def _add_leaf(self, leaf: Leaf, total: Any, parts: Sequence[tuple[float, Any]]) -> None:
        scratch = self._scratch if leaf.kind != "complex" else np.empty(min(BLOCK, leaf.size), np.complex128)
        for a, b in windows(leaf.size):
            block, room = total[a:b], scratch[:b - a]
            for w, data in parts:
                room[:] = window(data, a, b)
                room *= w
                block += room

    def result(self) -> list[Any]:
        """The mean: a flat array in double precision for each leaf, None for fixed ones. Then it begins anew."""
        if not self._sums:
            raise ValueError("the weights add up to 0: there is no mean")
        sums, weight, self._sums, self.weight = self._sums, self.weight, [], 0.0
        if self._only:
            return [_flat(leaf, v) for leaf, v in zip(self._layout.leaves, self._only, strict=True)]
        for i, _ in self._layout.averaged:
            sums[i] /= weight
        return sums


# -- rules that need all states at once ----------------------------------------------------------------------------------------


def coordinatewise(layout: Layout, rows: Sequence[Row], rule: Callable[[Any], Any]) -> list[Any]:
    """Apply a rule from a block (states × elements) to its elements; results as those of `Mean`."""
    made: list[Any] = [None] * len(layout.leaves)
    step = max(512, 4 * BLOCK // len(rows))
    for i, leaf in layout.averaged:
        if leaf.kind == "complex":
            raise TypeError(f"{leaf.path} is complex: complex numbers have no order")
        made[i] = np.empty(leaf.size)
        flats = [flat(row[i]) for row in rows]
        for a, b in windows(leaf.size, step):
            made[i][a:b] = rule(_block(flats, a, b, np.float64))
    return made


def krum_scores(layout: Layout, rows: Sequence[Row], f: int | None) -> Any:
    """For each state the sum of the squared distances to its n − f − 2 nearest others."""
    n = len(rows)
    near = n - _liars(f, n) - 2
    distances = np.zeros((n, n))
    for i, leaf in layout.averaged:
        if leaf.kind == "int":
            continue
        flats = [flat(row[i]) for row in rows]
        for a, b in windows(leaf.size, max(512, 4 * BLOCK // n)):
            block = _block(flats, a, b, wide(leaf.kind))
            for one in range(n - 1):
                apart = block[one + 1:] - block[one]
                distances[one, one + 1:] += np.einsum("ij,ij->i", apart, apart.conj()).real
    distances += distances.T
    return np.array([np.sort(np.delete(distances[one], one))[:near].sum() for one in range(n)])


def _block(flats: Sequence[Any], a: int, b: int, dtype: Any) -> Any:
    block = np.empty((len(flats), b - a), dtype)
    for row, data in zip(block, flats, strict=True):
        row[:] = window(data, a, b)
    return block


def _flat(leaf: Leaf, value: Any) -> Any:
    return None if leaf.kind == "fixed" else numbers(leaf, value)


# -- what is refused -----------------------------------------------------------------------------------------------------------


def checked_weights(weights: Iterable[float], many: int, kept: Sequence[bool] | None = None) -> list[float]:
    given = [float(w) for w in weights]
    if len(given) != many:
        raise ValueError(f"{len(given)} weights for {many} states")
    for i, w in enumerate(given):
        if not math.isfinite(w) or w < 0:
            raise ValueError(f"weights[{i}]={w!r}: a number from 0")
    if not sum(w for w, keep in zip(given, kept or [True] * many, strict=True) if keep) > 0:
        raise ValueError("the weights add up to 0: there is no mean")
    return given


def _count_cut(cut: float, n: int) -> int:
    if isinstance(cut, bool) or not isinstance(cut, (int, float)) or not cut >= 0 or (isinstance(cut, float) and cut >= 0.5):
        raise ValueError(f"cut={cut!r}: a whole number of states, or a fraction of them from 0 to below 0.5")
    k = cut if isinstance(cut, int) else math.floor(cut * n)
    if 2 * k >= n:
        raise ValueError(f"cut={cut!r}: of {n} states nothing would be left without {k} at each end")
    return k


def _liars(f: int | None, n: int) -> int:
    most = (n - 3) // 2
    if most < 0:
        raise ValueError(f"Krum needs 3 states at least, and there are {n}")
    if f is None:
        return most
    if type(f) is not int or f < 0:
        raise ValueError(f"f={f!r}: how many states may be wrong, a whole number from 0")
    if f > most:
        raise ValueError(f"f={f}: Krum bears {most} wrong ones of {n} states at most (n ≥ 2f + 3)")
    return f


def _gathered(states: Iterable[Any], names: Sequence[str] | None, on_nonfinite: NonFinite) -> tuple[Layout, list[Row], list[str]]:
    """The layout, the leaves of all states, and whose they are."""
    if on_nonfinite not in ("raise", "skip"):
        raise ValueError(f"on_nonfinite={on_nonfinite!r}: 'raise' or 'skip'")
    every = list(states)
    if not every:
        raise ValueError("no states: there is nothing to aggregate")
    whose = [f"state {i}" for i in range(len(every))] if names is None else list(names)
    if len(whose) != len(every):
        raise ValueError(f"{len(whose)} names for {len(every)} states")
    layout = Layout(every[0], whose[0])
    return layout, [layout.values(state, name) for state, name in zip(every, whose, strict=True)], whose


def _finite(layout: Layout, rows: Sequence[Row], whose: Sequence[str], on_nonfinite: NonFinite) -> list[bool]:
    """Which states count."""
    bad = [layout.bad(row) for row in rows]
    for name, path in zip(whose, bad, strict=True):
        if path and on_nonfinite == "raise":
            raise NonFiniteError(f"{name}: {path} holds NaN or infinity")
    if all(bad):
        raise NonFiniteError(f"every state holds NaN or infinity, {whose[0]} in {bad[0]}")
    return [not path for path in bad]


def _kept(states: Iterable[Any], names: Sequence[str] | None, on_nonfinite: NonFinite) -> tuple[Layout, list[Row]]:
    layout, rows, whose = _gathered(states, names, on_nonfinite)
    return layout, [row for row, keep in zip(rows, _finite(layout, rows, whose, on_nonfinite), strict=True) if keep]
