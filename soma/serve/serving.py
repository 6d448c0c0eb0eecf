"""`soma.serve.run`: a service put together, and served until it is told to end. Also as a test client, on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soma import cluster
from soma.serve.deployment import Deployment
from soma.serve.http.access import Lines
from soma.serve.http.options import HttpOptions
from soma.serve.http.server import HttpServer, new_loop
from soma.serve.predictions import Prediction
from soma.serve.processes import Kind
from soma.serve.service import Retention, Service
from soma.serve.slots import AsyncSlotActor, HealthBoard, Job, SlotActor, Source
from soma.serve.sources import is_async, source_of, wants_board
from soma.serve.steps import Limits
from soma.serve.traces import NotConfigured, configured
from soma.serve.webhooks import Webhooks

if TYPE_CHECKING:
    import httpx

LOOK = 0.5
"""Seconds between two looks at a file that is reloaded when it changes."""
BOARD = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
"""Of the actor where slots are asked for their health: what is asked of it may be asked again."""
ASIDE = 4
"""Calls that an async slot answers beside its predictions."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Of `run`, besides those of HTTP. Times in seconds.

    Attributes:
        slots: predictions at once: processes, or coroutines in one process for `async def predict`.
        min_slots, max_slots: instead of `slots`: so many processes at least, and more while predictions wait for them.
        max_queue: predictions that may wait; with 0, one too many is refused with 409.
        timeout: of a prediction.
        grace: between asking a prediction to end and killing its process.
        setup_timeout: of a setup.
        keep, keep_seconds: so many results can be asked for, so long.
        version: of what is served.
        train: the function that trains.
        upload_url: where output files are PUT; else they are data URIs.
        reload: serve anew when the file changes.
        actor: options of the slots' actors: num_gpus, memory, runtime_env, …
        canary, canary_share: another target, set up beside the first and of the same signature, which gets that share of what comes.
    """

    slots: int = 1
    min_slots: int | None = None
    max_slots: int | None = None
    max_queue: int = 256
    timeout: float | None = None
    grace: float = 5.0
    setup_timeout: float | None = None
    keep: int = 1000
    keep_seconds: float = 3600.0
    version: str = "1"
    train: str = ""
    upload_url: str = ""
    reload: bool = False
    actor: Mapping[str, Any] = field(default_factory=dict)
    canary: Any = None
    canary_share: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("min_slots", 1), ("max_slots", 1), ("max_queue", 0), ("keep", 0)):
            value = getattr(self, name)
            optional = name in ("min_slots", "max_slots") and value is None
            if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name}={value!r}: a whole number from {least}")
        if not 0 < self.canary_share < 1:
            raise ValueError(f"canary_share={self.canary_share!r}: between 0 and 1")
        if (self.min_slots or 1) > self.most:
            raise ValueError(f"min_slots={self.min_slots} is more than max_slots={self.most}")
        for name in ("timeout", "grace", "setup_timeout", "keep_seconds"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
                raise ValueError(f"{name}={value!r}: seconds from 0")

    @property
    def most(self) -> int:
        """Predictions at once, at most."""
        return max(self.slots, self.min_slots or 1) if self.max_slots is None else self.max_slots

    def limits(self) -> Limits:
        scales = self.min_slots is not None or self.max_slots is not None
        return Limits(self.most, self.max_queue, self.timeout, self.grace, self.setup_timeout,
                      min_slots=(self.min_slots or min(self.slots, self.most)) if scales else None)


def deployer(source: Source, options: ServeOptions) -> Callable[[str, Callable[[Prediction], None]], Deployment]:
    """Makes deployments of a source."""
    given, shared, limits = {"num_cpus": 0, **options.actor}, is_async(source), options.limits()
    if shared:  # room for health checks beside the predictions; and a process cannot be had by halves
        given["max_concurrency"] = options.most + ASIDE
        limits = replace(limits, min_slots=None)

    def deploy(version: str, ended: Callable[[Prediction], None]) -> Deployment:
        board = cluster.remote(HealthBoard).options(**BOARD).remote() if wants_board(source) and not shared else None

        def make(number: int) -> Any:
            if shared:
                return cluster.remote(AsyncSlotActor).options(**given).remote(source)
            return cluster.remote(SlotActor).options(**given).remote(source, board, str(number))

        return Deployment(Kind(make, job_of, shared, board), limits, version, ended)

    return deploy


def job_of(prediction: Prediction) -> Job:
    """What a slot is sent of a prediction."""
    request = prediction.request
    kind: Any = prediction.kind
    return Job(prediction.id, prediction.clean, kind, prediction.context, request.output_file_prefix or "")


class Serving:
    """A service and its HTTP server, in the running event loop."""

    def __init__(self, target: Any, options: ServeOptions, http: HttpOptions) -> None:
        self._target, self._options = target, options
        self.service = Service(deployer(self._source(target), options), Retention(options.keep, options.keep_seconds), options.version)
        self.server = HttpServer(self.service, http)
        lines = Lines(http.log)
        self._webhooks = Webhooks(lines.say)
        try:
            self._traces = configured()
        except NotConfigured as e:
            self._traces = None
            lines.say("warning", f"no traces: {e}")
        self.service.on_create += [*([self._traces.watch] if self._traces else []), self._webhooks.watch]
        self._versions = 1
        self._watch: asyncio.Task[None] | None = None
        self._reloads: set[asyncio.Future[bool]] = set()
        self._leave: Callable[[], None] = lambda: None

    def _source(self, target: Any) -> Source:
        return source_of(target, train=self._options.train, upload_url=self._options.upload_url)

    async def open(self) -> None:
        """Listen, and begin to set up. OSError if the address is taken or not ours."""
        await self.service.open()
        self._leave = cluster.attend()
        try:
            await self.server.open()
        except BaseException:
            await self.service.shutdown(0.0)
            self._leave()
            raise
        self._begin(self._deploy_canary())
        if self._options.reload and isinstance(self._target, str):
            self._watch = asyncio.create_task(self._reload_on_change(Path(self._target.partition(":")[0])))
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.begin_reload)

    async def reload(self) -> bool:
        """Load and set up anew, beside what runs; then take its place. False, and nothing changes, if the setup fails."""
        self._versions += 1
        return await self._deploy(self._target, f"{self._options.version}.{self._versions}", 1.0) and await self._deploy_canary()

    async def _deploy_canary(self) -> bool:
        options = self._options
        version = f"{options.version}.{self._versions}-canary"
        return options.canary is None or await self._deploy(options.canary, version, options.canary_share)

    async def _deploy(self, target: Any, version: str, share: float) -> bool:
        try:
            deploy = deployer(self._source(target), self._options)
        except (ValueError, TypeError, OSError) as e:  # the file is gone
            self.service.reload_error = str(e)
            return False
        return await self.service.reload(deploy, version, share)

    def begin_reload(self) -> None:
        """`reload`, without waiting for it: `health` says if it fails."""
        self._begin(self.reload())

    def _begin(self, work: Coroutine[Any, Any, bool]) -> None:
        task = asyncio.ensure_future(work)
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_on_change(self, file: Path) -> None:
        seen = file.stat().st_mtime_ns
        while True:
            await asyncio.sleep(LOOK)
            with contextlib.suppress(OSError):  # it is being replaced
                now = file.stat().st_mtime_ns
                if now != seen:
                    seen = now
                    await self.reload()

    async def wait_closed(self) -> None:
        try:
            await self.server.wait_closed()
            if self._watch is not None:
                self._watch.cancel()
            await asyncio.gather(*self._reloads)
            await self._webhooks.close()
            if self._traces is not None:
                await asyncio.to_thread(self._traces.close)
        finally:
            self._leave()


def run(target: Any, *, host: str = "127.0.0.1", port: int = 5000, ready: Callable[[int], None] | None = None, **options: Any) -> None:
    """Serve predictions over HTTP until SIGTERM, Ctrl-C or POST /shutdown. Blocks.

        soma.serve.run("predict.py:Predictor", slots=2)
        soma.serve.run(graph, port=8000)

    Args:
        target: "FILE:NAME", a fitted graph, a filter, a class or function with predict, or an actor with forward.
        host, port: where to listen; port 0 takes a free one.
        ready: told the port when it listens; setup may still run: GET /health-check says.
        options: those of `ServeOptions` and `HttpOptions`.
    """
    chosen, http = options_of({"host": host, "port": port, **options})

    async def main() -> None:
        serving = Serving(target, chosen, http)
        await serving.open()
        if ready is not None:
            ready(serving.server.port)
        await serving.wait_closed()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@contextlib.contextmanager
def test_client(target: Any, **options: Any) -> Iterator[httpx.Client]:
    """A server on a free port of the loopback, and a client of it, for tests: it is READY when this is entered, and gone afterwards.

    Raises:
        RuntimeError: the setup failed; with its logs.
    """
    import httpx

    chosen, http = options_of({"port": 0, "log": "none", **options})
    loop, up = new_loop(), threading.Event()
    failed: list[BaseException] = []
    made: list[Serving] = []

    async def main() -> None:
        try:
            serving = Serving(target, chosen, http)
            made.append(serving)
            await serving.open()
            if not await serving.service.ready():
                failed.append(RuntimeError(f"the setup failed:\n{serving.service.health()['setup']['logs']}"))
                serving.server.stop()
            up.set()
            await serving.wait_closed()
        except BaseException as e:  # raised by who uses it
            failed.append(e)
        finally:
            up.set()

    def live() -> None:
        loop.run_until_complete(main())
        loop.close()

    if not cluster.is_initialized():
        cluster.init()
    thread = threading.Thread(target=live, name="soma-serve")
    thread.start()
    try:
        up.wait()
        if failed:
            raise failed[0]
        with httpx.Client(base_url=f"http://127.0.0.1:{made[0].server.port}", timeout=60.0) as client:
            yield client
    finally:
        if made and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it ended by itself
                loop.call_soon_threadsafe(made[0].server.stop)
        thread.join()
    if failed:
        raise failed[0]


def options_of(given: Mapping[str, Any]) -> tuple[ServeOptions, HttpOptions]:
    """Split by whose they are. TypeError for one that is nobody's."""
    ours, http = ({f.name for f in fields(kind)} for kind in (ServeOptions, HttpOptions))
    if unknown := set(given) - ours - http:
        raise TypeError(f"unknown option {', '.join(map(repr, sorted(unknown)))}; there are {', '.join(sorted(ours | http))}")
    return (ServeOptions(**{k: v for k, v in given.items() if k in ours}), HttpOptions(**{k: v for k, v in given.items() if k in http}))
