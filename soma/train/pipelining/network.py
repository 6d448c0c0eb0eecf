"""What a pipeline trains, from what a user gives: filters by id, and the plan of each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from soma.filters import filter as filter_of
from soma.filters import options_of, resolved, title_of
from soma.filters.modules import is_module
from soma.filters.wiring import MARK
from soma.graph import Graph
from soma.train.pipelining.partition import StagePlan, chain, partitioned


def network_of(network: Any, partitions: Sequence[Sequence[str]] | None) -> tuple[dict[str, Any], tuple[StagePlan, ...]]:
    """The filters by id, and the stages.

    Raises:
        TypeError: it is neither a graph nor a list of modules and module filters.
        ValueError: the partitions do not tile the graph, or a node cannot be trained in a stage; names the nodes.
    """
    if isinstance(network, Graph):
        if partitions is None:
            raise ValueError("a graph needs partitions: Pipeline(graph, [['a', 'b'], ['c']])")
        filters, nodes = _of_graph(network)
        parts = partitions
    else:
        if partitions is not None:
            raise ValueError("partitions are of a graph; each module of a list is one stage")
        if isinstance(network, (str, bytes, Mapping)) or not isinstance(network, Sequence):
            raise TypeError(f"Pipeline takes a graph or a list of modules, one for each stage; got {title_of(network)}")
        _check_weights(network)
        filters = {str(i): _filter(f"stage {i}", member) for i, member in enumerate(network)}
        nodes = chain(len(filters))
        parts = [[id] for id in filters]
    plans = partitioned(nodes, parts)
    for id, filter in filters.items():
        if not options_of(filter).differentiable:
            raise ValueError(f"node {id!r} ({title_of(filter)}) is not differentiable: gradients cannot pass it. Mark it "
                             "differentiable=True if torch can differentiate its forward")
    return filters, plans


def _of_graph(graph: Graph) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    plan = graph.compile()
    if inside := [n for n in plan.nodes if n.inner is not None]:
        raise ValueError(f"node {inside[0].id!r} is a {inside[0].kind}; stages are made of filters")
    filters = graph.filters
    return {n.id: resolved(filters[n.id], n.id) for n in plan.nodes}, {n.id: n.inputs for n in plan.nodes}


def _filter(where: str, member: Any) -> Any:
    if is_module(member) and isinstance(member, type):
        raise TypeError(f"{where}: {member.__name__} is a class; give a module, or soma.filter({member.__name__})(…)")
    if is_module(member):
        return filter_of(member)
    if not hasattr(member, MARK):
        raise TypeError(f"{where}: a torch module or a filter, not {title_of(member)}")
    return member


def _check_weights(members: Sequence[Any]) -> None:
    """Each process would have a copy of its own, and train it alone."""
    owner: dict[int, int] = {}
    for stage, member in enumerate(members):
        weights = dict(member.named_parameters()) if is_module(member) and not isinstance(member, type) else {}
        for name, thing in ((title_of(member), member), *weights.items()):
            if owner.setdefault(id(thing), stage) != stage:
                raise ValueError(f"{name!r} is in stage {owner[id(thing)]} and in stage {stage}; stages cannot share weights")


def reserved(plan: StagePlan, filters: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage's process reserves: of CPUs and GPUs the most that one of its nodes asks for, of memory all together."""
    asked = [options_of(filters[id]).reserved() for id, _ in plan.nodes]
    folded = {key: fold(some) for key, fold in (("num_cpus", max), ("num_gpus", max), ("memory", sum))
              if (some := [a[key] for a in asked if key in a])}
    tags = tuple(sorted({tag for a in asked for tag in a.get("tags", ())}))
    return {**folded, **({"tags": tags} if tags else {})}
