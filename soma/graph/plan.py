"""What will run, as frozen values without data: a tree of steps over the nodes.

A node starts as soon as its own inputs are there, whatever stands beside it. A `Sequence` is drawn only where that forces one
part to follow the other, so no short branch ever waits for a long one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One filter: its id, how it is shown, what kind it is, and whose outputs it gets (none: the graph's input)."""

    id: str
    label: str
    kind: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Execute:
    """Run one node in its actor."""

    node: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """Each step needs all that the one before it made."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Steps that may run at the same time, as soon as their inputs are there."""

    steps: tuple[Step, ...]


_MARKS = {"stateless": "", "trainable": "  · learns", "opaque": "  · opaque"}
Step = Empty | Execute | Sequence | Parallel


@dataclass(frozen=True, slots=True)
class Plan:
    """The nodes in an order that respects their inputs, and the tree of steps over them."""

    nodes: tuple[PlanNode, ...]
    root: Step
    _by_id: dict[str, PlanNode] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_id.update((n.id, n) for n in self.nodes)

    def node(self, id: str) -> PlanNode:
        return self._by_id[id]

    @property
    def leaves(self) -> tuple[str, ...]:
        """The nodes whose outputs nobody takes: what `forward` gives."""
        taken = {i for n in self.nodes for i in n.inputs}
        return tuple(n.id for n in self.nodes if n.id not in taken)

    @property
    def trainable(self) -> tuple[str, ...]:
        return tuple(n.id for n in self.nodes if n.kind != "stateless")

    def ancestors(self, id: str) -> tuple[str, ...]:
        """The node and all that it depends on, in the plan's order."""
        found, todo = {id}, [id]
        while todo:
            new = [i for i in self._by_id[todo.pop()].inputs if i not in found]
            found.update(new)
            todo.extend(new)
        return tuple(n.id for n in self.nodes if n.id in found)

    def formula(self) -> str:
        """As it could have been written: `a >> (b | c) >> d`."""
        return _formula(self.root, outermost=True)

    def to_mermaid(self) -> str:
        """A flowchart that GitHub and notebooks draw."""
        number = {n.id: f"n{i}" for i, n in enumerate(self.nodes)}
        lines = ["flowchart LR"]
        lines += [f'    {number[n.id]}["{_quoted(n.id)}<br/>{_quoted(n.label)}"]' for n in self.nodes]
        lines += [f"    {number[i]} --> {number[n.id]}" for n in self.nodes for i in n.inputs]
        return "\n".join(lines)

    def __repr__(self) -> str:
        drawn = list(self._tree())
        width = max((len(left) for left, _ in drawn), default=0)
        many = len(self.nodes)
        return "\n".join([f"Plan of {many} node{'s' * (many != 1)}",
                          *(f"{left:<{width}}  {node.label}{_MARKS[node.kind]}" if node else left for left, node in drawn)])

    def _tree(self) -> Iterator[tuple[str, PlanNode | None]]:
        """Lines of the tree: what stands on the left, and the node of the line."""
        # an explicit stack: (step, what stands before it on its own line, what stands before its parts)
        stack: list[tuple[Step, str, str]] = [(self.root, "└─ ", "   ")]
        while stack:
            step, first, rest = stack.pop()
            if isinstance(step, Execute):
                yield first + step.node, self._by_id[step.node]
                continue
            yield first + type(step).__name__.lower(), None
            parts = () if isinstance(step, Empty) else step.steps
            for part in reversed(parts):
                last = part is parts[-1]
                stack.append((part, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")))


def _formula(step: Step, *, outermost: bool = False) -> str:
    if isinstance(step, Empty):
        return ""
    if isinstance(step, Execute):
        return step.node
    text = (" >> " if isinstance(step, Sequence) else " | ").join(_formula(s) for s in step.steps)
    return text if outermost else f"({text})"


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
