"""`Signature`: what a predictor's inputs and output are, as plain data that a slot sends to the front end. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from soma.serve.schema.checks import Check, compiled
from soma.serve.schema.faults import MOST, Fault, Invalid, fault, missing, unexpected, within

OutputKind = Literal["value", "list", "iterator", "concatenate", "none"]
WHERE = ("body", "input")
"""Where an input is in a request."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One input.

    Attributes:
        schema: JSON Schema of its values.
        required: whether there is no default.
        default: as JSON; None where it is required.
        description: for people.
        deprecated: whether it should not be given any more.
        accept: which files, as in HTML; empty for all.
    """

    name: str
    schema: Mapping[str, Any]
    required: bool = True
    default: Any = None
    description: str = ""
    deprecated: bool = False
    accept: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "schema": dict(self.schema), "required": self.required, "default": self.default,
                "description": self.description, "deprecated": self.deprecated, "accept": self.accept}


@dataclass(frozen=True, slots=True)
class Output:
    """What is given.

    Attributes:
        kind: one value; a list; items one by one; texts one by one that belong together; nothing.
        schema: JSON Schema of all of it, once it is complete.
    """

    kind: OutputKind = "value"
    schema: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(OutputKind):
            raise ValueError(f"an output is no {self.kind!r:.60}")

    @property
    def is_stream(self) -> bool:
        return self.kind in ("iterator", "concatenate")

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "schema": dict(self.schema)}


@dataclass(frozen=True)
class Signature:
    """See the module.

    Attributes:
        parameters: in the order in which they were declared.
        output: what comes of it.
        concurrency: how many predictions may run at once in one process, as `@concurrent(max=…)` says.
    """

    parameters: tuple[Parameter, ...]
    output: Output = field(default_factory=Output)
    concurrency: int = 1
    _checks: tuple[tuple[str, Check, Parameter, bool], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checks = tuple((p.name, compiled(p.schema), p, isinstance(p.default, list | dict)) for p in self.parameters)
        object.__setattr__(self, "_checks", checks)

    def validate(self, raw: Any) -> dict[str, Any]:
        """The inputs by name, all of them: what was given as its type is, and defaults for the others.

        Raises:
            Invalid: and all that is wrong.
        """
        if not isinstance(raw, Mapping):
            raise Invalid([fault("Input must be a JSON object", "value_error", *WHERE)])
        found: dict[str, Any] = {}
        faults: list[Fault] = []
        given = known = 0
        for name, check, parameter, is_mutable in self._checks:
            if name in raw:
                given += 1
                found[name] = check(raw[name], faults)
                if len(faults) > known:
                    known = within(faults, known, name)
            elif parameter.required:
                faults.append(missing(name))
                known += 1
            else:
                found[name] = copy.deepcopy(parameter.default) if is_mutable else parameter.default
        if given < len(raw):
            names = {p.name for p in self.parameters}
            faults.extend(unexpected(str(name)) for name in raw if name not in names)
        if faults:
            raise Invalid([{**f, "loc": [*WHERE, *f["loc"]]} for f in faults[:MOST]])
        return found

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"parameters": [p.to_json() for p in self.parameters], "output": self.output.to_json(), "concurrency": self.concurrency}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Signature:
        """The signature that `to_json` told of. KeyError, TypeError or ValueError if that is none."""
        return cls(tuple(Parameter(**p) for p in told["parameters"]), Output(**told["output"]), int(told["concurrency"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature.from_json, (self.to_json(),)
