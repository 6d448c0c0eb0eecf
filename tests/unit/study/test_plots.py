"""Pictures of studies: what is drawn, purely; and that figures come of it, quietly, with nothing of pyplot's left behind."""

from __future__ import annotations

import io
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.errors import StudyError

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")
sys.path.insert(0, str(Path(__file__).parent))

from matplotlib.collections import LineCollection
from study_boards import BEGAN, board, database, fill_fonts, lively, trial

from soma.study import plots
from soma.study.board import Board, Dimension, board_of
from soma.study.drawing import ticks
from soma.study.finding import find, opened
from soma.study.lanes import Clock, busy, lanes_of, span, union

NUMBERS = st.floats(-1e6, 1e6)


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    fill_fonts()


def said(figure: Any) -> str:
    """All text of a figure that was drawn."""
    figure.savefig(io.BytesIO(), dpi=40)
    return "\n".join(t.get_text() for t in figure.findobj(lambda artist: hasattr(artist, "get_text")) if t.get_text())


class TestBoard:
    @given(st.lists(st.tuples(st.sampled_from(["completed", "pruned"]), st.floats(allow_nan=False), st.booleans())), st.booleans())
    def test_improvements_are_the_records(self, given: list[tuple[str, float, bool]], less: bool) -> None:
        made = board(*(trial(i, s, v if s == "completed" else None, constraints=(-1.0 if fine else 1.0,))
                       for i, (s, v, fine) in enumerate(given)), minimized=(less,))
        usable = [(i, v) for i, (s, v, fine) in enumerate(given) if s == "completed" and fine]
        pick = min if less else max
        records = list(dict.fromkeys(pick(usable[:k + 1], key=lambda pair: pair[1])[0] for k in range(len(usable))))
        assert [t.number for t in made.improvements("loss")] == records
        assert [t.number for t in made.best()] == records[-1:]

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
    def test_nobody_beats_the_front(self, points: list[tuple[int, int]]) -> None:
        made = board(*(trial(i, values={"a": float(a), "b": float(b)}) for i, (a, b) in enumerate(points)), objectives=("a", "b"),
                     minimized=(True, False))
        beaten = {i for (i, (a, b)), (c, d) in itertools.product(enumerate(points), points) if c <= a and d >= b and (c < a or d > b)}
        assert {t.number for t in made.best()} == set(range(len(points))) - beaten

    def test_a_study_of_optunas(self, tmp_path: Path) -> None:
        with opened(find(str(database(tmp_path, n=5)))) as it:
            assert it.study is not None
            made = board_of(it.study)
            assert made.counts() == {"completed": 4, "failed": 1} and made.objectives == ("value",)
            assert [(d.name[:5], d.kind, d.log) for d in made.dimensions] == [("lr", "float", True), ("units", "int", False), (
                "</td>", "choice", False)]
            assert made.trials[1].params == it.study.trials[1].params and made.trials[0].error_type == "ValueError"
            assert made.best()[0].number == it.study.best_trial.number

    def test_a_space_that_grew(self) -> None:
        a, b = Dimension("n", "int", 1, 4, log=True), Dimension("n", "float", 0.5, 2, log=True)
        assert a.joined(b) == Dimension("n", "float", 0.5, 4, log=True)
        c, d = Dimension("k", "choice", 0, 1, choices=("a", "b")), Dimension("k", "choice", 0, 1, choices=("b", "c"))
        assert c.joined(d) == Dimension("k", "choice", 0, 2, choices=("a", "b", "c")) and c.joined(d).share("c") == 1

    def test_an_objective_that_is_not_there(self) -> None:
        with pytest.raises(StudyError, match="objective='x': study 'tune' has 'loss'"):
            board().objective("x")
        assert board().objective() == board().objective(0) == "loss"

    @given(NUMBERS, st.floats(0.01, 1e6), st.sampled_from(["float", "int"]), st.booleans())
    def test_ticks_are_where_their_labels_say(self, low: float, size: float, kind: Any, log: bool) -> None:
        low = abs(low) + 0.01 if log else low
        d = Dimension("x", kind, low, low + size, log)
        for at, label in ticks(d):
            assert -1e-9 <= at <= 1 + 1e-9
            assert at == pytest.approx(d.share(float(label)), abs=0.01)


