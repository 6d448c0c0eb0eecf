"""From a `Source` to what is served: `Loaded`. Runs the user's module, so whatever that raises comes out of here.

A file is loaded under a name of its own, in a package of its own where it belongs to none, so that it may be called like any other module
and both `import beside` and `from .beside import x` find what lies next to it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soma.actors.handle import ActorHandle
from soma.actors.refs import ObjectRef
from soma.serve.slots.serving import is_filter, served_filter, served_handle
from soma.serve.slots.terms import Source

PACKAGE = "soma_served"


class SourceError(ValueError):
    """What is to be served is not there, or cannot be served; in words for who started it."""


class _Fresh(importlib.machinery.SourceFileLoader):
    """Compiles the file as it is now: kept bytecode counts as fresh for a file of the same size changed within the same second, and a
    server that reloads would serve the old one."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is served.

    Attributes:
        predict: called with the inputs by name.
        setup: called once, before; None: there is nothing to set up.
        train: called for trainings.
        healthcheck: says whether it is well.
        owner: the instance, or the function itself.
    """

    predict: Callable[..., Any]
    setup: Callable[..., Any] | None
    train: Callable[..., Any] | None
    healthcheck: Callable[..., Any] | None
    owner: Any

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.predict) or inspect.isasyncgenfunction(self.predict)


def load(source: Source, resolve: Callable[[Any], Any]) -> Loaded:
    """Load it. `resolve` gets the value behind a ref.

    Raises:
        SourceError: there is no such file or name, or it is nothing that can be served.
    """
    if source.file:
        module = module_of(source.file)
        target = _named(module, source.name) if source.name else _only(module)
        return _of(target, source, getattr(module, "train", None), module)
    value = resolve(source.value) if isinstance(source.value, ObjectRef) else source.value
    return _of(value, source, None, None)


def _of(target: Any, source: Source, beside: Any, module: types.ModuleType | None) -> Loaded:
    """`beside` is the module's own `train`, if it has one."""
    if isinstance(target, ActorHandle):
        return Loaded(served_handle(target), None, None, None, target)
    if inspect.isclass(target):
        target = target()
    predict = None if is_filter(target) else _method(target)
    train = getattr(target, "train", None) or beside
    if source.train and module is not None:
        train = _named(module, source.train)
    if predict is not None:
        return Loaded(predict, _callable(target, "setup"), train if callable(train) else None, _callable(target, "healthcheck"), target)
    if callable(getattr(target, "forward", None)):
        return Loaded(served_filter(target, source.state), _callable(target, "setup"), None, _callable(target, "healthcheck"), target)
    if callable(target):
        return Loaded(target, None, train if callable(train) and train is not target else None, None, target)
    raise SourceError(f"{source.name or 'the value'} is a {type(target).__name__}, which has no predict, run or forward and is no function")


def _method(target: Any) -> Callable[..., Any] | None:
    """`predict` or `run`, whichever the user wrote himself."""
    found = {name: getattr(type(target), name, None) for name in ("run", "predict")}
    mine = [name for name, fn in found.items() if callable(fn) and not _is_inherited_stub(type(target), name)]
    if not mine:
        return None
    if len(mine) == 2 and not inspect.isfunction(target):
        raise SourceError(f"{type(target).__name__} has both run and predict; only one of them can be served")
    method: Callable[..., Any] = getattr(target, mine[0])
    return method


def _is_inherited_stub(cls: type, name: str) -> bool:
    """Whether it is what the base class of predictors has, which only says that there is none."""
    owner = next((c for c in cls.__mro__ if name in vars(c)), None)
    return owner is not None and owner.__name__ in ("BasePredictor", "BaseRunner")


def _callable(target: Any, name: str) -> Callable[..., Any] | None:
    found = getattr(target, name, None)
    return found if callable(found) else None


def _named(module: types.ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n in _own(module) if not n.startswith("_")]
            raise SourceError(f"{module.__file__} defines no {name!r}; it defines {', '.join(known) or 'nothing'}")
        found = getattr(found, part)
    return found


def _only(module: types.ModuleType) -> Any:
    """The one thing in a file that can be served."""
    own = _own(module)
    classes = [n for n, v in own.items() if inspect.isclass(v) and any(
        callable(getattr(v, m, None)) and not _is_inherited_stub(v, m) for m in ("predict", "run"))]
    found = classes or [n for n in ("predict", "run") if inspect.isfunction(own.get(n))]
    if len(found) != 1:
        said = "none" if not found else ", ".join(found)
        raise SourceError(f"{module.__file__}: one class with predict or run, or a function of that name, is served; there is {said}. "
                          f"Say which: {Path(str(module.__file__)).name}:NAME")
    return own[found[0]]


def _own(module: types.ModuleType) -> dict[str, Any]:
    return {n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}


def module_of(file: str) -> types.ModuleType:
    """Run a file as a module of its own name.

    Raises:
        SourceError: it is not there.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise SourceError(f"there is no file {str(path)!r}")
    top, package = path.parent, ""
    while (top / "__init__.py").is_file():
        package = f"{top.name}.{package}" if package else top.name
        top = top.parent
    for directory in {os.fspath(top): None, os.fspath(path.parent): None}:
        if directory not in sys.path:
            sys.path.insert(0, directory)
    if package:
        importlib.import_module(package)
    else:
        package = _package_for(path.parent)
    name = f"{package}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Fresh(name, str(path)) if path.suffix == ".py" else None)
    if spec is None or spec.loader is None:
        raise SourceError(f"{str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _package_for(directory: Path) -> str:
    """A package that the directory alone makes up, and that no file knows of."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [os.fspath(directory)]
    sys.modules[PACKAGE] = package
    return PACKAGE
