"""Runs a plan on actors by the public verbs alone: one actor for each node, refs between them.

All calls are sent at once; a node starts when its inputs have arrived in its own process, so parallelism is the graph's own.
An error is the failing node's own exception, with a note that names the node.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from soma import cluster
from soma.actors.handle import ActorHandle
from soma.actors.refs import ObjectRef
from soma.errors import ClusterError
from soma.filters import FilterActor, options_of
from soma.graph.plan import Plan

Handles = Mapping[str, ActorHandle[FilterActor]]
Refs = dict[str, ObjectRef[Any]]
Observer = Callable[[str, tuple[str, ...]], None]
"""Called when a node is done, with its id and those of the nodes that are not."""


def start_actor(id: str, filter: Any) -> ActorHandle[FilterActor]:
    """An actor for one node. Its name (`scaler-3fa9c1d2`) is what `soma status`, logs and death reports show."""
    actor = cluster.remote(FilterActor).options(name=f"{id[:200]}-{secrets.token_hex(4)}", **options_of(filter).reserved())
    handle: ActorHandle[FilterActor] = actor.remote(filter, id)
    return handle


def fit(plan: Plan, handles: Handles, x: Any, y: Any, observe: Observer | None) -> None:
    """Fit every node that learns, each on what the nodes before it make of `x` with their new states."""
    learners = set(plan.trainable)
    feeding: set[str] = set()  # nodes whose output some learner needs
    for node in reversed(plan.nodes):
        if node.id in learners or node.id in feeding:
            feeding.update(node.inputs)
    takers = [n for n in plan.nodes if n.id in learners or n.id in feeding]
    x, y = _shared(x, sum(not n.inputs for n in takers)), _shared(y, len(learners))
    refs: Refs = {}
    for node in takers:
        handle, (names, values) = handles[node.id], _inputs(node.inputs, refs, x)
        if node.id not in learners:
            refs[node.id] = handle.forward.remote(names, *values)
        elif node.id in feeding:
            refs[node.id] = handle.fit_forward.remote(y, names, *values)
        else:
            refs[node.id] = handle.fit.remote(y, names, *values)
    _settle(plan, refs, [id for id in refs if id not in feeding], observe)


def forward(plan: Plan, handles: Handles, x: Any, wanted: Iterable[str], observe: Observer | None) -> dict[str, Any]:
    """The outputs of the wanted nodes, by id."""
    x = _shared(x, sum(not n.inputs for n in plan.nodes))
    refs: Refs = {}
    for node in plan.nodes:
        names, values = _inputs(node.inputs, refs, x)
        refs[node.id] = handles[node.id].forward.remote(names, *values)
    return _settle(plan, refs, wanted, observe)


def gather(plan: Plan, refs: Refs) -> dict[str, Any]:
    """The values of calls that do not depend on each other."""
    return {id: _get(plan, {id: ref}, id) for id, ref in refs.items()}


def _shared(value: Any, takers: int) -> Any:
    """A value that several actors take is kept once, under a ref."""
    return cluster.put(value) if takers > 1 and value is not None and not isinstance(value, ObjectRef) else value


def _inputs(inputs: tuple[str, ...], refs: Refs, x: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    values = tuple(refs[i] for i in inputs) or (x,)
    return (inputs if len(inputs) > 1 else ()), values


def _settle(plan: Plan, refs: Refs, wanted: Iterable[str], observe: Observer | None) -> dict[str, Any]:
    try:
        if observe is not None:
            _watch(refs, observe)
        return {id: _get(plan, refs, id) for id in wanted}
    except KeyboardInterrupt:
        for ref in refs.values():
            cluster.cancel(ref)
        raise


def _watch(refs: Refs, observe: Observer) -> None:
    pending = {ref: id for id, ref in refs.items()}
    while pending:
        done, _ = cluster.wait(list(pending), num_returns=1)
        for ref in done:
            id = pending.pop(ref)
            observe(id, tuple(pending.values()))


def _get(plan: Plan, refs: Refs, id: str) -> Any:
    try:
        return cluster.get(refs[id])
    except ClusterError:  # the cluster's fault, no node's
        raise
    except Exception as error:
        _blame(plan, refs, id, error)
        raise


def _blame(plan: Plan, refs: Refs, id: str, error: Exception) -> None:
    """Add a note naming the first node on the way to `id` that failed: all of its inputs were right."""
    before = (a for a in plan.ancestors(id) if a != id and a in refs)
    node = plan.node(next((a for a in before if _failed(refs[a])), id))
    error.add_note(f"in node {node.id!r}: {node.label}")


def _failed(ref: ObjectRef[Any]) -> bool:
    settled, _ = cluster.wait([ref], timeout=0)
    if not settled:
        return False
    try:
        cluster.get(ref)
    except Exception:  # any: the user's own
        return True
    return False
