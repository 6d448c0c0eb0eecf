"""What is measured of studies and of joblib's backend, and what soma promises about them."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.figures import Figure, Medians, Promise, Subject, of
from benchmarks.study_work import SEARCHES

NAMES = {"branin": "Branin", "hartmann": "Hartmann-6"}

FIGURES: tuple[Figure, ...] = (
    Figure("trial_sqlite", "a trial that does nothing, in a SQLite file", "ms"),
    Figure("trial_journal", "the same in a journal file", "ms"),
    Figure("trial_memory", "the same in memory", "ms"),
    Figure("ratio_sqlite", "a trial ÷ (optuna's in the same process + an actor call), in turns, SQLite", "×", charted=False),
    Figure("ratio_journal", "the same, journal file", "×", charted=False),
    Figure("ratio_memory", "the same, in memory", "×", charted=False),
    Figure("speedup", "trials of 0.2 s of pure Python: one at a time ÷ two at once", "×", lower_is_better=False),
    Figure("first", "from run() in a fresh process to the first trial", "s"),
    *(Figure(f"{f}_{s}_s", f"{NAMES[f]} by {s}: all trials", "s", charted=False) for f, s in SEARCHES),
    *(Figure(f"{f}_{s}_gap", f"{NAMES[f]} by {s}: best found above the optimum", "", charted=False) for f, s in SEARCHES),
    Figure("joblib_small", "joblib: 1,000 small tasks on two workers", "s"),
    Figure("joblib_large", "joblib: 20 tasks with an array of 50 MB each", "s"),
    Figure("joblib_results", "joblib: 20 tasks that give an array of 50 MB each", "s"),
)


def _times(key: str, peer: str, other: str | None = None) -> Callable[[Medians], float | None]:
    def ratio(median: Medians) -> float | None:
        mine, theirs = median("soma", key), median(peer, other or key)
        return theirs / mine if mine and theirs else None

    return ratio


PROMISES: tuple[Promise, ...] = (
    Promise("a trial that does nothing ÷ (optuna's, in the same SQLite storage, + an actor call)", True, 1.3, "×", of("ratio_sqlite")),
    Promise("a trial of Ray Tune ÷ one of soma in a SQLite file", False, 10, "×", _times("trial_sqlite", "ray")),
    Promise("a trial of Ray Tune ÷ one of soma in memory", False, 10, "×", _times("trial_memory", "ray", "trial_sqlite")),
    Promise("trials of 0.2 s: one at a time ÷ two at once", False, 1.8, "×", of("speedup")),
    Promise("joblib, 1,000 small tasks: loky ÷ soma", False, 1, "×", _times("joblib_small", "loky")),
    Promise("joblib, 20 arrays of 50 MB as arguments: loky ÷ soma", False, 3, "×", _times("joblib_large", "loky")),
    Promise("joblib, 20 arrays of 50 MB as results: loky ÷ soma", False, 3, "×", _times("joblib_results", "loky")),
    Promise("from run() in a fresh process to the first trial", True, 0.8, "s", of("first")),
)

STUDIES = Subject(
    "studies", "Studies", FIGURES, PROMISES, (),
    {**dict.fromkeys(("trial_sqlite", "ratio_sqlite"), "sqlite"), **dict.fromkeys(("trial_journal", "ratio_journal"), "journal"),
     **dict.fromkeys(("trial_memory", "ratio_memory"), "memory"), "speedup": "speedup", "first": "first",
     **{f"{f}_{s}_{what}": f"{f}_{s}" for f, s in SEARCHES for what in ("s", "gap")},
     "joblib_small": "joblib_small", "joblib_large": "joblib_large", "joblib_results": "joblib_results"})
