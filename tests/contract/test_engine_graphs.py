"""Graphs mean the same on every engine: loops, branches, streams, seeds, errors; and every kind of value comes through every path."""

from __future__ import annotations

import asyncio
import fractions
import math
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import GraphError, NotFittedError, SchemaError

pytestmark = pytest.mark.usefixtures("engine")


@soma.filter
class Center:
    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"mean": x.mean(axis=0)}

    def partial_fit(self, x: Any, y: Any, state: Any) -> dict[str, Any]:
        n, total = state.get("n", 0) + len(x), state.get("total", 0) + x.sum(axis=0)
        return {"n": n, "total": total, "mean": total / n}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


@soma.filter
class Plus:
    def __init__(self, k: Any = 1) -> None:
        self.k = k

    def forward(self, x: Any, state: Any) -> Any:
        return x + self.k


@soma.filter
class Total:
    def forward(self, x: Any, state: Any) -> Any:
        return sum(x.values())


@soma.filter(stream="evolving")
class Running:
    """A running sum over all chunks."""

    def partial_fit(self, x: Any, y: Any, state: Any) -> dict[str, Any]:
        return {"sum": state.get("sum", 0) + x.sum()}

    def forward(self, x: Any, state: Any) -> Any:
        return x.cumsum() + state.get("sum", 0)


@soma.filter(stream="barrier")
class Sort:
    def forward(self, x: Any, state: Any) -> Any:
        return np.sort(x, axis=0)


@soma.filter
class Same:
    def forward(self, x: Any, state: Any) -> Any:
        return x


X = np.arange(30.0).reshape(10, 3)


class TestLoopsAndBranches:
    def test_the_loop_of_the_first_page(self) -> None:
        g = soma.Graph()
        g.node("step", Plus(3))
        g.node("stop", soma.filter(lambda x: x > 10))
        g.loop("again", body="step", until="stop")
        with g:
            assert g.forward(0) == 12 and g.run(0) == {"again": 12}

    def test_the_branch_of_the_first_page(self) -> None:
        g = soma.Graph()
        g.branch("route", soma.filter(lambda x: "neg" if x < 0 else "pos"), {"neg": Plus(100), "pos": Plus(1)})
        with g:
            assert [g.forward(x) for x in (-5, 5)] == [95, 6]

    def test_a_signal_that_cannot_be_read(self) -> None:
        with soma.Graph(soma.loop(Plus(), soma.filter(lambda x: "perhaps"))) as g:
            with pytest.raises(GraphError, match="loop 'loop': 'loop/until/function' gave 'perhaps', which says neither"):
                g.forward(1)
            with pytest.raises(GraphError, match="neither"):
                g.forward(2)

    def test_an_arm_that_is_missing(self) -> None:
        with soma.Graph(soma.branch(soma.filter(lambda x: str(x)), {"1": Plus()})) as g:
            assert g.forward(1) == 2
            with pytest.raises(GraphError, match="gave '2', and there is no such arm and no 'default'; the arms are '1'"):
                g.forward(2)

    def test_a_loop_that_does_not_come_to_its_end_warns(self) -> None:
        with soma.Graph(soma.loop(Plus(), soma.filter(lambda x: False), max_iterations=3)) as g:
            with pytest.warns(RuntimeWarning, match="loop 'loop' was still going after max_iterations=3"):
                assert g.forward(0) == 3

    def test_arms_learn_when_they_are_taken(self) -> None:
        with soma.Graph(soma.branch(soma.filter(lambda x: bool(x.sum() > 0)), {True: Center(), False: Center()})) as g:
            g.fit(X)
            assert np.abs(g.forward(X).mean(0)).max() < 1e-12
            with pytest.raises(NotFittedError, match="branch/false/center"):
                g.forward(-X)
            assert list(g.state()) == ["branch/true/center"]


