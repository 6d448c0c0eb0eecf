"""joblib's backend: a worker actor for each job, a batch at a time for each.

Arrays of `max_nbytes` and more (joblib's 1 MB) are put once, by identity, while a call of `Parallel` lasts, and sent once to each worker;
they arrive read-only, as from loky. Results come as soma sends values: writable.
Refuses joblib's `mmap_mode` "r+" and "w+": there is no file that several machines could write to.
Invariants. A batch that began on a worker never begins on another. The thread that calls `Parallel` reads the replies itself while it
waits for a list (so an actor that calls it gives its CPU back); only for generators and with a `timeout` is there a thread, and it ends
with the call. joblib's callbacks run with no lock of ours held. What is under way when a call is given up ends with its process.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
)

from soma.actors import current
from soma.actors.engine import LOCAL_NODE
from soma.actors.refs import ObjectRef
from soma.cluster import cluster_resources, get, get_runtime_context, kill, remote, wait
from soma.errors import ActorDiedError
from soma.util.joblib.jobs import SHELF, Hired, Job, Larges, nobody, threads_of
from soma.util.joblib.worker import JoblibWorker

TINY = 0.005  # seconds that a batch takes which may as well be much larger
TRIES = 3  # workers that may die under a batch before it began, until that is its error


class SomaBackend(AutoBatchingMixin, ParallelBackendBase):
    """joblib's tasks on worker actors. What is idle stays for a moment, for the next call, and then leaves its CPU to others.

    Args:
        num_cpus: what each worker reserves; joblib inside of a task has threads for as many.
        options: further options of the worker actors: `num_gpus`, `memory`, `resources`, `tags`, `runtime_env`, …
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1
    _effective_batch_size: int

    def __init__(self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, *, num_cpus: float = 1,
                 **options: Any) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._num_cpus, self._options = num_cpus, options
        self._kind = remote(JoblibWorker).options(num_cpus=num_cpus, **options)
        self.parallel: Any = None  # the call under way
        self._lock = threading.RLock()
        self._workers: list[Hired] = []
        self._why_none: BaseException = ActorDiedError("joblib worker")
        self._n_jobs = self._wanted = 0
        self._sort: object = None  # what makes workers alike
        self._waiting, self._running, self._failed = deque[Job](), set[Job](), deque[Job]()  # failed: could not be sent
        self._larges = Larges()
        self._large_if: tuple[int | None, bool] = (None, False)
        self._news: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    # -- what joblib asks ------------------------------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """At most as many as the cluster's CPUs; from -1 downwards all of them, all but one, …"""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        n_jobs = self.default_n_jobs if n_jobs is None else n_jobs
        room = int(cluster_resources().get("CPU", 0) / (self._num_cpus or 1))
        if n_jobs < 0:
            return max(room + 1 + n_jobs, 1)
        return n_jobs if not self._num_cpus else max(min(n_jobs, room), 1)

    def configure(self, n_jobs: int = 1, parallel: Any = None, prefer: str | None = None, require: str | None = None,
                  **settings: Any) -> int:
        mode = settings.get("mmap_mode", "r")
        if mode in ("r+", "w+"):
            raise ValueError(f"mmap_mode={mode!r}: the soma backend knows 'r', 'c' and None")
        n_jobs = self.effective_n_jobs(n_jobs)
        # With a call under way, this one is made inside of it and would wait for the workers that it holds.
        if n_jobs == 1 or self.parallel is not None or get_runtime_context().node_id == LOCAL_NODE:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel, self._n_jobs = parallel, n_jobs
        self._sort = current.engine(), self._num_cpus, repr(sorted(self._options.items())), self.inner_max_num_threads
        self._large_if = settings.get("max_nbytes") if mode else None, mode == "c"
        return n_jobs

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """What joblib uses inside of a task: threads, if its worker has several CPUs."""
        level = (self.nesting_level or 0) + 1
        return (ThreadingBackend if self._num_cpus >= 2 else SequentialBackend)(nesting_level=level), None

    def compute_batch_size(self) -> int:
        """joblib's, which doubles what is too small; here eightfold as long as even that takes next to nothing."""
        before, took = self._effective_batch_size, self._smoothed_batch_duration
        if super().compute_batch_size() == 2 * before and took < TINY:
            self._effective_batch_size = 8 * before
        return self._effective_batch_size

    def start_call(self) -> None:
        self._larges, self._wanted = Larges(*self._large_if), self._n_jobs
        if self.parallel.return_generator or self.parallel.timeout is not None:
            self._thread = threading.Thread(target=self._listen, name="soma-joblib", daemon=True)
            self._thread.start()

    def stop_call(self) -> None:
        if self._thread is not None:
            self._news.put(None)
            self._thread.join()
            self._thread, self._news = None, queue.SimpleQueue()
        self.abort_everything()  # what came in between joblib's giving up and the end of the thread
        self._rest()

    def terminate(self) -> None:
        self.parallel = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Drop what waits; end the processes of what runs. The next call makes new ones."""
        with self._lock:
            for jobs in (self._waiting, self._failed, self._running):
                for job in jobs:
                    job.callback, job.worker = nobody, None  # what holds the job, and is held by it, is the collector's
                jobs.clear()
            for worker in [w for w in self._workers if w.busy]:
                self._workers.remove(worker)
                kill(worker.handle)

    def submit(self, func: Any, callback: Callable[[Job], None]) -> Job:
        job = Job(func, callback)
        with self._lock:
            self._waiting.append(job)
            self._feed()
        return job

    def retrieve_result_callback(self, job: Job) -> Any:
        if job.error is not None:
            raise job.error
        return job.value

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """joblib would look every 10 ms whether there is something; a list is waited for here, where each reply is seen as it comes."""
        if self._thread is None:
            self._serve()
        yield

    # -- workers ---------------------------------------------------------------------------------------------------------------

    def _staff(self) -> None:
        """As many workers as are wanted, if they can be had. The lock is held."""
        if not self._workers:
            self._workers = SHELF.take(self._sort, self._wanted)
            for worker in self._workers:
                self._expect(worker)
        try:
            while len(self._workers) < self._wanted:
                self._hire()
        except Exception as error:  # such actors cannot be: those that there are do it
            self._wanted, self._why_none = len(self._workers), error

    def _rest(self) -> None:
        """If there is nothing to do, the CPUs are for others."""
        with self._lock:
            if self._running or self._waiting or self._failed:
                return
            for worker in self._workers:
                if worker.keys or worker.gone:
                    worker.handle.forget.remote((*worker.keys, *worker.gone))
                    worker.keys, worker.gone = set(), set()
            SHELF.put(self._sort, self._workers)
            self._workers, self._larges = [], Larges(*self._large_if)

    def _hire(self) -> None:
        environment = dict(self._options.get("runtime_env") or {})
        limits = threads_of(self._num_cpus, self.inner_max_num_threads, self.MAX_NUM_THREADS_VARS)
        environment["env_vars"] = {**limits, **environment.get("env_vars", {})}
        handle = self._kind.options(runtime_env=environment).remote(self.inner_max_num_threads)
        worker = Hired(handle, handle.ready.remote())
        self._workers.append(worker)
        self._expect(worker)

    def _expect(self, worker: Hired) -> None:
        if self._thread is not None and worker.arriving is not None:
            self._watch(worker.arriving, functools.partial(self._arrived, worker))

    def _arrived(self, worker: Hired) -> None:
        with self._lock:
            if worker not in self._workers or worker.arriving is None:
                return
            try:
                get(worker.arriving)
            except Exception as error:  # it did not start: the others do its work, if there are others
                self._workers.remove(worker)
                self._wanted, self._why_none = self._wanted - 1, error
            worker.arriving = None
            self._feed()

    def _feed(self) -> None:
        """Give work to whoever is free. The lock is held."""
        while self._waiting:
            self._staff()
            if not self._workers:
                self._fail(self._why_none)
                continue
            free = next((w for w in self._workers if w.arriving is None and not w.busy), None)
            if free is None:
                return
            self._send(self._waiting.popleft(), free)

    def _send(self, job: Job, worker: Hired) -> None:
        try:
            ref = worker.handle.run.remote(self._larges.pack(job, worker))
        except Exception as error:  # what cannot be sent: for joblib it is like an error of the task
            self._waiting.appendleft(job)
            self._fail(error)
            return
        job.worker, job.ref, worker.busy = worker, ref, True
        self._running.add(job)
        if self._thread is not None:
            self._watch(ref, functools.partial(self._settled, job))

    def _fail(self, error: BaseException) -> None:
        """The next job cannot run: joblib gives up the others too. The lock is held."""
        job = self._waiting.popleft()
        job.error = error
        self._failed.append(job)
        if self._thread is not None:
            self._news.put(self._call_back_failed)

    # -- what comes back -------------------------------------------------------------------------------------------------------

    def _watch(self, ref: ObjectRef[Any], then: Callable[[], object]) -> None:
        news = self._news
        ref.future().add_done_callback(lambda _: news.put(then))

    def _listen(self) -> None:
        while (event := self._news.get()) is not None:
            event()

    def _serve(self) -> None:
        while (self._running or self._waiting or self._failed) and not self.parallel._aborting:
            if self._failed:
                return self._call_back_failed()
            jobs = {job.ref: job for job in self._running if job.ref is not None}
            coming = {w.arriving: w for w in self._workers if w.arriving is not None}
            (ref,), _ = wait([*jobs, *coming])
            if ref in jobs:
                self._settled(jobs[ref])
            else:
                self._arrived(coming[ref])

    def _call_back_failed(self) -> None:
        if self._failed:
            job = self._failed.popleft()
            job.callback(job)

    def _settled(self, job: Job) -> None:
        """A batch is done, or failed: joblib hears of it, and submits the next."""
        worker, ref = job.worker, job.ref
        with self._lock:
            if job not in self._running or worker is None or ref is None:
                return  # given up meanwhile
            self._running.discard(job)
            worker.busy = False
            self._larges.settled(job, worker)
            try:
                job.value = get(ref)
            except BaseException as error:  # whatever the task raised: joblib raises it where `Parallel` was called
                if self._lost(job, worker, error):
                    return
                job.error = error
            job.ref = job.worker = None
            self._feed()
        job.callback(job)
        self._rest()

    def _lost(self, job: Job, worker: Hired, error: BaseException) -> bool:
        """Whether a batch goes to another worker, because its own died before it began. The lock is held."""
        if not isinstance(error, ActorDiedError) or worker.handle.actor_id[:8] not in error.actor:
            return False
        if worker in self._workers:
            self._workers.remove(worker)
        job.tries += 1
        if error.executed != "no" or job.tries == TRIES:
            return False
        job.worker = None
        self._waiting.appendleft(job)
        self._feed()
        return True
