"""Runs: what happened while a graph was fitted, a model trained or a study made, as one ordered stream of events.

`Run` numbers the events of one run, writes them to the run's directory and hands them to everybody who subscribed.
"""

from __future__ import annotations

from soma.runs.folder import RunFolder as RunFolder
from soma.runs.folder import RunInfo as RunInfo
from soma.runs.folder import list_runs as list_runs
from soma.runs.folder import load_run as load_run
from soma.runs.run import Run as Run