class TestStreams:
    def test_chunks_of_an_array_come_in_order(self) -> None:
        with soma.Graph(Center() >> (Plus(1) | Plus(2)) >> Total()) as g:
            whole = g.fit(X).forward(X)
            for size in (1, 3, 4, 10, 100):
                chunks = list(g.forward(X, stream=True, chunk_size=size))
                assert [len(c) for c in chunks] == [min(size, 10 - i) for i in range(0, 10, size)]
                np.testing.assert_array_equal(np.concatenate(chunks), whole)

    @pytest.mark.parametrize("source", [lambda: [1, 2, 3], lambda: iter([1, 2, 3]), lambda: (lambda: iter([1, 2, 3])), lambda: range(1, 4)])
    def test_chunks_from_anywhere(self, source: Callable[[], Any]) -> None:
        with soma.Graph(Plus(10)) as g:
            assert list(g.forward(source(), stream=True)) == [11, 12, 13]

    def test_a_state_that_moves_on(self) -> None:
        x = np.arange(10)
        with soma.Graph(Plus(0) >> Running()) as g:
            stream = g.forward(x, stream=True, chunk_size=3)
            np.testing.assert_array_equal(np.concatenate(list(stream)), x.cumsum())
            assert stream.states == {"running": {"sum": 45}}
            np.testing.assert_array_equal(np.concatenate(list(g.forward(x, stream=True, chunk_size=4))), x.cumsum())

    def test_in_order_even_behind_branches_of_different_length(self) -> None:
        slow = Plus(0) >> Plus(0) >> Plus(0)
        g = soma.Graph(soma.branch(soma.filter(lambda x: bool(x[0] % 2)), {True: slow, False: Plus(0)}) >> Running())
        with g:
            x = np.arange(40)
            np.testing.assert_array_equal(np.concatenate(list(g.forward(x, stream=True, chunk_size=1))), x.cumsum())

    def test_all_chunks_at_once(self) -> None:
        x = np.random.default_rng(0).normal(size=(20, 2))
        with soma.Graph(Plus(0) >> Sort() >> Plus(1)) as g:
            (out,) = g.forward(x, stream=True, chunk_size=6)
            np.testing.assert_array_equal(out, np.sort(x, axis=0) + 1)

    def test_a_join_of_chunks_and_of_all_at_once(self) -> None:
        x = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
        join = soma.filter(lambda x: [list(x), x["plus"].tolist(), x["sort"].tolist()])
        with soma.Graph((Plus(0) | (Plus(0) >> Sort())) >> join) as g:
            (out,) = g.forward(x, stream=True, chunk_size=2)
            assert out == [["plus", "sort"], x.tolist(), sorted(x.tolist())]

    def test_leaves_of_both_kinds(self) -> None:
        x = np.array([3.0, 1.0, 2.0])
        with soma.Graph(Plus(0) >> [Plus(1), Sort()]) as g:
            items = list(g.forward(x, stream=True, chunk_size=2))
            assert [set(i) for i in items] == [{"plus_2"}, {"plus_2"}, {"sort"}]
            assert items[-1]["sort"].tolist() == [1, 2, 3]

    def test_the_producer_is_not_run_ahead_of(self) -> None:
        """However slow the consumer, only a few chunks are taken from the source before it wants them."""
        taken = 0

        def source() -> Iterator[int]:
            nonlocal taken
            for i in range(1000):
                taken += 1
                yield i

        with soma.Graph(Plus(0) >> Plus(0)) as g:
            stream = g.forward(source(), stream=True)
            for n in range(5):
                assert next(stream) == n
                assert taken <= n + 4
            stream.close()

    def test_an_error_names_node_and_chunk_and_what_came_before_it_still_comes(self) -> None:
        def picky(x: int) -> int:
            if x == 7:
                raise ValueError("seven")
            return x

        with soma.Graph(Plus(0) >> soma.filter(picky) >> Plus(0)) as g:
            seen = []
            with pytest.raises(ValueError, match="seven") as caught:
                for out in g.forward(iter(range(100)), stream=True):
                    seen.append(out)
            assert seen == list(range(7))
            assert "in node 'picky', chunk 7, attempt 1: picky()" in caught.value.__notes__
            assert list(g.forward([1, 2], stream=True)) == [1, 2]

    def test_learning_from_a_stream_is_learning_from_all_of_it(self) -> None:
        with soma.Graph(Center() >> Plus(1) >> Center()) as g:
            g.fit(X, stream=True, chunk_size=4)
            state = g.state()
            np.testing.assert_allclose(state["center"]["mean"], X.mean(0))
            np.testing.assert_allclose(state["center_2"]["mean"], 1)
            assert state["center"]["n"] == state["center_2"]["n"] == 10

    def test_an_iterator_is_read_once(self) -> None:
        with soma.Graph(Center() >> Center()) as g:
            with pytest.raises(GraphError, match="fitting takes 2 passes over the chunks .'center' then 'center_2'., and an iterator"):
                g.fit(iter([X]), stream=True)
            g.fit(lambda: iter([X[:5], X[5:]]), stream=True)
            np.testing.assert_allclose(g.state()["center"]["mean"], X.mean(0))

    @pytest.mark.parametrize(("call", "error", "match"), [
        (lambda g: g.forward(X, chunk_size=3), ValueError, "chunk_size goes with stream=True"),
        (lambda g: g.forward(X, stream=True, chunk_size=0), ValueError, "chunk_size=0"),
        (lambda g: g.forward(iter([X]), stream=True, chunk_size=2), ValueError, "comes in chunks already"),
        (lambda g: g.forward(5, stream=True), TypeError, "int is neither"),
        (lambda g: g.forward("text", stream=True), TypeError, "str is neither"),
        (lambda g: g.fit(X, X[:3], stream=True), ValueError, "10 rows and 3 targets"),
    ])
    def test_refusals(self, call: Callable[[soma.Graph], Any], error: type[Exception], match: str) -> None:
        with soma.Graph(Plus()) as g, pytest.raises(error, match=match):
            call(g)


