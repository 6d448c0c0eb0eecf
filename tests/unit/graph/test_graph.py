"""`soma.Graph` as its users see it, with everything in this process (`local=True`)."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import soma
from soma.errors import GraphError, NotFittedError


@pytest.fixture(autouse=True, scope="module")
def local() -> Iterator[None]:
    with soma.init(local=True):
        yield


@soma.filter
class Center:
    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"mean": x.mean(axis=0)}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


@soma.filter
class Nearest:
    """The target of the row whose first number is nearest."""

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        if y is None:
            raise ValueError("Nearest learns from targets")
        return {"x": x[:, 0], "y": y}

    def forward(self, x: Any, state: Any) -> Any:
        return state["y"][np.abs(x[:, :1] - state["x"]).argmin(axis=1)]


@soma.filter
class Times:
    def __init__(self, k: int) -> None:
        self.k = k

    def forward(self, x: Any, state: Any) -> Any:
        return [v * self.k for v in x]


@soma.filter
class Plus:
    def __init__(self, k: int) -> None:
        self.k = k

    def forward(self, x: Any, state: Any) -> Any:
        return [v + self.k for v in x]


@soma.filter
class Sum:
    def forward(self, x: Any, state: Any) -> Any:
        return [sum(column) for column in zip(*x.values(), strict=True)]


class TestForward:
    def test_the_worked_example(self) -> None:
        with soma.Graph(Times(2) >> (Plus(1) | Plus(100)) >> Sum()) as g:
            assert g.forward([10]) == g.predict([10]) == [141]
            assert g.run([10]) == {"times": [20], "plus": [21], "plus_2": [120], "sum": [141]}

    def test_several_last_nodes_give_a_dict(self) -> None:
        with soma.Graph(Times(2) >> [Plus(1), Plus(100)]) as g:
            assert g.forward([10]) == {"plus": [21], "plus_2": [120]}

    def test_several_first_nodes_all_get_the_input(self) -> None:
        with soma.Graph((Times(2) | Times(3)) >> Sum()) as g:
            assert g.forward([10]) == [50]

    def test_a_named_graph(self) -> None:
        g = soma.Graph()
        g.connect("in", "out")
        assert g.node("out", Plus(1)) == "out"
        g.node("in", Times(5))
        with g:
            assert g.forward([1]) == [6]
            g.node("late", Plus(1))
            g.connect("out", "late")
            assert g.forward([1]) == [7]

    def test_a_ref_is_taken_for_its_value(self) -> None:
        with soma.Graph(Times(2) | Plus(1)) as g:
            assert g.forward(soma.put([4])) == {"times": [8], "plus": [5]}

    def test_the_filters_of_the_user_are_left_alone(self) -> None:
        seen = soma.filter(lambda x: x)
        center = Center()
        with soma.Graph(center >> seen) as g:
            x = np.array([[1.0], [3.0]])
            g.fit(x).forward(x)[:] = 9
            assert x.tolist() == [[1.0], [3.0]] and vars(center) == {}

    @settings(max_examples=20)
    @given(st.lists(st.tuples(st.sampled_from([Times, Plus]), st.integers(-9, 9)), min_size=1, max_size=5), st.integers(-9, 9))
    def test_a_chain_is_its_filters_one_after_the_other(self, made: list[tuple[Any, int]], x: int) -> None:
        graph, value = soma.Graph(), [x]
        for i, (cls, k) in enumerate(made):
            graph.node(str(i), cls(k))
            value = cls(k).forward(value, {})
            if i:
                graph.connect(str(i - 1), str(i))
        with graph:
            assert graph.forward([x]) == value


class TestFit:
    X = np.array([[1.0, 0.0], [3.0, 0.0], [8.0, 0.0]])
    y = np.array(["a", "b", "c"])

    def test_each_node_learns_from_what_the_one_before_makes(self) -> None:
        with soma.Graph(Center() >> Nearest()) as g:
            assert g.fit(self.X, self.y) is g
            assert g.predict(self.X + 0.4).tolist() == ["a", "b", "c"]
            state = g.state()
            assert set(state) == {"center", "nearest"}
            assert state["nearest"]["x"].tolist() == [-3.0, -1.0, 4.0]

    def test_fitting_again_forgets(self) -> None:
        with soma.Graph(Center()) as g:
            g.fit(np.array([2.0, 4.0]))
            g.fit(np.array([10.0, 10.0]))
            assert g.state()["center"] == {"mean": 10.0}

    def test_only_what_learners_need_is_computed(self) -> None:
        with soma.Graph(Center() >> soma.filter(lambda x: 1 / 0)) as g:
            g.fit(self.X)
            with pytest.raises(ZeroDivisionError):
                g.forward(self.X)

    def test_a_state_moves_to_another_graph(self) -> None:
        with soma.Graph(Center() >> Nearest()) as one, soma.Graph(Center() >> Nearest()) as other:
            other.load_state(one.fit(self.X, self.y).state())
            assert other.predict(self.X).tolist() == ["a", "b", "c"]

    def test_a_state_that_does_not_fit_the_graph(self) -> None:
        with soma.Graph(Center() >> Nearest()) as g, pytest.raises(GraphError) as caught:
            g.load_state({"center": {}, "centre": {}})
        assert str(caught.value) == "load_state: no state for 'nearest'; state for 'centre', which no node learns"

    def test_closing_forgets(self) -> None:
        g = soma.Graph(Center())
        g.fit(self.X)
        g.close()
        g.close()
        with pytest.raises(NotFittedError):
            g.forward(self.X)
        g.close()

    def test_a_graph_that_cannot_be_starts_nothing(self) -> None:
        g = soma.Graph(Center())
        g.connect("center", "nowhere")
        before = len(soma.status()["actors"])
        with pytest.raises(GraphError, match="nowhere"):
            g.fit(self.X)
        assert len(soma.status()["actors"]) == before


class TestErrors:
    def test_a_node_that_was_not_fitted_is_named(self) -> None:
        with soma.Graph(Center() >> Nearest()) as g:
            for call in (lambda: g.forward(np.ones((1, 2))), g.state):
                with pytest.raises(NotFittedError, match="node 'center'"):
                    call()

    @pytest.mark.parametrize("position", ["first", "middle", "last"])
    def test_the_users_own_error_with_the_node_that_raised_it(self, position: str) -> None:
        def same(x: Any) -> Any:
            return x

        def broken(x: Any) -> Any:
            raise KeyError("no such column")

        a, b, c, d = (soma.filter(broken if here == position else same) for here in ("first", "middle", "other", "last"))
        with soma.Graph(a >> (b | c) >> d) as g, pytest.raises(KeyError, match="no such column") as caught:
            g.forward(1)
        text = "".join(traceback.format_exception(caught.value))
        assert text.count("in node 'broken', attempt 1: broken()") == 1
        assert "in broken" in text and 'raise KeyError("no such column")' in text

    def test_in_fit_too(self) -> None:
        with soma.Graph(Center() >> Nearest()) as g:
            with pytest.raises(ValueError, match="learns from targets") as caught:
                g.fit(np.ones((2, 2)))
            assert "in node 'nearest', attempt 1: Nearest()" in caught.value.__notes__

    def test_a_fit_that_returns_nothing(self) -> None:
        @soma.filter
        class Forgetful:
            def fit(self, x: Any, y: Any = None) -> None:
                self.mean = x

            def forward(self, x: Any, state: Any) -> Any:
                return x

        with soma.Graph(Forgetful()) as g, pytest.raises(TypeError, match="'forgetful' .Forgetful. returned None"):
            g.fit(1)


class TestProgress:
    def test_it_is_quiet_where_there_is_no_terminal(self, capfd: pytest.CaptureFixture[str]) -> None:
        with soma.Graph(Center()) as g:
            g.fit(np.ones(2))
            g.fit(np.ones(2), progress=False)
        assert capfd.readouterr() == ("", "")

    def test_it_counts_the_nodes(self, capfd: pytest.CaptureFixture[str]) -> None:
        with soma.Graph(Center() >> Times(2)) as g:
            g.fit(np.ones(2), progress=True)
            assert "1/1" in capfd.readouterr().err
            g.run(np.ones(2), progress=True)
        out, err = capfd.readouterr()
        assert out == "" and "2/2" in err
