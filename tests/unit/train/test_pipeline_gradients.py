"""Gradients and weights of a pipeline are those of the whole network: held to plain torch, with the stages in this process.

`send_batch` makes the very calls that actors get; here they are answered at once, so thousands of cases cost seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import soma
from soma.errors import GraphError, NonFiniteError
from soma.filters.segment import Recipe
from soma.train.pipelining.batch import Batch, cut, send_batch
from soma.train.pipelining.network import network_of
from soma.train.pipelining.schedule import scheduled
from soma.train.pipelining.stage import Stage

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
nn = torch.nn


class InProcess:
    """Stages without processes."""

    def __init__(self, network: Any, partitions: Any = None, **recipe: Any) -> None:
        filters, self.plans = network_of(network, partitions)
        self.stages = [Stage(p, {id: filters[id] for id, _ in p.nodes}, Recipe(**recipe)) for p in self.plans]
        for stage in self.stages:
            stage.make(0)

    def send(self, stage: int, method: str, values: int, *arguments: Any) -> Sequence[Any]:
        made = getattr(self.stages[stage], method)(*arguments)
        return (made,) if values == 1 else made

    def step(self, batch: Batch, schedule: str, micros: int, seed: int = 0, clip: float | None = None) -> float:
        some = batch.micros(micros, seed)
        _, losses = send_batch(self.plans, scheduled(schedule, len(self.plans), len(some)), some, self.send, clip)
        return sum(loss for loss in losses if loss is not None)

    def states(self) -> dict[str, Any]:
        return {f"{id}.{name}": t for stage in self.stages for id, state in stage.states().items() for name, t in state.items()}


def layers(widths: Sequence[int], seed: int) -> list[Any]:
    torch.default_generator.manual_seed(seed)
    return [nn.Sequential(nn.Linear(a, b), nn.Tanh()).double() for a, b in zip(widths, widths[1:], strict=False)]


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.3, momentum=0.9)


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-10)


@settings(max_examples=max(500, settings().max_examples))
@given(st.sampled_from(["1f1b", "gpipe"]), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3),
       st.sampled_from([None, 0.05]))
def test_weights_are_those_of_one_process(schedule: str, stages: int, micros: int, size: int, extra: int, clip: float | None) -> None:
    widths = [3, 4, 2, 5, 2][:stages] + [2]
    rows = 2 * size + min(extra, size - 1)  # the last batch may be smaller, also than there are micro-batches
    x, y = torch.randn(rows, 3, dtype=torch.float64), torch.randn(rows, 2, dtype=torch.float64)
    parts = layers(widths, seed=size)
    pipeline = InProcess(parts, optimizer=sgd)
    for stage in pipeline.stages:
        stage.hold(x, y)
    whole = nn.Sequential(*parts)
    optimizer = sgd(whole.parameters())
    for batch in cut(rows, size, 0, None):
        loss = pipeline.step(batch, schedule, micros, clip=clip)
        optimizer.zero_grad()
        wanted = nn.functional.mse_loss(whole(x[batch.rows]), y[batch.rows])
        wanted.backward()
        if clip is not None:
            norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in whole.parameters()]))
            for p in whole.parameters():
                p.grad *= min(1.0, clip / float(norm))
        optimizer.step()
        assert loss == pytest.approx(float(wanted.detach()), abs=1e-10)
    same(pipeline.states(), whole.state_dict())
    most = min(micros, size)
    assert [s.most_in_flight() for s in pipeline.stages] == [most if schedule == "gpipe" else min(stages - i, most) for i in range(stages)]


# -- graphs --------------------------------------------------------------------------------------------------------------------


@soma.filter(differentiable=True)
class Add:
    """Sums what it gets."""

    def forward(self, x: Any, state: Any) -> Any:
        return sum(x.values())


@soma.filter(differentiable=True)
class Scaled:
    """A state of its own, which begins with what it sees."""

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"w": torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True), "mean": x.mean(0)}

    def forward(self, x: Any, state: Any) -> Any:
        return (x - state["mean"]) * state["w"]


def skipping() -> tuple[soma.Graph, list[Any]]:
    """a → b → c → d, where a also goes to c and to d; the first takes a state of its own."""
    torch.default_generator.manual_seed(3)
    a, b, c = (nn.Linear(3, 3).double() for _ in range(3))
    g = soma.Graph()
    for id, member in (("a", a), ("b", b), ("ab", Add()), ("c", c), ("end", Add())):
        g.node(id, soma.filter(member) if isinstance(member, nn.Module) else member)
    for before, after in (("a", "b"), ("a", "ab"), ("b", "ab"), ("ab", "c"), ("a", "end"), ("c", "end")):
        g.connect(before, after)
    return g, [a, b, c]


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
@pytest.mark.parametrize("partitions", [[["a"], ["b"], ["ab", "c"], ["end"]], [["a", "b"], ["ab", "c", "end"]],
                                        [["a"], ["b", "ab"], ["c"], ["end"]], [["a", "b", "ab", "c", "end"]]])
def test_what_skips_stages_has_its_gradients_summed(schedule: str, partitions: list[list[str]]) -> None:
    graph, (a, b, c) = skipping()
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    pipeline = InProcess(graph, partitions, optimizer=sgd)
    for stage in pipeline.stages:
        stage.hold(x, y)
    optimizer = sgd([*a.parameters(), *b.parameters(), *c.parameters()])
    for batch in cut(7, 4, 0, None):
        pipeline.step(batch, schedule, 3)
        optimizer.zero_grad()
        first = a(x[batch.rows])
        nn.functional.mse_loss(first + c(first + b(first)), y[batch.rows]).backward()
        optimizer.step()
    same(pipeline.states(), {f"{id}.{name}": t for id, m in (("a", a), ("b", b), ("c", c)) for name, t in m.state_dict().items()})


def test_leaves_in_two_stages_both_have_losses() -> None:
    torch.default_generator.manual_seed(0)
    trunk, left, right = (nn.Linear(3, 3).double() for _ in range(3))
    graph = soma.Graph()
    for id, m in (("trunk", trunk), ("left", left), ("right", right)):
        graph.node(id, soma.filter(m))
    graph.connect("trunk", "left")
    graph.connect("trunk", "right")
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    pipeline = InProcess(graph, [["trunk", "left"], ["right"]], optimizer=sgd)
    for stage in pipeline.stages:
        stage.hold(x, y)
    pipeline.step(Batch(0, slice(0, 5), 5), "1f1b", 2)
    optimizer = sgd([p for m in (trunk, left, right) for p in m.parameters()])
    loss = nn.functional.mse_loss(left(trunk(x)), y) + nn.functional.mse_loss(right(trunk(x)), y)
    loss.backward()
    optimizer.step()
    same(pipeline.states(), {f"{id}.{n}": t for id, m in (("trunk", trunk), ("left", left), ("right", right))
                             for n, t in m.state_dict().items()})


def test_filters_begin_with_all_the_data() -> None:
    graph = soma.Graph(Scaled() >> soma.filter(nn.LazyLinear(2).double()))
    pipeline = InProcess(graph, [["scaled"], ["lazy_linear"]])
    x = torch.randn(6, 3, dtype=torch.float64)
    for stage in pipeline.stages:
        stage.hold(x, x[:, :2])
    given, trained = pipeline.stages[0].begin(0)
    assert trained == 1 and torch.equal(given, (x - x.mean(0)) * 0.5)
    assert pipeline.stages[1].begin(0, given) == 2
    pipeline.step(Batch(0, slice(0, 6), 6), "1f1b", 3)
    assert torch.equal(pipeline.stages[0].states()["scaled"]["mean"], x.mean(0))
    assert not torch.equal(pipeline.stages[0].states()["scaled"]["w"], torch.full((3,), 0.5))


# -- random numbers ------------------------------------------------------------------------------------------------------------


def dropped(seed: int, schedule: str) -> dict[str, Any]:
    torch.default_generator.manual_seed(0)
    pipeline = InProcess([nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5)).double(), nn.Linear(16, 1).double()], optimizer=sgd)
    x = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
    for stage in pipeline.stages:
        stage.hold(x, x[:, :1])
    for step in range(2):
        pipeline.step(Batch(step, slice(0, 6), 6), schedule, 3, seed)
    return pipeline.states()


def test_dropout_follows_from_the_seed_and_not_from_the_schedule() -> None:
    same(dropped(1, "1f1b"), dropped(1, "gpipe"))
    assert not torch.equal(dropped(1, "1f1b")["0.0.weight"], dropped(2, "1f1b")["0.0.weight"])


# -- what goes wrong -----------------------------------------------------------------------------------------------------------


class BackFails(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        raise KeyError("no way back")


class Stuck(nn.Module):  # type: ignore[misc]
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.w = how, nn.Linear(3, 3).double()

    def forward(self, x: Any) -> Any:
        does = {"back": BackFails.apply, "cut": torch.Tensor.detach, "nan": lambda v: v * float("nan"), "dict": lambda v: {"v": v}}
        return does[self.how](self.w(x))


@pytest.mark.parametrize(("how", "error", "says", "note"), [
    ("back", KeyError, "no way back", "in stage 0 (0): backward of micro-batch 0, step 4"),
    ("cut", GraphError, "node '0': no gradient reached its parameters", "in stage 0 (0): its step"),
    ("nan", NonFiniteError, "step 4: the loss of micro-batch 0 is nan", "in stage 1 (1): forward of micro-batch 0, step 4"),
    ("dict", TypeError, "node '0' gave dict; what passes from stage to stage", "in stage 0 (0): forward of micro-batch 0, step 4"),
])
def test_errors_name_stage_and_micro_batch(how: str, error: type[Exception], says: str, note: str) -> None:
    pipeline = InProcess([Stuck(how), nn.Linear(3, 3).double()])
    for stage in pipeline.stages:
        stage.hold(torch.ones(4, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64))
    with pytest.raises(error, match=says) as caught:
        pipeline.step(Batch(4, slice(0, 4), 4), "1f1b", 2)
    assert caught.value.__notes__ == [note]
    failed = 1 if how == "nan" else 0
    with pytest.raises(error, match=says):
        pipeline.stages[failed].step(2)  # after an error, whatever else of the batch comes fails with it


def test_a_step_with_too_few_micro_batches_is_refused() -> None:
    pipeline = InProcess([nn.Linear(3, 3).double()])
    before = pipeline.states()
    pipeline.stages[0].hold(torch.ones(4, 3), torch.ones(4, 3))
    with pytest.raises(RuntimeError, match="0 of 2 micro-batches came back"):
        pipeline.stages[0].step(2)
    same(pipeline.states(), before)


def test_schedulers_and_momentum_go_on_where_they_were() -> None:
    def made() -> InProcess:
        torch.default_generator.manual_seed(0)
        pipeline = InProcess([nn.Linear(3, 3).double()], optimizer=sgd,
                             scheduler=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3], 0.1))
        pipeline.stages[0].hold(torch.eye(3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.float64))
        return pipeline

    def epoch(pipeline: InProcess) -> None:
        pipeline.step(Batch(0, slice(0, 3), 3), "1f1b", 2)
        pipeline.stages[0].end_epoch()

    straight, resumed = made(), made()
    epoch(straight)
    epoch(straight)
    states, momentum = straight.stages[0].saved()
    assert type(momentum["schedulers"]["0"]["milestones"]) is dict, "plain data, for a file without pickles"
    assert resumed.stages[0].load(states, momentum) == 2
    for _ in range(2):
        epoch(straight)
        epoch(resumed)
    same(resumed.states(), straight.states())