class TestRefs:
    """What is given may be a ref, wherever a value may be."""

    @pytest.mark.parametrize("cache", [None, "memory", "disk"])
    def test_refs_mean_what_they_refer_to(self, cache: str | None, tmp_path: Path) -> None:
        x, y = soma.put(X), soma.put(np.zeros(10))
        options = {"cache_path": tmp_path} if cache == "disk" else {}
        with soma.Graph(Center() >> (Plus(1) | Plus(2)) >> Total(), cache=cache, **options) as g:
            assert np.array_equal(g.fit(x, y).forward(x), g.forward(X))
            assert np.array_equal(g.run(x)["center"], X - X.mean(axis=0))
            if cache is not None:
                assert g.fit(X, np.zeros(10)).explain()["center"].state.startswith("hit"), "by content"

    def test_in_streams(self) -> None:
        with soma.Graph(Center() | Center()) as g:
            g.fit(soma.put(X), soma.put(np.zeros(10)), stream=True, chunk_size=4)
            g.fit([(soma.put(X[:5]), soma.put(np.zeros(5))), (X[5:], None)], stream=True)
            out = [o["center_2"] for o in g.forward(map(soma.put, (X[:5], X[5:])), stream=True)]
            assert np.array_equal(np.concatenate(out), X - X.mean(axis=0))
            assert len(list(g.forward(soma.put(X), stream=True, chunk_size=4))) == 3


class TestFitting:
    def test_one_model_learns_from_all_batches(self) -> None:
        with soma.Graph(Center()) as g:
            state = g.fit(np.arange(10.0), batch_size=4).state()["center"]
            assert (state["mean"], state["n"]) == (4.5, 10)

    def test_a_filter_that_cannot_learn_in_batches_is_named(self) -> None:
        @soma.filter
        class Whole:
            def fit(self, x: Any, y: Any = None) -> Any:
                return {}

            def forward(self, x: Any, state: Any) -> Any:
                return x

        with soma.Graph(Whole()) as g:
            for call in (partial(g.fit, X, batch_size=2), partial(g.fit, X, stream=True)):
                with pytest.raises(GraphError, match=r"node 'whole' \(Whole\) cannot learn in batches: it defines no partial_fit"):
                    call()

    def test_rows_that_differ_from_targets(self) -> None:
        with soma.Graph(Center()) as g:
            with pytest.raises(ValueError, match="X and y do not belong together: 10 rows and 4 targets"):
                g.fit(X, np.zeros(4))
        with soma.Graph(soma.filter(lambda x: x[:8]) >> Center()) as g:
            with pytest.raises(ValueError, match=r"node 'center' \(Center\) got 8 rows and 10 targets") as caught:
                g.fit(X, np.zeros(10))
            assert "in node 'center', attempt 1: Center()" in caught.value.__notes__

    def test_a_seed_decides_everything(self) -> None:
        @soma.filter
        class Noise:
            def fit(self, x: Any, y: Any = None) -> Any:
                return [np.random.random(), random.random()]

            def forward(self, x: Any, state: Any) -> Any:
                return state + [np.random.random()]

        with soma.Graph(Noise() | Noise()) as g:
            before = random.getstate()
            runs = [g.fit(0, seed=s).forward(0, seed=s) for s in (1, 1, 2)]
            assert runs[0] == runs[1] != runs[2]
            assert runs[0]["noise"] != runs[0]["noise_2"], "each node draws from a seed of its own"
            assert random.getstate() == before

    def test_epochs_where_nothing_is_trained_in_epochs(self) -> None:
        with soma.Graph(Center()) as g, pytest.raises(ValueError, match="epochs=: no node of this graph"):
            g.fit(X, epochs=3)


