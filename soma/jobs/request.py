"""What a job is asked to be, checked where it is written.

A path in it is relative to the job's directory and stays inside: `entry`, and each pattern of `outputs`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soma.config import MIB
from soma.environments import ArchiveError, EnvironmentSpec, check_variables, checked_path

PARAMS_BYTES = 1 * MIB
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_RESERVED = ("SOMA_JOB", "SOMA_CLUSTER", "SOMA_ACTOR")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """See `soma.jobs.submit` for what each means."""

    id: str
    entry: str
    args: tuple[str, ...] = ()
    requirements: tuple[str, ...] | None = None
    python: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict)
    num_cpus: float = 1
    num_gpus: float = 0
    memory: int | None = None
    timeout: float | None = None
    outputs: tuple[str, ...] = ()
    disk_quota: int | None = None
    params: str = "{}"
    """As JSON."""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not _ID.fullmatch(self.id):
            raise ValueError(f"job_id={self.id!r}: 1 to 64 letters, digits, '-', '_' or '.', the first a letter or digit")
        _inside("entry", self.entry)
        for key in ("args", "outputs"):
            value = getattr(self, key)
            if not isinstance(value, tuple) or not all(isinstance(v, str) and "\0" not in v for v in value):
                raise TypeError(f"{key}={value!r}: a list of strings")
        for pattern in self.outputs:
            _inside("outputs", pattern)
        if self.requirements is not None:
            object.__setattr__(self, "requirements", EnvironmentSpec(self.requirements).requirements)
        if self.python is not None:
            EnvironmentSpec((), self.python)
        try:
            check_variables(self.env_vars)
        except (TypeError, ValueError) as e:
            raise type(e)(f"env_vars: {e}") from None
        for name in self.env_vars:
            if name.startswith(_RESERVED):
                raise ValueError(f"env_vars: {name!r} is set by soma itself")
        for key in ("timeout", "disk_quota"):
            _positive(key, getattr(self, key))

    @property
    def own_environment(self) -> EnvironmentSpec | None:
        """None: the job runs with the Python and the packages of the cluster."""
        if self.requirements is None and self.python is None:
            return None
        spec = EnvironmentSpec(self.requirements or ())
        return spec if self.python is None else EnvironmentSpec(spec.requirements, self.python)


def as_json(params: Mapping[str, Any] | None) -> str:
    """Parameters as they travel.

    Raises:
        TypeError, ValueError: they are no plain data, or too large.
    """
    if params is None:
        return "{}"
    if not isinstance(params, Mapping):
        raise TypeError(f"params={params!r}: a dict")
    try:
        text = json.dumps(dict(params))
    except (TypeError, ValueError) as e:
        raise type(e)(f"params: plain data only: {e}") from None
    if len(text) > PARAMS_BYTES:
        raise ValueError(f"params: {len(text)} bytes as JSON; at most {PARAMS_BYTES}")
    return text


def _inside(key: str, path: str) -> None:
    try:
        checked_path(path)
    except ArchiveError as e:
        raise ValueError(f"{key}: {e}") from None


def _positive(key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{key}={value!r}: a number above 0, or None for no limit")
