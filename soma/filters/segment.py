"""A part of a larger network that is trained as one: it takes the gradients of its outputs and gives those of its inputs.

Several micro-batches may be in flight at once. Each has an autograd graph of its own, which lives from `run_part` to `pull_back`; the
gradients of the parameters add up until `step`. Losses are those of its leaves, which are leaves of the whole network.

Refuses: outputs that are no tensors, gradients that do not reach a member, a second backward for a micro-batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from soma.errors import GraphError
from soma.filters.composite import Composite, Member, Outer, _optimizer_for, _shown
from soma.filters.members import part_for
from soma.filters.modules import ModuleFilter
from soma.filters.options import learns


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the whole network is trained, where it is not as its filters say.

    Attributes:
        loss_fn: (output, target) → a scalar tensor, a mean over rows.
        optimizer: parameters → a torch optimizer; one for each node that has parameters.
        scheduler: optimizer → a torch learning-rate scheduler, stepped after each epoch.
    """

    loss_fn: Callable[[Any, Any], Any] | None = None
    optimizer: Callable[[Any], Any] | None = None
    scheduler: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        for key in ("loss_fn", "optimizer", "scheduler"):
            if getattr(self, key) is not None and not callable(getattr(self, key)):
                raise ValueError(f"{key}={getattr(self, key)!r}: a function")