class TestParameters:
    def test_searched_ones_have_their_defaults_until_somebody_says_otherwise(self) -> None:
        g = soma.Graph(Plus(soma.search(0.0, 10.0, default=2.0)) >> Plus(1))
        assert list(g.space()) == ["plus.k"] and g.space()["plus.k"].high == 10
        other = g.with_parameters({"plus.k": 7, "plus_2.k": 5})
        with g, other:
            assert g.forward(1) == 4 and other.forward(1) == 13
            with soma.Graph(other >> Plus(1)) as around:
                assert around.forward(1) == 14

    def test_one_without_a_default_cannot_run(self) -> None:
        with soma.Graph(Plus(soma.search(1, 9))) as g, pytest.raises(GraphError, match="node 'plus': k is a soma.search without a default"):
            g.forward(1)

    @pytest.mark.parametrize(("changes", "match"), [({"plus": 1}, "names no parameter"), ({"pluss.k": 1}, "names no parameter"),
                                                    ({"plus.q": 1}, "Plus has no parameter 'q'; it has k")])
    def test_parameters_that_are_not_there(self, changes: dict[str, Any], match: str) -> None:
        with pytest.raises(GraphError, match=match):
            soma.Graph(Plus()).with_parameters(changes)


def test_coroutines_run_side_by_side() -> None:
    with soma.Graph(Plus(1) >> Plus(2)) as g:
        async def many() -> list[Any]:
            return await asyncio.gather(*(g.aforward(i) for i in range(20)))

        assert asyncio.run(many()) == [i + 3 for i in range(20)]


def test_a_coroutines_error_names_its_node() -> None:
    with soma.Graph(Plus(1) >> soma.filter(lambda x: 1 / 0)) as g, pytest.raises(ZeroDivisionError) as caught:
        asyncio.run(g.aforward(1))
    assert "in node 'function', attempt 1: function()" in caught.value.__notes__


def test_what_a_filter_requires() -> None:
    def graph(*requirements: str) -> soma.Graph:
        return soma.Graph(soma.filter(lambda x: x, requirements=requirements))

    with graph("numpy>=1", "never-heard-of; python_version < '3'") as g:
        assert g.forward(1) == 1
    for text, match in (("numpy<1", "node 'function' requires 'numpy<1', and numpy .* is installed"),
                        ("never-heard-of", "node 'function' requires 'never-heard-of', and never-heard-of is not installed")):
        with graph(text) as g, pytest.raises((GraphError, soma.ActorInitError), match=match):
            g.forward(1)


class TestSchemas:
    def test_a_value_is_checked_before_and_after(self) -> None:
        @soma.filter(input_schema="float64[n, 3]", output_schema="float64[n]")
        class First:
            def forward(self, x: Any, state: Any) -> Any:
                return x[:, 0] if len(x) > 2 else x[:1, 0]

        with soma.Graph(First()) as g:
            assert g.forward(X).shape == (10,)
            wrong = r"node 'first' \(First\): its input: float64\[n, 3\] is wanted, and this is float64\[10, 2\]"
            with pytest.raises(SchemaError, match=wrong):
                g.forward(X[:, :2])
            with pytest.raises(SchemaError, match=r"its output: float64\[n\] is wanted \(n is 2\), and this is float64\[1\]"):
                g.forward(X[:2])
            with pytest.raises(SchemaError, match="a list has no dtype"):
                g.forward([[1.0, 2.0, 3.0]])

    def test_inputs_by_name(self) -> None:
        join = soma.filter(lambda x: 1, input_schema={"a": "[n]", "b": "[n]"})
        g = soma.Graph()
        for id, filter in (("a", Same()), ("b", soma.filter(lambda x: x[1:])), ("join", join)):
            g.node(id, filter)
        g.connect("a", "join")
        g.connect("b", "join")
        with g, pytest.raises(SchemaError, match=r"its input from 'b': any\[n\] is wanted \(n is 10\)"):
            g.forward(np.arange(10))


# -- every kind of value ------------------------------------------------------------------------------------------------------

