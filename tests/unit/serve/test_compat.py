"""Cog's names, with soma behind them; and predictors written for Cog, which run as they are, with the package `cog` or without it."""

from __future__ import annotations

import base64
import copy
import importlib
import importlib.util
import inspect
import io
import json
import os
import pathlib
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from soma.actors.context import Interrupted
from soma.serve import compat
from soma.serve.compat import (
    BaseModel,
    BasePredictor,
    BaseRunner,
    CancelationException,
    File,
    Input,
    Path,
    Secret,
    URLPath,
    concurrent,
    streaming,
)
from soma.serve.compat.installing import MODULES, NAMES, install
from soma.serve.schema import signature_of
from soma.serve.slots.scope import SCOPE, Scope

HAS_COG = importlib.util.find_spec("cog") is not None
HELLO = "data:text/plain;base64," + base64.b64encode(b"hello").decode()

PREDICTOR = '''
from __future__ import annotations
from typing import List, Optional
import cog
from cog import (BaseModel, BasePredictor, CancelationException, ConcatenateIterator, ExperimentalFeatureWarning, File, Input, Path, Secret,
                 concurrent, current_scope, emit_metric, streaming)
from cog.types import Path as TypesPath, Secret as TypesSecret
import warnings
warnings.filterwarnings("ignore", category=ExperimentalFeatureWarning)

class Output(BaseModel):
    text: str
    image: Optional[Path] = None
    scores: List[float] = None

class Predictor(BasePredictor):
    def setup(self) -> None:
        self.greeting = "hello"

    def predict(
        self,
        name: str = Input(description="Whom to greet", min_length=1),
        style: str = Input(default="plain", choices=["plain", "LOUD"]),
        scale: float = Input(default=1.5, ge=0, le=10),
        seed: Optional[int] = Input(default=None),
        tags: List[str] = Input(default=["a"]),
        mask: Optional[Path] = None,
        token: Secret = Input(default=None),
    ) -> Output:
        current_scope().record_metric("letters", len(name))
        emit_metric("words", 1)
        self.record_metric("steps.done", 2, mode="incr")
        return Output(text=f"{self.greeting} {name} {token}", scores=[scale])

class Streamer(cog.BaseRunner):
    @streaming
    def run(self, n: int = 3) -> ConcatenateIterator[str]:
        for i in range(n):
            yield f"{i} "

class Late(cog.BaseRunner):
    @concurrent(max=4)
    async def run(self, n: int = 3) -> str:
        return "x"

class Patient(BasePredictor):
    def predict(self, raises: bool = False) -> str:
        try:
            return self.work()
        except Exception:
            return "swallowed"
        except CancelationException:
            raise

def train(data: Path, epochs: int = 2) -> Output: ...
'''


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`sys.modules` as it was, once the test is over."""
    def ours() -> dict[str, types.ModuleType]:
        return {n: m for n, m in sys.modules.items() if n.partition(".")[0] in ("cog", "coglet", "greeter")}

    before = ours()
    for name in before:
        del sys.modules[name]
    yield
    for name in ours():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(params=["stand-in", "real"])
def cog(request: pytest.FixtureRequest, modules: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `cog`, as a predictor's file finds it."""
    if request.param == "real" and not HAS_COG:
        pytest.skip("the package cog is not installed")
    if request.param == "stand-in":
        hide_cog(monkeypatch)
    assert install() is (request.param == "stand-in")
    return importlib.import_module("cog")


def hide_cog(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == "cog" else find(name, *args))


@pytest.fixture
def predictors(cog: Any) -> Any:
    """The module of the predictors above."""
    module = types.ModuleType("greeter")
    sys.modules["greeter"] = module
    exec(compile(PREDICTOR, "greeter.py", "exec"), module.__dict__)
    return module


def recorded(call: Callable[[], Any]) -> tuple[Any, list[tuple[str, Any, str]]]:
    """What is returned, and which metrics were recorded."""
    told: list[tuple[str, Any, str]] = []
    token = SCOPE.set(Scope(lambda *said: told.append(said), {"traceparent": "00"}))
    try:
        return call(), told
    finally:
        SCOPE.reset(token)


