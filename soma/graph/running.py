"""How a graph is run: its processes, its cache, its runs. The part of a `Graph` behind its verbs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any, Self

from soma.cluster.hub import Subscriber
from soma.errors import ActorDiedError, CacheMissError, GraphError
from soma.events import Event, RunStarted
from soma.filters import Identity, options_of, resolved
from soma.graph.builder import Blueprint
from soma.graph.building import Building
from soma.graph.calls import Calls, Settings
from soma.graph.cancelling import UnderWay
from soma.graph.chunked import Chunked
from soma.graph.chunks import Source
from soma.graph.course import Course
from soma.graph.execution import Execution
from soma.graph.explaining import LastRun
from soma.graph.lasting import Lasting
from soma.graph.learning import Lesson
from soma.graph.plan import Plan
from soma.graph.processes import Processes
from soma.graph.progress import bar
from soma.graph.recall import Learning, Recall
from soma.graph.stream import Stream
from soma.graph.values import Value, got
from soma.graph.waiting import wait_for
from soma.graph.walk import Walk
from soma.runs import Run, RunFolder
from soma.runs.run import new_id
from soma.store import Cache, CacheSpec


class Running(Building):
    """See `Graph` for the options."""

    def __init__(self, expression: Any, name: str | None, *, cache: str | Cache | None, cache_path: str | PathLike[str] | None,
                 record: bool | None, wait: float) -> None:
        super().__init__(expression, name)
        self._options: Mapping[str, Any] = {"cache": cache, "cache_path": cache_path, "record": record, "wait": wait}
        self._cache = Cache.of(cache, cache_path)
        self._record, self._wait = record, wait
        self._made: Processes | None = None
        self._identities: dict[str, Identity] = {}
        self._last: LastRun | None = None
        self._underway = UnderWay()
        self._listeners: list[Subscriber] = []

    @property
    def cache(self) -> Cache | None:
        """Where results are kept."""
        return self._cache

    def on_event(self, fn: Callable[[Event], None]) -> Callable[[], None]:
        """Call `fn` with every event of this graph's own runs from the next one on, in the thread that runs it.

        Returns:
            A function that ends the subscription.
        """
        self._listeners.append(fn)
        return lambda: self._listeners.remove(fn) if fn in self._listeners else None

    def close(self) -> None:
        """End the graph's processes; what they learnt is gone with them, unless a cache has it. The next use starts new ones."""
        if self._made is not None:
            self._made.close()

    @property
    def reserves(self) -> bool:
        """Whether its processes hold what others may wait for."""
        return any(o.num_cpus or o.num_gpus or o.memory for o in map(options_of, self._compile()[1].values()))

    def take_over(self, other: Running) -> None:
        """Run in the processes of another graph, which has none afterwards, if both have the same nodes, edges, options and cache; else
        they are ended. What was learnt in them is forgotten."""
        (plan, filters), (before, others) = self._compile(), other._compile()
        made, other._made = other._made, None
        if made is None:
            return
        alike = _shape(plan, filters) == _shape(before, others) and _spec(self._cache) == _spec(other._cache)
        with contextlib.ExitStack() as stack:
            stack.callback(made.close)
            if alike and self._made is None:
                with contextlib.suppress(ActorDiedError):  # one died meanwhile: begin with new ones
                    made.exchange(plan, {id: resolved(f, id) for id, f in filters.items()})
                    self._made = made
                    stack.pop_all()

    def cancel(self, *, force: bool = True) -> int:
        """End all runs of this graph that are under way, from another thread; gives how many there were.

        Who waits for one gets `TaskCancelledError`, within a second. Calls are asked to end first; `force` ends the processes of those
        that do not (code in C that does not return), and what only they had learnt is lost. Processes that the cancelled runs had started
        are ended, and with them all that was reserved or kept; others stay as they were. The graph can be used again at once.
        """
        return self._underway.cancel(force=force)

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process it goes as it was written; what it learnt and its processes stay."""
        return _written, (type(self), self.name, dict(self._options), self._blueprint)

    def _ready(self, what: str, settings: Settings) -> Plan:
        plan, filters = self._compile()
        if not plan.nodes:
            raise GraphError("the graph has no nodes: soma.Graph(a >> b), or g.node(id, filter)")
        if settings.epochs is not None and not any(map(plan.is_composite, plan.units)):
            raise ValueError("epochs=: no node of this graph is trained in epochs; only differentiable ones are")
        if self._made is None:
            self._made = Processes(plan, {id: resolved(f, id) for id, f in filters.items()}, self._cache, self._wait)
        return plan

    @property
    def _processes(self) -> Processes:
        """Those of a graph that was made ready."""
        assert self._made is not None
        return self._made

    def _changed(self) -> None:
        super()._changed()
        self.close()
        self._made = None
        self._identities.clear()

    def _is_recorded(self, asked: bool | None) -> bool:
        """Whether a run is recorded that is not unless somebody says so."""
        return bool(self._record) if asked is None else asked

    def _is_kept(self, asked: bool | None) -> bool:
        """The same for one that is recorded unless somebody says that it is not."""
        return self._record is not False if asked is None else asked

    @contextlib.contextmanager
    def _running(self, what: str, plan: Plan, nodes: int, seed: int | None, *, progress: bool | None, recorded: bool) -> Iterator[Run]:
        """A run that has begun; it ends with its `with`, and may be cancelled until then. `nodes` is how many will run."""
        run = self._new_run(what, plan, nodes, seed, progress=progress, recorded=recorded)
        with self._underway.run(run.id, self._processes), run:
            yield run

    def _new_run(self, what: str, plan: Plan, nodes: int, seed: int | None, *, progress: bool | None, recorded: bool,
                 chunks: int | None = None) -> Run:
        folder = RunFolder.create(new_id(what), what, seed=seed, params={"graph": self.name}) if recorded else None
        if folder is not None:
            folder.add_plan(plan.to_json())
        run = Run(what, folder, (*bar(what, progress, chunks), *self._listeners))
        run.emit(RunStarted, what=what, plan_summary=plan.formula()[:500], nodes=nodes)
        return run

    def _execution(self, plan: Plan, run: Run, settings: Settings, *, cached: bool = True) -> Execution:
        recall = None
        if self._cache is not None and cached:
            recall = Recall(self._cache, self._processes.filters, self._identities, settings.seed, run.id, run.emit)
        execution = Execution(Calls(self._processes, run, self._cache, recall, settings))
        self._underway.drives(run.id, execution)
        return execution

    def _run_walk(self, plan: Plan, run: Run, settings: Settings, X: Any, mode: Any, wanted: tuple[str, ...]) -> dict[str, Any]:
        missed: set[str] = set()
        while True:
            execution = self._execution(plan, run, settings)
            try:
                walk = self._begin(plan, execution, X, mode, wanted)
                wait_for(execution, execution.drive(walk))
                return self._outputs(plan, run, execution, walk)
            except CacheMissError as e:  # an entry was there and is not: it was removed, so this time it is made
                if str(e) in missed:
                    raise
                missed.add(str(e))
            finally:
                self._remember(plan, run, execution)

    def _begin(self, plan: Plan, execution: Execution, X: Any, mode: Any, wanted: tuple[str, ...]) -> Walk:
        x, y = Value.of(X), execution.calls.settings.y
        if mode == "fit":
            if execution.calls.recall is not None:
                execution.calls.recall.learning = _learning(execution)
            if len(plan.learners) > 1:
                y.share()
        if sum(not n.inputs for n in plan.nodes) > 1:
            x.share()
        walk = Walk(plan, mode, wanted)
        execution.begin(walk, x)
        return walk

    def _outputs(self, plan: Plan, run: Run, execution: Execution, walk: Walk) -> dict[str, Any]:
        for remark in walk.remarks:
            warnings.warn(remark, RuntimeWarning, stacklevel=4)
        return {id: got(named, self._cache) for id, named in (walk.outputs or {}).items()}

    def _remember(self, plan: Plan, run: Run, execution: Execution) -> None:
        self._last = LastRun(run.what, run.id, plan, dict(execution.calls.milliseconds), dict(execution.calls.losses),
                             list(execution.calls.recall.whys) if execution.calls.recall is not None else [], execution.failed_node)
        if run.folder is not None and self._processes.schedule:
            run.folder.add_schedule(self._processes.schedule)

    def _stream(self, source: Source, lasting: Lasting, seed: int | None, progress: bool | None, record: bool | None) -> Stream:
        plan = self._ready("stream", settings := Settings(seed=seed))
        lasting.checked(plan.formula())
        chunked = Chunked.of(plan)
        run = self._new_run("stream", plan, len(plan.units), seed, progress=progress, recorded=self._is_kept(record), chunks=source.total)
        execution = self._execution(plan, run, settings, cached=False)
        return Stream(Course(chunked, self._processes, execution, source, lasting, self._cache), self._underway)

    def _fit_stream(self, source: Source, settings: Settings, progress: bool | None, record: bool | None) -> Self:
        plan = self._ready("fit", settings)
        with self._running("fit", plan, len(plan.learners), settings.seed, progress=progress, recorded=self._is_kept(record)) as run:
            execution = self._execution(plan, run, settings, cached=False)
            try:
                Lesson(plan, self._processes, execution, source, settings).run()
            finally:
                self._remember(plan, run, execution)
        return self


def _learning(execution: Execution) -> Learning:
    """What the states of a fit depend on, besides inputs and seed."""
    s, recall = execution.calls.settings, execution.calls.recall
    assert recall is not None
    if s.y.raw is not None:
        recall.digest_raw(s.y, "the targets")
    told = {"batch size": s.batch_size, "epochs": s.epochs, "shuffle": s.shuffle}
    return Learning(s.y.digest, {name: str(value) for name, value in told.items() if value is not None})


def _shape(plan: Plan, filters: Mapping[str, Any]) -> list[Any]:
    """All that decides where the filters of a plan run, and what with."""
    return [(n.id, n.inputs, p.group(n.id), options_of(filters[n.id]) if n.id in filters else n.label)
            for p in plan.plans() for n in p.nodes]


def _spec(cache: Cache | None) -> CacheSpec | None:
    return None if cache is None else cache.spec


def _written(cls: Callable[..., Running], name: str | None, options: Mapping[str, Any], blueprint: Blueprint) -> Running:
    made = cls(name=name, **options)
    made._blueprint = blueprint
    return made
