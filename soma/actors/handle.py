"""Handles and the decorator's products: `ActorClass`, `ActorHandle`, `ActorMethod`, `RemoteFunction`.

They hold no state of the cluster: each verb goes to the engine that runs in this process (`actors.current`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from soma.actors import current
from soma.actors.engine import ActorSpec, Engine, HandleInfo
from soma.actors.methods import MethodSpec, describe, describe_callable, describe_init, has_async
from soma.actors.options import Options
from soma.actors.refs import ObjectRef
from soma.ids import ActorId

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")
P = ParamSpec("P")
Q = ParamSpec("Q")

_NO_CHANGES = Options()


class ActorMethod(Generic[P, R]):
    """`handle.method`: call it with `.remote(...)`, change one call with `.options(...)`."""

    __slots__ = ("_handle", "_spec", "_options")

    def __init__(self, handle: ActorHandle[Any], spec: MethodSpec, options: Options) -> None:
        self._handle = handle
        self._spec = spec
        self._options = options

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]:
        """Send the call and return at once. Changing an argument afterwards changes nothing."""
        handle = self._handle
        self._spec.check(args, kwargs)
        return handle._engine.submit(handle._info, self._spec, args, kwargs, self._options)  # type: ignore[no-any-return]

    def options(self, **changes: Any) -> ActorMethod[P, R]:
        if "num_returns" not in changes:
            changes["num_returns"] = self._options.num_returns
        return ActorMethod(self._handle, self._spec, self._options.merge(changes))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self._spec.name} runs in another process: call {self._spec.name}.remote(...) and soma.get() its ref")


class ActorHandle(Generic[T]):
    """Names an actor, wherever it runs. Travels to other actors; the last one dropped ends the actor (unless detached)."""

    def __init__(self, info: HandleInfo, engine: Engine) -> None:
        self._info = info
        self._engine = engine
        engine.hold(info)

    @property
    def actor_id(self) -> ActorId:
        """16 hex digits, the same over restarts."""
        return self._info.actor

    def __getattr__(self, name: str) -> ActorMethod[..., Any]:
        if name.startswith("__") and name != "__call__":
            raise AttributeError(name)
        spec = self._info.methods.get(name)
        if spec is None:
            known = ", ".join(sorted(self._info.methods)) or "none"
            raise AttributeError(f"{self._info.class_name} has no method {name!r}; it has {known}")
        defaults = self._info.options
        if spec.num_returns != defaults.num_returns:
            defaults = defaults.merge({"num_returns": spec.num_returns})
        return ActorMethod(self, spec, defaults)

    @overload
    def method(self, of: Callable[Concatenate[T, Q], Coroutine[Any, Any, R]]) -> ActorMethod[Q, R]: ...
    @overload
    def method(self, of: Callable[Concatenate[T, Q], R]) -> ActorMethod[Q, R]: ...
    def method(self, of: Callable[..., Any]) -> ActorMethod[..., Any]:
        """The same as the attribute, but typed: `handle.method(Counter.add).remote(1)` is checked by mypy."""
        bound: ActorMethod[..., Any] = getattr(self, of.__name__)
        return bound

    def __repr__(self) -> str:
        label = f" {self._info.name!r}" if self._info.name else ""
        return f"ActorHandle({self._info.class_name}{label}, {self._info.actor})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._info.actor == self._info.actor

    def __hash__(self) -> int:
        return hash(self._info.actor)

    def __del__(self) -> None:
        engine = self.__dict__.get("_engine")
        if engine is not None:
            engine.drop(self._info)


class ActorClass(Generic[P, T]):
    """A class that `@soma.remote` marked. `Cls.remote(...)` makes an actor; `Cls.options(...)` changes how."""

    def __init__(self, cls: type, options: Options) -> None:
        self._cls = cls
        self._options = options
        functools.update_wrapper(self, cls, updated=())

    def options(self, **changes: Any) -> ActorClass[P, T]:
        return ActorClass(self._cls, self._options.merge(changes))

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ActorHandle[T]:
        """Make an actor in a process of its own and return its handle at once."""
        init, methods = _described(self._cls)
        init.check(args, kwargs)
        if self._options.listener is not None:
            raise ValueError("listener= is an option of a call: handle.method.options(listener=fn).remote(…)")
        engine = current.engine()
        spec = ActorSpec(self._cls, args, kwargs, self._options, methods, has_async(methods))
        return ActorHandle(engine.create_actor(spec), engine)

    def __getattr__(self, name: str) -> Any:
        """Methods of the class itself, so that `handle.method(Counter.add)` works when `Counter` was decorated."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._cls, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self._cls.__name__} is an actor class: make one with {self._cls.__name__}.remote(...)")

    def __repr__(self) -> str:
        return f"ActorClass({self._cls.__module__}.{self._cls.__qualname__})"

    def __reduce__(self) -> Any:
        return type(self), (self._cls, self._options)


@functools.lru_cache(maxsize=1024)
def _described(cls: type) -> tuple[MethodSpec, dict[str, MethodSpec]]:
    return describe_init(cls), describe(cls)


class RemoteFunction(Generic[P, R]):
    """A function that `@soma.remote` marked. `fn.remote(...)` runs it on a task actor."""

    def __init__(self, fn: Callable[P, R], options: Options) -> None:
        self._fn = fn
        self._options = options
        self._spec = describe_callable(fn, fn.__name__, bound=False)
        functools.update_wrapper(self, fn)
        if self._spec.num_returns == "streaming" and options.num_returns == 1:
            self._options = options.merge({"num_returns": "streaming"})

    def options(self, **changes: Any) -> RemoteFunction[P, R]:
        return RemoteFunction(self._fn, self._options.merge(changes))

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]:
        """Send the task and return at once."""
        self._spec.check(args, kwargs)
        return current.engine().submit_task(self._fn, self._spec, args, kwargs, self._options)  # type: ignore[no-any-return]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self._spec.name} is a remote function: call {self._spec.name}.remote(...)")

    def __repr__(self) -> str:
        return f"RemoteFunction({self._fn.__module__}.{self._fn.__qualname__})"

    def __reduce__(self) -> Any:
        return type(self), (self._fn, self._options)


class ClassOf(Protocol[P, T_co]):
    """A class as the type checker sees it: makes a T when called with P. (A function has no `__mro__`.)"""

    @property
    def __mro__(self) -> tuple[type, ...]: ...
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...


class Marker(Protocol):
    """`@soma.remote(...)` with its options given: marks a class or a function."""

    @overload
    def __call__(self, target: ClassOf[P, T], /) -> ActorClass[P, T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, T], /) -> RemoteFunction[P, T]: ...