def test_a_predictor_runs_as_it_is(predictors: Any) -> None:
    predictor = predictors.Predictor()
    predictor.setup()
    signature = signature_of(predictor.predict)
    inputs = signature.validate({"name": "you"})
    assert inputs == {"name": "you", "style": "plain", "scale": 1.5, "seed": None, "tags": ["a"], "mask": None, "token": None}
    output, metrics = recorded(lambda: predictor.predict(**{**inputs, "token": predictors.Secret("hush")}))
    assert (output.text, output.image, output.scores) == ("hello you **********", None, [1.5])
    assert metrics == [("letters", 3, "replace"), ("words", 1, "replace"), ("steps.done", 2, "increment")]


def test_its_signature_is_the_same_with_cog_and_without(predictors: Any) -> None:
    schemas = {p.name: p.schema for p in signature_of(predictors.Predictor().predict).parameters}
    assert schemas == {
        "name": {"type": "string", "minLength": 1}, "style": {"type": "string", "enum": ["plain", "LOUD"]},
        "scale": {"type": "number", "minimum": 0, "maximum": 10}, "seed": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}}, "mask": {"type": ["string", "null"], "format": "uri"},
        "token": {"type": ["string", "null"], "format": "password", "writeOnly": True, "x-cog-secret": True}}
    output = signature_of(predictors.Predictor().predict).output
    assert output.kind == "value" and output.schema["required"] == ["text"]
    assert output.schema["properties"]["image"] == {"title": "Image", "type": ["string", "null"], "format": "uri"}
    assert signature_of(predictors.Streamer().run).output.to_json() == {
        "kind": "concatenate", "schema": {"type": "array", "items": {"type": "string"}}}
    assert [p.name for p in signature_of(predictors.train).parameters] == ["data", "epochs"]
    assert (signature_of(predictors.Late().run).concurrency, signature_of(predictors.Streamer().run).concurrency) == (4, 1)


def test_it_streams(predictors: Any) -> None:
    assert list(predictors.Streamer().run(2)) == ["0 ", "1 "]


def test_a_cancel_is_what_it_catches_and_no_exception(cog: Any, predictors: Any) -> None:
    assert cog.CancelationException is CancelationException is predictors.CancelationException is Interrupted
    assert not issubclass(CancelationException, Exception)
    patient = predictors.Patient()
    patient.work = raising(CancelationException())
    with pytest.raises(CancelationException):
        patient.predict()
    patient.work = raising(ValueError())
    assert patient.predict() == "swallowed"


def raising(error: BaseException) -> Callable[[], Any]:
    def work() -> Any:
        raise error

    return work


def test_the_scope_of_a_prediction(cog: Any) -> None:
    context, _ = recorded(lambda: dict(cog.current_scope().context))
    assert context == {"traceparent": "00"}
    scope, metrics = recorded(lambda: cog.current_scope().metrics.record("a", 1) or cog.current_scope())
    assert metrics == [("a", 1, "replace")] and scope.metrics["a"] == 1
    cog.current_scope().record_metric("a", 1)  # outside of one: forgotten


def test_installing_again_changes_nothing(cog: Any) -> None:
    before = cog.CancelationException, cog.Input
    install()
    assert (importlib.import_module("cog"), (cog.CancelationException, cog.Input)) == (cog, before)