class TestLanes:
    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20), st.sampled_from([None, 0, 1, 2]))))
    def test_every_trial_has_one_place_and_unknown_workers_do_one_thing_at_a_time(
            self, given: list[tuple[int, int, int | None]]) -> None:
        trials = [trial(i, started=float(a), ended=float(a + d), worker={} if w is None else {"worker": w})
                  for i, (a, d, w) in enumerate(given)]
        lanes = lanes_of(trials)
        assert sorted(t.number for lane in lanes for t, _, _ in lane.stays) == list(range(len(given)))
        for lane in lanes:
            if lane.label.startswith("lane"):
                assert all(x[2] <= y[1] for x, y in itertools.pairwise(lane.stays))
            else:
                assert {f"worker {t.worker['worker']}" for t, _, _ in lane.stays} == {lane.label}

    def test_a_first_trial_that_does_not_know_its_process(self) -> None:
        trials = [trial(i, started=float(i), ended=i + 1.0, worker={"worker": 0, **told}) for i, told in enumerate(
            [{}, {"pid": 5, "node": "a"}, {}, {"pid": 6, "node": "b"}, {}])]
        assert [(lane.label, [t.number for t, _, _ in lane.stays]) for lane in lanes_of(trials)] == [
            ("worker 0, pid 5, a", [0, 1]), ("worker 0, pid 6, b", [2, 3]), ("worker 0", [4])]

    def test_what_runs_lasts_until_now(self) -> None:
        running = trial(0, "running", started=10.0)
        assert lanes_of([running, trial(1, started=11.0, ended=15.0)])[0].stays[0][1:] == (10.0, 15.0)
        assert lanes_of([running], now=42.0)[0].stays == ((running, 10.0, 42.0),)
        assert lanes_of([trial(0, "waiting")]) == [] == lanes_of([])

    @given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 500)), min_size=1))
    def test_the_clock_runs_forward_and_as_fast_as_work(self, given: list[tuple[int, int]]) -> None:
        stays = union((float(a), float(a + d)) for a, d in given)
        clock = Clock(stays)
        for begin, end in stays:
            assert clock.at(end) - clock.at(begin) == pytest.approx(end - begin)
        for (_, end), (begin, _) in itertools.pairwise(stays):
            assert 0 < clock.at(begin) - clock.at(end) <= begin - end + 1e-6
        assert clock.at(stays[0][0]) == 0
        assert sum(d - c for c, d in stays) <= clock.at(stays[-1][1]) + 1e-6

    def test_a_night_is_a_notch(self) -> None:
        clock = Clock(busy([trial(0, started=0.0, ended=100.0), trial(1, started=40_000.0, ended=40_100.0)]))
        assert clock.pauses == [(100.0, 39_900.0)] and clock.notch == 5 and clock.at(40_000.0) == 105

    @pytest.mark.parametrize(("seconds", "words"), [
        (0.25, "0.25 s"), (59, "59 s"), (60, "1 min"), (95.4, "1 min 35 s"), (7980, "2 h 13 min"), (180_000, "2 d 2 h")])
    def test_times_in_words(self, seconds: float, words: str) -> None:
        assert span(seconds) == words


