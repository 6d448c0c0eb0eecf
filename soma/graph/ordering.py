"""In which order nodes run, and the tree of steps that says which wait for which. Pure, and linear in nodes and edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from soma.graph.steps import Empty, Parallel, Sequence, Step

DEEPEST = 40
"""Levels of steps within steps; below, nodes are listed side by side. Bounds the work: each level looks at every node once."""

Neighbours = Mapping[str, list[str]]


def ordered(before: Neighbours, after: Neighbours) -> list[str]:
    """Every node after its inputs, else as written; nodes on a cycle and behind one are missing."""
    open_inputs = {id: len(inputs) for id, inputs in before.items()}
    order = [id for id, n in open_inputs.items() if n == 0]
    for id in order:  # grows while it is read
        for follower in after[id]:
            open_inputs[follower] -= 1
            if open_inputs[follower] == 0:
                order.append(follower)
    return order


def step_over(order: list[str], before: Neighbours, after: Neighbours, leaf: Callable[[str], Step], depth: int = 0) -> Step:
    """The step that runs `order` (a set of nodes, in order)."""
    if len(order) < 2:
        return leaf(order[0]) if order else Empty()
    if depth >= DEEPEST:
        return Parallel(tuple(map(leaf, order)))
    groups = _components(order, before, after)
    if len(groups) > 1:
        return Parallel(tuple(step_over(g, before, after, leaf, depth + 1) for g in groups))
    stages = _stages(order, before, after)
    if len(stages) > 1:
        return Sequence(tuple(step_over(s, before, after, leaf, depth + 1) for s in stages))
    return Parallel(tuple(map(leaf, order)))  # entangled: no part waits for all of another


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
