"""The house rules, checked on the syntax tree: arrows, sizes, names, swallowed errors, sleeps in tests.

An arrow is an import, at whatever depth and also under `TYPE_CHECKING`; it may only go down. A rule with a good exception
gets it here, by name, with the reason.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOMA = ROOT / "soma"

LAYERS: dict[str, float] = {
    "cli": 7, "demo": 7, "dashboard": 7, "study": 6, "serve": 6, "jobs": 6, "util": 6,
    "graph": 5, "train": 5, "filters": 4, "cluster": 3, "store": 3, "runs": 3,
    "daemon": 2.5, "environments": 1.5, "actors": 2, "transport": 1, "errors": 0, "ids": 0, "config": 0, "events": 0,
    "mypy": 7,  # a plugin of the type checker: imports nothing of soma, and nothing imports it
}
SIDEWAYS = {("cli", "dashboard"), ("cli", "demo"), ("errors", "ids"), ("config", "ids"), ("config", "errors"),
            ("runs", "cluster"), ("train", "graph"), ("study", "util")}
"""Within a layer, these may import those."""

TRANSPORT_ONLY = {"zmq", "pickle", "cloudpickle", "_pickle", "marshal", "shelve", "dill"}
"""Foreign formats and sockets have one home, and so do their errors."""

FILE_LINES, FUNCTION_LINES, PARAMETERS = 300, 60, 7
PUBLIC_VERBS = {"soma/cluster/session.py": {"init"}, "soma/graph/graph.py": {"fit", "forward", "stream"},
                "soma/jobs/verbs.py": {"submit"}, "soma/study/study.py": {"__init__"}, "soma/study/searching.py": {"__init__"},
                "soma/train/data_parallel.py": {"__init__", "fit"}, "soma/train/federated.py": {"__init__"},
                "soma/train/pipelining/pipeline.py": {"__init__", "fit"}}
"""Users call these by keyword; the names are the field's."""

SAYS_NOTHING = {"manager", "helper", "helpers", "util", "utils", "base", "impl"}
FOREIGN_NAMES = {"BaseModel", "BasePredictor", "BaseRunner"}
"""Cog's names, which a Cog predictor imports."""

FILES = sorted(SOMA.rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def home(module: str) -> str:
    """The part of the house that a module is in: `soma.actors.refs` is in `actors`; `soma` itself is the facade, ``""``."""
    return module.split(".")[1] if "." in module else ""


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, with its line. `from soma import x` counts as the module `soma.x`, if there is one."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            if module != "soma":
                yield node.lineno, module
            else:
                yield from ((node.lineno, f"soma.{a.name}" if a.name in LAYERS else "soma:" + a.name) for a in node.names)
        elif isinstance(node, ast.Call) and is_call_of(node, {"import_module", "__import__"}) and node.args:
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str) and re.match(r"soma\b", target.value):
                yield node.lineno, target.value


def is_call_of(node: ast.Call, names: set[str]) -> bool:
    called = node.func
    return (isinstance(called, ast.Name) and called.id in names) or (isinstance(called, ast.Attribute) and called.attr in names)


def wrong_arrows(path: Path) -> Iterator[str]:
    here = home(dotted(path))
    if here == "":
        return  # the facade names everything, lazily; test_import watches that it stays lazy
    for line, module in imports(path):
        where = f"{name_of(path)}:{line}: "
        if not re.match(r"soma\b", module):
            continue
        if ":" in module or module == "soma":
            if module != "soma:__version__":
                yield where + f"imports {module.replace(':', '.')} from the facade; import it from its own module"
        elif (there := home(module)) not in LAYERS:
            yield where + f"{module} is in no layer"
        elif there != here and LAYERS[there] >= LAYERS[here] and (here, there) not in SIDEWAYS:
            yield where + f"{here} (layer {LAYERS[here]}) imports {module} (layer {LAYERS[there]})"
        elif there == "transport" and LAYERS[here] > LAYERS["cluster"]:
            yield where + f"{here} is above cluster: it uses the public verbs, never the transport"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    spec = function.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def words(name: str) -> set[str]:
    return {w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def swallows(handler: ast.ExceptHandler) -> bool:
    """A bare `except:` that does not raise again, or one whose whole body is `pass`."""
    if handler.type is None and not any(isinstance(n, ast.Raise) for n in ast.walk(handler)):
        return True
    return all(isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) for s in handler.body)


def suppresses_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and is_call_of(node, {"suppress"}) and any(
        isinstance(a, ast.Name) and a.id in {"Exception", "BaseException"} for a in node.args)


def in_every_file(rule: Callable[[Path], Iterator[str]]) -> list[str]:
    """What a rule complains of, in all of soma. One test for each rule and not for each file: there are hundreds of those."""
    return [said for path in FILES for said in rule(path)]


