"""The systems that run graphs, one module each, loaded only in the process that measures it: `STEPS` and `NOTE`."""

from __future__ import annotations

PACKAGES = {"soma": "soma", "sklearn": "sklearn", "joblib": "joblib", "ray": "ray", "dask": "distributed"}
NAMES = tuple(PACKAGES)
