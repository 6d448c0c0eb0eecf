"""Submitting jobs and asking for them. Each job has an actor of its own that answers for it: see `soma.jobs.keeper`."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from soma.actors.handle import ActorHandle
from soma.cluster import get, get_actor, kill, remote
from soma.cluster import status as cluster_status
from soma.config import MIB
from soma.environments import Archive, checked_path, pack, pack_files, read_requirements
from soma.errors import ActorDiedError, GetTimeoutError, JobError
from soma.jobs.keeper import LONGEST_WAIT, JobKeeper, this_process
from soma.jobs.request import JobRequest, as_json
from soma.jobs.runner import runner_for
from soma.jobs.states import JobResult, JobStatus

NAMESPACE = "_soma_jobs"
KEPT = 100
"""Jobs that are over and still answer; when there are more, the oldest are deleted."""
ANSWER = 30.0
"""Seconds that a job's actor has to answer."""
_PART = 4 * MIB


def submit(entry: str | os.PathLike[str], *, args: Sequence[str] = (), working_dir: str | os.PathLike[str] | None = None,
           requirements: Sequence[str] | str | os.PathLike[str] | None = None, python: str | None = None,
           env_vars: Mapping[str, str] | None = None, num_cpus: float = 1, num_gpus: float = 0, memory: int | None = None,
           timeout: float | None = None, outputs: Sequence[str] = (), disk_quota: int | None = None,
           params: Mapping[str, Any] | None = None, job_id: str | None = None) -> str:
    """Run a Python program on the cluster. Returns the job's id at once.

    Args:
        entry: the program. With `working_dir` a path inside of it; without, the path of one file, which is then all that the job has.
        args: its arguments.
        working_dir: a directory whose files the job works on, in a directory of its own.
        requirements: packages it needs, as a list or the path of a requirements.txt: an environment is made, or found. None: it runs
            with what the cluster has.
        python: the version of that environment, e.g. "3.12"; by default the cluster's own. Another one sees no packages but its own.
        env_vars: environment variables.
        num_cpus, num_gpus, memory: reserved while it runs; `memory` is in bytes and enforced.
        timeout: seconds it may take, its environment included.
        outputs: patterns of files to keep when it succeeds, e.g. `("*.json", "plots/*.png")`.
        disk_quota: bytes its directory may hold.
        params: plain data that the program gets by `soma.jobs.params()`.
        job_id: a name for it; by default one is made up.

    Raises:
        TypeError, ValueError: something that cannot be, a path that leaves the directory, or an id that is taken.
        ArchiveError: also a ValueError: files that cannot travel.
    """
    if working_dir is None:
        path = Path(entry)
        entry, files = path.name, pack_files({path.name: path.read_bytes()})
    else:
        files = pack(working_dir)
    if isinstance(requirements, (str, os.PathLike)):
        requirements = read_requirements(requirements)
    request = JobRequest(
        id=job_id or f"job-{secrets.token_hex(4)}", entry=os.fspath(entry), args=tuple(args),
        requirements=None if requirements is None else tuple(requirements), python=python, env_vars=dict(env_vars or {}),
        num_cpus=num_cpus, num_gpus=num_gpus, memory=memory, timeout=timeout, outputs=tuple(outputs), disk_quota=disk_quota,
        params=as_json(params))
    if working_dir is not None and not (Path(working_dir) / request.entry).is_file():
        raise ValueError(f"entry={request.entry!r}: there is no such file in {os.fspath(working_dir)!r}")
    return _start(request, files)


def _start(request: JobRequest, files: Archive) -> str:
    runner_for(request)  # refuses amounts that cannot be
    _forget_old()
    keeper = remote(JobKeeper).options(
        name=request.id, namespace=NAMESPACE, lifetime="detached", num_cpus=0, max_concurrency=2,
        concurrency_groups={"wait": 16, "control": 2}).remote(request, files, this_process())
    get(keeper.status.remote(), timeout=ANSWER)
    return request.id


def status(job: str) -> JobStatus:
    """How a job is.

    Raises:
        JobError: there is none of that id.
    """
    return _ask(job, "status")  # type: ignore[no-any-return]


