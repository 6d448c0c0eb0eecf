"""What starts when, decided purely: against the meaning of random graphs with loops and branches, in any order of completion."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.errors import GraphError
from soma.graph.builder import blueprint_of
from soma.graph.compile import filters_in, plan_of
from soma.graph.lowering import lower
from soma.graph.plan import Plan
from soma.graph.walk import Bundle, Call, Read, Walk

sys.path.insert(0, str(Path(__file__).parent))

from strategies import Apply, Below, Learn, Odd, expressions, meaning


def value(named: Any) -> Any:
    return {k: value(v) for k, v in named.parts} if isinstance(named, Bundle) else named


class Player:
    """Does what a walk asks for, one thing at a time, in a random order."""

    def __init__(self, filters: dict[str, Any], seed: int, y: Any = 3) -> None:
        self.filters, self.random, self.y = filters, random.Random(seed), y
        self.states: dict[str, Any] = {}
        self.fits: list[str] = []
        self.calls: list[Call] = []

    def play(self, walk: Walk, x: Any) -> None:
        waiting = list(walk.begin(x))
        while waiting:
            todo = waiting.pop(self.random.randrange(len(waiting)))
            if isinstance(todo, Read):
                waiting += walk.read(todo.key, value(todo.value))
            else:
                waiting += walk.done(todo.key, self.do(todo))
        assert walk.idle

    def do(self, call: Call) -> dict[str, Any]:
        self.calls.append(call)
        (node,) = call.nodes
        filter, x = self.filters[node], value(call.inputs[0][1] if len(call.inputs) == 1 else Bundle(call.inputs))
        if call.op != "forward":
            self.fits.append(node)
            self.states[node] = filter.fit(x, self.y)
        return {node: filter.forward(x, self.states.get(node, {}))} if call.wanted else {}


def made(expression: Any) -> tuple[Any, Plan, dict[str, Any]]:
    lowered = lower(blueprint_of(expression))
    return lowered, plan_of(lowered), filters_in(lowered)


@given(expressions, st.integers(0, 99), st.integers(0, 2**32))
def test_a_fit_and_then_all_outputs(expression: Any, x: int, seed: int) -> None:
    """Whatever ends first: each node that is reached learns once, and forward gives what the definition says."""
    lowered, plan, filters = made(expression)
    player, states = Player(filters, seed), dict[str, Any]()
    meaning(lowered, x, states, 3, learn=True)
    fit = Walk(plan, "fit", ())
    player.play(fit, x)
    assert fit.outputs == {}
    assert player.states == states
    assert sorted(player.fits) == sorted(states), "each learns exactly once"

    ids = tuple(n.id for n in plan.nodes)
    forward = Walk(plan, "forward", ids)
    player.play(forward, x)
    assert {id: value(v) for id, v in (forward.outputs or {}).items()} == meaning(lowered, x, states, 3, learn=False)
    assert len(player.fits) == len(states)


@given(expressions, st.integers(0, 99), st.integers(0, 2**32))
def test_only_what_is_needed_runs(expression: Any, x: int, seed: int) -> None:
    """For one node at the top, only what it depends on is called."""
    _, plan, filters = made(expression)
    player = Player(filters, seed)
    player.play(Walk(plan, "fit", ()), x)
    target = random.Random(seed).choice(plan.nodes).id
    player.calls.clear()
    player.play(Walk(plan, "forward", (target,)), x)
    wanted = plan.ancestors([target])
    top = {call.node for call in player.calls if call.plan is plan}
    assert top == {id for id in wanted if plan.node(id).inner is None}


@given(expressions, st.integers(0, 99), st.integers(0, 2**32))
def test_after_a_failure_nothing_that_depends_on_it_begins(expression: Any, x: int, seed: int) -> None:
    _, plan, filters = made(expression)
    player = Player(filters, seed)
    player.play(Walk(plan, "fit", ()), x)
    rng, walk = random.Random(seed), Walk(plan, "forward", plan.leaves)
    waiting, failed = list(walk.begin(x)), ""
    while waiting:
        todo = waiting.pop(rng.randrange(len(waiting)))
        if isinstance(todo, Call) and todo.plan is plan and not failed and rng.random() < 0.5:
            failed = todo.node
            walk.failed(todo.key)
        elif isinstance(todo, Read):
            waiting += walk.read(todo.key, value(todo.value))
        else:
            assert todo.plan is not plan or not failed or failed not in plan.ancestors([todo.node])
            waiting += walk.done(todo.key, player.do(todo))
    assert walk.idle and (walk.outputs is None) == bool(failed)


class TestLoops:
    def test_it_ends_when_the_signal_says_so(self) -> None:
        _, plan, filters = made(soma.loop(soma.filter(lambda x: x - 1), soma.filter(lambda x: x <= 0)))
        player, walk = Player(filters, 0), Walk(plan, "forward", plan.leaves)
        player.play(walk, 5)
        assert walk.outputs == {"loop": 0} and walk.remarks == []
        assert [c.turn for c in player.calls if c.node == "loop/function"] == [0, 1, 2, 3, 4]

    def test_passes_that_do_not_suffice_are_remarked(self) -> None:
        _, plan, filters = made(soma.loop(Apply(), Below(0), max_iterations=3))
        player, walk = Player(filters, 0), Walk(plan, "forward", plan.leaves)
        player.play(walk, 1)
        assert walk.remarks == ["loop 'loop' was still going after max_iterations=3 passes; its value is that of the last"]

    def test_a_body_with_two_ends_carries_both(self) -> None:
        body = soma.filter(lambda x: x if isinstance(x, int) else sum(x.values())) >> [Apply(1), Apply(2)]
        lowered, plan, filters = made(soma.loop(body, max_iterations=2))
        player, walk = Player(filters, 0), Walk(plan, "forward", plan.leaves)
        player.play(walk, 1)
        assert {k: value(v) for k, v in (walk.outputs or {}).items()} == meaning(lowered, 1, {}, 0, learn=False)

    def test_a_node_of_the_body_learns_in_the_first_pass(self) -> None:
        _, plan, filters = made(soma.loop(Learn(), max_iterations=4) >> Learn(2))
        player = Player(filters, 0)
        player.play(Walk(plan, "fit", ()), 10)
        assert sorted(player.fits) == ["learn", "loop/learn"]
        assert player.states["loop/learn"]["seen"] == 10

    @pytest.mark.parametrize("signal", [3, None, "maybe", {"done": "stop"}, {"stop": True}, [True], 1.0])
    def test_a_signal_that_cannot_be_read(self, signal: Any) -> None:
        _, plan, filters = made(soma.loop(Apply(), soma.filter(lambda x: signal)))
        walk = Walk(plan, "forward", plan.leaves)
        with pytest.raises(GraphError, match="loop 'loop': 'loop/until/function' gave .* which says neither stop nor go on"):
            Player(filters, 0).play(walk, 1)


class TestBranches:
    def test_the_arm_gets_the_branchs_own_input(self) -> None:
        _, plan, filters = made(Apply(0) >> soma.branch(Odd(), {"odd": soma.filter(lambda x: ("odd", x)),
                                                               "even": soma.filter(lambda x: ("even", x))}))
        walk = Walk(plan, "forward", plan.leaves)
        Player(filters, 0).play(walk, 5)
        assert walk.outputs == {"branch": ("odd", 15)}

    def test_only_the_arm_that_is_taken_learns(self) -> None:
        _, plan, filters = made(soma.branch(Odd(), {"odd": Learn(1), "even": Learn(2)}))
        player = Player(filters, 0)
        player.play(Walk(plan, "fit", ()), 4)
        assert player.fits == ["branch/even/learn"]

    @pytest.mark.parametrize(("label", "match"), [
        ("up", "gave 'up', and there is no such arm and no 'default'; the arms are 'odd', 'true'"), (3, "gave 3, which is no label"),
        (None, "which is no label"), ({"branch": 1}, "no label")])
    def test_a_label_without_an_arm(self, label: Any, match: str) -> None:
        _, plan, filters = made(soma.branch(soma.filter(lambda x: label), {"odd": Apply(), True: Apply()}))
        with pytest.raises(GraphError, match=f"branch 'branch': 'branch/condition/function' .*{match}"):
            Player(filters, 0).play(Walk(plan, "forward", plan.leaves), 1)

    @pytest.mark.parametrize(("label", "arm"), [(True, "yes"), ({"branch": False}, "no"), ("odd", "odd"), ({"branch": "odd"}, "odd"),
                                                ("else", "other")])
    def test_labels(self, label: Any, arm: str) -> None:
        arms = {name: soma.filter(lambda x, said=said: said) for name, said in ((True, "yes"), (False, "no"), ("odd", "odd"),
                                                                               ("default", "other"))}
        _, plan, filters = made(soma.branch(soma.filter(lambda x: label), arms))
        walk = Walk(plan, "forward", plan.leaves)
        Player(filters, 0).play(walk, 1)
        assert walk.outputs == {"branch": arm}


def test_what_is_not_known_is_not_wanted() -> None:
    """An empty wish is done at once."""
    _, plan, _ = made(Apply())
    walk = Walk(plan, "fit", ())
    assert walk.begin(1) == [] and walk.outputs == {} and walk.idle
