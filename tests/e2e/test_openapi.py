"""`/openapi.json` is the truth: what it does not say does not happen, and nothing breaks."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.callers.server import AgentServer
from tests.e2e.conftest import FLAGS

KEY = "an-api-key-that-nobody-else-has"
BEARER = {"Authorization": f"Bearer {KEY}"}

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def server() -> Iterator[AgentServer]:
    """A server that asks for a key."""
    with AgentServer(*FLAGS, env={"PARLEY_API_KEY": KEY}) as server:
        yield server


@pytest.fixture(scope="module")
def description(server: AgentServer) -> Any:
    """What the server says of itself, as schemathesis reads it."""
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def try_out(description: Any, examples: int, check: Callable[[Any], None]) -> None:
    """Make up requests for every operation, half of them wrong, and check each one's answer."""
    failures = []
    for found in description.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:

            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                check(case)

            try:
                send()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE  # Nothing is sent that could be wrong.
            except (AssertionError, FailureGroup) as failure:
                parts = getattr(failure, "exceptions", [failure])
                failures += [f"{operation.label}, {mode}: {part}" for part in parts]
    assert not failures, "\n\n".join(failures)


def test_whatever_is_sent_is_answered_as_described(description: Any) -> None:
    """Sensible requests and rubbish, with the key: no server error, no status that is not told."""

    def check(case: Any) -> None:
        case.call_and_validate(headers=BEARER, checks=CHECKS)

    try_out(description, 6, check)


def test_what_needs_a_key_says_so(description: Any) -> None:
    """Without the key the answer is 401 where the description asks for one, and nowhere else."""

    def check(case: Any) -> None:
        answer = case.call()
        case.validate_response(answer, checks=CHECKS)
        asked = bool(case.operation.definition.raw.get("security"))
        assert (answer.status_code == 401) == asked

    try_out(description, 2, check)


def test_the_server_has_not_stumbled(server: AgentServer) -> None:
    """After all that there is no call, and no traceback in the log."""
    server.wait_for_calls(0)
    assert "Traceback" not in server.log


def test_every_route_is_described(server: AgentServer) -> None:
    """Errors all look alike, and say so; the schemes are those of docs/security.md."""
    told = httpx.get(f"{server.url}/openapi.json").json()
    assert {"/start", "/calls", "/tokens", "/api/offer", "/health"} <= set(told["paths"])
    assert set(told["components"]["securitySchemes"]) == {"key", "token"}
    assert "HTTPValidationError" not in told["components"]["schemas"]
    for operations in told["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status.startswith("4"):
                    content = response["content"]["application/json"]["schema"]
                    assert content == {"$ref": "#/components/schemas/Problem"}
    start = told["paths"]["/start"]["post"]
    assert start["security"] == [{"key": []}, {"token": []}, {}]
    told_of = {"400", "401", "403", "408", "413", "422", "429", "502", "503"}
    assert told_of <= set(start["responses"])
    assert told["paths"]["/calls"]["get"]["security"] == [{"key": []}]
    assert "security" not in told["paths"]["/health"]["get"]
