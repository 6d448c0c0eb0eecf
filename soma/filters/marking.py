"""`soma.filter`: makes filters of classes, functions and scikit-learn estimators.

A class stays itself: it gains the operators `>>` and `|`, and a `fit` that returns `{}` if it has none. It refuses a class
whose `fit` or `forward` could not be called as filters are, where it is decorated and not when it runs.
"""

from __future__ import annotations

import builtins
import inspect
import sys
from collections.abc import Callable
from typing import Any, Protocol, overload

from soma.filters.adapters import EstimatorFilter, EstimatorMaker, FunctionFilter, is_estimator
from soma.filters.options import FilterOptions, no_fit
from soma.filters.wiring import MARK, OPERATORS, Chain, Fork, Wired


class Filter(Protocol):
    """A filter as a type checker sees it."""

    def fit(self, x: Any, y: Any = None) -> Any: ...
    def forward(self, x: Any, state: Any) -> Any: ...
    def __rshift__(self, other: Any) -> Chain: ...
    def __rrshift__(self, other: Any) -> Chain: ...
    def __or__(self, other: Any) -> Fork: ...
    def __ror__(self, other: Any) -> Fork: ...


@overload
def filter(target: type[Any], /, **options: Any) -> Callable[..., Filter]: ...
@overload
def filter(target: object, /, **options: Any) -> Filter: ...
@overload
def filter(**options: Any) -> Callable[[Any], Any]: ...
def filter(*target: Any, **options: Any) -> Any:
    """Make a filter of a class, a function or a scikit-learn estimator.

        @soma.filter
        class Center:
            def fit(self, x, y=None): return {"mean": x.mean(0)}
            def forward(self, x, state): return x - state["mean"]

        @soma.filter                      # stateless; the function is the node itself
        def double(x): return 2 * x

        soma.filter(StandardScaler)()     # its state is its fitted attributes
        soma.filter(PCA(n_components=8))  # the same from an object; it is copied, never fitted itself

    Options are those of `FilterOptions`, e.g. `@soma.filter(num_cpus=1)`; estimators also take `method="predict_proba"`, the
    method that `forward` calls (by default `predict` where there is one, else `transform`).

    Raises:
        TypeError: the target cannot be a filter, and why; an unknown option.
        ValueError: an impossible option.
    """
    if len(target) > 1:
        raise TypeError("soma.filter takes one class, function or estimator, and options by name")
    method = options.pop("method", None)
    chosen = FilterOptions.of(options)
    if target:
        return _mark(target[0], chosen, method)
    return lambda later: _mark(later, chosen, method)


def _mark(target: Any, options: FilterOptions, method: str | None) -> Any:
    if is_estimator(target):
        return EstimatorMaker(target, options, method) if isinstance(target, type) else EstimatorFilter(target, options, method)
    if method is not None:
        raise TypeError(f"method={method!r} is an option of scikit-learn estimators, and {_named(target)} is none")
    if isinstance(target, type):
        return _mark_class(target, options)
    if isinstance(target, FunctionFilter):
        return FunctionFilter(target.function, options)
    if hasattr(type(target), MARK):
        raise TypeError(f"{_named(target)} is a filter already")
    if inspect.isroutine(target):
        return FunctionFilter(target, options)
    raise TypeError(f"soma.filter takes a class with forward(x, state), a function or a scikit-learn estimator, "
                    f"got {_named(target)}")


def _mark_class(cls: type, options: FilterOptions) -> type:
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(cls, torch.nn.Module):
        raise TypeError(f"{cls.__name__} is a torch module; for now, hold it in a filter whose fit returns its state_dict")
    if not callable(getattr(cls, "forward", None)):
        raise TypeError(f"{cls.__name__} has no forward(x, state)")
    _check_takes_two(cls, "forward", "(self, x, state)")
    fits = getattr(cls, "fit", no_fit) is not no_fit
    if fits:
        _check_takes_two(cls, "fit", "(self, x, y=None)")
    if options.kind == "stateless" and fits:
        raise ValueError(f"kind='stateless', but {cls.__name__} defines fit")
    if options.kind == "trainable" and not fits:
        raise ValueError(f"kind='trainable', but {cls.__name__} defines no fit(x, y=None)")
    for name in OPERATORS:
        if any(name in vars(c) and vars(c)[name] is not vars(Wired)[name] for c in cls.__mro__):
            raise TypeError(f"{cls.__name__} has a {name} of its own; graphs are wired with it")
    for name in OPERATORS:
        setattr(cls, name, vars(Wired)[name])
    if not fits:
        setattr(cls, "fit", no_fit)  # noqa: B010 - mypy allows no such assignment
    setattr(cls, MARK, options)
    return cls


def _check_takes_two(cls: type, name: str, wanted: str) -> None:
    static = inspect.getattr_static(cls, name)
    try:
        signature = inspect.signature(getattr(cls, name))
    except (ValueError, TypeError):  # a builtin that does not say
        return
    bound = isinstance(static, (staticmethod, classmethod))
    try:
        signature.bind(*(() if bound else (None,)), None, None)
    except TypeError as e:
        raise TypeError(f"{cls.__name__}.{name}{signature} must be callable as {name}{wanted}: {e}") from None


def _named(target: Any) -> str:
    return str(getattr(target, "__name__", None) or builtins.type(target).__name__)
