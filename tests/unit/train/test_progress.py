"""A training's bar: what it says, and that it is silent where nobody looks."""

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
    EpochCompleted,
    EpochStarted,
    Event,
    GenerationCompleted,
    GenerationStarted,
    GroupRestarted,
    MemberExploited,
    MetricReported,
    RoundCompleted,
    RoundStarted,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCompleted,
)
from soma.runs import Run
from soma.train.progress import Seen, clock, training_bar

NUMBER = st.integers(0, 5)


def watched(events: list[tuple[float, Event]], **options: Any) -> Seen:
    seen = Seen(**options)
    for now, event in events:
        seen.take(event, now)
    return seen


def epochs(n: int, steps: int, rows: int = 10) -> list[tuple[float, Event]]:
    """Each step takes a second."""
    said: list[tuple[float, Event]] = [(0.0, RunStarted(what="train"))]
    for epoch in range(n):
        said.append((float(epoch * steps), EpochStarted(epoch=epoch, epochs=4)))
        said += [(float(s + 1), StepCompleted(step=s, loss=s + 1.0, rows=rows)) for s in range(epoch * steps, (epoch + 1) * steps)]
        done = EpochCompleted(epoch=epoch, epochs=4, loss=7.5, rows=steps * rows, duration_ms=steps * 1e3)
        said.append((float((epoch + 1) * steps), done))
    return said


class TestEpochs:
    def test_what_is_said(self) -> None:
        seen = watched(epochs(2, 4))
        assert (seen.where(), seen.done(), seen.total) == ("epoch 2/4", 2, 4)
        assert seen.words(8.0) == "step 8, loss 7.5, 10 rows/s"
        assert (seen.elapsed(8.0), seen.left(8.0)) == (8.0, 8.0)

    def test_within_an_epoch(self) -> None:
        seen = watched([*epochs(1, 4), (4.0, EpochStarted(epoch=1, epochs=4)), (6.0, StepCompleted(step=4, loss=2.0, rows=10)),
                        (8.0, StepCompleted(step=5, loss=5.0, rows=20))])
        assert (seen.where(), seen.done()) == ("epoch 2/4", 1.5)
        assert seen.words(8.0) == "step 6, loss 4, 8 rows/s"  # the mean over the epoch's rows so far
        assert seen.left(9.0) == 15.0

    def test_the_first_epoch_has_a_share_if_its_steps_are_known(self) -> None:
        said = [(0.0, EpochStarted(epoch=0, epochs=4)), (1.0, StepCompleted(step=0, loss=1.0))]
        assert watched(said).done() == 0 and watched(said).left(1.0) is None
        assert watched(said, steps=4).done() == 0.25 and watched(said, steps=4).left(1.0) == 15.0

    def test_one_that_goes_on_from_a_checkpoint(self) -> None:
        seen = watched([(0.0, EpochStarted(epoch=2, epochs=4)), (1.0, StepCompleted(step=8, loss=1.0)), (9.0, EpochCompleted(
            epoch=2, epochs=4, loss=1.0)), (9.0, EpochStarted(epoch=3, epochs=4))])
        assert (seen.done(), seen.left(9.0)) == (3, 9.0)

    def test_metrics(self) -> None:
        seen = watched([(0.0, EpochStarted(epoch=0, epochs=1)), (1.0, MetricReported(name="grad_norm", value=0.123456)),
                        (2.0, EpochCompleted(epoch=0, epochs=1, loss=1.0, metrics={"val_loss": 2.0}))])
        assert seen.words(2.0) == "loss 1, grad_norm 0.1235, val_loss 2"

    def test_ranks_that_die(self) -> None:
        seen = watched(epochs(1, 4), ranks=3)
        assert "3 ranks" in seen.words(4.0)
        said = seen.take(GroupRestarted(generation=1, ranks=2, lost=(1,), step=3, reason="killed by SIGKILL"), 5.0)
        assert said == "lost rank 1 (killed by SIGKILL): 2 ranks from step 3 on, as generation 1"
        seen.take(EpochStarted(epoch=0, epochs=4), 5.0)
        assert "2 ranks" in seen.words(6.0) and "step 3" in seen.words(6.0)
        assert seen.take(GroupRestarted(generation=2, ranks=1, lost=(0, 1), step=0), 7.0).startswith("lost ranks 0, 1: 1 rank from step 0")
        assert "1 rank" in seen.words(8.0)

    def test_a_failure(self) -> None:
        seen = watched([(0.0, EpochStarted(epoch=0, epochs=9)), (5.0, RunFailed(error="no", error_type="ValueError"))])
        assert seen.words(9.0) == "failed: ValueError" and seen.elapsed(9.0) == 5.0 and seen.left(9.0) is None

    @given(st.lists(st.one_of(
        st.builds(EpochStarted, epoch=NUMBER, epochs=st.just(6)),
        st.builds(StepCompleted, step=st.integers(0, 60), loss=st.floats()),
        st.builds(EpochCompleted, epoch=NUMBER, epochs=st.just(6), loss=st.floats(), rows=NUMBER),
        st.builds(GroupRestarted, generation=st.just(1), ranks=st.integers(1, 3), step=st.integers(0, 60)),
        st.builds(RoundStarted, round=NUMBER, rounds=st.just(6)),
        st.builds(RoundCompleted, round=NUMBER, rounds=st.just(6)),
        st.builds(GenerationStarted, generation=NUMBER),
        st.builds(RunCompleted, duration_ms=st.just(1.0)))))
    def test_whatever_comes_in_whatever_order_can_be_shown(self, said: list[Event]) -> None:
        seen = Seen()
        for now, event in enumerate(said):
            seen.take(event, float(now))
            assert 0 <= seen.done() <= 6 and isinstance(seen.words(float(now)), str) and seen.where()
            left = seen.left(float(now))
            assert left is None or left >= 0


