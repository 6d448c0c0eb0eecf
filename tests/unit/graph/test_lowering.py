"""Graphs in graphs, loops and branches that name nodes: what they become, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import soma
from soma.errors import GraphError
from soma.graph import Branch, Loop

sys.path.insert(0, str(Path(__file__).parent))

from strategies import Apply, Below, Learn, Odd


def named(**nodes: Any) -> soma.Graph:
    g = soma.Graph()
    for id, filter in nodes.items():
        g.node(id, filter)
    return g


class TestGraphsInGraphs:
    def test_its_nodes_are_nodes_of_the_larger_one(self) -> None:
        inner = soma.Graph(Apply(1) >> Apply(2), name="clean")
        plan = soma.Graph(Apply(0) >> inner >> Apply(3)).compile()
        assert plan.formula() == "apply >> clean/apply >> clean/apply_2 >> apply_2"

    def test_every_way_in_and_out_is_connected(self) -> None:
        inner = soma.Graph(Apply(1) | Apply(2))
        plan = soma.Graph(Apply(0) >> inner >> Apply(3)).compile()
        assert plan.node("graph/apply").inputs == ("apply",) == plan.node("graph/apply_2").inputs
        assert plan.node("apply_2").inputs == ("graph/apply", "graph/apply_2")

    def test_under_a_name_of_its_own_and_twice(self) -> None:
        g = named(a=Apply(), one=soma.Graph(Apply(1)), two=soma.Graph(Apply(1) >> soma.Graph(Apply(2), name="deep")))
        g.connect("a", "one")
        g.connect("one", "two")
        assert g.compile().formula() == "a >> one/apply >> two/apply >> two/deep/apply"

    def test_the_inner_graph_may_grow_until_then(self) -> None:
        inner = named(a=Apply())
        outer = soma.Graph(inner >> Apply())
        inner.node("b", Apply())
        inner.connect("a", "b")
        assert outer.compile().formula() == "graph/a >> graph/b >> apply"

    def test_loops_and_branches_come_along(self) -> None:
        inner = named(step=Apply(), stop=Below())
        inner.loop("again", "step", "stop")
        plan = soma.Graph(soma.Graph(inner, name="x") >> Apply()).compile()
        loop = plan.node("x/graph/again").inner
        assert isinstance(loop, Loop)
        assert loop.carry == ("x/graph/step",) and loop.until == "x/graph/stop"


class TestLoops:
    def test_nodes_that_it_names_move_inside(self) -> None:
        g = named(step=Apply(), stop=Below(), before=Apply())
        g.loop("again", body="step", until="stop", max_iterations=7)
        g.connect("before", "again")
        plan = g.compile()
        loop = plan.node("again").inner
        assert isinstance(loop, Loop)
        assert plan.formula() == "before >> again"
        assert (loop.carry, loop.until, loop.max_iterations) == (("step",), "stop", 7)
        assert loop.body.formula() == "step >> stop"
        assert [n.id for n in plan.filters()] == ["before", "step", "stop"]

    def test_a_signal_from_inside_the_body(self) -> None:
        body = Apply() >> [Apply(2), Below()]
        g = soma.Graph()
        g.loop("again", body, "below")
        loop = g.compile().node("again").inner
        assert isinstance(loop, Loop)
        assert loop.carry == ("again/apply_2",) and loop.until == "again/below"

    def test_several_named_nodes_keep_their_edges(self) -> None:
        g = named(a=Apply(), b=Apply(), stop=Below())
        g.connect("a", "b")
        g.loop("again", ["a", "b"], "stop")
        loop = g.compile().node("again").inner
        assert isinstance(loop, Loop) and loop.body.formula() == "a >> b >> stop"

    def test_loops_in_loops(self) -> None:
        g = named(a=Apply())
        g.loop("inner", "a", max_iterations=2)
        g.loop("outer", "inner", max_iterations=3)
        plan = g.compile()
        assert plan.formula() == "outer" and [n.id for n in plan.filters()] == ["a"]

    @pytest.mark.parametrize(("build", "match"), [
        (lambda g: g.loop("again", "stepp"), "loop 'again' names 'stepp', and there is no such node; did you mean 'step'"),
        (lambda g: g.loop("again", "again"), "names itself"),
        (lambda g: (g.loop("one", "step"), g.loop("two", "step")), "'step' cannot be inside both 'one' and 'two'"),
        (lambda g: (g.loop("one", "two"), g.loop("two", "one")), "'one' is inside 'two' is inside 'one', which cannot be"),
        (lambda g: (g.loop("again", "step"), g.connect("stop", "step")), "'step' is inside 'again'; connect 'again' instead"),
        (lambda g: g.loop("again", "step", Below() | Below()), "its signal must come from one node, and 2"),
        (lambda g: g.loop("again", "step", "step"), "has no body but its signal"),
    ])
    def test_refusals(self, build: Any, match: str) -> None:
        g = named(step=Apply(), stop=Below())
        build(g)
        with pytest.raises(GraphError, match=match):
            g.compile()

    @pytest.mark.parametrize("most", [0, -1, 1.5, True, None])
    def test_the_number_of_passes(self, most: Any) -> None:
        with pytest.raises(ValueError, match="max_iterations="):
            soma.loop(Apply(), max_iterations=most)


class TestBranches:
    def test_arms_and_condition(self) -> None:
        g = named(a=Apply(), sign=Odd(), plus=Apply())
        g.branch("route", "sign", {"odd": "plus", "even": Apply() >> Learn(), "default": soma.Graph(Apply())})
        g.connect("a", "route")
        plan = g.compile()
        branch = plan.node("route").inner
        assert isinstance(branch, Branch)
        assert branch.condition.formula() == "sign"
        assert {label: arm.formula() for label, arm in branch.arms} == {
            "odd": "plus", "even": "route/even/apply >> route/even/learn", "default": "route/default/graph/apply"}
        assert plan.node("route").learns and not plan.node("a").learns

    @pytest.mark.parametrize(("arms", "match"), [
        ({}, "a branch needs arms"), ([Apply()], "a branch needs arms"), ({3: Apply()}, "the label 3 of an arm"),
        ({True: Apply(), "true": Apply()}, "two arms are called 'true'")])
    def test_arms_that_cannot_be(self, arms: Any, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            soma.branch(Odd(), arms)

    def test_a_condition_with_two_ends(self) -> None:
        with pytest.raises(GraphError, match="branch 'branch': its label must come from one node, and 2"):
            soma.Graph(soma.branch(Odd() | Odd(), {"odd": Apply()})).compile()


class TestUnreachable:
    def test_a_named_node_that_nothing_touches(self) -> None:
        g = named(a=Apply(), b=Apply(), lost=Apply())
        g.connect("a", "b")
        with pytest.raises(GraphError, match="node 'lost' cannot be reached"):
            g.compile()

    def test_side_by_side_in_an_expression_is_meant(self) -> None:
        assert len(soma.Graph(Apply() | Apply()).compile().nodes) == 2

    def test_one_node_alone_is_a_graph(self) -> None:
        assert named(a=Apply()).compile().formula() == "a"

    def test_all_problems_at_once(self) -> None:
        g = named(a=Apply(), b=Apply(), lost=Apply())
        g.connect("a", "b")
        g.connect("b", "c")
        g.loop("again", "nowhere")
        with pytest.raises(GraphError) as caught:
            g.compile()
        assert len(str(caught.value).splitlines()) >= 2