def test_imports_go_down() -> None:
    assert in_every_file(wrong_arrows) == []


def test_foreign_formats_stay_in_the_transport() -> None:
    def rule(path: Path) -> Iterator[str]:
        if home(dotted(path)) != "transport":
            yield from (f"{name_of(path)}:{line}: {m}" for line, m in imports(path) if m.partition(".")[0] in TRANSPORT_ONLY)

    assert in_every_file(rule) == []


def test_the_lowest_layer_needs_only_the_standard_library() -> None:
    def rule(path: Path) -> Iterator[str]:
        if LAYERS.get(home(dotted(path))) == 0:
            roots = {m.partition(".")[0] for _, m in imports(path)}
            yield from (f"{name_of(path)}: {root}" for root in roots - set(sys.stdlib_module_names) - {"soma"})

    assert in_every_file(rule) == []


def test_every_file_says_what_it_is() -> None:
    def rule(path: Path) -> Iterator[str]:
        if parse(path).body and not ast.get_docstring(parse(path)):
            yield f"{name_of(path)} has no docstring"

    assert in_every_file(rule) == []


def test_every_file_can_be_held_in_the_head() -> None:
    def rule(path: Path) -> Iterator[str]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            yield f"{name_of(path)} has {lines} lines"
        allowed = PUBLIC_VERBS.get(name_of(path), set())
        for f in functions(parse(path)):
            long, wide = (f.end_lineno or f.lineno) - f.lineno + 1, parameters(f)
            if long > FUNCTION_LINES:
                yield f"{name_of(path)}:{f.lineno}: {f.name} has {long} lines"
            if wide > PARAMETERS and f.name not in allowed:
                yield f"{name_of(path)}:{f.lineno}: {f.name} has {wide} parameters"

    assert in_every_file(rule) == []


def test_names_say_something() -> None:
    def rule(path: Path) -> Iterator[str]:
        classes = [n.name for n in ast.walk(parse(path)) if isinstance(n, ast.ClassDef) and n.name not in FOREIGN_NAMES]
        yield from (f"{name_of(path)}: {n}" for n in (path.stem, *classes) if words(n) & SAYS_NOTHING)

    assert in_every_file(rule) == []


def test_no_error_is_swallowed() -> None:
    """Handle it, or say which error may be ignored: `contextlib.suppress(ThatError)`."""
    def rule(path: Path) -> Iterator[str]:
        found = [n.lineno for n in ast.walk(parse(path)) if isinstance(n, ast.ExceptHandler) and swallows(n)]
        found += [n.lineno for n in ast.walk(parse(path)) if suppresses_all(n)]  # type: ignore[attr-defined]
        yield from (f"{name_of(path)}:{line}" for line in found)

    assert in_every_file(rule) == []


def test_every_part_of_the_house_has_a_layer() -> None:
    parts = {home(dotted(path)) for path in FILES} - {""}
    assert parts <= set(LAYERS)


def test_no_test_sleeps_to_wait() -> None:
    """A sleep that is the work of an actor says so: `# workload`. `asyncio.sleep(0)` is none: it lets others have their turn."""
    found = []
    for path in TEST_FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        calls = [n.lineno for n in ast.walk(parse(path)) if isinstance(n, ast.Call) and is_call_of(n, {"sleep"})
                 and not any(isinstance(a, ast.Constant) and a.value == 0 for a in n.args)]
        found += [f"{name_of(path)}:{n}" for n in calls if "# workload" not in lines[n - 1]]
    assert found == []


@pytest.mark.parametrize(("where", "source", "complaint"), [
    ("transport/frames.py", "from soma.actors import refs", "layer 1"),
    ("transport/frames.py", "def f():\n    import soma.cluster", "layer 1"),
    ("actors/refs.py", "from ..cluster import get", "layer 2"),
    ("actors/refs.py", "from soma import get", "facade"),
    ("actors/refs.py", "import importlib\nimportlib.import_module('soma.graph')", "layer 2"),
    ("graph/plan.py", "from soma.transport import frames", "never the transport"),
    ("graph/plan.py", "from soma.train import buckets", "layer 5"),
    ("cluster.py", "from soma.nowhere import x", "in no layer"),
])
def test_a_wrong_arrow_is_found(where: str, source: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "soma" / where
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert [complaint in said for said in wrong_arrows(path)] == [True]


@pytest.mark.parametrize("source", ["from soma import __version__", "from soma.actors import refs", "from . import x",
                                    "from soma.errors import SomaError", "import os.path"])
def test_a_right_arrow_is_left_alone(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "soma" / "daemon" / "node.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert list(wrong_arrows(path)) == []
