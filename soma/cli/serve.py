"""`soma serve`: a predictor behind HTTP, from the shell, until it is told to end.

The server stays up when the setup fails, as Cog's does, so that whoever started it can ask why (`GET /health-check`); it then ends with
exit code 1 instead of 0. `--fail-fast` ends it at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from soma.errors import SomaError

if TYPE_CHECKING:
    from soma.serve.http.options import HttpOptions
    from soma.serve.options import ServeOptions
    from soma.serve.serving import Serving

F = TypeVar("F", bound=Callable[..., Any])

SECRETS = ("SOMA_SERVE_TOKEN", "SOMA_SERVE_READER_TOKEN")
"""Taken out of the environment before any process is started, so that predictors do not see them."""

LOST = ("SETUP_FAILED", "DEFUNCT")
"""What the health may say at the end for which the exit code is 1."""

_COUNT, _SECONDS = click.IntRange(min=0), click.FloatRange(min=0.0)
_SERVED = (
    click.option("--slots", type=click.IntRange(min=1), show_default="1",
                 help="Predictions at once: processes, or coroutines in one process for `async def predict`."),
    click.option("--min-slots", type=click.IntRange(min=1), help="Instead: so many processes at least, and more while predictions wait …"),
    click.option("--max-slots", type=click.IntRange(min=1), help="… and at most so many."),
    click.option("--canary", metavar="FILE:NAME", help="Another version that takes a share of the predictions."),
    click.option("--canary-share", type=click.FloatRange(0.0, 1.0), show_default="0.1", help="Which share."),
    click.option("--max-queue", type=_COUNT, show_default="256", help="Predictions that may wait; 0 refuses one too many with 409."),
    click.option("--timeout", type=_SECONDS, show_default="none", help="Seconds of a prediction."),
    click.option("--grace", type=_SECONDS, show_default="5.0", help="Seconds between asking a prediction to end and killing its process."),
    click.option("--setup-timeout", type=_SECONDS, show_default="none", help="Seconds of a setup."),
    click.option("--keep", type=_COUNT, show_default="1000", help="So many results can be asked for."),
    click.option("--keep-seconds", type=_SECONDS, show_default="3600.0", help="So long a result can be asked for."),
    click.option("--version", show_default="1", help="What is served is called; answers carry it."),
    click.option("--train", metavar="NAME", help="The function of the file that trains; by default `train`, if there is one."),
    click.option("--upload-url", metavar="URL", help="Where output files are PUT; by default they are data URIs in the answer."),
    click.option("--reload", is_flag=True, default=None, help="Serve the file anew when it changes. SIGHUP does it once."),
)
_RESERVED = (
    click.option("--num-cpus", type=_SECONDS, help="CPUs that each slot reserves; by default none."),
    click.option("--num-gpus", type=_SECONDS, help="GPUs that each slot reserves, and sees alone; by default none."),
    click.option("--memory", type=_COUNT, help="Bytes that each slot reserves, and may not exceed."),
    click.option("--tags", metavar="A,B", help="Marks of the machines on which slots may be."),
)
_OFFERED = (
    click.option("--host", show_default="127.0.0.1", help="Where to listen."),
    click.option("--port", type=click.IntRange(0, 65535), show_default="5000", help="0 takes a free one."),
    click.option("--allowed-hosts", multiple=True, metavar="NAME", help="A `Host` that requests may have besides --host and loopback."),
    click.option("--allowed-origins", multiple=True, metavar="URL", help="A web page's origin that may ask, besides our own."),
    click.option("--token", show_envvar=True, help="Needed for everything (`Authorization: Bearer …`). Others see a command's options."),
    click.option("--reader-token", show_envvar=True, help="Enough for what changes nothing."),
    click.option("--body-limit", type=_COUNT, show_default="100 MiB", help="Bytes of one request."),
    click.option("--connections", type=click.IntRange(min=1), show_default="4096", help="Open at one time."),
    click.option("--streams", type=click.IntRange(min=1), show_default="3072", help="Readers of events at one time."),
    click.option("--patience", type=_SECONDS, show_default="none", help="At the end, seconds for what runs; then it is canceled."),
    click.option("--log", type=click.Choice(["console", "json", "none"]), show_default="console", help="Lines about requests, on stderr."),
)


def _with(*groups: tuple[Any, ...]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed([o for group in groups for o in group]):
            command = option(command)
        return command

    return add


@click.command()
@click.argument("target", metavar="FILE:NAME")
@_with(_SERVED, _RESERVED, _OFFERED)
@click.option("--fail-fast", is_flag=True, help="End when the setup fails; by default the server stays up and says SETUP_FAILED.")
@click.option("--address", metavar="tcp://HOST:PORT", help="Slots are actors of the cluster there; by default of one of this machine.")
def serve(target: str, fail_fast: bool, address: str | None, **given: Any) -> None:
    """Serve predictions of FILE:NAME over HTTP: a class with `predict`, or a function; without NAME, the only one in FILE.

    Prints where it listens, and READY when the setup is done. SIGTERM, Ctrl-C or POST /shutdown: nothing more is accepted, what runs is
    finished, and the exit code is 0; or 1 if the setup had failed, or its processes died too often.
    """
    from concurrent.futures import ThreadPoolExecutor

    from soma import cluster
    from soma.serve.sources import source_of

    for name in SECRETS:
        os.environ.pop(name, None)
    try:
        source_of(target)
        with ThreadPoolExecutor(1) as aside:  # what serves is imported while the cluster starts
            checked = aside.submit(_checked, given)
            with cluster.init(address, log_to_driver=given["log"] in (None, "console")):
                chosen, http = checked.result()
                code = _served(target, chosen, http, fail_fast)
    except (SomaError, ValueError, TypeError, OSError, ModuleNotFoundError) as e:
        raise click.ClickException(str(e)) from None
    raise SystemExit(code)


def options_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, as `soma.serve.run` takes it. Of what was not, it has the defaults."""
    said = {key: value for key, value in given.items() if value not in (None, ())}
    actor: dict[str, Any] = {key: said.pop(key) for key in ("num_cpus", "num_gpus", "memory") if key in said}
    if tags := [t for t in said.pop("tags", "").split(",") if t]:
        actor["tags"] = tags
    return {**said, **({"actor": actor} if actor else {})}


