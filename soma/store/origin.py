"""Whose code it is: the user's, which is hashed as it is written, or somebody's that a version stands for.

Code of an installed distribution, of the standard library and of soma itself has a version; code under any other path, of `__main__`,
or made by hand (`exec`, a notebook, a factory) is the user's. So is what cannot be found under its own name in the module that it
says it comes from, for then the module's version says nothing about it. Nothing is imported here.
Known by the path of its file, so it is told apart also where it arrived by value from another machine.
"""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Stands for the standard library, and for the language."""

SOMA = ""
"""soma's own code wraps the user's and does not count, wherever it lies: otherwise each release would empty every cache, and the same
filter would be another on a machine where soma is a checkout instead of an installed package."""

_SITE = re.compile(r"[/\\](site|dist)-packages[/\\]")
_LIBRARY = re.compile(r"[/\\]lib(64)?[/\\]python3(\.\d+t?)?[/\\]")
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_BY_VALUE = "<dynamic-code>"  # what cloudpickle puts in the place of a file's name
_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or as if it were


def version_of_module(module: ModuleType) -> str | None:
    """A module's version; None if it is the user's own."""
    return _version(module.__name__, getattr(module, "__file__", None))


def version_of_class(cls: type) -> str | None:
    """The version that stands for a class; None if it has to be hashed."""
    module = cls.__module__
    if not isinstance(module, str):
        return None
    version = _version(module, None)
    if not cls.__flags__ & _HEAP:
        return version or ""  # compiled, so there is nothing to hash
    return version if version is not None and is_found(cls, module, cls.__qualname__) else None


def version_of_function(function: FunctionType) -> str | None:
    """The version that stands for a function's code, wherever it was wrapped; None if it has to be hashed."""
    module, file = function.__globals__.get("__name__"), function.__code__.co_filename
    if file == _BY_VALUE:
        file = function.__globals__.get("__file__", file)
    return _version(module, file) if isinstance(module, str) else None


def version_of_name(module: Any) -> str:
    """The version behind something compiled; "" where nobody gave one."""
    return (_version(module, None) if isinstance(module, str) else None) or ""


def is_found(thing: object, module: str, qualname: str) -> bool:
    """Whether a thing is what its module has under its name."""
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return found is thing


def _version(module: str, file: str | None) -> str | None:
    top = module.partition(".")[0]
    if top == "soma":
        return SOMA
    if file is None:
        file = next((f for name in (module, top) if (f := getattr(sys.modules.get(name), "__file__", None))), None)
    if file is None:
        return PYTHON if top in sys.stdlib_module_names else None
    place = _place(file)
    if place == "site":
        return _distribution(top)
    return PYTHON if place == "library" and top in sys.stdlib_module_names else None


@lru_cache(maxsize=4096)
def _place(file: str) -> str:
    if _SITE.search(file):
        return "site"
    return "library" if file.startswith(("<frozen ", _STDLIB)) or _LIBRARY.search(file) else ""


@lru_cache(maxsize=1024)
def _distribution(top: str) -> str | None:
    """What a package says of itself, else what its distribution says."""
    said = getattr(sys.modules.get(top), "__dict__", {}).get("__version__")
    if isinstance(said, str):
        return said
    from importlib import metadata

    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        versions = {f"{name} {metadata.version(name)}" for name in metadata.packages_distributions().get(top, ())}
        return ", ".join(sorted(versions)) or None
