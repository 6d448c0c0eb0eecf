"""Serving: predictions over HTTP, each in a slot: a process of its own, whose crash, hang or cancel the others never notice.

    soma.serve.run("predict.py:Predictor", slots=2)
    with soma.serve.test_client(graph) as client:
        client.post("/predictions", json={"input": {"x": 1}})

Names are looked up when they are first used (PEP 562): importing this package loads no web server, no client, and nothing of a graph's.
A predictor's file imports from here what it needs; in a slot's process that stays as little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soma.serve.batching import batch as batch
    from soma.serve.compat import AsyncConcatenateIterator as AsyncConcatenateIterator
    from soma.serve.compat import BaseModel as BaseModel
    from soma.serve.compat import BasePredictor as BasePredictor
    from soma.serve.compat import BaseRunner as BaseRunner
    from soma.serve.compat import CancelationException as CancelationException
    from soma.serve.compat import ConcatenateIterator as ConcatenateIterator
    from soma.serve.compat import ExperimentalFeatureWarning as ExperimentalFeatureWarning
    from soma.serve.compat import File as File
    from soma.serve.compat import Input as Input
    from soma.serve.compat import Opaque as Opaque
    from soma.serve.compat import Path as Path
    from soma.serve.compat import Secret as Secret
    from soma.serve.compat import URLPath as URLPath
    from soma.serve.compat import concurrent as concurrent
    from soma.serve.compat import current_scope as current_scope
    from soma.serve.compat import emit_metric as emit_metric
    from soma.serve.compat import streaming as streaming
    from soma.serve.serving import run as run
    from soma.serve.serving import test_client as test_client

_HOME = {
    "batch": "soma.serve.batching",
    **dict.fromkeys(("run", "test_client"), "soma.serve.serving"),
    **dict.fromkeys(("AsyncConcatenateIterator", "BaseModel", "BasePredictor", "BaseRunner", "CancelationException", "ConcatenateIterator",
                     "ExperimentalFeatureWarning", "File", "Input", "Opaque", "Path", "Secret", "URLPath", "concurrent", "current_scope",
                     "emit_metric", "streaming"), "soma.serve.compat"),
}
NEEDED = ("uvicorn", "httptools", "httpx", "prometheus_client")
"""Modules of the extra `serve`."""


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"soma.serve has no {name!r}")
    try:
        value = getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as e:
        if e.name not in NEEDED:
            raise
        raise ModuleNotFoundError(f"serving needs {e.name}: pip install 'soma[serve]'", name=e.name) from e
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
