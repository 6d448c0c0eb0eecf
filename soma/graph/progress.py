"""A progress bar on stderr while a graph runs. Silent, and without loading rich, where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from soma.graph.runner import Observer


@contextmanager
def progress_bar(title: str, total: int, shown: bool | None) -> Iterator[Observer | None]:
    """An observer that draws nodes done, the nodes under way and the time; None if nothing is to be shown.

    `shown=None` shows it in a terminal; True always; False never.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("[dim]{task.fields[waiting]}", markup=True))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, waiting="")

        def observe(done: str, pending: tuple[str, ...]) -> None:
            waiting = ", ".join(pending[:3]) + (" …" if len(pending) > 3 else "")
            bar.update(task, advance=1, total=bar.tasks[task].completed + 1 + len(pending), waiting=waiting)

        yield observe
