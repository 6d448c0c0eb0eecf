"""What may be served, as the `Source` that slots load. The front end never imports the user's code: it looks at the file's text."""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from soma import cluster
from soma.actors.handle import ActorHandle
from soma.serve.slots import Source

if TYPE_CHECKING:
    from soma.graph import Graph

WAYS = '"predict.py:Predictor", a fitted graph, a filter, a class or function with predict, or an actor with forward'


class GraphPredictor:
    """A fitted graph as a predictor: each slot has a graph of its own, whose filters run in their own processes."""

    def __init__(self, graph: Graph, state: Any) -> None:
        self._graph, self._state = graph, state

    def setup(self) -> None:
        self._graph.load_state(self._state)

    def predict(self, x: Any) -> Any:
        """One output for one input; lists of numbers become arrays."""
        from soma.serve.slots.serving import arrayed

        return self._graph.forward(arrayed(x))


def source_of(target: Any, *, train: str = "", upload_url: str = "") -> Source:
    """The source of what a user wants served.

    Args:
        target: see `WAYS`.
        train: the function of the file that trains.
        upload_url: where output files are PUT.

    Raises:
        ValueError, TypeError: it cannot be served; says what can.
    """
    if isinstance(target, str | Path):
        return _file(str(target), train, upload_url)
    if isinstance(target, Source):
        return target
    graphs = sys.modules.get("soma.graph")  # whoever has a graph has imported that; nobody else should wait for it
    if graphs is not None and isinstance(target, graphs.Graph):
        return Source(value=cluster.put(GraphPredictor(target, target.state())), upload_url=upload_url)
    if isinstance(target, ActorHandle):
        return Source(value=target, upload_url=upload_url)
    if not callable(target) and not any(hasattr(target, name) for name in ("predict", "run", "forward")):
        raise TypeError(f"{type(target).__name__} cannot be served: {WAYS}")
    _spell_out(target)
    return Source(value=cluster.put(target), upload_url=upload_url)


def _spell_out(target: Any) -> None:
    """Annotations that are text become what they name: a function that travels by value takes along what its code names, and no more."""
    owner = target if inspect.isclass(target) or inspect.isfunction(target) else type(target)
    for fn in (owner, *(getattr(owner, name, None) for name in ("setup", "predict", "run", "train"))):
        if inspect.isfunction(fn) and any(isinstance(a, str) for a in fn.__annotations__.values()):
            with contextlib.suppress(NameError):  # the slot says which
                fn.__annotations__ = get_type_hints(fn, include_extras=True)


def _file(target: str, train: str, upload_url: str) -> Source:
    path, _, name = target.partition(":")
    file = Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"{target!r}: there is no file {path!r}; serve {WAYS}")
    return Source(file=str(file), name=name, train=train, upload_url=upload_url, directory="")


def wants_board(source: Source) -> bool:
    """Whether the predictor may have a health check of its own."""
    return not source.file or "healthcheck" in Path(source.file).read_text(encoding="utf-8", errors="replace")


def is_async(source: Source) -> bool:
    """Whether predictions are coroutines, which share a process: read from the file's text. Of a value, the value tells."""
    if not source.file:
        return False
    try:
        tree = ast.parse(Path(source.file).read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return False  # loading it will say so
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    named = [found[source.name]] if source.name in found else [node for node in found.values() if _predicts(node) is not None]
    return any(isinstance(_predicts(node), ast.AsyncFunctionDef) for node in named)


def _predicts(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.ClassDef):
        return node
    return next((n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name in ("predict", "run")), None)
