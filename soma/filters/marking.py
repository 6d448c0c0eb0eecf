"""`soma.filter`: makes filters of classes, functions, scikit-learn estimators and torch modules.

A class stays itself: it gains the operators `>>` and `|`, and a `fit` that returns `{}` if it has none. It refuses a class
whose `fit` or `forward` could not be called as filters are, where it is decorated and not when it runs.
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Protocol, overload

from soma.filters.adapters import EstimatorFilter, EstimatorMaker, FunctionFilter, is_estimator
from soma.filters.modules import ModuleFilter, ModuleMaker, Training, is_module
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
    """Make a filter of a class, a function, a scikit-learn estimator or a torch module.

        @soma.filter
        class Center:
            def fit(self, x, y=None): return {"mean": x.mean(0)}
            def forward(self, x, state): return x - state["mean"]

        @soma.filter                      # stateless; the function is the node itself
        def double(x): return 2 * x

        soma.filter(np.log1p)             # anything that can be called with one value

        soma.filter(StandardScaler)()     # its state is its fitted attributes
        soma.filter(PCA(n_components=8))  # the same from an object; it is copied, never fitted itself
        soma.filter(Net, loss_fn=F.cross_entropy, epochs=20, batch_size=32)(hidden=64)  # its state is its state_dict

    Options are those of `FilterOptions`, e.g. `@soma.filter(num_cpus=1)`. Estimators also take `method="predict_proba"`, the
    method that `forward` calls (by default `predict` where there is one, else `transform`), and `classes=[…]`, which classifiers
    that learn from a stream must know beforehand. Torch modules also take `loss_fn`, `optimizer`, `epochs`, `batch_size` and
    `shuffle` (see `Training`).

    A class that defines `partial_fit(x, y, state) -> state` can learn in batches: it goes on from a state ({} at first), which it may
    change.

    Raises:
        TypeError: the target cannot be a filter, and why; an unknown option.
        ValueError: an impossible option.
    """
    if len(target) > 1:
        raise TypeError("soma.filter takes one class, function, estimator or module, and options by name")
    special = {key: options.pop(key) for key in SPECIAL if key in options}
    chosen = FilterOptions.of(options)
    if target:
        return _mark(target[0], chosen, special)
    return lambda later: _mark(later, chosen, special)


OF_ESTIMATORS = ("method", "classes")
OF_MODULES = tuple(f.name for f in dataclasses.fields(Training))
SPECIAL = (*OF_ESTIMATORS, *OF_MODULES)


def _mark(target: Any, options: FilterOptions, special: dict[str, Any]) -> Any:
    if is_module(target):
        _refuse(target, special, OF_ESTIMATORS, "scikit-learn estimators")
        training = Training.of(dict(special))
        return ModuleMaker(target, options, training) if isinstance(target, type) else ModuleFilter(target, options=options,
                                                                                                    training=training)
    _refuse(target, special, OF_MODULES, "torch modules")
    if is_estimator(target):
        made = EstimatorMaker if isinstance(target, type) else EstimatorFilter
        return made(target, options, special.get("method"), special.get("classes"))
    _refuse(target, special, OF_ESTIMATORS, "scikit-learn estimators")
    if isinstance(target, type):
        return _mark_class(target, options)
    if isinstance(target, FunctionFilter):
        return FunctionFilter(target.function, options)
    if hasattr(type(target), MARK):
        raise TypeError(f"{_named(target)} is a filter already")
    if callable(target) and not any(hasattr(target, name) for name in ("fit", "forward", "predict", "transform")):
        return FunctionFilter(target, options)  # an object that can be called counts as one: a ufunc, a partial
    raise TypeError(f"soma.filter takes a class with forward(x, state), a function, a scikit-learn estimator or a torch module, "
                    f"got {_named(target)}")


def _refuse(target: Any, special: dict[str, Any], names: tuple[str, ...], whose: str) -> None:
    for name in names:
        if name in special:
            raise TypeError(f"{name}={special[name]!r} is an option of {whose}, and {_named(target)} is none")


def _mark_class(cls: type, options: FilterOptions) -> type:
    if not callable(getattr(cls, "forward", None)):
        raise TypeError(f"{cls.__name__} has no forward(x, state)")
    _check_takes(cls, "forward", "(self, x, state)", 2)
    fits, in_batches = getattr(cls, "fit", no_fit) is not no_fit, callable(getattr(cls, "partial_fit", None))
    if fits:
        _check_takes(cls, "fit", "(self, x, y=None)", 2)
    if in_batches:
        _check_takes(cls, "partial_fit", "(self, x, y, state)", 3)
    if options.stream == "evolving" and not in_batches:
        raise ValueError(f"stream='evolving', but {cls.__name__} defines no partial_fit(self, x, y, state)")
    if options.kind == "stateless" and (fits or in_batches):
        raise ValueError(f"kind='stateless', but {cls.__name__} defines {'fit' if fits else 'partial_fit'}")
    if options.kind == "trainable" and not (fits or in_batches):
        raise ValueError(f"kind='trainable', but {cls.__name__} defines no fit(x, y=None)")
    for name in OPERATORS:
        if any(name in vars(c) and vars(c)[name] is not vars(Wired)[name] for c in cls.__mro__):
            raise TypeError(f"{cls.__name__} has a {name} of its own; graphs are wired with it")
    for name in OPERATORS:
        setattr(cls, name, vars(Wired)[name])
    if not fits:
        setattr(cls, "fit", fit_at_once if in_batches else no_fit)  # noqa: B010 - mypy allows no such assignment
    setattr(cls, MARK, options)
    return cls


def fit_at_once(self: Any, x: Any, y: Any = None) -> Any:
    """Of a class that defines only `partial_fit`: one batch, from nothing."""
    return self.partial_fit(x, y, {})


def _check_takes(cls: type, name: str, wanted: str, many: int) -> None:
    static = inspect.getattr_static(cls, name)
    try:
        signature = inspect.signature(getattr(cls, name))
    except (ValueError, TypeError):  # a builtin that does not say
        return
    bound = isinstance(static, (staticmethod, classmethod))
    try:
        signature.bind(*(() if bound else (None,)), *[None] * many)
    except TypeError as e:
        raise TypeError(f"{cls.__name__}.{name}{signature} must be callable as {name}{wanted}: {e}") from None


def _named(target: Any) -> str:
    return str(getattr(target, "__name__", None) or builtins.type(target).__name__)
