"""`@soma.remote`: marks classes and functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from soma.actors.handle import ActorClass, ClassOf, Marker, RemoteFunction
from soma.actors.options import Options

P = ParamSpec("P")
T = TypeVar("T")


@overload
def remote(target: ClassOf[P, T], /) -> ActorClass[P, T]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, T], /) -> RemoteFunction[P, T]: ...
@overload
def remote(**options: Any) -> Marker: ...
def remote(*args: Any, **options: Any) -> Any:
    """Mark a class (actor) or a function (task): `@soma.remote`, or `@soma.remote(num_cpus=1)`.

    Type checkers ignore what a decorator makes of a class: for checked calls write `Adder = soma.remote(Counter)`, then
    `Adder.remote(5)` and `handle.method(Counter.add).remote(1)`; or use the mypy plugin `soma.mypy`.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _mark(args[0], Options())
    if args:
        raise TypeError("@soma.remote takes options by name, e.g. @soma.remote(num_cpus=1)")
    chosen = Options().merge(options)
    return lambda target: _mark(target, chosen)


def _mark(target: Any, options: Options) -> Any:
    if isinstance(target, type):
        return ActorClass(target, options)
    if callable(target) and hasattr(target, "__name__"):
        return RemoteFunction(target, options)
    raise TypeError(f"@soma.remote marks a class or a function, got {type(target).__name__}")
