"""Data-parallel training with ranks that are processes: the same weights as one process, whatever it is fed with and whoever dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import ActorDiedError, NonFiniteError
from soma.events import Event, GroupRestarted, StepCompleted
from soma.runs import load_run
from soma.train import DataParallel, EarlyStop, Trained

torch = pytest.importorskip("torch")

X = np.random.default_rng(0).normal(size=(61, 4))
Y = (X @ np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0], [-1.0, 0.0]]) > 0).astype("float64")


@pytest.fixture(autouse=True)
def running(shared_cluster: Any) -> Iterator[None]:
    yield


def net() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 2)).double()


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.2, momentum=0.9)


def flat(trained: Trained) -> Any:
    return torch.cat([p.detach().flatten() for p in trained.model.parameters()])


class Slow(torch.nn.Module):  # type: ignore[misc,name-defined]
    """So that a training is not over before somebody has been killed."""

    def forward(self, x: Any) -> Any:
        time.sleep(0.02)  # workload: what a step takes
        return x


def fitted(n: int, *, model: Any = None, data: tuple[Any, ...] = (X, Y), **how: Any) -> Trained:
    made = {k: how.pop(k) for k in ("backend", "max_restarts", "min_ranks", "scheduler", "bucket_bytes") if k in how}
    return DataParallel(net() if model is None else model, n, optimizer=sgd, **made).fit(
        *data, **{"epochs": 3, "batch_size": 16, "record": False, **how})


def slowly(module: Any) -> Any:
    return torch.nn.Sequential(*module, Slow())


def without_dropout() -> Any:
    module = net()
    module[2] = torch.nn.Identity()
    return module


def alone(epochs: int = 3, batch: int = 16, seed: int = 0) -> Any:
    """The plain loop, in this process."""
    module = without_dropout()
    optimizer = sgd(module.parameters())
    for epoch in range(epochs):
        taken = np.random.default_rng([seed, epoch]).permutation(len(X))
        for start in range(0, len(X), batch):
            which = taken[start:start + batch]
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(module(torch.from_numpy(X[which])), torch.from_numpy(Y[which])).backward()
            optimizer.step()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("n, how", [(1, {}), (2, {"bucket_bytes": 100}), (4, {}), (2, {"backend": "gloo"}),
                                    (2, {"backend": "parameter_server"})],
                         ids=["one", "two", "four", "gloo", "parameter server"])
def test_ranks_are_one_process(n: int, how: dict[str, Any]) -> None:
    trained = fitted(n, model=without_dropout(), **how)
    torch.testing.assert_close(flat(trained), alone(), atol=1e-6, rtol=1e-6)
    assert trained.steps == 12 and [h["epoch"] for h in trained.history] == [0, 1, 2] and trained.generations == 1
    assert trained.history[2]["loss"] < trained.history[0]["loss"]


def test_a_server_with_staleness_learns_too() -> None:
    trainer = DataParallel(without_dropout(), 2, backend="parameter_server", staleness=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    trained = trainer.fit(X, Y, epochs=20, batch_size=16, record=False)
    assert trained.history[-1]["loss"] < 0.7 * trained.history[0]["loss"] and trained.steps == 80


class Rows(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        return X[i], Y[i]


def test_whatever_holds_the_rows() -> None:
    expected = flat(fitted(2))
    loader = torch.utils.data.DataLoader(Rows(), batch_size=16, shuffle=True)
    for data in ((torch.from_numpy(X), torch.from_numpy(Y)), (soma.put(X), soma.put(Y)), (Rows(),)):
        assert torch.equal(flat(fitted(2, data=data)), expected)
    assert torch.equal(flat(fitted(2, data=(loader,), batch_size=None)), expected), "a loader brings batch_size and shuffle"


def test_a_graph_is_trained_and_keeps_its_weights() -> None:
    first, second = torch.nn.Linear(4, 8).double(), torch.nn.Linear(8, 2).double()
    g = soma.Graph(soma.filter(first, optimizer=sgd) >> soma.filter(second, optimizer=sgd))
    trained = DataParallel(g, 2).fit(X, Y, epochs=3, batch_size=16, record=False)
    assert trained.model is g
    module = torch.nn.Sequential(first, second)
    expected = fitted(1, model=module)
    np.testing.assert_allclose(g.forward(X), expected.model(torch.from_numpy(X)).detach().numpy(), atol=1e-9)
    g.close()
    with pytest.raises(ValueError, match="every node must be a torch module or differentiable=True"):
        DataParallel(soma.Graph(soma.filter(abs) >> soma.filter(second)), 2)


def test_figures_early_stop_and_callbacks() -> None:
    seen: list[dict[str, float]] = []
    right = {"accuracy": lambda output, target: ((output > 0.5) == (target > 0.5)).double().mean()}
    trained = fitted(2, epochs=50, validation=(X[:20], Y[:20]), metrics=right, callbacks=[seen.append],
                     early_stop=EarlyStop("val_loss", patience=1, min_delta=0.02))
    assert len(trained.history) < 50 and seen == trained.history
    last = trained.history[-1]
    output = trained.model(torch.from_numpy(X[:20]))
    assert last["val_accuracy"] == pytest.approx(float(right["accuracy"](output, torch.from_numpy(Y[:20]))))
    assert last["val_loss"] == pytest.approx(float(torch.nn.functional.mse_loss(output, torch.from_numpy(Y[:20])).detach()))
    assert len(fitted(2, epochs=9, callbacks=[lambda figures: figures["epoch"] == 3]).history) == 4


def test_a_scheduler_steps_each_epoch() -> None:
    slow = fitted(2, epochs=4, scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: float(epoch == 0)))
    assert torch.equal(flat(slow), flat(fitted(2, epochs=1))), "after the first epoch the rate is 0"


def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole = fitted(2, epochs=4)
    fitted(2, epochs=2, checkpoint=tmp_path / "c")
    again = fitted(2, epochs=4, checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(flat(again), flat(whole)) and again.steps == whole.steps
    assert [h["loss"] for h in again.history] == [h["loss"] for h in whole.history]
    assert fitted(2, epochs=4, checkpoint=tmp_path / "c", resume=True).steps == 16, "nothing is left to do"
    assert torch.equal(flat(fitted(1, epochs=4, checkpoint=tmp_path / "c", resume=True)), flat(whole)), "also with fewer ranks"
    with pytest.raises(ValueError, match="is of another fit: batch_size=16 there and 8 here, seed=0 there and 1 here"):
        fitted(2, batch_size=8, seed=1, checkpoint=tmp_path / "c", resume=True)
    soma.store.checkpoint.write_states({"a": 1}, tmp_path / "other")
    with pytest.raises(ValueError, match="is no checkpoint of DataParallel"):
        fitted(2, checkpoint=tmp_path / "other", resume=True)


def test_the_run_is_recorded() -> None:
    trained = fitted(2, record=True, validation=(X, Y))
    events = list(load_run(trained.run_id).events())
    kinds = [type(e).__name__ for e in events]
    assert kinds.count("StepCompleted") == 12 and kinds.count("EpochCompleted") == 3
    assert kinds[0] == "RunStarted" and kinds[-1] == "RunCompleted"
    assert [e.step for e in events if isinstance(e, StepCompleted)] == list(range(12))
    assert [m["name"] for m in trained.run.metrics()] == ["val_loss"] * 3


# -- faults --------------------------------------------------------------------------------------------------------------------


class Killer:
    """Hears a training's events; after a step of a given number, kills a process of the given class."""

    def __init__(self, step: int, victim: str = "Rank", which: int = 0) -> None:
        self.step, self.victim, self.which = step, victim, which
        self.events: list[Event] = []
        self.killed = 0

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StepCompleted) and event.step == self.step and not self.killed:
            pids = sorted(a["pid"] for a in soma.status()["actors"] if a["class_name"] == self.victim and a["pid"])
            self.killed = pids[self.which]
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.crash
@pytest.mark.parametrize("step, victim, which", [(1, "Rank", 1), (5, "Rank", 0), (6, "Rank", 1), (8, "Rank", 0), (6, "AllReduce", 0)])
@pytest.mark.parametrize("every", [None, 2])
def test_a_killed_rank_changes_nothing_in_the_end(step: int, victim: str, which: int, every: int | None) -> None:
    killer = Killer(step, victim, which)
    undisturbed = fitted(2, checkpoint_every=every)
    trained = fitted(2, model=slowly(net()), checkpoint_every=every, listeners=[killer])
    assert killer.killed and trained.generations == 2
    assert torch.equal(flat(trained), flat(undisturbed))
    assert [h["loss"] for h in trained.history] == [h["loss"] for h in undisturbed.history]
    (restarted,) = [e for e in killer.events if isinstance(e, GroupRestarted)]
    assert restarted.ranks == 2 and restarted.generation == 1 and len(restarted.lost) == (victim == "Rank")
    assert restarted.step % 4 in (0, every or 0), "at a checkpoint"


