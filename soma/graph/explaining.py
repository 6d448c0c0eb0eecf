"""What a graph did and why: `graph.explain()`, and the drawing with times and cache hits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from soma.graph.drawing import Box, svg
from soma.graph.plan import Plan, PlanNode
from soma.graph.processes import Processes
from soma.graph.recall import Why
from soma.graph.steps import Branch, Loop


@dataclass(frozen=True, slots=True)
class LastRun:
    """What is remembered of a run, by node."""

    what: str
    id: str
    plan: Plan
    milliseconds: Mapping[str, float]
    losses: Mapping[str, float]
    whys: list[Why]
    failed: str = ""

    def hit(self, node: str) -> str:
        """The tier its result came from, "" if it was made."""
        return next((w.said for w in reversed(self.whys) if w.node == node and w.hit), "") if node not in self.milliseconds else ""


@dataclass(frozen=True, slots=True)
class Row:
    """One node: where it runs and why there; what the cache said of its state and its output; how long it worked, in ms."""

    node: str
    label: str
    process: str = ""
    machine: str = ""
    reason: str = ""
    state: str = ""
    output: str = ""
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Rows by node, in the order of the plan. Print it."""

    rows: tuple[Row, ...]
    run: str = ""
    """What the last run was, and its id."""

    def __getitem__(self, node: str) -> Row:
        found = next((r for r in self.rows if r.node == node), None)
        if found is None:
            raise KeyError(f"no node {node!r}; there are {', '.join(r.node for r in self.rows)}")
        return found

    def __str__(self) -> str:
        lines = [f"last run: {self.run}" if self.run else "not run yet"]
        width = max((len(r.node) for r in self.rows), default=0)
        for r in self.rows:
            said = [f"in {r.process} on {r.machine}: {r.reason}" if r.process else "", f"state {r.state}" if r.state else "",
                    f"output {r.output}" if r.output else "", "" if r.ms is None else f"{r.ms:.1f} ms"]
            lines.append(f"  {r.node:<{width}}  " + "; ".join(s for s in said if s))
        return "\n".join(lines)

    __repr__ = __str__


def explained(plan: Plan, processes: Processes | None, last: LastRun | None) -> Explanation:
    """Of a graph as it is now."""
    placed = processes.placed if processes is not None else {}
    rows = []
    for node in plan.filters():
        where = placed.get(node.id)
        rows.append(Row(node.id, node.label, where.process if where else "", where.machine if where else "", where.reason if where else "",
                        _said(last, node.id, "state"), _said(last, node.id, "output"),
                        last.milliseconds.get(node.id) if last is not None else None))
    return Explanation(tuple(rows), "" if last is None else f"{last.what} {last.id}")


def _said(last: LastRun | None, node: str, what: str) -> str:
    found = next((w for w in reversed(last.whys) if w.node == node and w.what == what), None) if last is not None else None
    return "" if found is None else f"hit ({found.said})" if found.hit else f"missed: {found.said}"


def picture(plan: Plan, last: LastRun | None) -> str:
    """The DAG as SVG in HTML; with a last run, its times, cache hits and failure."""
    return f'<div style="overflow-x:auto">{svg(_boxes(plan, last), title=plan.formula()[:100])}</div>'


def _boxes(plan: Plan, last: LastRun | None) -> tuple[Box, ...]:
    return tuple(_box(plan, node, last) for node in plan.nodes)


def _box(plan: Plan, node: PlanNode, last: LastRun | None) -> Box:
    group = plan.group(node.id)
    ms = last.milliseconds.get(node.id) if last is not None else None
    mark = "" if last is None else "failed" if last.failed == node.id else last.hit(node.id)
    inner: tuple[tuple[str, tuple[Box, ...]], ...] = ()
    if isinstance(node.inner, Loop):
        until = f"each pass, until {node.inner.until!r}" if node.inner.until else f"{node.inner.max_iterations} passes"
        inner = ((until, _boxes(node.inner.body, last)),)
    elif isinstance(node.inner, Branch):
        inner = (("condition", _boxes(node.inner.condition, last)), *((f"when {k!r}", _boxes(p, last)) for k, p in node.inner.arms))
    time = "" if ms is None else _time(ms)
    title = f"one process, one autograd graph ({group[0]})" if len(group) > 1 else None
    return Box(node.id, node.label, node.kind, node.inputs, title, time, mark, inner)


def _time(ms: float) -> str:
    return f"{ms / 1e3:.2f} s" if ms >= 1000 else f"{ms:.1f} ms"
