"""Signatures: what annotations mean, what is refused when they are read, and what clients are told of wrong inputs."""
# ruff: noqa: B008, UP006, UP007, UP035, UP045  (written as predictors are)

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import importlib.util
import json
import math
import pathlib
import pickle
import typing
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, List, Literal, NotRequired, Optional, TypedDict, Union

import numpy as np
import pytest

from soma.serve.compat import BaseModel, ConcatenateIterator, File, Input, Opaque, Path, Secret
from soma.serve.schema import Invalid, Signature, SignatureError, signature_of
from soma.serve.schema.faults import MOST


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Box(TypedDict):
    x: int
    label: NotRequired[str]


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Model(BaseModel):
    text: str
    score: Optional[float] = None


@dataclasses.dataclass
class Tree:
    value: int
    children: list[Tree] = dataclasses.field(default_factory=list)


Number = typing.NewType("Number", int)
NO_MORE = {"additionalProperties": False}


def of(hint: Any, default: Any = None, **options: Any) -> Signature:
    """Of a function with one input, `x`."""
    def predict(x: Any) -> str:
        return str(x)

    predict.__annotations__["x"] = hint
    if options or default is not None:
        predict.__defaults__ = (default,)
    return signature_of(predict)


def schema_of(hint: Any) -> Mapping[str, Any]:
    return of(hint).parameters[0].schema


def output_of(hint: Any) -> tuple[str, Mapping[str, Any]]:
    def predict() -> None: ...

    predict.__annotations__["return"] = hint
    found = signature_of(predict).output
    return found.kind, found.schema


def faults(signature: Signature, **inputs: Any) -> list[tuple[tuple[Any, ...], str, str]]:
    with pytest.raises(Invalid) as e:
        signature.validate(inputs)
    assert all(f["loc"][:2] == ["body", "input"] and set(f) == {"loc", "msg", "type"} for f in e.value.detail)
    return [(tuple(f["loc"][2:]), f["msg"], f["type"]) for f in e.value.detail]


