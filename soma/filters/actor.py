"""The actor that runs filters in a process of its own: one, several, or a group that is trained as one. States stay here until asked for.

Inputs come as separate arguments, so that refs to other actors' values arrive as the values: what flows between two filters never
passes through the driver. Every call that runs a filter gives its values and, last, a `Report`. With a cache, results are hashed here,
where they are made, and stored before they are answered; who else computes the same meanwhile is waited for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from soma import cluster
from soma.errors import NotFittedError
from soma.filters.composite import Composite, Member
from soma.filters.evolving import Position
from soma.filters.hosted import Hosted
from soma.filters.keeping import Keeper
from soma.filters.modules import Training
from soma.filters.options import title_of
from soma.filters.pieces import Pieces
from soma.filters.reporting import SINK
from soma.filters.seeds import seeded
from soma.filters.summary import summary_of
from soma.filters.tasks import Report, Stored, Task, assembled, flat
from soma.store import CacheSpec


class FilterActor:
    """Runs filters on behalf of a graph.

    Args:
        filters: by node id.
        groups: nodes that are trained as one: the id of the first → (id, inputs) of all, in order.
        cache: where results are stored; None does not store.
    """

    def __init__(self, filters: Mapping[str, Any], groups: Mapping[str, Sequence[tuple[str, tuple[str, ...]]]] | None = None,
                 cache: CacheSpec | None = None) -> None:
        self._hosted: dict[str, Hosted] = {}
        self._groups: dict[str, Composite] = {}
        self._keeper = Keeper(cache)
        self._pieces = Pieces()
        self.load(filters, groups)

    def load(self, filters: Mapping[str, Any], groups: Mapping[str, Sequence[tuple[str, tuple[str, ...]]]] | None = None) -> None:
        """Take in more filters."""
        self._hosted.update({id: Hosted(id, f) for id, f in filters.items()})
        for first, members in (groups or {}).items():
            self._groups[first] = Composite([Member(id, self._hosted[id].filter, inputs) for id, inputs in members])

    # -- single filters --------------------------------------------------------------------------------------------------------

    def forward(self, task: Task, *values: Any) -> Any:
        """The output for an input: (output, report)."""
        hosted = self._hosted[task.node]
        with self._working(task):
            began = time.perf_counter()
            x = self._input(task, values)
            if task.keeping is None:
                output = hosted.forward(x)
                return flat((output,), Report(_ms(began), (summary_of(output),)))
            kept = self._keeper.output(task.keeping, task.keeping.state, "", lambda: hosted.forward(x))
        return flat((kept.value,), Report(_ms(began), (summary_of(kept.value),), task.keeping.state, (kept.digest,),
                                          output_tier=kept.tier, warning=kept.warning))

    def fit(self, task: Task, y: Any, *values: Any) -> Any:
        """Learn: ([output], [state], report), as `task.give` and `task.give_state` ask."""
        return self._fit(task, y, values, lambda hosted, x: hosted.fit(x, y))

    def batched_fit(self, task: Task, y: Any, *values: Any) -> Any:
        """Learn from batches of `task.batch_size` rows, one after the other: one model, all batches. Gives what `fit` gives."""
        size = task.batch_size
        assert size is not None
        return self._fit(task, y, values, lambda hosted, x: hosted.fit_in_batches(x, y, size))

    def _fit(self, task: Task, y: Any, values: Sequence[Any], learn: Callable[[Hosted, Any], Any]) -> Any:
        hosted = self._hosted[task.node]
        with self._working(task):
            began = time.perf_counter()
            x = self._input(task, values)
            state = self._keeper.state(task.keeping, lambda: learn(hosted, x))
            hosted.take(state.value)
            outputs: tuple[Any, ...] = ()
            digests: tuple[str, ...] = ()
            tier = warning = ""
            if task.give:
                out = self._keeper.output(task.keeping, state.digest, "", lambda: hosted.forward(x))
                outputs, digests, tier, warning = (out.value,), (out.digest,), out.tier, out.warning
        report = Report(_ms(began), tuple(map(summary_of, outputs)), state.digest, digests, state.tier, tier,
                        warning=state.warning or warning)
        return flat((*outputs, *((hosted.state,) if task.give_state else ())), report)

    # -- chunks ----------------------------------------------------------------------------------------------------------------

    def learn(self, task: Task, y: Any, *values: Any) -> Any:
        """Go on learning from one chunk: (report)."""
        with self._working(task):
            began = time.perf_counter()
            x = self._input(task, values)
            if task.node in self._groups:
                group = self._groups[task.node]
                if task.first:
                    group.begin(x, y)
                loss = group.train(x, y, task.training(_training_of(group)), task.seed)
                self._take(group)
                return flat((), Report(_ms(began), loss=loss))
            self._hosted[task.node].learn(x, y, first=task.first)
        return flat((), Report(_ms(began)))

    def evolve(self, task: Task, *values: Any) -> Any:
        """The output for a chunk of a stream, after which the state moves on: (output, [position], report), as `task.give_state` asks."""
        hosted = self._hosted[task.node]
        with self._working(task):
            began = time.perf_counter()
            output, said = hosted.evolve(task.run, task.chunk, self._input(task, values))
        return flat((output, *((hosted.position(task.run),) if task.give_state else ())), Report(_ms(began), (said,)))

    def collect(self, task: Task, *values: Any) -> Any:
        """Keep a chunk of a stream until all are there: (report)."""
        self._pieces.add(task.run, task.node, task.chunk, self._input(task, values))
        return flat((), Report())

    def forward_all(self, task: Task, *values: Any) -> Any:
        """The outputs for all chunks that were collected, at once, and what else comes at once: (outputs…, report)."""
        with self._working(task):
            began = time.perf_counter()
            x = self._pieces.together(task, self._input(task, values))
            if task.node in self._groups:
                out = self._outputs(self._groups[task.node], task, "", x)
                return flat(out.values, Report(_ms(began), out.summaries))
            output = self._hosted[task.node].forward(x)
        return flat((output,), Report(_ms(began), (summary_of(output),)))

    def rewind(self, run: str, node: str, to: Position | None) -> None:
        """An evolving filter stands there in a stream now; None is where it begins."""
        self._hosted[node].rewind(run, to)

    def forget(self, run: str) -> dict[str, Position]:
        """A stream is over; where evolving filters stood at its end, by node."""
        self._pieces.forget(run)
        ended = {id: hosted.forget(run) for id, hosted in self._hosted.items()}
        return {id: position for id, position in ended.items() if position is not None}

    # -- groups ----------------------------------------------------------------------------------------------------------------

    def composite_fit(self, task: Task, y: Any, *values: Any) -> Any:
        """Train the group that begins with `task.node`: (outputs…, [states], report with the loss)."""
        group = self._groups[task.node]
        loss: list[float] = []

        def train() -> dict[str, Any]:
            loss.append(group.fit(x, y, task.training(_training_of(group)), task.seed))
            return group.states()

        with self._working(task):
            began = time.perf_counter()
            x = self._input(task, values)
            states = self._keeper.state(task.keeping, train)
            if states.tier:
                group.load(states.value)
            self._take(group, states.value)
            out = self._outputs(group, task, states.digest, x) if task.give else _Outputs()
        report = Report(_ms(began), out.summaries, states.digest, out.digests, states.tier, out.tier,
                        loss[0] if loss else None, states.warning or out.warning)
        return flat((*out.values, *((states.value,) if task.give_state else ())), report)

    def composite_forward(self, task: Task, *values: Any) -> Any:
        """The outputs that `task.outputs` names: (outputs…, report)."""
        group = self._groups[task.node]
        with self._working(task):
            began = time.perf_counter()
            x = self._input(task, values)
            out = self._outputs(group, task, task.keeping.state if task.keeping is not None else "", x)
        return flat(out.values, Report(_ms(began), out.summaries, "", out.digests, output_tier=out.tier, warning=out.warning))

    def _outputs(self, group: Composite, task: Task, state: str, x: Any) -> _Outputs:
        made: dict[str, Any] = {}

        def output(id: str) -> Any:
            if not made:
                self._ready(group)
                made.update(group.forward(x))
            return made[id]

        kept = [self._keeper.output(task.keeping, state, id, lambda id=id: output(id)) for id in task.outputs]  # type: ignore[misc]
        return _Outputs(tuple(k.value for k in kept), tuple(k.digest for k in kept), kept[0].tier if kept else "",
                        next((k.warning for k in kept if k.warning), ""))

    def _ready(self, group: Composite) -> None:
        """The group's parts hold the states of its nodes."""
        if group.loaded:
            return
        for m in group.members:
            hosted = self._hosted[m.id]
            if not hosted.fitted:
                raise NotFittedError(m.id, title_of(m.filter))
        group.load({m.id: self._hosted[m.id].state or None for m in group.members})

    def _take(self, group: Composite, states: Mapping[str, Any] | None = None) -> None:
        for id, state in (group.states() if states is None else states).items():
            self._hosted[id].take(state)

    def get_gradients(self, task: Task, y: Any, *values: Any) -> tuple[float, dict[str, dict[str, Any]]]:
        """The loss and {node: {parameter: gradient}} of a batch, for the group that begins with `task.node`. Nothing steps."""
        group = self._groups[task.node]
        with self._working(task):
            x = self._input(task, values)
            if task.first and not group.loaded:
                group.begin(x, y)
            return group.gradients(x, y)

    def apply_gradients(self, node: str, gradients: Mapping[str, Mapping[str, Any]]) -> None:
        """Step the group's optimizers with gradients as `get_gradients` gives them.

        Raises:
            ValueError: one is missing, unknown, or of another shape than its parameter; node and parameter are named.
        """
        group = self._groups[node]
        self._ready(group)
        group.apply(gradients)
        self._take(group)

    # -- states and the end ----------------------------------------------------------------------------------------------------

    def get_state(self, node: str) -> Any:
        return self._hosted[node].known_state()

    def set_state(self, node: str, state: Any) -> None:
        """Take over a state: a value, or one that lies in the cache."""
        self._hosted[node].take(self._keeper.read(state) if isinstance(state, Stored) else state)
        self._unload(node)

    def set_states(self, states: Any) -> None:
        """The same for several nodes at once."""
        for node, state in (self._keeper.read(states) if isinstance(states, Stored) else states).items():
            self.set_state(node, state)

    def _unload(self, node: str) -> None:
        for group in self._groups.values():
            if any(m.id == node for m in group.members):
                group.unload()

    def pid(self) -> int:
        """The process that runs these filters."""
        return os.getpid()

    def shutdown(self) -> None:
        """End this process, after the calls before this one."""
        cluster.exit_actor()

    # -- around every call -----------------------------------------------------------------------------------------------------

    def _input(self, task: Task, values: Sequence[Any]) -> Any:
        return assembled(task.shape, iter([self._keeper.read(v) if type(v) is Stored else v for v in values]))

    @contextmanager
    def _working(self, task: Task) -> Iterator[None]:
        """Inside, the filter may report, and draws from its seed."""
        token = SINK.set(lambda fields: cluster.tell({**fields, "node": task.node, "run_id": task.run}))
        try:
            if task.seed is None:
                yield
            else:
                with seeded(task.seed):
                    yield
        finally:
            SINK.reset(token)


class _Outputs:
    """Of a group."""

    def __init__(self, values: tuple[Any, ...] = (), digests: tuple[str, ...] = (), tier: str = "", warning: str = "") -> None:
        self.values, self.digests, self.tier, self.warning = values, digests, tier, warning

    @property
    def summaries(self) -> tuple[str, ...]:
        return tuple(map(summary_of, self.values))


def _training_of(group: Composite) -> Training:
    """What the last member that says something says."""
    last = group.members[-1].filter
    own = getattr(last, "training", None)
    return own if isinstance(own, Training) else Training()


def _ms(began: float) -> float:
    return (time.perf_counter() - began) * 1e3