shared = np.arange(4)
VALUES: list[tuple[str, Any]] = [
    ("none", None), ("bool", True), ("int", 7), ("huge int", -(2**200)), ("float", 0.1), ("nan", math.nan), ("inf", -math.inf),
    ("negative zero", -0.0), ("complex", 1 + 2j), ("text", "ünïcode \U0001f600"), ("bytes", b"\x00\xff" * 10), ("tuple", (1, (2, (3,)))),
    ("ragged", [[1], [2, 3], []]), ("set", {1, 2}), ("dict", {"a": [1, {"b": None}], 3: "c"}), ("fraction", fractions.Fraction(1, 3)),
    ("float array", np.arange(6.0).reshape(2, 3)), ("Fortran order", np.asfortranarray(np.arange(6.0).reshape(2, 3))),
    ("0-d", np.array(3.5)), ("empty", np.zeros((0, 4))), ("int8", np.arange(3, dtype=np.int8)), ("bool array", np.array([True, False])),
    ("strings", np.array(["a", "bcd"])), ("objects", np.array([1, "x", None], dtype=object)), ("dates", np.array(["2026-11-24"], "M8[D]")),
    ("structured", np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])), ("big endian", np.arange(3, dtype=">i4")),
    ("a slice", np.arange(20.0)[3:17:2]), ("scalar", np.float32(1.5)), ("large", np.arange(200_000.0)),
    ("aliases", [shared, shared]),
]


def equal(a: Any, b: Any) -> bool:
    """The same type, layout and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.flags.f_contiguous == b.flags.f_contiguous
        return same and (a.tolist() == b.tolist() if a.dtype.hasobject else a.tobytes() == b.tobytes())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (float, complex, np.generic)):
        return np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return bool(a == b)


@pytest.mark.parametrize(("name", "value"), VALUES, ids=[name for name, _ in VALUES])
class TestValuesArriveAsTheyLeft:
    def expected(self, value: Any) -> Any:
        """A view with gaps arrives without them: as a copy of it does."""
        return value.copy() if isinstance(value, np.ndarray) and value.base is not None and not value.flags.forc else value

    def check(self, got: Any, value: Any) -> None:
        assert equal(got, self.expected(value))
        if isinstance(got, np.ndarray):
            assert got.flags.writeable
        if isinstance(value, list) and value and value[0] is shared:
            assert got[0] is got[1]

    def test_through_filters(self, name: str, value: Any, graph: soma.Graph) -> None:
        self.check(graph.forward(value), value)

    def test_through_the_cache(self, name: str, value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
        where = tmp_path_factory.mktemp("cache", numbered=True)
        with soma.Graph(Same() >> Same(), cache="disk", cache_path=where) as g:
            self.check(g.forward(value), value)
        with soma.Graph(Same() >> Same(), cache="disk", cache_path=where) as again:
            self.check(again.forward(value), value)
            assert again.explain()["same_2"].output == "hit (disk)"

    def test_through_the_memory_cache(self, name: str, value: Any) -> None:
        for _ in range(2):
            with soma.Graph(Same() >> Same(), cache="memory") as g:
                self.check(g.forward(value), value)
        assert g.explain()["same_2"].output == "hit (memory)"

    def test_in_a_stream(self, name: str, value: Any, graph: soma.Graph) -> None:
        for got in graph.forward([value, value], stream=True):
            self.check(got, value)

    def test_through_a_file(self, name: str, value: Any, tmp_path: Path) -> None:
        class Keep(Same):  # type: ignore[misc, valid-type]
            def fit(self, x: Any, y: Any = None) -> Any:
                return {"it": x}

        pickled = name in ("fraction", "objects", "structured")
        with soma.Graph(Keep()) as g:
            path = g.fit(value).save(tmp_path / "s.safetensors", allow_pickle=pickled)
            with soma.Graph(Keep()) as other:
                other.load(path, allow_pickle=pickled)
                got = other.state()["keep"]["it"]
        if name != "aliases":  # two names of one array are two arrays in a file
            self.check(got, value)


@pytest.fixture(scope="module")
def graph(engine: str) -> Iterator[soma.Graph]:
    with soma.Graph(Same() >> Same()) as g:
        yield g


def test_a_tensor_of_torch_comes_through_every_path(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    value = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)

    class Keep(Same):  # type: ignore[misc, valid-type]
        def fit(self, x: Any, y: Any = None) -> Any:
            return {"w": torch.nn.Parameter(x.clone()), "b": x}

    with soma.Graph(Keep(), cache="disk", cache_path=tmp_path / "c") as g:
        for _ in range(2):
            got = g.fit(value).forward(value)
            assert got.dtype is torch.bfloat16 and torch.equal(got, value)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                got += 1
        path = g.save(tmp_path / "t.safetensors")
    with soma.Graph(Keep()) as other:
        other.load(path)
        state = other.state()["keep"]
        assert type(state["w"]) is torch.nn.Parameter and state["w"].requires_grad and torch.equal(state["b"], value)