class TestOthers:
    def test_rounds(self) -> None:
        seen = watched([(0.0, RoundStarted(round=0, rounds=5, clients=("a", "b"))), (0.5, EpochStarted(epoch=0, epochs=99)),
                        (0.6, EpochCompleted(epoch=0, epochs=99, loss=1.0))])
        assert (seen.where(), seen.done(), seen.words(0.6)) == ("round 1/5", 0, "2 clients")  # a client's epochs move nothing
        late = RoundCompleted(round=0, rounds=5, left_out={"b": "died"}, metrics={"loss": 0.25})
        assert seen.take(late, 2.0) == "client b is left out: died"
        assert seen.take(late, 2.0) == ""  # said once
        assert seen.words(2.0) == "loss 0.25, 2 clients, left out: b" and seen.left(2.0) == 8.0

    def test_generations(self) -> None:
        seen = watched([(0.0, GenerationStarted(generation=0, members=4)),
                        (1.0, MetricReported(name="fitness", value=1.0, node="member 1")),
                        (1.0, GenerationCompleted(generation=0, best=0.9, member=2)),
                        (1.0, GenerationStarted(generation=1, members=4)),
                        (1.0, MemberExploited(member=0, source=2, generation=1))], generations=3)
        assert (seen.where(), seen.done(), seen.left(1.0)) == ("generation 2/3", 1, 2.0)
        assert seen.words(1.0) == "4 members, best 0.9 (member 2), 1 exploited"
        assert watched([(0.0, GenerationStarted(generation=0, members=4))]).total is None  # a bar that swings


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.7, "1:00:00"), (7265, "2:01:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


class TestBar:
    def test_it_is_quiet_where_there_is_no_terminal(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert training_bar("fit", None) == () and training_bar("fit", False) == ()
        assert capfd.readouterr() == ("", "")

    def test_it_does_not_load_rich_there(self) -> None:
        probe = "import sys; from soma.train.progress import training_bar; training_bar('t', None); print('rich' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=Path(soma.__file__).parents[1])
        assert done.stdout == "False\n"

    def test_it_shows_the_run_on_stderr(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(KeyError), Run("train", None, training_bar("[net]", True, ranks=2)) as run:
            for _, event in epochs(1, 3)[1:]:
                run.emit(type(event), **{k: v for k, v in event.as_dict().items() if k not in ("kind", "run_id", "seq", "time")})
            run.emit(GroupRestarted, generation=1, ranks=1, lost=(1,), step=0)
            raise KeyError("x")
        out, err = capfd.readouterr()
        assert out == "" and "[net]" in err and "epoch 1/4" in err and "lost rank 1: 1 rank from step 0 on" in err

    def test_a_run_that_tells_nothing(self, capfd: pytest.CaptureFixture[str]) -> None:
        with Run("train", None, training_bar("t", True)):
            pass
        assert "starting" in capfd.readouterr().err
