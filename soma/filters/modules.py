"""Torch modules as filters: their state is the `state_dict`, and they are trained together with the differentiable filters around them.

    net = soma.filter(Net, loss_fn=F.cross_entropy, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), epochs=20, batch_size=32)(hidden=16)

A module that was given as an object is a pattern: its weights are where training begins, and it never changes. numpy arrays become
tensors of the module's own dtype, and what comes out of them becomes arrays again; tensors stay tensors. torch is looked up, never
imported here: who has a module has it loaded.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from soma.filters.options import FilterOptions
from soma.filters.wiring import Wired


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a module is trained.

    Attributes:
        loss_fn: (output, target) → a scalar tensor; None is the mean squared error.
        optimizer: parameters → a torch optimizer; None is Adam with torch's defaults.
        epochs: passes over the data.
        batch_size: rows of one step; None takes all.
        shuffle: another order of the rows in each epoch, from the run's seed.
    """

    loss_fn: Callable[[Any, Any], Any] | None = None
    optimizer: Callable[[Any], Any] | None = None
    epochs: int = 1
    batch_size: int | None = None
    shuffle: bool = False

    def __post_init__(self) -> None:
        for key in ("loss_fn", "optimizer"):
            if getattr(self, key) is not None and not callable(getattr(self, key)):
                raise ValueError(f"{key}={getattr(self, key)!r}: a function")
        for key in ("epochs", "batch_size"):
            value = getattr(self, key)
            if (value is None and key == "epochs") or (value is not None and (type(value) is not int or value < 1)):
                raise ValueError(f"{key}={value!r}: a whole number from 1")

    @classmethod
    def of(cls, options: dict[str, Any]) -> Training:
        """Takes its own keywords out of `options`."""
        return cls(**{f.name: options.pop(f.name) for f in dataclasses.fields(cls) if f.name in options})


def is_module(thing: Any) -> bool:
    """A torch module, or a class of them."""
    torch = sys.modules.get("torch")
    module = getattr(getattr(torch, "nn", None), "Module", None)
    return module is not None and (isinstance(thing, module) or (isinstance(thing, type) and issubclass(thing, module)))


class ModuleMaker:
    """What `soma.filter(Net)` is: call it as the class, and get a filter."""

    def __init__(self, cls: type, options: FilterOptions, training: Training) -> None:
        self.cls, self.options, self.training = cls, options, training

    def __call__(self, *args: Any, **kwargs: Any) -> ModuleFilter:
        return ModuleFilter(self.cls, args, kwargs, options=self.options, training=self.training)

    def __repr__(self) -> str:
        return f"soma.filter({self.cls.__name__})"


class ModuleFilter(Wired):
    """A torch module as a filter."""

    __soma_filter__: FilterOptions = FilterOptions()

    def __init__(self, module: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None, *,
                 options: FilterOptions, training: Training) -> None:
        by_class = isinstance(module, type)
        if options.kind == "stateless" and by_class:
            raise ValueError(f"kind='stateless', but {module.__name__} has no weights yet: give a module, not its class")
        self.module = module if by_class else copy.deepcopy(module)
        self.args, self.kwargs = args, dict(kwargs or {})
        self.training = training
        self.__soma_filter__ = dataclasses.replace(options, differentiable=True)
        self.__soma_title__ = module.__name__ if by_class else type(module).__name__
        if not by_class:
            return
        bound = _bound(module, args, self.kwargs)  # a wrong call is an error here, not in the process that makes the module
        self._named = None if bound is None else dict(bound)

    _named: dict[str, Any] | None = None

    def make(self) -> Any:
        """A fresh module."""
        return self.module(*self.args, **self.kwargs) if isinstance(self.module, type) else copy.deepcopy(self.module)

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        """Train a fresh module alone, and give its `state_dict`."""
        from soma.filters.composite import Composite, Member

        group = Composite([Member("module", self, ())])
        group.fit({"": x}, y, self.training)
        state: dict[str, Any] = group.states()["module"]
        return state

    def forward(self, x: Any, state: Any) -> Any:
        """Apply the module in evaluation mode; without a state ({}), with the weights it was given."""
        from soma.filters.composite import Composite, Member

        group = Composite([Member("module", self, ())])
        group.load({"module": state or None})
        return group.forward({"": x})["module"]

    def loss_fn(self, output: Any, target: Any) -> Any:
        if self.training.loss_fn is None:
            return NotImplemented
        return self.training.loss_fn(output, target)

    def optimizer(self, parameters: Any) -> Any:
        if self.training.optimizer is not None:
            return self.training.optimizer(parameters)
        return sys.modules["torch"].optim.Adam(parameters)

    def __soma_parameters__(self) -> dict[str, Any]:
        if not isinstance(self.module, type):
            return {"module": self.module}
        if self._named is not None:
            return dict(self._named)
        return {**{str(i): a for i, a in enumerate(self.args)}, **self.kwargs}

    def __soma_with__(self, changes: Mapping[str, Any]) -> ModuleFilter:
        named = self._named or self.kwargs
        return ModuleFilter(self.module, (), {**named, **changes}, options=self.__soma_filter__, training=self.training)

    def __repr__(self) -> str:
        if not isinstance(self.module, type):
            return repr(self.module)
        shown = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"{self.module.__name__}({', '.join(shown)})"


def _bound(cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    import inspect

    try:
        signature = inspect.signature(cls)
    except (ValueError, TypeError):
        return None
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as e:
        raise TypeError(f"{cls.__name__}{signature}: {e}") from None
    bound.apply_defaults()
    fixed = all(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in signature.parameters.values())
    return bound.arguments if fixed else None
