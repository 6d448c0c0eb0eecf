"""Rows, seeds, searched parameters, summaries and reports: the small things that filters are made of."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.filters import Search, derived, parameters_of, summary_of, with_parameters
from soma.filters.reporting import SINK
from soma.filters.rows import batches, joined, mismatch, rows_of, take
from soma.filters.seeds import seeded

numbers = st.lists(st.integers(-9, 9), max_size=30)


class TestRows:
    @given(numbers, st.integers(1, 9))
    def test_batches_put_together_are_the_whole(self, values: list[int], size: int) -> None:
        for whole in (values, np.array(values), np.array(values).reshape(-1, 1), {"a": np.array(values), "b": values}):
            pieces = [p for (p,) in batches(size, whole)]
            assert all((rows_of(p) or 0) <= size for p in pieces)
            if pieces:
                got = joined(pieces)
                assert str(got) == str(whole) and type(got) is type(whole)

    def test_tables_tensors_and_sparse_matrices(self) -> None:
        sparse = pytest.importorskip("scipy.sparse")
        x = np.arange(12.0).reshape(4, 3)
        for make in (sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix):
            pieces = [p for (p,) in batches(3, make(x))]
            assert rows_of(make(x)) == 4 and np.array_equal(joined(pieces).toarray(), x)
        torch = pytest.importorskip("torch")
        assert torch.equal(joined([p for (p,) in batches(3, torch.from_numpy(x))]), torch.from_numpy(x))

    @pytest.mark.parametrize("value", [3, "text", (1, 2), None, np.array(3.0), {"a": [1], "b": [1, 2]}])
    def test_what_has_no_rows_is_taken_whole(self, value: Any) -> None:
        assert rows_of(value) is None
        if not isinstance(value, dict):
            assert take(value, slice(0, 1)) is value

    @pytest.mark.parametrize(("pieces", "match"), [
        ([1, 2], "chunks of int"), ([[1], np.array([1])], "different kinds cannot be put together: list, ndarray"),
        ([{"a": [1]}, {"b": [1]}], "different keys")])
    def test_chunks_that_cannot_be_put_together(self, pieces: list[Any], match: str) -> None:
        with pytest.raises(TypeError, match=match):
            joined(pieces)

    @pytest.mark.parametrize(("x", "y", "said"), [
        (np.zeros((8, 2)), np.zeros(4), "8 rows and 4 targets"), ([1, 2], [1], "2 rows and 1 targets"), (np.zeros(3), None, ""),
        ({"a": [1, 2], "b": [1]}, [1, 2], "1 rows from 'b' and 2 targets"), ("text", [1, 2], ""), (np.zeros(3), "label", "")])
    def test_rows_and_targets(self, x: Any, y: Any, said: str) -> None:
        assert mismatch(x, y) == said


class TestSeeds:
    @given(st.integers(0, 2**64), st.text(max_size=5))
    def test_a_node_has_its_own(self, seed: int, node: str) -> None:
        assert derived(seed, node) == derived(seed, node) < 2**32
        assert derived(seed, node) != derived(seed + 1, node) or derived(seed, node + "x") != derived(seed, node)

    def test_it_is_the_same_in_every_version(self) -> None:
        assert derived(0, "scale") == int.from_bytes(__import__("hashlib").blake2b(b"0/scale", digest_size=4).digest(), "little")

    def test_everything_goes_on_where_it_was(self) -> None:
        random.seed(5)
        np.random.seed(5)
        want = random.random(), np.random.random()
        random.seed(5)
        np.random.seed(5)
        with seeded(1):
            first = random.random(), np.random.random()
        assert (random.random(), np.random.random()) == want
        with seeded(1):
            assert (random.random(), np.random.random()) == first


class TestSearch:
    def test_kinds(self) -> None:
        assert soma.search(1, 5).type == "int" and soma.search(1, 5.0).type == "float"
        assert soma.search(choices=["a", None]) == Search("categorical", choices=("a", None))
        assert soma.search(1e-3, 10, scale="log", default=1.0).default == 1.0

    @pytest.mark.parametrize(("args", "kwargs", "error", "match"), [
        ((), {}, TypeError, "low and high, or choices"), ((1,), {}, TypeError, "low and high"),
        ((2, 1), {}, ValueError, "low=2 is not below"),
        ((0, 1), {"scale": "log"}, ValueError, "low=0 has no logarithm"), ((0, 1), {"scale": "ln"}, ValueError, "scale='ln'"),
        ((0, float("inf")), {}, ValueError, "high=inf"), ((0, 1), {"default": 2}, ValueError, "default=2 is not between"),
        ((0, 1), {"choices": [1]}, TypeError, "either"), ((), {"choices": []}, ValueError, "nothing to choose"),
        ((), {"choices": [1], "default": 2}, ValueError, "none of the choices"), ((True, 2), {}, ValueError, "low=True")])
    def test_ranges_that_are_none(self, args: Any, kwargs: Any, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            soma.search(*args, **kwargs)


@soma.filter
class Scale:
    def __init__(self, k: float = 2, *, by: str = "column") -> None:
        self.k, self.by = k, by
        self.derived = k * 10

    def forward(self, x: Any, state: Any) -> Any:
        return x * self.derived


@soma.filter
class Odd:
    """Keeps its argument under another name."""

    def __init__(self, k: float) -> None:
        self._k = k

    def forward(self, x: Any, state: Any) -> Any:
        return x * self._k


class TestParameters:
    def test_they_are_the_arguments_of_the_constructor(self) -> None:
        assert parameters_of(Scale(3)) == {"k": 3, "by": "column"}
        assert parameters_of(Odd(3)) == {"_k": 3}
        assert parameters_of(soma.filter(lambda x: x)) == {}

    def test_others_are_made_by_the_constructor(self) -> None:
        assert with_parameters(Scale(3), {"k": 5}).forward(1, {}) == 50

    def test_of_estimators(self) -> None:
        linear = pytest.importorskip("sklearn.linear_model")
        ridge = soma.filter(linear.Ridge)(alpha=3)
        assert parameters_of(ridge)["alpha"] == 3
        assert parameters_of(with_parameters(ridge, {"alpha": 5}))["alpha"] == 5 and parameters_of(ridge)["alpha"] == 3


class TestReports:
    def test_alone_they_do_nothing(self) -> None:
        soma.report("loss", 1.0)
        soma.progress(1, 2)

    def test_they_go_where_the_actor_says(self) -> None:
        heard: list[dict[str, Any]] = []
        token = SINK.set(heard.append)
        soma.report("loss", np.float32(0.5), step=np.int64(3))  # type: ignore[arg-type]
        soma.progress(1, 4, "a quarter")
        SINK.reset(token)
        assert heard == [{"kind": "MetricReported", "name": "loss", "value": 0.5, "step": 3},
                         {"kind": "NodeProgress", "done": 1.0, "total": 4.0, "text": "a quarter"}]

    def test_a_value_that_is_no_number(self) -> None:
        with pytest.raises(TypeError, match=r"soma.report\('loss', 'x'\): the value must be a number"):
            soma.report("loss", "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "said"), [
    (np.zeros((3, 4)), "float64[3, 4]"), (3.5, "3.5"), (None, "None"), ("abc", "str of 3"), ([1, 2], "list of 2"),
    ({"a": 1, "b": 2}, "{a, b}"),
    ({i: i for i in range(20)}, "{0, 1, 2, 3, 4, 5, 6, 7, …}"), (object, "type"), (10**200, f"{10**200!r}"[:59] + "…")])
def test_summaries(value: Any, said: str) -> None:
    assert summary_of(value) == said


class TestEstimators:
    def test_learning_in_batches_is_sklearns_partial_fit(self) -> None:
        linear = pytest.importorskip("sklearn.linear_model")
        x = np.random.default_rng(0).normal(size=(60, 4))
        y = (x[:, 0] > 0).astype(int)
        mine = linear.SGDClassifier(random_state=0)
        for i in range(0, 60, 7):
            mine.partial_fit(x[i:i + 7], y[i:i + 7], classes=[0, 1])
        with soma.init(local=True), soma.Graph(soma.filter(linear.SGDClassifier)(random_state=0)) as g:
            g.fit(x, y, batch_size=7)
            np.testing.assert_array_equal(g.state()["sgd_classifier"]["coef_"], mine.coef_)
        with soma.init(local=True), soma.Graph(soma.filter(linear.SGDClassifier, classes=[0, 1])(random_state=0)) as g:
            g.fit(x, y, stream=True, chunk_size=7)
            np.testing.assert_array_equal(g.state()["sgd_classifier"]["coef_"], mine.coef_)

    def test_one_that_learns_nothing_needs_no_fit(self) -> None:
        text = pytest.importorskip("sklearn.feature_extraction.text")
        with soma.init(local=True), soma.Graph(soma.filter(text.HashingVectorizer)(n_features=16)) as g:
            assert g.forward(["a b", "c"]).shape == (2, 16)