@pytest.mark.skipif(not HAS_COG, reason="the package cog is not installed")
def test_the_stand_in_has_what_cog_has(modules: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = importlib.import_module("cog")
    assert set(real.__all__) - set(NAMES) == {"__version__", "URLFile"}
    known = inspect.signature(real.Input).parameters
    assert set(known) <= {"default", "default_factory", *(f for f in vars(compat.FieldInfo()))}


def test_every_module_of_the_stand_in_can_be_imported(modules: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_cog(monkeypatch)
    assert install()
    for name, has in MODULES.items():
        module = importlib.import_module(name)
        assert all(getattr(module, n) is getattr(compat, n) for n in has)
    with pytest.raises(ImportError):
        importlib.import_module("cog.nothing")


def test_another_module_of_that_name_stays_as_it_is(modules: None) -> None:
    other = types.ModuleType("cog")
    other.current_scope = 3  # type: ignore[attr-defined]
    sys.modules["cog"] = other
    assert not install() and sys.modules["cog"] is other and other.current_scope == 3


# -- the names themselves ------------------------------------------------------------------------------------------------------


def test_runners_know_both_names() -> None:
    class Old(BasePredictor):
        def predict(self, x: int) -> int:
            return x + 1

    class New(BaseRunner):
        def run(self, x: int) -> int:
            return x + 2

    class Neither(BaseRunner):
        pass

    assert (Old().run(1), Old().predict(1), New().run(1), New().predict(1)) == (2, 2, 3, 3)
    for call in (Neither().run, Neither().predict):
        with pytest.raises(NotImplementedError, match="Neither has no run"):
            call()
    assert Neither().setup() is None and issubclass(BasePredictor, BaseRunner)  # type: ignore[func-returns-value]


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2")
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret:>20}", "%s" % secret, "{}".format(secret), repr([secret])):  # noqa: UP031, UP032
        assert "hunter2" not in shown and "**********" in shown
    assert secret.get_secret_value() == "hunter2" and type(secret.get_secret_value()) is str and isinstance(secret, str)
    assert (str(Secret()), Secret().get_secret_value()) == ("", None)
    for other in (pickle.loads(pickle.dumps(secret)), copy.deepcopy(secret)):
        assert type(other) is Secret and other.get_secret_value() == "hunter2"


def test_a_path_may_be_a_url() -> None:
    assert isinstance(Path("a"), pathlib.Path) and type(Path("a") / "b") is Path
    assert Path.validate("a/b.png") == Path("a/b.png") and Path.validate(pathlib.Path("x")) == pathlib.Path("x")
    there = Path.validate("https://there.test/some/cat%20one.png?size=2")
    assert isinstance(there, URLPath) and (there.filename, str(there)) == ("cat one.png", "https://there.test/some/cat%20one.png?size=2")


def test_a_url_is_fetched_once() -> None:
    path = Path.validate(HELLO)
    assert isinstance(path, URLPath)
    here = path.convert()
    try:
        assert here.read_bytes() == b"hello" and path.convert() is here and type(here) is Path
    finally:
        path.unlink()
    assert not os.path.exists(here)
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["../../etc/x", "..%2f..%2fx", "a%00b", "a" * 500])
def test_a_url_s_name_is_one_name(name: str) -> None:
    made = Path.validate(f"http://there.test/{name}")
    assert isinstance(made, URLPath) and "/" not in made.filename and "\0" not in made.filename and len(made.filename) <= 200


def test_a_file_may_be_a_url() -> None:
    with File.validate(HELLO) as file:
        assert file.read() == b"hello"
    here = io.BytesIO(b"x")
    assert File.validate(here) is here
    for wrong in ("file:///etc/passwd", "/etc/passwd", "ftp://there.test/x"):
        with pytest.raises(ValueError, match="is not a valid URL scheme"):
            File.validate(wrong)


def test_models_are_dataclasses() -> None:
    class Output(BaseModel):
        text: str
        score: float = 0.5

    class More(Output, frozen=False, order=True):
        note: str = ""

    class Own(BaseModel, auto_dataclass=False):
        def __init__(self) -> None:
            self.x = 1

    assert Output("a") == Output(text="a", score=0.5) and More("a", note="b").note == "b" and Own().x == 1
    with pytest.raises(TypeError, match="text"):
        Output()  # type: ignore[call-arg]


def test_what_an_input_does_not_take() -> None:
    for says, complaint in (({"default_factory": list}, "Input has no default_factory"),
                            ({"minimum": 1}, "Input has no argument 'minimum'; it has default")):
        with pytest.raises(TypeError, match=complaint):
            Input(**says)
    assert (Input().has_default, Input(None).has_default, Input(default=3).default) == (False, True, 3)


def test_decorators_hand_on_what_they_decorate() -> None:
    async def later() -> None: ...

    def now() -> None: ...

    assert streaming(now) is now and streaming()(now) is now and concurrent(now) is now and concurrent(max=1)(now) is now
    assert concurrent(max=3)(later) is later
    for max, error in ((0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError)):
        with pytest.raises(error, match="concurrent: max="):
            concurrent(max=max)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="max=2 is for an async function"):
        concurrent(max=2)(now)
    with pytest.raises(TypeError, match="write @concurrent"):
        concurrent(4)  # type: ignore[call-overload]


def test_metrics_have_their_rules_outside_of_predictions_too() -> None:
    with pytest.raises(ValueError, match="reserved"):
        compat.emit_metric("predict_time", 1)
    assert json.dumps(compat.current_scope().metrics.nested()) == "{}"
