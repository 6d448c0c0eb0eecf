"""The parts of the OpenAPI document that are the same for every predictor: requests, responses, statuses, what a 422 says. Cog's names."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

ENVELOPES = ("PredictionRequest", "PredictionResponse", "TrainingRequest", "TrainingResponse", "Status", "WebhookEvent",
             "HTTPValidationError", "ValidationError")
"""The components below."""


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def json_of(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def answer(name: str = "", description: str = "Successful Response", content: str = "") -> Schema:
    """A response: JSON, of a component or whatever; or text of another type; or, with both `name` and `content`, one of them."""
    told = json_of(ref(name) if name else {}) if name or not content else {}
    return {"description": description, "content": {**told, **({content: {"schema": {"type": "string"}}} if content else {})}}


def envelopes(kind: str, input: str, output: str) -> dict[str, Schema]:
    """Of "Prediction" or "Training", around what its components for input and output are called."""
    text, maybe, time = {"type": "string"}, {"type": ["string", "null"]}, {"type": ["string", "null"], "format": "date-time"}
    request = {
        "id": maybe, "input": ref(input), "created_at": time, "context": {"type": ["object", "null"], "additionalProperties": text},
        "webhook": {"type": ["string", "null"], "format": "uri"}, "output_file_prefix": {"type": ["string", "null"], "format": "uri"},
        "webhook_events_filter": {"type": ["array", "null"], "items": ref("WebhookEvent")},
    }
    response = {
        "id": text, "input": ref(input), "output": {"anyOf": [ref(output), {"type": "null"}]}, "status": ref("Status"),
        "error": maybe, "logs": text, "metrics": {"type": "object"}, "version": maybe,
        "created_at": time, "started_at": time, "completed_at": time,
    }
    return {
        f"{kind}Request": _object(f"{kind}Request", request),
        f"{kind}Response": _object(f"{kind}Response", response, ["id", "status"]),
        "Status": {"title": "Status", "type": "string", "enum": ["starting", "processing", "succeeded", "canceled", "failed"]},
        "WebhookEvent": {"title": "WebhookEvent", "type": "string", "enum": ["start", "output", "logs", "completed"]},
        "HTTPValidationError": _object("HTTPValidationError", {"detail": {"type": "array", "items": ref("ValidationError")}}),
        "ValidationError": _object("ValidationError", {
            "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}, "msg": text, "type": text,
        }, ["loc", "msg", "type"]),
    }


def _object(name: str, properties: Schema, required: list[str] | None = None) -> Schema:
    titled = {n: p if "$ref" in p else {"title": n.replace("_", " ").title(), **p} for n, p in properties.items()}
    found: Schema = {"title": name, "type": "object", "properties": titled}
    return {**found, "required": required} if required else found
