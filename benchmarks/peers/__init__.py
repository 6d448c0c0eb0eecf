"""The systems that are measured, one module each, loaded only in the process that measures it."""

from __future__ import annotations

import importlib
import platform

from benchmarks.system import System

PACKAGES = {
    "soma": "soma",
    "raw": "zmq",
    "multiprocessing": "multiprocessing",
    "ray": "ray",
    "dask": "distributed",
    "xoscar": "xoscar",
}
NAMES = tuple(PACKAGES)


def load(name: str) -> System:
    system = importlib.import_module(f"benchmarks.peers.{name}").SYSTEM()
    if not isinstance(system, System):
        raise TypeError(f"benchmarks.peers.{name}.SYSTEM is no System")
    return system


def version(package: str) -> str:
    if package == "multiprocessing":
        return platform.python_version()
    import importlib.metadata  # 15 ms, which every new actor process would pay if it stood at the top

    try:
        return importlib.metadata.version("pyzmq" if package == "zmq" else package)
    except importlib.metadata.PackageNotFoundError:
        return "from source"
