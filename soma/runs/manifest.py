"""What a run was made with: versions, commit, arguments, seed. Found out once for each process."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

PACKAGES = ("soma", "numpy", "scipy", "scikit-learn", "torch", "pandas", "safetensors", "optuna", "pyzmq", "cloudpickle")


def manifest(id: str, what: str, seed: int | None, params: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data for `manifest.json`."""
    return {"run_id": id, "what": what, "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "pid": os.getpid(),
            "argv": list(sys.argv), "seed": seed, "params": dict(params), "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}", "versions": _versions(), "git": _git(os.getcwd())}


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not installed: not used
    return found


@functools.cache
def _git(directory: str) -> dict[str, Any] | None:
    """Commit, branch and whether anything was changed since; None outside of a repository, or without git."""
    try:
        commit, branch = _ask(directory, "rev-parse", "HEAD", "--abbrev-ref", "HEAD").split("\n")[:2]
        return {"commit": commit, "branch": branch, "dirty": bool(_ask(directory, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _ask(directory: str, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=directory, check=True, capture_output=True, text=True, timeout=5,
                          stdin=subprocess.DEVNULL).stdout.strip()