def wait(job: str, timeout: float | None = None) -> JobStatus:
    """Wait until a job is over.

    Raises:
        GetTimeoutError: it was not within `timeout` seconds; it goes on.
        JobError: there is none of that id.
    """
    until = None if timeout is None else time.monotonic() + timeout
    while True:
        left = LONGEST_WAIT if until is None else max(0.0, until - time.monotonic())
        found: JobStatus = _ask(job, "wait", left)
        if found.state.is_end:
            return found
        if until is not None and time.monotonic() >= until:
            raise GetTimeoutError(f"job {job!r} was not over after {timeout:g} s; it is {found.state.value}")


def result(job: str, timeout: float | None = None) -> JobResult:
    """How a job ended; waits until it is over. A job that failed is a result as well, no exception.

    Raises:
        GetTimeoutError, JobError: as `wait`.
    """
    wait(job, timeout)
    found: JobResult = _ask(job, "result")
    return found


def logs(job: str, last: int | None = None) -> str:
    """What a job printed so far; `last` limits it to as many lines."""
    size: int = _ask(job, "log_size")
    text, offset = b"", 0 if last is None else max(0, size - MIB)
    while offset < size:
        data, offset, _ = _ask(job, "read_log", offset, 0.0)
        if not data:
            break
        text += data
    lines = text.decode("utf-8", "replace").splitlines(keepends=True)
    return "".join(lines if last is None else lines[max(0, len(lines) - last):])


def follow(job: str) -> Iterator[str]:
    """What a job prints, as it comes, until it is over."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offset, over = 0, False
    while not over:
        data, offset, over = _ask(job, "read_log", offset, LONGEST_WAIT)
        text = decoder.decode(data, over)
        if text:
            yield text


def cancel(job: str) -> bool:
    """End a job and all its processes, in less than a second. False: it was over already."""
    return bool(_ask(job, "cancel"))


def delete(job: str) -> None:
    """Forget a job: its log, its outputs. One that runs is cancelled first."""
    handle = _keeper(job)
    _get(job, handle.remove.remote())
    kill(handle)


def list_jobs() -> list[JobStatus]:
    """All jobs, in the order in which they were submitted."""
    asked = [(a["name"], _keeper(a["name"])) for a in cluster_status()["actors"] if a.get("namespace") == NAMESPACE and a.get("name")]
    found: list[JobStatus] = []
    for job, ref in [(name, handle.status.remote()) for name, handle in asked]:
        found.append(_get(job, ref))
    return sorted(found, key=lambda s: (s.submitted, s.id))


def download(job: str, directory: str | os.PathLike[str]) -> list[Path]:
    """Write a job's outputs below a directory; returns their paths. Files that are there already are replaced.

    Raises:
        JobError: it has not succeeded, or a file did not arrive as it was.
    """
    told = result(job)
    if not told.success:
        raise JobError(f"job {job!r} {told.state.value}, so it has no outputs: {told.message}")
    written = []
    for name, file in told.outputs.items():
        path = Path(directory) / checked_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, fresh = blake3(), path.with_name(f".{path.name}.part")
        with open(fresh, "wb") as f:
            for offset in range(0, file.bytes, _PART):
                data: bytes = _ask(job, "read_output", name, offset, _PART)
                digest.update(data)
                f.write(data)
        if digest.hexdigest() != file.hash:
            fresh.unlink()
            raise JobError(f"output {name!r} of job {job!r} did not arrive as it was left: its hash differs")
        fresh.replace(path)
        written.append(path)
    return written


# -- its actor ----------------------------------------------------------------------------------------------------------


def _keeper(job: str) -> ActorHandle[JobKeeper]:
    try:
        return get_actor(job, NAMESPACE)
    except ValueError:
        raise JobError(f"there is no job {job!r}; soma.jobs.list_jobs() has those that are known") from None


def _ask(job: str, question: str, *args: Any) -> Any:
    return _get(job, getattr(_keeper(job), question).remote(*args))


def _get(job: str, ref: Any) -> Any:
    try:
        return get(ref, timeout=ANSWER)
    except ActorDiedError as e:
        raise JobError(f"job {job!r} is lost: the actor that kept it died: {e.cause.describe()}") from e


def _forget_old() -> None:
    """Delete the oldest jobs that are over, once there are too many."""
    actors = [a for a in cluster_status()["actors"] if a.get("namespace") == NAMESPACE]
    if len(actors) < KEPT:
        return
    over = [s for s in list_jobs() if s.state.is_end]
    for old in over[:len(actors) - KEPT + 1]:
        delete(old.id)
