"""Plans as text: a tree for terminals, and Mermaid for pages that draw it."""

from __future__ import annotations

from collections.abc import Iterator

from soma.graph.plan import Plan, PlanNode
from soma.graph.steps import Branch, Cached, Composite, Empty, Execute, Loop, Parallel, Remote, Sequence, Step, Stream

_MARKS = {"stateless": "", "trainable": "learns", "opaque": "opaque", "loop": "", "branch": ""}

Line = tuple[str, str]


def tree(plan: Plan) -> str:
    """The steps as a tree, with the filters and what is to be said of them."""
    lines = list(_lines(plan, ""))
    width = min(max((len(left) for left, _ in lines), default=0), 60)
    many = sum(1 for _ in plan.filters())
    return "\n".join([f"Plan of {many} node{'s' * (many != 1)}",
                      *(f"{left:<{width}}  {right}" if right else left for left, right in lines),
                      *(f"note: {said}" for said in plan.diagnostics)])


def _lines(plan: Plan, indent: str) -> Iterator[Line]:
    # an explicit stack: (step, what stands before it on its own line, what stands before its parts, remarks)
    stack: list[tuple[Plan, Step, str, str, tuple[str, ...]]] = [(plan, plan.root, indent + "└─ ", indent + "   ", ())]
    while stack:
        plan, step, first, rest, said = stack.pop()
        if isinstance(step, (Stream, Remote)):
            more = (f"in {step.process}: {step.reason}",) if isinstance(step, Remote) else ((step.mode,) if step.mode != "fixed" else ())
            stack.append((plan, step.step, first, rest, (*said, *more)))
        elif isinstance(step, Execute):
            yield first + step.node, _remark(plan.node(step.node), said)
        elif isinstance(step, Cached):
            yield first + step.node, _remark(plan.node(step.node), (*said, f"cached ({step.tier})"))
        elif isinstance(step, Composite):
            yield first + "composite", " · ".join(("one process, one autograd graph", *said))
            for i, id in enumerate(step.nodes):
                yield rest + ("└─ " if i == len(step.nodes) - 1 else "├─ ") + id, _remark(plan.node(id), ())
        elif isinstance(step, (Loop, Branch)):
            yield first + step.node, _remark(plan.node(step.node), said)
            for title, inner in reversed(_inside(step)):
                stack.append((inner, inner.root, f"{rest}{title}: ", rest + "   ", ()))
        else:
            yield first + type(step).__name__.lower(), " · ".join(said)
            for part in reversed(() if isinstance(step, Empty) else step.steps):
                last = part is (step.steps[-1] if isinstance(step, (Sequence, Parallel)) else part)
                stack.append((plan, part, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "), ()))


def _inside(step: Loop | Branch) -> list[tuple[str, Plan]]:
    if isinstance(step, Loop):
        return [("each pass", step.body)]
    return [("condition", step.condition), *((f"when {label!r}", arm) for label, arm in step.arms)]


def _remark(node: PlanNode, said: tuple[str, ...]) -> str:
    mark = _MARKS[node.kind]
    return "  · ".join([node.label, *([mark] if mark else []), *said])


def mermaid(plan: Plan) -> str:
    """A flowchart; loops and branches are frames around what they run."""
    lines = ["flowchart LR"]
    number: dict[str, str] = {}
    _mermaid(plan, lines, number, "    ")
    return "\n".join(lines)


def _mermaid(plan: Plan, lines: list[str], number: dict[str, str], indent: str) -> None:
    for node in plan.nodes:
        name = number[node.id] = f"n{len(number)}"
        if node.inner is None:
            lines.append(f'{indent}{name}["{_quoted(node.id)}<br/>{_quoted(node.label)}"]')
            continue
        lines.append(f'{indent}subgraph {name}["{_quoted(node.id)}: {_quoted(node.label)}"]')
        for i, (title, inner) in enumerate(_inside(node.inner)):
            lines.append(f'{indent}    subgraph {name}_{i}["{_quoted(title)}"]')
            _mermaid(inner, lines, number, indent + "        ")
            lines.append(f"{indent}    end")
        lines.append(f"{indent}end")
    lines += [f"{indent}{number[i]} --> {number[n.id]}" for n in plan.nodes for i in n.inputs]


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
