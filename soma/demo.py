"""`soma demo`: a scaler, two classifiers and a vote on scikit-learn's handwritten digits, each in a process of its own.

It measures what it prints. Without scikit-learn it says what to install.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from soma import cluster
from soma.filters import filter
from soma.graph import Graph, Plan

MISSING = 'the demo needs scikit-learn: pip install "soma[ml]"'

Data = tuple[Any, Any, Any, Any]
"""Training and test pixels, training and test labels."""


@filter
class Vote:
    """The class that is most probable on average."""

    def forward(self, x: dict[str, Any], state: Any) -> Any:
        return sum(x.values()).argmax(axis=1)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the demo found. Times in seconds."""

    plan: Plan
    accuracy: float
    rows: tuple[int, int]
    """Digits to learn from, and digits never seen."""
    pids: dict[str, int]
    driver: int
    daemon: int | None
    """None where everything ran in this process."""
    times: dict[str, float]


def digits() -> Data:
    """A quarter of the digits is for the test. ModuleNotFoundError naming the extra without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] != "sklearn":
            raise
        raise ModuleNotFoundError(MISSING, name="sklearn") from None
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
    return X_train, X_test, y_train, y_test


def graph() -> Graph:
    """standard_scaler >> (logistic_regression | k_neighbors_classifier) >> vote"""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    scaler = filter(StandardScaler)()
    linear = filter(LogisticRegression, method="predict_proba")(max_iter=300)
    neighbors = filter(KNeighborsClassifier, method="predict_proba")(n_neighbors=3)
    return Graph(scaler >> (linear | neighbors) >> Vote())


def run(data: Data, progress: bool | None = None) -> Shown:
    """Fit on the training digits, predict the others. Uses the running cluster, or starts one and ends it."""
    X_train, X_test, y_train, y_test = data
    g = graph()
    began = time.perf_counter()
    own = None if cluster.is_initialized() else cluster.init()
    try:
        with _spinner("starting the processes; each imports scikit-learn", progress):
            pids = g.pids()
        started = time.perf_counter()
        g.fit(X_train, y_train, progress=progress)
        fitted = time.perf_counter()
        predicted = g.predict(X_test)
        ended = time.perf_counter()
        daemon = cluster.status().get("pid")
        daemon = None if daemon == os.getpid() else daemon
    finally:
        g.close()
        if own is not None:
            cluster.shutdown()
    return Shown(g.compile(), float((predicted == y_test).mean()), (len(y_train), len(y_test)), pids, os.getpid(), daemon,
                 {"start": started - began, "fit": fitted - started, "predict": ended - fitted})


@contextmanager
def _spinner(text: str, shown: bool | None) -> Iterator[None]:
    if not (sys.stderr.isatty() if shown is None else shown):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"[bold]{text}"):
        yield


def announce() -> None:
    """One line before anything runs."""
    from rich.console import Console

    Console(highlight=False).print("[bold]soma[/]: handwritten digits, four filters, a process for each")


def show(shown: Shown) -> None:
    """Print it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print("\n[bold]Plan[/]")
    for line in repr(shown.plan).splitlines()[1:]:
        console.print("  " + escape(line), soft_wrap=True)
    processes = Table(box=None, padding=(0, 2), header_style="bold", title_justify="left")
    processes.add_column("Process")
    processes.add_column("pid", justify="right")
    processes.add_row("driver [dim](this program)[/]", str(shown.driver))
    if shown.daemon is not None:
        processes.add_row("daemon [dim](starts and watches the rest)[/]", str(shown.daemon))
    for node, pid in shown.pids.items():
        processes.add_row(f"[cyan]{escape(node)}[/]", str(pid))
    console.print()
    console.print(processes)
    train, test = shown.rows
    steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in shown.times.items())
    rows = f"{test} digits never seen, {train} to learn from"
    console.print(f"\n[bold]Test accuracy[/]  [bold green]{shown.accuracy:.3f}[/]  [dim]{rows}[/]")
    console.print(f"[bold]Time[/]           {sum(shown.times.values()):.2f} s  [dim]{steps}[/]")
    console.print("\n[dim]Next:[/] read and run [bold]examples/digits.py[/], the same in sixty lines; "
                  "[bold]soma status[/] shows what is running.", soft_wrap=True)
