"""Filters around what others wrote: plain functions and scikit-learn's estimators.

scikit-learn is never imported here; an estimator is known by its methods. The estimator that was given is a pattern: it is
copied before it is fitted and never changes.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
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
        name = getattr(function, "__name__", type(function).__name__)
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

    def __init__(self, cls: type, options: FilterOptions, method: str | None) -> None:
        self.cls, self.options, self.method = cls, options, method

    def __call__(self, *args: Any, **kwargs: Any) -> EstimatorFilter:
        return EstimatorFilter(self.cls(*args, **kwargs), self.options, self.method)

    def __repr__(self) -> str:
        return f"soma.filter({self.cls.__name__})"


class EstimatorFilter(Wired):
    """A scikit-learn estimator as a filter: its state is what fitting made of it, as a dict of attributes."""

    __soma_filter__: FilterOptions = FilterOptions()

    def __init__(self, estimator: Any, options: FilterOptions, method: str | None) -> None:
        name = type(estimator).__name__
        if options.kind == "stateless":
            raise ValueError(f"kind='stateless', but {name} has a fit")
        chosen = method or next((m for m in ("predict", "transform") if hasattr(estimator, m)), None)
        if chosen is None:
            raise TypeError(f"{name} has neither predict nor transform: it cannot be applied to new data")
        if not callable(getattr(estimator, chosen, None)):
            raise TypeError(f"method={chosen!r}: {name} has no such method")
        self.estimator = copy.deepcopy(estimator)
        self.method: str = chosen
        self.__soma_filter__ = options
        self.__soma_title__ = name

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        """The attributes that fitting set. Parameters that are plain values are left out: the filter has them already."""
        fitted = copy.deepcopy(self.estimator)
        fitted.fit(x, y)
        parameters = fitted.get_params(deep=False)
        return {k: v for k, v in vars(fitted).items() if not (k in parameters and isinstance(v, _PLAIN))}

    def forward(self, x: Any, state: Any) -> Any:
        fitted = copy.copy(self.estimator)
        vars(fitted).update(state)
        return getattr(fitted, self.method)(x)

    def __repr__(self) -> str:
        return repr(self.estimator)
