"""`soma.Graph`: what a user holds. It keeps the blueprint, the plan, the processes and the last run; the work is done elsewhere.

Actors are made when they are first needed and end with `close()`, with the graph itself, or with the cluster. What each filter has learnt
lies in its actor; with a cache it also lies there, and survives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.errors import GraphError
from soma.filters import mismatch
from soma.graph import saving
from soma.graph.above import offered
from soma.graph.calls import Settings
from soma.graph.chunks import Source
from soma.graph.explaining import Explanation, explained, picture
from soma.graph.lasting import Lasting, StreamCheckpoint
from soma.graph.program import calls_in
from soma.graph.running import Running
from soma.graph.stream import Stream
from soma.graph.values import Value
from soma.graph.waiting import wait_async
from soma.store import Cache


class Graph(Running):
    """A graph of filters, each in a process of its own.

        g = soma.Graph(Scale() >> (Small() | Large()) >> Vote())
        g.fit(X, y)
        g.forward(X2)

    A node with one predecessor gets its output; with several, `{predecessor id: output}`; with none, the graph's input. Nodes
    may also be named: `g = soma.Graph(); g.node("scale", Scale()); g.node("vote", Vote()); g.connect("scale", "vote")`.

    Args:
        expression: filters wired with `>>`, `|`, `[…]`, `soma.loop` and `soma.branch`; graphs may be parts of graphs.
        name: what it is called inside another graph, and in its runs.
        cache: None, "memory" (this process), "disk" (shared by all that use the directory), "tiered" (both), or a `soma.Cache`.
        cache_path: directory of the disk cache, or the URL of one that is shared ("s3://…"); by default `$SOMA_CACHE` or the user's.
        record: which runs leave a directory under `.soma/runs` (or `$SOMA_RUNS`): None fits and streams, True all, False none.
        wait: seconds to wait for resources that others hold; 0 raises PlacementError at once.

    Every method that runs it raises the failing node's own exception, with a note naming node and attempt; GraphError if the graph
    cannot be.
    """

    def __init__(self, expression: Any = None, *, name: str | None = None, cache: str | Cache | None = None,
                 cache_path: str | PathLike[str] | None = None, record: bool | None = None, wait: float = 0.0) -> None:
        super().__init__(expression, name, cache=cache, cache_path=cache_path, record=record, wait=wait)

    # -- running ---------------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, batch_size: int | None = None, seed: int | None = None, *, epochs: int | None = None,
            shuffle: bool | None = None, stream: bool = False, chunk_size: int | None = None, progress: bool | None = None,
            record: bool | None = None) -> Graph:
        """Fit every node that learns, in the order of the graph, and give the graph back.

        Args:
            X: input of the nodes without predecessors; any value, or a ref to one. With `stream`, see there.
            y: targets, given to every `fit`; or a ref.
            batch_size: rows of one step: each node that learns does so by `partial_fit`, batch after batch; torch modules by an
                optimizer step for each. One model learns from all batches.
            seed: all random numbers of the run follow from it.
            epochs, shuffle: of torch modules, instead of what their filters say.
            stream: X is an array that is taken in rows, or an iterable of (x, y) chunks, or a function that gives one: each node learns
                by `partial_fit` from chunk after chunk, and no process ever holds all of them.
            chunk_size: rows of a chunk, where X is an array.
            progress: a bar on stderr: None where that is a terminal, True always, False never.
            record: keep the run's events in its directory; None as the graph says.
        """
        settings = Settings(seed=seed, batch_size=batch_size, epochs=epochs, shuffle=shuffle, y=Value.of(y))
        if stream:
            return self._fit_stream(Source(X, y, chunk_size=chunk_size, pairs=True), settings, progress, record)
        if chunk_size is not None:
            raise ValueError("chunk_size goes with stream=True; for steps of a fit on whole data it is batch_size")
        problem = "" if isinstance(X, ObjectRef) or isinstance(y, ObjectRef) else mismatch(X, y)
        if problem:
            raise ValueError(f"fit: X and y do not belong together: {problem}")
        plan = self._ready("fit", settings)
        nodes = calls_in(plan, "fit", ())
        with self._running("fit", plan, nodes, seed, progress=progress, recorded=self._is_kept(record)) as run:
            self._run_walk(plan, run, settings, X, "fit", ())
        return self

    def forward(self, X: Any, *, stream: bool = False, chunk_size: int | None = None, seed: int | None = None,
                progress: bool | None = False, record: bool | None = None) -> Any:
        """The output of the last node for `X`; with several last nodes, `{id: output}`.

        Args:
            X: any value, or a ref to one. With `stream`: an array that is taken in rows, or an iterable of chunks.
            stream: give an iterator of outputs, one for each chunk, in order and as they are done: `stream(X)`, which can do more.
            chunk_size: rows of a chunk, where X is an array; by default 1,024.
            seed: for filters that draw random numbers.
            progress, record: see `fit`.
        """
        if stream:
            return self._stream(Source(X, chunk_size=chunk_size), Lasting(), seed, progress, record)
        if chunk_size is not None:
            raise ValueError("chunk_size goes with stream=True")
        plan = self._ready("forward", settings := Settings(seed=seed))
        leaves = plan.leaves
        nodes = calls_in(plan, "forward", leaves)
        with self._running("forward", plan, nodes, seed, progress=progress, recorded=self._is_recorded(record)) as run:
            outputs = self._run_walk(plan, run, settings, X, "forward", leaves)
        return outputs[leaves[0]] if len(leaves) == 1 else outputs

    def stream(self, X: Any, *, chunk_size: int | None = None, seed: int | None = None, max_restarts: int = 0, retain: int = 64,
               checkpoint_every: int | None = None, checkpoint_path: str | PathLike[str] | None = None, allow_pickle: bool = False,
               resume: StreamCheckpoint | None = None, progress: bool | None = False, record: bool | None = None) -> Stream:
        """An iterator of the last node's outputs for chunk after chunk of `X`, in order and as they are done. A bounded number of chunks
        is under way at once (`credit` of what is given), so memory does not grow with how many there are.

        Args:
            X: an array, which is taken in rows, an iterable of chunks, or a function that gives one. Read once, whatever happens.
            chunk_size: rows of a chunk, where X is an array; by default 1,024.
            seed: for filters that draw random numbers.
            max_restarts: how many deaths of its processes the stream survives. They are made anew with what they had learnt, and the
                chunks whose results were not given go through again, in every node, so each must be ready to see a chunk twice. Every
                result is given once. With 0, a death ends the stream, unless `max_retries` of the filter repeats that one call.
            retain: how many chunks are kept, besides those under way, so that they can go through again. As many are needed as
                `checkpoint_every` says; where a barrier's process may die, as many as there are.
            checkpoint_every: after how many chunks the states of evolving nodes are copied, so that they need not begin again from the
                first chunk; by default 16 if processes may come again or a path is given, else never.
            checkpoint_path: write `checkpoint()` there as often, and at the end; a result counts as given when the next is asked for.
            allow_pickle: of that file, as in `save`.
            resume: a checkpoint, to go on behind it; X must give the same chunks from the first on, and the graph have learnt the same.
            progress, record: see `fit`.

        Raises:
            StreamBrokenError: more deaths than `max_restarts`, or a chunk is needed that is not kept any more; when it is iterated.
        """
        lasting = Lasting(max_restarts=max_restarts, retain=retain, checkpoint_every=checkpoint_every, allow_pickle=allow_pickle,
                          checkpoint_path=None if checkpoint_path is None else Path(checkpoint_path), resume=resume)
        return self._stream(Source(X, chunk_size=chunk_size), lasting, seed, progress, record)

    def predict(self, X: Any) -> Any:
        """scikit-learn's word for `forward`."""
        return self.forward(X)

    def run(self, X: Any, *, seed: int | None = None, progress: bool | None = False, record: bool | None = None) -> dict[str, Any]:
        """Every node's output for `X`, by id; of a loop or branch, what it gave."""
        plan = self._ready("run", settings := Settings(seed=seed))
        wanted = tuple(n.id for n in plan.nodes)
        nodes = calls_in(plan, "forward", wanted)
        with self._running("run", plan, nodes, seed, progress=progress, recorded=self._is_recorded(record)) as run:
            return self._run_walk(plan, run, settings, X, "forward", wanted)

    async def aforward(self, X: Any, *, seed: int | None = None, record: bool | None = None) -> Any:
        """`forward` as a coroutine; several may run at once. Cancelling it cancels what runs."""
        plan = self._ready("forward", settings := Settings(seed=seed))
        leaves = plan.leaves
        nodes = calls_in(plan, "forward", leaves)
        with self._running("forward", plan, nodes, seed, progress=False, recorded=self._is_recorded(record)) as run:
            execution = self._execution(plan, run, settings)
            walk = self._begin(plan, execution, X, "forward", leaves)
            await wait_async(execution, execution.drive(walk))
            outputs = self._outputs(plan, run, execution, walk)
        return outputs[leaves[0]] if len(leaves) == 1 else outputs

    # -- states ----------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What each node that learns has learnt, by id, those inside loops and branches too; an arm that was never fitted is left out.

        Raises:
            NotFittedError: a node has learnt nothing yet.
        """
        self._ready("state", Settings())
        return saving.states(self._processes)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Give every node that learns its state, as `state()` gave it. Missing and unknown ids are a GraphError."""
        self._ready("load_state", Settings())
        saving.load_states(self._processes, state, self._cache)

    def save(self, path: str | PathLike[str], *, allow_pickle: bool = False) -> Path:
        """Write what was learnt to a safetensors file, whole or not at all.

        Args:
            path: the file.
            allow_pickle: what is neither array, tensor, number, text nor a dict, list or tuple of such (a tree of scikit-learn's, say)
                is pickled into the file; without it, that is an error which names the part.
        """
        return saving.save(self.state(), Path(path), allow_pickle=allow_pickle)

    def load(self, path: str | PathLike[str], *, allow_pickle: bool = False) -> None:
        """Read what `save` wrote into this graph. Executes no code, unless `allow_pickle` says that the file is trusted."""
        self.load_state(saving.load(Path(path), allow_pickle=allow_pickle))

    # -- what it did -----------------------------------------------------------------------------------------------------------

    def explain(self) -> Explanation:
        """Where each node runs and why; and of the last run, for each node: a cache hit, or why not, and its time."""
        return explained(self.compile(), self._made, self._last)

    def losses(self) -> dict[str, float]:
        """Of the last fit: the loss that training ended with, by the first node of each group that was trained."""
        return dict(self._last.losses) if self._last is not None else {}

    def running(self) -> list[str]:
        """The names of the processes that exist now; none were needed for what came from the cache."""
        return list(self._made.running) if self._made is not None else []

    def pids(self) -> dict[str, int]:
        """The process of each filter, by id."""
        self._ready("pids", Settings())
        self._processes.start(self._processes.filters)
        refs = {id: self._processes.handle(id).pid.remote() for id in self._processes.filters}
        return dict(zip(refs, cluster.get(list(refs.values())), strict=True))

    # -- others like it --------------------------------------------------------------------------------------------------------

    def study(self, name: str, X: Any, y: Any = None, *, score: Callable[[Any, Any], Any], validation: Any = None, cv: Any = None,
              space: Any = None, **options: Any) -> Any:
        """A search for good parameters of this graph: a `soma.study.graphs.GraphStudy`, whose `run` needs no objective.

            study = graph.study("tune", X, y, score=accuracy_score, cv=5, n_trials=30, seed=0).run(n_jobs=2)
            study.best_graph().fit(X, y)

        Args:
            name: of the study.
            X, y: inputs and targets.
            score: `score(y_true, y_pred)` of held-out rows: a number, or a dict of numbers by objective. More is better, unless
                `directions` says otherwise.
            validation: the rows to score: (X, y) apart from those given, or a share of them; 0.25 if nothing is said here or in `cv`.
            cv: instead, the number of folds, a splitter of scikit-learn's, or pairs of index arrays (train, test).
            space: further dimensions, or others than `soma.search` declares in the filters: {"node.parameter": …}, as in
                `soma.Study`; and `{"a -> b": soma.study.edge()}` for an edge that may be left out.
            options: of `soma.Study`.
        """
        return offered("study")(self, name, (X, y), score=score, validation=validation, cv=cv, space=space, **options)

    def serve(self, *, host: str = "127.0.0.1", port: int = 5000, **options: Any) -> None:
        """Serve predictions of this graph, fitted, over HTTP, until SIGTERM, Ctrl-C or POST /shutdown: `soma.serve.run(graph, …)`.

        Each slot (`slots=`, or `num_replicas=`) has a graph of its own, with processes of its own for its filters. Needs the extra `serve`.
        """
        offered("serve")(self, host=host, port=port, **options)

    def with_options(self, **options: Any) -> Self:
        """A new graph like this one with other `cache`, `cache_path`, `record` or `wait`. Nothing that was learnt comes along."""
        made = type(self)(name=self.name, **{**self._options, **options})
        made._blueprint = self._blueprint.copy()
        return made

    def _like_this(self) -> Self:
        return self.with_options()

    def _repr_html_(self) -> str:
        """The drawing that notebooks show; after a run, with times and cache hits."""
        try:
            return picture(self.compile(), self._last)
        except GraphError as e:
            import html

            return f"<pre>{html.escape(f'Graph({len(self)} nodes, cannot be compiled: {e})')}</pre>"

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

