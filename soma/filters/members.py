"""One member of a composite: a torch module, or a filter whose state holds the tensors. What is trained, and how it is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from soma.errors import GraphError, NotFittedError
from soma.filters.modules import ModuleFilter
from soma.filters.options import kind_of, learns, options_of, title_of


class Part(Protocol):
    """What a composite needs of a member."""

    dtype: Any
    """The precision that arrays of floats are given, or None."""

    def make(self) -> None:
        """What can be made without data."""

    def begin(self, x: Any, y: Any) -> None:
        """Fresh parameters; `x` is the member's first input."""

    def load(self, state: Any) -> None:
        """Take over a state; None begins with what the filter was given."""

    def run(self, x: Any, training: bool) -> Any: ...

    def parameters(self) -> dict[str, Any]:
        """The tensors that are trained, by name."""

    def buffers(self) -> dict[str, Any]:
        """Tensors that are kept beside those, by name."""

    def state(self, *, copy: bool = True) -> Any:
        """Detached; without `copy` good until training goes on."""


def part_for(id: str, filter: Any, *, own: bool = False) -> Part:
    return ModulePart(id, filter, own=own) if isinstance(filter, ModuleFilter) else TensorPart(id, filter)


class ModulePart:
    """A torch module in this process, on a GPU if its filter has reserved one and there is one."""

    def __init__(self, id: str, filter: ModuleFilter, *, own: bool = False) -> None:
        self._id, self._filter, self._own = id, filter, own and not isinstance(filter.module, type)
        self._module: Any = None
        self.dtype: Any = None

    def _place(self, module: Any) -> None:
        import torch

        self._device = torch.device("cuda" if options_of(self._filter).num_gpus and torch.cuda.is_available() else "cpu")
        self._module = module.to(self._device)
        self.dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)

    def make(self) -> None:
        self._place(self._filter.module if self._own else self._filter.make())

    def begin(self, x: Any, y: Any) -> None:
        import torch

        if any(isinstance(p, torch.nn.parameter.UninitializedParameter) for p in self._module.parameters()):
            with torch.no_grad():
                self.run(x, False)  # lazy layers learn their sizes from the first input

    def load(self, state: Any) -> None:
        import torch

        if state is None and isinstance(self._filter.module, type):
            raise NotFittedError(self._id, title_of(self._filter))
        self.make()
        if state is None:
            return
        try:
            self._module.load_state_dict({k: torch.as_tensor(v) for k, v in state.items()})
        except RuntimeError as e:
            raise GraphError(f"node {self._id!r}: this state does not fit {title_of(self._filter)}: {e}") from None

    def run(self, x: Any, training: bool) -> Any:
        self._module.train(training)
        return self._module(on_device(x, self._device))

    def parameters(self) -> dict[str, Any]:
        return {name: p for name, p in self._module.named_parameters() if p.requires_grad}

    def buffers(self) -> dict[str, Any]:
        return dict(self._module.named_buffers())

    def state(self, *, copy: bool = True) -> Any:
        found = {name: t.detach().cpu() for name, t in self._module.state_dict().items()}
        return {name: t.clone() for name, t in found.items()} if copy else found


class TensorPart:
    """A filter whose `forward(x, state)` torch can differentiate; its state is a dict, possibly nested, with tensors in it."""

    def __init__(self, id: str, filter: Any) -> None:
        self._id, self._filter = id, filter
        self._state: Any = {}
        self.dtype: Any = None

    def make(self) -> None:
        self._state = {}

    def begin(self, x: Any, y: Any) -> None:
        if not learns(self._filter):
            return
        self._state = self._filter.fit(x, y)
        if kind_of(self._filter) == "trainable" and not any(True for _ in _trained("", self._state)):
            raise GraphError(f"node {self._id!r}: {title_of(self._filter)} is differentiable and learns, but no tensor of the state that "
                             "its fit returned requires a gradient: return e.g. {'w': torch.zeros(3, requires_grad=True)}")

    def load(self, state: Any) -> None:
        if state is None and learns(self._filter):
            raise NotFittedError(self._id, title_of(self._filter))
        self._state = {} if state is None else _copied(state)

    def run(self, x: Any, training: bool) -> Any:
        return self._filter.forward(x, self._state)

    def parameters(self) -> dict[str, Any]:
        return dict(_trained("", self._state))

    def buffers(self) -> dict[str, Any]:
        return {}

    def state(self, *, copy: bool = True) -> Any:
        return _copied(self._state) if copy else self._state


def _trained(prefix: str, state: Any) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(state, torch.Tensor):
        if state.requires_grad:
            yield prefix, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _trained(f"{prefix}.{key}" if prefix else str(key), value)
    elif isinstance(state, (list, tuple)):
        for i, value in enumerate(state):
            yield from _trained(f"{prefix}.{i}" if prefix else str(i), value)


def _copied(state: Any) -> Any:
    import torch

    if isinstance(state, torch.Tensor):
        copy = state.detach().clone()
        return copy.requires_grad_() if state.requires_grad else copy
    if isinstance(state, dict):
        return {k: _copied(v) for k, v in state.items()}
    return type(state)(map(_copied, state)) if type(state) in (list, tuple) else state


def on_device(x: Any, device: Any) -> Any:
    """Tensors (also in dicts) on the device; as they are, if it is None."""
    import torch

    if isinstance(x, Mapping):
        return {k: on_device(v, device) for k, v in x.items()}
    if device is None or not isinstance(x, torch.Tensor):
        return x
    return x.to(device)


def to_tensors(value: Any, dtype: Any) -> Any:
    """Arrays (also in dicts) as tensors, over the same memory where they can be; those of floats in `dtype`, unless it is None."""
    import numpy as np
    import torch

    if isinstance(value, Mapping):
        return {k: to_tensors(v, dtype) for k, v in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        return tensor if dtype is None or value.dtype.kind != "f" else tensor.to(dtype)
    return value


def to_arrays(value: Any) -> Any:
    """Tensors (also in dicts, lists and tuples) as arrays."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, dict):
        return {k: to_arrays(v) for k, v in value.items()}
    return type(value)(map(to_arrays, value)) if type(value) in (list, tuple) else value
