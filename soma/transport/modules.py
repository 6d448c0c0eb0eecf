"""Which modules another process of this program can import, so that their classes and functions may travel by name.

Actors inherit `sys.path`, so whatever the import system finds there is found again. A module that exists in `sys.modules` only
(made by hand, loaded from a path, a notebook's) is not: what it defines travels by value, as that of `__main__` always does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cloudpickle

_decided: set[str] = {"__main__", "builtins"}
_elsewhere: list[set[str]] = []
"""While other machines take part: the modules that travel by value only for that."""


def only_installed() -> Callable[[], None]:
    """Until the function that this returns is called, only what is installed travels by name: other machines do not have this
    program's own directories."""
    mine: set[str] = set()
    _elsewhere.append(mine)

    def undo() -> None:
        if mine in _elsewhere:
            _elsewhere.remove(mine)
            for name in mine:
                _decided.discard(name)
                if (module := sys.modules.get(name)) is not None:
                    cloudpickle.unregister_pickle_by_value(module)

    return undo


def by_value_where_needed(name: Any) -> None:
    """Tell cloudpickle, once for each module, if things of module `name` must travel by value."""
    if name in _decided or not isinstance(name, str):
        return
    _decided.add(name)
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return
    if not _importable(name, module):
        cloudpickle.register_pickle_by_value(module)
    elif _elsewhere and not _is_everywhere(name, module):
        _elsewhere[-1].add(name)
        cloudpickle.register_pickle_by_value(module)


def _importable(name: str, module: ModuleType) -> bool:
    top, _, rest = name.partition(".")
    if top in sys.stdlib_module_names:
        return True
    file = getattr(module, "__file__", None)
    if file is None and rest:  # made by its package while that is imported, e.g. torch.ops
        return _importable(top, sys.modules.get(top, module))
    found, path = "", None
    for part in name.split("."):
        found = f"{found}.{part}" if found else part
        spec = _find(found, path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return file is None or spec.origin is None or os.path.realpath(spec.origin) == os.path.realpath(file)


def _is_everywhere(name: str, module: ModuleType) -> bool:
    """Whether it lies where packages are installed to, or is Python's or soma's own."""
    top, file = name.partition(".")[0], getattr(module, "__file__", None)
    if top in sys.stdlib_module_names or top == "soma" or file is None:
        return True
    return any(part in ("site-packages", "dist-packages") for part in os.path.realpath(file).split(os.sep))


def _find(name: str, path: Any) -> Any:
    """As importlib.util.find_spec, which however asks sys.modules first and imports parents."""
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path) if hasattr(finder, "find_spec") else None
        if spec is not None:
            return spec
    return None
