"""What an environment is to hold: requirements and a Python, checked and in one spelling, so that equal ones have one key.

Only PEP 508 requirements pass. An option (`-r`, `-e`, `--index-url`), a path or a direct URL is refused: where packages come from is
decided by the machine (`UV_INDEX_URL`, `UV_FIND_LINKS`, uv.toml), not by who asks for them.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

MOST_REQUIREMENTS = 1000
LONGEST_REQUIREMENT = 1000
"""Characters of one requirement."""

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
"""This interpreter's version, as a spec names it."""

_PYTHON = re.compile(r"3\.[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """Requirements, in whatever order and spelling, and a Python version such as "3.12".

    Raises:
        TypeError: a requirement that is no string.
        ValueError: one that is no PEP 508 requirement, or a version that is none.
    """

    requirements: tuple[str, ...] = ()
    python: str = HERE

    def __post_init__(self) -> None:
        if isinstance(self.requirements, str) or not isinstance(self.requirements, Iterable):
            raise TypeError(f"requirements={self.requirements!r}: a list of strings such as 'numpy>=2'")
        found = tuple(sorted({normalised(text) for text in self.requirements}))
        if len(found) > MOST_REQUIREMENTS:
            raise ValueError(f"{len(found)} requirements; at most {MOST_REQUIREMENTS}")
        if not isinstance(self.python, str) or not _PYTHON.fullmatch(self.python):
            raise ValueError(f"python={self.python!r}: a version such as '3.12'")
        object.__setattr__(self, "requirements", found)

    def key(self, parents: Sequence[str] = ()) -> str:
        """32 hex digits: the same for the same requirements on the same kind of machine.

        Args:
            parents: directories whose packages it sees as well.
        """
        told = [1, self.requirements, self.python, platform.python_implementation(), sysconfig.get_platform(), list(parents)]
        return blake3(json.dumps(told).encode()).hexdigest(16)


def normalised(text: str) -> str:
    """A requirement in its one spelling: `Typing_Extensions >=4` is `typing-extensions>=4`.

    Raises:
        TypeError: no string.
        ValueError: no PEP 508 requirement, or one that says where to fetch it from.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    if not isinstance(text, str):
        raise TypeError(f"requirement {text!r}: a string such as 'numpy>=2', not {type(text).__name__}")
    if len(text) > LONGEST_REQUIREMENT:
        raise ValueError(f"requirement {text[:40]!r}…: {len(text)} characters; at most {LONGEST_REQUIREMENT}")
    if text.lstrip().startswith("-"):
        raise ValueError(f"requirement {text!r}: an option; only requirements such as 'numpy>=2' are taken. Where packages come from "
                         "is set on the machine: UV_INDEX_URL, UV_FIND_LINKS, uv.toml")
    if not text.isprintable():
        raise ValueError(f"requirement {text!r}: one line of printable characters")
    try:
        found = Requirement(text)
    except InvalidRequirement as e:
        raise ValueError(f"requirement {text!r} is none: {str(e).splitlines()[0]}") from None
    if found.url is not None:
        raise ValueError(f"requirement {text!r}: a direct URL; name a package that the machine's index has")
    found.name = canonicalize_name(found.name)
    found.extras = {canonicalize_name(extra) for extra in found.extras}
    return str(found)


def read_requirements(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The requirements of a `requirements.txt`; comments and continued lines are understood, options are not.

    Raises:
        ValueError: a line that is no requirement; names file and line.
        OSError: the file cannot be read.
    """
    found, begun, start = [], "", 0
    for number, line in enumerate([*Path(path).read_text(encoding="utf-8").splitlines(), ""], 1):
        start = start if begun else number
        begun += line.removesuffix("\\") if line.endswith("\\") else line
        if line.endswith("\\"):
            continue
        text, begun = re.sub(r"(^|\s)#.*", "", begun).strip(), ""
        if text:
            try:
                found.append(normalised(text))
            except ValueError as e:
                raise ValueError(f"{path}, line {start}: {e}") from None
    return tuple(found)