@pytest.mark.crash
def test_a_killed_server_changes_nothing_in_the_end() -> None:
    killer = Killer(6, "ParameterServer")
    trained = fitted(2, model=slowly(net()), backend="parameter_server", listeners=[killer])
    assert killer.killed and trained.generations == 2 and torch.equal(flat(trained), flat(fitted(2, backend="parameter_server")))


@pytest.mark.crash
def test_fewer_ranks_go_on_where_that_is_allowed() -> None:
    killer = Killer(5)
    trained = fitted(3, model=slowly(without_dropout()), max_restarts=0, min_ranks=2, listeners=[killer])
    assert killer.killed
    torch.testing.assert_close(flat(trained), alone(), atol=1e-6, rtol=1e-6)
    assert [e.ranks for e in killer.events if isinstance(e, GroupRestarted)] == [2]


@pytest.mark.crash
def test_too_few_ranks_are_an_error() -> None:
    with pytest.raises(ActorDiedError, match="SIGKILL") as caught:
        fitted(2, model=slowly(net()), max_restarts=0, listeners=[Killer(5)])
    assert "1 of 2 ranks are left, with max_restarts=0 and min_ranks=2" in "\n".join(caught.value.__notes__)


def test_nan_names_parameter_and_rank() -> None:
    bad = X.copy()
    bad[60] = np.inf
    with pytest.raises(NonFiniteError, match=r"step 3: the gradient of model\.0\.weight.* at rank 1 is NaN or infinite"):
        fitted(2, data=(bad, Y), shuffle=False)
    assert fitted(2, data=(bad, Y), shuffle=False, on_nonfinite="skip", epochs=2).skipped == 2


