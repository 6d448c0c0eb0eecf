"""`behaviour` on thousands of functions of the standard library: the same whatever the layout, another after any change.

The layout is changed by writing each module anew from its syntax tree, without comments, documentation and annotations, each
statement on one line. Whether a change of the tree is a change of the code says a second oracle, a plain listing of both: they have
the same layout, so the listings differ exactly where the code does.
"""

from __future__ import annotations

import ast
import copy
import dis
import importlib.util
import random
import types
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soma.store.bytecode import behaviour

MODULES = ["argparse", "ast", "asyncio.base_events", "asyncio.streams", "asyncio.tasks", "collections", "configparser", "contextlib",
           "csv", "dataclasses", "difflib", "email.message", "enum", "fractions", "functools", "http.client", "inspect", "json.decoder",
           "logging", "mailbox", "pdb", "pickle", "pydoc", "random", "shutil", "statistics", "subprocess", "tarfile", "textwrap",
           "threading", "trace", "turtle", "unittest.mock", "urllib.request", "uuid", "zipfile"]

OPTIMIZED = 1
"""CO_OPTIMIZED: a function, and no body of a class."""


@cache
def source_of(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        return file.read()


def compiled(source: str) -> types.CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the compiler says of "\\d" and `is 1` was said when it was written
        return compile(source, "x", "exec", dont_inherit=True)


class Bare(ast.NodeTransformer):
    """Without documentation and annotations."""

    def visit_FunctionDef(self, node: Any) -> Any:
        self.generic_visit(node)
        node.returns = None
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
            if argument is not None:
                argument.annotation = None
        return self.without_documentation(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: Any) -> Any:
        self.generic_visit(node)
        return self.without_documentation(node)

    def without_documentation(self, node: Any) -> Any:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


@cache
def bare(name: str) -> ast.Module:
    tree: ast.Module = Bare().visit(ast.parse(source_of(name)))
    return tree


def functions(code: types.CodeType) -> Iterator[types.CodeType]:
    """The functions of a module and of its classes; those inside of them are part of them."""
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            if inner.co_flags & OPTIMIZED:
                yield inner
            else:
                yield from functions(inner)


@pytest.mark.parametrize("name", MODULES)
def test_layout_does_not_count(name: str) -> None:
    as_written, anew = (list(functions(compiled(source))) for source in (source_of(name), ast.unparse(bare(name))))
    assert [code.co_qualname for code in as_written] == [code.co_qualname for code in anew]
    assert len(as_written) > 5
    assert [one.co_qualname for one, two in zip(as_written, anew, strict=True) if behaviour(one) != behaviour(two)] == []


def listing(code: types.CodeType) -> Any:
    """All that dis knows of a code object, but lines, documentation and places of names in tables."""
    steps = []
    for step in dis.get_instructions(code):
        value = code.co_consts[step.arg or 0] if step.opcode in dis.hasconst else step.argval
        by_name = step.opcode in dis.hasname or step.opcode in dis.hasconst
        shown = listing(value) if isinstance(value, types.CodeType) else (type(value), repr(value))
        steps.append((step.opname, shown, step.argrepr if step.opcode in dis.hasname else "", None if by_name else step.arg))
    return steps, code.co_exceptiontable, code.co_varnames[:code.co_argcount + code.co_kwonlyargcount], code.co_flags & 0x2AE


def changed(function: Any, chance: random.Random) -> Any:
    """A copy with one small change, such as a bug would be."""
    tree = copy.deepcopy(function)
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    kinds = (ast.BinOp, ast.Compare, ast.Constant, ast.Call, ast.If, ast.BoolOp, ast.Break, ast.Try, ast.For, ast.While, ast.Name,
             ast.Attribute, ast.keyword, ast.UnaryOp)
    renamed = [found for found in ast.walk(tree) if isinstance(found, ast.Name) and not isinstance(found.ctx, ast.Load)]
    # Another name where a variable is set may be no change at all: nobody may read it.
    node: Any = chance.choice([found for found in ast.walk(tree) if isinstance(found, kinds) and found not in renamed] or [tree])
    match node:
        case ast.BinOp():
            node.left, node.right = node.right, node.left
        case ast.Compare():
            node.left, node.comparators[0] = node.comparators[0], node.left
        case ast.Constant(value=bool() | int() | float()):
            node.value = not node.value if isinstance(node.value, bool) else node.value + 1
        case ast.Constant(value=str() | bytes()):
            node.value = node.value + (b"x" if isinstance(node.value, bytes) else "x")
        case ast.Call() if len(node.args) > 1:
            node.args[:2] = node.args[1], node.args[0]
        case ast.If():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.Break():
            node.__class__ = ast.Continue
        case ast.Try() if len(node.body) > 1:
            (node.finalbody or node.orelse or node.handlers[0].body).insert(0, node.body.pop())
        case ast.For() | ast.While():
            node.body = node.body[1:] + node.body[:1]
        case ast.Name():
            node.id = chance.choice(names)
        case ast.Attribute():
            node.attr += "z"
        case ast.keyword(arg=str()):
            node.arg += "z"
        case ast.UnaryOp():
            node.op = ast.Invert() if isinstance(node.op, ast.USub) else ast.USub()
    return ast.fix_missing_locations(tree)


def alone(function: Any) -> types.CodeType:
    function.decorator_list, function.name = [], "f"
    return next(functions(compiled(ast.unparse(function))))


@given(st.sampled_from(MODULES), st.randoms(use_true_random=False))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_every_change_counts(name: str, chance: random.Random) -> None:
    candidates = [node for node in ast.walk(bare(name)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in chance.sample(candidates, 5):
        try:
            one, two = alone(copy.deepcopy(function)), alone(changed(function, chance))
        except SyntaxError:  # of the change: `break` in its new place, a name that is also global, …
            continue
        assert (behaviour(one).text == behaviour(two).text) is (listing(one) == listing(two))


def test_what_a_comprehension_loads_is_not_taken_for_a_cell() -> None:
    """Where comprehensions are part of their function, a variable of theirs may be named as a cell is."""
    def code(body: str) -> types.CodeType:
        return next(functions(compiled(f"def f(y, z):\n x = 1\n g = lambda: x\n return {body}, g")))

    bodies = ["[x - z for x in y]", "[z - x for x in y]", "[x - x for x in y]", "[(x, lambda: x) for x in y]",
              "[(z, lambda: x) for x in y]", "[(x, lambda: z) for x in y]"]
    assert len({behaviour(code(body)).text for body in bodies}) == len(bodies)


def test_globals_that_are_read() -> None:
    def reads(source: str) -> Any:
        return behaviour(next(functions(compiled(source)))).reads

    assert reads("def f(x): return np.linalg.norm(x) + LIMIT + x.LIMIT") == (("LIMIT",), ("np", "linalg", "norm"))
    assert reads("def f(x):\n def g(): return inner(x)\n class C(Base):\n  n = N\n return g") == (("Base",), ("N",), ("inner",))
    assert reads("def f():\n global n\n n = n + 1") == ()
    assert reads("def f(x: Hint) -> Other: x.y: Third = 1") == ()
