"""Python jobs: a program, its files and its requirements, run on the cluster in an environment of its own, with limits.

    id = soma.jobs.submit("train.py", working_dir="code", requirements=["scikit-learn"], outputs=["*.json"], timeout=600)
    for text in soma.jobs.follow(id): print(text, end="")
    soma.jobs.result(id).success

Inside of a job: `soma.jobs.report(step=3, total=10, loss=0.5)` and `soma.jobs.params()`. Names are looked up when they are first used, so
that a job that only reports does not load the cluster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soma.errors import JobError as JobError
    from soma.jobs.progress import job_id as job_id
    from soma.jobs.progress import params as params
    from soma.jobs.progress import report as report
    from soma.jobs.states import JobResult as JobResult
    from soma.jobs.states import JobState as JobState
    from soma.jobs.states import JobStatus as JobStatus
    from soma.jobs.states import OutputFile as OutputFile
    from soma.jobs.states import Phase as Phase
    from soma.jobs.states import Progress as Progress
    from soma.jobs.verbs import cancel as cancel
    from soma.jobs.verbs import delete as delete
    from soma.jobs.verbs import download as download
    from soma.jobs.verbs import follow as follow
    from soma.jobs.verbs import list_jobs as list_jobs
    from soma.jobs.verbs import logs as logs
    from soma.jobs.verbs import result as result
    from soma.jobs.verbs import status as status
    from soma.jobs.verbs import submit as submit
    from soma.jobs.verbs import wait as wait

_HOME = {
    "JobError": "soma.errors",
    **dict.fromkeys(("job_id", "params", "report"), "soma.jobs.progress"),
    **dict.fromkeys(("JobResult", "JobState", "JobStatus", "OutputFile", "Phase", "Progress"), "soma.jobs.states"),
    **dict.fromkeys(("cancel", "delete", "download", "follow", "list_jobs", "logs", "result", "status", "submit", "wait"),
                    "soma.jobs.verbs"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"soma.jobs has no {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
