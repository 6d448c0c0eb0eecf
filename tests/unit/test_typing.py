"""What a type checker sees of handles, refs and remote functions: mypy's own words about a small program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed")

PROGRAM = """
import soma

class Counter:
    def __init__(self, n: int = 0) -> None:
        self.n = n

    def add(self, k: int) -> int:
        self.n += k
        return self.n

    async def name(self) -> str:
        return "c"

@soma.remote
def half(x: int) -> float:
    return x / 2

@soma.remote(num_cpus=2)
def third(x: int) -> float:
    return x / 3

Actor = soma.remote(Counter)
handle = Actor.remote(5)
"""

SEEN = [
    ("Actor", "ActorClass[[n: int =], Counter]"),
    ("soma.remote(num_cpus=1)(Counter)", "ActorClass[[n: int =], Counter]"),
    ("Actor.options(name='x')", "ActorClass[[n: int =], Counter]"),
    ("handle", "ActorHandle[Counter]"),
    ("handle.method(Counter.add)", "ActorMethod[[k: int], int]"),
    ("handle.method(Counter.add).options(timeout=1)", "ActorMethod[[k: int], int]"),
    ("handle.method(Counter.add).remote(1)", "ObjectRef[int]"),
    ("handle.method(Counter.name).remote()", "ObjectRef[str]"),
    ("soma.get(handle.method(Counter.add).remote(1))", "int"),
    ("soma.get([half.remote(1)])", "list[float]"),
    ("half", "RemoteFunction[[x: int], float]"),
    ("third.remote(1)", "ObjectRef[float]"),
    ("soma.put('x')", "ObjectRef[str]"),
]

WRONG = [
    ('Actor.remote("five")', 'Argument 1 to "remote" of "ActorClass" has incompatible type "str"; expected "int"'),
    ('handle.method(Counter.add).remote("one")',
     'Argument 1 to "remote" of "ActorMethod" has incompatible type "str"; expected "int"'),
    ("half.remote()", 'Missing positional argument "x" in call to "remote" of "RemoteFunction"'),
    ("handle.add(1)", ""),  # nothing: what an attribute holds is only known to the plugin
]


def mypy(program: str, folder: Path, *, plugin: bool = False) -> dict[int, str]:
    """mypy's messages by line."""
    file = folder / "program.py"
    file.write_text(program)
    config = folder / "mypy.ini"
    settings = ["[mypy]", "strict = true", "follow_imports = silent", "ignore_missing_imports = true", "plugins = soma.mypy"]
    config.write_text("\n".join(settings if plugin else settings[:-1]))
    # A process of its own: what mypy leaves in memory would slow down every collection of garbage after it.
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(folder / "cache"),
               "--no-error-summary", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert not ended.stderr, ended.stderr
    said: dict[int, str] = {}
    for line in ended.stdout.splitlines():
        found = re.match(r".*program\.py:(\d+): \w+: (.*)", line)
        assert found, line
        said[int(found[1])] = said.get(int(found[1]), "") + re.sub(r"\b(?:soma|program|builtins)\.(?:\w+\.)*", "", found[2])
    return said


def check(program: str, seen: list[tuple[str, str]], wrong: list[tuple[str, str]], folder: Path, *, plugin: bool) -> None:
    """The program itself has no fault; each expression has the type, each mistake the message."""
    lines = [*program.splitlines(), *(f"reveal_type({e})" for e, _ in seen), *(e for e, _ in wrong)]
    said = mypy("\n".join(lines), folder, plugin=plugin)
    first = len(program.splitlines()) + 1
    assert {n: m for n, m in said.items() if n < first} == {}
    types = [said[first + i].removeprefix('Revealed type is "').removesuffix('"') for i in range(len(seen))]
    assert list(zip((e for e, _ in seen), types, strict=True)) == seen
    for i, (expression, message) in enumerate(wrong):
        told = said.get(first + len(seen) + i, "")
        assert told.startswith(message) and bool(told) == bool(message), (expression, told)


@pytest.mark.timeout(120)
def test_what_mypy_sees(tmp_path: Path) -> None:
    check(PROGRAM, SEEN, WRONG, tmp_path, plugin=False)


DECORATED = """
import soma

@soma.remote
class Counter:
    def __init__(self, n: int = 0) -> None:
        self.n = n

    def add(self, k: int) -> int:
        return self.n + k

    async def name(self) -> str:
        return "c"

    @staticmethod
    def twice(x: float) -> float:
        return 2 * x

@soma.remote(num_cpus=1)
class Empty:
    def ping(self) -> None: ...

handle = Counter.remote(5)
"""

SEEN_BY_PLUGIN = [
    ("handle", "ActorHandle[Counter]"),
    ("handle.add", "ActorMethod[[k: int], int]"),
    ("handle.add.remote(1)", "ObjectRef[int]"),
    ("soma.get(handle.name.remote())", "str"),
    ("handle.twice.remote(1.0)", "ObjectRef[float]"),
    ("Counter.options(name='c').remote(3)", "ActorHandle[Counter]"),
    ("Empty.remote().ping.remote()", "ObjectRef[None]"),
    ("handle.actor_id", "ActorId"),
    ("handle.method(Counter.add)", "ActorMethod[[k: int], int]"),
]

WRONG_TO_PLUGIN = [
    ('Counter.remote("five")', 'Argument 1 to "remote" of "Counter" has incompatible type "str"; expected "int"'),
    ('handle.add.remote("one")', 'Argument 1 to "remote" of "ActorMethod" has incompatible type "str"; expected "int"'),
    ("handle.ad.remote()", '"Counter" has no method "ad"'),
    ("Empty.remote(1)", 'Too many arguments for "remote" of "Empty"'),
]


@pytest.mark.timeout(120)
def test_what_mypy_sees_with_the_plugin(tmp_path: Path) -> None:
    check(DECORATED, SEEN_BY_PLUGIN, WRONG_TO_PLUGIN, tmp_path, plugin=True)
