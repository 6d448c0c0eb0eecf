"""From a blueprint to a plan: take it apart, check it, find groups that are trained as one, and what must follow what.

Pure, and linear in nodes and edges. Every problem is reported at once, each naming its nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soma.errors import GraphError, SchemaError
from soma.filters import kind_of, label_of, options_of
from soma.graph.builder import Blueprint
from soma.graph.checking import cut_gradients, entangled_group, schema_problems, unreachable
from soma.graph.lowering import Lowered, LoweredBranch, LoweredLoop, lower
from soma.graph.ordering import ordered, step_over
from soma.graph.plan import Plan, PlanNode
from soma.graph.steps import Branch, Composite, Execute, Loop, Step

Neighbours = Mapping[str, list[str]]


def compile_plan(blueprint: Blueprint) -> Plan:
    """The plan of a blueprint.

    Raises:
        GraphError: it names every edge that leads nowhere, id that is there twice, node that nothing leads to, cycle with its path, and
            gradient that cannot arrive.
        SchemaError: two filters that declare what cannot fit together, and nothing else is wrong.
    """
    return plan_of(lower(blueprint))


def filters_in(lowered: Lowered) -> dict[str, Any]:
    """Every filter, those inside loops and branches too, by id."""
    found: dict[str, Any] = {}
    for id, member in lowered.nodes.items():
        if isinstance(member, LoweredLoop):
            found.update(filters_in(member.body))
        elif isinstance(member, LoweredBranch):
            for part in (member.condition, *member.arms.values()):
                found.update(filters_in(part))
        else:
            found[id] = member
    return found


def plan_of(lowered: Lowered) -> Plan:
    """The plan of what is taken apart already."""
    problems = unreachable(lowered)
    before: dict[str, list[str]] = {id: [] for id in lowered.nodes}
    after: dict[str, list[str]] = {id: [] for id in lowered.nodes}
    for a, b in dict.fromkeys(lowered.edges):
        before[b].append(a)
        after[a].append(b)
    order = ordered(before, after)
    if len(order) < len(before):
        raise GraphError("\n".join([*problems, _describe_cycle(before, set(before) - set(order))]))
    groups = _groups(lowered, order, before, after)
    problems += cut_gradients(lowered, groups, after)
    schemas = schema_problems(lowered, order, before)
    if problems:
        raise GraphError("\n".join(problems + schemas))
    if schemas:
        raise SchemaError("\n".join(schemas))
    nodes = tuple(_node(id, lowered.nodes[id], tuple(before[id])) for id in order)
    return Plan(nodes, _root(nodes, groups, before, after), tuple(_remarks(lowered, groups, after)))


def _node(id: str, member: Any, inputs: tuple[str, ...]) -> PlanNode:
    if isinstance(member, LoweredLoop):
        loop = Loop(id, plan_of(member.body), member.carry, member.until, member.max_iterations)
        end = f"until {member.until!r}, at most {member.max_iterations} times" if member.until else f"{member.max_iterations} times"
        return PlanNode(id, end, "loop", inputs, inner=loop)
    if isinstance(member, LoweredBranch):
        arms = tuple((label, plan_of(arm)) for label, arm in member.arms.items())
        inner = Branch(id, plan_of(member.condition), arms)
        return PlanNode(id, f"one of {', '.join(map(repr, member.arms))}", "branch", inputs, inner=inner)
    options, kind = options_of(member), kind_of(member)
    cacheable = "no" if kind == "opaque" or not options.cacheable else "yes" if options.deterministic else "seeded"
    return PlanNode(id, label_of(member), kind, inputs, options.stream, options.differentiable, cacheable)


def _describe_cycle(before: Neighbours, stuck: set[str]) -> str:
    id = min(stuck)
    path: dict[str, None] = {}
    while id not in path:  # every stuck node has a stuck input: walking back must come round
        path[id] = None
        id = next(i for i in before[id] if i in stuck)
    walked = list(path)
    cycle = [*walked[walked.index(id):], id][::-1]
    hint = "; one object is one node: make a second object for a second node" if len(cycle) == 2 else ""
    return f"the graph has a cycle: {' >> '.join(cycle)}{hint}"


def _groups(lowered: Lowered, order: list[str], before: Neighbours, after: Neighbours) -> dict[str, tuple[str, ...]]:
    """The differentiable nodes, each with all that it is connected to through such nodes alone, in order.

    Raises:
        GraphError: a group that would have to wait for itself, through a node that is not differentiable.
    """
    group_of: dict[str, str] = {}
    for start in order:
        if start in group_of or not _differentiable(lowered.nodes[start]):
            continue
        group_of[start], todo = start, [start]
        while todo:
            for other in (*before[(id := todo.pop())], *after[id]):
                if other not in group_of and _differentiable(lowered.nodes[other]):
                    group_of[other] = start
                    todo.append(other)
    members: dict[str, list[str]] = {}
    for id in order:
        if id in group_of:
            members.setdefault(group_of[id], []).append(id)
    groups = {id: tuple(members[first]) for id, first in group_of.items()}
    problem = entangled_group(order, groups, before)
    if problem:
        raise GraphError(problem)
    return groups


def _differentiable(member: Any) -> bool:
    return not isinstance(member, (LoweredLoop, LoweredBranch)) and options_of(member).differentiable


def _root(nodes: tuple[PlanNode, ...], groups: Mapping[str, tuple[str, ...]], before: Neighbours, after: Neighbours) -> Step:
    """The tree of steps, over single nodes and groups."""
    by_id = {n.id: n for n in nodes}

    def leaf(id: str) -> Step:
        return _leaf(by_id[id], groups)

    if not groups:
        return step_over(list(by_id), before, after, leaf)
    first = {id: groups[id][0] if id in groups else id for id in by_id}
    outer_before: dict[str, dict[str, None]] = {f: {} for f in dict.fromkeys(first.values())}
    outer_after: dict[str, dict[str, None]] = {f: {} for f in outer_before}
    for id, inputs in before.items():
        for i in inputs:
            if first[i] != first[id]:
                outer_before[first[id]][first[i]] = None
                outer_after[first[i]][first[id]] = None
    b, a = ({f: list(x) for f, x in d.items()} for d in (outer_before, outer_after))
    return step_over(ordered(b, a), b, a, leaf)


def _leaf(node: PlanNode, groups: Mapping[str, tuple[str, ...]]) -> Step:
    if node.inner is not None:
        return node.inner
    return Composite(groups[node.id]) if node.id in groups else Execute(node.id)


def _remarks(lowered: Lowered, groups: Mapping[str, tuple[str, ...]], after: Neighbours) -> list[str]:
    """What is not wrong, but worth knowing."""
    said = []
    for id, member in lowered.nodes.items():
        if isinstance(member, LoweredBranch) and any(kind_of(f) != "stateless" for arm in member.arms.values()
                                                     for f in filters_in(arm).values()):
            said.append(f"branch {id!r}: an arm learns only when fit takes it; the others stay as they are")
    for members in dict.fromkeys(groups.values()):
        ends = [m for m in members if not set(after[m]) & set(members)]
        if len(ends) > 1 and any(kind_of(lowered.nodes[m]) != "stateless" for m in members):
            said.append(f"{' and '.join(map(repr, ends))} are trained together: their losses are added")
    return said
