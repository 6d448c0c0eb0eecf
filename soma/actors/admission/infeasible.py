"""Why no node could ever have what was asked for, in words: what was asked, and what each kind of node has instead. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from soma.actors.admission.amounts import GPU, PARTS, Parts, amount_of, explain_infeasible, parts_of, quantity
from soma.actors.admission.groups import Group
from soma.actors.admission.pool import Pool
from soma.actors.admission.pools import Pools
from soma.actors.admission.where import ANYWHERE, InGroup, NodeAffinity, Where

_MOST = 5
"""Kinds of nodes that are named."""


def why_never(pools: Pools, request: Mapping[str, float], where: Where = ANYWHERE) -> str:
    """"asked for 64 CPU; the largest of 5 nodes has 2". Empty when some node could have it.

    A node that is draining counts as gone. With one node, and nothing asked of `where`, it is what `explain_infeasible` says.
    """
    if pools.feasible(request, where):
        return ""
    if isinstance(where.strategy, InGroup):
        return _in_group(pools.bundles.groups.get(where.strategy.group), where.strategy, request)
    nodes = [n for n in pools.members() if n.state != "draining"]
    if not nodes:
        return f"asked for {_all(request)}; the cluster has no node that takes anything"
    here = [n for n in nodes if all(t in n.tags for t in where.tags)]
    asked = []
    if where.tags:
        asked.append(f"the tags {', '.join(map(repr, where.tags))}")
    if not here:
        return f"asked for {asked[0]}; no node has them" + _there(sorted({t for n in nodes for t in n.tags}))
    labelled = [n for n in here if all(c.holds(n.labels) for c in where.hard)]
    if where.hard:
        asked.append(f"the labels {', '.join(map(str, where.hard))}")
    if not labelled:
        there = sorted({f"{k}={v}" for n in here for k, v in n.labels.items()})
        return f"asked for {' and '.join(asked)}; no node has them" + _there(there)
    if isinstance(where.strategy, NodeAffinity) and not where.strategy.soft:
        id = where.strategy.node
        found = [n for n in labelled if n.id == id]
        if not found:
            return f"asked for the node {id!r}, {_what_became_of(pools, id, {n.id for n in nodes})}"
        return explain_infeasible(request, found[0].totals).replace("; the cluster has", f" on the node {id!r}; it has") or _pieces(request)
    some = len(labelled) < len(nodes)
    text = _too_much(request, [n.totals for n in labelled], "such node" if some else "node")
    return text.replace("; ", f" with {' and '.join(asked)}; ", 1) if some else text


def _there(marks: Sequence[str]) -> str:
    return f" (there are {', '.join(map(repr, marks[:10]))}{', …' * (len(marks) > 10)})" if marks else ""


def _what_became_of(pools: Pools, id: str, open_nodes: set[str]) -> str:
    if id in open_nodes:
        return "which has not the tags and labels that were asked for as well"
    if id in pools.nodes.number:
        return "which is leaving the cluster"
    return "which was lost" if id in pools.lost else "which is not in the cluster"


def _in_group(group: Group | None, asked: InGroup, request: Mapping[str, float]) -> str:
    if group is None:
        return f"asked for the placement group {asked.group}, which does not exist, or was removed"
    inside = group.inside(asked.bundle)
    if not inside:
        return f"asked for bundle {asked.bundle} of a placement group that has {len(group.bundles)}"
    return _too_much(request, [{name: n / PARTS for name, n in b.items()} for b in inside], "bundle")


def why_group_never(pools: Pools, group: Group) -> str:
    """Why empty nodes could not hold a placement group. Empty when they could."""
    if pools.bundles.feasible(group):
        return ""
    totals = [n.totals for n in pools.members() if n.state != "draining"]
    for j, bundle in enumerate(group.bundles):
        if not any(Pool(t)._feasible(bundle) for t in totals):
            return f"bundle {j} {_too_much({name: n / PARTS for name, n in bundle.items()}, totals, 'node')}"
    if group.strategy == "STRICT_SPREAD" and len(group.bundles) > len(totals):
        return f"asked for {len(group.bundles)} nodes, one for each bundle (STRICT_SPREAD); the cluster has {len(totals)}"
    asked: Parts = {}
    for bundle in group.bundles:
        for name, n in bundle.items():
            asked[name] = asked.get(name, 0) + n
    return (f"asked for {len(group.bundles)} bundles ({group.strategy}) with {_all({k: n / PARTS for k, n in asked.items()})} in all; "
            f"no choice of {_number(len(totals), 'node')} holds them")


def _too_much(request: Mapping[str, float], totals: Sequence[Mapping[str, float]], thing: str) -> str:
    """Nobody of `totals` has all of it."""
    if len(totals) == 1:
        owner = {"node": "the cluster", "bundle": "the bundle"}.get(thing, f"the only {thing}")
        return explain_infeasible(request, totals[0]).replace("; the cluster has", f"; {owner} has") or _pieces(request)
    want, have = parts_of(request), [parts_of(t) for t in totals]
    beyond = [name for name, n in want.items() if all(n > h.get(name, 0) for h in have)]
    if beyond:
        asked = " and ".join(amount_of(name, request[name]) for name in beyond)
        most = " and ".join(quantity(name, max(t.get(name, 0.0) for t in totals)) for name in beyond)
        return f"asked for {asked}; the largest of {len(totals)} {thing}s has {most}"
    names = list(want)
    kinds: dict[tuple[float, ...], int] = {}
    for t in totals:
        key = tuple(t.get(name, 0.0) for name in names)
        kinds[key] = kinds.get(key, 0) + 1
    told = [f"{_number(n, thing)} {'has' if n == 1 else 'have'} {' and '.join(map(quantity, names, key))}"
            for key, n in sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))]
    more = f", and {len(told) - _MOST} other kinds" if len(told) > _MOST else ""
    return f"asked for {_all(request)}, together on one {thing}; {', '.join(told[:_MOST])}{more}"


def _pieces(request: Mapping[str, float]) -> str:
    """Only GPUs can be there in pieces too small."""
    return f"asked for {quantity(GPU, request.get(GPU, 0))} {GPU}; no GPU there is large enough"


def _all(request: Mapping[str, float]) -> str:
    wanted = [amount_of(name, n) for name, n in request.items() if n]
    return " and ".join(wanted) or "nothing in particular"


def _number(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"