class Picky(torch.nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(4, 2, dtype=torch.float64))

    def forward(self, x: Any) -> Any:
        if (x > 100).any():
            raise LookupError("too large")
        return x @ self.w


def test_an_error_of_the_model_is_itself() -> None:
    bad = X.copy()
    bad[15] = 1000
    with pytest.raises(LookupError, match="too large") as caught:
        fitted(2, model=Picky(), data=(bad, Y), shuffle=False)
    assert any("at rank 1 of 2" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("make, error, said", [
    (lambda: DataParallel(net(), 0), ValueError, "n=0"),
    (lambda: DataParallel(net(), 2, min_ranks=3), ValueError, "min_ranks=3"),
    (lambda: DataParallel(net(), 2, backend="mpi"), ValueError, "backend='mpi'"),
    (lambda: DataParallel(torch.nn.Linear, 2), TypeError, "trains a torch module"),
    (lambda: DataParallel(soma.Graph(soma.filter(net())), 2, optimizer=sgd), ValueError, "belong to its filters"),
    (lambda: fitted(2, data=(X[:8], Y[:4])), ValueError, "8 rows and.*4"),
    (lambda: fitted(4, data=(X[:3], Y[:3])), ValueError, "3 rows cannot be shared among 4 ranks"),
    (lambda: fitted(2, data=(X[:0], Y[:0])), ValueError, "no rows"),
    (lambda: fitted(2, data=(3, None)), TypeError, "int has no rows"),
    (lambda: fitted(2, data=(Rows(), Y)), ValueError, "a Dataset brings its targets"),
    (lambda: fitted(2, batch_size=0), ValueError, "batch_size=0"),
    (lambda: fitted(2, resume=True), ValueError, "resume=True goes with checkpoint"),
    (lambda: fitted(2, validation=(X[:8], Y[:4])), ValueError, "validation got.*8 rows"),
    (lambda: fitted(2, early_stop=EarlyStop("val_loss")), ValueError, "early_stop watches 'val_loss'"),
])
def test_wrong_calls_are_named(make: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make()
