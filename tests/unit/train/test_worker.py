"""n ranks on a batch make the step that one process makes on it: against a plain training loop, in float64.

Ranks are threads here, each with a group, buckets and a model of its own; tests/process/test_data_parallel.py has real ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import soma
from soma.actors.collective import AllReduce, Group
from soma.errors import GroupBrokenError, NonFiniteError
from soma.filters.composite import Composite, Member
from soma.train import order
from soma.train.rowsource import Arrays
from soma.train.settings import Settings
from soma.train.worker import Position, Worker

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def meeting() -> Iterator[AllReduce]:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        made = AllReduce(Path(directory))
        yield made
        made.close()


GENERATION = iter(range(1, 10**6))


def net(seed: int = 0, *, norm: bool = False) -> Any:
    torch.manual_seed(seed)
    between = torch.nn.BatchNorm1d(7) if norm else torch.nn.Identity()
    return torch.nn.Sequential(torch.nn.Linear(4, 7), between, torch.nn.Tanh(), torch.nn.Linear(7, 2, bias=False)).double()


def data(rows: int, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, 4)), random.normal(size=(rows, 2))


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def ranks(meeting: AllReduce, size: int, module: Any, how: Settings, source: Any, *, epochs: int = 1,
          checkpoint: Path | None = None) -> list[Any]:
    """(states, told steps, epochs' reports) of each rank, or its error."""
    generation = next(GENERATION)

    def rank(number: int) -> Any:
        told: list[dict[str, Any]] = []
        try:
            with Group.join(meeting.address(), number, size, generation) as group:
                filter = soma.filter(module, optimizer=how.optimizer or sgd)
                composite = Composite([Member("model", filter, ())])
                worker = Worker(composite, how, group, source)
                worker.begin(checkpoint)
                reports = [worker.epoch(lambda **step: told.append(step)) for _ in range(epochs)]
                worker.close()
                return composite.states()["model"], told, reports
        except Exception as e:
            return e

    with ThreadPoolExecutor(size) as pool:
        return [f.result(30) for f in [pool.submit(rank, n) for n in range(size)]]


def alone(module: Any, how: Settings, X: Any, y: Any, epochs: int) -> tuple[dict[str, Any], list[float]]:
    """The plain loop: one process, whole batches."""
    import copy

    module, losses = copy.deepcopy(module), []
    optimizer = (how.optimizer or sgd)(module.parameters())
    for epoch in range(epochs):
        taken = order.epoch_order(len(X), epoch, how.seed, how.shuffle)
        for start in range(0, len(X), how.batch_size):
            which = taken[start:start + how.batch_size]
            if how.drop_last and len(which) < how.batch_size:
                continue
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(module(torch.from_numpy(X[which])), torch.from_numpy(y[which]))
            loss.backward()
            if how.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), how.clip_norm)
            optimizer.step()
            losses.append(float(loss.detach()))
    return module.state_dict(), losses


def test_any_ranks_any_shares_any_buckets_are_one_process(meeting: AllReduce) -> None:
    @settings(max_examples=60)
    @given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 25), st.sampled_from([1, 8, 100, 10_000]), st.integers(1, 4),
           st.sampled_from([None, 0.3]), st.booleans(), st.booleans(), st.integers(0, 100))
    def check(size: int, rows: int, batch: int, bucket: int, parts: int, clip: float | None, shuffle: bool, drop: bool, seed: int) -> None:
        X, y = data(rows, seed)
        how = Settings(batch_size=batch, bucket_bytes=bucket, accumulate=parts, clip_norm=clip, shuffle=shuffle, seed=seed, drop_last=drop)
        module = net(seed)
        expected, losses = alone(module, how, X, y, epochs=2)
        got = ranks(meeting, size, module, how, Arrays(X, y), epochs=2)
        for state, told, _ in got:
            for name, tensor in expected.items():
                torch.testing.assert_close(state[name], tensor, atol=1e-6, rtol=1e-6)
                assert torch.equal(state[name], got[0][0][name]), "every rank has the same bits"
            np.testing.assert_allclose([t["loss"] for t in told], losses, atol=1e-9)

    check()


