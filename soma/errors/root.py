"""The root of soma's errors, apart so that all their modules can begin with it."""

from __future__ import annotations


class SomaError(Exception):
    """Root of the tree."""
