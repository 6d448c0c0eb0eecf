"""A run of a study: trials to workers, what they say to the book, what becomes of them to whoever listens.

`Running` is the shell around `Book` (what is known) and `Course` (what to do when). With workers it waits in `soma.wait`; without any
(`n_jobs=0`) trials run in this process, one after the other.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.errors import ActorDiedError, ActorInitError, SomaError
from soma.events import (
    BestUpdated,
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
from soma.study.book import Book
from soma.study.course import Course, Order
from soma.study.crew import Crew, Seat
from soma.study.outcome import dominates
from soma.study.place import Alone, Place
from soma.study.results import FinishedTrial
from soma.study.terms import Open
from soma.study.trial import Trial
from soma.study.worker import Ended, Task, played

LOOK = 0.5
"""Seconds after which a driver that waits looks whether somebody stopped the study."""

INTERRUPTED = "the study was interrupted", "Interrupted"


class Running:
    """One call of `Study.run`.

    Args:
        book: of the study; `book.driver` is this one.
        course: with the limits of this run.
        place: of the study.
        run: its events.
        max_retries: how often a set of parameters is begun again when its process died.
        after: called with every trial that ended.
    """

    def __init__(self, book: Book, course: Course, place: Place | Alone, run: Run, *, max_retries: int = 0,
                 after: Sequence[Callable[[FinishedTrial], None]] = ()) -> None:
        self._book, self._course, self._place, self._run = book, course, place, run
        self._max_retries, self._after = max_retries, after
        self._under_way: dict[ObjectRef[Any], tuple[Open, Seat]] = {}
        self._trouble: Exception | None = None
        self._counts = {"completed": 0, "pruned": 0, "failed": 0}

    # -- with workers ----------------------------------------------------------------------------------------------------------

    def with_workers(self, crew: Crew) -> None:
        """Until there is nothing more to do. On an exception (Ctrl-C, say) what was under way is put back."""
        self._begin()
        try:
            self._fill(crew)
            while self._under_way:
                self._run.tell()  # what happened: only now, when the workers have something to do again
                pause = self._course.pause(time.monotonic())
                done, _ = cluster.wait(list(self._under_way), timeout=LOOK if pause is None else min(LOOK, pause))
                for ref in done:
                    self._settle(ref, crew)
                if self._trouble is not None:
                    raise self._trouble
                for order in list(self._course.orders(time.monotonic())):
                    self._obey(order)
                self._fill(crew)
        except BaseException:
            self._put_back()
            raise
        self._finish()

    def _obey(self, order: Order) -> None:
        ref, seat = next((ref, seat) for ref, (at, seat) in self._under_way.items() if at.number == order.trial)
        seat.doomed = order.act == "kill"
        cluster.cancel(ref, force=seat.doomed)

    def _fill(self, crew: Crew) -> None:
        while self._may_take() and (seat := crew.seat()) is not None:
            at = self._ask(seat.told)
            if at is None:
                break
            if seat.begun:
                self._course.started(at.number, time.monotonic())
            task = Task(at.number, at.params, at.seed, at.attempt)
            try:
                ref = seat.actor.run.options(listener=self._listener(at, seat, crew)).remote(task)
            except Exception as e:  # its parameters cannot travel
                self._end(at, {"state": "failed", "error": str(e), "error_type": type(e).__name__})
                continue
            seat.busy = True
            self._under_way[ref] = at, seat
        else:
            if self._may_take():
                return
        crew.yield_room()

    def _listener(self, at: Open, seat: Seat, crew: Crew) -> Callable[[dict[str, Any]], None]:
        def hear(said: dict[str, Any]) -> None:
            try:
                self._hear(at, seat, crew, said)
            except Exception as e:  # of the storage or the pruner; a trial that has ended meanwhile has nothing to say
                if not at.ended:
                    self._trouble = self._trouble or e

        return hear

    def _hear(self, at: Open, seat: Seat, crew: Crew, said: Mapping[str, Any]) -> None:
        match said["kind"]:
            case "report":
                prune = self._reported(at, said["name"], said["value"], said["step"])
                if prune is not None and crew.verdicts is not None:
                    crew.verdicts.give.remote(at.number, at.reports, prune)
            case "note":
                self._book.note(at.number, said["name"], said["value"])
            case "began":
                seat.told.update(pid=said["pid"], node=said["node"])
                self._course.started(at.number, time.monotonic())
                self._book.found(at, seat.told)

    def _settle(self, ref: ObjectRef[Any], crew: Crew) -> None:
        at, seat = self._under_way.pop(ref)
        seat.busy = False
        if crew.verdicts is not None:
            crew.verdicts.forget.remote(at.number)
        gone = seat.doomed
        try:
            ended: Ended = cluster.get(ref)
        except ActorInitError as e:
            self._put_one_back(at, str(e), type(e).__name__)
            raise
        except ActorDiedError as e:
            gone = True
            ended = {"state": "died", "error": str(e), "error_type": type(e).__name__}
            if e.executed == "no" and seat.begun:  # it died of something else, before this trial came
                ended["state"] = "never began"
        except SomaError as e:  # cancelled; or what it gave could not travel
            ended = {"state": "failed", "error": str(e), "error_type": type(e).__name__}
        if gone:
            crew.gone(seat)
        if ended["state"] == "never began":
            self._put_one_back(at, ended["error"], ended["error_type"])
        else:
            self._end(at, ended)

    def _put_one_back(self, at: Open, error: str, error_type: str) -> None:
        self._course.end(at.number, False)
        self._over(self._book.fail(at.number, error, error_type, repeat=True), repeated=True)

    def _put_back(self) -> None:
        """All that is under way: first in the book, then for who listens."""
        for ref in self._under_way:
            cluster.cancel(ref, force=True)
        under_way, self._under_way = [at for at, _ in self._under_way.values()], {}
        for trial in [self._book.fail(at.number, *INTERRUPTED, repeat=True) for at in under_way if not at.ended]:
            self._course.end(trial.number, False)
            self._over(trial, repeated=True)

    # -- without ---------------------------------------------------------------------------------------------------------------

    def here(self, objective: Callable[[Trial], Any]) -> None:
        """Every trial in this process."""
        self._begin()
        told = {"worker": 0, "pid": os.getpid()}
        names, judged = self._book.terms.objectives, self._book.terms.objectives[0] if self._book.terms.prunes else None
        while self._may_take() and (at := self._ask(told)) is not None:
            self._run.tell()
            self._course.started(at.number, time.monotonic())
            channel = _Here(self, at)
            trial = Trial(at.number, at.params, at.seed, channel, judged=judged, attempt=at.attempt)
            try:
                ended = played(objective, trial, names, channel.last)
            except BaseException:
                self._put_one_back(at, *INTERRUPTED)
                raise
            self._end(at, ended)
        self._finish()

    # -- what happens ----------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        known = self._book.trials()
        repeated = {t.repeat_of for t in known}
        self._counts.update(Counter(t.state for t in known if t.state in self._counts and t.number not in repeated))
        self._best = self._book.best()
        self._run.emit(StudyStarted, study=self._place.name, total=self._book.total)

    def _ask(self, worker: Mapping[str, Any]) -> Open | None:
        """The next trial; when there is none, one of a driver that died meanwhile."""
        at = self._book.ask(worker)
        if at is None and not self._under_way and self._book.recover():
            at = self._book.ask(worker)
        if at is not None:
            self._course.begin(at.number)
            self._run.note(TrialStarted, trial=at.number, params=dict(at.params))
        return at

    def _may_take(self) -> bool:
        if self._place.stopping:
            self._course.stop()
        return self._course.may_take(time.monotonic())

    def _reported(self, at: Open, name: str, value: float, step: int) -> bool | None:
        prune = self._book.report(at.number, name, value, step)
        self._run.emit(TrialMetric, trial=at.number, name=name, value=value, step=step)
        if prune:
            self._course.prune(at.number, time.monotonic())
        return prune

    def _end(self, at: Open, ended: Mapping[str, Any]) -> None:
        why = self._course.end(at.number, ended["state"] in ("failed", "died"))
        state, again = ended["state"], False
        if why == "pruned" and state != "completed":
            state = "pruned"
        match state:
            case "completed":
                trial = self._book.complete(at.number, ended["values"], ended["extra"])
            case "pruned":
                trial = self._book.prune(at.number)
            case _ if why == "timeout":
                trial = self._book.fail(at.number, "it took longer than trial_timeout", "TrialTimeout")
            case _:
                again = state == "died" and at.retries < self._max_retries
                trial = self._book.fail(at.number, ended["error"], ended["error_type"], repeat=again, died=again)
        self._over(trial, ended.get("trace", ""), repeated=again)

    def _over(self, trial: FinishedTrial, trace: str = "", *, repeated: bool = False) -> None:
        """Tell of a trial's end. One that is to be repeated does not count as done."""
        ms = (trial.duration_s or 0.0) * 1e3
        match trial.state:
            case "completed":
                self._run.note(TrialCompleted, trial=trial.number, values=dict(trial.values), duration_ms=ms)
                if self._improves(trial):
                    self._run.note(BestUpdated, trial=trial.number, values=dict(trial.values), params=dict(trial.params))
            case "pruned":
                steps = trial.metrics.get(self._book.terms.objectives[0], {})
                self._run.note(TrialPruned, trial=trial.number, step=max(steps, default=None))
            case _:
                text = f"{trial.error}\n{trace}".rstrip() if trace else trial.error
                self._run.note(TrialFailed, trial=trial.number, error=text, error_type=trial.error_type)
        self._counts[trial.state] += not repeated
        self._run.note(StudyProgress, done=sum(self._counts.values()), total=self._book.total, running=self._course.running,
                       pruned=self._counts["pruned"], failed=self._counts["failed"])
        if self._after:
            self._run.tell()
        for fn in self._after:
            fn(trial)

    def _improves(self, trial: FinishedTrial) -> bool:
        """Whether it belongs to the best now; then it does from now on."""
        ways, values = self._book.terms.directions, tuple(trial.values.values())
        front = [tuple(t.values.values()) for t in self._best]
        if not trial.feasible or any(values == known or dominates(known, values, ways) for known in front):
            return False
        self._best = [t for t, known in zip(self._best, front, strict=True) if not dominates(values, known, ways)] + [trial]
        return True

    def _finish(self) -> None:
        best = dict(self._best[0].values) if self._best else dict.fromkeys(self._book.terms.objectives, math.nan)
        self._run.emit(StudyCompleted, study=self._place.name, done=sum(self._counts.values()), best=best)


class _Here:
    """The channel of a trial in the driver's process."""

    def __init__(self, running: Running, at: Open) -> None:
        self._running, self._at = running, at
        self.last: dict[str, float] = {}

    def report(self, name: str, value: float, step: int) -> None:
        self.last[name] = value
        self._running._reported(self._at, name, value, step)

    def verdict(self, reports: int) -> bool:
        return self._at.pruned

    def note(self, name: str, value: Any) -> None:
        self._running._book.note(self._at.number, name, value)
