"""`DataParallel`: one model, a replica in each of several processes, every batch shared among them.

    trained = DataParallel(net, 2, loss_fn=F.cross_entropy, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)).fit(X, y, epochs=5)
    trained.model, trained.history

`batch_size` is that of the whole group, so the number of ranks changes nothing but the time: n ranks on a batch make the step that one
process makes on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.cluster.hub import Subscriber
from soma.filters import filter as make_filter
from soma.filters.composite import Member
from soma.filters.modules import ModuleFilter, is_module
from soma.graph import Graph
from soma.train import recording
from soma.train.course import Course, History, Ranks
from soma.train.rowsource import Items, Source, loader_options, source_of
from soma.train.settings import EarlyStop, Settings
from soma.train.sites import site_of


@dataclasses.dataclass(frozen=True, slots=True)
class Trained(recording.Recorded):
    """What a training gave.

    Attributes:
        model: the torch module with its trained weights, or the graph, which has them now.
        history: figures of each epoch: epoch, loss (the mean over its rows), seconds, rows_per_s, val_loss, val_<metric>.
        steps: optimizer steps that were made.
        skipped: steps that were left out, for a gradient was NaN or infinite.
        generations: how often the group was formed: 1, and one more for each time that ranks died.
        run_id: of its run, which is `run` if it was recorded; `soma runs show` takes it.
    """

    model: Any
    history: History
    steps: int
    skipped: int
    generations: int
    run_id: str


class DataParallel:
    """See the module.

    Args:
        model: a torch module, a filter of one (`soma.filter(Net)(…)`), or a `soma.Graph` all of whose nodes torch can differentiate.
        n: how many ranks.
        backend: "shm" (shared memory of one machine), "actors" (ranks on any machines), "gloo", "nccl" (GPUs; both on one machine),
            "parameter_server", or "auto": where no machine can hold all ranks "actors", else "nccl" if ranks have GPUs, else "shm".
        loss_fn: (output, target) → the mean over the rows, a scalar tensor; default is the filter's own, else the mean squared error.
        optimizer: parameters → a torch optimizer; default is the filter's own, else Adam.
        scheduler: optimizer → a scheduler of torch's, stepped each epoch, or each "step" with `scheduler_step`.
        num_cpus, num_gpus, memory, tags: of each rank, as for an actor.
        max_restarts: how many ranks that died are replaced, in all.
        min_ranks: with how few to go on when there are no more replacements; default n.
        bucket_bytes: how many bytes of gradients are reduced at once.
        staleness: of a parameter server: how many steps a rank may be ahead of the slowest.
        amp: bfloat16 where the model is on a GPU; on a CPU it changes nothing.
    """

    def __init__(self, model: Any, n: int, *, backend: str = "auto", loss_fn: Any = None, optimizer: Any = None, scheduler: Any = None,
                 scheduler_step: str = "epoch", num_cpus: float = 0, num_gpus: float = 0, memory: int | None = None,
                 tags: Sequence[str] = (), max_restarts: int = 3, min_ranks: int | None = None, bucket_bytes: int | None = None,
                 staleness: int = 0, amp: bool = False) -> None:
        if type(n) is not int or n < 1:
            raise ValueError(f"n={n!r}: the number of ranks, from 1")
        if min_ranks is not None and not 1 <= min_ranks <= n:
            raise ValueError(f"min_ranks={min_ranks!r}: from 1 to n={n}")
        self._model = model
        self._members = _members(model, loss_fn, optimizer, num_gpus)
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "tags": tuple(tags), "max_restarts": 0,
                   **({} if memory is None else {"memory": memory})}
        self._settings: dict[str, Any] = {
            "backend": backend, "scheduler": scheduler, "scheduler_step": scheduler_step, "staleness": staleness, "amp": amp,
            **({} if bucket_bytes is None else {"bucket_bytes": bucket_bytes})}
        Settings(**self._settings)  # a wrong option is an error here
        self._ranks = Ranks(n, n if min_ranks is None else min_ranks, max_restarts, backend, options)

    def fit(self, X: Any, y: Any = None, *, epochs: int = 1, batch_size: int | None = None, shuffle: bool | None = None,
            drop_last: bool | None = None, seed: int = 0, accumulate: int = 1, clip_norm: float | None = None,
            on_nonfinite: Literal["raise", "skip"] = "raise",
            validation: Any = None, metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None, early_stop: EarlyStop | None = None,
            callbacks: Sequence[Callable[[dict[str, float]], Any]] = (), checkpoint: str | os.PathLike[str] | None = None,
            checkpoint_every: int | None = None, resume: bool = False, record: bool = True, progress: bool | None = None,
            listeners: Sequence[Subscriber] = ()) -> Trained:
        """Train.

        Args:
            X, y: arrays, tensors, lists, dicts of such, refs to those, or a torch Dataset or DataLoader as X.
            epochs, batch_size (default 32), shuffle (default True), drop_last (default False): `batch_size` rows make a step, whatever
                the number of ranks; a DataLoader brings its own defaults.
            seed: decides weights, order and dropout.
            accumulate: in how many parts each rank takes its share of a batch, to save memory.
            clip_norm: the most that the norm of all gradients may be.
            on_nonfinite: what a gradient that is NaN or infinite does: "raise" a NonFiniteError, or "skip" the step.
            validation: (X, y), or a Dataset: evaluated after each epoch, as `val_loss` and with each of the `metrics`.
            metrics: name → (output, target) → the mean over the rows.
            early_stop: when to stop before the last epoch.
            callbacks: called with each epoch's figures; one that returns True, or "stop", ends the training.
            checkpoint: a file, replaced after each epoch, and every `checkpoint_every` steps. Without one there is a temporary file.
            resume: go on from `checkpoint`, if it is there; it must be of a fit like this one, the number of ranks and of epochs apart.
            record, progress, listeners: see `soma.runs`.

        Raises:
            ValueError: X and y do not belong together, or fewer rows than ranks.
            NonFiniteError: see `on_nonfinite`.
            ActorDiedError: ranks died, more often than may be.
            PlacementError: the backend needs all ranks on one machine, and none can hold them.
        """
        told = loader_options(X)
        source = source_of(_opened(X), _opened(y))
        if source.rows < self._ranks.n:
            raise ValueError(f"{source.rows} rows cannot be shared among {self._ranks.n} ranks")
        if resume and checkpoint is None:
            raise ValueError("resume=True goes with checkpoint=path")
        backend = site_of(self._ranks.backend, self._ranks.n, self._ranks.options, cluster.machines()).backend
        with contextlib.ExitStack() as stack:
            path = checkpoint if checkpoint is not None else Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="soma-train-"))) / "checkpoint.safetensors"
            settings = Settings(
                **self._settings, epochs=epochs, seed=seed, accumulate=accumulate, clip_norm=clip_norm, on_nonfinite=on_nonfinite,
                batch_size=_chosen(batch_size, told.get("batch_size"), 32), shuffle=_chosen(shuffle, told.get("shuffle"), True),
                drop_last=_chosen(drop_last, told.get("drop_last"), False), metrics=dict(metrics or {}),
                checkpoint=str(path), checkpoint_every=checkpoint_every)
            title = f"DataParallel({_title(self._model)}, {self._ranks.n} ranks)"
            run = stack.enter_context(recording.begin(title, seed=seed, params={"epochs": epochs, "batch_size": settings.batch_size,
                                                                                "ranks": self._ranks.n,
                                                                                "backend": backend},
                                                      record=record, progress=progress, ranks=self._ranks.n, listeners=tuple(listeners)))
            course = Course(self._ranks, settings, source.rows, run, early_stop, callbacks)
            resumed = str(path) if resume and Path(path).exists() else None
            if resumed is not None:
                course.check(resumed)
            course.go(self._members, _refs(source, X, y), None if validation is None else _validation(validation), resumed)
            model = _give(self._model, self._members, course.states())
            return Trained(model, course.history, course.steps, course.skipped, course.generations, run.id)


def _members(model: Any, loss_fn: Any, optimizer: Any, num_gpus: float) -> tuple[Member, ...]:
    given = {k: v for k, v in (("loss_fn", loss_fn), ("optimizer", optimizer)) if v is not None}
    if isinstance(model, Graph):
        if given:
            raise ValueError(f"{', '.join(given)}= of a graph belong to its filters: soma.filter(Net, loss_fn=…, optimizer=…)")
        plan, filters = model.compile(), model.filters
        if len(plan.units) != 1 or not plan.is_composite(plan.units[0]):
            raise ValueError(f"DataParallel trains graphs that torch can differentiate as one; of {plan.formula()} that is not so: "
                             "every node must be a torch module or differentiable=True")
        return tuple(Member(n.id, filters[n.id], tuple(n.inputs)) for n in plan.nodes)
    if isinstance(model, ModuleFilter):
        again = ModuleFilter(model.module, model.args, model.kwargs, options=model.__soma_filter__,
                             training=dataclasses.replace(model.training, **given))
        return (Member("model", again, ()),)
    if not is_module(model) or isinstance(model, type):
        raise TypeError("DataParallel trains a torch module, soma.filter(Net)(…) or a soma.Graph, "
                        f"not {type(model).__name__} {model!r:.60}")
    return (Member("model", make_filter(model, **given, num_gpus=num_gpus), ()),)


def _give(model: Any, members: tuple[Member, ...], states: dict[str, Any]) -> Any:
    """The trained model, as it was given."""
    if isinstance(model, Graph):
        model.load_state(states)
        return model
    (member,) = members
    module = member.filter.make()
    module.load_state_dict(states[member.id])
    return module.eval()


def _refs(source: Source, X: Any, y: Any) -> tuple[Any, Any]:
    """The data where all ranks can reach it: put once."""
    if isinstance(source, Items):
        return cluster.put(source), None
    first, second = (v if v is None or isinstance(v, ObjectRef) else cluster.put(v) for v in (X, y))
    return first, second


def _validation(given: Any) -> tuple[Any, Any]:
    X, y = given if isinstance(given, tuple) else (given, None)
    return _refs(source_of(_opened(X), _opened(y), "validation"), X, y)


def _opened(value: Any) -> Any:
    return cluster.get(value) if isinstance(value, ObjectRef) else value


def _chosen(asked: Any, told: Any, default: Any) -> Any:
    return asked if asked is not None else told if told is not None else default


def _title(model: Any) -> str:
    return model.name or "graph" if isinstance(model, Graph) else str(getattr(model, "__soma_title__", type(model).__name__))
