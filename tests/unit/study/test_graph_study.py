"""Studies of graphs, as far as they start nothing: dimensions and what is refused, the graphs of trials, and how rows are divided."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("optuna")

import soma
from soma.errors import SpaceError, StudyError
from soma.graph import Graph, above
from soma.study import edge
from soma.study.folds import split, splits
from soma.study.graphs import GraphStudy
from soma.study.variants import space_of, variant


@soma.filter
class Scale:
    def __init__(self, by: Any = 1.0) -> None:
        self.by = by

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"by": self.by}

    def forward(self, x: Any, state: Any) -> Any:
        return x * state["by"]


@soma.filter
class Ridge:
    def __init__(self, alpha: Any, power: int = 1) -> None:
        self.alpha, self.power = alpha, power

    def fit(self, x: Any, y: Any) -> Any:
        return {"alpha": self.alpha}

    def forward(self, x: Any, state: Any) -> Any:
        return x


def graph() -> Graph:
    return Graph(Scale(by=soma.search(0.5, 2.0, default=1.0)) >> Ridge(alpha=soma.search(1e-3, 1e3, scale="log")))


def r2(true: Any, predicted: Any) -> float:
    return float(1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum())


class TestSpace:
    def test_what_the_filters_declare(self) -> None:
        space = space_of(graph(), None)
        assert list(space.dimensions) == ["scale.by", "ridge.alpha"]
        assert space.dimensions["ridge.alpha"].search.scale == "log"

    def test_the_study_has_the_last_word_and_adds_more(self) -> None:
        space = space_of(graph(), {"ridge.power": [1, 2], "scale -> ridge": edge(),
                                   "scale.by": {"low": 1.0, "high": 1.5, "when": {"scale -> ridge": True}}})
        assert list(space.dimensions) == ["ridge.alpha", "ridge.power", "scale -> ridge", "scale.by"]
        assert space.dimensions["scale.by"].search.high == 1.5
        off = space.suggest(lambda name, search: False if "->" in name else search.low)
        assert list(off) == ["ridge.alpha", "ridge.power", "scale -> ridge"]

    @pytest.mark.parametrize(("space", "said"), [
        ({"ridge.beta": (0.0, 1.0)}, "dimension 'ridge.beta': node 'ridge' (Ridge) has no parameter 'beta'; it has 'alpha', 'power'"),
        ({"lasso.alpha": (0.0, 1.0)}, "dimension 'lasso.alpha': there is no node 'lasso'; the nodes are 'scale', 'ridge'"),
        ({"alpha": (0.0, 1.0)}, "dimension 'alpha': there is no node 'alpha'"),
        ({"ridge -> scale": edge()}, "dimension 'ridge -> scale': without this edge the graph cannot be: there is no edge 'ridge' >> "
                                     "'scale'; the edges are 'scale' >> 'ridge'"),
        ({"scale -> ridge": [0, 1]}, "dimension 'scale -> ridge': an edge is there or not"),
        ({"scale -> ridge": (0.0, 1.0)}, "dimension 'scale -> ridge': an edge is there or not"),
        ({"scale -> ridge": edge(), "scale->ridge": edge()}, "'scale -> ridge' is the same edge"),
        ([{"name": "ridge.power", "choices": [1]}, {"name": "ridge.power", "choices": [2]}], "dimension 'ridge.power' is declared twice"),
        ({"ridge.alpha": (2.0, 1.0)}, "dimension 'ridge.alpha'=(2.0, 1.0): low=2.0 is not below high=1.0"),
        ({3: (1.0, 2.0)}, "3 is no name of a dimension"),
        ({"ridge.power": [1, 2], "ridge.alpha": {"low": 0.1, "high": 1.0, "when": {"ridge.power": 2}}},
         "dimension 'ridge.alpha' exists only with some values of 'ridge.power', and with others the filter's")])
    def test_what_cannot_be_is_named(self, space: Any, said: str) -> None:
        with pytest.raises(SpaceError) as caught:
            space_of(graph(), space)
        assert said in str(caught.value)

    def test_an_edge_without_which_the_graph_cannot_be(self) -> None:
        """With two inputs `end` declares what each must be; with one it would get an input that it does not know."""
        g = Graph()
        g.node("one", Scale())
        g.node("two", Scale())
        g.node("end", Both())
        g.connect("one", "end")
        g.connect("two", "end")
        with pytest.raises(SpaceError, match="dimension 'two -> end': without this edge the graph cannot be: node 'end'.*'two'"):
            space_of(g, {"two -> end": edge()})


class TestVariants:
    def test_parameters(self) -> None:
        made = variant(graph(), {"ridge.alpha": 2.0, "scale.by": 1.5})
        assert (made.filters["ridge"].alpha, made.filters["scale"].by) == (2.0, 1.5) and made.space() == {}

    @pytest.mark.parametrize(("off", "nodes", "edges"), [
        ((), "raw small large join end", "raw-small raw-large small-join large-join join-end"),
        (("small -> join",), "raw large join end", "raw-large large-join join-end"),
        (("raw -> small",), "raw small large join end", "raw-large small-join large-join join-end"),
        (("small -> join", "large -> join"), "join end", "join-end"),
        (("join -> end",), "end", ""),
        (("raw -> small", "raw -> large"), "small large join end", "small-join large-join join-end")])
    def test_what_leads_nowhere_is_left_out(self, off: tuple[str, ...], nodes: str, edges: str) -> None:
        made = variant(diamond(), dict.fromkeys(off, False) | {"end.alpha": 3})
        plan = made.compile()
        assert {n.id for n in plan.nodes} == set(nodes.split())
        assert {f"{i}-{n.id}" for n in plan.nodes for i in n.inputs} == set(edges.split())
        assert made.filters["end"].alpha == 3

    def test_parameters_of_what_was_left_out_do_no_harm(self) -> None:
        made = variant(graph(), {"scale -> ridge": False, "scale.by": 2.0, "ridge.alpha": 1.0})
        assert list(made.filters) == ["ridge"]

    def test_an_end_stays_an_end(self) -> None:
        g = Graph(Scale() >> (Ridge(1) | Scale()))
        made = g.without(("scale", "ridge"))
        assert made.compile().leaves == g.compile().leaves and len(made) == 3
        assert len(g) == 3 and len(g.edges()) == 2

    def test_an_edge_of_a_graph_within(self) -> None:
        g = Graph(Graph(Scale() >> Scale(), name="prepare") >> Ridge(1))
        assert g.edges() == [("prepare", "ridge")]
        assert list(g.without(("prepare", "ridge")).filters) == ["ridge"]

    def test_a_graph_travels_as_it_was_written(self) -> None:
        made = pickle.loads(pickle.dumps(variant(graph(), {"ridge.alpha": 2.0}).with_options(record=False)))
        assert made.filters["ridge"].alpha == 2.0 and made.compile().formula() == "scale >> ridge"
        assert type(made) is Graph and made._options["record"] is False


@soma.filter(input_schema={"one": soma.Schema(), "two": soma.Schema()})
class Both(Scale):  # type: ignore[misc,valid-type]
    pass


def diamond() -> Graph:
    g = Graph()
    for id in ("raw", "small", "large", "join"):
        g.node(id, Scale())
    g.node("end", Ridge(1))
    for a, b in (("raw", "small"), ("raw", "large"), ("small", "join"), ("large", "join"), ("join", "end")):
        g.connect(a, b)
    return g


class TestFolds:
    @given(st.integers(2, 60), st.integers(2, 8), st.integers(0, 3), st.integers(0, 9))
    def test_folds(self, rows: int, k: int, classes: int, seed: int) -> None:
        y = None if classes == 0 else np.arange(rows) % classes
        if k > rows:
            with pytest.raises(StudyError, match=f"cv={k}: from 2 folds"):
                splits(np.zeros(rows), y, k, seed)
            return
        found = splits(np.zeros(rows), y, k, seed)
        judged = [set(b.tolist()) for _, b in found]
        assert len(found) == k and sorted(i for b in judged for i in b) == list(range(rows))
        assert all(set(a.tolist()) == set(range(rows)) - b for (a, _), b in zip(found, judged, strict=True))
        for part in judged:
            shares = Counter(None if y is None else y[i] for i in part)
            for label, count in shares.items():
                there = rows if y is None else int((y == label).sum())
                assert abs(count - there / k) <= 1
        again = splits(np.zeros(rows), y, k, seed)
        assert all((a == b).all() for one, other in zip(found, again, strict=True) for a, b in zip(one, other, strict=True))

    @given(st.integers(1, 80), st.floats(0.01, 0.99), st.integers(0, 9))
    def test_a_share(self, rows: int, share: float, seed: int) -> None:
        try:
            a, b = split(np.zeros((rows, 2)), None, share, seed)
        except StudyError as e:
            assert "would be for judging" in str(e) and min(share, 1 - share) * rows <= 0.5 + 1e-6
            return
        assert len(a) > 0 < len(b) and sorted([*a, *b]) == list(range(rows)) and abs(len(b) - rows * share) <= 0.5 + 1e-6

    def test_texts_are_classes_too(self) -> None:
        y = ["no"] * 30 + ["yes"] * 10
        _, judged = split(list(range(40)), np.array(y, dtype=object), 0.2, 1)
        assert Counter(y[i] for i in judged) == {"no": 6, "yes": 2}

    def test_a_splitter_and_pairs_are_taken_as_they_are(self) -> None:
        class Halves:
            def split(self, X: Any, y: Any) -> Any:
                yield [0, 1], [2, 3]

        assert splits(np.zeros(4), None, Halves(), 0) == [([0, 1], [2, 3])] == splits(np.zeros(4), None, [([0, 1], [2, 3])], 0)

    @pytest.mark.parametrize("cv", [1, 5, True, "5", [], [1, 2], 2.5])
    def test_what_is_no_cv(self, cv: Any) -> None:
        with pytest.raises(StudyError, match="cv="):
            splits(np.zeros(4), None, cv, 0)

    @pytest.mark.parametrize("share", [0, 1, 1.5, -0.1, True, "half", float("nan")])
    def test_what_is_no_share(self, share: Any) -> None:
        with pytest.raises(StudyError, match="validation="):
            split(np.zeros(4), None, share, 0)

    def test_what_has_no_rows(self) -> None:
        with pytest.raises(StudyError, match=r"X \(a str\) has no rows"):
            split("text", None, 0.5, 0)


class TestStudy:
    @pytest.fixture(autouse=True)
    def _where(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOMA_RUNS", str(tmp_path))

    def make(self, **given: Any) -> GraphStudy:
        made = soma.Graph(Scale() >> Ridge(soma.search(0.1, 1.0))).study(
            "s", np.arange(12.0)[:, None], np.arange(12.0), **{"score": r2, "storage": "memory", "seed": 0, **given})
        assert isinstance(made, GraphStudy)
        return made

    def test_by_default_more_is_better(self) -> None:
        study = self.make(n_trials=3)
        assert (study.objectives, study.directions, study.total) == (("score",), ("maximize",), 3)
        assert study.options.num_cpus == 0 and list(study.space.dimensions) == ["ridge.alpha"]

    def test_options_of_a_study(self) -> None:
        study = self.make(objectives=("loss", "size"), directions=("minimize", "minimize"), num_cpus=1, sampler="nsgaii")
        assert study.directions == ("minimize", "minimize") and study.options.num_cpus == 1

    @pytest.mark.parametrize(("given", "error", "said"), [
        ({"score": 3}, TypeError, "score=3"),
        ({"validation": 0.5, "cv": 3}, StudyError, "give one"),
        ({"validation": (np.zeros((3, 1)), np.zeros(4))}, StudyError, "validation do not belong together: 3 rows and 4 targets"),
        ({"validation": (1, 2, 3)}, StudyError, "a pair"),
        ({"samplre": "tpe"}, TypeError, "samplre"),
        ({"frozen": {"ridge.beta": 1}}, SpaceError, "ridge.beta")])
    def test_mistakes(self, given: dict[str, Any], error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            self.make(**given)

    def test_graphs_of_parameters(self) -> None:
        study = self.make(space={"scale -> ridge": edge()})
        made = study.graph_of({"ridge.alpha": 0.5, "scale -> ridge": False})
        assert made.filters["ridge"].alpha == 0.5 and list(made.filters) == ["ridge"]
        with pytest.raises(StudyError, match="no trial has completed"):
            study.best_graph()

    def test_a_verb_that_nobody_offers(self) -> None:
        with pytest.raises(RuntimeError, match=r"graph.weigh: .* take Graph from soma"):
            above.offered("weigh")
