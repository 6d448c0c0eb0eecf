"""Differentiable filters in one process: one autograd graph through all of them, from the inputs to the loss.

Members are torch modules (`modules.ModuleFilter`) and filters of `differentiable=True`, whose `fit` gives the tensors that training
begins with: those of its state that require a gradient are its parameters. The loss is that of the members at the end
(`loss_fn(output, target)`, else the mean squared error); each member with parameters has an optimizer of its own.

Refuses: a loss that cannot be, gradients that do not reach a member, unknown or missing or misshapen gradients; each names its node.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soma.errors import GraphError
from soma.filters.members import Part, on_device, part_for, to_arrays, to_tensors
from soma.filters.modules import Training
from soma.filters.options import title_of
from soma.filters.reporting import say
from soma.filters.rows import mismatch, rows_of, take

Outer = Mapping[str, Any]
"""Values from outside the group by node id; the graph's own input under ""."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the group: its id, its filter, and whose outputs it gets."""

    id: str
    filter: Any
    inputs: tuple[str, ...]


class Composite:
    """The group, its parameters and its optimizers. Members come in an order in which inputs precede those who take them.

    With `own`, modules that were given as objects are used as they are, not copied: for filters that nobody else uses.
    """

    def __init__(self, members: Sequence[Member], *, own: bool = False) -> None:
        self.members = tuple(members)
        self._own = own
        ids = {m.id for m in members}
        taken = {i for m in members for i in m.inputs}
        self.ends = tuple(m.id for m in members if m.id not in taken)
        self.outer = tuple(dict.fromkeys(i for m in members for i in (m.inputs or ("",)) if i not in ids))
        self._parts: dict[str, Part] = {}
        self._optimizers: dict[str, Any] = {}

    @property
    def loaded(self) -> bool:
        """Whether the parts exist, with their states."""
        return bool(self._parts)

    def unload(self) -> None:
        """The states changed elsewhere."""
        self._parts.clear()
        self._optimizers.clear()

    @property
    def first(self) -> str:
        """The id under which the group reports."""
        return self.members[0].id

    # -- states ----------------------------------------------------------------------------------------------------------------

    def load(self, states: Mapping[str, Any]) -> None:
        """Take over the members' states; None for one that begins with what its filter was given."""
        for m in self.members:
            part = part_for(m.id, m.filter, own=self._own)
            part.load(states.get(m.id))
            self._parts[m.id] = part
        self._optimizers.clear()

    def states(self, *, copy: bool = True) -> dict[str, Any]:
        """Each member's state: detached copies; without `copy` good until training goes on."""
        return {id: part.state(copy=copy) for id, part in self._parts.items()}

    # -- running ---------------------------------------------------------------------------------------------------------------

    def forward(self, outer: Outer) -> dict[str, Any]:
        """Every member's output, without gradients; arrays if no tensor came in."""
        import torch

        with torch.no_grad():
            outputs = self._run(self._tensors(outer), training=False)
        return outputs if _has_tensor(outer) else {id: to_arrays(value) for id, value in outputs.items()}

    def _tensors(self, value: Any) -> Any:
        """Arrays as tensors, in the precision of the first module."""
        return to_tensors(value, next((p.dtype for p in self._parts.values() if p.dtype is not None), None))

    def _run(self, outer: Outer, *, training: bool) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        for m in self.members:
            got = [outputs[i] if i in outputs else outer[i] for i in (m.inputs or ("",))]
            outputs[m.id] = self._parts[m.id].run(got[0] if len(got) == 1 else dict(zip(m.inputs, got, strict=True)), training)
        return outputs

    # -- training --------------------------------------------------------------------------------------------------------------

    def begin(self, outer: Outer, y: Any) -> None:
        """Fresh parts: modules are made, and filters that learn are asked for the tensors they begin with."""
        import torch

        for m in self.members:
            self._parts[m.id] = part_for(m.id, m.filter, own=self._own)
            self._parts[m.id].make()
        outputs: dict[str, Any] = {}
        tensors = self._tensors(outer)
        for m in self.members:
            part = self._parts[m.id]
            got = [outputs[i] if i in outputs else tensors[i] for i in (m.inputs or ("",))]
            x = got[0] if len(got) == 1 else dict(zip(m.inputs, got, strict=True))
            part.begin(x, y)
            if m.id not in self.ends:
                with torch.no_grad():
                    outputs[m.id] = part.run(x, False)
        self._optimizers.clear()

    def fit(self, outer: Outer, y: Any, training: Training, seed: int | None = None) -> float:
        """Begin anew and train; the mean loss per row of the last epoch."""
        self.begin(outer, y)
        return self.train(outer, y, training, seed)

    def train(self, outer: Outer, y: Any, training: Training, seed: int | None = None) -> float:
        """Go on training; the mean loss per row of the last epoch."""
        import torch

        self._check_rows(outer, y)
        tensors, targets = self._tensors(outer), self._tensors(y)
        rows = next((n for n in map(rows_of, tensors.values()) if n is not None), 1)
        size = training.batch_size or rows
        order = torch.Generator().manual_seed(0 if seed is None else seed) if training.shuffle else None
        step, loss = 0, float("nan")
        for epoch in range(training.epochs):
            say("EpochStarted", epoch=epoch, epochs=training.epochs)
            began, total = time.perf_counter(), 0.0
            shuffled = torch.randperm(rows, generator=order) if order is not None else None
            for start in range(0, rows, size):
                which = slice(start, start + size) if shuffled is None else shuffled[start:start + size]
                whole = shuffled is None and size >= rows
                some = tensors if whole else {k: take(v, which) for k, v in tensors.items()}
                batch = min(size, rows - start)
                total += self.step(some, targets if whole else take(targets, which)) * batch
                step += 1
            loss = total / max(rows, 1)
            say("EpochCompleted", epoch=epoch, epochs=training.epochs, loss=loss, rows=rows,
                duration_ms=(time.perf_counter() - began) * 1e3)
        return loss

    def step(self, outer: Outer, y: Any) -> float:
        """One step of every optimizer; the loss before it."""
        loss = self._backward(outer, y)
        for optimizer in self._optimizers_now().values():
            optimizer.step()
        return loss

    def _check_rows(self, outer: Outer, y: Any) -> None:
        for name, value in outer.items():
            problem = mismatch(value, y)
            if problem:
                raise ValueError(f"node {self.first!r} got {problem}" + (f" (input from {name!r})" if name else ""))

    def loss(self, outer: Outer, y: Any, *, training: bool = True) -> tuple[Any, dict[str, Any]]:
        """The loss as a tensor, and the outputs of the members at the end; in training mode it must lead to a parameter."""
        outputs = self._run(self._tensors(outer), training=training)
        target = self._tensors(y)
        losses = [self._loss(m, outputs[m.id], target) for m in self.members if m.id in self.ends]
        loss = sum(losses[1:], losses[0])
        if training and not loss.requires_grad:
            raise GraphError(f"node {self.ends[0]!r}: its loss depends on no parameter: nothing in {', '.join(self._parts)} can be trained")
        return loss, {id: outputs[id] for id in self.ends}

    def parameters(self) -> dict[str, Any]:
        """The tensors that are trained: {"node.name": tensor}."""
        return {f"{id}.{name}": p for id, part in self._parts.items() for name, p in part.parameters().items()}

    def buffers(self) -> dict[str, Any]:
        """Tensors that modules keep beside their parameters, e.g. running means: {"node.name": tensor}."""
        return {f"{id}.{name}": b for id, part in self._parts.items() for name, b in part.buffers().items()}

    def optimizers(self) -> dict[str, Any]:
        """The optimizer of each member that has parameters; made at first use."""
        return self._optimizers_now()

    def _backward(self, outer: Outer, y: Any) -> float:
        for optimizer in self._optimizers_now().values():
            optimizer.zero_grad(set_to_none=True)
        loss, _ = self.loss(outer, y)
        loss.backward()
        for id, part in self._parts.items():
            parameters = part.parameters()
            if parameters and all(p.grad is None for p in parameters.values()):
                raise GraphError(f"node {id!r}: no gradient reached its parameters; something between it and the loss is detached")
        return float(loss.detach())

    def _loss(self, member: Member, output: Any, y: Any) -> Any:
        y = on_device(y, getattr(output, "device", None))
        own = getattr(member.filter, "loss_fn", None)
        loss = own(output, y) if own is not None else NotImplemented
        if loss is NotImplemented:
            loss = _mean_squared_error(member, output, y)
        if getattr(loss, "ndim", None) != 0:
            raise ValueError(f"node {member.id!r}: its loss_fn gave {_shown(loss)}; a loss is one number (a tensor without dimensions)")
        return loss

    def _optimizers_now(self) -> dict[str, Any]:
        if not self._optimizers:
            for m in self.members:
                parameters = self._parts[m.id].parameters()
                if parameters:
                    self._optimizers[m.id] = _optimizer_for(m, list(parameters.values()))
        return self._optimizers

    # -- gradients -------------------------------------------------------------------------------------------------------------

    def gradients(self, outer: Outer, y: Any) -> tuple[float, dict[str, dict[str, Any]]]:
        """The loss, and {node: {parameter: gradient}} for a batch. Nothing steps."""
        self._check_rows(outer, y)
        loss = self._backward(self._tensors(outer), self._tensors(y))
        return loss, {id: {name: p.grad.detach().clone() for name, p in part.parameters().items() if p.grad is not None}
                      for id, part in self._parts.items() if part.parameters()}

    def apply(self, gradients: Mapping[str, Mapping[str, Any]]) -> None:
        """Step every optimizer with these gradients, which must be there for every parameter of every node."""
        import torch

        learning = {id: part.parameters() for id, part in self._parts.items() if part.parameters()}
        _check_names("node", set(learning), set(gradients), "")
        for id, parameters in learning.items():
            _check_names("parameter", set(parameters), set(gradients[id]), f"node {id!r}: ")
            for name, parameter in parameters.items():
                gradient = torch.as_tensor(gradients[id][name])
                if gradient.shape != parameter.shape:
                    raise ValueError(f"node {id!r}: the gradient of {name!r} is {_shown(gradient)}, the parameter {_shown(parameter)}")
                parameter.grad = gradient.to(parameter).clone()
        for optimizer in self._optimizers_now().values():
            optimizer.step()


