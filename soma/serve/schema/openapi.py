"""`openapi`: what is served, as an OpenAPI 3.1 document with Cog's paths, names and `x-` words. Pure.

The schema of the inputs accepts exactly what `Signature.validate` accepts. The default of a secret is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from soma.serve.schema.envelopes import ENVELOPES, answer, envelopes, json_of, ref
from soma.serve.schema.hints import Schema, title
from soma.serve.schema.signature import Output, Parameter, Signature

_TAKEN = frozenset({"Input", "Output", "TrainingInput", "TrainingOutput", *ENVELOPES})
_NAME = re.compile(r"[a-zA-Z0-9._-]+")


def openapi(predict: Signature | None, train: Signature | None, title: str = "soma", version: str = "1",
            run_name: str = "predict") -> dict[str, Any]:
    """The document.

    Args:
        predict: of predictions; None as long as it is not known: any object is an input then.
        train: of trainings; None: there are none.
        title, version: of what is served.
        run_name: how the predictor calls what makes a prediction: "predict" or "run".
    """
    schemas: dict[str, Schema] = {}
    _add(schemas, "Prediction", "", predict)
    paths: dict[str, Any] = {"/": _get("Root", "root__get"), "/health-check": _get("Healthcheck", "healthcheck_health_check_get")}
    paths |= _paths("prediction", run_name, "Run a single prediction on the model", predict)
    if train is not None:
        _add(schemas, "Training", "Training", train)
        paths |= _paths("training", "train", "Run a single training on the model", train)
    paths |= {
        "/shutdown": {"post": {"summary": "Shutdown", "operationId": "shutdown_shutdown_post", "responses": {"200": answer()}}},
        "/openapi.json": _get("OpenAPI", "openapi_openapi_json_get"),
        "/docs": _get("Docs", "docs_docs_get", answer(description="A page for people", content="text/html")),
        "/metrics": _get("Metrics", "metrics_metrics_get", answer(description="For Prometheus", content="text/plain")),
    }
    return {"openapi": "3.1.0", "info": {"title": title, "version": version}, "paths": paths, "components": {"schemas": schemas}}


def _add(schemas: dict[str, Schema], kind: str, prefix: str, signature: Signature | None) -> None:
    """The components of predictions, or of trainings."""
    enums: dict[str, Schema] = {}
    names = {"input": f"{prefix}Input", "output": f"{prefix}Output"}
    schemas[names["input"]] = {"title": names["input"], **_input(signature, enums, schemas)}
    schemas[names["output"]] = {"title": names["output"]} if signature is None else _output(signature.output, names["output"])
    schemas.update(enums)
    schemas.update(envelopes(kind, names["input"], names["output"]))


def _input(signature: Signature | None, enums: dict[str, Schema], known: Mapping[str, Schema]) -> Schema:
    if signature is None:
        return {"type": "object"}
    properties = {p.name: _property(p, i, enums, known) for i, p in enumerate(signature.parameters)}
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required := [p.name for p in signature.parameters if p.required]:
        found["required"] = required
    return found


def _property(parameter: Parameter, order: int, enums: dict[str, Schema], known: Mapping[str, Schema]) -> Schema:
    schema = dict(parameter.schema)
    name = parameter.name
    found: Schema = {"title": title(name), **schema, "x-order": order}
    if "enum" in schema and _NAME.fullmatch(name) and name not in _TAKEN:
        choices = {"title": name, "description": "An enumeration.", **schema}
        if known.get(name, choices) == choices:
            enums[name] = choices
            found = {"allOf": [ref(name)], "x-order": order}
    if not parameter.required and not schema.get("writeOnly"):
        found["default"] = parameter.default
    if parameter.description:
        found["description"] = parameter.description
    if parameter.deprecated:
        found["deprecated"] = True
    if parameter.accept:
        found["x-cog-accept"] = parameter.accept
    return found


def _output(output: Output, name: str) -> Schema:
    found: Schema = {**output.schema, "title": name}
    if output.is_stream:
        found["x-cog-array-type"] = "iterator"
    if output.kind == "concatenate":
        found["x-cog-array-display"] = "concatenate"
    return found


def _get(summary: str, operation: str, response: Schema | None = None) -> dict[str, Any]:
    return {"get": {"summary": summary, "operationId": operation, "responses": {"200": response or answer()}}}


def _paths(kind: str, verb: str, description: str, signature: Signature | None) -> dict[str, Any]:
    """Making, looking up and cancelling, as Cog names all that."""
    many, whole = f"{kind}s", title(kind)
    id = {"name": f"{kind}_id", "in": "path", "required": True, "schema": {"title": title(f"{kind}_id"), "type": "string"}}
    response = answer(f"{whole}Response", content="text/event-stream")
    asks: dict[str, Any] = {
        "requestBody": {"required": True, "content": json_of(ref(f"{whole}Request"))},
        "responses": {
            "200": response, "202": answer(f"{whole}Response", "Accepted: it goes on without the client"),
            "409": answer(description="All slots are busy, or the id is taken"), "422": answer("HTTPValidationError", "Validation Error"),
            "503": answer(description="Not ready, or the queue is full"),
        },
    }
    post = {"summary": verb.title(), "description": description, "operationId": f"{verb}_{many}_post", **asks}
    if signature is not None and signature.output.is_stream:
        post["x-cog-streaming"] = True
    gone = {"404": answer(description=f"There is no such {kind}")}
    return {
        f"/{many}": {"post": post},
        f"/{many}/{{{kind}_id}}": {
            "parameters": [id],
            "put": {"summary": f"{verb.title()} once", "description": f"{description}, unless it is there already",
                    "operationId": f"{verb}_idempotent_{many}__{kind}_id__put", **asks},
            "get": {"summary": f"Get {kind}", "operationId": f"get_{many}__{kind}_id__get", "responses": {"200": response, **gone}},
        },
        f"/{many}/{{{kind}_id}}/cancel": {
            "parameters": [id],
            "post": {"summary": "Cancel", "operationId": f"cancel_{many}__{kind}_id__cancel_post", "responses": {"200": answer(), **gone}},
        },
    }
