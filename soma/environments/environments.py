"""Environments: virtual ones, made by uv for a set of requirements, once on a machine, and found again by the hash of what they hold.

An environment of this interpreter's own version also sees the packages of the interpreter that made it, soma among them; its own come
first. So it holds only what was asked for, and what that depends on. One of another version stands alone.

There is no way round a failure: an environment that cannot be made is an error, never another Python.
"""

from __future__ import annotations

import os
import site
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from soma.config import GIB
from soma.environments.leases import Lease
from soma.environments.shelf import Shelf
from soma.environments.spec import HERE, EnvironmentSpec
from soma.environments.uv import find_uv, run_uv
from soma.errors import EnvironmentBuildError

TIMEOUT = 600.0
"""Seconds that making one may take."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A ready environment. It is not removed before `release()`, or the end of this process."""

    python: Path
    key: str
    built: bool
    """Whether it was made for this; False: it was there."""
    lease: Lease

    @property
    def packages(self) -> Path:
        """The directory its own packages are in."""
        return packages_of(self.python.parents[1])

    def release(self) -> None:
        """It may be removed once nobody else uses it."""
        self.lease.release()


def default_root() -> Path:
    """`$SOMA_ENVIRONMENTS`, else `soma/environments` in the user's cache."""
    given = os.environ.get("SOMA_ENVIRONMENTS")
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache and os.path.isabs(cache) else Path.home() / ".cache") / "soma" / "environments"


class Environments:
    """Those below one root.

    Args:
        root: where they are kept; by default in the user's cache.
        most, most_bytes: when there are more, those not used for longest go.
    """

    def __init__(self, root: Path | None = None, *, most: int = 32, most_bytes: int = 20 * GIB) -> None:
        self._shelf = Shelf(Path(root or default_root()), most=most, most_bytes=most_bytes)

    def ensure(self, spec: EnvironmentSpec, timeout: float = TIMEOUT, on_line: Callable[[str], None] | None = None, *,
               stop: Callable[[], bool] = lambda: False) -> Environment:
        """The environment of a spec; made if there is none. However many ask for it at once, in whatever process, it is made once.

        Args:
            timeout: seconds it may take, waiting for somebody else who makes it included.
            on_line: gets each line that uv says.
            stop: asked while it is made; True ends that.

        Raises:
            EnvironmentBuildError: it cannot be made; with the last lines of uv.
        """
        find_uv()  # if it is missing, then say so and not that a lock is
        until = time.monotonic() + timeout
        parents = parents_of(spec.python)
        key = spec.key(parents)
        taken = self._shelf.take(key, lambda path: _make(path, spec, parents, until, on_line, stop), timeout=timeout, stop=stop,
                                 sound=lambda path: python_of(path).exists())
        return Environment(python_of(taken.path), key, taken.made, taken.lease)

    def keys(self) -> list[str]:
        """Of the environments that are there, the one used last at the end."""
        return self._shelf.keys()


def parents_of(python: str) -> tuple[str, ...]:
    """The directories of packages that an environment of this version sees as well, in their order."""
    if python != HERE:
        return ()  # compiled packages fit one version
    found = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    here = Path(__file__).resolve().parents[2]  # where soma lies, if it is in none of them
    return tuple(dict.fromkeys([*(p for p in found if os.path.isdir(p)), str(here)]))


def python_of(path: Path) -> Path:
    return path / "bin" / "python"


def packages_of(path: Path) -> Path:
    found = sorted((path / "lib").glob("python3.*/site-packages"))
    if len(found) != 1:
        raise EnvironmentBuildError(f"{path} is no environment: it has {len(found)} directories of packages")
    return found[0]


def _make(path: Path, spec: EnvironmentSpec, parents: tuple[str, ...], until: float, on_line: Callable[[str], None] | None,
          stop: Callable[[], bool]) -> None:
    python = sys.executable if spec.python == HERE else spec.python
    # it is made under another name than it gets, so nothing in it may say its path
    run_uv(["venv", "--no-project", "--relocatable", "--allow-existing", "--no-python-downloads", "--python", python, str(path)], path,
           until=until, on_line=on_line, stop=stop)
    if spec.requirements:
        run_uv(["pip", "install", "--python", str(python_of(path)), "--", *spec.requirements], path,
               until=until, on_line=on_line, stop=stop)
    if parents:
        # by addsitedir, not as plain lines: packages that were installed to be edited are found through files it reads
        line = f"import site; list(map(site.addsitedir, {list(parents)!r}))\n"
        (packages_of(path) / "_soma_parent.pth").write_text(line, encoding="utf-8")
