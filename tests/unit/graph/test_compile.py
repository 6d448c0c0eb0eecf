"""From expressions to plans, without a cluster: what the graph means, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.graph import Empty, Execute, GraphError, Parallel, Plan, Sequence
from soma.graph.builder import Blueprint, blueprint_of, snake
from soma.graph.compile import compile_plan
from soma.graph.steps import Composite, Step


@soma.filter
@dataclass(eq=False)
class Apply:
    """Adds or multiplies; several inputs are summed first."""

    op: str = "+"
    k: int = 0

    def forward(self, x: Any, state: Any) -> int:
        total = sum(x.values()) if isinstance(x, dict) else x
        return int(total + self.k if self.op == "+" else total * self.k)


Feed = list[int]
Meaning = Callable[[Feed], Feed]
"""What a part makes of the outputs before it."""


def leaf(op: str, k: int) -> tuple[Any, Meaning]:
    return Apply(op, k), lambda feed: [sum(feed) + k if op == "+" else sum(feed) * k]


def chained(parts: list[tuple[Any, Meaning]]) -> tuple[Any, Meaning]:
    expression = parts[0][0]
    for part, _ in parts[1:]:
        expression = expression >> part

    def meaning(feed: Feed) -> Feed:
        for _, m in parts:
            feed = m(feed)
        return feed

    return expression, meaning


def forked(parts: list[tuple[Any, Meaning]]) -> tuple[Any, Meaning]:
    expression = parts[0][0]
    for part, _ in parts[1:]:
        expression = expression | part
    return expression, lambda feed: [v for _, m in parts for v in m(feed)]


leaves = st.builds(leaf, st.sampled_from("+*"), st.integers(-3, 3))
expressions = st.recursive(
    leaves, lambda inner: st.one_of(*(st.lists(inner, min_size=2, max_size=4).map(f) for f in (chained, forked))), max_leaves=12)


def evaluate(plan: Plan, nodes: dict[str, Any], x: Any) -> dict[str, Any]:
    """What the runner does, in one process."""
    out: dict[str, Any] = {}
    for node in plan.nodes:
        given = x if not node.inputs else out[node.inputs[0]] if len(node.inputs) == 1 else {i: out[i] for i in node.inputs}
        out[node.id] = nodes[node.id].forward(given, {})
    return out


def members(step: Step) -> list[str]:
    if isinstance(step, Execute):
        return [step.node]
    if isinstance(step, Composite):
        return list(step.nodes)
    return [] if isinstance(step, Empty) else [id for s in step.steps for id in members(s)]


def check_steps(plan: Plan, step: Step) -> None:
    """A sequence forces an order only where the graph does; nothing parallel of several steps hides an order that it breaks."""
    if isinstance(step, (Empty, Execute, Composite)):
        return
    assert len(step.steps) > 1
    for before, after in zip(step.steps, step.steps[1:], strict=False):
        if isinstance(step, Sequence):
            for node in members(after):
                assert set(members(before)) < plan.ancestors([node])
    for part in step.steps:
        check_steps(plan, part)


@given(expressions, st.integers(-5, 5))
def test_expressions_mean_what_they_say(made: tuple[Any, Meaning], x: int) -> None:
    expression, meaning = made
    blueprint = blueprint_of(expression)
    plan = compile_plan(blueprint)
    out = evaluate(plan, dict(blueprint.nodes), x)
    assert sorted(out[id] for id in plan.leaves) == sorted(meaning([x]))
    assert sorted(members(plan.root)) == sorted(blueprint.nodes)
    check_steps(plan, plan.root)


@st.composite
def dags(draw: st.DrawFn) -> Blueprint:
    n = draw(st.integers(1, 12))
    order = draw(st.permutations(range(n)))
    edges = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] < e[1]), max_size=30))
    blueprint = Blueprint()
    for i in draw(st.permutations(range(n))):
        blueprint.nodes[f"n{i}"] = Apply(draw(st.sampled_from("+*")), draw(st.integers(-3, 3)))
    for a, b in edges:
        blueprint.connect(f"n{order[a]}", f"n{order[b]}")
    return blueprint


@given(dags(), st.integers(-5, 5))
def test_any_acyclic_graph_runs_in_a_right_order(blueprint: Blueprint, x: int) -> None:
    memo: dict[str, int] = {}

    def naive(id: str) -> int:
        if id not in memo:
            inputs = {a for a, b in blueprint.edges if b == id}
            filter = blueprint.nodes[id]
            memo[id] = filter.forward({a: naive(a) for a in inputs} or x, {})
        return memo[id]

    plan = compile_plan(blueprint)
    assert evaluate(plan, dict(blueprint.nodes), x) == {id: naive(id) for id in blueprint.nodes}
    assert sorted(members(plan.root)) == sorted(blueprint.nodes)
    assert set(plan.leaves) == set(blueprint.nodes) - {a for a, _ in blueprint.edges}
    check_steps(plan, plan.root)


@given(dags(), st.data())
def test_closing_a_path_is_found_as_a_cycle(blueprint: Blueprint, data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(sorted(blueprint.nodes)))
    start = data.draw(st.sampled_from(sorted(compile_plan(blueprint).ancestors([end]))))
    blueprint.connect(end, start)
    edges = set(blueprint.edges)
    with pytest.raises(GraphError, match="the graph has a cycle: ") as caught:
        compile_plan(blueprint)
    path = str(caught.value).removeprefix("the graph has a cycle: ").partition(";")[0].split(" >> ")
    assert path[0] == path[-1] and set(zip(path, path[1:], strict=False)) <= edges


class TestTheShapeOfPlans:
    def test_a_diamond(self) -> None:
        a, b, c, d = (Apply() for _ in range(4))
        plan = soma.Graph(a >> (b | c) >> d).compile()
        assert plan.root == Sequence((Execute("apply"), Parallel((Execute("apply_2"), Execute("apply_3"))), Execute("apply_4")))
        assert plan.node("apply_4").inputs == ("apply_2", "apply_3")
        assert plan.formula() == "apply >> (apply_2 | apply_3) >> apply_4"

    def test_a_short_branch_never_waits_for_a_long_one(self) -> None:
        a, b, c, d = (Apply() for _ in range(4))
        plan = soma.Graph((a >> b) | (c >> d)).compile()
        assert plan.formula() == "(apply >> apply_2) | (apply_3 >> apply_4)"

    def test_entangled_nodes_stand_side_by_side(self) -> None:
        a, b, c, d = (Apply() for _ in range(4))
        plan = soma.Graph((a >> (c | d)) | (b >> d)).compile()
        assert isinstance(plan.root, Parallel) and len(plan.root.steps) == 4
        assert plan.leaves == ("apply_2", "apply_3")

    def test_one_object_is_one_node(self) -> None:
        a, b, c = Apply(), Apply(), Apply()
        graph = soma.Graph((a >> b) | (a >> c))
        assert len(graph) == 3
        assert graph.compile().formula() == "apply >> (apply_2 | apply_3)"

    def test_an_empty_graph(self) -> None:
        plan = soma.Graph().compile()
        assert plan.root == Empty() and plan.leaves == () and repr(plan) == "Plan of 0 nodes\n└─ empty"

    def test_plans_are_values(self) -> None:
        def plan() -> Plan:
            return soma.Graph(Apply("+", 1) >> [Apply("*", 2), Apply("+", 3)]).compile()

        assert plan() == plan()

    def test_how_it_is_shown(self) -> None:
        class Learn(Apply):  # type: ignore[misc, valid-type]
            def fit(self, x: Any, y: Any = None) -> Any:
                return {}

            def __repr__(self) -> str:
                return 'Learn("<b>")'

        graph = soma.Graph(Apply("+", 1) >> (Learn() | Apply("*", 2)))
        assert repr(graph.compile()).splitlines() == [
            "Plan of 3 nodes",
            "└─ sequence",
            "   ├─ apply       Apply(op='+', k=1)",
            "   └─ parallel",
            '      ├─ learn    Learn("<b>")  · learns',
            "      └─ apply_2  Apply(op='*', k=2)",
        ]
        assert repr(graph) == "Graph(apply >> (learn | apply_2))"
        assert graph.to_mermaid().splitlines() == [
            "flowchart LR",
            """    n0["apply<br/>Apply(op='+', k=1)"]""",
            '    n1["learn<br/>Learn(&quot;&lt;b&gt;&quot;)"]',
            """    n2["apply_2<br/>Apply(op='*', k=2)"]""",
            "    n0 --> n1",
            "    n0 --> n2",
        ]


class TestRefusals:
    def test_dangling_edges_are_all_named(self) -> None:
        graph = soma.Graph()
        graph.node("scale", Apply())
        graph.connect("scal", "scale")
        graph.connect("scale", "vote")
        with pytest.raises(GraphError) as caught:
            graph.compile()
        assert str(caught.value).splitlines() == ["edge 'scal' >> 'scale': there is no node 'scal'; did you mean 'scale'?",
                                                  "edge 'scale' >> 'vote': there is no node 'vote'"]
        assert "cannot be compiled: edge 'scal'" in repr(graph)

    def test_an_object_after_itself(self) -> None:
        a = Apply()
        with pytest.raises(GraphError, match="apply >> apply; one object is one node"):
            soma.Graph(a >> a).compile()

    @pytest.mark.parametrize("id", ["", "a\nb", 3, None])
    def test_ids_can_be_printed(self, id: Any) -> None:
        with pytest.raises(GraphError, match="a string that can be printed"):
            soma.Graph().node(id, Apply())

    def test_an_id_twice(self) -> None:
        graph = soma.Graph()
        graph.node("a", Apply())
        with pytest.raises(GraphError, match=r"there is a node 'a' already \(Apply\)"):
            graph.node("a", Apply())

    def test_a_node_is_one_filter(self) -> None:
        with pytest.raises(TypeError, match="a single filter"):
            soma.Graph().node("a", Apply() >> Apply())

    def test_running_nothing(self) -> None:
        with pytest.raises(GraphError, match="no nodes"):
            soma.Graph().forward(1)


@pytest.mark.parametrize(("title", "id"), [("StandardScaler", "standard_scaler"), ("PCA", "pca"), ("KNNImputer", "knn_imputer"),
                                           ("Conv2D", "conv2d"), ("plus_one", "plus_one"), ("_", "_")])
def test_ids_are_snake_case(title: str, id: str) -> None:
    assert snake(title) == id


def test_ids_never_collide() -> None:
    names = [type(n, (), {"forward": lambda self, x, state: x}) for n in ("A", "a_2", "A", "a", "A")]
    expression = [soma.filter(cls)() for cls in names]
    assert list(blueprint_of(expression).nodes) == ["a", "a_2", "a_3", "a_4", "a_5"]


@pytest.mark.parametrize("shape", ["chain", "fork", "nested", "ladder"])
def test_large_graphs_compile_in_no_time(shape: str) -> None:
    """Linear, and no deeper on Python's stack than it must be. The limit is ten times what it takes."""
    expression: Any = Apply()
    for i in range(999):
        match shape:
            case "chain":
                expression = expression >> Apply()
            case "fork":
                expression = expression | Apply()
            case "nested":
                expression = (expression >> Apply()) | Apply() if i % 2 else expression >> Apply()
            case "ladder":
                expression = expression >> (Apply() | Apply()) if i % 2 else expression >> Apply()
    began = time.perf_counter()
    plan = soma.Graph(expression).compile()
    assert time.perf_counter() - began < 2
    assert len(members(plan.root)) == len(plan.nodes) >= 1000
    assert len(repr(plan).splitlines()) >= 1000


def test_ten_thousand_nodes() -> None:
    expression: Any = Apply()
    for i in range(7_500):
        expression = expression >> Apply() if i % 3 else expression >> (Apply() | Apply())
    blueprint = blueprint_of(expression)
    began = time.perf_counter()
    plan = compile_plan(blueprint)
    assert time.perf_counter() - began < 3  # it takes 0.2
    assert len(plan.nodes) == 10_001
