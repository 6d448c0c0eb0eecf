"""`Attempt`: one prediction in a slot, but for how the user's code is called: its scope, files, outputs, and what its end means."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from soma import cluster
from soma.serve.slots.encoding import OutputError
from soma.serve.slots.fetching import FileError, Folder, fetched
from soma.serve.slots.inputs import Parameters
from soma.serve.slots.outputs import Outputs, is_small
from soma.serve.slots.scope import Scope
from soma.serve.slots.sending import Sender
from soma.serve.slots.terms import Ended, Job, Source

LONGEST = 16_000
"""Characters of an error."""


class Attempt:
    """See the module. `close` removes its files.

    Args:
        later: calls a function in a moment.
    """

    def __init__(self, job: Job, source: Source, parameters: Parameters, later: Callable[[Callable[[], None]], None]) -> None:
        self._job, self._source, self._parameters = job, source, parameters
        self._context = contextvars.copy_context()
        self._began = time.perf_counter()
        self.scope = Scope(self._metric, job.context)
        self._folder = Folder()
        self._opened: list[Any] = []
        self._sender = Sender(job.output_file_prefix or source.upload_url, job.id, source.limits)
        self.outputs = Outputs(cluster.tell, self._sender, later)

    def arguments(self) -> dict[str, Any]:
        """What `predict` is called with; FileError if a file cannot be had."""
        return self._parameters.convert(self._job.input, lambda uri: fetched(uri, self._folder, self._source.limits), self._opened)

    def close(self) -> None:
        for file in self._opened:
            with contextlib.suppress(OSError):
                file.close()
        self._folder.close()
        self._sender.close()

    def succeeded(self, output: Any, *, is_list: bool) -> Ended:
        return self._ended("succeeded", output=output, is_list=is_list)

    def canceled(self) -> Ended:
        return self._ended("canceled", is_list=self.outputs.count > 0)

    def failed(self, error: BaseException) -> Ended:
        """What the user's code raised; its traceback is printed, so that it is in the logs."""
        if isinstance(error, (FileError, OutputError)):
            return self._ended("failed", error=str(error), is_list=self.outputs.count > 0)
        print_traceback(error)
        return self._ended("failed", error=text_of(error), is_list=self.outputs.count > 0)

    def _ended(self, state: str, output: Any = None, *, is_list: bool = False, error: str = "") -> Ended:
        self.outputs.flush()
        return {"state": state, "output": output, "is_list": is_list, "error": error, "metrics": self.scope.metrics.nested(),
                "streamed": self.outputs.count, "took": time.perf_counter() - self._began}

    def _metric(self, name: str, value: Any, mode: str) -> None:
        """By any thread. Lists and dicts are heard of at the end only: a message could not hold each of them."""
        if is_small(value):
            self._context.copy().run(cluster.tell, {"kind": "metric", "name": name, "value": value, "mode": mode})


def text_of(error: BaseException) -> str:
    """An error for the client: what it says, or what it is."""
    if isinstance(error, SystemExit):
        return f"the predictor called sys.exit({'' if error.code is None else repr(error.code)})"
    return (str(error) or type(error).__name__)[:LONGEST]


def print_traceback(error: BaseException) -> None:
    """From the user's code on: frames of soma's and of the import say nothing about it."""
    below = error.__traceback__
    while below is not None and below.tb_next is not None and _is_ours(below.tb_frame.f_globals.get("__name__", "")):
        below = below.tb_next
    with contextlib.suppress(ValueError, OSError):  # the user's code closed the stream: then it wants no logs
        traceback.print_exception(type(error), error, below, file=sys.stderr)


def _is_ours(module: str) -> bool:
    return module.startswith(("soma.serve.slots", "importlib", "asyncio"))
