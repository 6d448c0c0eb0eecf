"""The OpenAPI document: valid, complete, with Cog's names; and its schema of inputs accepts what the signature accepts, and nothing else.

The oracle is `jsonschema`, which knows nothing of signatures; OpenAPI's own validator (`openapi-spec-validator`) looks at the whole where
it is installed.
"""
# ruff: noqa: B008  (`Input(…)` is made to be a default)

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, Literal, Optional, TypedDict

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.serve.compat import AsyncConcatenateIterator, ConcatenateIterator, Input, Path, Secret
from soma.serve.schema import Invalid, Signature, openapi, signature_of

COMPONENTS = {"Input", "Output", "PredictionRequest", "PredictionResponse", "Status", "WebhookEvent", "HTTPValidationError",
              "ValidationError"}


@dataclasses.dataclass
class Weights:
    file: Path
    steps: int = 1


def predict(prompt: str = Input(description="What to draw"), style: str = Input(default="oil", choices=["oil", "ink"], description="How"),
            size: int = Input(default=64, ge=1, le=1024), seed: Optional[int] = None, key: Secret = Input(default=Secret("hunter2")),  # noqa: UP045
            mask: Path = Input(default=None, accept="image/*"), old: bool = Input(default=False, deprecated=True)) -> Iterator[Path]: ...


def train(data: Path, style: Literal["a", "b"], rate: float = 0.1) -> Weights: ...


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        for inner in value.values():
            yield from refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def resolved(document: dict[str, Any], ref: str) -> Any:
    found: Any = document
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return found


def accepts(document: dict[str, Any], name: str, value: Any) -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    found: bool = jsonschema.Draft202012Validator(schema).is_valid(value)
    return found


DOCUMENTS = {"both": openapi(signature_of(predict), signature_of(train), "pictures", "7"), "alone": openapi(signature_of(predict), None),
             "not yet": openapi(None, None)}


@pytest.mark.parametrize("which", DOCUMENTS)
def test_it_is_valid(which: str) -> None:
    document = json.loads(json.dumps(DOCUMENTS[which], allow_nan=False))
    assert re.fullmatch(r"3\.1\.\d", document["openapi"]) and set(document["info"]) == {"title", "version"}
    assert all(resolved(document, ref) for ref in refs(document))
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in document["components"]["schemas"])
    operations = [o for path in document["paths"].values() for verb, o in path.items() if verb != "parameters"]
    ids = [o["operationId"] for o in operations]
    assert len(set(ids)) == len(ids)
    assert all(o["responses"] and all("description" in r for r in o["responses"].values()) for o in operations)
    for path, item in document["paths"].items():
        assert re.findall(r"{(\w+)}", path) == [p["name"] for p in item.get("parameters", ())]


