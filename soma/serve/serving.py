"""`soma.serve.run`: a service put together, and served until it is told to end. Also as a test client, on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soma import cluster
from soma.serve.deployment import Deployment
from soma.serve.http.access import Lines
from soma.serve.http.options import HttpOptions
from soma.serve.http.server import HttpServer, new_loop
from soma.serve.options import ServeOptions
from soma.serve.predictions import Prediction
from soma.serve.processes import Kind
from soma.serve.service import Retention, Service
from soma.serve.slots import AsyncSlotActor, HealthBoard, Job, SlotActor, Source
from soma.serve.sources import is_async, source_of, wants_board
from soma.serve.traces import NotConfigured, configured
from soma.serve.webhooks import Webhooks

if TYPE_CHECKING:
    import httpx

LOOK = 0.5
"""Seconds between two looks at a file that is reloaded when it changes."""
BOARD = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
"""Of the actor where slots are asked for their health: what is asked of it may be asked again."""
REPLICAS = {"num_replicas": "slots", "min_replicas": "min_slots", "max_replicas": "max_slots"}
"""Ray Serve's names of options: its replica is a slot."""
ASIDE = 4
"""Calls that an async slot answers beside its predictions."""


def deployer(source: Source, options: ServeOptions, ahead: bool) -> Callable[[str, Callable[[Prediction], None]], Deployment]:
    """Makes deployments of a source. `ahead`: see `Limits`."""
    given, shared, limits = {"num_cpus": 0, **options.actor}, is_async(source), options.limits()
    if shared:  # room for health checks beside the predictions; and a process cannot be had by halves
        given["max_concurrency"] = options.most + ASIDE
        limits = replace(limits, min_slots=None)
    elif ahead and options.most == 1:
        limits = replace(limits, ahead=True)

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
        lines = Lines(http.log)
        self._webhooks = Webhooks(lines.say)
        try:
            self._traces = configured()
        except NotConfigured as e:
            self._traces = None
            lines.say("warning", f"no traces: {e}")
        self.service = Service(self._deployer(target), Retention(options.keep, options.keep_seconds), options.version)
        self.server = HttpServer(self.service, http)
        self.service.on_create += [*([self._traces.watch] if self._traces else []), self._webhooks.watch]
        self._versions = 1
        self._watch: asyncio.Task[None] | None = None
        self._reloads: set[asyncio.Future[bool]] = set()
        self._leave: Callable[[], None] = lambda: None

    def _deployer(self, target: Any) -> Callable[[str, Callable[[Prediction], None]], Deployment]:
        source = source_of(target, train=self._options.train, upload_url=self._options.upload_url)
        return deployer(source, self._options, ahead=self._traces is None)  # a slot is told of the span of its time, when that begins

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
            deploy = self._deployer(target)
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
        options: those of `ServeOptions` and `HttpOptions`; `num_replicas`, `min_replicas` and `max_replicas` are the slots' other names.
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
    """Split by whose they are, Ray Serve's names too. TypeError for one that is nobody's, or that is given by both names."""
    if doubled := [f"{name}= and {ours}= are the same" for name, ours in REPLICAS.items() if name in given and ours in given]:
        raise TypeError("; ".join(doubled))
    given = {REPLICAS.get(name, name): value for name, value in given.items()}
    ours, http = ({f.name for f in fields(kind)} for kind in (ServeOptions, HttpOptions))
    if unknown := set(given) - ours - http:
        raise TypeError(f"unknown option {', '.join(map(repr, sorted(unknown)))}; there are {', '.join(sorted(ours | http))}")
    return (ServeOptions(**{k: v for k, v in given.items() if k in ours}), HttpOptions(**{k: v for k, v in given.items() if k in http}))
