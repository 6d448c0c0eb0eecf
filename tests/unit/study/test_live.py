"""A study's live view: what it counts and says, and that it is silent where nobody looks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma
from soma.events import (
    BestUpdated,
    Event,
    RunCompleted,
    RunFailed,
    StudyCompleted,
    StudyProgress,
    StudyStarted,
    TrialCompleted,
    TrialFailed,
    TrialMetric,
    TrialPruned,
    TrialStarted,
)
from soma.runs import Run
from soma.study.live import Tally, briefly, watching


def watched(*events: Event, **options: Any) -> Tally:
    tally = Tally(**options)
    for event in events:
        tally.take(event)
    return tally


def running(n: int, at_once: int, took: float, total: int | None = None) -> list[Event]:
    """n trials that ended, so many at once, each of which took so long; and the next ones begun."""
    said: list[Event] = [StudyStarted(time=0.0, study="s", total=total)]
    said += [TrialStarted(time=0.0, trial=i) for i in range(at_once)]
    for i in range(n):
        now = (i // at_once + 1) * took
        said += [TrialCompleted(time=now, trial=i, values={"value": 1.0}), StudyProgress(time=now, done=i + 1, total=total),
                 TrialStarted(time=now, trial=i + at_once)]
    return said


class TestTally:
    def test_what_is_said(self) -> None:
        best = BestUpdated(time=30.0, trial=3, values={"value": 0.5}, params={"lr": 0.0123456, "k": "a"})
        tally = watched(*running(6, 2, 10.0, total=20), best)
        assert (tally.done, tally.running, tally.total) == (6, 2, 20)
        assert tally.rate(30.0) == 12.0  # six in half a minute
        assert tally.left(30.0) == 70.0  # 14 more, two at once, ten seconds each
        assert tally.left(35.0) == 65.0  # those two are half done
        assert tally.where(30.0) == "6/20 trials in 0:30, 1:10 left"
        assert tally.words(30.0) == "2 running, 12 trials a minute"
        assert tally.best() == "best value 0.5 (trial 3): lr=0.01235, k=a"

    def test_the_last_ones_are_fewer_than_fit_at_once(self) -> None:
        tally = watched(*running(4, 4, 8.0, total=6))
        assert tally.left(8.0) == 8.0 and tally.left(10.0) == 6.0 or tally.running == 4

    def test_a_study_without_an_end(self) -> None:
        tally = watched(*running(3, 1, 2.0))
        assert tally.left(6.0) is None and tally.where(6.0) == "3 trials in 0:06"

    def test_one_that_goes_on_counts_what_was_there(self) -> None:
        said = [StudyStarted(time=0.0, study="s", total=10), TrialStarted(time=0.0, trial=7),
                TrialCompleted(time=5.0, trial=7), StudyProgress(time=5.0, done=8, total=10, pruned=3, failed=1)]
        tally = watched(*said)
        assert (tally.where(5.0), tally.words(5.0)) == ("8/10 trials in 0:05, 0:10 left", "3 pruned, 1 failed, 12 trials a minute")

    def test_the_rate_is_of_late(self) -> None:
        said: list[Event] = [StudyStarted(time=0.0, study="s")]
        said += [TrialCompleted(time=1000.0 + i, trial=i) for i in range(100)]
        assert watched(*said).rate(1099.0) == 60.0
        assert watched(*said, RunCompleted(time=1200.0, duration_ms=0.0)).rate(9999.0) == 5.0  # at the end, of all of it

    def test_failures_are_said_once_for_each_kind(self) -> None:
        tally = watched(StudyStarted(study="s"))
        first = tally.take(TrialFailed(trial=4, error="singular\ntrace", error_type="LinAlgError"))
        assert first == "trial 4 failed: LinAlgError: singular"
        assert tally.take(TrialFailed(trial=5, error="other", error_type="LinAlgError")) == ""
        assert tally.take(TrialFailed(trial=6, error="", error_type="KeyError")) == "trial 6 failed: KeyError: "

    def test_the_only_one_that_runs_says_where_it_is(self) -> None:
        said = [TrialStarted(time=1.0, trial=0), TrialMetric(time=2.0, trial=0, name="loss", value=0.25, step=3)]
        assert watched(*said).words(2.0) == "1 running, loss 0.25 at step 3"
        assert watched(*said, TrialStarted(time=2.0, trial=1)).words(2.0) == "2 running"
        assert watched(*said, TrialPruned(time=61.0, trial=0)).words(61.0) == "1 trials a minute"

    def test_a_front(self) -> None:
        tally = watched(objectives=("a", "b"), directions=("minimize", "maximize"))
        for trial, (a, b) in enumerate([(1.0, 1.0), (2.0, 2.0), (0.5, 1.5)]):
            tally.take(BestUpdated(trial=trial, values={"a": a, "b": b}))
        assert tally.best() == "2 on the front, the latest: a 0.5, b 1.5 (trial 2)"  # the first is beaten by the third

    def test_the_end(self) -> None:
        tally = watched(*running(4, 2, 1.0, total=9), RunFailed(time=5.0, error="", error_type="KeyboardInterrupt", duration_ms=0.0))
        assert tally.elapsed(99.0) == 5.0 and tally.left(99.0) is None and tally.words(99.0).endswith("ended by KeyboardInterrupt")

    @given(st.lists(st.one_of(
        st.builds(StudyStarted, study=st.just("s"), total=st.none() | st.integers(0, 9)),
        st.builds(TrialStarted, trial=st.integers(0, 5)),
        st.builds(TrialMetric, trial=st.integers(0, 5), name=st.just("m"), value=st.floats()),
        st.builds(TrialCompleted, trial=st.integers(0, 5)),
        st.builds(TrialFailed, trial=st.integers(0, 5), error=st.text(), error_type=st.sampled_from("AB")),
        st.builds(TrialPruned, trial=st.integers(0, 5)),
        st.builds(BestUpdated, trial=st.integers(0, 5), values=st.fixed_dictionaries({"value": st.floats()})),
        st.builds(StudyProgress, done=st.integers(0, 9), total=st.none() | st.integers(0, 9)),
        st.builds(StudyCompleted, study=st.just("s")),
        st.builds(RunCompleted, duration_ms=st.just(1.0)))), st.lists(st.floats(0, 100), min_size=1))
    def test_whatever_comes_in_whatever_order_can_be_shown(self, said: list[Event], times: list[float]) -> None:
        tally = Tally()
        for event in said:
            tally.take(event)
        for now in times:
            left, rate = tally.left(now), tally.rate(now)
            assert (left is None or left >= 0) and (rate is None or rate >= 0) and tally.running >= 0
            assert all(isinstance(text, str) for text in (tally.where(now), tally.words(now), tally.best()))


def test_parameters_on_a_line() -> None:
    assert briefly({}) == "" and briefly({"a": 1, "b": 0.123456, "c": "x" * 99}) == f"a=1, b=0.1235, c={'x' * 24}"
    assert briefly(dict.fromkeys("abcdefgh", True)).endswith("f=True, …")


class TestView:
    def test_it_is_quiet_where_there_is_no_terminal(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert watching("tune", None) == () == watching("tune", False)
        assert capfd.readouterr() == ("", "")

    def test_it_does_not_load_rich_there(self) -> None:
        probe = "import sys; from soma.study.live import watching; watching('t', None); print({'rich', 'optuna'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=Path(soma.__file__).parents[1])
        assert done.stdout == "set()\n"

    def test_it_shows_the_run_on_stderr(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(KeyError), Run("study", None, watching("tune", True, ("loss",))) as run:
            run.emit(StudyStarted, study="tune", total=5)
            run.emit(TrialStarted, trial=0, params={"lr": 1})
            run.emit(TrialFailed, trial=0, error="no [good]", error_type="ValueError")
            run.emit(StudyProgress, done=1, total=5, failed=1)
            run.emit(BestUpdated, trial=1, values={"loss": 0.5}, params={"lr": "[red]"})
            raise KeyError("x")
        out, err = capfd.readouterr()
        assert out == "" and "study tune" in err and "1/5 trials" in err and "1 failed" in err and "ended by KeyError" in err
        assert "trial 0 failed: ValueError: no [good]" in err and "best loss 0.5 (trial 1): lr=[red]" in err

    def test_a_run_that_tells_nothing(self, capfd: pytest.CaptureFixture[str]) -> None:
        with Run("study", None, watching("tune", True)):
            pass
        assert "study tune" in capfd.readouterr().err
