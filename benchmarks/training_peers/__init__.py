"""The systems that train, one module each, loaded only in the process that measures it: `STEPS` and `NOTE`."""

from __future__ import annotations

PACKAGES = {"soma": "soma", "gloo": "torch", "torch": "torch", "numpy": "numpy", "flower": "flwr"}
NAMES = tuple(PACKAGES)
