"""A torch module as the member of a population."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TorchMember:
    """`train` and `evaluate` for a `PopulationBased` over torch modules.

        member = soma.train.TorchMember(module=Net, data=(X, y), validation=(X2, y2), loss=F.cross_entropy, metric=accuracy)
        soma.train.PopulationBased(member.train, member.evaluate, {"lr": (1e-4, 1e-1), "width": [16, 64]}, fixed=["width"])

    A hyper-parameter that `module` takes is given to it, every other one to `optimizer`. Weights and the optimizer's moments are carried
    on; what shapes them must be `fixed` in the population. Batches are shuffled by the turn's seed.

    Attributes:
        module: makes one: a class, or a function.
        data, validation: (X, y), arrays or tensors; floating-point ones are used in torch's default precision.
        loss: `loss(output, y)`, a tensor without dimensions.
        metric: `metric(output, y)`, a number: the fitness, over all of `validation`.
        optimizer: `optimizer(parameters, **params)`; None is `torch.optim.Adam`.
        batch_size, epochs: of one generation.
    """

    module: Callable[..., Any]
    data: tuple[Any, Any]
    validation: tuple[Any, Any]
    loss: Callable[[Any, Any], Any]
    metric: Callable[[Any, Any], Any]
    optimizer: Callable[..., Any] | None = None
    batch_size: int = 64
    epochs: int = 1

    def train(self, state: Mapping[str, Any] | None, params: Mapping[str, Any]) -> dict[str, Any]:
        """Train on: {"arguments": of the module, "weights": …, "optimizer": …}."""
        import torch

        arguments, rest = self._split(params)
        module = self.module(**arguments).train()
        optimizer = (self.optimizer or torch.optim.Adam)(module.parameters(), **rest)
        if state is not None:
            _go_on(state, arguments, module, optimizer)
        x, y = map(_tensor, self.data)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(x)).split(self.batch_size):
                optimizer.zero_grad()
                self.loss(module(x[batch]), y[batch]).backward()
                optimizer.step()
        return {"arguments": arguments, "weights": module.state_dict(), "optimizer": optimizer.state_dict()}

    def evaluate(self, state: Mapping[str, Any]) -> Any:
        import torch

        x, y = map(_tensor, self.validation)
        with torch.no_grad():
            return self.metric(self.load(state).eval()(x), y)

    def load(self, state: Mapping[str, Any]) -> Any:
        """The module with its weights."""
        module = self.module(**state["arguments"])
        module.load_state_dict(state["weights"])
        return module

    def _split(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of the module, and the others."""
        takes = inspect.signature(self.module).parameters
        arguments = {name: value for name, value in params.items() if name in takes}
        return arguments, {name: value for name, value in params.items() if name not in takes}


def _go_on(state: Mapping[str, Any], arguments: Mapping[str, Any], module: Any, optimizer: Any) -> None:
    """Weights and moments from before; learning rates and the like as they are now."""
    try:
        module.load_state_dict(state["weights"])
    except RuntimeError as e:
        raise ValueError(f"weights of a module with {_shown(state['arguments'])} do not fit one with {_shown(arguments)}: what shapes "
                         f"weights is taken over with them: PopulationBased(…, fixed={list(arguments)!r})") from e
    now = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, options in zip(optimizer.param_groups, now, strict=True):
        group.update(options)


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _tensor(values: Any) -> Any:
    import torch

    tensor = torch.as_tensor(values)
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor
