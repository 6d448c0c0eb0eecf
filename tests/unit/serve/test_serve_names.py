"""`soma.serve` as a name space: what it has, and that having it costs nothing."""

from __future__ import annotations

import builtins
import subprocess
import sys
from typing import Any

import pytest

import soma
import soma.serve
from soma.graph.above import offered
from soma.serve import compat

HEAVY = ("starlette", "uvicorn", "httpx", "httptools", "prometheus_client", "pydantic", "soma.graph", "soma.study", "torch")
CODE = f"""
import sys, soma.serve
from soma.serve import BasePredictor, ConcatenateIterator, Input, Path, batch, current_scope
import soma.serve.slots
print([m for m in {HEAVY!r} if m in sys.modules])
"""


def test_what_a_predictors_file_imports_loads_no_web_server() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=25, check=True)
    assert done.stdout == "[]\n"


def test_every_name_is_there() -> None:
    assert {name for name in vars(compat) if name[0].isupper()} - {"FieldInfo"} <= set(dir(soma.serve))
    for name in set(soma.serve._HOME) - {"run", "test_client"}:
        assert getattr(soma.serve, name) is not None
    with pytest.raises(AttributeError, match="soma.serve has no 'nothing'"):
        _ = soma.serve.nothing  # type: ignore[attr-defined]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return real(name, *args)

    for name in [m for m in sys.modules if m.startswith(("soma.serve.serving", "soma.serve.http"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(vars(soma.serve), "run", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'soma\[serve\]'"):
        _ = soma.serve.run


def test_a_graph_serves_itself() -> None:
    pytest.importorskip("uvicorn")
    assert "serve" in vars(soma.Graph) and offered("serve") is soma.serve.run
