"""Which rows are taken in which step, and by which rank: pure. The same for every rank, whatever their number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def epoch_order(rows: int, epoch: int, seed: int, shuffle: bool) -> NDArray[np.int64]:
    """The rows of an epoch in the order in which they are taken: each once."""
    if not shuffle:
        return np.arange(rows)
    return np.random.default_rng([seed, epoch]).permutation(rows)


def steps_of(rows: int, batch_size: int, drop_last: bool) -> int:
    """How many steps an epoch has."""
    return rows // batch_size if drop_last else -(-rows // batch_size)


def batch_of(order: NDArray[np.int64], step: int, batch_size: int) -> NDArray[np.int64]:
    """The rows of a step of the epoch; the last one may have fewer."""
    return order[step * batch_size:(step + 1) * batch_size]


def share_of(batch: NDArray[np.int64], rank: int, size: int) -> NDArray[np.int64]:
    """The rows that a rank takes of a batch: a part in sequence, as long as everybody's up to one row. May be empty."""
    length, more = divmod(len(batch), size)
    start = rank * length + min(rank, more)
    return batch[start:start + length + (rank < more)]


def seed_of(seed: int, step: int, rank: int, part: int = 0) -> int:
    """For what a model draws in a step (dropout): depends on nothing that came before, so that a run can go on from any step."""
    return int(np.random.SeedSequence([seed, step, rank, part]).generate_state(1, np.uint64)[0] >> 1)
