"""Which rows go where: every row once, whatever the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.train import order
from soma.train.buckets import cut
from soma.train.settings import EarlyStop, Settings


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 6), st.integers(0, 5), st.integers(0, 2**40), st.booleans())
def test_every_row_is_taken_once_in_an_epoch(rows: int, batch: int, size: int, epoch: int, seed: int, shuffle: bool) -> None:
    taken = order.epoch_order(rows, epoch, seed, shuffle)
    shares = [order.share_of(order.batch_of(taken, step, batch), rank, size)
              for step in range(order.steps_of(rows, batch, drop_last=False)) for rank in range(size)]
    assert np.concatenate(shares).tolist() == taken.tolist() and sorted(taken) == list(range(rows))
    lengths = [len(s) for s in shares[:size]]
    assert max(lengths) - min(lengths) <= 1
    assert order.steps_of(rows, batch, drop_last=True) == rows // batch


def test_orders_and_seeds_are_fixed_by_their_seed() -> None:
    assert (order.epoch_order(50, 3, 7, True) == order.epoch_order(50, 3, 7, True)).all()
    assert (order.epoch_order(50, 3, 7, True) != order.epoch_order(50, 4, 7, True)).any()
    seeds = {order.seed_of(0, step, rank, part) for step in range(30) for rank in range(4) for part in range(3)}
    assert len(seeds) == 360 and all(0 <= s < 2**63 for s in seeds)


@given(st.lists(st.tuples(st.integers(0, 100), st.sampled_from([("f4", 4), ("f8", 8)])), min_size=1, max_size=30), st.integers(1, 400))
def test_buckets_hold_everything_once(sizes: list[tuple[int, tuple[str, int]]], most: int) -> None:
    items = [(f"p{n}", count, *kind) for n, (count, kind) in enumerate(sizes)]
    cuts = cut(items, most)
    seen = {name: (c.dtype, stop - start) for c in cuts for name, start, stop in c.items}
    assert seen == {name: (dtype, count) for name, count, dtype, _ in items} and sum(len(c.items) for c in cuts) == len(items)
    for c in cuts:
        assert [start for _, start, _ in c.items] == [0, *(stop for _, _, stop in c.items)][:-1], "without gaps"
        assert len(c.items) == 1 or c.size * {"f4": 4, "f8": 8}[c.dtype] <= most


@pytest.mark.parametrize("options, said", [
    ({"epochs": 0}, "epochs=0"), ({"batch_size": 2.5}, "batch_size=2.5"), ({"accumulate": 0}, "accumulate=0"), ({"seed": -1}, "seed=-1"),
    ({"clip_norm": 0.0}, "clip_norm=0.0"), ({"on_nonfinite": "ignore"}, "one of 'raise', 'skip'"), ({"backend": "mpi"}, "'nccl'"),
    ({"scheduler_step": "row"}, "one of 'epoch', 'step'"), ({"metrics": {"a": 3}}, r"metrics\['a'\]=3"), ({"optimizer": 3}, "optimizer=3"),
    ({"checkpoint_every": 0}, "checkpoint_every=0"), ({"bucket_bytes": 0}, "bucket_bytes=0"), ({"staleness": -1}, "staleness=-1")])
def test_wrong_settings_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(**options)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.integers(1, 5), st.sampled_from([0.0, 0.5]), st.sampled_from(["min", "max"]))
def test_early_stop(values: list[float], patience: int, delta: float, mode: str) -> None:
    stop = EarlyStop("f", patience, delta, mode)  # type: ignore[arg-type]
    sign = 1 if mode == "min" else -1
    best_at, best = 0, sign * values[0]
    for n, v in enumerate(values):
        if sign * v < best - delta:
            best, best_at = sign * v, n
    assert stop.is_over([{"f": v} for v in values]) == (len(values) - 1 - best_at >= patience)


def test_early_stop_watches_what_is_there() -> None:
    with pytest.raises(ValueError, match="early_stop watches 'val_loss', and an epoch has epoch, loss"):
        EarlyStop().is_over([{"epoch": 0, "loss": 1.0}])
    with pytest.raises(ValueError, match="patience=0"):
        EarlyStop(patience=0)
    with pytest.raises(ValueError, match="mode='best'"):
        EarlyStop(mode="best")  # type: ignore[arg-type]
