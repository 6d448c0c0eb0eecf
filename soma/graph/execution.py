"""One run of a graph: does what a `Walk` asks for, by the public verbs alone, and tells the run of it.

A call is sent as soon as the walk says so; what flows between two nodes goes from actor to actor. When a node fails, nothing new begins,
the other calls are cancelled and waited for, and the node's own exception is raised with a note that names it.

`drive` is a generator: it yields the refs that are waited for and is sent those that are settled, so that one body serves both a thread
that waits and a coroutine.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.errors import ActorDiedError, ClusterError, NotFittedError
from soma.events import NodeCompleted, NodeFailed, NodeStarted
from soma.filters import Report, Task, derived
from soma.graph.processes import Handle, Held, Processes
from soma.graph.recall import Recall, Verdict
from soma.graph.values import Named, Value, flattened, input_of, shape_of
from soma.graph.walk import Bundle, Call, Read, Todo, Walk
from soma.runs import Run
from soma.store import Cache

SETTLE = 1.0
"""Seconds that cancelled calls have to end before the error of the first is raised."""

Refs = tuple[ObjectRef[Any], ...]
Drive = Generator[Refs, Refs, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is made. `seed`, `batch_size`, `epochs`, `shuffle` as in `Graph.fit`; `y` the targets."""

    seed: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    shuffle: bool | None = None
    y: Value = field(default_factory=lambda: Value(None))


@dataclass(slots=True, eq=False)
class Sent:
    """A call on its way."""

    walk: Walk
    call: Call
    handle: Handle
    values: tuple[ObjectRef[Any], ...]
    verdict: Verdict | None
    attempt: int
    loading: ObjectRef[Any] | None
    chunk: int | None


