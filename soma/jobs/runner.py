"""The actor that runs a job, on the machine that has room for it: prepares, makes the environment, runs the program, collects.

It holds what the job reserved and ends with it. What happens goes to its keeper as a stream of events; the last is `Ended`. Its process
has no other children than the job's, so that it can end all of them.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Generator, Iterator

from soma.actors.handle import ActorClass
from soma.actors.methods import method
from soma.cluster import get_runtime_context, remote
from soma.environments import Archive, ArchiveError, Environment, EnvironmentBuildError, Environments, EnvironmentSpec, unpack
from soma.jobs.events import Began, Ended, JobEvent, Left, PhaseBegan, Said
from soma.jobs.outputs import collected
from soma.jobs.program import Bounds, Program
from soma.jobs.progress import JOB, PARAMS, PIPE
from soma.jobs.request import JobRequest
from soma.jobs.states import JobState, Phase
from soma.jobs.workspace import Workspace

NO_LIMIT = 7 * 24 * 3600.0
"""Seconds that making an environment may take when the job has no timeout."""


class JobRunner:
    """One job, once."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._woken, self._wake = os.pipe()

    @method(concurrency_group="control")
    def stop(self) -> None:
        """End the job; `run` then ends with CANCELLED."""
        self._stop.set()
        os.write(self._wake, b"!")

    def run(self, request: JobRequest, files: Archive) -> Iterator[JobEvent]:
        """The job's events, from `Began` to `Ended`."""
        yield Began(get_runtime_context().node_id)
        try:
            place = Workspace.create(request.id)
        except OSError as e:
            yield _failed(f"no directory could be made for the job: {e}")
            return
        environment: list[Environment] = []
        try:
            yield from self._run(request, files, place, environment)
        except (ArchiveError, EnvironmentBuildError, OSError) as e:
            yield _failed(str(e)) if not self._stop.is_set() else _cancelled()
        finally:
            for held in environment:
                held.release()
            place.remove()

    def _run(self, request: JobRequest, files: Archive, place: Workspace, environment: list[Environment]) -> Iterator[JobEvent]:
        until = None if request.timeout is None else time.monotonic() + request.timeout
        work = place.folder("files")
        unpack(files.data, work)
        if not (work / request.entry).is_file():
            yield _failed(f"entry {request.entry!r} is not among the job's files")
            return
        yield PhaseBegan(Phase.ENVIRONMENT.value)
        python = sys.executable
        if request.own_environment is not None:
            environment.append((yield from self._environment(request.own_environment, until)))
            python = str(environment[0].python)
        yield PhaseBegan(Phase.RUNNING.value)
        bounds = Bounds(None if until is None else max(0.0, until - time.monotonic()), request.disk_quota, place.path)
        environ = _variables(request, place, environment[0] if environment else None)
        program = Program([python, request.entry, *request.args], cwd=work, environ=environ, pipe=place.path / "progress",
                          stop=self._woken, bounds=bounds)
        left = Left(None, None)
        for event in program.events():
            yield event
            left = event if isinstance(event, Left) else left
        failure = _why(program, request, left)
        if failure is not None:
            yield failure
            return
        yield PhaseBegan(Phase.COLLECTING.value)
        yield from collected(work, request.outputs)
        yield Ended(JobState.SUCCEEDED.value)

    def _environment(self, spec: EnvironmentSpec, until: float | None) -> Generator[JobEvent, None, Environment]:
        """Make it in another thread, so that what uv says is told while it works."""
        timeout = NO_LIMIT if until is None else max(0.0, until - time.monotonic())
        said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        outcome: list[Environment | BaseException] = []

        def make() -> None:
            try:
                outcome.append(Environments().ensure(spec, timeout, said.put, stop=self._stop.is_set))
            except BaseException as e:
                outcome.append(e)
            finally:
                said.put(None)

        thread = threading.Thread(target=make, name="soma-environment")
        thread.start()
        try:
            while (line := said.get()) is not None:
                yield Said(line.encode() + b"\n")
        finally:
            thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]


def runner_for(request: JobRequest) -> ActorClass[[], JobRunner]:
    """The class with what a job reserves.

    Raises:
        ValueError: an amount that cannot be.
    """
    return remote(JobRunner).options(num_cpus=request.num_cpus, num_gpus=request.num_gpus, memory=request.memory, max_concurrency=1,
                                     concurrency_groups={"control": 1})


def _variables(request: JobRequest, place: Workspace, environment: Environment | None) -> dict[str, str]:
    """Those of this process, without its own mark, and those of the job."""
    parameters = place.path / "params.json"
    parameters.write_text(request.params, encoding="utf-8")
    own = {key: value for key, value in os.environ.items() if key != "SOMA_ACTOR"}
    if environment is not None:
        for key in ("PYTHONPATH", "PYTHONHOME"):  # packages found there would come before the environment's
            own.pop(key, None)
        programs = environment.python.parent
        own |= {"VIRTUAL_ENV": str(programs.parent), "PATH": os.pathsep.join([str(programs), own.get("PATH", os.defpath)])}
    return {**own, "PYTHONUNBUFFERED": "1", "TMPDIR": str(place.folder("tmp")), **request.env_vars,
            JOB: request.id, PARAMS: str(parameters), PIPE: str(place.path / "progress")}


def _why(program: Program, request: JobRequest, left: Left) -> Ended | None:
    """Why a job whose program is gone did not succeed; None if it did."""
    if program.stopped:
        return _cancelled()
    if program.over == "timeout":
        return _failed(f"timeout: it took more than {request.timeout:g} s")
    if program.over is not None:
        return _failed(program.over)
    if left.signal is not None:
        return _failed(f"{request.entry} was ended by {left.signal}")
    if left.exit_code:
        return _failed(f"{request.entry} ended with exit code {left.exit_code}")
    return None


def _failed(message: str) -> Ended:
    return Ended(JobState.FAILED.value, message)


def _cancelled() -> Ended:
    return Ended(JobState.CANCELLED.value, "cancelled")