def test_the_order_of_parameters_does_not_matter(meeting: AllReduce) -> None:
    class Backwards(torch.nn.Module):  # type: ignore[name-defined,misc]
        """Its parameters are made in another order than they are used, and one is not used at all."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.last, self.unused = torch.nn.Linear(5, 2).double(), torch.nn.Linear(3, 3).double()
            self.first = torch.nn.Linear(4, 5).double()

        def forward(self, x: Any) -> Any:
            return self.last(self.first(x).tanh())

    X, y = data(23)
    how = Settings(batch_size=8, bucket_bytes=1)
    expected, _ = alone(Backwards(), how, X, y, epochs=2)
    for state, _, _ in ranks(meeting, 3, Backwards(), how, Arrays(X, y), epochs=2):
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor, atol=1e-9, rtol=1e-9)


def test_a_checkpoint_goes_on_at_its_very_step(meeting: AllReduce, tmp_path: Path) -> None:
    """Adam, batch norm, a scheduler: a run that goes on from step 5 ends where one ends that was never stopped."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2)).double()
    how = Settings(batch_size=8, checkpoint=str(tmp_path / "c"), checkpoint_every=5, optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
                   scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5), scheduler_step="step")
    X, y = data(52)  # seven steps an epoch
    whole = ranks(meeting, 2, module, how, Arrays(X, y))
    again = ranks(meeting, 2, module, how, Arrays(X, y), checkpoint=tmp_path / "c")
    for (state, told, (report,)), (second, told_again, (report_again,)) in zip(whole, again, strict=True):
        assert [t["step"] for t in told_again] == [5, 6] and told[5:] == told_again
        assert report == report_again and report.position == Position(1, 0, 7)
        for name, tensor in state.items():
            assert torch.equal(second[name], tensor), name


def test_buffers_become_the_same_everywhere(meeting: AllReduce) -> None:
    X, y = data(40)
    got = ranks(meeting, 2, net(norm=True), Settings(batch_size=10), Arrays(X, y))
    assert all(torch.equal(got[0][0][name], got[1][0][name]) for name in got[0][0])
    assert got[0][0]["1.num_batches_tracked"] == 4 and got[0][0]["1.running_mean"].abs().sum() > 0


def test_nan_is_reported_with_parameter_and_rank(meeting: AllReduce) -> None:
    X, y = data(12)
    X[11] = np.nan  # of the last batch of four the last row: that of rank 1
    how = Settings(batch_size=4, shuffle=False)
    for error in ranks(meeting, 2, net(), how, Arrays(X, y)):
        assert isinstance(error, NonFiniteError)
        assert "step 2: the gradient of model.0.weight, model.0.bias, model.3.weight at rank 1 is NaN or infinite" in str(error)


def test_nan_can_be_skipped(meeting: AllReduce) -> None:
    X, y = data(12)
    X[5] = np.nan
    how = Settings(batch_size=4, shuffle=False, on_nonfinite="skip")
    keep = np.r_[0:4, 8:12]
    expected, _ = alone(net(), Settings(batch_size=4, shuffle=False), X[keep], y[keep], epochs=1)
    for state, told, (report,) in ranks(meeting, 2, net(), how, Arrays(X, y)):
        assert report.skipped == 1 and report.rows == 8 and np.isnan(told[1]["loss"])
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor, atol=1e-9, rtol=1e-9)


def test_an_error_in_one_loss_ends_all(meeting: AllReduce) -> None:
    class Picky(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(4, 2, dtype=torch.float64))

        def forward(self, x: Any) -> Any:
            if (x > 100).any():
                raise LookupError("too large")
            return x @ self.w

    X, y = data(16)
    X[15] = 1000
    first, second = ranks(meeting, 2, Picky(), Settings(batch_size=8, shuffle=False), Arrays(X, y))
    assert isinstance(second, LookupError) and isinstance(first, GroupBrokenError) and "too large" in str(first)
