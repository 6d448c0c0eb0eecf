"""`install`: before a predictor's file is loaded, see to it that `from cog import …` gives what works here.

Without the package `cog`, a stand-in of that name is made of `soma.serve.compat`, with the submodules that predictors import from. With it,
the package stays as it is, but for two things that only soma knows here: what a cancel raises, and the scope that metrics are recorded in.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

from soma.serve import compat

NAMES = ("BasePredictor", "BaseRunner", "BaseModel", "Input", "FieldInfo", "Opaque", "Path", "URLPath", "File", "Secret",
         "ConcatenateIterator", "AsyncConcatenateIterator", "CancelationException", "ExperimentalFeatureWarning", "current_scope",
         "emit_metric", "streaming", "concurrent")
"""What `cog` has."""

MODULES: dict[str, tuple[str, ...]] = {
    "cog": NAMES,
    "cog.types": ("Path", "URLPath", "File", "Secret", "ConcatenateIterator", "AsyncConcatenateIterator", "Input", "FieldInfo"),
    "cog.input": ("Input", "FieldInfo"),
    "cog.model": ("BaseModel",),
    "cog.predictor": ("BasePredictor", "BaseRunner"),
    "cog.base_predictor": ("BasePredictor",),
    "cog.exceptions": ("CancelationException",),
    "cog.server": (),
    "cog.server.exceptions": ("CancelationException",),
    "cog.server.scope": ("current_scope", "emit_metric"),
}
"""The modules of the stand-in, and what each has."""

_OURS = {"CancelationException": ("cog", "cog.exceptions", "cog.server.exceptions", "coglet", "coglet._impl"),
         "current_scope": ("cog", "cog.server.scope", "coglet._sdk", "coglet._impl._sdk")}
"""What is put into the real package, and where, as far as it has such modules."""


def install() -> bool:
    """Whether the stand-in is what `import cog` gives from now on. Doing it again changes nothing."""
    if "cog" not in sys.modules and importlib.util.find_spec("cog") is None:
        _stand_in()
    present = sys.modules.get("cog") or importlib.import_module("cog")
    if getattr(present, "__soma__", False):
        return True
    if hasattr(present, "BasePredictor"):
        _put_into_real()
    return False


def _stand_in() -> None:
    for name, has in MODULES.items():
        module = types.ModuleType(name, "A stand-in for a module of Cog's, by soma.")
        module.__dict__.update({n: getattr(compat, n) for n in has}, __soma__=True)
        if any(other.startswith(name + ".") for other in MODULES):
            module.__path__ = []
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)


def _put_into_real() -> None:
    for name, places in _OURS.items():
        for place in places:
            module = _found(place)
            if module is not None and hasattr(module, name):
                setattr(module, name, getattr(compat, name))


def _found(place: str) -> Any:
    """A module by its name, also one that only its parent knows; None if it was never imported."""
    root, *path = place.split(".")
    found: Any = sys.modules.get(root)
    for part in path:
        found = getattr(found, part, None)
    return found
