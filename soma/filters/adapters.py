"""Filters around what others wrote: plain functions and scikit-learn's estimators. (Torch's modules: see `modules`.)

scikit-learn is never imported here; an estimator is known by its methods. The estimator that was given is a pattern: it is
copied before it is fitted and never changes.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soma.filters.options import FilterOptions, no_fit
from soma.filters.wiring import Wired

_PLAIN = (bool, int, float, str, type(None))


def is_estimator(thing: Any) -> bool:
    """Does it fit, and speak of its parameters as scikit-learn's estimators do?"""
    return all(callable(getattr(thing, m, None)) for m in ("fit", "get_params")) and not hasattr(thing, "forward")


class FunctionFilter(Wired):
    """A function of one value as a stateless filter. Call it as before; `soma.filter(it)` makes a second node of it."""

    def __init__(self, function: Callable[[Any], Any], options: FilterOptions) -> None:
        inner = function.func if isinstance(function, functools.partial) else function
        name = getattr(inner, "__name__", type(inner).__name__)
        if options.kind == "trainable":
            raise ValueError(f"kind='trainable', but {name} is a function; a class with fit and forward can learn")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(f"{name} is a coroutine or a generator function; a filter returns its value")
        _check_takes_one(function, name)
        self.function = function
        self.__soma_filter__ = options
        self.__soma_title__ = "function" if name == "<lambda>" else name
        functools.update_wrapper(self, function, updated=())

    __soma_filter__: FilterOptions = FilterOptions()

    def __call__(self, x: Any) -> Any:
        return self.function(x)

    fit = no_fit

    def forward(self, x: Any, state: Any) -> Any:
        return self.function(x)

    def __soma_parameters__(self) -> dict[str, Any]:
        return {}

    def __repr__(self) -> str:
        return f"{self.__soma_title__}()"


def _check_takes_one(function: Callable[[Any], Any], name: str) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin that does not say: the first call will tell
        return
    try:
        signature.bind(None)
    except TypeError as e:
        raise TypeError(f"{name}{signature} must be callable with one value: {e}") from None


class EstimatorMaker:
    """What `soma.filter(StandardScaler)` is: call it as the class, and get a filter."""

    def __init__(self, cls: type, options: FilterOptions, method: str | None, classes: Sequence[Any] | None) -> None:
        self.cls, self.options, self.method, self.classes = cls, options, method, classes

    def __call__(self, *args: Any, **kwargs: Any) -> EstimatorFilter:
        return EstimatorFilter(self.cls(*args, **kwargs), self.options, self.method, self.classes)

    def __repr__(self) -> str:
        return f"soma.filter({self.cls.__name__})"


class EstimatorFilter(Wired):
    """A scikit-learn estimator as a filter: its state is what fitting made of it, as a dict of attributes."""

    __soma_filter__: FilterOptions = FilterOptions()

    def __init__(self, estimator: Any, options: FilterOptions, method: str | None = None, classes: Sequence[Any] | None = None) -> None:
        name = type(estimator).__name__
        needs_fit = _needs_fit(estimator)
        if options.kind == "stateless" and needs_fit:
            raise ValueError(f"kind='stateless', but {name} has a fit")
        chosen = method or next((m for m in ("predict", "transform") if hasattr(estimator, m)), None)
        if chosen is None:
            raise TypeError(f"{name} has neither predict nor transform: it cannot be applied to new data")
        if not callable(getattr(estimator, chosen, None)):
            raise TypeError(f"method={chosen!r}: {name} has no such method")
        self.estimator = copy.deepcopy(estimator)
        self.method: str = chosen
        self.classes = None if classes is None else list(classes)
        self.__soma_filter__ = options if needs_fit else dataclasses.replace(options, kind=options.kind or "stateless")
        self.__soma_title__ = name
        if not callable(getattr(estimator, "partial_fit", None)):
            self.partial_fit = None  # type: ignore[assignment, method-assign]  # it cannot learn in batches

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        """The attributes that fitting set. Parameters that are plain values are left out: the filter has them already."""
        if self.__soma_filter__.kind == "stateless":
            return {}
        fitted = copy.deepcopy(self.estimator)
        fitted.fit(x, y)
        return self._learnt(fitted)

    def partial_fit(self, x: Any, y: Any = None, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Go on from a state (which is used up), or begin one."""
        fitted = copy.deepcopy(self.estimator)
        vars(fitted).update(state or {})
        classes = {"classes": self.classes} if self.classes is not None and not state else {}
        fitted.partial_fit(x, y, **classes)
        return self._learnt(fitted)

    def with_all_targets(self, y: Any) -> EstimatorFilter:
        """Before the first of several batches: a classifier must know the classes of all of them."""
        if self.classes is not None or y is None or getattr(self.estimator, "_estimator_type", _type_of(self.estimator)) != "classifier":
            return self
        import numpy as np

        return EstimatorFilter(self.estimator, self.__soma_filter__, self.method, list(np.unique(np.asarray(y))))

    def _learnt(self, fitted: Any) -> dict[str, Any]:
        parameters = fitted.get_params(deep=False)
        return {k: v for k, v in vars(fitted).items() if not (k in parameters and isinstance(v, _PLAIN))}

    def forward(self, x: Any, state: Any) -> Any:
        fitted = copy.copy(self.estimator)
        vars(fitted).update(state)
        return getattr(fitted, self.method)(x)

    def __soma_parameters__(self) -> dict[str, Any]:
        return dict(self.estimator.get_params(deep=False))

    def __soma_with__(self, changes: Mapping[str, Any]) -> EstimatorFilter:
        changed = copy.deepcopy(self.estimator).set_params(**changes)
        return EstimatorFilter(changed, self.__soma_filter__, self.method, self.classes)

    def __repr__(self) -> str:
        return repr(self.estimator)


def _tags(estimator: Any) -> Any:
    return estimator.__sklearn_tags__() if hasattr(estimator, "__sklearn_tags__") else None


def _needs_fit(estimator: Any) -> bool:
    """False for the few estimators that learn nothing, e.g. HashingVectorizer."""
    return bool(getattr(_tags(estimator), "requires_fit", True))


def _type_of(estimator: Any) -> str | None:
    kind = getattr(_tags(estimator), "estimator_type", None)
    return None if kind is None else str(kind)
