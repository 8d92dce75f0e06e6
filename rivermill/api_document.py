"""The API's OpenAPI document: what FastAPI knows of its routes, and the hot routes, which it does not know."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rivermill.api_hot import HOT

_EVENT = {
    "type": "object",
    "description": "A CloudEvent 1.0 in structured JSON; data as the stream's contract says.",
    "required": ["specversion", "id", "source", "type", "time", "data"],
    "properties": {
        "specversion": {"type": "string", "enum": ["1.0"]},
        "id": {"type": "string"},
        "source": {"type": "string"},
        "type": {"type": "string", "description": "The stream."},
        "time": {"type": "string", "format": "date-time"},
        "data": {"type": "object"},
    },
}
_EVENTS = {"oneOf": [_EVENT, {"type": "array", "items": _EVENT}]}
_QUESTION = {
    "type": "object",
    "required": ["id", "data"],
    "properties": {
        "id": {"type": "string", "description": "Asked again with the same id, the same answer is given."},
        "source": {"type": "string", "default": "http"},
        "type": {"type": "string", "description": "The question stream, if it is said."},
        "data": {"type": "object"},
    },
}
_QUESTIONS = {"oneOf": [_QUESTION, {"type": "object", "properties": {"questions": {"type": "array"}}}]}
_PIPELINE = {"name": "pipeline", "in": "path", "required": True, "schema": {"type": "string"}}
_ACK = {
    "name": "ack",
    "in": "query",
    "description": "Whether the answer waits for its record.",
    "schema": {"type": "string", "enum": ["durable", "enqueued"], "default": "durable"},
}
_PARAMETERS = {"events": [_PIPELINE], "labels": [_PIPELINE], "predict": [_PIPELINE, _ACK]}
_BODIES = {"events": _EVENTS, "labels": _EVENTS, "predict": _QUESTIONS}
_ANSWERS = {
    "events": {"202": "accepted", "200": "repeated, or a batch with a fate per event", "409": "the id is taken"},
    "labels": {"202": "accepted", "200": "repeated, or a batch with a fate per event", "409": "the id is taken"},
    "predict": {"200": "the answer, with its receipt", "409": "the id is another question's"},
}
_ALWAYS = {
    "400": "not what this route takes",
    "401": "no key",
    "403": "a key that may not",
    "413": "too large",
    "422": "it breaks its contract",
    "429": "too much at once",
    "503": "the journal's owner does not answer",
}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    described: dict[str, Any] = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for name, (path, endpoint) in HOT.items():
        described["paths"].setdefault(path, {})["post"] = _operation(name, endpoint.__doc__ or "")
    schemes = described.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "`rivermill access add` makes one."}
    schemes["header"] = {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."}
    described["security"] = [{"key": []}, {"header": []}]
    return described


def _operation(name: str, text: str) -> dict[str, Any]:
    responses = {code: {"description": what} for code, what in {**_ANSWERS[name], **_ALWAYS}.items()}
    body = {"required": True, "content": {"application/json": {"schema": _BODIES[name]}}}
    return {
        "operationId": name,
        "summary": text.partition(": ")[2],
        "parameters": _PARAMETERS[name],
        "requestBody": body,
        "responses": responses,
    }
