"""Differentiable filters in one process: against plain PyTorch loops, written here."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import GraphError, NotFittedError
from soma.filters import Training
from soma.filters.composite import Composite, Member

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
nn = torch.nn


class Net(nn.Module):  # type: ignore[name-defined, misc]
    def __init__(self, inputs: int = 3, hidden: int = 4, outputs: int = 1) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, x: Any) -> Any:
        return self.b(torch.tanh(self.a(x)))


@soma.filter(differentiable=True)
class Gain:
    """Learns a factor for each column; its state is what torch differentiates."""

    def __init__(self, lr: float = 0.1) -> None:
        self.lr = lr

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"gain": torch.ones(x.shape[1], dtype=x.dtype, requires_grad=True)}

    def forward(self, x: Any, state: Any) -> Any:
        return x * state["gain"]

    def optimizer(self, parameters: Any) -> Any:
        return torch.optim.SGD(parameters, lr=self.lr)


@soma.filter(differentiable=True)
class Both:
    def forward(self, x: Any, state: Any) -> Any:
        return torch.cat(list(x.values()), dim=1)


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.05)


def data(rows: int = 20, seed: int = 0) -> tuple[Any, Any]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, generator=g, dtype=torch.float64), torch.randn(rows, 1, generator=g, dtype=torch.float64)


def by_hand(modules: list[Any], x: Any, y: Any, *, batch: int | None, epochs: int, loss_fn: Any = nn.functional.mse_loss) -> float:
    """The loop that everybody writes: all parameters, one step of SGD for each batch. Gives the last epoch's mean loss."""
    optimizer = sgd([p for m in modules for p in m.parameters()])
    mean = 0.0
    for _ in range(epochs):
        mean = 0.0
        for start in range(0, len(x), batch or len(x)):
            xs, ys = x[start:start + (batch or len(x))], y[start:start + (batch or len(x))]
            out = xs
            for m in modules:
                out = m(out)
            loss = loss_fn(out, ys)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean += float(loss.detach()) * len(xs) / len(x)
    return mean


@pytest.mark.parametrize(("batch", "epochs"), [(None, 1), (None, 5), (6, 1), (7, 4), (20, 2), (100, 2)])
def test_one_graph_through_all_of_them(batch: int | None, epochs: int) -> None:
    """Two modules trained together are one module, for any batches: weights, outputs and the loss that is given back."""
    first, second = Net(3, 4, 2).double(), Net(2, 3, 1).double()
    x, y = data()
    mine = [copy.deepcopy(first), copy.deepcopy(second)]
    want = by_hand(mine, x, y, batch=batch, epochs=epochs)

    group = Composite([Member("a", soma.filter(first, optimizer=sgd), ()), Member("b", soma.filter(second, optimizer=sgd), ("a",))])
    loss = group.fit({"": x}, y, Training(batch_size=batch, epochs=epochs))
    assert loss == pytest.approx(want, abs=1e-12)
    for id, module in zip("ab", mine, strict=True):
        for name, value in module.state_dict().items():
            torch.testing.assert_close(group.states()[id][name], value, atol=1e-12, rtol=0)
    torch.testing.assert_close(group.forward({"": x})["b"], mine[1](mine[0](x)).detach())
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), copy.deepcopy(first).parameters(), strict=True))


