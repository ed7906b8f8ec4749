"""The API's description, and whether the service keeps to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.transport import Response
from serving import Served, on_sqlite
from test_services import SERVICE as GIFTS

from tollsplit.services.catalog import SERVICES
from tollsplit.services.openapi import document
from tollsplit.services.role import ROLES
from tollsplit.services.wire import new_id

# Of all operations together; tens of thousands by a patient person.
EXAMPLES = int(os.environ.get("TOLLSPLIT_EXAMPLES", "200"))


@pytest.fixture
def api(serve: Callable[..., Any]) -> Iterator[Served]:
    with serve((*SERVICES, GIFTS)) as served:
        yield served


def test_api_description_is_openapi() -> None:
    found = document((*SERVICES, GIFTS))
    OpenAPIV31SpecValidator(found).validate()
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            assert operation["operationId"], f"{method} {path}"
    ids = [o["operationId"] for methods in found["paths"].values() for o in methods.values()]
    assert len(ids) == len(set(ids))
    taking = found["paths"]["/gifts/{gift}/taking"]["post"]
    assert [one["name"] for one in taking["parameters"]] == ["gift", "Idempotency-Key"]
    body = taking["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"] == {"word": {"type": "string", "default": "please"}}
    assert taking["responses"]["410"]["content"]["application/problem+json"]["schema"][
        "properties"]["type"] == {"enum": ["/problems/expired"]}  # fmt: skip


class Signing:
    """Signs what schemathesis sends, as a device of a role that may."""

    def __init__(self, served: Served) -> None:
        self.devices = {role: served.device(role, "alice") for role in ROLES}
        self.role = "operator"

    def __call__(self, prepared: Any) -> Any:
        from tollsplit.services.signature import Message

        body = prepared.body or b""
        body = body.encode() if isinstance(body, str) else body
        client = self.devices[self.role]  # type: ignore[index]
        assert client.key is not None
        try:
            client.key.sign(Message(prepared.method, prepared.url, prepared.headers), body,
                            client.clock_ns())  # fmt: skip
        except Exception:  # what cannot be signed is sent as it is
            prepared.headers.pop("Signature", None)
        return prepared


@on_sqlite
def test_api_keeps_to_its_description(api: Served) -> None:
    """Requests that keep to the description, and such that don't: never a 500, always an answer
    that the description has; what does not keep to it is refused.
    """
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{api.origin}/openapi.json")
    signing = Signing(api)
    met: set[int] = set()
    # The stream has no end.
    operations = [found for found in (result.ok() for result in schema.get_all_operations())
                  if found.path != "/notices/stream"]  # fmt: skip
    examples = max(2, EXAMPLES // (2 * len(operations)))
    for operation in operations:
        signing.role = (operation.definition.raw.get("x-roles") or ["operator"])[0]
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _ask(operation, mode, signing, met, examples)
    assert {200, 201, 400, 401, 403, 404, 422} <= met, met


def _ask(
    operation: Any, mode: GenerationMode, signing: Signing, met: set[int], examples: int
) -> None:
    @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and "Idempotency-Key" in case.headers:
            case.headers["Idempotency-Key"] = new_id()  # the same one again would be refused
        # What it sends without a signature stays without one.
        signed = "Signature" in (case.headers or {})
        answer: Response = case.call(auth=signing if signed else None)
        met.add(answer.status_code)
        # Who signs is not in the headers that it takes away or leaves.
        excluded = ["ignored_auth"]
        if b"/problems/unfit" in answer.content:  # which no schema can say
            excluded.append("positive_data_acceptance")
        case.validate_response(answer, excluded_checks=_named(*excluded))

    try:
        ask()
    except Unsatisfiable:  # nothing that could be wrong with it
        assert mode is GenerationMode.NEGATIVE
        assert not operation.definition.raw.get("security"), operation.label


def _named(*names: str) -> list[Any]:
    from schemathesis.checks import CHECKS

    return [check for check in CHECKS.get_all() if check.__name__ in names]
