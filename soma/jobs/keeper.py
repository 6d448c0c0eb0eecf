"""The actor that keeps a job: starts its runner, remembers what it tells, answers for it, and stays when it is over.

It reserves nothing. The runner's death is an end like others (FAILED, with what is known of the death), so a job never hangs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import psutil

from soma.actors.handle import ActorHandle
from soma.actors.methods import method
from soma.cluster import get, kill, publish
from soma.environments import Archive
from soma.errors import ActorDiedError, SomaError
from soma.jobs.events import Ended, JobEvent, Left, Output, Said
from soma.jobs.news import News
from soma.jobs.record import Record
from soma.jobs.request import JobRequest
from soma.jobs.runner import JobRunner, runner_for
from soma.jobs.states import JobResult, JobState, JobStatus, OutputFile, after
from soma.jobs.workspace import Workspace

STOPPING = 0.7
"""Seconds that a runner has to end its job before it is ended itself."""
LONGEST_WAIT = 5.0
"""Seconds that one question may wait for an answer; who asked asks again."""
READ_BYTES = 256 * 1024


def this_process() -> tuple[int, float]:
    """Its pid, and when it began."""
    me = psutil.Process()
    return me.pid, me.create_time()


class JobKeeper:
    """One job, from its submission until it is deleted."""

    def __init__(self, request: JobRequest, files: Archive, home: tuple[int, float]) -> None:
        if home == this_process():
            raise RuntimeError("jobs need processes of their own: soma.init(local=True) has none")
        self._request = request
        self._status = JobStatus(request.id, request.entry, submitted=time.time())
        self._left = Left(None, None)
        self._outputs: dict[str, OutputFile] = {}
        self._place = Workspace.create(f"{request.id}.kept")
        self._folder = self._place.folder("outputs")
        self._record = Record(self._place.path / "log")
        self._changed = threading.Condition()
        self._news = News()
        self._cancelled = False
        self._runner: ActorHandle[JobRunner] | None = None
        self._thread = threading.Thread(target=self._work, args=(files,), name="soma-job", daemon=True)
        self._thread.start()

    # -- questions -----------------------------------------------------------------------------------------------------------

    def status(self) -> JobStatus:
        with self._changed:
            return self._status

    @method(concurrency_group="wait")
    def wait(self, seconds: float) -> JobStatus:
        """The status once it is over, or after some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.state.is_end, min(seconds, LONGEST_WAIT))
            return self._status

    @method(concurrency_group="wait")
    def read_log(self, offset: int, seconds: float) -> tuple[bytes, int, bool]:
        """(output from an offset, the offset behind it, whether that is all there will be); waits for more if there is none yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._record.size > offset or self._status.state.is_end, min(seconds, LONGEST_WAIT))
            data, behind = self._record.read(offset, READ_BYTES)
            return data, behind, self._status.state.is_end and behind >= self._record.size

    def log_size(self) -> int:
        return self._record.size

    def result(self) -> JobResult | None:
        """None while it is not over."""
        with self._changed:
            s = self._status
            if not s.state.is_end:
                return None
            began = s.started if s.started is not None else s.submitted
            return JobResult(s.id, s.state, s.state is JobState.SUCCEEDED, self._left.exit_code, self._left.signal,
                             dict(s.progress.metrics), dict(self._outputs), 1e3 * ((s.ended or began) - began), s.message)

    def read_output(self, path: str, offset: int, size: int) -> bytes:
        if path not in self._outputs:
            raise ValueError(f"job {self._request.id!r} has no output {path!r}; it has {sorted(self._outputs)}")
        with open(self._folder / path, "rb") as f:
            f.seek(offset)
            return f.read(size)

    # -- orders --------------------------------------------------------------------------------------------------------------

    @method(concurrency_group="control")
    def cancel(self) -> bool:
        """End it; False if it was over already."""
        with self._changed:
            if self._status.state.is_end:
                return False
            self._cancelled = True
            runner, runs = self._runner, self._status.state is JobState.RUNNING
        if runner is not None:
            with contextlib.suppress(SomaError):  # it ended meanwhile
                runner.stop.remote()
            with self._changed:
                over = self._changed.wait_for(lambda: self._status.state.is_end, STOPPING if runs else 0.0)
            if not over:
                kill(runner)
        with self._changed:
            return self._changed.wait_for(lambda: self._status.state.is_end, LONGEST_WAIT)

    @method(concurrency_group="control")
    def remove(self) -> None:
        """Forget its files; the caller ends this actor."""
        self.cancel()
        self._record.close()
        self._place.remove()

    # -- the job -------------------------------------------------------------------------------------------------------------

    def _work(self, files: Archive) -> None:
        try:
            end = self._follow(files)
        except ActorDiedError as e:
            end = Ended(JobState.FAILED.value, f"its process died: {e.cause.describe()}")
        except Exception as e:  # no room anywhere, a full disk, a mistake of ours: whatever it is, the job must end
            end = Ended(JobState.FAILED.value, f"{type(e).__name__}: {e}")
        with self._changed:
            if self._cancelled:
                end = Ended(JobState.CANCELLED.value, "cancelled")
            runner, self._runner = self._runner, None
            if end.state != JobState.SUCCEEDED.value:
                self._outputs.clear()
            self._become(end)
        del runner  # its last handle: what it reserved is free

    def _follow(self, files: Archive) -> Ended:
        """Start the runner and hear it out."""
        runner = runner_for(self._request).remote()
        with self._changed:
            self._runner = runner
            if self._cancelled:
                return Ended(JobState.CANCELLED.value)
        end = Ended(JobState.FAILED.value, "it ended without saying how")
        for ref in runner.run.remote(self._request, files):
            event = get(ref)
            if isinstance(event, Ended):
                end = event
            else:
                self._apply(event)
        return end

    def _apply(self, event: JobEvent) -> None:
        with self._changed:
            match event:
                case Said(data):
                    self._record.add(data)
                case Left():
                    self._left = event
                case Output():
                    self._keep(event)
            self._become(event)

    def _become(self, event: JobEvent) -> None:
        before, now = self._status, time.time()
        self._status = after(before, event, now)
        self._changed.notify_all()
        news = self._news.of(before, self._status, now)
        if news is not None:
            with contextlib.suppress(SomaError):  # the cluster is ending: nobody listens any more
                publish(news)

    def _keep(self, part: Output) -> None:
        path = self._folder / part.path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path, "ab") as f:
            f.write(part.data)
        seen = self._outputs.get(part.path, OutputFile(0, ""))
        self._outputs[part.path] = replace(seen, bytes=seen.bytes + len(part.data), hash=part.hash)
