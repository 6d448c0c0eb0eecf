"""The systems that serve predictions, one module each, loaded only in the process that measures it: `STEPS` and `NOTE`."""

from __future__ import annotations

PACKAGES = {"soma": "soma", "coglet": "cog", "litserve": "litserve", "ray": "ray"}
NAMES = tuple(PACKAGES)
