"""Random graphs of small filters over integers, and what they mean, computed in another way than soma does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

import soma
from soma.graph.lowering import Lowered, LoweredBranch, LoweredLoop

M = 10_007
"""Values stay below this prime."""


def total(x: Any) -> int:
    """One number from one input or from several, however they are nested."""
    return sum((i + 2) * total(v) for i, v in enumerate(x.values())) % M if isinstance(x, dict) else int(x)


@soma.filter
@dataclass(eq=False)
class Apply:
    k: int = 1

    def forward(self, x: Any, state: Any) -> int:
        return (total(x) * 3 + self.k) % M


@soma.filter
@dataclass(eq=False)
class Learn:
    k: int = 1

    def fit(self, x: Any, y: Any = None) -> dict[str, int]:
        return {"seen": total(x), "y": y or 0}

    def forward(self, x: Any, state: Any) -> int:
        return (total(x) + 5 * state["seen"] + 7 * state["y"] + self.k) % M


@soma.filter
@dataclass(eq=False)
class Below:
    """Says "stop" once the value lies below a limit."""

    limit: int = M // 2

    def forward(self, x: Any, state: Any) -> Any:
        return total(x) < self.limit


@soma.filter
@dataclass(eq=False)
class Odd:
    """A label."""

    def forward(self, x: Any, state: Any) -> Any:
        return ("even", "odd")[total(x) % 2]


leaves = st.one_of(st.builds(Apply, st.integers(0, 50)), st.builds(Learn, st.integers(0, 50)))


def chained(parts: list[Any]) -> Any:
    expression = parts[0]
    for part in parts[1:]:
        expression = expression >> part
    return expression


def forked(parts: list[Any]) -> Any:
    expression = parts[0]
    for part in parts[1:]:
        expression = expression | part
    return expression


def looped(body: Any, limit: int, most: int) -> Any:
    return soma.loop(body, Below(limit) if limit else None, max_iterations=most)


def extended(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(several.map(chained), several.map(forked),
                     st.builds(looped, inner, st.sampled_from([0, M // 3, M // 2]), st.integers(1, 4)),
                     st.builds(lambda a, b: soma.branch(Odd(), {"odd": a, "default": b}), inner, inner))


expressions = st.recursive(leaves, extended, max_leaves=10)


def given_to(id: str, lowered: Lowered, values: dict[str, Any], x: Any) -> Any:
    """What a node gets: by the definition, looking at every edge."""
    makers = [a for a, b in lowered.edges if b == id]
    return x if not makers else values[makers[0]] if len(makers) == 1 else {a: values[a] for a in makers}


def meaning(lowered: Lowered, x: Any, states: dict[str, Any], y: Any, *, learn: bool) -> dict[str, Any]:
    """Every node's output, by following the definition of graphs node by node; with `learn`, a learner learns
    the first time that it is reached."""
    values: dict[str, Any] = {}
    left = list(lowered.nodes)
    while left:
        id = next(n for n in left if all(a in values for a, b in lowered.edges if b == n))
        left.remove(id)
        values[id] = one(id, lowered.nodes[id], given_to(id, lowered, values, x), states, y, learn=learn)
    return values


def one(id: str, member: Any, given: Any, states: dict[str, Any], y: Any, *, learn: bool) -> Any:
    if isinstance(member, LoweredLoop):
        for _ in range(member.max_iterations):
            inner = meaning(member.body, given, states, y, learn=learn)
            given = inner[member.carry[0]] if len(member.carry) == 1 else {c: inner[c] for c in member.carry}
            if member.until is not None and inner[member.until] is True:
                break
        return given
    if isinstance(member, LoweredBranch):
        (label,) = [meaning(member.condition, given, states, y, learn=learn)[end] for end in member.condition.leaves]
        arm = member.arms.get(label, member.arms.get("default"))
        assert arm is not None
        inner = meaning(arm, given, states, y, learn=learn)
        return inner[arm.leaves[0]] if len(arm.leaves) == 1 else {end: inner[end] for end in arm.leaves}
    if learn and isinstance(member, Learn) and id not in states:  # type: ignore[arg-type]
        states[id] = member.fit(given, y)
    return member.forward(given, states.get(id, {}))
