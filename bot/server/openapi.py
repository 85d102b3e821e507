"""What `/openapi.json` says besides the routes themselves: errors, and what has to be shown."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from bot.server.access import Need, need, starts


class Problem(BaseModel):
    """Why a request was not answered as it was asked.

    Attributes:
        detail: It in one line.
    """

    detail: str


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route answers with, for its `responses`."""
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses
    }


EVERYWHERE = answers(403, 408, 413)
"""What any request may be answered with: a foreign page or a wrong signature; a body that is too
slow or too large."""

_SCHEMES = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "PARLEY_API_KEY, where the server asks for one.",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A start token from POST /tokens.",
    },
}


def describe(app: FastAPI) -> None:
    """Have an application's description tell what stands before its routes as well."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _complete(schema: dict[str, Any]) -> None:
    """Add keys and limits to the paths that `access` guards, and say how all errors look."""
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schema["components"]["securitySchemes"] = _SCHEMES
    for path, operations in schema["paths"].items():
        needed = need(path)
        for method, operation in operations.items():
            responses = operation["responses"]
            if "422" in responses:
                responses["422"] = _problem(422)
            if needed is Need.NOTHING:
                continue
            responses["401"] = _problem(401)
            operation["security"] = [{"key": []}]
            if needed is Need.START:
                # The last: nothing at all, from a page of an allowed origin.
                operation["security"] += [{"token": []}, {}]
            if starts(method.upper(), path):
                responses["429"] = _problem(429) | {
                    "headers": {"Retry-After": {"schema": {"type": "integer"}}}
                }


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