def _optimizer_for(member: Member, parameters: list[Any]) -> Any:
    import torch

    make: Callable[[Any], Any] = getattr(member.filter, "optimizer", None) or torch.optim.Adam
    optimizer = make(parameters)
    if not callable(getattr(optimizer, "step", None)):
        raise TypeError(f"node {member.id!r}: optimizer(parameters) of {title_of(member.filter)} gave {type(optimizer).__name__}, "
                        "which has no step()")
    return optimizer


def _mean_squared_error(member: Member, output: Any, y: Any) -> Any:
    import torch

    if y is None:
        raise ValueError(f"node {member.id!r} is trained against targets: fit(X, y), or a loss_fn that needs none")
    target = torch.as_tensor(y)
    if tuple(output.shape) != tuple(target.shape):
        raise ValueError(f"node {member.id!r}: its output is {_shown(output)} and the targets are {_shown(target)}; the mean squared error "
                         "wants equal shapes (for another loss: loss_fn=…)")
    return torch.nn.functional.mse_loss(output, target.to(output.dtype))


def _check_names(what: str, wanted: set[str], given: set[str], where: str) -> None:
    if missing := sorted(wanted - given):
        raise ValueError(f"{where}no gradient for {what} {', '.join(map(repr, missing))}")
    if unknown := sorted(given - wanted):
        raise ValueError(f"{where}a gradient for {', '.join(map(repr, unknown))}, but there is no such {what}; "
                         f"there are {', '.join(map(repr, sorted(wanted)))}")


def _has_tensor(outer: Any) -> bool:
    import torch

    if isinstance(outer, Mapping):
        return any(map(_has_tensor, outer.values()))
    return isinstance(outer, torch.Tensor)


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{str(getattr(value, 'dtype', '')).removeprefix('torch.')}{list(shape)}"