@pytest.mark.parametrize("which", DOCUMENTS)
def test_its_schemas_are_valid(which: str) -> None:
    for schema in DOCUMENTS[which]["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("which", DOCUMENTS)
def test_openapi_s_own_validator_says_so_too(which: str) -> None:
    pytest.importorskip("openapi_spec_validator").validate(DOCUMENTS[which])


def test_it_has_every_path_that_is_served() -> None:
    from soma.serve.http.routes import ROUTES

    served = {(r.path.replace("{id}", f"{{{r.kind}_id}}"), r.method.lower()) for r in ROUTES}
    told = {(path, verb) for path, item in DOCUMENTS["both"]["paths"].items() for verb in item if verb != "parameters"}
    assert told == served
    assert not [path for path in DOCUMENTS["alone"]["paths"] if "training" in path]


def test_names_and_words_are_cogs() -> None:
    schemas = DOCUMENTS["both"]["components"]["schemas"]
    assert set(schemas) == COMPONENTS | {"TrainingInput", "TrainingOutput", "TrainingRequest", "TrainingResponse", "style"}
    assert set(DOCUMENTS["not yet"]["components"]["schemas"]) == COMPONENTS
    properties = schemas["Input"]["properties"]
    assert [p["x-order"] for p in properties.values()] == list(range(7))
    assert schemas["Input"]["required"] == ["prompt"]
    assert properties["prompt"] == {"title": "Prompt", "type": "string", "description": "What to draw", "x-order": 0}
    assert properties["style"] == {"allOf": [{"$ref": "#/components/schemas/style"}], "default": "oil", "description": "How", "x-order": 1}
    assert schemas["style"] == {"title": "style", "description": "An enumeration.", "type": "string", "enum": ["oil", "ink"]}
    assert properties["size"] == {"title": "Size", "type": "integer", "minimum": 1, "maximum": 1024, "default": 64, "x-order": 2}
    assert properties["seed"] == {"title": "Seed", "type": ["integer", "null"], "default": None, "x-order": 3}
    assert properties["mask"]["x-cog-accept"] == "image/*" and properties["old"]["deprecated"]
    assert schemas["Output"] == {
        "title": "Output", "type": "array", "items": {"type": "string", "format": "uri"}, "x-cog-array-type": "iterator"}
    assert schemas["TrainingOutput"] == {"title": "TrainingOutput", "type": "object", "required": ["file"], "properties": {
        "file": {"title": "File", "type": "string", "format": "uri"}, "steps": {"title": "Steps", "type": "integer"}}}


def test_choices_of_trainings_do_not_become_those_of_predictions() -> None:
    schemas = DOCUMENTS["both"]["components"]["schemas"]
    assert schemas["TrainingInput"]["properties"]["style"] == {"title": "Style", "type": "string", "enum": ["a", "b"], "x-order": 1}


def test_an_input_may_be_called_as_a_component_is_and_in_any_letters() -> None:
    def awkward(Status: Literal["on"], Output: Literal["x"], größe: Literal[1], __: Literal[2], id: int) -> str: ...

    document = openapi(signature_of(awkward), None)
    assert document["components"]["schemas"]["Status"] == DOCUMENTS["alone"]["components"]["schemas"]["Status"]
    assert accepts(document, "Input", {"Status": "on", "Output": "x", "größe": 1, "__": 2, "id": 0})
    assert not accepts(document, "Input", {"Status": "off", "Output": "x", "größe": 1, "__": 2, "id": 0})


def test_streams_are_said_to_be_ones() -> None:
    def text() -> ConcatenateIterator[str]: ...

    async def later() -> AsyncConcatenateIterator[str]: ...

    for fn in (text, later):
        document = openapi(signature_of(fn), None, run_name="run")
        assert document["components"]["schemas"]["Output"] == {
            "title": "Output", "type": "array", "items": {"type": "string"},
            "x-cog-array-type": "iterator", "x-cog-array-display": "concatenate"}
        assert document["paths"]["/predictions"]["post"]["x-cog-streaming"] is True
        assert document["paths"]["/predictions"]["post"]["summary"] == "Run"
    assert "x-cog-streaming" not in openapi(signature_of(train), None)["paths"]["/predictions"]["post"]


def test_the_default_of_a_secret_is_told_to_nobody() -> None:
    assert signature_of(predict).validate({"prompt": ""})["key"] == "hunter2"
    assert "hunter2" not in json.dumps(DOCUMENTS["both"])


@pytest.mark.parametrize("answer", [
    {"id": "x", "status": "starting", "input": {"prompt": ""}, "output": None, "logs": "", "error": None, "metrics": {}, "version": "1",
     "created_at": "2024-01-01T00:00:00+00:00", "started_at": None, "completed_at": None, "webhook": "http://there.test"},
    {"id": "x", "status": "succeeded", "output": ["data:,x"], "logs": "a\n", "metrics": {"predict_time": 1.0}},
])
def test_answers_are_what_it_says(answer: dict[str, Any]) -> None:
    assert accepts(DOCUMENTS["both"], "PredictionResponse", answer)
    assert not accepts(DOCUMENTS["both"], "PredictionResponse", {**answer, "status": "done"})


def test_what_a_422_says_is_what_it_says() -> None:
    with pytest.raises(Invalid) as e:
        signature_of(predict).validate({"size": "x", "nothing": 1})
    assert accepts(DOCUMENTS["both"], "HTTPValidationError", {"detail": e.value.detail})


# -- any signature, any input --------------------------------------------------------------------------------------------------


def record(fields: dict[str, Any], total: bool, as_dict: bool) -> Any:
    if as_dict:
        return TypedDict("Made", fields, total=total)  # type: ignore[operator]
    return dataclasses.make_dataclass("Made", [(n, h) if total else (n, h, None) for n, h in fields.items()])


PLAIN = [str, int, float, bool, Any, dict, list, Path, Secret, None, Literal["a", "b"], Literal[0, 1, True], Literal["a", 1, None]]
HINTS = st.recursive(st.sampled_from(PLAIN), lambda inner: st.one_of(
    inner.map(lambda h: list[h]), inner.map(lambda h: dict[str, h]), inner.map(lambda h: Optional[h]),  # noqa: UP045
    st.tuples(inner, inner).map(lambda hs: hs[0] | hs[1] if None not in hs else Optional[hs[0] or hs[1]]),  # noqa: UP045
    st.builds(record, st.dictionaries(st.sampled_from("pqr"), inner, max_size=2), st.booleans(), st.booleans()),
), max_leaves=4)
NUMBERS = st.one_of(st.integers(-3, 3), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
                    st.sampled_from([0.0, 1.0, -0.0, 2**53 + 1, 10**400, True]))
WORDS = {
    int: st.fixed_dictionaries({}, optional={"ge": st.integers(-3, 2), "le": st.integers(0, 2**53)}),
    float: st.fixed_dictionaries({}, optional={"ge": st.floats(-3, 2), "le": st.floats(0, 2**53)}),
    str: st.fixed_dictionaries({}, optional={"min_length": st.integers(0, 2), "max_length": st.integers(1, 3),
                                             "regex": st.sampled_from(["a", "^a+$", "b?"])}),
}
JSON = st.recursive(st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["", "a", "b", "aaa", "pq"]), st.text(max_size=3)),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("pqrs"), inner, max_size=3), max_leaves=5)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """Of up to three inputs, some with bounds and defaults."""
    def made() -> str: ...

    chosen = {}
    for name in draw(st.sets(st.sampled_from(["a", "b", "style"]), max_size=3)):
        hint = draw(st.one_of(HINTS, st.sampled_from([int, float, str])))
        words = draw(WORDS[hint]) if hint in WORDS else {}
        if draw(st.booleans()):
            words["default"] = None
        many = bool(words) and hint in WORDS and draw(st.booleans())
        chosen[name] = list[hint] if many else hint, Input(**words)  # type: ignore[valid-type]
    code = f"def made({', '.join(f'{n}=given[{n!r}]' for n in chosen)}): ..."
    scope: dict[str, Any] = {"given": {n: info for n, (_, info) in chosen.items()}}
    exec(code, scope)
    scope["made"].__annotations__ = {n: hint for n, (hint, _) in chosen.items()}
    return signature_of(scope["made"])


