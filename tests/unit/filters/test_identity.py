"""What makes a filter the one it is: the same in other processes, another when code or parameters change."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import soma
from soma.errors import IdentityError
from soma.filters import identity_of

ROOT = Path(soma.__file__).parents[1]

PROGRAM = '''
import soma, numpy as np

EPS = 1e-6

def helper(x):
    return x + EPS

@soma.filter
class Scale:
    """Scales."""
    rate = 3

    def __init__(self, k=2, table=None):
        self.k, self.table = k, table

    def fit(self, x, y=None):
        # what it learns
        return {"mean": helper(x.mean())}

    def forward(self, x, state):
        scaled = x * self.k * self.rate
        return scaled - state["mean"]

made = Scale(3, {"b": [1, 2], "a": np.arange(3)})
'''


def identity(program: str = PROGRAM, name: str = "made") -> str:
    scope: dict[str, Any] = {"__name__": "program"}
    exec(compile(textwrap.dedent(program), "program.py", "exec"), scope)
    return identity_of(scope[name]).digest


@pytest.mark.parametrize("change", [
    lambda p: p.replace("# what it learns", "# something else"),
    lambda p: p.replace('"""Scales."""', '"""Scales, very well."""'),
    lambda p: p.replace("scaled", "product"),
    lambda p: "\n\n\n" + p.replace("    return x + EPS", "    return (x  +  EPS)"),
    lambda p: p.replace('def forward(self, x, state):', 'def forward(self, x: "np.ndarray", state: dict) -> "np.ndarray":'),
], ids=["comment", "docstring", "local name", "whitespace", "annotations"])
def test_what_does_not_matter(change: Callable[[str], str]) -> None:
    assert change(PROGRAM) != PROGRAM and identity(change(PROGRAM)) == identity()


@pytest.mark.parametrize("change", [
    lambda p: p.replace("Scale(3,", "Scale(4,"), lambda p: p.replace("[1, 2]", "[1, 2.0]"), lambda p: p.replace("arange(3)", "arange(4)"),
    lambda p: p.replace("x * self.k", "x + self.k"), lambda p: p.replace("rate = 3", "rate = 4"), lambda p: p.replace("1e-6", "1e-7"),
    lambda p: p.replace("return x + EPS", "return x - EPS"), lambda p: p.replace("x.mean()", "x.std()"),
    lambda p: p.replace("class Scale", "class Scaler").replace("made = Scale", "made = Scaler"),
    lambda p: p.replace("k=2, table=None", "k=2, table=None, more=1").replace("self.k, self.table = k, table",
                                                                           "self.k, self.table, self.more = k, table, more"),
], ids=["parameter", "type inside a parameter", "array in a parameter", "forward", "class attribute", "constant", "helper", "fit", "name",
        "another parameter"])
def test_what_matters(change: Callable[[str], str]) -> None:
    assert change(PROGRAM) != PROGRAM and identity(change(PROGRAM)) != identity()


def test_a_version_takes_the_place_of_the_code() -> None:
    def program(version: str, code: str) -> str:
        return PROGRAM.replace("@soma.filter\n", f"@soma.filter(version={version!r})\n").replace("x * self.k", code)

    assert identity(program("1", "x * self.k")) == identity(program("1", "x + self.k"))
    assert identity(program("1", "x * self.k")) != identity(program("2", "x * self.k"))


def test_it_is_the_same_in_every_process_and_after_a_journey(tmp_path: Path) -> None:
    module = tmp_path / "program.py"
    module.write_text(textwrap.dedent(PROGRAM))
    code = "import sys, program; from soma.filters import identity_of; print(identity_of(program.made).digest)"
    travelled = ("import sys, cloudpickle; from soma.filters import identity_of\n"
                 "print(identity_of(cloudpickle.loads(sys.stdin.buffer.read())).digest)")
    seen = set()
    for seed in ("0", "1", "random"):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                              env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONHASHSEED": seed})
        seen.add(done.stdout)
    assert len(seen) == 1

    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(textwrap.dedent(PROGRAM), "nowhere.py", "exec"), scope)
    here = identity_of(scope["made"]).digest
    class_by_value = cloudpickle.dumps(scope["made"])
    done = subprocess.run([sys.executable, "-c", travelled], input=class_by_value, capture_output=True, check=True,
                          env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"})
    assert done.stdout.decode().strip() == here
    assert identity_of(cloudpickle.loads(cloudpickle.dumps(scope["made"]))).digest == here
    assert identity_of(scope["made"]).digest == here, "pickling it changed nothing"


def test_it_is_the_same_where_soma_is_installed_and_where_it_is_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    code = "import soma, program; from soma.filters import identity_of; print(soma.__file__, identity_of(program.made).digest)"
    seen = {}
    for place in ("checkout", "venv/lib/python3.11/site-packages", "usr/lib/python3/dist-packages"):
        package = tmp_path / place / "soma"
        shutil.copytree(ROOT / "soma", package, ignore=shutil.ignore_patterns("__pycache__"))
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                              env={"PYTHONPATH": str(package.parent)})
        file, seen[place] = done.stdout.split()
        assert file == str(package / "__init__.py")
    assert len(set(seen.values())) == 1, seen


def test_functions_and_what_they_close_over() -> None:
    def times(k: Any) -> Any:
        return soma.filter(lambda x: x * k)

    assert identity_of(times(2)).digest == identity_of(times(2)).digest != identity_of(times(3)).digest
    assert identity_of(times(np.arange(3))).digest != identity_of(times(np.arange(3.0))).digest


def test_whatever_can_be_called_is_what_it_does() -> None:
    made = [np.sqrt, np.log1p, abs, partial(np.add, 1), partial(np.add, 2), partial(np.multiply, 2), itemgetter(1), itemgetter(2)]
    assert len({identity_of(soma.filter(f)).digest for f in made}) == len(made)
    assert identity_of(soma.filter(partial(np.add, 1))).digest == identity_of(soma.filter(partial(np.add, 1))).digest


def test_parts_say_what_differs() -> None:
    @soma.filter
    class A:
        def __init__(self, a: int = 1, b: int = 2) -> None:
            self.a, self.b = a, b

        def forward(self, x: Any, state: Any) -> Any:
            return x

    one, other = identity_of(A()), identity_of(A(b=3))
    assert [name for name in one.parts if one.parts[name] != other.parts[name]] == ["parameter b"]
    assert one.name == f"{__name__}.test_parts_say_what_differs.<locals>.A"


class TestRefusals:
    def test_a_parameter_that_has_no_identity_is_named(self) -> None:
        @soma.filter
        class A:
            def __init__(self, net: Any) -> None:
                self.net = net

            def forward(self, x: Any, state: Any) -> Any:
                return x

        with pytest.raises(IdentityError, match=r"^A\.net\['a'\]\[1\] cannot be hashed stably: "):
            identity_of(A({"a": [1, threading.Lock()]}))

    def test_a_value_that_a_function_closes_over_is_named(self) -> None:
        lock = threading.Lock()
        with pytest.raises(IdentityError, match="lock"):
            identity_of(soma.filter(lambda x: (x, lock)))

    def test_without_a_cache_nobody_asks(self) -> None:
        nobody = object()
        with soma.init(local=True), soma.Graph(soma.filter(lambda x: (x, nobody is None))) as g:
            assert g.forward(1) == (1, False)


class TestWhatOthersWrote:
    def test_estimators(self) -> None:
        linear = pytest.importorskip("sklearn.linear_model")
        ridge = soma.filter(linear.Ridge)
        assert identity_of(ridge(alpha=1.0)).digest == identity_of(soma.filter(linear.Ridge(alpha=1.0))).digest
        assert len({identity_of(f).digest for f in (ridge(), ridge(alpha=2.0), ridge(alpha=2), soma.filter(linear.Lasso)())}) == 4
        proba = soma.filter(linear.LogisticRegression, method="predict_proba")
        assert identity_of(proba()).digest != identity_of(soma.filter(linear.LogisticRegression)()).digest

    def test_modules(self) -> None:
        torch = pytest.importorskip("torch")

        class Net(torch.nn.Module):  # type: ignore[name-defined, misc]
            def __init__(self, hidden: int = 2) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(2, hidden)

        net = soma.filter(Net)
        assert identity_of(net(3)).digest == identity_of(net(hidden=3)).digest != identity_of(net(4)).digest
        assert identity_of(soma.filter(Net, loss_fn=torch.nn.functional.l1_loss)(3)).digest != identity_of(net(3)).digest
        module = Net()
        assert identity_of(soma.filter(module)).digest == identity_of(soma.filter(module)).digest
        assert identity_of(soma.filter(module)).digest != identity_of(soma.filter(Net())).digest, "other weights"
