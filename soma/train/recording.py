"""A training's run: recorded in a directory, drawn as a progress bar, told to whoever subscribed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soma.cluster.hub import Subscriber
from soma.events import RunStarted
from soma.runs import Run, RunFolder, RunInfo, load_run
from soma.runs.run import new_id
from soma.train.progress import training_bar


class Recorded:
    """Of a training that may have been recorded."""

    __slots__ = ()
    run_id: str

    @property
    def run(self) -> RunInfo:
        """The run as it was recorded: its events, its metrics, `plot()`. ValueError if it was not (`record=False`)."""
        return load_run(self.run_id)


def begin(summary: str, *, seed: int | None, params: Mapping[str, Any], record: bool, progress: bool | None = False, ranks: int = 1,
          listeners: tuple[Subscriber, ...] = ()) -> Run:
    """A run of kind "train" that has begun; it ends with its `with`.

    Args:
        summary: what is trained by whom, in a line: "DataParallel(Net, 2 ranks)".
        seed, params: for its manifest.
        record: whether it gets a directory.
        progress: whether a bar is drawn; None draws it in a terminal.
        ranks: for the bar.
        listeners: who hears its events besides the process's subscribers.
    """
    folder = RunFolder.create(new_id("train"), "train", seed=seed, params=params) if record else None
    run = Run("train", folder, (*training_bar(summary, progress, ranks), *listeners))
    run.emit(RunStarted, what="train", plan_summary=summary, nodes=0)
    return run
