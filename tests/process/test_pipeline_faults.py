"""Pipelines on real processes: the same weights as one process, and what happens when a stage raises, dies, or is interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import ActorDiedError, NonFiniteError, NotFittedError, PlacementError, StateMismatchError
from soma.events import EpochCompleted, EpochStarted, Event, RunCompleted, RunFailed, StepCompleted
from soma.train.pipelining import Pipeline

pytestmark = [pytest.mark.crash, pytest.mark.torch]
torch = pytest.importorskip("torch")
nn = torch.nn

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(22, 3)), rng.normal(size=(22, 2))
AT_ONCE = 0.5
"""Seconds in which a death is told: the promise is 0.1."""


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.2, momentum=0.9)


def layers(count: int = 2) -> list[Any]:
    torch.manual_seed(7)
    widths = [3, *[5] * (count - 1), 2]
    return [nn.Sequential(nn.Linear(a, b), nn.Tanh()).double() for a, b in zip(widths, widths[1:], strict=False)]


def losses(result: Any) -> list[float]:
    return [epoch["loss"] for epoch in result.history]


def trained_alone(parts: list[Any], epochs: int, size: int, seed: int) -> tuple[dict[str, Any], list[float]]:
    """Plain torch, on the same batches."""
    net, history = nn.Sequential(*parts), []
    optimizer, x, y = sgd(net.parameters()), torch.from_numpy(X), torch.from_numpy(Y)
    for epoch in range(epochs):
        rows, total = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(x))), 0.0
        for batch in rows.split(size):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        history.append(total / len(x))
    return net.state_dict(), history


def same(states: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = {f"{id}.{name}": t for id, state in states.items() for name, t in state.items()}
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-10)


@pytest.fixture
def heard(shared_cluster: Any) -> Iterator[list[Event]]:
    events: list[Event] = []
    stop = soma.on_event(events.append)
    yield events
    stop()


@pytest.mark.parametrize(("stages", "schedule", "micros"), [(1, "1f1b", 2), (2, "gpipe", 3), (3, "1f1b", 5)])
def test_weights_are_those_of_one_process(shared_cluster: Any, stages: int, schedule: str, micros: int) -> None:
    parts = layers(stages)
    with Pipeline(parts, micro_batches=micros, schedule=schedule, optimizer=sgd) as p:
        result = p.fit(soma.put(X), torch.from_numpy(Y), epochs=2, batch_size=9, seed=3, record=False)
        assert result.in_flight == tuple(micros if schedule == "gpipe" else min(stages - s, micros) for s in range(stages))
        output = p.predict(X)
        tensor = p.forward(torch.from_numpy(X))
        modules = p.modules()
    states, history = trained_alone(parts, 2, 9, 3)
    same(result.states, states)
    assert losses(result) == pytest.approx(history, abs=1e-10)
    assert type(output) is np.ndarray and torch.equal(torch.from_numpy(output), tensor)
    torch.testing.assert_close(tensor, nn.Sequential(*parts)(torch.from_numpy(X)).detach(), rtol=0, atol=1e-10)
    same({str(i): m.state_dict() for i, m in enumerate(modules)}, states)


def test_a_graph_and_its_states(shared_cluster: Any) -> None:
    """Class filters get fresh weights from the seed; what is learnt goes back to the graph."""
    graph = soma.Graph(soma.filter(nn.Linear)(3, 4, dtype=torch.float64) >> soma.filter(nn.Tanh()) >> soma.filter(nn.LazyLinear)(
        2, dtype=torch.float64))
    with graph, Pipeline(graph, [["linear", "tanh"], ["lazy_linear"]], optimizer=sgd) as p:
        with pytest.raises(NotFittedError, match="'linear'"):
            p.state()
        with pytest.raises(NotFittedError, match="'linear'"):
            p.predict(X)
        first = p.fit(X, Y, epochs=2, seed=1, record=False)
        with Pipeline(graph, [["linear"], ["tanh", "lazy_linear"]], optimizer=sgd) as other:
            other.fit(X, Y, seed=1, record=False)
            other.load_state(p.state())
            np.testing.assert_array_equal(other.predict(X), p.predict(X))
        graph.load_state(p.state())
        np.testing.assert_allclose(graph.predict(X), p.predict(X), atol=1e-12)
        more = p.fit(X, Y, epochs=1, record=False)
    assert losses(more)[0] < losses(first)[1] < losses(first)[0], "a further fit goes on"


def test_events_come_once_a_step(heard: list[Event]) -> None:
    with Pipeline(layers(), micro_batches=2, optimizer=sgd) as p:
        result = p.fit(X, Y, epochs=2, batch_size=9, record=True)
    mine = [e for e in heard if e.run_id == result.run_id]
    kinds = [type(e) for e in mine if isinstance(e, (EpochStarted, StepCompleted, EpochCompleted, RunCompleted))]
    assert kinds == [*[EpochStarted, *[StepCompleted] * 3, EpochCompleted] * 2, RunCompleted]
    steps = [e for e in mine if isinstance(e, StepCompleted)]
    assert [(e.step, e.rows) for e in steps] == [(0, 9), (1, 9), (2, 4), (3, 9), (4, 9), (5, 4)]
    ended = [e.loss for e in mine if isinstance(e, EpochCompleted)]
    assert ended == losses(result) == pytest.approx([sum(e.loss * e.rows for e in some) / 22 for some in (steps[:3], steps[3:])])


def test_a_checkpoint_is_gone_on_from_exactly(shared_cluster: Any, tmp_path: Path) -> None:
    def scheduled() -> Pipeline:
        return Pipeline(layers(), micro_batches=3, optimizer=sgd, scheduler=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2], 0.1))

    path = tmp_path / "there" / "p.safetensors"
    how: dict[str, Any] = {"batch_size": 8, "seed": 5, "checkpoint": path, "record": False}
    with scheduled() as p:
        straight = p.fit(X, Y, epochs=4, **{**how, "checkpoint": None})
    with scheduled() as p:
        p.fit(X, Y, epochs=1, resume=True, **how)  # nothing to go on from yet
    with scheduled() as p:
        p.fit(X, Y, epochs=3, resume=True, **how)
    with scheduled() as p:
        resumed = p.fit(X, Y, epochs=4, resume=True, **how)
        assert resumed.history == straight.history
        same(resumed.states, {f"{id}.{n}": t for id, s in straight.states.items() for n, t in s.items()})
        with pytest.raises(ValueError, match="is of another fit: seed=5 there and 6 here"):
            p.fit(X, Y, epochs=4, resume=True, **{**how, "seed": 6})
        with pytest.raises(ValueError, match="is of a fit on 22 rows, not 20"):
            p.fit(X[:20], Y[:20], epochs=4, resume=True, **how)
    assert os.listdir(path.parent) == [path.name]


# -- mistakes ------------------------------------------------------------------------------------------------------------------


def test_mistakes_are_told_where_they_are_made(shared_cluster: Any) -> None:
    linear = nn.Linear(3, 2)
    for call, error, says in [
        (lambda: Pipeline([]), ValueError, "no stages"),
        (lambda: Pipeline(linear), TypeError, "a graph or a list of modules, one for each stage; got Linear"),
        (lambda: Pipeline([linear, nn.Linear]), TypeError, r"stage 1: Linear is a class; give a module, or soma.filter\(Linear\)"),
        (lambda: Pipeline([linear, len]), TypeError, "stage 1: a torch module or a filter"),
        (lambda: Pipeline([linear, nn.ReLU(), linear]), ValueError, "'Linear' is in stage 0 and in stage 2; stages cannot share weights"),
        (lambda: Pipeline([linear], micro_batches=0), ValueError, "micro_batches=0: a whole number from 1"),
        (lambda: Pipeline([linear], schedule="1f2b"), ValueError, "schedule='1f2b': one of 'gpipe', '1f1b'"),
        (lambda: Pipeline([linear], loss_fn="mse"), ValueError, "loss_fn='mse': a function"),
        (lambda: Pipeline([linear], clip_norm=0), ValueError, "clip_norm=0: a number above 0"),
        (lambda: Pipeline([linear], [["0"]]), ValueError, "partitions are of a graph"),
        (lambda: Pipeline(soma.Graph(soma.filter(linear))), ValueError, "a graph needs partitions"),
        (lambda: Pipeline(soma.Graph(soma.filter(np.log1p) >> soma.filter(linear)), [["log1p"], ["linear"]]), ValueError,
         r"node 'log1p' \(log1p\) is not differentiable"),
    ]:
        with pytest.raises(error, match=says):
            call()


def test_data_that_does_not_fit(shared_cluster: Any) -> None:
    with Pipeline(layers(), micro_batches=4) as p:
        for x, y, says in [(X[:8], Y[:4], "8 rows and 4 targets"), (soma.put(X[:8]), soma.put(Y[:4]), "8 rows and 4 targets"),
                           (X[:0], Y[:0], "X has no rows"), (X[:3], Y[:3], "micro_batches=4 of batches of 3 rows")]:
            with pytest.raises(ValueError, match=says):
                p.fit(x, y, record=False)
        with pytest.raises(ValueError, match="micro_batches=4 of batches of 2 rows"):
            p.fit(X, Y, batch_size=2, record=False)
        with pytest.raises(StateMismatchError, match="no state for '1'"):
            p.load_state({"0": {}})
        assert p.fit(X, Y, batch_size=11, record=False).history, "none of it did any harm"
    with Pipeline([nn.Tanh(), nn.Tanh()]) as p, pytest.raises(ValueError, match="nothing to train: 0, 1 have no parameters"):
        p.fit(X, X, record=False)
    with Pipeline([soma.filter(nn.Linear(3, 2).double(), num_cpus=64)]) as p, pytest.raises(PlacementError):
        p.fit(X, Y, record=False)


# -- faults --------------------------------------------------------------------------------------------------------------------


class Trap(nn.Module):  # type: ignore[misc]
    """Does something else than its work when a file is there, and then removes it."""

    def __init__(self, flag: Path, what: str, inputs: int = 3) -> None:
        super().__init__()
        self.flag, self.what = flag, what
        self.linear = nn.Linear(inputs, inputs).double()

    def forward(self, x: Any) -> Any:
        if self.training and self.flag.exists():
            self.flag.unlink()
            if self.what == "raise":
                raise LookupError("nothing here")
            if self.what == "nan":
                return self.linear(x) * float("nan")
            if self.what == "sleep":
                self.flag.with_suffix(".asleep").touch()
                time.sleep(60)  # workload: a stage that hangs
            self.flag.with_suffix(".at").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        return self.linear(x)


def trapped(flag: Path, what: str) -> Pipeline:
    torch.manual_seed(7)
    return Pipeline([nn.Linear(3, 3).double(), Trap(flag, what), nn.Linear(3, 2).double()], micro_batches=3, optimizer=sgd)


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)


@pytest.mark.parametrize("resume", [False, True])
def test_a_killed_stage_is_named_at_once_and_another_fit_goes_on(heard: list[Event], tmp_path: Path, resume: bool) -> None:
    flag, how = tmp_path / "flag", {"batch_size": 8, "seed": 2, "checkpoint": tmp_path / "c"}
    with trapped(flag, "die") as p:
        straight = p.fit(X, Y, epochs=3, record=False, **{**how, "checkpoint": None})
    with trapped(flag, "die") as p:
        pids = p.pids()

        def arm(event: Event) -> None:
            if isinstance(event, EpochCompleted):
                flag.touch()

        disarm = soma.on_event(arm)
        with pytest.raises(ActorDiedError, match=r"stage-1.*SIGKILL") as caught:
            p.fit(X, Y, epochs=3, record=False, **how)
        told = time.time() - float(flag.with_suffix(".at").read_text())
        disarm()
        assert caught.value.signal == "SIGKILL" and told < AT_ONCE
        assert gone(pids) and isinstance([e for e in heard if isinstance(e, (RunCompleted, RunFailed))][-1], RunFailed)
        if resume:
            again = p.fit(X, Y, epochs=3, record=False, resume=True, **how)
            assert again.history == straight.history
            same(again.states, {f"{id}.{n}": t for id, s in straight.states.items() for n, t in s.items()})
        else:
            assert losses(p.fit(X, Y, epochs=1, record=False))[0] < losses(straight)[0], "it goes on from the checkpoint"


@pytest.mark.parametrize(("what", "error", "says"), [("raise", LookupError, "nothing here"), ("nan", NonFiniteError, "step 0: .* is nan")])
def test_a_stage_that_fails_raises_its_own_exception(shared_cluster: Any, tmp_path: Path, what: str, error: Any, says: str) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    with trapped(flag, what) as p:
        pids = p.pids()
        with pytest.raises(error, match=says) as caught:
            p.fit(X, Y, batch_size=8, record=False)
        stage = "stage 1 (1)" if what == "raise" else "stage 2 (2)"
        assert f"in {stage}: forward of micro-batch 0, step 0" in caught.value.__notes__
        assert gone(pids)
        result = p.fit(X, Y, batch_size=8, record=False)
    with trapped(tmp_path / "never", what) as p:
        assert p.fit(X, Y, batch_size=8, record=False).history == result.history, "from its start"


def test_ctrl_c_ends_what_runs(shared_cluster: Any, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    with trapped(flag, "sleep") as p:
        pids = p.pids()

        def interrupt() -> None:
            while not flag.with_suffix(".asleep").exists():
                os.sched_yield()
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            p.fit(X, Y, batch_size=8, record=False)
        thread.join()
        assert gone(pids)
