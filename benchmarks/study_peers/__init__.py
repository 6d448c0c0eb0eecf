"""The systems that run studies, one module each, loaded only in the process that measures it: `STEPS` and `NOTE`."""

from __future__ import annotations

PACKAGES = {"soma": "soma", "optuna": "optuna", "ray": "ray", "loky": "joblib"}
NAMES = tuple(PACKAGES)
