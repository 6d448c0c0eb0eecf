"""Studies for the tests of pictures and pages, made without running anything."""

from __future__ import annotations

import datetime
import io
import random
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from soma.study.board import Board, Dimension
from soma.study.results import FinishedTrial

NASTY = "</td><script>document.title='owned'</script>"
BEGAN = datetime.datetime(2026, 11, 28, 9, 0, 0).timestamp()


def fill_fonts() -> None:
    """matplotlib keeps the files of its fonts open once it has drawn anything."""
    from matplotlib.figure import Figure

    figure = Figure()
    figure.suptitle("a")
    axes = figure.subplots()
    axes.set_title("b", fontweight="bold")
    axes.set_xlabel("$10^{-3}$")
    figure.savefig(io.BytesIO())


def trial(number: int, state: Any = "completed", value: float | None = None, **more: Any) -> FinishedTrial:
    values = {"loss": value} if value is not None else {}
    return FinishedTrial(number, state, more.pop("params", {"lr": 0.01}), more.pop("values", values), **{"config": number, **more})


def board(*trials: FinishedTrial, objectives: tuple[str, ...] = ("loss",), minimized: tuple[bool, ...] = (True,)) -> Board:
    return Board("tune", trials, objectives, minimized, (Dimension("lr", "float", 1e-4, 1e-1, log=True), Dimension(
        "kernel", "choice", 0, 1, choices=("rbf", "linear"))))


def lively(n: int = 24) -> Board:
    """With trials of all states, on two workers, with learning curves."""
    r = random.Random(0)
    made = []
    for i in range(n):
        state = "failed" if i % 8 == 5 else "pruned" if i % 4 == 2 else "completed" if i < n - 1 else "running"
        params = {"lr": 10 ** r.uniform(-4, -1), **({"kernel": r.choice(["rbf", "linear"])} if i % 3 else {})}
        loss = r.uniform(0.1, 1.0)
        made.append(trial(
            i, state, loss if state == "completed" else None, params=params, started=BEGAN + 2 * i, seed=i,
            metrics={"loss": {s: loss + 1 / (s + 1) for s in range(3)}, "accuracy": {s: 1 - loss / (s + 2) for s in range(3)}},
            ended=None if state == "running" else BEGAN + 2 * i + 3.5, worker={"worker": i % 2, "pid": 40 + i % 2},
            error="singular\nsecond line" if state == "failed" else "", error_type="LinAlgError" if state == "failed" else ""))
    return board(*made)


def stored(url: str, name: str = "tune", n: int = 30, names: tuple[str, ...] = ("loss",)) -> None:
    """In optuna's storage, as soma would leave it. The first failed."""
    r = random.Random(1)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(url)
    study = optuna.create_study(study_name=name, storage=storage, directions=["minimize"] * len(names))
    space = {"lr": FloatDistribution(1e-4, 1e-1, log=True), "units": IntDistribution(1, 64), NASTY: CategoricalDistribution([NASTY, "b"])}
    for i in range(n):
        params = {"lr": 10 ** r.uniform(-4, -1), "units": r.randint(1, 64), NASTY: r.choice([NASTY, "b"])}
        told: dict[str, Any] = {"seed": i, "config": i, "worker": {"worker": i % 2, "pid": 7 + i % 2}}
        state = TrialState.FAIL if i == 0 else TrialState.COMPLETE
        if i == 0:
            told |= {"error": f"no {NASTY}", "error_type": "ValueError"}
        made = create_trial(state=state, params=params, distributions=space, user_attrs={"soma:trial": told, "note": NASTY},
                            values=None if i == 0 else [abs(params["lr"] - 0.01) + k for k in range(len(names))])
        made.datetime_start = datetime.datetime.fromtimestamp(BEGAN + i)
        made.datetime_complete = datetime.datetime.fromtimestamp(BEGAN + i + 1.5)
        storage.create_new_trial(study._study_id, template_trial=made)
    storage.remove_session()
    storage.engine.dispose()
    optuna.logging.set_verbosity(before)


def database(directory: Path, **options: Any) -> Path:
    stored(f"sqlite:///{directory / 'tune.db'}", **options)
    return directory / "tune.db"