def _checked(given: Mapping[str, Any]) -> tuple[ServeOptions, HttpOptions]:
    """The options, if they can be."""
    from soma import serve as served

    getattr(served, "run")  # noqa: B009  # says what is to be installed, if it is not
    from soma.serve.serving import options_of

    return options_of(options_in(given))


def _served(target: str, chosen: ServeOptions, http: HttpOptions, fail_fast: bool) -> int:
    """Serve until it ends; the exit code."""
    from soma.serve.http.server import new_loop
    from soma.serve.serving import Serving

    async def main() -> int:
        serving = Serving(target, chosen, http)
        try:
            await serving.open()
        except OSError as e:
            raise OSError(f"cannot listen at {http.host}:{http.port}: {e.strerror or e}") from e
        told = asyncio.create_task(_tell(serving, http, fail_fast))
        await serving.wait_closed()
        told.cancel()
        return int(serving.service.health()["status"] in LOST)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


async def _tell(serving: Serving, http: HttpOptions, fail_fast: bool) -> None:
    """Say where it listens, then how the setup went."""
    from soma.serve.http.access import Lines

    began, lines = time.monotonic(), Lines(http.log)

    def say(level: str, message: str, **fields: Any) -> None:
        if http.log == "json":
            lines.say(level, message, **fields)
        else:
            click.echo(message, err=level == "error")

    host = f"[{http.host}]" if ":" in http.host else http.host
    say("info", f"listening on http://{host}:{serving.server.port} (pid {os.getpid()})", port=serving.server.port)
    if await serving.service.ready():
        say("info", f"READY after {time.monotonic() - began:.2f} s", slots=serving.service.health()["slots"])
        gc.collect()
        gc.freeze()  # what is loaded stays: looking it through again and again would hold up a request for milliseconds each time
        return
    logs = serving.service.health()["setup"]["logs"]
    goes_on = "" if fail_fast else "; GET /health-check says so too, until the server is ended"
    say("error", f"SETUP_FAILED{goes_on}" + ("" if http.log == "json" else f". What the setup said:\n{logs.rstrip()}"), logs=logs)
    if fail_fast:
        serving.server.stop()