@dataclass(slots=True)
class _Flight:
    """A micro-batch between forward and backward: where gradients come in, and where they go out."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    loss: Any


class Segment(Composite):
    """See the module. Members come in an order in which inputs precede those who take them.

    Args:
        gives: members whose outputs are taken elsewhere.
        leaves: members that have a loss.
    """

    def __init__(self, members: Sequence[Member], gives: Sequence[str], leaves: Sequence[str], recipe: Recipe) -> None:
        super().__init__(members)
        self.gives, self.ends = tuple(gives), tuple(leaves)
        self._recipe = recipe
        self._flights: dict[int, _Flight] = {}
        self._schedulers: dict[str, Any] = {}
        self.most_in_flight = 0

    # -- beginning -------------------------------------------------------------------------------------------------------------

    def make(self) -> bool:
        """Fresh parts; whether they must see data before they can be trained: filters that learn, layers of unknown size."""
        from torch.nn.parameter import UninitializedParameter

        for m in self.members:
            self._parts[m.id] = part_for(m.id, m.filter)
            self._parts[m.id].make()
        self._optimizers.clear()
        return any(learns(m.filter) and not isinstance(m.filter, ModuleFilter) or
                   any(isinstance(p, UninitializedParameter) for p in self._parts[m.id].parameters().values()) for m in self.members)

    def begin_part(self, outer: Outer, y: Any) -> tuple[Any, ...]:
        """Fresh parts that have seen data; what they give for it."""
        import torch

        self.begin(outer, y)
        if not self.gives:
            return ()
        with torch.no_grad():
            outputs = self._run(self._tensors(outer), training=False)
        return tuple(outputs[id] for id in self.gives)

    # -- micro-batches ---------------------------------------------------------------------------------------------------------

    def run_part(self, micro: int, outer: Outer, y: Any, share: float) -> tuple[tuple[Any, ...], float | None]:
        """Take a micro-batch forward: what it gives, and its loss times `share`; None without leaves."""
        import torch

        outer, y = self._tensors(outer), self._tensors(y)
        inputs = {id: v.detach().requires_grad_() for id, v in outer.items()
                  if id and isinstance(v, torch.Tensor) and (v.is_floating_point() or v.is_complex())}
        outputs = self._run({**outer, **inputs}, training=True)
        given = {id: self._sendable(id, outputs[id]) for id in self.gives}
        loss = None
        for member in self.members:
            if member.id in self.ends:
                more = self._loss(member, outputs[member.id], y) * share
                loss = more if loss is None else loss + more
        self._flights[micro] = _Flight(inputs, {id: outputs[id] for id in self.gives}, loss)
        self.most_in_flight = max(self.most_in_flight, len(self._flights))
        return tuple(given.values()), None if loss is None else float(loss.detach())

    def _sendable(self, id: str, output: Any) -> Any:
        import torch

        if not isinstance(output, torch.Tensor):
            raise TypeError(f"node {id!r} gave {_shown(output)}; what passes from stage to stage is a tensor")
        return output.detach().cpu()

    def pull_back(self, micro: int, gradients: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Take a micro-batch back: the gradients of what it took, from all gradients of what it gave; None where none arrives."""
        import torch

        flight = self._flights.pop(micro, None)
        if flight is None:
            raise RuntimeError(f"micro-batch {micro} is not in flight")
        ends, arriving = [], []
        for id, output in flight.outputs.items():
            some = [g for g in gradients[id] if g is not None]
            if some and output.requires_grad:
                ends.append(output)
                arriving.append(sum(some[1:], some[0]).to(output.device))
        if flight.loss is not None and flight.loss.requires_grad:
            ends.append(flight.loss)
            arriving.append(None)
        if ends:
            torch.autograd.backward(ends, arriving)
        return {id: None if v.grad is None else v.grad.cpu() for id, v in flight.inputs.items()}

    # -- steps -----------------------------------------------------------------------------------------------------------------

    def squared_norm(self) -> float:
        """Of the gradients of all parameters: the sum of their squares."""
        import torch

        norms = [torch.linalg.vector_norm(p.grad).cpu() for p in self.parameters().values() if p.grad is not None]
        return float(torch.stack(norms).double().square().sum()) if norms else 0.0

    def step_part(self, scale: float = 1.0) -> None:
        """One step of every optimizer with the gradients that added up, times `scale`.

        Raises:
            GraphError: no gradient reached a member that has parameters.
        """
        for id, part in self._parts.items():
            parameters = part.parameters().values()
            if parameters and all(p.grad is None for p in parameters):
                raise GraphError(f"node {id!r}: no gradient reached its parameters; something between it and the loss is detached")
            if scale != 1.0:
                for p in parameters:
                    if p.grad is not None:
                        p.grad.mul_(scale)
        for optimizer in self._optimizers_now().values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def end_epoch(self) -> None:
        """One step of every learning-rate scheduler."""
        self._optimizers_now()
        for scheduler in self._schedulers.values():
            scheduler.step()

    def _loss(self, member: Member, output: Any, y: Any) -> Any:
        y = y.to(output.device) if hasattr(y, "to") and hasattr(output, "device") else y
        if self._recipe.loss_fn is not None:
            member = replace(member, filter=SimpleNamespace(loss_fn=self._recipe.loss_fn))
        return super()._loss(member, output, y)

    def _optimizers_now(self) -> dict[str, Any]:
        if not self._optimizers:
            for m in self.members:
                parameters = list(self._parts[m.id].parameters().values())
                if parameters:
                    own = m.filter if self._recipe.optimizer is None else SimpleNamespace(optimizer=self._recipe.optimizer)
                    self._optimizers[m.id] = _optimizer_for(replace(m, filter=own), parameters)
            self._schedulers = {} if self._recipe.scheduler is None else {
                id: self._recipe.scheduler(optimizer) for id, optimizer in self._optimizers.items()}
        return self._optimizers

    # -- how far training is ---------------------------------------------------------------------------------------------------

    def momentum(self) -> dict[str, Any]:
        """What optimizers and schedulers remember, by node: a copy, plain data and tensors."""
        return {"optimizers": {id: copy.deepcopy(o.state_dict()) for id, o in self._optimizers_now().items()},
                "schedulers": {id: {k: dict(v) if isinstance(v, dict) else v for k, v in s.state_dict().items()}
                               for id, s in self._schedulers.items()}}

    def load_momentum(self, saved: Mapping[str, Any]) -> None:
        """Take over what `momentum` gave."""
        for id, optimizer in self._optimizers_now().items():
            optimizer.load_state_dict(saved["optimizers"][id])
        for id, scheduler in self._schedulers.items():
            now = scheduler.state_dict()
            scheduler.load_state_dict({k: type(now[k])(v) if isinstance(v, dict) else v for k, v in saved["schedulers"][id].items()})
