"""What makes a filter the one it is: the name and code of its class, and its parameters.

The same filter in another process, on another machine or after a restart has the same identity; a filter whose code or parameters
changed has another. Comments, whitespace, docstrings and names of local variables do not count; functions, classes and constants of the
user's own modules that the code names do, and so do the versions of installed libraries that it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soma.filters.adapters import EstimatorFilter, FunctionFilter
from soma.filters.modules import ModuleFilter
from soma.filters.options import options_of, title_of
from soma.filters.parameters import parameters_of
from soma.store import code_digest, combine, digest


@dataclass(frozen=True, slots=True)
class Identity:
    """`digest` stands for all of `parts`: named digests, by which two identities can be compared part by part."""

    digest: str
    name: str
    """Module and qualified name of the class or function."""
    parts: Mapping[str, str]


def identity_of(filter: Any) -> Identity:
    """The identity of a filter.

    Raises:
        IdentityError: a parameter, or a value that a function closes over, cannot be hashed stably; it is named.
    """
    thing = _definition(filter)
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    name = f"{named.__module__}.{named.__qualname__}"
    options, title = options_of(filter), title_of(filter)
    version = options.version
    parts = {"code": code_digest(thing) if version is None else f"version {version}"}
    for key, value in parameters_of(filter).items():
        parts[f"parameter {key}"] = digest(value, f"{title}.{key}")
    if isinstance(filter, EstimatorFilter):
        parts["method"] = filter.method
        parts["classes"] = digest(filter.classes, f"{title} classes")
    if isinstance(filter, ModuleFilter):
        for key in ("loss_fn", "optimizer"):
            parts[key] = digest(getattr(filter.training, key), f"{title} {key}")
    return Identity(combine(name, *(text for item in sorted(parts.items()) for text in item)), name, parts)


def _definition(filter: Any) -> Any:
    """The class or function that a filter was made of."""
    if isinstance(filter, FunctionFilter):
        return filter.function
    if isinstance(filter, EstimatorFilter):
        return type(filter.estimator)
    if isinstance(filter, ModuleFilter):
        return filter.module if isinstance(filter.module, type) else type(filter.module)
    return type(filter)