@pytest.mark.parametrize(("hint", "schema"), [
    (str, {"type": "string"}), (int, {"type": "integer"}), (float, {"type": "number"}), (bool, {"type": "boolean"}), (Any, {}),
    (Number, {"type": "integer"}), (Annotated[int, "of something"], {"type": "integer"}),
    (list, {"type": "array"}), (List, {"type": "array"}), (list[int], {"type": "array", "items": {"type": "integer"}}),
    (List[str], {"type": "array", "items": {"type": "string"}}),
    (Sequence[bool], {"type": "array", "items": {"type": "boolean"}}),
    (list[list[int]], {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
    (dict, {"type": "object"}), (dict[str, Any], {"type": "object"}),
    (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
    (Optional[int], {"type": ["integer", "null"]}), (int | None, {"type": ["integer", "null"]}),
    (Union[int, str], {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
    (int | str | None, {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]}), (int | Any, {}),
    (list[int | None], {"type": "array", "items": {"type": ["integer", "null"]}}),
    (Literal["a", "b"], {"enum": ["a", "b"], "type": "string"}), (Literal[1, "b"], {"enum": [1, "b"]}),
    (Literal["a", None], {"enum": ["a", None]}), (Optional[Literal["a"]], {"enum": ["a", None]}),
    (Color, {"enum": ["red", "blue"], "type": "string"}), (Level, {"enum": [1, 2], "type": "integer"}),
    (Path, {"type": "string", "format": "uri"}), (pathlib.Path, {"type": "string", "format": "uri"}),
    (File, {"type": "string", "format": "uri"}),
    (Secret, {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True}),
    (Annotated[dict, Opaque], {"type": "object"}), (Annotated[complex, Opaque], {"type": "object"}),
    (Annotated[list[dict], Opaque], {"type": "array", "items": {"type": "object"}}),
    (Annotated[dict | None, Opaque], {"type": ["object", "null"]}),
    (Box, {"type": "object", "title": "Box", "required": ["x"], **NO_MORE, "properties": {
        "x": {"title": "X", "type": "integer"}, "label": {"title": "Label", "type": "string"}}}),
    (Point, {"type": "object", "title": "Point", "required": ["x"], **NO_MORE, "properties": {
        "x": {"title": "X", "type": "number"}, "y": {"title": "Y", "type": "number"}}}),
    (Model, {"type": "object", "title": "Model", "required": ["text"], **NO_MORE, "properties": {
        "text": {"title": "Text", "type": "string"}, "score": {"title": "Score", "type": ["number", "null"]}}}),
    (Tree, {"type": "object", "title": "Tree", "required": ["value"], **NO_MORE, "properties": {
        "value": {"title": "Value", "type": "integer"}, "children": {"title": "Children", "type": "array", "items": {"type": "object"}}}}),
])
def test_what_an_annotation_means(hint: Any, schema: dict[str, Any]) -> None:
    assert schema_of(hint) == schema


@pytest.mark.parametrize(("hint", "kind", "schema"), [
    (None, "none", {"type": "null"}), (str, "value", {"type": "string"}),
    (list[str], "list", {"type": "array", "items": {"type": "string"}}),
    (Iterator[Path], "iterator", {"type": "array", "items": {"type": "string", "format": "uri"}}),
    (AsyncIterator[int], "iterator", {"type": "array", "items": {"type": "integer"}}),
    (typing.Generator[int, None, None], "iterator", {"type": "array", "items": {"type": "integer"}}),
    (ConcatenateIterator[str], "concatenate", {"type": "array", "items": {"type": "string"}}),
    (Annotated[list[int], "of something"], "list", {"type": "array", "items": {"type": "integer"}}),
    (tuple[int, ...], "value", {"type": "array", "items": {"type": "integer"}}), (tuple[int, str], "value", {"type": "array"}),
    (datetime.datetime, "value", {"type": "string", "format": "date-time"}), (np.ndarray, "value", {}),
    (Optional[str], "value", {"type": ["string", "null"]}), (dict[int, str], "value", {
        "type": "object", "additionalProperties": {"type": "string"}}),
    (Point, "value", {"type": "object", "title": "Point", "required": ["x"], "properties": {
        "x": {"title": "X", "type": "number"}, "y": {"title": "Y", "type": "number"}}}),
])
def test_what_the_annotation_of_an_output_means(hint: Any, kind: str, schema: dict[str, Any]) -> None:
    assert output_of(hint) == (kind, schema)


def test_an_output_without_an_annotation() -> None:
    def value(): ...  # type: ignore[no-untyped-def]

    def several():  # type: ignore[no-untyped-def]
        yield 1

    async def later():  # type: ignore[no-untyped-def]
        yield 1

    assert [signature_of(f).output.kind for f in (value, several, later)] == ["value", "iterator", "iterator"]


def test_bounds_of_an_input() -> None:
    def predict(a: int = Input(ge=1, le=5), b: list[float] = Input(ge=0), c: str | int = Input(regex="^a", min_length=2, le=3),
                d: Optional[str] = Input(max_length=3), e: str = Input(choices=["x", "y"]), f: list[int] = Input(choices=range(3)),
                g: Optional[str] = Input(choices=["x"]), h: Annotated[int, Input(ge=2)] = 4, i: Annotated[int, Input(ge=2, default=3)] = 5,
                j: int = Input(description="Of J", deprecated=True), k: Path = Input(accept="image/*")) -> None: ...

    found = signature_of(predict)
    assert {p.name: p.schema for p in found.parameters} == {
        "a": {"type": "integer", "minimum": 1, "maximum": 5}, "b": {"type": "array", "items": {"type": "number", "minimum": 0}},
        "c": {"anyOf": [{"type": "string", "minLength": 2, "pattern": "^a"}, {"type": "integer", "maximum": 3}]},
        "d": {"type": ["string", "null"], "maxLength": 3}, "e": {"type": "string", "enum": ["x", "y"]},
        "f": {"type": "array", "items": {"type": "integer", "enum": [0, 1, 2]}}, "g": {"enum": ["x", None]},
        "h": {"type": "integer"}, "i": {"type": "integer"}, "j": {"type": "integer"}, "k": {"type": "string", "format": "uri"}}
    assert [p.name for p in found.parameters if not p.required] == ["d", "g", "h", "i"]
    j, k = found.parameters[-2:]
    assert (j.description, j.deprecated, k.accept) == ("Of J", True, "image/*")


def test_an_input_in_the_annotation() -> None:
    def predict(a: Annotated[int, Input(ge=2, description="Of A")], b: Annotated[str, Input(default="x")]) -> None: ...

    a, b = signature_of(predict).parameters
    assert (a.schema, a.required, a.description) == ({"type": "integer", "minimum": 2}, True, "Of A")
    assert (b.required, b.default) == (False, "x")


def test_defaults() -> None:
    def predict(a: int, b: float = 1, c: Optional[int] = 3, d: Optional[int] = None, e: Optional[int] = Input(description="E"),
                f: int = Input(default=None), g: int = None, h: Color = Color.RED, i: list[str] = Input(default=["x"]),  # type: ignore[assignment]
                j: Path = Path("here.png"), k: Secret = Secret("s"), m: Any = None, o: Point = Point(1.0), n: list[int] = (1, 2)) -> None:  # type: ignore[assignment]
        ...

    found = signature_of(predict)
    assert [p.name for p in found.parameters if p.required] == ["a"]
    expected = {"a": 1, "b": 1.0, "c": 3, "d": None, "e": None, "f": None, "g": None, "h": "red", "i": ["x"], "j": "here.png", "k": "s",
                "m": None, "o": {"x": 1.0, "y": 0.0}, "n": [1, 2]}
    assert found.validate({"a": 1}) == expected
    assert found.validate({"a": 1, "c": None, "f": None, "g": None}) == {**expected, "c": None}


def test_no_prediction_sees_what_another_did_to_a_default() -> None:
    found = of(list[str], Input(default=["x"]))
    found.validate({})["x"].append("y")
    assert found.validate({}) == {"x": ["x"]}


@pytest.mark.parametrize(("hint", "default", "complaint"), [
    (bytes, None, "bytes is not supported for an input; supported are str, int"), ([int], None, r"\[<class 'int'>\] is not supported"),
    (complex, None, "complex is not supported"), (np.float32, None, "float32 is not supported"),
    (np.ndarray, None, "ndarray is not supported"),
    (Callable[[], int], None, "is not supported"), (set[int], None, "is not supported"), (datetime.date, None, "date is not supported"),
    (list[bytes], None, "bytes is not supported"), (dict[int, str], None, "keys that are no str"),
    (Literal[b"x"], None, "has bytes among its values"),
    (dataclasses.make_dataclass("Bad", [("z", complex)]), None, "field 'z' of Bad: complex is not supported"),
    (int, "a", 'its default is not what it allows: "a" is not of type "integer"'),
    (int, Input(default=9, le=5), "greater than the maximum of 5"),
    (list[str], Input(default={"a"}), "set can be no default"), (Any, object(), "object can be no default"),
    (str, Input(ge=1), "ge is for int and float"), (int, Input(regex="a"), "regex is for str"),
    (Path, Input(max_length=3), "max_length is for str"),
    (str, Input(regex="("), r"regex='\(' is no pattern"), (int, Input(ge="1"), "ge='1' is no number"),
    (float, Input(ge=True), "is no number"),
    (str, Input(choices=[]), "choices are empty"), (str, Input(choices=["a", 1]), 'choices do not fit the type: 1 is not of type "string"'),
    (dict, Input(choices=["a"]), "choices are for str, int and float"),
    (str, Input(default="c", choices=["a", "b"]), '"c" is not one of "a", "b"'),
])
def test_what_cannot_be_declared_says_so(hint: Any, default: Any, complaint: str) -> None:
    with pytest.raises(SignatureError, match=rf"parameter 'x': .*{complaint}"):
        of(hint, default)


def test_what_no_client_could_give_says_so() -> None:
    def star(*images: int) -> None: ...

    def options(**options: int) -> None: ...

    def unnamed(x: int, /) -> None: ...

    def unsaid(x) -> None: ...  # type: ignore[no-untyped-def]

    def unknown(x: Elsewhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    def strange() -> Color | complex: ...

    for fn, complaint in ((star, r"\*images"), (options, r"\*options"), (unnamed, "'x' can only be given by its position"),
                          (unsaid, "parameter 'x' has no annotation; supported are"), (unknown, "'Elsewhere' is not defined"),
                          (strange, "the output of .*strange: complex is not supported; supported are")):
        with pytest.raises(SignatureError, match=complaint):
            signature_of(fn)


def test_methods_instances_and_wrappers() -> None:
    class Predictor:
        def predict(self, x: int) -> str: ...

        def __call__(self, y: float) -> str: ...

    def whole(x: int, y: int = 2) -> str: ...

    @functools.wraps(whole)
    def wrapped(*args: Any, **kwargs: Any) -> Any: ...

    found = [signature_of(Predictor().predict), signature_of(Predictor.predict, Predictor), signature_of(Predictor()),
             signature_of(wrapped), signature_of(functools.partial(whole, y=5))]
    assert [[p.name for p in f.parameters] for f in found] == [["x"], ["x"], ["y"], ["x", "y"], ["x", "y"]]
    assert [p.default for p in found[-1].parameters] == [None, 5]


@pytest.mark.parametrize(("hint", "given", "taken"), [
    (int, 1.0, 1), (int, -0.0, 0), (int, 10**30, 10**30), (float, 1, 1.0), (float, 10**400, 10**400), (int | float, 1.0, 1.0),
    (int | float, 1, 1),
    (float | str, 1, 1.0), (bool | int, True, True), (int | bool, True, True), (Level, 2.0, 2), (Optional[int], None, None),
    (Any, [1, {}], [1, {}]),
    (list[float], [1, 2.5], [1.0, 2.5]), (dict[str, int], {"a": 1.0}, {"a": 1}), (Point, {"x": 1}, {"x": 1.0}), (str, "", ""),
    (list[int] | str, [1.0], [1]), (dict, {"a": [None]}, {"a": [None]}),
])
def test_what_is_taken(hint: Any, given: Any, taken: Any) -> None:
    found = of(hint).validate({"x": given})["x"]
    assert repr(found) == repr(taken)


@pytest.mark.parametrize(("hint", "given", "loc", "complaint"), [
    (int, "1", (), '"1" is not of type "integer"'), (int, True, (), 'true is not of type "integer"'),
    (int, 1.5, (), '1.5 is not of type "integer"'),
    (int, None, (), 'null is not of type "integer"'), (float, "1", (), '"1" is not of type "number"'), (float, False, (), "false is not"),
    (float, math.nan, (), "nan is not"), (float, math.inf, (), "inf is not"), (bool, 1, (), '1 is not of type "boolean"'),
    (bool, "true", (), "is not"),
    (str, 1, (), '1 is not of type "string"'), (str, [], (), "a list is not"), (str, {}, (), "an object is not"), (Path, 1, (), "1 is not"),
    (list[int], [1, "a"], (1,), '"a" is not of type "integer"'), (list[list[int]], [[], [0, None]], (1, 1), "null is not"),
    (list, {}, (), 'an object is not of type "array"'), (dict[str, int], {"a": "b"}, ("a",), '"b" is not'), (dict, [], (), "a list is not"),
    (Literal["a", "b"], "c", (), '"c" is not one of "a", "b"'), (Literal[1], True, (), "true is not one of 1"),
    (Literal["a"], [], (), "a list is not"),
    (int | str, [], (), "a list is not integer or string"), (int | list[int], ["a"], (0,), '"a" is not of type "integer"'),
    (int, "a" * 100_000, (), '"aaaa'), (bool, 10**500, (), "a very large integer is not"),
])
def test_what_is_refused(hint: Any, given: Any, loc: tuple[Any, ...], complaint: str) -> None:
    ((where, msg, type),) = faults(of(hint), x=given)
    assert where == ("x", *loc) and complaint in msg and type == "value_error" and len(msg) < 150


def test_bounds_are_kept() -> None:
    number, text = of(list[int], Input(ge=1, le=3)), of(str, Input(min_length=2, max_length=3, regex="b"))
    assert number.validate({"x": [1, 3]}) and text.validate({"x": "ab"})  # a pattern is looked for anywhere
    assert faults(number, x=[0, 2, 4]) == [(("x", 0), "0 is less than the minimum of 1", "value_error"),
                                           (("x", 2), "4 is greater than the maximum of 3", "value_error")]
    assert [m for _, m, _ in faults(text, x="a")] == ['"a" is shorter than 2 characters', '"a" does not match "b"']
    assert [m for _, m, _ in faults(text, x="abcd")] == ['"abcd" is longer than 3 characters']


def test_all_that_is_wrong_is_said_at_once() -> None:
    def predict(a: int, b: Point, c: str = "x") -> str: ...

    assert faults(signature_of(predict), b={"y": "1", "z": 0}, d=1) == [
        (("a",), "Field required", "value_error.missing"), (("b", "y"), '"1" is not of type "number"', "value_error"),
        (("b", "z"), "Unexpected field 'z'", "value_error.extra"), (("b", "x"), "Field required", "value_error.missing"),
        (("d",), "Unexpected field 'd'", "value_error.extra")]


def test_what_is_said_has_an_end() -> None:
    assert len(faults(of(list[int]), x=["a"] * 100_000)) == MOST
    assert len(faults(of(int), **{f"y{i}": 1 for i in range(1000)})) == MOST
    for signature, inputs in ((of(Any), {"x": 1, "k" * 10_000: 1}), (of(dict[str, int]), {"x": {"k" * 10_000: "v" * 10_000}}),
                              (of(Point), {"x": {"x": 1, "\ud800" * 500: 1}}), (of(int), {"x": "\udfff"})):
        assert len(repr(faults(signature, **inputs)).encode()) < 1200


@pytest.mark.parametrize("raw", [None, 3, "x", [], [["x", 1]]])
def test_an_input_that_is_no_object(raw: Any) -> None:
    with pytest.raises(Invalid) as e:
        of(int).validate(raw)
    assert e.value.detail == [{"loc": ["body", "input"], "msg": "Input must be a JSON object", "type": "value_error"}]


def test_a_secret_is_in_no_message() -> None:
    found = of(Secret)
    assert found.validate({"x": "hunter2"}) == {"x": "hunter2"}
    assert "12345" not in repr(faults(found, x=12345)) and "hunter2" not in repr(faults(of(list[Secret]), x=["hunter2", 1]))


def test_a_signature_goes_as_json_and_as_pickle() -> None:
    def predict(a: int, b: list[Point] = Input(default=[], description="Of B"), c: Color = Color.RED) -> Iterator[str]: ...

    found = signature_of(predict)
    for other in (Signature.from_json(json.loads(json.dumps(found.to_json()))), pickle.loads(pickle.dumps(found))):
        assert other == found and other.validate({"a": 1}) == {"a": 1, "b": [], "c": "red"}
    with pytest.raises(ValueError, match="an output is no 'pie'"):
        Signature.from_json({**found.to_json(), "output": {"kind": "pie", "schema": {}}})


def test_an_invalid_input_travels() -> None:
    with pytest.raises(Invalid) as e:
        of(int).validate({})
    assert str(e.value) == "x: Field required" and pickle.loads(pickle.dumps(e.value)).detail == e.value.detail


@pytest.mark.skipif(importlib.util.find_spec("pydantic") is None, reason="pydantic is not installed")
def test_models_of_pydantic() -> None:
    import pydantic

    class Inner(pydantic.BaseModel):
        x: int
        tags: list[str] = pydantic.Field(default_factory=list)

    class Outer(Inner):
        inner: Optional[Inner] = None

    inner = {"title": "Inner", "type": "object", "required": ["x"], **NO_MORE, "properties": {
        "x": {"title": "X", "type": "integer"}, "tags": {"title": "Tags", "type": "array", "items": {"type": "string"}}}}
    assert schema_of(Inner) == inner
    Outer.model_rebuild(_types_namespace={"Inner": Inner, "Optional": Optional})
    assert of(Inner).validate({"x": {"x": 1.0}}) == {"x": {"x": 1}}