def like(schema: Any) -> st.SearchStrategy[Any]:
    """Values near what a schema wants, so that many of them are right."""
    if "anyOf" in schema:
        return st.one_of([like(m) for m in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "integer" | "number" | ["integer" | "number", *_]:
            return NUMBERS
        case "string" | ["string", *_]:
            return st.sampled_from(["a", "aa", "", "b", "aaaa"])
        case "boolean" | ["boolean", *_]:
            return st.booleans()
        case "array" | ["array", *_]:
            return st.lists(like(schema.get("items", {})), max_size=3)
        case "object" | ["object", *_] if "properties" in schema:
            return st.fixed_dictionaries({}, optional={n: like(s) for n, s in schema["properties"].items()})
        case "object" | ["object", *_]:
            return st.dictionaries(st.sampled_from("pqr"), like(schema.get("additionalProperties") or {}), max_size=2)
    return JSON


def coarse(value: Any) -> Any:
    """With all numbers as floats."""
    return json.loads(json.dumps(value), parse_int=float)


@given(st.data())
def test_the_schema_accepts_what_the_signature_accepts(data: st.DataObject) -> None:
    signature = data.draw(signatures())
    each = {p.name: st.one_of(like(p.schema), like(p.schema), JSON) for p in signature.parameters}
    raw = data.draw(st.one_of(st.fixed_dictionaries(each), st.fixed_dictionaries({}, optional={**each, "other": JSON})))
    document = openapi(signature, None)
    before = json.dumps(raw)
    try:
        taken = signature.validate(raw)
    except Invalid as e:
        assert not accepts(document, "Input", raw) and e.detail
        assert accepts(document, "HTTPValidationError", {"detail": e.detail})
    else:
        assert accepts(document, "Input", raw)
        assert signature.validate(json.loads(json.dumps(taken))) == taken
        assert set(taken) == {p.name for p in signature.parameters}
        assert coarse({n: taken[n] for n in raw}) == coarse(raw)
    assert json.dumps(raw) == before
    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature
