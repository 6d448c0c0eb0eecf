"""`code_digest`: changes when the code changes and not when its looks do, whoever defines it, wherever it has come from."""

from __future__ import annotations

import abc
import copy
import dataclasses
import enum
import functools
import importlib
import os
import py_compile
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import soma
from soma.errors import IdentityError
from soma.store import code_digest, digest

ROOT = str(Path(soma.__file__).parents[1])


def define(source: str, name: str = "f", module: str = "users_own", **names: Any) -> Any:
    """What a user's module would have under a name."""
    space = {"__name__": module, **names}
    exec(compile(textwrap.dedent(source), f"/home/user/{module}.py", "exec", dont_inherit=True), space)
    return space[name]


def of(source: str, name: str = "f", **names: Any) -> str:
    return code_digest(define(source, name, **names))


SAME = {
    "comments": ("def f(x):\n return x + 1", "# before\ndef f(x):  # here\n # and here\n return x + 1"),
    "layout": ("def f(x): return [x, 1]", "\n\n\ndef f(\n  x\n):\n\n  return [\n    x,\n\n    1,\n  ]"),
    "one line": ("def f(x):\n if x: return 1\n while x: x -= 1", "def f(x):\n if x:\n  return 1\n while x:\n  x -= 1"),
    "pass": ("def f(x):\n if x:\n  pass\n return 1", "def f(x):\n if x: pass\n return 1"),
    "endless": ("def f(x):\n while True: x()", "def f(x):\n while True:\n\n  x()"),
    "documentation": ("def f(x):\n return x", "def f(x):\n 'What it does.'\n return x"),
    "documentation alone": ("def f(): pass", "def f():\n 'Does nothing.'"),
    "documentation of a class": ("class f:\n a = 1", "class f:\n 'What it is.'\n a = 1"),
    "documentation inside": ("def f():\n def g(): return 1\n return g", "def f():\n def g():\n  'Says one.'\n  return 1\n return g"),
    "annotations": ("def f(x, *, y=1): return x", "def f(x: int, *, y: 'list[str]' = 1) -> dict[str, int]: return x"),
    "annotations of variables": ("def f(x):\n y = x\n return y", "def f(x):\n y: int = x\n return y"),
    "annotations of attributes": ("class f:\n a = 1\n def g(self): self.x = 1", "class f:\n a: int = 1\n def g(self): self.x: int = 1"),
    "annotations inside": ("def f():\n def g(x, *, k=2): return x\n return g",
                           "def f():\n def g(x: list[int], *, k: int = 2) -> None: return x\n return g"),
    "annotations inside, with a closure": ("def f(a, b):\n def g(x=1): return x + a + b\n return g",
                                           "def f(a, b):\n def g(x: dict[str, int | None] = 1) -> 'g': return x + a + b\n return g"),
    "annotations as text": ("def f():\n def g(x): return x\n return g",
                            "from __future__ import annotations\ndef f():\n def g(x: int) -> int: return x\n return g"),
    "a class inside": ("def f():\n class C:\n  x: str = 1\n  def g(self): return super().g()\n return C",
                       "def f():\n\n class C:\n  'Is.'\n  x: int = 1\n\n  def g(self) -> int: return super().g()\n return C"),
    "names of variables": ("def f(x):\n y = x\n z = y * 2\n return z - y", "def f(x):\n a = x\n b = a * 2\n return b - a"),
    "names of variables of a closure": ("def f(x):\n a = x\n b = 2\n def g(): return b - a\n return g",
                                        "def f(x):\n z = x\n b = 2\n def g(): return b - z\n return g"),
    "names in comprehensions": ("def f(x): return [a for a in x if a], {k: v for k, v in x}",
                                "def f(x): return [b for b in x if b], {v: k for v, k in x}"),
    "names in loops": ("def f(x):\n for a, b in x:\n  try: a()\n  except ValueError as e: b(e)",
                       "def f(x):\n for p, q in x:\n  try: p()\n  except ValueError as error: q(error)"),
    "its own name": ("def f(x): return x", "def g(x): return x\nf = g"),
    "its own name, as a class": ("class f:\n def g(self): return super().g()\n h = lambda self: f",
                                 "class F:\n def g(self): return super().g()\n h = lambda self: f\nf = F"),
    "name of a class inside of it": ("class f:\n class Inner: pass\n made = Inner()",
                                     "class F:\n class Inner: pass\n made = Inner()\nf = F"),
    "order of methods": ("class f:\n def a(self): 1\n def b(self): 2", "class f:\n def b(self): 2\n def a(self): 1"),
    "what nobody calls": ("def f(x): return x", "def other(): return 7\nN = 3\ndef f(x): return x"),
    "state in globals": ("log = []\nseen = {}\ndef f(x):\n log.append(x); return seen",
                         "log = [1]\nseen = {2: 3}\ndef f(x):\n log.append(x); return seen"),
    "a counter of its own": ("n = 0\ndef f():\n global n\n n += 1", "n = 7\ndef f():\n global n\n n += 1"),
    "an attribute named as a global": ("size = 1\ndef f(x): return x.size", "size = 2\ndef f(x): return x.size"),
    "a marker": ("none = object()\ndef f(x=none): return x is none", "none = object()\ndef f(x=none):\n return x is none"),
    "marks of soma": ("class f:\n def forward(self, x): return x", "class f:\n __soma_filter__ = 7\n def forward(self, x): return x"),
    "parentheses": ("def f(x): return x + 1 * 2", "def f(x): return (x + (1 * 2))"),
    "quotes": ("def f(): return 'a' 'b', 0x10", 'def f(): return "ab", 16'),
}


