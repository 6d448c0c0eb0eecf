"""The systems that run over several nodes, one module each, loaded only in the process that measures it: `STEPS` and `NOTE`."""

from __future__ import annotations

PACKAGES = {"soma": "soma", "raw": "zmq", "plain": "zmq", "ray": "ray", "dask": "distributed"}
NAMES = tuple(PACKAGES)
