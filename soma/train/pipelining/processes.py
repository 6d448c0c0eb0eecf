"""The processes of a pipeline: started when they are needed, given their states and the data, ended after any error.

They are a net of no state: what they have learnt is fetched (`saved`) when a fit is done, so what was fetched last is where the next
processes begin.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from soma import cluster
from soma.actors.handle import ActorHandle
from soma.actors.refs import ObjectRef
from soma.errors import ClusterError
from soma.filters import derived, mismatch
from soma.filters.segment import Recipe
from soma.train.pipelining.batch import Batch, Sent, send_batch
from soma.train.pipelining.network import reserved
from soma.train.pipelining.partition import StagePlan
from soma.train.pipelining.schedule import scheduled, shares
from soma.train.pipelining.stage import Stage

GONE = 2.0
"""Seconds that killed processes have to be gone."""


class Saved(NamedTuple):
    """What was learnt, and what optimizers and schedulers remember, by node; no momentum: they begin anew."""

    states: dict[str, Any]
    momentum: dict[str, dict[str, Any]] | None = None


class Processes:
    """One process for each stage."""

    def __init__(self, plans: Sequence[StagePlan], filters: Mapping[str, Any], recipe: Recipe) -> None:
        self.plans = plans
        name = f"pipeline-{secrets.token_hex(4)}"
        self._handles: list[ActorHandle[Stage]] = []
        for plan in plans:
            own = {id: filters[id] for id, _ in plan.nodes}
            options = {"name": f"{name}/stage-{plan.index}", **reserved(plan, filters)}
            self._handles.append(cluster.remote(Stage).options(**options).remote(plan, own, recipe))
        self._methods: dict[tuple[int, str, int], Any] = {}
        self.trains = 0
        """How many tensors it trains; 0 until its nodes are made."""

    def send(self, stage: int, method: str, values: int, *arguments: Any) -> Sequence[ObjectRef[Any]]:
        """Call a stage; one ref for each of the values that the call gives."""
        found = self._methods.get((stage, method, values))
        if found is None:
            found = self._methods[stage, method, values] = getattr(self._handles[stage], method).options(num_returns=values)
        made = found.remote(*arguments)
        return (made,) if values == 1 else made

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """What every stage says to a call."""
        return cluster.get([self.send(p.index, method, 1, *arguments)[0] for p in self.plans])

    # -- states and data -------------------------------------------------------------------------------------------------------

    def hold(self, X: Any, y: Any) -> int:
        """Give the data to the stages that need it, once; how many rows it has.

        Raises:
            ValueError: it has none, or inputs and targets do not belong together.
        """
        if problem := "" if isinstance(X, ObjectRef) or isinstance(y, ObjectRef) else mismatch(X, y):
            raise ValueError(f"X and y do not belong together: {problem}")
        inputs, targets = (v if isinstance(v, ObjectRef) or v is None else cluster.put(v) for v in (X, y))
        counts: list[tuple[int | None, int | None]] = cluster.get([
            self.send(p.index, "hold", 1, inputs if p.reads else None, targets if p.leaves else None)[0] for p in self.plans])
        rows = next((n for n, _ in counts if n is not None), None)
        wanted = next((n for _, n in counts if n is not None), rows)
        if not rows:
            raise ValueError("X has no rows")
        if rows != wanted:
            raise ValueError(f"X and y do not belong together: {rows} rows and {wanted} targets")
        return rows

    def load(self, saved: Saved) -> None:
        """Begin with what was saved; a node without a state with what it was given."""
        counts = []
        for plan in self.plans:
            ids = [id for id, _ in plan.nodes]
            momentum = None if saved.momentum is None else {
                kind: {id: some[id] for id in ids if id in some} for kind, some in saved.momentum.items()}
            counts.append(self.send(plan.index, "load", 1, {id: saved.states.get(id) for id in ids}, momentum)[0])
        self.trains = sum(cluster.get(counts))

    def make(self, seed: int) -> None:
        """Begin anew, with the data that the stages hold where a node must see some."""
        seeds = [derived(seed, f"make/{p.index}") for p in self.plans]
        made = cluster.get([self.send(p.index, "make", 1, seeds[p.index])[0] for p in self.plans])
        counts = [n for _, n in made]
        if any(must_see for must_see, _ in made):
            outputs: dict[str, Any] = {}
            last = []
            for p in self.plans:
                given = self.send(p.index, "begin", len(p.gives) + 1, seeds[p.index], *(outputs[id] for id in p.takes))
                outputs.update(zip(p.gives, given, strict=False))
                last.append(given[-1])
            counts = cluster.get(last)
        self.trains = sum(counts)

    def saved(self) -> Saved:
        states: dict[str, Any] = {}
        momentum: dict[str, dict[str, Any]] = {"optimizers": {}, "schedulers": {}}
        for some, remembered in self.each("saved"):
            states.update(some)
            for kind, by_node in remembered.items():
                momentum[kind].update(by_node)
        return Saved(states, momentum)

    # -- batches ---------------------------------------------------------------------------------------------------------------

    def send_batch(self, batch: Batch, schedule: str, micro_batches: int, seed: int, clip: float | None) -> Sent:
        micros = batch.micros(micro_batches, seed)
        turns = scheduled(schedule, len(self.plans), len(micros))
        return Sent(batch, *send_batch(self.plans, turns, micros, self.send, clip))

    def finish(self, under_way: Sequence[Sent]) -> float:
        """Wait for the first of these batches; its loss. An error of any of them is raised as soon as it is known."""
        first = set(under_way[0].steps)
        waiting = [ref for sent in under_way for ref in sent.steps]
        while first:
            settled, waiting = cluster.wait(waiting, num_returns=1)
            try:
                cluster.get(settled)
            except Exception:
                _raise_cause(under_way)
                raise
            first.difference_update(settled)
        return float(sum(loss for loss in cluster.get(under_way[0].steps) if loss is not None))

    def infer(self, rows: int, pieces: int) -> dict[str, list[Any]]:
        """What the leaves give for the data, in pieces."""
        found: dict[str, list[Any]] = {id: [] for p in self.plans for id in p.leaves}
        for which in shares(rows, pieces):
            outputs: dict[str, Any] = {}
            for p in self.plans:
                wanted = (*p.gives, *p.leaves)
                outputs.update(zip(wanted, self.send(p.index, "infer", len(wanted), which, *(outputs[id] for id in p.takes)), strict=True))
            for id, refs in found.items():
                refs.append(outputs[id])
        return {id: cluster.get(refs) for id, refs in found.items()}

    # -- the end ---------------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End the processes, and wait until they are gone."""
        with contextlib.suppress(ClusterError):  # a cluster that is gone took them along
            if cluster.is_initialized():
                for handle in self._handles:
                    cluster.kill(handle)
                last = [handle.shutdown.remote() for handle in self._handles]  # not answered by a process that is being killed
                cluster.wait(last, num_returns=len(last), timeout=GONE)
        self._methods.clear()
        self._handles.clear()


def _raise_cause(under_way: Sequence[Sent]) -> None:
    """Raise the first error in the order of the calls: what fails because of another call's failure comes after it."""
    calls = [ref for sent in under_way for ref in (*sent.calls, *sent.steps)]
    settled, _ = cluster.wait(calls, num_returns=len(calls), timeout=0)
    cluster.get(settled)