def test_every_filter_has_its_own_optimizer() -> None:
    x, y = data()
    net = Net().double()
    mine, gain = copy.deepcopy(net), torch.ones(3, dtype=torch.float64, requires_grad=True)
    group = Composite([Member("gain", Gain(0.5), ()), Member("net", soma.filter(net, optimizer=sgd), ("gain",))])
    group.fit({"": x}, y, Training(epochs=3))
    optimizers = torch.optim.SGD([gain], lr=0.5), sgd(mine.parameters())
    for _ in range(3):
        for o in optimizers:
            o.zero_grad()
        nn.functional.mse_loss(mine(x * gain), y).backward()
        for o in optimizers:
            o.step()
    torch.testing.assert_close(group.states()["gain"]["gain"].detach(), gain.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(group.states()["net"]["b.weight"], mine.b.weight.detach(), atol=1e-12, rtol=0)
    assert group.states()["gain"]["gain"].requires_grad


def test_a_fork_and_a_join_inside() -> None:
    x, y = data()
    a, b, c = Net(3, 4, 2).double(), Net(3, 5, 2).double(), Net(4, 3, 1).double()
    mine = [copy.deepcopy(m) for m in (a, b, c)]
    group = Composite([Member(id, soma.filter(m, optimizer=sgd), inputs) for id, m, inputs in (("a", a, ()), ("b", b, ()))]
                      + [Member("both", Both(), ("a", "b")), Member("c", soma.filter(c, optimizer=sgd), ("both",))])
    group.fit({"": x}, y, Training(epochs=2))
    optimizer = sgd([p for m in mine for p in m.parameters()])
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.mse_loss(mine[2](torch.cat([mine[0](x), mine[1](x)], 1)), y).backward()
        optimizer.step()
    for id, m in zip("abc", mine, strict=True):
        torch.testing.assert_close(group.states()[id]["a.weight"], m.a.weight.detach(), atol=1e-12, rtol=0)


def test_two_ends_add_their_losses() -> None:
    x, y = data()
    a, b = Net().double(), Net().double()
    mine = copy.deepcopy(a), copy.deepcopy(b)
    group = Composite([Member("a", soma.filter(a, optimizer=sgd, loss_fn=nn.functional.l1_loss), ()), Member("b", soma.filter(b), ())])
    loss, gradients = (group.begin({"": x}, y), group.gradients({"": x}, y))[1]
    want = nn.functional.l1_loss(mine[0](x), y) + nn.functional.mse_loss(mine[1](x), y)
    want.backward()
    assert loss == pytest.approx(float(want.detach()))
    torch.testing.assert_close(gradients["b"]["a.weight"], mine[1].a.weight.grad)


def test_arrays_come_and_go_in_the_modules_own_precision() -> None:
    x, y = (t.numpy() for t in data())
    net = soma.filter(Net, epochs=2)(3)
    group = Composite([Member("net", net, ())])
    group.fit({"": x}, y, net.training)
    out = group.forward({"": x})["net"]
    assert type(out) is np.ndarray and out.dtype == np.float32
    assert type(group.forward({"": torch.from_numpy(x).float()})["net"]) is torch.Tensor


def test_shuffling_follows_the_seed() -> None:
    x, y = data()
    net = Net().double()

    def trained(seed: int | None) -> Any:
        group = Composite([Member("net", soma.filter(net, optimizer=sgd), ())])
        group.fit({"": x}, y, Training(batch_size=4, epochs=2, shuffle=True), seed)
        return group.states()["net"]["a.weight"]

    assert torch.equal(trained(1), trained(1)) and not torch.equal(trained(1), trained(2))


def test_buffers_are_state_and_evaluation_leaves_them_alone() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    x, _ = data()
    group = Composite([Member("net", soma.filter(net), ())])
    group.fit({"": x}, torch.zeros(20, 2, dtype=torch.float64), Training())
    state = group.states()["net"]
    assert int(state["1.num_batches_tracked"]) == 1
    group.forward({"": x})
    assert torch.equal(group.states()["net"]["1.running_mean"], state["1.running_mean"])


def test_lazy_layers_learn_their_sizes() -> None:
    x, y = data()
    group = Composite([Member("net", soma.filter(lambda_net())(), ())])
    group.fit({"": x.float()}, y.float(), Training())
    assert group.states()["net"]["weight"].shape == (1, 3)


def lambda_net() -> Any:
    class Lazy(nn.LazyLinear):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__(1)

    return Lazy


class TestGradients:
    def group(self) -> tuple[Composite, Any, Any]:
        x, y = data()
        group = Composite([Member("net", soma.filter(Net().double(), optimizer=sgd), ())])
        group.begin({"": x}, y)
        return group, x, y

    def test_to_get_and_to_apply_them_is_a_step(self) -> None:
        group, x, y = self.group()
        before = group.states()["net"]
        loss, gradients = group.gradients({"": x}, y)
        assert all(torch.equal(before[n], v) for n, v in group.states()["net"].items()), "getting them changes nothing"
        group.apply({"net": {n: g.numpy() for n, g in gradients["net"].items()}})
        for name, gradient in gradients["net"].items():
            torch.testing.assert_close(group.states()["net"][name], before[name] - 0.05 * gradient)
        assert loss > 0

    @pytest.mark.parametrize(("change", "match"), [
        (lambda g: g.pop("net"), "no gradient for node 'net'"),
        (lambda g: g.update(nat={}), "a gradient for 'nat', but there is no such node; there are 'net'"),
        (lambda g: g["net"].pop("a.bias"), "node 'net': no gradient for parameter 'a.bias'"),
        (lambda g: g["net"].update(c=torch.zeros(1)), "node 'net': a gradient for 'c', but there is no such parameter"),
        (lambda g: g["net"].update({"a.bias": torch.zeros(3)}), r"the gradient of 'a.bias' is float32\[3\], the parameter float64\[4\]"),
    ])
    def test_those_that_cannot_be(self, change: Any, match: str) -> None:
        group, x, y = self.group()
        gradients = {k: dict(v) for k, v in group.gradients({"": x}, y)[1].items()}
        change(gradients)
        with pytest.raises(ValueError, match=match):
            group.apply(gradients)


class TestRefusals:
    def fit(self, *members: Member, x: Any = None, y: Any = None) -> None:
        given, targets = data()
        Composite(members).fit({"": given if x is None else x}, targets if y is None else y, Training())

    def test_a_backward_pass_that_fails(self) -> None:
        class Broken(torch.autograd.Function):  # type: ignore[name-defined, misc]
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, *grad: Any) -> Any:
                raise ArithmeticError("backward failed")

        broken = soma.filter(lambda x: Broken.apply(x), differentiable=True)
        with pytest.raises(ArithmeticError, match="backward failed"):
            self.fit(Member("net", soma.filter(Net().double()), ()), Member("broken", broken, ("net",)))

    def test_a_gradient_that_does_not_arrive(self) -> None:
        detach = soma.filter(lambda x: x.detach() * torch.ones(1, dtype=torch.float64, requires_grad=True), differentiable=True)
        with pytest.raises(GraphError, match="node 'net': no gradient reached its parameters"):
            self.fit(Member("net", soma.filter(Net().double()), ()), Member("cut", detach, ("net",)))

    def test_nothing_to_train(self) -> None:
        with pytest.raises(GraphError, match="its loss depends on no parameter"):
            self.fit(Member("x", soma.filter(lambda x: x[:, :1], differentiable=True), ()))

    def test_shapes_that_would_be_broadcast(self) -> None:
        with pytest.raises(ValueError, match=r"node 'net': its output is float64\[20, 1\] and the targets are float64\[20\]"):
            self.fit(Member("net", soma.filter(Net().double()), ()), y=data()[1][:, 0])

    def test_a_loss_that_is_no_number(self) -> None:
        with pytest.raises(ValueError, match=r"its loss_fn gave float64\[20, 1\]; a loss is one number"):
            self.fit(Member("net", soma.filter(Net().double(), loss_fn=lambda out, y: out - y), ()))

    def test_rows_that_differ(self) -> None:
        with pytest.raises(ValueError, match="node 'net' got 20 rows and 4 targets"):
            self.fit(Member("net", soma.filter(Net().double()), ()), y=data()[1][:4])

    def test_a_state_without_anything_to_train(self) -> None:
        @soma.filter(differentiable=True)
        class Forgot:
            def fit(self, x: Any, y: Any = None) -> Any:
                return {"w": torch.ones(1)}

            def forward(self, x: Any, state: Any) -> Any:
                return x * state["w"]

        with pytest.raises(GraphError, match="node 'f': Forgot is differentiable and learns, but no tensor"):
            self.fit(Member("f", Forgot(), ()))

    def test_a_module_that_was_never_fitted(self) -> None:
        group = Composite([Member("net", soma.filter(Net)(), ())])
        with pytest.raises(NotFittedError, match="node 'net'"):
            group.load({})

    def test_a_state_of_another_module(self) -> None:
        group = Composite([Member("net", soma.filter(Net)(), ())])
        with pytest.raises(GraphError, match="node 'net': this state does not fit Net"):
            group.load({"net": {"a.weight": torch.zeros(1)}})

    def test_an_optimizer_that_is_none(self) -> None:
        with pytest.raises(TypeError, match=r"node 'net': optimizer\(parameters\) of Net gave int, which has no step"):
            self.fit(Member("net", soma.filter(Net().double(), optimizer=lambda p: 3), ()))

    @pytest.mark.parametrize(("options", "match"), [({"epochs": 0}, "epochs=0"), ({"batch_size": 1.5}, "batch_size=1.5"),
                                                    ({"loss_fn": 3}, "loss_fn=3"), ({"epochs": None}, "epochs=None")])
    def test_options(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            soma.filter(Net, **options)

    def test_calls_that_the_module_would_refuse(self) -> None:
        with pytest.raises(TypeError, match="Net.*hiden"):
            soma.filter(Net)(hiden=3)
        with pytest.raises(ValueError, match="Net has no weights yet"):
            soma.filter(Net, kind="stateless")()


class TestTheFilterAlone:
    def test_it_works_without_a_cluster(self) -> None:
        x, y = data()
        net = soma.filter(Net().double(), optimizer=sgd, epochs=3, batch_size=8)
        mine = copy.deepcopy(net.module)
        by_hand([mine], x, y, batch=8, epochs=3)
        state = net.fit(x, y)
        torch.testing.assert_close(net.forward(x, state), mine(x).detach())

    def test_a_module_that_is_only_applied(self) -> None:
        module = Net().double()
        net = soma.filter(module, kind="stateless")
        x, _ = data()
        torch.testing.assert_close(net.forward(x, {}), module(x).detach())

    def test_what_it_is_called(self) -> None:
        assert repr(soma.filter(Net)(3, hidden=8)) == "Net(3, hidden=8)"
        assert soma.filter(Net)(3).__soma_parameters__() == {"inputs": 3, "hidden": 4, "outputs": 1}
