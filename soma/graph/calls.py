"""The calls of a run: sent to the actors of the nodes, or answered from the cache; repeated where a filter asks for it; told to the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.errors import ActorDiedError, CacheMissError, NotFittedError
from soma.events import NodeCompleted, NodeFailed, NodeStarted
from soma.filters import Report, Task, derived
from soma.graph.plan import Plan
from soma.graph.processes import Handle, Held, Processes
from soma.graph.recall import Recall, Verdict
from soma.graph.values import Named, Value, flattened, input_of, shape_of
from soma.graph.walk import Bundle, Call
from soma.runs import Run
from soma.store import Cache

Refs = tuple[ObjectRef[Any], ...]
Outputs = dict[str, Value]


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

    call: Call
    handle: Handle
    values: tuple[ObjectRef[Any], ...]
    verdict: Verdict | None
    attempt: int
    loading: ObjectRef[Any] | None
    chunk: int | None


class Calls:
    """Of one run."""

    def __init__(self, processes: Processes, run: Run, cache: Cache | None, recall: Recall | None, settings: Settings) -> None:
        self.processes, self.run, self.cache, self.recall, self.settings = processes, run, cache, recall, settings
        self.methods: dict[str, str] = {}
        """Nodes that are not simply applied in a stream, and the command that runs them: "evolve" or "forward_all"."""
        self.collected: dict[str, tuple[str, ...]] = {}
        """For those of "forward_all": the names of the parts of their input, in order."""
        self.chunks = 0
        """How many chunks those of "forward_all" have collected."""
        self.due: Callable[[int], bool] = lambda chunk: False
        """Whether evolving nodes say, with this chunk, where they stand."""
        self.moved: dict[tuple[str, int], tuple[str, ObjectRef[Any] | None]] = {}
        """What evolving nodes said of each chunk: what came out, and if it was due, where they stood then."""
        self.repeats = True
        """Whether a single call is repeated after a death, where its filter asks for that."""
        self.milliseconds: dict[str, float] = {}
        self.losses: dict[str, float] = {}
        self._warned = False

    # -- sending ---------------------------------------------------------------------------------------------------------------

    def make(self, call: Call, chunk: int | None, attempt: int = 0) -> Outputs | tuple[ObjectRef[Any], Sent]:
        """Send a call: the ref of its report, and what to remember of it. Or its outputs, if the cache has them."""
        plan = call.plan
        composite, collected = plan.is_composite(call.node), self.methods.get(call.node) == "forward_all"
        given = input_of(call.inputs, named=composite) if not collected else Bundle(tuple(i for i in call.inputs if i[0]))
        verdict = self._consult(plan, call, given)
        if verdict is not None and verdict.outputs is not None:
            return {id: Value(hit=hit, digest=hit.digest) for id, hit in verdict.outputs.items()}
        op = call.op if verdict is None or verdict.state is None else "forward"  # the state was found, an output was not
        handle = self.processes.handle(call.node)
        loading = self.processes.load(call.node, handle) if op == "forward" else None
        seed = self.settings.seed
        task = Task(call.node, shape_of(given), self.run.id, None if seed is None else derived(seed, call.node), call.wanted,
                    op != "fit", self._wants_state(call, op, chunk), self.settings.batch_size, self.settings.epochs,
                    self.settings.shuffle, None if verdict is None else verdict.keeping,
                    names=self.collected.get(call.node, ()), chunk=self.chunks if chunk is None else chunk)
        arguments = [value.argument(self.cache) for value in flattened(given)]
        count = 1 + len(call.wanted) + task.give_state
        self.run.note(NodeStarted, node=call.node, attempt=attempt, chunk=chunk)
        try:
            refs = self._submit(handle, op, composite, task, arguments, count)
        except Exception as e:  # an argument that cannot be sent
            self._tell_failure(call.node, e, attempt, chunk, final=True)
            raise
        return refs[-1], Sent(call, handle, refs[:-1], verdict, attempt, loading, chunk)

    def _submit(self, handle: Handle, op: str, composite: bool, task: Task, arguments: list[Any], count: int) -> Refs:
        def sent(method: Any, *args: Any) -> Refs:
            made = method.options(num_returns=count, listener=self.run.told if self.run.wanted else None).remote(*args)
            return tuple(made) if count > 1 else (made,)

        if op == "forward":
            named = self.methods.get(task.node) or ("composite_forward" if composite else "forward")
            return sent(getattr(handle, named), task, *arguments)
        y = self.settings.y.argument(self.cache)
        method = handle.composite_fit if composite else handle.batched_fit if task.batch_size is not None else handle.fit
        return sent(method, task, y, *arguments)

    def _wants_state(self, call: Call, op: str, chunk: int | None) -> bool:
        """Whether a copy of what it learns must leave the actor."""
        if op == "forward":
            return chunk is not None and self.methods.get(call.node) == "evolve" and self.due(chunk)
        return self.processes.retries(call.node) > 0 or (self.cache is not None and self.cache.spec.path is None)

    # -- the cache -------------------------------------------------------------------------------------------------------------

    def _consult(self, plan: Plan, call: Call, given: Named) -> Verdict | None:
        if self.recall is None:
            return None
        for value in flattened(given):
            self.recall.digest_raw(value, "the input")
        held = self.processes.states.get(call.node)
        verdict = self.recall.consult(plan, call, given, held.digest if held is not None else "")
        if verdict.state is not None:
            before = held.inside if held is not None and held.digest == verdict.state.digest else ""
            self.processes.learnt(call.node, Held(verdict.state.digest, verdict.state, inside=before))
        return verdict

    # -- what comes back -------------------------------------------------------------------------------------------------------

    def done(self, sent: Sent, report: Report) -> Outputs:
        """A call was answered: what it gave."""
        call, verdict = sent.call, sent.verdict
        if report.warning and not self._warned:
            self._warned = True
            warnings.warn(f"results are not cached any further: {report.warning}", RuntimeWarning, stacklevel=2)
        outputs = {id: Value(ref=sent.values[i], digest=report.outputs[i] if report.outputs else "") for i, id in enumerate(call.wanted)}
        if call.op != "forward" and (verdict is None or verdict.state is None):
            self._learnt(sent, report)
            if report.state_tier and verdict is not None and self.recall is not None:
                self.recall.found_late(call, verdict.keeping, report.state_tier, report.ms)
        if verdict is not None and self.cache is not None and self.cache.spec.path is None:
            self._keep(sent, report, outputs)
        if sent.chunk is not None and self.methods.get(call.node) == "evolve":
            self.moved[call.node, sent.chunk] = report.summaries[0], sent.values[-1] if len(sent.values) > len(call.wanted) else None
        self.tell_done(sent, report)
        return outputs

    def _learnt(self, sent: Sent, report: Report) -> None:
        copy = sent.values[-1] if len(sent.values) > len(sent.call.wanted) else None
        hit = self.recall.state_hit(sent.verdict.keeping) if self.recall is not None and sent.verdict is not None else None
        self.processes.learnt(sent.call.node, Held(report.state, hit, copy, sent.handle.actor_id))

    def _keep(self, sent: Sent, report: Report, outputs: dict[str, Value]) -> None:
        """A cache in memory alone is the driver's: it fetches what was made."""
        assert self.recall is not None and sent.verdict is not None
        keeping, call = sent.verdict.keeping, sent.call
        if report.state and call.op != "forward" and sent.verdict.state is None:
            if keeping.store_state:
                self.recall.keep(call, keeping, "fit", cluster.get(sent.values[-1]), report.state, report.ms)
                self.processes.states[call.node].hit = self.recall.state_hit(keeping)
            keeping = self.recall.with_state(keeping, report.state)
        if keeping.store_output:
            for id, value in outputs.items():
                part = f"forward {id}" if call.plan.is_composite(id) else "forward"
                self.recall.keep(call, keeping, part, value.get(self.cache), value.digest, report.ms)

    def tell_done(self, sent: Sent, report: Report) -> None:
        node = sent.call.node
        self.count(node, report)
        self.run.note(NodeCompleted, node=node, duration_ms=report.ms, output_summary=", ".join(report.summaries), attempt=sent.attempt,
                      chunk=sent.chunk)

    def count(self, node: str, report: Report) -> None:
        """What a node's process worked, over all of its calls."""
        self.milliseconds[node] = self.milliseconds.get(node, 0.0) + report.ms
        if report.loss is not None:
            self.losses[node] = report.loss

    def failed(self, sent: Sent, error: Exception, *, repeat: bool) -> tuple[ObjectRef[Any], Sent] | Exception:
        """A call failed: the one that repeats it, if its filter asks for that; else the error, told to the run."""
        node = sent.call.node
        if isinstance(error, NotFittedError) and sent.loading is not None:
            try:
                cluster.get(sent.loading)
            except CacheMissError as why:  # that is why it was not fitted
                self.processes.not_loaded(node)
                error = why
            except Exception as why:
                error = why
        if isinstance(error, ActorDiedError):
            self.processes.died(node, sent.handle)
            if repeat and self._may_repeat(sent):
                self.tell_failure(sent, error, final=False)
                made = self.make(sent.call, sent.chunk, sent.attempt + 1)
                assert isinstance(made, tuple)  # it was not in the cache a moment ago
                return made
        self.tell_failure(sent, error, final=True)
        return error

    def _may_repeat(self, sent: Sent) -> bool:
        node = sent.call.node
        if not self.repeats or node in self.methods or sent.attempt >= self.processes.retries(node):
            return False
        held = self.processes.states.get(node)
        return sent.call.op != "forward" or held is None or not held.lost

    def tell_failure(self, sent: Sent, error: BaseException, *, final: bool) -> None:
        self._tell_failure(sent.call.node, error, sent.attempt, sent.chunk, final=final)

    def _tell_failure(self, node: str, error: BaseException, attempt: int, chunk: int | None, *, final: bool) -> None:
        self.run.emit(NodeFailed, node=node, error=str(error)[:2000], error_type=type(error).__name__, attempt=attempt,
                      final=final and self.repeats,
                      chunk=chunk)
