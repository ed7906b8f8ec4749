"""The API's description: OpenAPI 3.1, made from the types that decode the requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from .. import __version__
from ..limits import (
    SERVICE_KEY_CHARACTERS_MAX,
    SERVICE_KEY_CHARACTERS_MIN,
    SERVICE_SIGNATURE_S_MAX,
    SERVICE_SKEW_S,
)
from .operation import Operation, Service
from .problem import MALFORMED, MEDIA_TYPE, NOT_FOUND, TOO_MANY, UNAVAILABLE, UNSIGNED, Kind

_REFERENCE = "#/components/schemas/{name}"
_SIGNATURE = (
    "An RFC 9421 signature by a registered device's Ed25519 key, in Signature and Signature-Input: "
    'label and tag "tollsplit", over @method and @target-uri, content-digest where there is a body '
    "(RFC 9530), idempotency-key where there is one; with created, expires (at most "
    f"{SERVICE_SIGNATURE_S_MAX} s later), keyid and a nonce that was never used. Clocks may differ "
    f"by {SERVICE_SKEW_S} s."
)
_KEY = {
    "name": "Idempotency-Key", "in": "header", "required": True,
    "description": "Random; under one key it is done once.",
    "schema": {
        "type": "string", "minLength": SERVICE_KEY_CHARACTERS_MIN,
        "maxLength": SERVICE_KEY_CHARACTERS_MAX, "pattern": "^[!-~]([ -~]*[!-~])?$",
    },
}  # fmt: skip
_TEXT = {"schema": {"type": "string"}}


def document(services: Sequence[Service]) -> dict[str, Any]:
    """The description of all operations of the services."""
    operations = [operation for service in services for operation in service.operations]
    types = [kind for operation in operations for kind in (operation.asked, operation.told)]
    references, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    asked = dict(zip(types, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for service in services:
        for operation in service.operations:
            schema = components[asked[operation.asked]["$ref"].rpartition("/")[2]]
            paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
                service, operation, schema, asked[operation.told])  # fmt: skip
    for requests in {operation.asked for operation in operations}:
        # What is asked stands with its operation: in the path, the query, or the body.
        components.pop(asked[requests]["$ref"].rpartition("/")[2], None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "tollsplit", "version": __version__,
                 "description": "Sponsored data: five services on one ledger."},
        "paths": paths | _others(),
        "components": {
            "schemas": components,
            "securitySchemes": {"signature": {
                "type": "apiKey", "in": "header", "name": "Signature", "description": _SIGNATURE}},
        },
    }  # fmt: skip


def _operation(
    service: Service, operation: Operation[Any, Any], schema: dict[str, Any], told: dict[str, Any]
) -> dict[str, Any]:
    fields: dict[str, Any] = dict(schema.get("properties", {}))
    required = set(schema.get("required", ()))
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": fields.pop(name)}
        for name in operation.path_names
    ]
    found: dict[str, Any] = {
        "operationId": operation.name, "summary": operation.summary, "tags": [service.name],
        "parameters": parameters, "responses": {
            str(operation.status): {
                "description": "Done." if operation.changes else "Found.",
                "content": {"application/json": {"schema": told}},
            },
            **_refusals(operation.all_refusals),
        },
    }  # fmt: skip
    if schema.get("description"):
        found["description"] = schema["description"]
    if operation.roles or operation.newcomer:
        found["security"] = [{"signature": []}]
        found["x-roles"] = sorted(operation.roles)
    if operation.changes:
        parameters.append(_KEY)
        body: dict[str, Any] = {
            "type": "object", "properties": fields, "additionalProperties": False}
        wanted = sorted(required & set(fields))
        if wanted:
            body["required"] = wanted
        found["requestBody"] = {
            "required": bool(wanted), "content": {"application/json": {"schema": body}}}
    else:
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": field}
            for name, field in fields.items()
        ]
    return found


def _refusals(kinds: Iterable[Kind]) -> dict[str, Any]:
    """Answers by status; each says which kinds of problems it may be."""
    by_status: dict[int, list[Kind]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    return {
        str(status): {
            "description": "; ".join(kind.title for kind in found) + ".",
            "content": {MEDIA_TYPE: {"schema": {
                "type": "object", "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"enum": [kind.type for kind in found]},
                    "title": {"enum": [kind.title for kind in found]},
                    "status": {"const": status}, "detail": {"type": "string"},
                },
            }}},
        }
        for status, found in sorted(by_status.items())
    }  # fmt: skip


def _others() -> dict[str, Any]:
    """What is no operation of a service."""
    return {
        "/notices/stream": {"get": {
            "operationId": "notice.stream", "summary": "What the device is told, as it comes",
            "tags": ["notices"], "security": [{"signature": []}],
            "parameters": [{"name": "Last-Event-ID", "in": "header", "schema": {
                "type": "string", "pattern": "^[0-9]{1,18}$"}}],
            "responses": {
                "200": {"description": "Server-Sent Events: id is the notice's number, event its "
                        "kind, data what it is about.", "content": {"text/event-stream": _TEXT}},
                **_refusals((MALFORMED, UNSIGNED, TOO_MANY, UNAVAILABLE)),
            },
        }},
        "/problems/{name}": {"get": {
            "operationId": "problem.look", "summary": "What a kind of problem is",
            "parameters": [{"name": "name", "in": "path", "required": True, **_TEXT}],
            "responses": {"200": {"description": "Its title.", "content": {"text/plain": _TEXT}},
                          **_refusals((NOT_FOUND,))},
        }},
        "/health": {"get": {
            "operationId": "health", "summary": "Whether calls can be answered", "responses": {
                "200": {"description": "The ledger is there.", "content": {
                    "application/json": {"schema": {"type": "object"}}}},
                **_refusals((MALFORMED, TOO_MANY, UNAVAILABLE))},
        }},
        "/openapi.json": {"get": {
            "operationId": "description", "summary": "This description", "responses": {
                "200": {"description": "OpenAPI 3.1.", "content": {
                    "application/json": {"schema": {"type": "object"}}}}},
        }},
    }  # fmt: skip
