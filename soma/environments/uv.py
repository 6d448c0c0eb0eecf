"""Running uv: an argument vector, never a shell; its lines as they come, a limit in seconds, no child left."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from soma.errors import EnvironmentBuildError

MISSING = 'environments need uv and filelock: pip install "soma[env]"'
TAIL = 30
"""Lines of uv's that an error shows."""

_LOOK = 0.1
_DIES_WITH_US = """import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; the thread that it means waits for us
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes uv. One that outlived its maker would write into what the next maker clears away."""

_FORGET = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT", "UV_WORKING_DIR")
"""Variables that would lead uv to another environment than the one it is told."""

_AS_PIP = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX", "PIP_FIND_LINKS": "UV_FIND_LINKS",
           "PIP_CERT": "SSL_CERT_FILE"}
"""Where this machine's pip finds packages, uv does too, unless it was told its own place."""


def find_uv() -> str:
    """The path of uv: of the package `uv`, else on PATH."""
    with contextlib.suppress(ModuleNotFoundError, FileNotFoundError):  # not installed here, or without its program
        from uv import find_uv_bin

        return str(find_uv_bin())
    found = shutil.which("uv")
    if found is None:
        raise EnvironmentBuildError(MISSING)
    return found


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that uv is run with."""
    told = {key: value for key, value in environ.items() if key not in _FORGET}
    for pips, own in _AS_PIP.items():
        if pips in told and own not in told and not (own == "UV_DEFAULT_INDEX" and "UV_INDEX_URL" in told):
            told[own] = told[pips]
    return {**told, "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}


def run_uv(arguments: Sequence[str], directory: Path, *, until: float, on_line: Callable[[str], None] | None = None,
           stop: Callable[[], bool] = lambda: False) -> None:
    """Run `uv <arguments>` in a directory.

    Args:
        until: when it is ended, a value of `time.monotonic()`.
        on_line: gets each line that uv says.
        stop: asked while it runs; True ends it.

    Raises:
        EnvironmentBuildError: it failed, took too long or was stopped; with its last lines.
    """
    tail: deque[str] = deque(maxlen=TAIL)
    own = [sys.executable, "-I", "-S", "-c", _DIES_WITH_US, str(os.getpid())]
    process = subprocess.Popen([*own, find_uv(), *arguments], cwd=directory, env=variables(os.environ), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    why = None
    try:
        assert process.stdout is not None
        with process.stdout as pipe:
            why = _read(pipe.fileno(), tail, until, on_line, stop)
        if why is None:
            process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        why = "took too long"
    finally:
        with contextlib.suppress(ProcessLookupError):  # it and its children are gone
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if why is None and code:
        why = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
    if why is not None:
        said = "\n".join(f"  | {line}" for line in tail) or "  (it said nothing)"
        asked = " ".join(takewhile(lambda word: not word.startswith("-"), arguments))
        raise EnvironmentBuildError(f"uv {asked} {why}\n{said}")


def _read(fd: int, tail: deque[str], until: float, on_line: Callable[[str], None] | None, stop: Callable[[], bool]) -> str | None:
    """Lines until the pipe closes; else why it was left."""
    begun = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            left = until - time.monotonic()
            if stop():
                return "was stopped"
            if left <= 0:
                return "took too long"
            if not selector.select(min(_LOOK, left)):
                continue
            data = os.read(fd, 65536)
            *lines, begun = (begun + data).split(b"\n")
            for line in lines if data else [*lines, begun]:
                text = line.decode("utf-8", "replace").rstrip()[:2000]
                if text:
                    tail.append(text)
                    if on_line is not None:
                        on_line(text)
            if not data:
                return None
            begun = begun[-65536:]
