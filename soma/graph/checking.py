"""What can be wrong with a graph before it runs: nodes that nothing leads to, gradients that cannot arrive, schemas that cannot meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from soma.filters import ModuleFilter, Schema, cannot_meet, kind_of, options_of, title_of
from soma.graph.lowering import Lowered, LoweredBranch, LoweredLoop
from soma.graph.ordering import ordered

Neighbours = Mapping[str, list[str]]


def unreachable(lowered: Lowered) -> list[str]:
    """Nodes that were added by name and that no edge touches, in a graph of several."""
    if len(lowered.nodes) < 2:
        return []
    touched = {id for edge in lowered.edges for id in edge}
    return [f"node {id!r} cannot be reached: nothing leads to it or from it. Connect it, or, if it is to get the graph's own input, write "
            "it into the expression: soma.Graph(a | b)" for id in lowered.nodes if id in lowered.placed and id not in touched]


def entangled_group(order: list[str], groups: Mapping[str, tuple[str, ...]], before: Neighbours) -> str:
    """Why a group of differentiable nodes cannot run in one go, in words; "" if all can."""
    first = {id: groups[id][0] if id in groups else id for id in order}
    outer_before: dict[str, list[str]] = {f: [] for f in first.values()}
    outer_after: dict[str, list[str]] = {f: [] for f in first.values()}
    for id in order:
        for i in before[id]:
            if first[i] != first[id] and first[i] not in outer_before[first[id]]:
                outer_before[first[id]].append(first[i])
                outer_after[first[i]].append(first[id])
    done = set(ordered(outer_before, outer_after))
    stuck = [id for id in order if first[id] not in done]
    if not stuck:
        return ""
    group = next(groups[id] for id in stuck if id in groups)
    between = [id for id in stuck if id not in groups]
    names, cut = " and ".join(map(repr, group)), ", ".join(map(repr, between)) or "another group"
    return (f"the gradient between {names} is cut by {cut}, which lies between them and is not differentiable: mark it "
            "differentiable=True if torch can differentiate it, or take it out of the way")


def cut_gradients(lowered: Lowered, groups: Mapping[str, tuple[str, ...]], after: Neighbours) -> list[str]:
    """Differentiable groups that learn, whose output goes on to what is not differentiable, and that have no loss of their own there."""
    problems = []
    for members in dict.fromkeys(groups.values()):
        if all(kind_of(lowered.nodes[m]) == "stateless" for m in members):
            continue
        inside = set(members)
        for end in members:
            followers = [f for f in after[end] if f not in inside]
            if followers and not inside & set(after[end]) and not _has_loss(lowered.nodes[end]):
                problems.append(
                    f"the gradient of {end!r} is cut by {', '.join(map(repr, followers))}, which is not differentiable: give {end!r} a "
                    f"loss of its own (loss_fn=…), or mark {followers[0]!r} differentiable=True if torch can differentiate it")
        for m in members:
            if options_of(lowered.nodes[m]).stream != "fixed":
                problems.append(f"node {m!r} is differentiable and stream={options_of(lowered.nodes[m]).stream!r}; only 'fixed' goes "
                                "with that")
    return problems


def _has_loss(filter: Any) -> bool:
    return filter.training.loss_fn is not None if isinstance(filter, ModuleFilter) else callable(getattr(filter, "loss_fn", None))


def schema_problems(lowered: Lowered, order: list[str], before: Neighbours) -> list[str]:
    """Edges whose two ends declare what cannot fit together. Sizes that are known are carried from filter to filter."""
    problems: list[str] = []
    gives: dict[str, Schema] = {}
    for id in order:
        filter = lowered.nodes[id]
        if isinstance(filter, (LoweredLoop, LoweredBranch)):
            continue
        options = options_of(filter)
        sizes: dict[str, int] = {}
        wants = options.input_schema
        if isinstance(wants, Mapping):
            problems += [f"node {id!r} ({title_of(filter)}) declares an input from {name!r}, which is not connected to it; it gets "
                         f"{', '.join(map(repr, before[id])) or 'the input of the graph'}" for name in wants if name not in before[id]]
        for i in before[id]:
            wanted = wants.get(i) if isinstance(wants, Mapping) else wants
            if wanted is None or i not in gives:
                continue
            why = cannot_meet(gives[i], _filled(wanted, sizes)) or _learn(gives[i], wanted, sizes)
            if why:
                problems.append(f"{i!r} >> {id!r}: {i!r} {why}")
        if isinstance(options.output_schema, Schema):
            gives[id] = _filled(options.output_schema, sizes)
    return problems


def _filled(schema: Schema, sizes: Mapping[str, int]) -> Schema:
    """With the sizes that are known by now."""
    if schema.shape is None:
        return schema
    return replace(schema, shape=tuple(sizes.get(d, d) if isinstance(d, str) else d for d in schema.shape))


def _learn(given: Schema, wanted: Schema, sizes: dict[str, int]) -> str:
    """Remember which sizes the names of `wanted` stand for; in words, a name that stands for two."""
    if given.shape is None or wanted.shape is None or "..." in given.shape or "..." in wanted.shape:
        return ""
    for size, name in zip(given.shape, wanted.shape, strict=True):
        if isinstance(size, int) and isinstance(name, str) and name != "*" and sizes.setdefault(name, size) != size:
            return f"gives {given}, and {wanted} is wanted ({name} is {sizes[name]})"
    return ""