@pytest.mark.parametrize("what", SAME)
def test_what_does_not_change_it(what: str) -> None:
    one, two = SAME[what]
    assert of(one) == of(two)


DIFFERENT = {
    "an operator": ("def f(x): return x + 1", "def f(x): return x - 1"),
    "a comparison": ("def f(x): return x < 1", "def f(x): return x <= 1"),
    "a number": ("def f(x): return x + 1", "def f(x): return x + 2"),
    "a type of number": ("def f(x): return x + 1", "def f(x): return x + 1.0"),
    "the sign of zero": ("def f(x): return x * 0.0", "def f(x): return x * -0.0"),
    "a string": ("def f(x): return 'a'", "def f(x): return 'b'"),
    "a string or bytes": ("def f(x): return 'a'", "def f(x): return b'a'"),
    "a set of constants": ("def f(x): return x in {1, 2, 3}", "def f(x): return x in {1, 2, 4}"),
    "a nested constant": ("def f(x): return (1, (2, 'a'))", "def f(x): return (1, (2, 'b'))"),
    "the order": ("def f(x):\n x.a()\n x.b()", "def f(x):\n x.b()\n x.a()"),
    "which variable": ("def f(x, y): return x - y", "def f(x, y): return y - x"),
    "which variable of a closure": ("def f(a, b):\n def g(): return a - b\n return g", "def f(a, b):\n def g(): return b - a\n return g"),
    "a local shadows": ("def f(a):\n def g():\n  a = 1\n  return a\n return g, a",
                        "def f(a):\n def g():\n  b = 1\n  return a\n return g, a"),
    "an attribute": ("def f(x): return x.a", "def f(x): return x.b"),
    "a method or an attribute": ("def f(x): return x.a()", "def f(x): return (x.a)"),
    "a builtin": ("def f(x): return min(x)", "def f(x): return max(x)"),
    "an argument": ("def f(x): return 1", "def f(y): return 1"),
    "another argument": ("def f(x): return 1", "def f(x, y): return 1"),
    "keyword only": ("def f(x, y): return 1", "def f(x, *, y): return 1"),
    "position only": ("def f(x, y): return 1", "def f(x, /, y): return 1"),
    "stars": ("def f(x): return 1", "def f(*x): return 1"),
    "two stars": ("def f(*x): return 1", "def f(**x): return 1"),
    "a default": ("def f(x=1): return x", "def f(x=2): return x"),
    "which default": ("def f(x, y=1): return x", "def f(x=1, y=1): return x"),
    "a keyword's default": ("def f(*, x=1, y=2): return x", "def f(*, x=2, y=1): return x"),
    "a generator": ("def f(x): return x", "def f(x): yield x"),
    "a coroutine": ("def f(x): return 1", "async def f(x): return 1"),
    "a keyword of a call": ("def f(x): return x(a=1)", "def f(x): return x(b=1)"),
    "a keyword of a call, among others": ("def f(x): return x(1, a=1, c=2), x.g(d=3)", "def f(x): return x(1, a=1, c=2), x.g(e=3)"),
    "a jump": ("def f(x):\n for a in x:\n  if a: continue\n  a()\n x()", "def f(x):\n for a in x:\n  if a: break\n  a()\n x()"),
    "a branch": ("def f(x):\n if x: a = 1\n else: a = 2\n return a", "def f(x):\n if not x: a = 1\n else: a = 2\n return a"),
    "what is tried": ("def f(x):\n x.a()\n try: x.b()\n except OSError: x.c()",
                      "def f(x):\n try:\n  x.a()\n  x.b()\n except OSError: x.c()"),
    "what is caught": ("def f(x):\n try: x()\n except OSError: 0", "def f(x):\n try: x()\n except ValueError: 0"),
    "code inside": ("def f(x): return lambda: 1", "def f(x): return lambda: 2"),
    "a comprehension": ("def f(x): return [a for a in x]", "def f(x): return [a for a in x if a]"),
    "list or generator": ("def f(x): return list(a for a in x)", "def f(x): return [a for a in x]"),
    "defaults inside": ("def f():\n def g(x=1): return x\n return g", "def f():\n def g(x=2): return x\n return g"),
    "a field of a class inside": ("def f():\n class C:\n  x: int\n return C", "def f():\n class C:\n  y: int\n return C"),
    "super": ("class f:\n def g(self): return super().g()", "class f:\n def g(self): return super(f, self).g()"),
    "a helper": ("def h(x): return x\ndef f(x): return h(x)", "def h(x): return -x\ndef f(x): return h(x)"),
    "a helper's helper": ("def i(x): return 1\ndef h(x): return i(x)\ndef f(x): return h(x)",
                          "def i(x): return 2\ndef h(x): return i(x)\ndef f(x): return h(x)"),
    "a helper of code inside": ("def h(x): return x\ndef f(x): return [h(a) for a in x]",
                                "def h(x): return -x\ndef f(x): return [h(a) for a in x]"),
    "a recursive helper": ("def h(n): return n and h(n - 1)\ndef f(x): return h(x)",
                           "def h(n): return n and h(n - 2)\ndef f(x): return h(x)"),
    "a class it uses": ("class C:\n def g(self): return 1\ndef f(): return C()", "class C:\n def g(self): return 2\ndef f(): return C()"),
    "a constant": ("N = 1\ndef f(x): return x + N", "N = 2\ndef f(x): return x + N"),
    "a constant tuple": ("N = 1, ('a', None)\ndef f(x): return x + N", "N = 1, ('b', None)\ndef f(x): return x + N"),
    "a constant of a lambda inside": ("N = 1\ndef f(x): return lambda: N", "N = 2\ndef f(x): return lambda: N"),
    "a method": ("class f:\n def g(self): return 1", "class f:\n def g(self): return 2"),
    "an attribute of a class": ("class f:\n a = 1", "class f:\n a = 2"),
    "a table of a class": ("class f:\n a = {'x': [1]}", "class f:\n a = {'x': [2]}"),
    "name of an attribute": ("class f:\n a = 1", "class f:\n b = 1"),
    "a base": ("class B:\n def g(self): return 1\nclass f(B): pass", "class B:\n def g(self): return 2\nclass f(B): pass"),
    "a base's base": ("class A:\n x = 1\nclass B(A): pass\nclass f(B): pass", "class A:\n x = 2\nclass B(A): pass\nclass f(B): pass"),
    "order of bases": ("class A: a = 1\nclass B: b = 1\nclass f(A, B): pass", "class A: a = 1\nclass B: b = 1\nclass f(B, A): pass"),
    "a builtin base": ("class f(dict): pass", "class f(list): pass"),
    "a metaclass": ("class M(type):\n def g(cls): return 1\nclass f(metaclass=M): pass",
                    "class M(type):\n def g(cls): return 2\nclass f(metaclass=M): pass"),
    "a class inside": ("class f:\n class C:\n  x = 1", "class f:\n class C:\n  x = 2"),
    "a property": ("class f:\n @property\n def g(self): return 1", "class f:\n @property\n def g(self): return 2"),
    "a property or a method": ("class f:\n @property\n def g(self): return 1", "class f:\n def g(self): return 1"),
    "a setter": ("class f:\n @property\n def g(self): return 1\n @g.setter\n def g(self, v): self.v = v",
                 "class f:\n @property\n def g(self): return 1\n @g.setter\n def g(self, v): self.v = -v"),
    "a static method": ("class f:\n @staticmethod\n def g(): return 1", "class f:\n @staticmethod\n def g(): return 2"),
    "static or of the class": ("class f:\n @staticmethod\n def g(x): return 1", "class f:\n @classmethod\n def g(x): return 1"),
    "slots": ("class f:\n __slots__ = ('a',)", "class f:\n __slots__ = ('b',)"),
    "an argument of a decorator": ("def d(n):\n def wrap(g):\n  return lambda x: g(x) + n\n return wrap\n@d(1)\ndef f(x): return x",
                                   "def d(n):\n def wrap(g):\n  return lambda x: g(x) + n\n return wrap\n@d(2)\ndef f(x): return x"),
    "what is in a closure": ("def d(g): return lambda x: g(x)\n@d\ndef f(x): return 1",
                             "def d(g): return lambda x: g(x)\n@d\ndef f(x): return 2"),
    "which class is raised": ("class A(Exception): pass\nclass B(Exception): pass\nE = A\ndef f(): raise E",
                              "class A(Exception): pass\nclass B(Exception): pass\nE = B\ndef f(): raise E"),
    "a module": ("import json as m\ndef f(x): return m.loads(x)", "import marshal as m\ndef f(x): return m.loads(x)"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_changes_it(what: str) -> None:
    one, two = DIFFERENT[what]
    assert of(one) != of(two)
    assert of(one) == of(one) and of(two) == of(two)


WRAPPED = {
    "functools.wraps": "import functools\ndef d(g):\n @functools.wraps(g)\n def w(*a): return g(*a)\n return w\n@d\ndef f(x): return {}",
    "lru_cache": "import functools\n@functools.lru_cache(3)\ndef f(x): return {}",
    "partial": "import functools\ndef g(x, y): return {}\nf = functools.partial(g, 1)",
    "partial's argument": "import functools\ndef g(x, y): return 1\nf = functools.partial(g, {})",
    "contextmanager": "import contextlib\n@contextlib.contextmanager\ndef f(x): yield {}",
    "singledispatch": "import functools\n@functools.singledispatch\ndef f(x): return 1\n@f.register\ndef _(x: int): return {}",
    "a bound method": "class C:\n def g(self): return {}\nf = C().g",
    "a method of the class": "class C:\n @classmethod\n def g(self): return {}\nf = C.g",
    "what an object is": "class C:\n def __init__(self): self.n = {}\n def g(self): return self.n\nf = C().g",
    "in a class: wraps": ("import functools\ndef d(g):\n @functools.wraps(g)\n def w(*a): return g(*a)\n return w\n"
                          "class f:\n @d\n def g(self): return {}"),
    "in a class: cached_property": "import functools\nclass f:\n @functools.cached_property\n def g(self): return {}",
    "in a class: lru_cache": "import functools\nclass f:\n @functools.lru_cache\n def g(self): return {}",
    "in a class: partialmethod": "import functools\nclass f:\n def h(self, n): return n\n g = functools.partialmethod(h, {})",
    "in a class: singledispatchmethod": ("import functools\nclass f:\n @functools.singledispatchmethod\n def g(self, x): return 1\n"
                                         " @g.register\n def _(self, x: int): return {}"),
    "in a class: abstract": "import abc\nclass f(abc.ABC):\n @abc.abstractmethod\n def g(self): return {}",
    "in a class: a descriptor": ("class D:\n def __init__(self, n): self.n = n\n def __get__(self, o, t): return self.n\n"
                                 " def __set_name__(self, owner, name): self.owner = owner\nclass f:\n d = D({})"),
    "as a global: wraps": "import functools\n@functools.lru_cache\ndef g(x): return {}\ndef f(x): return g(x)",
    "as a global: partial": "import functools\ng = functools.partial(max, {})\ndef f(x): return g(x)",
    "as a global: a filter": "import soma\n@soma.filter\ndef g(x): return {}\ndef f(x): return g.function(x)",
    "dataclass": "import dataclasses\n@dataclasses.dataclass\nclass f:\n x: int = {}\n y: list = dataclasses.field(default_factory=list)",
    "dataclass's factory": ("import dataclasses\n@dataclasses.dataclass\nclass f:\n"
                            " y: list = dataclasses.field(default_factory=lambda: [{}])"),
    "frozen dataclass": ("import dataclasses\n@dataclasses.dataclass(frozen=True, slots=True)\nclass f:\n x: int = {}\n"
                         " def g(self): return self.x"),
    "enum": "import enum\nclass f(enum.Enum):\n A = {}\n B = 7\n def g(self): return self.value",
    "enum's method": "import enum\nclass f(enum.IntFlag):\n A = 1\n B = 4\n def g(self): return {}",
    "namedtuple": "import collections\nclass f(collections.namedtuple('P', 'x y', defaults=[{}])): pass",
    "NamedTuple": "import typing\nclass f(typing.NamedTuple):\n x: int = {}\n def g(self): return self.x",
    "generic": "import typing\nT = typing.TypeVar('T')\nclass f(typing.Generic[T]):\n def g(self) -> T: return {}",
    "protocol": "import typing\nclass f(typing.Protocol):\n def g(self) -> int: return {}",
    "typed dict": "import typing\nclass D(typing.TypedDict):\n x: int\nclass f:\n kind = D\n n = {}",
}


@pytest.mark.parametrize("what", WRAPPED)
def test_what_is_wrapped_is_seen(what: str) -> None:
    """Every form of wrapper that the standard library has, around code that differs in one number."""
    one, again, two = (WRAPPED[what].replace("{}", n) for n in ("1", "1", "2"))
    assert of(one) == of(again) != of(two)


def test_a_use_changes_nothing() -> None:
    """Bytecode is rewritten as it runs, caches fill, a repr and a copy leave traces in the class."""
    thing = define("""
        import dataclasses, functools
        @dataclasses.dataclass
        class f:
            x: int = 1
            @functools.cached_property
            def twice(self): return self.x * 2
            @functools.lru_cache
            def thrice(self): return self.x * 3
            __hash__ = object.__hash__
            def sum(self, n):
                total = 0
                for i in range(n):
                    total += i * self.x
                return total
        """)
    before = code_digest(thing)
    made = thing()
    assert (made.twice, made.thrice(), made.sum(5000), repr(made)) == (2, 3, 12497500, "f(x=1)")
    copy.copy(made)
    assert "__slotnames__" in vars(thing)
    assert code_digest(thing) == before


def test_dataclass_fields_count_by_what_they_make() -> None:
    start = "import dataclasses as d\n@d.dataclass{}\nclass f:\n {}"
    kinds = [
        ("", "x: int = 1"), ("", "x: int = 2"), ("", "y: int = 1"), ("", "x: int"), ("(frozen=True)", "x: int = 1"),
        ("(order=True)", "x: int = 1"), ("(eq=False)", "x: int = 1"), ("(repr=False)", "x: int = 1"), ("(kw_only=True)", "x: int = 1"),
        ("", "x: int = d.field(default=1, repr=False)"), ("", "x: int = d.field(default=1, compare=False)"),
        ("", "x: int = d.field(default=1, init=False)"), ("(slots=True)", "x: int = 1"),
    ]
    assert len({of(start.format(*kind)) for kind in kinds}) == len(kinds)
    assert of(start.format("", "x: int = 1")) == of(start.format("", "x: str = 1"))


def test_members_of_an_enum_count_by_name_and_value() -> None:
    bodies = ["A = 1\n B = 2", "A = 2\n B = 1", "A = 1\n C = 2", "A = 1\n B = 2\n C = 2", "A = 1", "B = 2\n A = 1"]
    assert len({of(f"import enum\nclass f(enum.Enum):\n {body}") for body in bodies}) == len(bodies)
    assert of("import enum\nclass f(enum.Enum): A = 1") != of("import enum\nclass f(enum.IntEnum): A = 1")


# -- recursion -----------------------------------------------------------------------------------------------------------------


def test_code_that_calls_itself_ends_and_is_seen_whole() -> None:
    mutual = "def f(n): return n and g(n - 1)\ndef g(n): return n and h(n - {})\ndef h(n): return n and f(n - 1)"
    assert of(mutual.format(1)) == of(mutual.format(1)) != of(mutual.format(2))
    assert of(mutual.format(1)) != of(mutual.format(1), "g") != of(mutual.format(2), "g")
    itself = "class f:\n def copy(self): return f({})\n other = None\nf.other = f"
    assert of(itself.format(1)) == of(itself.format(1)) != of(itself.format(2))
    space: dict[str, Any] = {"__name__": "users_own"}
    exec("\n".join(f"def f{n}(x): return [{', '.join(f'f{m}(x)' for m in range(30))}, {n}]" for n in range(30)), space)
    assert len({code_digest(space[f"f{n}"]) for n in range(30)}) == 30


# -- whose code ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of modules; those that are imported from it are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_is_installed_counts_by_its_version(importable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_library(place: str, version: str, body: str) -> list[str]:
        library = importable / place / "somelib"
        library.mkdir(parents=True)
        (library / "__init__.py").write_text(f"__version__ = {version!r}\nfrom somelib.inner import *\n")
        (library / "inner.py").write_text(body)
        sys.path.insert(0, str(library.parent))
        for name in ("somelib", "somelib.inner"):
            sys.modules.pop(name, None)
        from soma.store import origin

        origin._distribution.cache_clear()
        import somelib  # type: ignore[import-not-found]

        names = {"somelib": somelib, "helper": somelib.helper, "Base": somelib.Base}
        bodies = ("def f(x): return helper(x)", "class f(Base): pass", "def f(x): return somelib.helper(x)")
        made = [*(of(source, **names) for source in bodies), digest(somelib.Base()), digest(somelib.helper)]
        del sys.path[0], sys.modules["somelib"], sys.modules["somelib.inner"]
        return made

    bodies = [f"def helper(x): return {n}\nclass Base:\n def g(self): return {n}\n" for n in (1, 2)]
    site = "lib/python3.11/site-packages"
    first = with_library(f"a/{site}", "1.0", bodies[0])
    assert with_library(f"b/{site}", "1.0", bodies[1]) == first, "of a library the version counts, not the code"
    newer = with_library(f"c/{site}", "1.1", bodies[0])
    assert all(one != two for one, two in zip(first, newer, strict=True))
    own, changed = with_library("d", "1.0", bodies[0]), with_library("e", "1.0", bodies[1])
    assert all(one != two for one, two in zip(own, changed, strict=True)), "under any other path the code counts"


def test_a_module_of_the_users_own_is_followed_by_attribute(importable: Path) -> None:
    def with_helpers(n: int) -> list[str]:
        (importable / "pkg").mkdir(exist_ok=True)
        (importable / "pkg" / "__init__.py").write_text("")
        (importable / "pkg" / f"helpers{n}.py").write_text(f"LIMIT = 7\ndef scale(x): return x * {n}\ndef unused(x): return {n}\n")
        importlib.invalidate_caches()
        module = importlib.import_module(f"pkg.helpers{n}")
        module.__name__ = "pkg.helpers"
        package = types.ModuleType("pkg")
        package.helpers = module  # type: ignore[attr-defined]
        return [of(f"def f(x): return {what}", helpers=module, pkg=package)
                for what in ("helpers.scale(x)", "pkg.helpers.scale(x)", "helpers.LIMIT")]

    one, two = with_helpers(1), with_helpers(2)
    assert [a == b for a, b in zip(one, two, strict=True)] == [False, False, True]


def test_standard_names_in_a_users_own_module_are_the_users(importable: Path) -> None:
    """Somebody has a file `statistics.py`."""
    one, two = (define(f"def f(x): return {n}", module="statistics") for n in (1, 2))
    assert code_digest(one) != code_digest(two)


def test_classes_that_only_say_that_they_are_of_a_library() -> None:
    one, two = (dataclasses.make_dataclass("P", [("x", int, n)]) for n in (1, 2))
    one.__module__ = two.__module__ = "types"  # as make_dataclass itself had it until Python 3.12
    assert code_digest(one) != code_digest(two)


# -- what cannot be ------------------------------------------------------------------------------------------------------------


def test_a_variable_of_a_closure_that_has_no_content_is_named() -> None:
    lock = threading.Lock()

    def locked(x: Any) -> Any:
        with lock:
            return x

    with pytest.raises(IdentityError, match="closure lock") as caught:
        code_digest(locked)
    assert caught.value.path == f"{locked.__qualname__}.<closure lock>"
    with pytest.raises(IdentityError) as caught:
        digest({"k": [locked]})
    assert caught.value.path == "value['k'][0].<closure lock>"


def test_an_attribute_of_a_class_and_a_default_that_have_no_content_are_named() -> None:
    with pytest.raises(IdentityError) as caught:
        of("import threading\nclass f:\n lock = threading.Lock()")
    assert caught.value.path == "f.lock"
    with pytest.raises(IdentityError) as caught:
        of("import threading\ndef f(x=[threading.Lock()]): return x")
    assert caught.value.path == "f.__defaults__[0][0]"


def test_a_variable_that_has_no_value_yet() -> None:
    def outer(n: int) -> Any:
        def inner() -> Any:
            return later + n

        if n > 5:
            later = 1
        return inner

    assert code_digest(outer(1)) == code_digest(outer(1)) != code_digest(outer(2))


# -- as values -----------------------------------------------------------------------------------------------------------------


def test_as_values_classes_have_names_and_functions_do_what_they_do() -> None:
    one, two = define("class A: pass", "A"), define("class B: pass", "B")
    assert code_digest(one) == code_digest(two)
    assert digest(one) != digest(two)
    assert digest(one()) != digest(two())
    assert digest(one) != digest(define("class A: pass", "A", module="elsewhere"))
    assert digest(define("def f(x): return x")) == digest(define("def g(x): return x", "g"))


def test_an_object_of_a_changed_class_is_another_one() -> None:
    one, two = (define(f"class A:\n def g(self): return {n}", "A") for n in (1, 2))
    assert digest(one()) != digest(two())


def test_constants_of_other_kinds_are_followed() -> None:
    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

    for first, second in [(np.arange(3), np.arange(4)), (np.float64(1), np.float64(2)), (Colour.RED, Colour.BLUE), (1j, 2j), (b"a", b"b"),
                          (frozenset("a"), frozenset("b")), (None, ...), (max, min),
                          (functools.partial(max, 1), functools.partial(max, 2))]:
        assert of("def f(x): return N", N=first) == of("def f(x): return N", N=first) != of("def f(x): return N", N=second)


def test_abstract_classes_know_no_registry() -> None:
    made = [define("import abc\nclass f(abc.ABC):\n @abc.abstractmethod\n def g(self): return 1") for _ in range(2)]
    made[0].register(int)
    assert isinstance(1, made[0]) and isinstance(made[0], abc.ABCMeta)
    assert code_digest(made[0]) == code_digest(made[1])


# -- from elsewhere ------------------------------------------------------------------------------------------------------------

BODY = """
import dataclasses, enum
import numpy as np

LIMIT, WORDS = 3, frozenset({"alpha", "beta", "gamma"})

class Kind(enum.Enum):
    ONE = "one"
    TWO = "two"

def helper(x, depth=2):
    return helper(x, depth - 1) if depth else np.sqrt(x) + LIMIT

class Base:
    kinds = {"a", "b", "c"}
    def shared(self): return [w for w in WORDS if w in {"x", "y", "z"}], self.__class__

@dataclasses.dataclass
class Scale(Base):
    alpha: float = 1.0
    names: tuple = ("u", "v")
    def fit(self, x, y=None):
        def inner(v): return helper(v) * self.alpha
        return {"mean": inner(x), "kind": Kind.ONE, "again": Scale}
    @property
    def wide(self): return super().shared()
    @staticmethod
    def other(x): return {k: v for k, v in x.items()}
"""
LOADS = """
import pickle, sys
from soma.store import code_digest, digest
things = pickle.load(open(sys.argv[1], "rb"))
for thing in things:
    print(code_digest(thing), digest(thing))
"""


def test_what_came_by_value_to_another_process_is_the_same(tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(BODY, "/home/user/app.py", "exec", dont_inherit=True), space)
    things = [space[name] for name in ("Scale", "helper", "Base", "Kind")]
    file = tmp_path / "things"
    file.write_bytes(cloudpickle.dumps(things))
    here = "".join(f"{code_digest(thing)} {digest(thing)}\n" for thing in things)
    for seed in ("0", "1", "random"):
        environment = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=ROOT)
        done = subprocess.run([sys.executable, "-c", LOADS, str(file)], check=True, capture_output=True, text=True, env=environment)
        assert done.stdout == here


def test_what_is_imported_elsewhere_is_the_same(tmp_path: Path) -> None:
    """From source, from a file with other comments, and from one that was compiled before, without its source."""
    program = "import app\nfrom soma.store import code_digest\nprint(code_digest(app.Scale), code_digest(app.helper))"

    def said(folder: Path, *flags: str) -> str:
        environment = dict(os.environ, PYTHONPATH=f"{folder}{os.pathsep}{ROOT}", PYTHONHASHSEED="random")
        return subprocess.run([sys.executable, *flags, "-c", program], check=True, capture_output=True, text=True, env=environment).stdout

    folders = [tmp_path / name for name in ("source", "commented", "compiled")]
    for folder in folders:
        folder.mkdir()
        (folder / "app.py").write_text(BODY)
    (folders[1] / "app.py").write_text("# one\n# two\n" + BODY.replace("\n", "\n\n").replace("y=None):", "y=None):  # learns"))
    compiled = folders[2] / "app.py"
    py_compile.compile(str(compiled), cfile=f"{compiled}c")
    compiled.unlink()
    results = [said(folder) for folder in folders]
    assert results == [results[0]] * 3
    assert said(folders[0], "-OO") == results[0], "documentation that is left out changes nothing"
