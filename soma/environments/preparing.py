"""What `runtime_env=` asks for, from the shape that a user wrote to a place on this machine.

    {"pip": ["six>=1.16"] | "requirements.txt",  "env_vars": {"NAME": "value"},  "working_dir": "code/" | Archive}

`check` refuses a wrong shape where it is written. `portable` reads the files it names, on the machine where they are, so that it can
travel. `prepare` makes it real on the machine where it is used: an environment, unpacked files. It blocks, for minutes perhaps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from soma.environments.archive import Archive, pack, unpack
from soma.environments.environments import TIMEOUT, Environments, default_root
from soma.environments.leases import Lease, private_directory
from soma.environments.shelf import Shelf
from soma.environments.spec import EnvironmentSpec, normalised, read_requirements
from soma.errors import ArchiveError

KEYS = ("env_vars", "pip", "working_dir")

VARIABLES_LIMIT = 16_000
"""Characters of all variables together: they travel in a header."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a process is to be started with.

    Attributes:
        python: the interpreter, or None for the usual one.
        packages: directory of the environment's own packages, to come before all others on `sys.path`; None without one.
        cwd: where it works, or None for the usual place.
        env_vars: variables to set.
        sys_path: directories to put at the beginning of `sys.path`.
        leases: what must not be removed while the process lives.
    """

    python: Path | None = None
    packages: Path | None = None
    cwd: Path | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict)
    sys_path: tuple[str, ...] = ()
    leases: tuple[Lease, ...] = ()

    def release(self) -> None:
        """Its process is gone. Any number of times."""
        for lease in self.leases:
            lease.release()


def check(runtime_env: Mapping[str, Any] | None) -> None:
    """Refuse what cannot be meant.

    Raises:
        TypeError, ValueError: names the key.
    """
    if runtime_env is None:
        return
    if not isinstance(runtime_env, Mapping):
        raise TypeError(f"runtime_env={runtime_env!r}: a dict")
    for key in runtime_env:
        if key not in KEYS:
            raise ValueError(f"runtime_env={{{key!r}: …}}: known are {', '.join(map(repr, KEYS))}")
    _check_variables(runtime_env.get("env_vars"))
    pip, directory = runtime_env.get("pip"), runtime_env.get("working_dir")
    if isinstance(pip, (list, tuple)):
        for requirement in pip:
            _named("pip", normalised, requirement)
    elif not isinstance(pip, (str, os.PathLike, type(None))):
        raise TypeError(f"runtime_env pip={pip!r}: a list of requirements, or the path of a requirements.txt")
    if not isinstance(directory, (str, os.PathLike, Archive, type(None))):
        raise TypeError(f"runtime_env working_dir={directory!r}: the path of a directory")


def check_variables(given: Mapping[str, str]) -> None:
    """Refuse what no process can have as environment variables.

    Raises:
        TypeError, ValueError: says which.
    """
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"{key!r}: {value!r} must both be strings")
        if not key or "=" in key or "\0" in key + value:
            raise ValueError(f"{key!r} cannot be the name of a variable, or its value holds a NUL")
    size = sum(len(k) + len(v) for k, v in given.items())
    if size > VARIABLES_LIMIT:
        raise ValueError(f"{size} characters in all; at most {VARIABLES_LIMIT}. Pass large values as arguments")


def _check_variables(given: Any) -> None:
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise TypeError(f"runtime_env env_vars={given!r}: a dict of strings")
    _named("env_vars", check_variables, given)


def _named(key: str, fn: Callable[[Any], object], value: Any) -> None:
    try:
        fn(value)
    except (TypeError, ValueError) as e:
        raise type(e)(f"runtime_env {key}: {e}") from None


def portable(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with what it names read: `pip` is a tuple of requirements, `working_dir` an Archive.

    Raises:
        TypeError, ValueError, ArchiveError: as `check`; or a file holds something wrong.
        OSError: a file or directory cannot be read.
    """
    check(runtime_env)
    told: dict[str, Any] = {}
    pip, directory = runtime_env.get("pip"), runtime_env.get("working_dir")
    if pip is not None:
        told["pip"] = read_requirements(pip) if isinstance(pip, (str, os.PathLike)) else EnvironmentSpec(tuple(pip)).requirements
    if directory is not None:
        told["working_dir"] = directory if isinstance(directory, Archive) else pack(directory)
    if runtime_env.get("env_vars"):
        told["env_vars"] = dict(runtime_env["env_vars"])
    return told


def prepare(runtime_env: Mapping[str, Any], root: Path | None = None, *, timeout: float = TIMEOUT,
            on_line: Callable[[str], None] | None = None) -> Prepared:
    """Make what was asked for real on this machine. Blocks; call `release()` of what it returns when the process is gone.

    The working directory is shared by all that were given the same files, so treat it as read-only.

    Args:
        root: where environments and files are kept; by default in the user's cache.
        timeout: seconds it may take.
        on_line: gets each line that uv says.

    Raises:
        EnvironmentBuildError: the environment cannot be made.
        ArchiveError, TypeError, ValueError, OSError: as `portable`.
    """
    told = portable(runtime_env)
    root = root or default_root()
    if told.keys() & {"pip", "working_dir"}:
        private_directory(root)
    python = packages = cwd = None
    leases: list[Lease] = []
    try:
        if "working_dir" in told:
            cwd, lease = _unpacked(told["working_dir"], root, timeout)
            leases.append(lease)
        if told.get("pip"):
            environment = Environments(root).ensure(EnvironmentSpec(told["pip"]), timeout, on_line)
            leases.append(environment.lease)
            python, packages = environment.python, environment.packages
    except BaseException:
        for lease in leases:
            lease.release()
        raise
    return Prepared(python, packages, cwd, told.get("env_vars", {}), (str(cwd),) if cwd is not None else (), tuple(leases))


def _unpacked(archive: Archive, root: Path, timeout: float) -> tuple[Path, Lease]:
    if blake3(archive.data).hexdigest() != archive.hash:
        raise ArchiveError("the files of working_dir are not those that were packed: their hash differs")
    shelf = Shelf(root / "working_dirs")
    taken = shelf.take(archive.hash[:32], lambda path: _unpack_below(path, archive), timeout=timeout)
    return taken.path / "files", taken.lease


def _unpack_below(path: Path, archive: Archive) -> None:
    unpack(archive.data, path / "files")
