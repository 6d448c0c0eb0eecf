"""From a blueprint to a plan: check, order, find what must follow what. Pure, and linear in nodes and edges.

Every problem is reported at once, each naming its nodes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from soma.errors import GraphError
from soma.filters import kind_of, label_of
from soma.graph.builder import Blueprint
from soma.graph.plan import Empty, Execute, Parallel, Plan, PlanNode, Sequence, Step

DEEPEST = 40
"""Levels of steps within steps; below, nodes are listed side by side. Bounds the work: each level looks at every node once."""

Neighbours = Mapping[str, tuple[str, ...]]


def compile_plan(blueprint: Blueprint) -> Plan:
    """The plan of a blueprint; GraphError naming every dangling edge, or a cycle with its path."""
    problems = [_dangling(edge, blueprint) for edge in blueprint.edges if not blueprint.nodes.keys() >= set(edge)]
    if problems:
        raise GraphError("\n".join(problems))
    before: dict[str, list[str]] = {id: [] for id in blueprint.nodes}
    after: dict[str, list[str]] = {id: [] for id in blueprint.nodes}
    for a, b in dict.fromkeys(blueprint.edges):
        before[b].append(a)
        after[a].append(b)
    order = _ordered(before, after)
    if len(order) < len(before):
        raise GraphError(_describe_cycle(before, set(before) - set(order)))
    nodes = tuple(PlanNode(id, label_of(f), kind_of(f), tuple(before[id])) for id in order for f in (blueprint.nodes[id],))
    return Plan(nodes, _step(order, {k: tuple(v) for k, v in before.items()}, {k: tuple(v) for k, v in after.items()}, 0))


def _dangling(edge: tuple[str, str], blueprint: Blueprint) -> str:
    missing = next(id for id in edge if id not in blueprint.nodes)
    near = difflib.get_close_matches(missing, blueprint.nodes, 1)
    return (f"edge {edge[0]!r} >> {edge[1]!r}: there is no node {missing!r}"
            + (f"; did you mean {near[0]!r}?" if near else ""))


def _ordered(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> list[str]:
    """Every node after its inputs, else as written; nodes on a cycle and behind one are missing."""
    open_inputs = {id: len(inputs) for id, inputs in before.items()}
    order = [id for id, n in open_inputs.items() if n == 0]
    for id in order:  # grows while it is read
        for follower in after[id]:
            open_inputs[follower] -= 1
            if open_inputs[follower] == 0:
                order.append(follower)
    return order


def _describe_cycle(before: Mapping[str, list[str]], stuck: set[str]) -> str:
    id = min(stuck)
    path: dict[str, None] = {}
    while id not in path:  # every stuck node has a stuck input: walking back must come round
        path[id] = None
        id = next(i for i in before[id] if i in stuck)
    walked = list(path)
    cycle = [*walked[walked.index(id):], id][::-1]
    hint = "; one object is one node: make a second object for a second node" if len(cycle) == 2 else ""
    return f"the graph has a cycle: {' >> '.join(cycle)}{hint}"


def _step(order: list[str], before: Neighbours, after: Neighbours, depth: int) -> Step:
    """The step that runs `order` (a set of nodes, in order)."""
    if len(order) < 2:
        return Execute(order[0]) if order else Empty()
    if depth >= DEEPEST:
        return Parallel(tuple(map(Execute, order)))
    groups = _components(order, before, after)
    if len(groups) > 1:
        return Parallel(tuple(_step(g, before, after, depth + 1) for g in groups))
    stages = _stages(order, before, after)
    if len(stages) > 1:
        return Sequence(tuple(_step(s, before, after, depth + 1) for s in stages))
    return Parallel(tuple(map(Execute, order)))  # entangled: no part waits for all of another


def _components(order: list[str], before: Neighbours, after: Neighbours) -> list[list[str]]:
    """Groups without an edge between them."""
    group = dict.fromkeys(order, -1)
    many = 0
    for start in order:
        if group[start] >= 0:
            continue
        group[start], todo = many, [start]
        while todo:
            id = todo.pop()
            for other in _within(group, (*before[id], *after[id])):
                if group[other] < 0:
                    group[other] = many
                    todo.append(other)
        many += 1
    groups: list[list[str]] = [[] for _ in range(many)]
    for id in order:
        groups[group[id]].append(id)
    return groups


def _stages(order: list[str], before: Neighbours, after: Neighbours) -> list[list[str]]:
    """Cut `order` wherever everything that could start next needs every open end before the cut.

    `ends` are the nodes so far that none so far depends on, `starts` the others whose inputs are all so far. Between them are
    `joined` edges; the cut loses no parallelism if that is all there could be. Each node enters and leaves each set once.
    """
    inside = dict.fromkeys(order)
    open_inputs = {id: sum(1 for _ in _within(inside, before[id])) for id in order}
    starts = {id for id in order if open_inputs[id] == 0}
    ends: set[str] = set()
    joined = 0
    stages: list[list[str]] = [[]]
    for id in order:
        if stages[-1] and joined == len(ends) * len(starts):
            stages.append([])
        stages[-1].append(id)
        starts.remove(id)
        joined -= sum(i in ends for i in before[id])
        for i in _within(inside, before[id]):
            if i in ends:
                ends.remove(i)
                joined -= sum(f in starts for f in after[i])
        ends.add(id)
        for follower in _within(inside, after[id]):
            open_inputs[follower] -= 1
            if open_inputs[follower] == 0:
                starts.add(follower)
                joined += sum(i in ends for i in before[follower])
    return stages


def _within(inside: Mapping[str, object], ids: Iterable[str]) -> Iterable[str]:
    return (i for i in ids if i in inside)