class Execution:
    """Of one run, which may be many walks (a stream has one for each chunk)."""

    def __init__(self, processes: Processes, run: Run, cache: Cache | None, recall: Recall | None, settings: Settings) -> None:
        self._processes, self.run, self._cache, self.recall, self.settings = processes, run, cache, recall, settings
        self._sent: dict[ObjectRef[Any], Sent] = {}
        self._reading: dict[ObjectRef[Any], tuple[Walk, Read]] = {}
        self._ready: deque[tuple[Walk, Todo]] = deque()
        self._chunks: dict[Walk, int] = {}
        self.methods: dict[str, str] = {}
        """Nodes that are not simply applied in a stream, and the command that runs them: "evolve" or "forward_all"."""
        self.collected: dict[str, tuple[str, ...]] = {}
        """For those of "forward_all": the names of the parts of their input, in order."""
        self._turns: dict[str, int] = {}
        self._parked: dict[tuple[str, int], tuple[Walk, Call]] = {}
        self.failure: tuple[BaseException, Walk] | None = None
        """The first, in the order of chunks."""
        self.milliseconds: dict[str, float] = {}
        self.losses: dict[str, float] = {}
        self.failed_node = ""
        self._warned = False

    # -- driving ---------------------------------------------------------------------------------------------------------------

    def begin(self, walk: Walk, x: Named, chunk: int | None = None) -> None:
        """Take up a walk; those of a stream are numbered."""
        if chunk is not None:
            self._chunks[walk] = chunk
        self._enqueue(walk, walk.begin(x))

    def drive(self, walk: Walk) -> Drive:
        """Until a walk is over; others that were begun go on meanwhile. Raises what failed in it, or in one before it."""
        while True:
            while self._ready:
                self._do(*self._ready.popleft())
            if self.failure is not None and self._number(self.failure[1]) <= self._number(walk):
                yield from self._stop()
                raise self.failure[0]
            if walk.idle:
                return
            for ref in (yield (*self._sent, *self._reading)):
                self._settled(ref)

    def _number(self, walk: Walk) -> int:
        return self._chunks.get(walk, 0)

    def _is_over(self, walk: Walk) -> bool:
        """Nothing of it begins any more: it failed, or one before it did."""
        return self.failure is not None and self._number(self.failure[1]) <= self._number(walk)

    def finished(self, walk: Walk) -> None:
        """Its outputs were taken."""
        self._chunks.pop(walk, None)

    def _stop(self) -> Drive:
        """Something failed: end what runs, and wait for it a little."""
        until = time.monotonic() + SETTLE
        for ref in (*self._sent, *self._reading):
            cluster.cancel(ref)
        while (self._sent or self._reading) and time.monotonic() < until:
            for ref in (yield (*self._sent, *self._reading)):
                sent = self._sent.pop(ref, None)
                self._reading.pop(ref, None)
                if sent is not None:
                    self._ended_otherwise(sent, ref)
        assert self.failure is not None
        for sent in self._sent.values():
            self.failure[0].add_note(f"node {sent.call.node!r} still runs: it cannot be interrupted, and takes new calls when it is done")

    def _ended_otherwise(self, sent: Sent, ref: ObjectRef[Any]) -> None:
        """A call that ended after another had failed: told, so that no event of a beginning is without its end."""
        try:
            report = Report(*cluster.get(ref))
        except Exception as e:
            self._tell_failure(sent, e, final=True)
        else:
            self._told_done(sent, report)

    def interrupted(self) -> None:
        """Ctrl-C: cancel everything."""
        for ref in (*self._sent, *self._reading):
            cluster.cancel(ref)

    @property
    def patience(self) -> float | None:
        """How long to wait for the refs that `drive` yields."""
        return None if self.failure is None else SETTLE / 10

    def _enqueue(self, walk: Walk, todo: Iterable[Todo]) -> None:
        self._ready.extend((walk, t) for t in todo)

    # -- doing -----------------------------------------------------------------------------------------------------------------

    def _do(self, walk: Walk, todo: Todo) -> None:
        if self._is_over(walk):
            walk.failed(todo.key)
            return
        try:
            if isinstance(todo, Read):
                self._read(walk, todo)
            elif self.methods.get(todo.node) == "evolve":
                self._in_turn(walk, todo)
            else:
                self._call(walk, todo, attempt=0)
        except Exception as e:
            self._fail(walk, todo, e)

    def _read(self, walk: Walk, todo: Read) -> None:
        value = todo.value
        if isinstance(value, Value) and value.ref is not None and value.hit is None:
            self._reading[value.ref] = walk, todo
        else:
            self._enqueue(walk, walk.read(todo.key, value.get(self._cache)))

    def _in_turn(self, walk: Walk, call: Call) -> None:
        """A node whose state moves on from chunk to chunk gets them in order, whichever way each came."""
        node, chunk = call.node, self._number(walk)
        self._parked[node, chunk] = walk, call
        while (node, turn := self._turns.get(node, 0)) in self._parked:
            self._turns[node] = turn + 1
            self._call(*self._parked.pop((node, turn)), attempt=0)

    def _call(self, walk: Walk, call: Call, attempt: int) -> None:
        plan = call.plan
        composite, collected = plan.is_composite(call.node), self.methods.get(call.node) == "forward_all"
        given = input_of(call.inputs, named=composite) if not collected else Bundle(tuple(i for i in call.inputs if i[0]))
        verdict = self._consult(plan, call, given)
        if verdict is not None and self._from_cache(walk, call, verdict):
            return
        op = call.op if verdict is None or verdict.state is None else "forward"  # the state was found, an output was not
        handle = self._processes.handle(call.node)
        loading = self._processes.load(call.node, handle) if op == "forward" else None
        seed = self.settings.seed
        task = Task(call.node, shape_of(given), self.run.id, None if seed is None else derived(seed, call.node), call.wanted,
                    op != "fit", op != "forward" and self._wants_state(call), self.settings.batch_size, self.settings.epochs,
                    self.settings.shuffle, None if verdict is None else verdict.keeping,
                    names=self.collected.get(call.node, ()))
        arguments = [value.argument(self._cache) for value in flattened(given)]
        count = 1 + len(call.wanted) + task.give_state
        refs = self._submit(handle, op, composite, task, arguments, count)
        chunk = self._chunks.get(walk)
        self.run.emit(NodeStarted, node=call.node, attempt=attempt, chunk=chunk)
        self._sent[refs[-1]] = Sent(walk, call, handle, refs[:-1], verdict, attempt, loading, chunk)

    def _submit(self, handle: Handle, op: str, composite: bool, task: Task, arguments: list[Any], count: int) -> Refs:
        def sent(method: Any, *args: Any) -> Refs:
            made = method.options(num_returns=count, listener=self.run.told if self.run.wanted else None).remote(*args)
            return tuple(made) if count > 1 else (made,)

        if op == "forward":
            named = self.methods.get(task.node) or ("composite_forward" if composite else "forward")
            return sent(getattr(handle, named), task, *arguments)
        y = self.settings.y.argument(self._cache)
        method = handle.composite_fit if composite else handle.batched_fit if task.batch_size is not None else handle.fit
        return sent(method, task, y, *arguments)

    def _wants_state(self, call: Call) -> bool:
        """Whether a copy of what it learns must leave the actor."""
        return self._processes.retries(call.node) > 0 or (self._cache is not None and self._cache.spec.path is None)

    # -- the cache -------------------------------------------------------------------------------------------------------------

    def _consult(self, plan: Any, call: Call, given: Named) -> Verdict | None:
        if self.recall is None:
            return None
        for value in flattened(given):
            self.recall.digest_raw(value, "the input")
        held = self._processes.states.get(call.node)
        verdict = self.recall.consult(plan, call, given, held.digest if held is not None else "")
        if verdict.state is not None:
            before = held.inside if held is not None and held.digest == verdict.state.digest else ""
            self._processes.learnt(call.node, Held(verdict.state.digest, verdict.state, inside=before))
        return verdict

    def _from_cache(self, walk: Walk, call: Call, verdict: Verdict) -> bool:
        if verdict.outputs is None:
            return False
        self._enqueue(walk, walk.done(call.key, {id: Value(hit=hit, digest=hit.digest) for id, hit in verdict.outputs.items()}))
        return True

    # -- what comes back -------------------------------------------------------------------------------------------------------

    def _settled(self, ref: ObjectRef[Any]) -> None:
        if ref in self._reading:
            walk, read = self._reading.pop(ref)
            try:
                self._enqueue(walk, walk.read(read.key, cluster.get(ref)))
            except Exception as e:
                self._fail(walk, read, e)
            return
        sent = self._sent.pop(ref)
        try:
            report = Report(*cluster.get(ref))
        except ClusterError:
            raise
        except Exception as e:
            self._failed(sent, e)
            return
        self._done(sent, report)

    def _done(self, sent: Sent, report: Report) -> None:
        call, verdict = sent.call, sent.verdict
        if report.warning and not self._warned:
            self._warned = True
            warnings.warn(f"results are not cached any further: {report.warning}", RuntimeWarning, stacklevel=2)
        outputs = {id: Value(ref=sent.values[i], digest=report.outputs[i] if report.outputs else "") for i, id in enumerate(call.wanted)}
        if call.op != "forward" and (verdict is None or verdict.state is None):
            self._learnt(sent, report)
        if verdict is not None and self._cache is not None and self._cache.spec.path is None:
            self._keep(sent, report, outputs)
        self._told_done(sent, report)
        self._enqueue(sent.walk, sent.walk.done(call.key, outputs))

    def _learnt(self, sent: Sent, report: Report) -> None:
        copy = sent.values[-1] if len(sent.values) > len(sent.call.wanted) else None
        hit = self.recall.state_hit(sent.verdict.keeping) if self.recall is not None and sent.verdict is not None else None
        self._processes.learnt(sent.call.node, Held(report.state, hit, copy, sent.handle.actor_id))

    def _keep(self, sent: Sent, report: Report, outputs: dict[str, Value]) -> None:
        """A cache in memory alone is the driver's: it fetches what was made."""
        assert self.recall is not None and sent.verdict is not None
        keeping, call = sent.verdict.keeping, sent.call
        if report.state and call.op != "forward" and sent.verdict.state is None:
            if keeping.store_state:
                self.recall.keep(call, keeping, "fit", cluster.get(sent.values[-1]), report.state, report.ms)
                self._processes.states[call.node].hit = self.recall.state_hit(keeping)
            keeping = self.recall.with_state(keeping, report.state)
        if keeping.store_output:
            for id, value in outputs.items():
                part = f"forward {id}" if call.plan.is_composite(id) else "forward"
                self.recall.keep(call, keeping, part, value.get(self._cache), value.digest, report.ms)

    def _told_done(self, sent: Sent, report: Report) -> None:
        node = sent.call.node
        self.count(node, report)
        self.run.emit(NodeCompleted, node=node, duration_ms=report.ms, output_summary=", ".join(report.summaries), attempt=sent.attempt,
                      chunk=sent.chunk)

    def count(self, node: str, report: Report) -> None:
        """What a node's process worked, over all of its calls."""
        self.milliseconds[node] = self.milliseconds.get(node, 0.0) + report.ms
        if report.loss is not None:
            self.losses[node] = report.loss

    # -- failures --------------------------------------------------------------------------------------------------------------

    def _failed(self, sent: Sent, error: Exception) -> None:
        call = sent.call
        if isinstance(error, NotFittedError) and sent.loading is not None:
            try:
                cluster.get(sent.loading)
            except Exception as why:  # that is why it was not fitted
                error = why
        if isinstance(error, ActorDiedError):
            self._processes.died(call.node, sent.handle)
            if self._may_repeat(sent):
                self._tell_failure(sent, error, final=False)
                try:
                    self._call(sent.walk, call, sent.attempt + 1)
                except Exception as e:
                    self._fail(sent.walk, call, e)
                return
        self._tell_failure(sent, error, final=True)
        self._fail(sent.walk, call, error, sent.attempt)

    def _may_repeat(self, sent: Sent) -> bool:
        node = sent.call.node
        if self._is_over(sent.walk) or node in self.methods or sent.attempt >= self._processes.retries(node):
            return False
        held = self._processes.states.get(node)
        return sent.call.op != "forward" or held is None or not held.lost

    def _tell_failure(self, sent: Sent, error: BaseException, *, final: bool) -> None:
        self.run.emit(NodeFailed, node=sent.call.node, error=str(error)[:2000], error_type=type(error).__name__, attempt=sent.attempt,
                      final=final, chunk=sent.chunk)

    def _fail(self, walk: Walk, todo: Todo, error: BaseException, attempt: int = 0) -> None:
        walk.failed(todo.key)
        if self.failure is not None and self._number(self.failure[1]) <= self._number(walk):
            return
        self.run.failed_node = self.failed_node = todo.node
        if isinstance(todo, Call):
            chunk = self._chunks.get(walk)
            where = f"in node {todo.node!r}{'' if chunk is None else f', chunk {chunk}'}, attempt {attempt + 1}"
            error.add_note(f"{where}: {todo.plan.node(todo.node).label}")
        self.failure = error, walk

