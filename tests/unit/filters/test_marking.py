"""Filters without a cluster: what the decorator accepts, refuses and leaves alone."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from functools import partial
from typing import Any

import numpy as np
import pytest

import soma
from soma.filters import Chain, Fork, kind_of, label_of, options_of, title_of


@soma.filter
class Center:
    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"mean": x.mean(0)}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


@soma.filter(num_cpus=1, tags=["fast"])
class Scale:
    def __init__(self, k: float = 2, table: Any = None) -> None:
        self.k = k
        self.table = table

    def forward(self, x: Any, state: Any) -> Any:
        return x * self.k


class TestTheClassStaysItself:
    def test_it_works_without_a_cluster(self) -> None:
        x = np.array([[1.0], [3.0]])
        center = Center()
        state = center.fit(x)
        assert center.forward(x, state).tolist() == [[-1.0], [1.0]]
        assert isinstance(center, Center)  # type: ignore[arg-type]
        assert vars(center) == {}

    def test_a_filter_that_does_not_learn_has_an_empty_state(self) -> None:
        assert Scale().fit(1) == {}

    def test_it_pickles_by_name(self) -> None:
        assert pickle.loads(pickle.dumps(Scale(3))).k == 3

    def test_a_subclass_is_a_filter_and_says_itself_whether_it_learns(self) -> None:
        class Learns(Scale):  # type: ignore[misc, valid-type]
            def fit(self, x: Any, y: Any = None) -> Any:
                return {"n": 1}

        assert kind_of(Scale()) == "stateless"
        assert kind_of(Learns()) == "trainable"

    def test_options(self) -> None:
        assert options_of(Scale()).reserved() == {"num_cpus": 1, "tags": ("fast",)}
        assert options_of(Center()).reserved() == {}
        with pytest.raises(FrozenInstanceError):
            options_of(Scale()).num_cpus = 2  # type: ignore[misc]

    def test_labels_show_plain_parameters(self) -> None:
        assert label_of(Scale(3)) == "Scale(k=3, table=None)"
        assert label_of(Scale(3, np.zeros(9))) == "Scale(k=3, table=<ndarray>)"
        assert len(label_of(Scale("x" * 1000))) == 80  # type: ignore[arg-type]


class TestRefusals:
    def refused(self, error: type[Exception], match: str, body: dict[str, Any], **options: Any) -> None:
        with pytest.raises(error, match=match):
            soma.filter(type("Broken", (), body), **options)

    def test_no_forward(self) -> None:
        self.refused(TypeError, "Broken has no forward", {})

    def test_forward_that_takes_no_state(self) -> None:
        self.refused(TypeError, r"Broken.forward\(self, x\) must be callable as forward\(self, x, state\)",
                     {"forward": lambda self, x: x})

    def test_fit_that_takes_no_targets(self) -> None:
        self.refused(TypeError, r"Broken.fit\(self, x\) must be",
                     {"forward": lambda self, x, state: x, "fit": lambda self, x: {}})

    def test_a_kind_that_contradicts_the_class(self) -> None:
        good: dict[str, Any] = {"forward": lambda self, x, state: x}
        self.refused(ValueError, "defines no fit", good, kind="trainable")
        self.refused(ValueError, "defines fit", good | {"fit": lambda self, x, y=None: {}}, kind="stateless")

    def test_operators_of_its_own(self) -> None:
        self.refused(TypeError, "__or__ of its own", {"forward": lambda self, x, state: x, "__or__": lambda a, b: a})

    @pytest.mark.parametrize(("options", "error", "match"), [
        ({"kind": "learning"}, ValueError, "kind='learning': one of 'trainable'"),
        ({"stream": "fast"}, ValueError, "stream='fast'"),
        ({"cacheable": 1}, ValueError, "cacheable=1: True or False"),
        ({"num_cpus": -1}, ValueError, "num_cpus=-1"),
        ({"memory": float("nan")}, ValueError, "memory=nan"),
        ({"version": 2}, ValueError, "version=2: a string"),
        ({"tags": "gpu"}, ValueError, "tags='gpu'"),
        ({"num_cpu": 1}, TypeError, "unknown option 'num_cpu'; known are .*num_cpus"),
        ({"method": "predict"}, TypeError, "is an option of scikit-learn estimators"),
    ])
    def test_options(self, options: dict[str, Any], error: type[Exception], match: str) -> None:
        self.refused(error, match, {"forward": lambda self, x, state: x}, **options)

    @pytest.mark.parametrize("target", [3, "x", None, object()])
    def test_what_is_no_class_function_or_estimator(self, target: object) -> None:
        with pytest.raises(TypeError, match="soma.filter takes"):
            soma.filter(target)

    def test_two_targets(self) -> None:
        with pytest.raises(TypeError, match="takes one class"):
            soma.filter(Center, Scale)  # type: ignore[call-overload]


class TestFunctions:
    def test_a_function_is_a_stateless_node_and_still_a_function(self) -> None:
        @soma.filter
        def double(x: int) -> int:
            """Twice."""
            return 2 * x

        assert double(4) == 8  # type: ignore[operator]
        assert double.forward(4, {}) == 8
        assert kind_of(double) == "stateless"
        assert double.__doc__ == "Twice."

    def test_a_second_node_of_the_same_function(self) -> None:
        double = soma.filter(lambda x: 2 * x)
        again = soma.filter(double)
        assert again is not double and again.forward(1, {}) == 2

    @pytest.mark.parametrize(("function", "title", "out"), [
        (np.sqrt, "sqrt", 2.0), (partial(np.add, 10), "add", 14.0), (abs, "abs", 4.0), (str, None, None)])
    def test_whatever_can_be_called(self, function: Any, title: str | None, out: Any) -> None:
        if title is None:
            with pytest.raises(TypeError, match="str has no forward"):
                soma.filter(function)
            return
        made = soma.filter(function)
        assert title_of(made) == title and made.forward(4.0, {}) == out

    @pytest.mark.parametrize(("function", "match"), [(lambda: 1, "with one value"), (lambda a, b: 1, "with one value")])
    def test_it_must_take_one_value(self, function: Any, match: str) -> None:
        with pytest.raises(TypeError, match=match):
            soma.filter(function)

    def test_generators_are_refused(self) -> None:
        def stream(x: int) -> Any:
            yield x

        with pytest.raises(TypeError, match="generator"):
            soma.filter(stream)


class TestWiring:
    def test_chains_and_forks_are_flat(self) -> None:
        a, b, c, d = (Scale() for _ in range(4))
        assert (a >> b >> c).parts == (a >> (b >> c)).parts == (a, b, c)
        assert isinstance(a | b | c, Fork) and (a | (b | c)).parts == ((a | b) | c).parts == (a, b, c)
        spread = a >> [b, c] >> d
        assert isinstance(spread, Chain) and spread.parts[1].parts == (b, c)
        assert ([a, b] >> c).parts[0].parts == (a, b)  # type: ignore[operator]
        assert (a | b).collect(c).parts[1] is c

    def test_wiring_changes_nothing(self) -> None:
        a, b, c = Scale(), Scale(), Scale()
        first = a >> b
        _ = first >> c, first | c
        assert first.parts == (a, b)

    @pytest.mark.parametrize(("bad", "error", "match"), [
        (Scale, TypeError, r"write Scale\(\)"), (3, TypeError, "int is no filter"), ([], ValueError, "empty list"),
        ([3], TypeError, "int is no filter"), (lambda x: x, TypeError, "function is no filter"),
    ])
    def test_only_filters_can_be_wired(self, bad: Any, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            Scale() >> bad
        with pytest.raises(error, match=match):
            Scale() | bad


class TestEstimators:
    @pytest.fixture
    def data(self) -> tuple[Any, Any]:
        pytest.importorskip("sklearn")
        x = np.random.default_rng(0).normal(size=(60, 4))
        return x, (x[:, 0] > 0).astype(int)

    def test_a_transformer(self, data: tuple[Any, Any]) -> None:
        from sklearn.preprocessing import StandardScaler

        x, _ = data
        scaler = soma.filter(StandardScaler)(with_std=False)
        state = scaler.fit(x)
        assert "with_std" not in state and set(state) >= {"mean_"}
        np.testing.assert_array_equal(scaler.forward(x, state), StandardScaler(with_std=False).fit_transform(x))
        assert label_of(scaler) == "StandardScaler(with_std=False)"

    def test_predictors_and_the_method_that_is_called(self, data: tuple[Any, Any]) -> None:
        from sklearn.linear_model import LogisticRegression

        x, y = data
        want = LogisticRegression().fit(x, y)
        for method, expected in ((None, want.predict(x)), ("predict_proba", want.predict_proba(x))):
            got = soma.filter(LogisticRegression, **({"method": method} if method else {}))()
            np.testing.assert_array_equal(got.forward(x, got.fit(x, y)), expected)

    def test_an_object_is_a_pattern_and_is_never_fitted(self, data: tuple[Any, Any]) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x, y = data
        pattern = make_pipeline(StandardScaler(), LogisticRegression())
        filter = soma.filter(pattern)
        state = filter.fit(x, y)
        expected = copy.deepcopy(pattern).fit(x, y).predict(x)
        np.testing.assert_array_equal(filter.forward(x, state), expected)
        assert not hasattr(pattern[0], "mean_")

    def test_refusals(self, data: tuple[Any, Any]) -> None:
        from sklearn.manifold import TSNE
        from sklearn.preprocessing import StandardScaler

        with pytest.raises(TypeError, match="TSNE has neither predict nor transform"):
            soma.filter(TSNE)()
        with pytest.raises(TypeError, match="StandardScaler has no such method"):
            soma.filter(StandardScaler, method="predict")()
        with pytest.raises(TypeError, match="with_men"):
            soma.filter(StandardScaler)(with_men=False)