class TestFigures:
    def test_history(self) -> None:
        figure = plots.history(lively())
        text = said(figure)
        assert "tune: 14 completed, 6 pruned, 3 failed, 1 running" in text and "best so far" in text and "loss (less is better)" in text
        value, strip = figure.axes
        assert [t.get_text() for t in strip.get_yticklabels()] == ["failed", "pruned"] and strip.get_xlabel() == "trial"
        [step] = value.lines
        records = lively().improvements("loss")
        assert list(step.get_xdata()) == [*(t.number for t in records), 23]

    def test_history_of_seeds_and_of_several_objectives(self) -> None:
        trials = [trial(i, values={"a": 10.0 ** i, "b": -float(i)}, config=i // 3, constraints=(i - 4.5,)) for i in range(6)]
        a, b = plots.history(board(*trials, objectives=("a", "b"), minimized=(True, False))).axes
        assert (a.get_yscale(), b.get_yscale()) == ("log", "linear")
        means = [float(lines.get_segments()[0][0][1]) for lines in a.collections if isinstance(lines, LineCollection)]
        assert sum(means) == pytest.approx((1 + 10 + 100) / 3 + (1e3 + 1e4 + 1e5) / 3)
        assert "breaks a constraint" in a.get_legend_handles_labels()[1]

    def test_slices(self) -> None:
        lr, kernel, _ = plots.slices(lively()).axes
        assert (lr.get_xscale(), kernel.get_xscale()) == ("log", "linear")
        assert [t.get_text() for t in kernel.get_xticklabels()] == ["rbf", "linear"]
        assert kernel.get_title("right") == "of 9 of 14 trials"  # the others have no kernel
        assert sorted(float(y) for _, y in lr.collections[0].get_offsets()) == sorted(t.values["loss"] for t in lively().of("completed"))

    def test_parallel(self) -> None:
        text = said(plots.parallel(lively()))
        for word in ("lr\n(log)", "kernel", "without", "0.0001", "0.1", "rbf", "loss", "the best, trial"):
            assert word in text

    def test_timeline(self) -> None:
        figure = plots.timeline(lively(), now=BEGAN + 60)
        assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["worker 0, pid 40", "worker 1, pid 41"]
        assert len(figure.axes[0].patches) == 24 and "seconds of work since 2026-11-28 09:00:00" in said(figure)

    def test_pareto(self) -> None:
        trials = [trial(i, values={"a": float(i), "b": float((i * 7) % 5), "c": 1.0}) for i in range(6)]
        assert len(plots.pareto(board(*trials, objectives=("a", "b", "c"), minimized=(True, True, False))).axes) == 3
        two = [trial(t.number, values={name: t.values[name] for name in "ab"}) for t in trials]
        [axes] = plots.pareto(board(*two, objectives=("a", "b"), minimized=(True, True))).axes
        [line] = axes.lines
        assert list(line.get_xdata()) == [0] and "a (less is better)" in axes.get_xlabel()  # the first is best in both

    def test_metrics(self) -> None:
        figure = plots.metrics(lively())
        assert [a.get_title("left") for a in figure.axes] == ["loss", "accuracy"]
        assert "the best" in said(figure) and "pruned" in said(figure)
        with pytest.raises(StudyError, match="nothing of f1 was reported; there is loss, accuracy"):
            plots.metrics(lively(), ["f1"])

    def test_importances(self, tmp_path: Path) -> None:
        with opened(find(str(database(tmp_path)))) as it:
            assert it.study is not None
            shares = plots.weights(it.study)
            assert next(iter(shares)) == "lr" and sum(shares.values()) == pytest.approx(1)
            [axes] = plots.importances(it.study, it.board).axes
            assert [t.get_text() for t in axes.get_yticklabels()][-1] == "lr"

    def test_a_name_with_a_dollar_is_no_formula(self) -> None:
        made = board(trial(0, value=1.0, params={"$a_{b$": 1}))
        dollar = Board("$\\frac{$", made.trials, ("loss",), (True,), (Dimension("$a_{b$", "int", 0, 2),))
        for figure in (plots.history(dollar), plots.slices(dollar), plots.parallel(dollar)):
            assert "$" in said(figure)

    @pytest.mark.parametrize(("draw", "why"), [
        (plots.history, "no trial has ended"), (plots.slices, "no completed trial"), (plots.parallel, "no completed trial"),
        (plots.timeline, "no trial has begun"), (plots.pareto, "1 objective"), (plots.metrics, "nothing to draw")])
    def test_nothing_to_draw(self, draw: Any, why: str) -> None:
        with pytest.raises(StudyError, match=why):
            draw(board(trial(0, "waiting")))

    @pytest.mark.parametrize("values", [[math.inf], [1.0], [1.0, 1.0], [1e-300, 1e300], [-1.0, math.inf, 5.0]])
    def test_odd_values_are_drawn(self, values: Sequence[float]) -> None:
        made = board(*(trial(i, value=v, started=BEGAN, ended=BEGAN) for i, v in enumerate(values)))
        for draw in (plots.history, plots.timeline, *([plots.slices, plots.parallel] if any(map(math.isfinite, values)) else [])):
            said(draw(made))

    def test_nothing_of_pyplot_is_left(self) -> None:
        plots.history(lively())
        assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(Path(soma.__file__).parents[1])})


def test_without_matplotlib() -> None:
    done = python("import sys; sys.modules['matplotlib'] = None\nfrom soma.study import plots")
    assert done.returncode == 1 and 'ModuleNotFoundError: plots need matplotlib: pip install "soma[viz]"' in done.stderr


def test_reading_and_pages_load_nothing_large() -> None:
    code = ("import sys, soma.study.page, soma.study.live, soma.study.board\n"
            "print(sorted({'optuna', 'matplotlib', 'rich', 'pandas', 'sqlalchemy'} & set(sys.modules)))")
    assert python(code).stdout == "[]\n"
